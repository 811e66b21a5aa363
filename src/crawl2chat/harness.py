"""Tasks of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness), on a model as loaded here.

Its public names where the Hub is reached, and task files of our own. What its own command prints for a model comes out
here, too. Its `core` is the idea of DCLM's (https://arxiv.org/abs/2406.11794, section 3.5): the mean of accuracies, each
centred so that guessing is 0 and knowing all is 1; of ten tasks of the 22, in the harness's own wording.
"""

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import yaml

from crawl2chat.stage import StageError

CORE = [
    "arc_challenge", "arc_easy", "boolq", "commonsense_qa", "copa", "hellaswag", "lambada_openai", "openbookqa", "piqa",
    "winogrande",
]  # fmt: skip
Z_95 = 1.96  # standard errors in half of a 95% confidence interval
# What guessing gives; the other tasks have four choices.
GUESSED = dict.fromkeys(("boolq", "copa", "piqa", "winogrande"), 0.5) | {"commonsense_qa": 0.2, "lambada_openai": 0.0}


class Harness:
    """Some of its tasks, and the model as it wants it.

    Args:
        names: of tasks, `core` for ten.
        task_folder: with task files in its own format; their Python runs.
        files: of a task file its data, `{"c2c_facts": "path/to/test_facts.jsonl"}`; it overrides what the file names.
        is_chat: prompts become a user's turn in the tokenizer's chat template.

    Raises:
        StageError: the harness is not installed, or there is no such task.
    """

    def __init__(
        self, names: Sequence[str], task_folder: str | Path, files: dict[str, str] | None = None, is_chat: bool = True
    ):
        if find_spec("lm_eval") is None:
            raise StageError('tasks need lm-evaluation-harness; install it with pip install "crawl2chat[eval]".')
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.names = list(dict.fromkeys(task for name in names for task in (CORE if name == "core" else [name])))
        ours = {file.stem for file in Path(task_folder).glob("*.yaml")}
        self.manager = _manager(str(task_folder), not ours.issuperset(self.names))
        known = set(self.manager.all_tasks)
        for name in self.names:
            if name not in known:
                raise StageError(f"there is no task `{name}`; `lm_eval ls tasks` lists {len(known):,}.")
        self.is_chat = is_chat
        self.folder = TemporaryDirectory()  # of task files that take all from the named ones but the data
        self.changed = {
            name: self._with_data(Path(task_folder, f"{name}.yaml"), data) for name, data in (files or {}).items()
        }

    def _with_data(self, file: Path, data: str) -> str:
        changed = {
            "include": str(file.resolve()),
            "dataset_kwargs": {"data_files": {"test": str(Path(data).resolve())}},
        }
        path = Path(self.folder.name, file.name)
        path.write_text(yaml.safe_dump(changed))
        return str(path)

    def _loaded(self, name: str):
        try:
            return next(iter(self.manager.load(self.changed.get(name, name))["tasks"].values()))
        except (OSError, ValueError) as error:  # no such file, or no way to the Hub
            reason = " ".join(str(error).split())[:200]
            raise StageError(f"the task `{name}` has no data: {reason}") from error

    def model(self, model, tokenizer, batch_size: int):
        """The model as the harness calls it; what it says before `</think>` is left out before it is judged."""
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **self._thinking(tokenizer))

    def vllm(self, folder: str, tokenizer):
        """The same model run by vLLM.

        Raises:
            StageError: it is not installed.
        """
        if find_spec("vllm") is None:
            raise StageError("`vllm` is not installed; on a GPU machine run pip install vllm, or leave --vllm out.")
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(pretrained=folder, batch_size="auto", **self._thinking(tokenizer))

    def _thinking(self, tokenizer) -> dict:
        return {"think_end_token": "</think>"} if self.is_chat and "</think>" in tokenizer.get_vocab() else {}

    def first_prompt(self, model) -> str:
        """What the first task asks a model first, as the model reads it."""
        task = self._loaded(self.names[0])
        options = {"chat_template": model.apply_chat_template, "tokenizer_name": model.tokenizer_name}
        task.build_all_requests(limit=1, apply_chat_template=self.is_chat, **(options if self.is_chat else {}))
        return task.instances[0].args[0]

    def scores(self, model, num_fewshot: int | None, limit: int | None, seed: int) -> dict:
        """Of each task its metrics, as `{"value", "interval"}`, the half of the 95% one where a standard error is known."""
        from lm_eval import simple_evaluate

        found = simple_evaluate(
            model=model,
            tasks=[self._loaded(name) for name in self.names],
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=self.is_chat,
            task_manager=self.manager,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        return {task: _metrics(scores) for task, scores in found["results"].items()}


@cache  # its own 10,000 take seconds to list
def _manager(task_folder: str, with_its_own: bool):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=task_folder, include_defaults=with_its_own)


def _metrics(scores: dict) -> dict[str, dict]:
    """`{"acc,none": .5, "acc_stderr,none": .1}` becomes `{"acc": {"value": .5, "interval": .196}}`."""
    metrics = {}
    for key, value in scores.items():
        name, _, kind = key.partition(",")
        if not kind or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = scores.get(f"{name}_stderr,{kind}")
        interval = round(Z_95 * error, 4) if isinstance(error, int | float) else None
        metrics[name if kind == "none" else f"{name} ({kind})"] = {"value": round(value, 4), "interval": interval}
    return metrics


def core(scores: dict[str, dict]) -> float | None:
    """The mean of the centred accuracies; None unless all ten tasks are there."""
    if not set(CORE) <= set(scores):
        return None
    accuracies = {task: scores[task].get("acc_norm", scores[task]["acc"])["value"] for task in CORE}
    return round(mean((accuracies[task] - _guessed(task)) / (1 - _guessed(task)) for task in CORE), 4)


def _guessed(task: str) -> float:
    return GUESSED.get(task, 0.25)

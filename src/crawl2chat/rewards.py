"""What an RL recipe asks and how it scores the replies.

Rewards are called by TRL with the completions of a batch and the columns of the dataset. A YAML names them by their path,
and those that are made from settings as a call; TRL's own are among them, with weights beside them:

    rewards:
      - crawl2chat.rewards.correct
      - trl.rewards.think_format_reward
      - trl.rewards.get_soft_overlong_punishment(max_completion_len=104, soft_punish_cache=24)
    reward_weights: [1.0, 0.1, 0.5]

Every reward is also a way to be fooled (each line has its test in tests/test_rewards.py):

| reward | what gets it without deserving it |
|---|---|
| `correct` | guessing where few answers are possible; our problems have more than a hundred |
| `correct_in_time` | as `correct` |
| `countdown` | nothing but the solution, and that by search as well as by thought |
| `exact` | guessing among the names that occur |
| `language` | any text in the language |
| `trl.rewards.think_format_reward` | a thought of no content |
| `trl.rewards.get_soft_overlong_punishment` | saying nothing; beside `correct`, being briefly wrong |
| `trl.rewards.get_cosine_scaled_reward` | where wrong: padding, as a long wrong answer loses less than a short one |
| `trl.rewards.get_repetition_penalty_reward` | saying nothing, or what is never said twice |
"""

import ast
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import TrainerCallback
from trl.rewards import get_soft_overlong_punishment

from crawl2chat import verify
from crawl2chat.chat import RESPONSE_TEMPLATE, local
from crawl2chat.collapse import StopsWhenCollapsed
from crawl2chat.inspector import Inspector, questions_of
from crawl2chat.puzzles import gym_score
from crawl2chat.stage import StageError, bounded, missing
from crawl2chat.tools import callables


@dataclass
class Asked:
    """What the configurations of RL have in common; stands before TRL's in the bases of one."""

    model: str = field(default="", metadata={"help": "Folder or Hub id of a chat model to start from."})
    prompts: str = field(
        default="", metadata={"help": "Folder of 7_build_conversations.py, JSON Lines file, or Hub dataset."}
    )
    prompts_subset: str = field(default="", metadata={"help": "Of a Hub dataset, as main of openai/gsm8k."})
    instruction: str = field(default="", metadata={"help": "Said after each question of a Hub dataset."})
    prompts_file: str = field(default="rl_train.jsonl", metadata={"help": "Which of its files holds the prompts."})
    rewards: list[str] = field(
        default_factory=list, metadata={"help": "Functions that score, as crawl2chat.rewards.correct."}
    )
    tools: list[str] = field(default_factory=list, metadata={"help": "What it may call: calculator, search."})
    corpus: str = field(default="", metadata={"help": "Folder of 4_build_corpus.py, for the search."})
    curriculum: str = field(
        default="",
        metadata={
            "help": "Column of the prompts that tells their grade: what teaches is asked more often. Empty: never."
        },
    )
    inspect_steps: int = bounded(0, "Steps after which held-out problems are asked again; 0: never.", low=0)
    collapse_steps: int = bounded(30, "Steps of a collapse after which a training stops; 0: it goes on.", low=0)

    def problems(self) -> list[str]:
        found = missing(self, "model", "prompts")
        if self.temperature == 0:
            found.append("`temperature` 0 draws the same completion each time; give one above 0.")
        return found

    def inputs(self) -> list[str]:
        return [*local(self.model, self.prompts), *filter(None, [self.corpus])]

    def asked(self, tokenizer, model) -> Dataset:
        """The prompts, all of which leave room for a completion."""
        if self.use_vllm and find_spec("vllm") is None:
            raise StageError(
                "`use_vllm` needs vLLM: pip install trl[vllm] on a machine with a GPU, or set it to false."
            )
        prompts = load_prompts(self.prompts, self.prompts_file, self.prompts_subset, self.instruction)
        num_asked = self.generation_batch_size // self.num_generations
        if len(prompts) < num_asked and not self.curriculum:  # TRL leaves out what fills no rollout, here all of them
            raise StageError(
                f"{self.prompts} has {len(prompts)} prompts, and a rollout asks {num_asked}; give more of them, or lower "
                "`per_device_train_batch_size`."
            )
        tools = self.callables(tokenizer) or None
        context = model.config.max_position_embeddings
        for number, prompt in enumerate(prompts["prompt"], 1):
            ids = tokenizer.apply_chat_template(prompt, tools=tools, add_generation_prompt=True, return_dict=False)
            if len(ids) + self.max_completion_length > context:
                raise StageError(
                    f"prompt {number} of {self.prompts} has {len(ids)} tokens, and with "
                    f"`max_completion_length` {self.max_completion_length} does not fit into the model's context of "
                    f"{context}; shorten one of them."
                )
        return prompts

    def watchers(self, tokenizer) -> list[TrainerCallback]:
        """What looks at the training: for a collapse, and at thoughts."""
        found: list[TrainerCallback] = [StopsWhenCollapsed(self.collapse_steps)]
        file = Path(self.prompts, "test_problems.jsonl")
        if self.inspect_steps and not file.is_file():
            warnings.warn(
                f"`inspect_steps` has no effect: {file}, whose problems it asks, does not exist.", stacklevel=2
            )
        elif self.inspect_steps:
            folder = Path(self.output_dir, "thoughts")
            counts = self.inspect_steps, self.max_completion_length
            found.append(Inspector(tokenizer, questions_of(file), folder, *counts))
        return found

    def callables(self, tokenizer) -> list[Callable[..., str]]:
        """The tools; the tokenizer is told how to find their calls."""
        if self.tools and not tokenizer.response_template:
            tokenizer.response_template = RESPONSE_TEMPLATE
        return callables(self.tools, self.corpus)


def correct(completions: list[list[dict]], answer: list[str], **columns) -> list[float | None]:
    """1 for the right final answer, 0 for a wrong one or none; None, which GRPO skips, for a gold that cannot be checked."""
    return [verify.score(text, gold) for text, gold in zip(said(completions), answer)]


def correct_in_time(max_completion_len: int, soft_punish_cache: int) -> Callable[..., list[float | None]]:
    """As `correct`, but a right completion loses what `get_soft_overlong_punishment` takes, all of it at the limit.

    That punishment (DAPO, https://arxiv.org/abs/2503.14476, equation 13) added to `correct` is taken from wrong ones, too.
    Then a short wrong answer is worth more than a long one, and a policy whose thoughts do not end yet may learn to be brief
    instead of right. Here all wrong ones are worth 0.
    """
    overlong = get_soft_overlong_punishment(max_completion_len, soft_punish_cache)

    def correct_in_time(
        completions: list[list[dict]], completion_ids: list[list[int]], **columns
    ) -> list[float | None]:
        scores = correct(completions, **columns)
        return [score and score * (1 + lost) for score, lost in zip(scores, overlong(completion_ids))]

    return correct_in_time


def exact(completions: list[list[dict]], answer: list[str], **columns) -> list[float | None]:
    """As `correct`, of answers that are words."""
    return [verify.exact(text, gold) for text, gold in zip(said(completions), answer)]


def countdown(
    completions: list[list[dict]], numbers: list[list[int]], target: list[int], **columns
) -> list[float | None]:
    """1 for an expression of all the numbers that comes to the target."""
    return [verify.countdown(*row) for row in zip(said(completions), numbers, target)]


def solved(
    completions: list[list[dict]],
    answer: list[str],
    numbers: list[list[int] | None],
    target: list[int | None],
    entry: list[str | None],
    **columns,
) -> list[float | None]:
    """1 for a puzzle solved (`crawl2chat.puzzles`): as `countdown` where there are numbers, as reasoning-gym judges its own
    (from 0 to 1), as `correct` where the answer is a number, and else as `exact`."""
    rows = zip(said(completions), answer, numbers, target, entry, strict=True)
    return [_solved(*row) for row in rows]


def _solved(text: str, gold: str, numbers: list[int] | None, target: int | None, entry: str | None) -> float | None:
    if entry:
        return gym_score(verify.final_answer(text)[0], entry)
    if numbers:
        return verify.countdown(text, numbers, target)
    return verify.exact(text, gold) if gold.isalpha() else verify.score(text, gold)


def language(code: str = "en") -> Callable[..., list[float]]:
    """The probability that what is said, thought included, is in a language, by fastText (`crawl2chat.language`)."""
    from crawl2chat.language import probabilities

    def language(completions: list[list[dict]], **columns) -> list[float]:
        return [probabilities(text).get(code, 0.0) if text.strip() else 0.0 for text in said(completions)]

    return language


def said(completions: list[list[dict]]) -> list[str]:
    """The last message of each; none if that is a tool's, because the completion ended there."""
    lasts = [completion[-1] for completion in completions]
    return ["" if last.get("role") == "tool" else last["content"] for last in lasts]


def reward_function(path: str) -> Callable:
    """The function of a path such as `crawl2chat.rewards.correct`, or what a call such as `module.function(x=1)` gives.

    Nothing is evaluated: arguments are literals with a name.

    Raises:
        StageError: there is no such function.
    """
    name, settings = _parsed(path)
    module, _, name = name.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise StageError(
            f"there is no reward `{path}`; name one by its path, as crawl2chat.rewards.correct."
        ) from error
    if callable(found) and settings is not None:
        try:
            found = found(**settings)
        except (TypeError, ValueError) as error:
            raise StageError(f"the reward `{path}` cannot be made: {error}.") from error
    if not callable(found):
        raise StageError(f"the reward `{path}` is no function; name one, as crawl2chat.rewards.correct.")
    return found


def scorers(paths: list[str]) -> list[Callable]:
    """The functions of a recipe; what goes wrong in one is told in a sentence, with its path."""
    return [_checked(path, is_only=len(paths) == 1) for path in paths]


def _checked(path: str, is_only: bool) -> Callable:
    function = reward_function(path)

    @wraps(function, assigned=("__name__", "__doc__"))
    def scored(completions: list, **given) -> list[float | None]:
        try:
            found = function(completions=completions, **given)
        except Exception as error:
            raise StageError(f"the reward `{path}` failed: {type(error).__name__}: {error}.") from error
        if not isinstance(found, list) or len(found) != len(completions):
            gave = f"{len(found)} values" if isinstance(found, list) else type(found).__name__
            raise StageError(f"the reward `{path}` gave {gave} for {len(completions)} completions; give one for each.")
        for completion, value in zip(completions, found):
            if value is not None and not math.isfinite(value):
                raise StageError(f"the reward `{path}` is {value} for {str(completion)[:200]}; give a number or None.")
        if is_only and all(value is None for value in found):
            raise StageError(f"the reward `{path}` is None for all {len(found)} completions, which teaches nothing.")
        return found

    return scored


def _parsed(path: str) -> tuple[str, dict | None]:
    """Of `a.b(c=1)` the name and the arguments, which are None where nothing is called."""
    try:
        tree = ast.parse(path, mode="eval").body
        if not isinstance(tree, ast.Call):
            return path, None
        if tree.args:
            raise ValueError
        return ast.unparse(tree.func), {word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg}
    except (SyntaxError, ValueError) as error:
        raise StageError(
            f"the reward `{path}` is neither a path nor a call with named values, as module.function(x=1)."
        ) from error


def load_prompts(source: str, file: str = "rl_train.jsonl", subset: str = "", instruction: str = "") -> Dataset:
    """Prompts with the columns that the rewards need, from a folder of 7_build_conversations.py, a file or the Hub.

    Args:
        source: a folder that has `file` in it, a JSON Lines file, or the Hub id of a dataset whose split `train` is taken.
        subset: of the Hub dataset, as `main` of openai/gsm8k.
        instruction: what is said after each question, where a dataset has the column `question` and no `prompt`.
    """
    path = Path(source, file) if Path(source).is_dir() else Path(source)
    if path.is_file():
        prompts = load_dataset("json", data_files=str(path), split="train")
    elif local(source):
        raise StageError(f"{path} does not exist; run 7_build_conversations.py first.")
    else:
        prompts = load_dataset(source, subset or None, split="train")
    if "prompt" not in prompts.column_names and "question" in prompts.column_names:

        def asked(row: dict) -> dict:
            return {"prompt": [{"role": "user", "content": f"{row['question']} {instruction}".strip()}]}

        prompts = prompts.map(asked, remove_columns="question")
    if "prompt" not in prompts.column_names:
        found = ", ".join(prompts.column_names)
        raise StageError(f"{source} has the columns {found}; there must be `prompt` or `question`.")
    return prompts

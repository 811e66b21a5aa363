"""What an RL recipe asks and how it scores the replies.

Rewards are called by TRL with the completions of a batch and the columns of the dataset; a YAML names them by their path.
How `correct` can be hacked: by guessing where few answers are possible; the problems have more than a hundred.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from datasets import Dataset, load_dataset

from crawl2chat.chat import RESPONSE_TEMPLATE, local
from crawl2chat.stage import StageError, missing
from crawl2chat.tools import callables
from crawl2chat.verify import score


@dataclass
class Asked:
    """What the configurations of RL have in common; stands before TRL's in the bases of one."""

    model: str = field(default="", metadata={"help": "Folder or Hub id of a chat model to start from."})
    prompts: str = field(default="", metadata={"help": "Folder of 7_build_conversations.py."})
    prompts_file: str = field(default="rl_train.jsonl", metadata={"help": "Which of its files holds the prompts."})
    rewards: list[str] = field(
        default_factory=list, metadata={"help": "Functions that score, as crawl2chat.rewards.correct."}
    )
    tools: list[str] = field(default_factory=list, metadata={"help": "What it may call: calculator, search."})
    corpus: str = field(default="", metadata={"help": "Folder of 4_build_corpus.py, for the search."})

    def problems(self) -> list[str]:
        found = missing(self, "model", "prompts")
        if self.temperature == 0:
            found.append("`temperature` 0 draws the same completion each time; give one above 0.")
        return found

    def inputs(self) -> list[str]:
        return [*local(self.model), self.prompts, *filter(None, [self.corpus])]

    def asked(self) -> Dataset:
        return load_prompts(self.prompts, self.prompts_file)

    def callables(self, tokenizer) -> list[Callable[..., str]]:
        """The tools; the tokenizer is told how to find their calls."""
        if self.tools and not tokenizer.response_template:
            tokenizer.response_template = RESPONSE_TEMPLATE
        return callables(self.tools, self.corpus)


def correct(completions: list[list[dict]], answer: list[str], **columns) -> list[float | None]:
    """1 for the right final answer, 0 for a wrong one or none; None, which GRPO skips, for a gold that is no number."""
    # The last message is a tool's if the completion ended there: no answer.
    lasts = [completion[-1] for completion in completions]
    said = ["" if last.get("role") == "tool" else last["content"] for last in lasts]
    return [score(text, gold) for text, gold in zip(said, answer)]


def reward_function(path: str) -> Callable:
    """The function of a path such as `crawl2chat.rewards.correct`.

    Raises:
        StageError: there is no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise StageError(
            f"there is no reward `{path}`; name one by its path, as crawl2chat.rewards.correct."
        ) from error
    if not callable(found):
        raise StageError(f"the reward `{path}` is no function; name one, as crawl2chat.rewards.correct.")
    return found


def load_prompts(folder: str, file: str = "rl_train.jsonl") -> Dataset:
    """The prompts of a folder of 7_build_conversations.py, with the columns that the rewards need."""
    path = Path(folder, file)
    if not path.is_file():
        raise StageError(f"{path} does not exist; run 7_build_conversations.py first.")
    return load_dataset("json", data_files=str(path), split="train")

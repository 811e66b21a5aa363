"""Rewards, called by TRL with the completions of a batch and the columns of the dataset; a YAML names them by their path.

How `correct` can be hacked: by guessing where few answers are possible; the problems have more than a hundred.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from datasets import Dataset, load_dataset

from crawl2chat.stage import StageError
from crawl2chat.verify import score


def correct(completions: list[list[dict]], answer: list[str], **columns) -> list[float | None]:
    """1 for the right final answer, 0 for a wrong one or none; None, which GRPO skips, for a gold that is no number."""
    return [score(completion[0]["content"], gold) for completion, gold in zip(completions, answer)]


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

"""Rewards, called by TRL with the completions of a batch and the columns of the dataset.

How `correct` can be hacked: by guessing where few answers are possible; the problems have more than a hundred.
"""

from crawl2chat.verify import score


def correct(completions: list[list[dict]], answer: list[str], **columns) -> list[float | None]:
    """1 for the right final answer, 0 for a wrong one or none; None, which TRL skips, for a gold that is no number."""
    return [score(completion[0]["content"], gold) for completion, gold in zip(completions, answer)]

"""What a completion is worth, for the tasks beside it: the same judges as of rewards and of run_eval.py.

lm-evaluation-harness calls each with a row and the completions; what a row has no figure for, it leaves out.
"""

from crawl2chat.chat import split_thinking
from crawl2chat.judging import judge, says_unknown
from crawl2chat.verify import score


def problem(row: dict, completions: list[str]) -> dict[str, float]:
    right = score(completions[0], row["answer"]) or 0.0
    return {"accuracy": right, f"accuracy_{row['kind']}": right}


def fact(row: dict, completions: list[str]) -> dict[str, float]:
    answer = split_thinking(completions[0])[1]
    right = float(row["object"].lower() in answer.lower())
    unknown = float(says_unknown(answer) and not right)
    pages = row["num_pages"]
    return {"accuracy": right, f"accuracy_{pages}": right, f"unknown_{pages}": unknown}


def single_turns(dataset):
    """The chats that are one message to a model without tools."""
    return dataset.filter(lambda row: len(row["messages"]) == 1 and not row["tools"])


def chat(row: dict, completions: list[str]) -> dict[str, float]:
    return {row["kind"]: judge(row["kind"], row["expect"], completions[0])}

"""Preference pairs: reading and checking them, and what a reward model makes of them."""

import gzip
import json
import math
import warnings
from collections import Counter
from pathlib import Path
from statistics import mean

import torch
from datasets import get_dataset_split_names, load_dataset

from crawl2chat.chat import local
from crawl2chat.stage import StageError

COLUMNS = ("prompt", "chosen", "rejected")  # what TRL's trainers read


def read_pairs(path: str | Path, split: str = "train") -> list[dict]:
    """The pairs of `pairs_{split}.jsonl` in a folder, of one file, or of a dataset of the Hub (`owner/name`).

    HH-RLHF's dialogues are turned into chats. Of the Hub, `{split}_prefs`, as UltraFeedback has it, or `{split}` is read.

    Those whose replies are equal or empty, or whose prompt does not end with the user, are left out, with a warning.

    Returns:
        rows with `prompt`, `chosen` and `rejected` (lists of messages) and `kind`.

    Raises:
        StageError: there is no such file, a line is no pair, or none is left.
    """
    file = Path(path) / f"pairs_{split}.jsonl" if Path(path).is_dir() else Path(path)
    if not file.exists() and not local(str(path)):
        names = get_dataset_split_names(str(path))
        found = load_dataset(str(path), split=f"{split}_prefs" if f"{split}_prefs" in names else split)
        rows = [_as_pair(row, f"{path}, row {number}") for number, row in enumerate(found, 1)]
    elif not file.is_file():
        raise StageError(f"{file} does not exist; run 7_build_conversations.py first, or name a file of pairs.")
    else:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            rows = [_as_pair(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]
    kept = [row for row in rows if not _fault(row)]
    if faults := Counter(fault for row in rows if (fault := _fault(row))):
        told = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
        warnings.warn(f"{file}: left out of {len(rows)} pairs: {told}.", stacklevel=2)
    if not kept:
        raise StageError(f"{file} holds no pair to learn from; each needs a prompt and two different replies.")
    return kept


def _fault(row: dict) -> str:
    chosen, rejected = row["chosen"][-1]["content"], row["rejected"][-1]["content"]
    if not chosen.strip() or not rejected.strip():
        return "with an empty reply"
    if chosen == rejected:
        return "with equal replies"
    return "" if row["prompt"] and row["prompt"][-1]["role"] == "user" else "whose prompt does not end with the user"


def _as_pair(row: str | dict, where: str) -> dict:
    try:
        row = json.loads(row) if isinstance(row, str) else row
        if isinstance(row["chosen"], str):
            prompt, chosen = _dialogue(row["chosen"])
            return {"prompt": prompt, "chosen": [chosen], "rejected": [_dialogue(row["rejected"])[1]], "kind": "real"}
        if not all(isinstance(row[name][-1]["content"], str) for name in ("chosen", "rejected")):
            raise TypeError("a reply is no text")
        if isinstance(row.get("prompt", ""), str):  # whole conversations, as UltraFeedback has them
            row = {"prompt": row["chosen"][:-1], "chosen": row["chosen"][-1:], "rejected": row["rejected"][-1:]}
        return {name: row[name] for name in COLUMNS} | {"kind": row.get("kind", "all")}
    except (KeyError, IndexError, TypeError, json.JSONDecodeError):
        raise StageError(f"{where} is no preference pair; it needs prompt, chosen and rejected messages.") from None


def _dialogue(text: str) -> tuple[list[dict], dict]:
    """The turns of HH-RLHF's format (https://arxiv.org/abs/2204.05862), and the last reply apart."""
    messages = []
    for part in text.split("\n\nHuman:")[1:]:
        user, *replies = part.split("\n\nAssistant:")
        messages.append({"role": "user", "content": user.strip()})
        messages += [{"role": "assistant", "content": reply.strip()} for reply in replies[:1]]
    return messages[:-1], messages[-1]


def fitting(rows: list[dict], tokenizer, max_length: int | None) -> list[dict]:
    """The pairs both of whose chats are at most `max_length` tokens long; none is cut in the middle of a reply.

    Raises:
        StageError: none is left.
    """

    def fits(row: dict) -> bool:
        chats = [row["prompt"] + row[name] for name in ("chosen", "rejected")]
        return all(len(tokenizer.apply_chat_template(chat)["input_ids"]) <= max_length for chat in chats)

    kept = [row for row in rows if not max_length or fits(row)]
    if not kept:
        raise StageError(f"none of {len(rows)} pairs fits into `max_length` {max_length} tokens; raise it.")
    if len(kept) < len(rows):
        warnings.warn(
            f"{len(rows) - len(kept)} of {len(rows)} pairs are longer than {max_length} tokens.", stacklevel=2
        )
    return kept


def facts_to_show(tokenizer, train_pairs: list[dict], test_pairs: list[dict]) -> dict:
    """How many pairs there are, and the first as the model will see it."""
    first = train_pairs[0]
    chats = {name: first["prompt"] + first[name] for name in ("chosen", "rejected")}
    rendered = {name: tokenizer.apply_chat_template(chat, tokenize=False) for name, chat in chats.items()}
    return {"pairs": len(train_pairs), "held_out_pairs": len(test_pairs), **rendered}


@torch.no_grad()
def rewards(model, tokenizer, chats: list[list[dict]], batch_size: int = 64) -> list[float]:
    """The reward of each chat; padding on the right changes none, since the last token of each is looked at."""
    model.eval()
    found: list[float] = []
    for start in range(0, len(chats), batch_size):
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats[start : start + batch_size]]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        batch.pop("token_type_ids", None)
        found += model(**batch.to(model.device)).logits[:, 0].float().tolist()
    if not all(math.isfinite(reward) for reward in found):
        number = next(i for i, reward in enumerate(found) if not math.isfinite(reward))
        raise StageError(f"the reward of chat {number + 1} is {found[number]}; train with a lower learning rate.")
    return found


def preference_metrics(rows: list[dict], chosen: list[float], rejected: list[float], num_bins: int = 10) -> dict:
    """Accuracy with its 95% interval, by kind, how far the stated probabilities can be believed, and the bias for length.

    The probability that the first reply is the better one is sigmoid(chosen - rejected) (Bradley-Terry). Each pair is
    counted for the reply that it prefers: `calibration` holds [mean probability, share that is right, pairs] by bin, and
    the expected calibration error is their mean distance (https://arxiv.org/abs/1706.04599). A judge without a bias for
    length prefers the longer reply (`prefers_longer`) as often as it is the better one (`longer_is_better`).
    """
    margins = [a - b for a, b in zip(chosen, rejected)]
    right = [float(margin > 0) + 0.5 * (margin == 0) for margin in margins]
    bins: dict[int, list[tuple[float, float]]] = {}
    for margin, hit in zip(margins, right):
        sure = 1 / (1 + math.exp(-min(abs(margin), 700)))
        bins.setdefault(min(int((sure - 0.5) * 2 * num_bins), num_bins - 1), []).append((sure, hit))
    calibration = [
        [round(mean(p for p, _ in found), 4), round(mean(hit for _, hit in found), 4), len(found)]
        for _, found in sorted(bins.items())
    ]
    by_kind: dict[str, list[float]] = {}
    for row, hit in zip(rows, right):
        by_kind.setdefault(row["kind"], []).append(hit)
    accuracy = mean(right)
    longer = [_is_longer(row) for row in rows]
    return {
        "accuracy": round(accuracy, 4),
        "accuracy_interval": [round(bound, 4) for bound in wilson(accuracy, len(right))],
        "standard_error": round((accuracy * (1 - accuracy) / len(right)) ** 0.5, 4),
        "accuracy_by_kind": {kind: round(mean(hits), 4) for kind, hits in sorted(by_kind.items())},
        "mean_margin": round(mean(margins), 4),
        "calibration": calibration,
        "expected_calibration_error": round(
            sum(abs(sure - hit) * count for sure, hit, count in calibration) / len(right), 4
        ),
        "longer_is_better": round(mean(longer), 4),
        "prefers_longer": round(
            mean(long if hit == 1 else 1 - long if hit == 0 else 0.5 for long, hit in zip(longer, right)), 4
        ),
        "num_pairs": len(rows),
    }


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval in which a share of `count` trials lies with 95% (Wilson 1927, https://doi.org/10.2307/2276774)."""
    middle = share + z * z / (2 * count)
    reach = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)


def _is_longer(row: dict) -> float:
    """1 if the chosen reply is longer than the rejected one, 0 if shorter, a half if neither."""
    ours, theirs = (len(row[name][-1]["content"]) for name in ("chosen", "rejected"))
    return float(ours > theirs) + 0.5 * (ours == theirs)


def length_baseline(train: list[dict], test: list[dict]) -> dict[str, float]:
    """What one gets by length alone: the longer reply, or the shorter if that is more often right in training."""
    share, found = (mean(_is_longer(row) for row in rows) for rows in (train, test))
    return {
        "longer_is_chosen": round(share, 4),
        "length_only_accuracy": round(found if share >= 0.5 else 1 - found, 4),
    }

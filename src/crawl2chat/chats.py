"""Conversations to train on: reading and checking them, and which of their tokens are trained."""

import json
import warnings
from collections import Counter
from pathlib import Path

from datasets import Dataset, load_dataset

from crawl2chat.stage import StageError

# What may come before a message; an assistant's message that calls a tool is a `call`.
BEFORE = {
    "system": {""},
    "user": {"", "system", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"call", "tool"},
}


def read_chats(
    source: str | Path, tokenizer, max_length: int | None, split: str = "train"
) -> tuple[Dataset, dict[str, int]]:
    """The chats of a folder of 7_build_conversations.py, or of a dataset of the Hub with a column `messages`.

    A chat that is broken or too long is left out as a whole, with a warning that counts it: none is cut in the middle of
    an answer. The checked ones hold `messages` and `tools` (JSON or null) alone.

    Returns:
        the chats, and how many were left out for which reason.

    Raises:
        StageError: there is nothing to read, or nothing is left.
    """
    file = Path(source, "sft_train.jsonl")
    if file.is_file():
        found = load_dataset("json", data_files=str(file), split="train")
    elif Path(source).exists() or str(source).count("/") != 1:
        raise StageError(f"{file} does not exist; run 7_build_conversations.py first.")
    else:
        found = load_dataset(str(source), split=split)
    if "messages" not in found.column_names:
        raise StageError(
            f"{source} has no column `messages`, but {', '.join(found.column_names)}; name a dataset of chats."
        )
    if "tools" not in found.column_names:
        found = found.add_column("tools", [None] * len(found))
    found = found.select_columns(["messages", "tools"])
    faults = [fault_of(row, tokenizer, max_length) for row in found]
    dropped = dict(sorted(Counter(filter(None, faults)).items()))
    if dropped:
        told = ", ".join(f"{count} {fault}" for fault, count in dropped.items())
        warnings.warn(f"{source}: left out of {len(found)} chats: {told}.", stacklevel=2)
    if sum(dropped.values()) == len(found):
        raise StageError(f"{source} holds no chat to train on ({told if dropped else 'it is empty'}); give others.")
    return found.select([i for i, fault in enumerate(faults) if not fault]), dropped


def fault_of(row: dict, tokenizer, max_length: int | None = None) -> str:
    """What is wrong with a chat, or ""."""
    messages, before = row["messages"], ""
    for message in messages:
        if before not in BEFORE.get(message["role"], ()):
            return "with roles out of order"
        calls = message.get("tool_calls") or []
        if not (message["content"] or "").strip() and not calls:
            return "with an empty message"
        if any(not is_call(call) for call in calls):
            return "with a malformed tool call"
        before = "call" if calls else message["role"]
    if before != "assistant":
        return "that do not end with the assistant"
    if max_length and len(tokens_and_mask(tokenizer, row)[0]) > max_length:
        return f"longer than {max_length} tokens"
    return ""


def is_call(call: dict) -> bool:
    """Whether a tool call has a name and arguments that are an object, as it is or as JSON."""
    call = call.get("function") or call
    try:
        arguments = call["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (KeyError, json.JSONDecodeError):
        return False
    return bool(call.get("name")) and isinstance(arguments, dict)


def tokens_and_mask(tokenizer, row: dict) -> tuple[list[int], list[int]]:
    """The tokens of a chat, and 1 for those that are trained: what the assistant says, its ends included."""
    encoded = tokenizer.apply_chat_template(
        row["messages"],
        tools=json.loads(row["tools"]) if row.get("tools") else None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return encoded["input_ids"], encoded["assistant_masks"]


def check_masks(tokenizer, chats: Dataset, count: int = 100) -> None:
    """Refuses, by a `StageError`, a template whose markers train nothing, the user's words too, or no end."""
    for number, row in enumerate(chats.select(range(min(count, len(chats)))), 1):
        tokens, mask = tokens_and_mask(tokenizer, row)
        if not any(mask):
            raise StageError(f"no token of chat {number} is trained; put the markers around the assistant's content.")
        trained = tokenizer.decode([token for token, one in zip(tokens, mask) if one])
        asked = [message["content"] for message in row["messages"] if message["role"] in ("user", "system", "tool")]
        if mask[0] or any(len(text) > 20 and text in trained for text in asked):
            raise StageError(
                f"the mask of chat {number} covers the prompt; put the markers around the assistant's content alone."
            )
        if tokenizer.eos_token_id not in [token for token, one in zip(tokens, mask) if one]:
            raise StageError(
                f"{tokenizer.eos_token} is not trained in chat {number}, so the model would never stop; put it inside "
                "the markers."
            )


def render(tokenizer, tokens: list[int], mask: list[int]) -> str:
    """The chat as text, with every trained stretch in [brackets]."""
    text, inside = "", False
    for token, trained in zip(tokens, mask):
        text += ("[" if trained and not inside else "]" if inside and not trained else "") + tokenizer.decode([token])
        inside = bool(trained)
    return text + ("]" if inside else "")

"""Conversations to train on: reading and checking them, and which of their tokens are trained."""

import json
import warnings
from collections import Counter
from pathlib import Path

from datasets import Dataset, load_dataset
from jinja2 import TemplateError
from trl import DatasetMixtureConfig, get_dataset

from crawl2chat.chat import local
from crawl2chat.stage import StageError

# What may come before a message; an assistant's message that calls a tool is a `call`.
BEFORE = {
    "system": {""},
    "user": {"", "system", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"call", "tool"},
}


def read_chats(source: str | Path | list[dict], tokenizer, max_length: int | None) -> tuple[Dataset, dict[str, int]]:
    """The chats of a folder of 7_build_conversations.py, of a dataset of the Hub, or of a mixture of datasets.

    A chat that is broken or too long is left out as a whole, with a warning that counts it: none is cut in the middle of
    an answer. The checked ones hold `messages` and `tools` (a list of tools, as such or as JSON, or null) alone.

    Args:
        source: a path, an id of the Hub, or what `datasets` of trl's `DatasetMixtureConfig` takes.

    Returns:
        the chats, and how many were left out for which reason.

    Raises:
        StageError: there is nothing to read, or nothing is left.
    """
    found = rows_of(source)
    name = source if isinstance(source, str | Path) else " and ".join(str(one.get("path")) for one in source)
    if "messages" not in found.column_names:
        raise StageError(f"{name} has no column `messages`, but {found.column_names}; name a dataset of chats.")
    if "tools" not in found.column_names:
        found = found.add_column("tools", [None] * len(found))
    found = found.select_columns(["messages", "tools"])
    faults = [fault_of(row, tokenizer, max_length) for row in found]
    dropped = dict(sorted(Counter(filter(None, faults)).items()))
    told = ", ".join(f"{count} {fault}" for fault, count in dropped.items())
    if dropped:
        warnings.warn(f"{name}: left out of {len(found)} chats: {told}.", stacklevel=2)
    if sum(dropped.values()) == len(found):
        raise StageError(f"{name} holds no chat to train on ({told or 'it is empty'}); give others.")
    return found.select([i for i, fault in enumerate(faults) if not fault]), dropped


def rows_of(source: str | Path | list[dict]) -> Dataset:
    if isinstance(source, list):
        name, files, remedy = "`datasets`", None, "each needs a `path`, and all the same columns (`columns`) and types"
    else:
        name, files, remedy = source, Path(source, "sft_train.jsonl"), "check the name and the network"
        if not files.is_file() and (Path(source).exists() or local(str(source))):
            raise StageError(f"{files} does not exist; run 7_build_conversations.py first.")
        if files.is_file():
            name, remedy = files, "it holds one JSON object a line"
            if not files.stat().st_size:
                raise StageError(f"{files} is empty; run 7_build_conversations.py again.")
    try:
        if files is None:
            return get_dataset(DatasetMixtureConfig(datasets=[dict(one) for one in source]))["train"]
        if files.is_file():
            return load_dataset("json", data_files=str(files), split="train")
        return load_dataset(str(source), split="train")
    except Exception as error:  # datasets, arrow, the Hub and the network have theirs
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise StageError(f"{name} cannot be read as chats ({reason}); {remedy}.") from error


def files_of(datasets: list[dict]) -> list[str]:
    """The files and folders here that a mixture names."""
    named = [name for one in datasets for name in (one.get("path"), one.get("data_files"))]
    names = [name for found in named for name in (found if isinstance(found, list) else [found])]
    return [name for name in names if isinstance(name, str) and Path(name).exists()]


def fault_of(row: dict, tokenizer, max_length: int | None = None) -> str:
    """What is wrong with a chat, or ""."""
    messages, before = row["messages"], ""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "that are no lists of messages"
    for message in messages:
        if before not in BEFORE.get(message.get("role"), ()):
            return "with roles out of order"
        calls = message.get("tool_calls") or []
        if not str(message.get("content") or "").strip() and not calls:
            return "with an empty message"
        if any(not is_call(call) for call in calls):
            return "with a malformed tool call"
        before = "call" if calls else message["role"]
    if before != "assistant":
        return "that do not end with the assistant"
    try:
        length = len(tokens_and_mask(tokenizer, row)[0])
    except json.JSONDecodeError:
        return "whose tools are no JSON"
    except (TemplateError, TypeError):  # what a template of others raises, or a content that is no text
        return "that the chat template refuses"
    return f"longer than {max_length} tokens" if max_length and length > max_length else ""


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
    tools = row.get("tools") or None
    encoded = tokenizer.apply_chat_template(
        row["messages"],
        tools=json.loads(tools) if isinstance(tools, str) else tools,
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
        # Words that no assistant repeats, as it may repeat those of the user.
        asked = [
            message if message["role"] == "assistant" else {**message, "content": "~asked~"}
            for message in row["messages"]
        ]
        words, trained = tokens_and_mask(tokenizer, {**row, "messages": asked})
        if mask[0] or "~asked~" in tokenizer.decode([word for word, one in zip(words, trained) if one]):
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

"""Chats as every stage sees them: the template, the special tokens, thinking apart from the answer, loading checks."""

import re
from contextlib import suppress
from pathlib import Path

from crawl2chat.stage import StageError

END_OF_TEXT = "<|endoftext|>"  # ends a document of the corpus
START_OF_TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
PADDING = "<|padding|>"
SPECIAL_TOKENS = [END_OF_TEXT, START_OF_TURN, END_OF_TURN, PADDING]
# Ordinary added tokens: a special one would be stripped by `skip_special_tokens` before a reward function sees it.
THINK_TOKENS = ["<think>", "</think>"]
TOOL_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
ADDED_TOKENS = THINK_TOKENS + TOOL_TOKENS


# How a reply is read back into thinking, calls and what is said (transformers' `parse_response`; TRL runs the calls).
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": f"{START_OF_TURN}assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def chat_template() -> str:
    """The Jinja chat template that is saved inside every tokenizer of the path."""
    return (Path(__file__).parent / "chat_template.jinja").read_text()


def split_thinking(completion: str) -> tuple[str, str]:
    """(thinking, answer) of a completion; thinking is "" if there is none.

    A completion that opens a thought and never closes it has no answer: everything is thinking.
    """
    thinking, closed, answer = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        thinking, answer = completion, ""
    return thinking.replace("<think>", "").replace("</think>", "").strip(), answer.strip()


def local(*names: str) -> list[str]:
    """The names that are paths: what is left after Hub ids (`owner/name`, and no such folder here)."""
    return [name for name in names if Path(name).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]


def load_tokenizer(folder: str | Path, for_chat: bool = False):
    """The tokenizer of a model folder or Hub id, on whose template (`for_chat`) SFT and RL can rely.

    Raises:
        StageError: there is no tokenizer, or `for_chat` and its template is missing or has no generation markers.
    """
    from transformers import AutoTokenizer

    missing = (
        f"{folder} holds no tokenizer; save one there with tokenizer.save_pretrained, or name a folder that has one."
    )
    files = ("tokenizer.json", "tokenizer_config.json")
    if Path(folder).is_dir() and not any(Path(folder, file).is_file() for file in files):
        raise StageError(missing)  # transformers would make up a tokenizer of one token
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises plain ones
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{folder} holds no tokenizer that transformers can load: {reason}") from error
    if for_chat:
        mark_known_template(tokenizer)
        check_template(tokenizer, folder)
    return tokenizer


def mark_known_template(tokenizer) -> None:
    """The template of a well-known model that does not mark what is trained becomes TRL's copy of it that does."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template and not has_generation_markers(tokenizer.chat_template):
        with suppress(ValueError):  # it is not known to TRL
            tokenizer.chat_template = get_training_chat_template(tokenizer)


def check_template(tokenizer, folder: str | Path) -> None:
    """Refuses, by a `StageError`, a tokenizer without a chat template, or one that does not mark what is trained."""
    if not tokenizer.chat_template:
        raise StageError(f"the tokenizer in {folder} has no chat template; 5_train_tokenizer.py saves one inside.")
    without_comments = re.sub(r"\{#.*?#\}", "", tokenizer.chat_template, flags=re.DOTALL)
    if not re.search(r"\{%-?\s*generation\s*-?%\}", without_comments):
        raise StageError(
            f"the chat template in {folder} has no {{% generation %}} markers, so the assistant's tokens cannot be "
            "told from the prompt; put the markers around the assistant's content."
        )


def give_template(tokenizer) -> int:
    """Gives the tokenizer of a base model that has no chat template ours, and the tokens for it that it lacks.

    Returns:
        how many tokens are new; the model's embedding needs as many more rows.
    """
    if tokenizer.chat_template:
        mark_known_template(tokenizer)
        return 0
    tokenizer.chat_template = chat_template()
    before, vocabulary = len(tokenizer), tokenizer.get_vocab()
    special = [token for token in (START_OF_TURN, END_OF_TURN, PADDING) if token not in vocabulary]
    tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    tokenizer.add_tokens([token for token in ADDED_TOKENS if token not in vocabulary])
    tokenizer.eos_token, tokenizer.pad_token = END_OF_TURN, PADDING
    return len(tokenizer) - before


def load_model(folder: str | Path, tokenizer, **options):
    """The causal language model of a folder or Hub id, checked against its tokenizer.

    Raises:
        StageError: there is no model, or its embedding has fewer rows than the tokenizer has tokens.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{folder} holds no model that transformers can load: {reason}") from error
    rows = model.get_input_embeddings().num_embeddings  # of a weight that ZeRO-3 has split there is no shape
    if len(tokenizer) > rows:
        raise StageError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens but the model's embedding only {rows} rows; "
            "use the tokenizer the model was trained with, or resize the embedding."
        )
    return model


def check_chat_tokens(tokenizer, folder: str | Path) -> None:
    """Refuses, by a `StageError`, a tokenizer that lacks a token that documents, chats or thoughts begin or end with."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in [*SPECIAL_TOKENS, *THINK_TOKENS] if token not in vocabulary]
    if missing:
        raise StageError(f"the tokenizer in {folder} lacks {' '.join(missing)}; take one of 5_train_tokenizer.py.")


def start_chat_tokens(weights: dict, tokenizer) -> None:
    """Lets the tokens that no page holds begin as a line break, and the end of a turn be as likely as the end of a text.

    Pretraining leaves their embeddings as they were drawn and pushes their logits far down, since they never come. SFT
    would first bend the whole model to bring them up. Those of thoughts and tools are read as the mean of the words in
    their names: they often stand behind a line break, and must not look like one.

    Args:
        weights: the state of a causal language model of transformers, changed in place.
    """
    end_of_turn, end_of_text = tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT])
    vocabulary = tokenizer.get_vocab()  # another project's tokenizer may have no tokens for tools
    new = [vocabulary[token] for token in [START_OF_TURN, END_OF_TURN, *ADDED_TOKENS] if token in vocabulary]
    (line_break,) = tokenizer.encode("\n", add_special_tokens=False)
    embedding = weights["model.embed_tokens.weight"]
    head = weights.get("lm_head.weight", embedding)  # one and the same if they are tied
    for matrix in (embedding, head):
        matrix[new] = matrix[line_break].clone()
    head[end_of_turn] = head[end_of_text].clone()
    if head is not embedding:
        for token in set(ADDED_TOKENS) & set(vocabulary):
            words = tokenizer.encode(
                re.sub(r"\W+|_", " ", token.replace("/", "end ")).rstrip(), add_special_tokens=False
            )
            embedding[vocabulary[token]] = embedding[words].mean(0)

"""Byte-level BPE: the split pattern, training, and encoding a corpus ten times as fast as `tokenizers` does.

**The split pattern** cuts text into pieces that no token may cross. It is that of Qwen3.5 to the letter, so that llama.cpp
and other engines know it by name (`qwen35`):

- `(?i:'s|'t|'re|'ve|'m|'ll|'d)`, the ends of English contractions (as in GPT-4's `cl100k_base`);
- `[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+`, a word of any script, with the space or mark before it. Combining marks (`\\p{M}`)
  belong to it, or Hindi and Thai words would fall apart at every vowel sign (as in GPT-4o's `o200k_base`);
- `\\p{N}`, every digit alone, so that sums are done on digits and a number looks the same wherever it stands (as in
  Llama 1 and 2; https://arxiv.org/abs/2402.14903 measures what other groupings cost);
- ` ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*`, punctuation, with the line ends after it;
- `\\s*[\\r\\n]+`, line ends, with the space before them;
- `\\s+(?!\\S)` and `\\s+`, other space; of a run the last one is left to the word after it.

`docs/tokenizer.md` has the measurements.

**Encoding a corpus** is done by tiktoken with the same merges. Merges that BPE training made give the same ids under
both rules of merging: a token is only ever made from the two parts that made it in training. tests/test_bpe.py compares
them on every code point, random text and all real text at hand, and every file of a corpus begins with such a
comparison. A control token that a document happens to contain (`<|endoftext|>`, `<think>`) is text like any other.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers.convert_slow_tokenizer import bytes_to_unicode

from crawl2chat.chat import ADDED_TOKENS, END_OF_TEXT, SPECIAL_TOKENS
from crawl2chat.stage import StageError

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel does alone
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS) + len(ADDED_TOKENS)
BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}


def corpus_files(corpus: str | Path, split: str) -> list[Path]:
    return sorted(Path(corpus, split).glob("*.parquet"))


def texts_of(files: Iterable[Path]) -> Iterator[str]:
    """The column `text` of Parquet files."""
    for file in tqdm(list(files), desc="read", unit="file"):
        for batch in pq.ParquetFile(file).iter_batches(columns=["text"]):
            yield from filter(None, batch["text"].to_pylist())


def check_vocab_size(vocab_size: int) -> None:
    if vocab_size < MIN_VOCAB_SIZE:
        raise StageError(
            f"`vocab_size` {vocab_size} has no room for the 256 bytes and the {MIN_VOCAB_SIZE - 256} special and added "
            f"tokens; give at least {MIN_VOCAB_SIZE}, and more to merge anything."
        )


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with `SPLIT`, all 256 bytes, and the special and added tokens; `vocab_size` entries in all.

    A pair must occur twice to be merged.

    Raises:
        StageError: no text, no room for what must be in, or too little text for so many entries.
    """
    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(ADDED_TOKENS),
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes: any text can be encoded
        show_progress=False,
    )
    num_bytes = 0

    def counted() -> Iterator[str]:
        nonlocal num_bytes
        for text in texts:
            num_bytes += len(text.encode())
            yield text

    tokenizer.train_from_iterator(counted(), trainer)
    if not num_bytes:
        raise StageError("the corpus holds no text to train a tokenizer on; every text of it is empty.")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED_TOKENS])
    if tokenizer.get_vocab_size() < vocab_size:
        raise StageError(
            f"`vocab_size` {vocab_size} cannot be reached: the {num_bytes:,} bytes of text hold pairs to merge for "
            f"{tokenizer.get_vocab_size()} entries only; give more text or --vocab_size {tokenizer.get_vocab_size()}."
        )
    return tokenizer


def fingerprint_of(tokenizer) -> str:
    """16 hex digits of all that decides which ids a text gets; padding, template and special flags do not."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [
        sorted(tokenizer.get_vocab().items()),
        core["model"].get("merges"),
        core["normalizer"],
        core["pre_tokenizer"],
    ]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


def token_bytes(tokenizer) -> list[bytes]:
    """What each id stands for; ids that no token has stand for nothing.

    Raises:
        StageError: the tokenizer is not byte-level.
    """
    added, found = tokenizer.get_added_vocab(), [b""] * (max(tokenizer.get_vocab().values()) + 1)
    try:
        for token, i in tokenizer.get_vocab().items():
            found[i] = token.encode() if token in added else bytes(BYTE_OF[letter] for letter in token)
    except KeyError as error:
        raise StageError(
            f"the tokenizer is not byte-level (its token {token!r} has {error}), so its tokens are no bytes; take one "
            "of 5_train_tokenizer.py, or another byte-level BPE."
        ) from None
    return found


class Encoder:
    """Text -> ids, control tokens taken as plain text; by tiktoken where the tokenizer is byte-level BPE as ours.

    Any other is encoded by `tokenizers`: `is_fast` says which.
    """

    def __init__(self, tokenizer):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state |= {"added_tokens": [], "truncation": None, "padding": None}  # nothing is matched as a control token
        self.reference = Tokenizer.from_str(json.dumps(state))
        pattern, ranks = _pattern(state), _ranks(state, tokenizer.get_added_vocab())
        self.is_fast = pattern is not None and ranks is not None
        # A special token that is never allowed, as tiktoken searches slowly for none at all.
        never = {END_OF_TEXT: max(tokenizer.get_vocab().values()) + 1}
        if self.is_fast:
            import tiktoken  # not needed to train on shards

            self.fast = tiktoken.Encoding("corpus", pat_str=pattern, mergeable_ranks=ranks, special_tokens=never)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, of type uint32."""
        if self.is_fast:
            try:
                return self.fast.encode_to_numpy(text, disallowed_special=())
            except ValueError:
                pass  # its regex engine gives up on some hundred thousand spaces in a row
        return np.array(self.reference.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    def check(self, texts: list[str]) -> None:
        """Raises a `StageError` if tiktoken and `tokenizers` encode one of the texts differently."""
        for text, expected in zip(texts, self.reference.encode_batch_fast(texts, add_special_tokens=False)):
            if self.encode(text).tolist() != expected.ids:
                raise StageError(
                    f"tiktoken gives other ids than this tokenizer for a text that begins {text[:60]!r}; its merges "
                    "are not those of a BPE training. Take a tokenizer of 5_train_tokenizer.py."
                )


def _pattern(state: dict) -> str | None:
    """The split pattern, if the tokenizer does nothing else to a text before it merges bytes."""
    if state["normalizer"] is not None:
        return None
    match state["pre_tokenizer"]:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2_SPLIT
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _ranks(state: dict, added: dict[str, int]) -> dict[bytes, int] | None:
    """Token -> id, if the ids stand in the order of the merges, and every merge has a token of its own."""
    model = state["model"]
    plain = not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    if model["type"] != "BPE" or not plain or model.get("byte_fallback"):
        return None
    vocabulary = {token: i for token, i in model["vocab"].items() if token not in added}
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    merged = [vocabulary.get(left + right, -1) for left, right in pairs]
    in_order = all(a < b for a, b in zip([-1, *merged], merged))
    if not in_order or len(vocabulary) != 256 + len(merged) or not all(set(t) <= BYTE_OF.keys() for t in vocabulary):
        return None
    return {bytes(BYTE_OF[letter] for letter in token): i for token, i in vocabulary.items()}

"""What a tokenizer does to text: `report.json` and `tokenizer.html` beside it.

Bytes a token by language and kind of text, beside other tokenizers; which entries are used; the longest; digits, spelling.
The stage writes it on its validation split. On other texts, and beside tokenizers of the Hub or of folders:

    python -m crawl2chat.tokenizer_report outputs/tiny/5_tokenizer --texts outputs/tiny/4_corpus/validation \
        --compare gpt2 HuggingFaceTB/SmolLM2-135M
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from crawl2chat.bpe import Encoder, token_bytes
from crawl2chat.chat import load_tokenizer
from crawl2chat.html_page import write_page
from crawl2chat.stage import StageError, write_atomically

GROUPED_BY = {"language": "language", "source": "kind"}  # columns -> what they tell
GROUP_BYTES, MAX_GROUPS = 2_000_000, 40  # some seconds for each tokenizer
NUM_SHOWN, PAGE_CHARACTERS = 30, 1200
WORD = re.compile(r"[^\W\d_]+")
SUMS = ["1847+25", "3.14159", "1,000,000", "2026-11-24"]
SPELT = ["strawberry", " strawberry", "Strawberry", "antidisestablishmentarianism", "Übermut", "日本語"]


def write_report(folder: str | Path, files: list[Path], compare: Iterable[str] = ()) -> dict:
    """Measures the tokenizer in `folder` on the Parquet `files` (column `text`, and those of `GROUPED_BY` if there).

    Raises:
        StageError: no text, or a tokenizer that cannot be loaded or is not byte-level.
    """
    tokenizer, others = load_tokenizer(folder), {name: load_tokenizer(name) for name in compare}
    groups = _read(files)
    everything = groups["all", ""]
    encoder, pieces = Encoder(tokenizer), token_bytes(tokenizer)
    encoded = [encoder.encode(text) for text in everything]
    counts = np.bincount(np.concatenate(encoded), minlength=len(pieces))
    num_bytes, num_tokens = sum(len(text.encode()) for text in everything), int(counts.sum())
    words = Counter(word for text in everything for word in WORD.findall(text))
    lengths = {word: len(encoder.encode(f" {word}")) for word in words}

    added = tokenizer.get_added_vocab()
    merged = [
        i for i, piece in enumerate(pieces) if len(piece) > 1 and tokenizer.convert_ids_to_tokens(i) not in added
    ]
    longest = sorted(merged, key=lambda i: (-len(pieces[i]), i))[:NUM_SHOWN]
    rows = {"this": encoder} | {name: Encoder(other) for name, other in others.items()}
    report = {
        "vocab_size": len(tokenizer),
        "num_documents": len(everything),
        "num_bytes": num_bytes,
        "num_tokens": num_tokens,
        "bytes_per_token": round(num_bytes / num_tokens, 3),
        "characters_per_token": round(sum(map(len, everything)) / num_tokens, 3),
        "tokens_per_word": round(sum(lengths[w] * n for w, n in words.items()) / max(1, words.total()), 3),
        "tokenizers": [{"name": "this", "vocab_size": len(tokenizer)}]
        + [{"name": name, "vocab_size": len(other)} for name, other in others.items()],
        "groups": [
            {
                "by": by,
                "name": name,
                "num_bytes": sum(len(text.encode()) for text in texts),
                "bytes_per_token": {key: _ratio(row, texts) for key, row in rows.items()},
            }
            for (by, name), texts in groups.items()
        ],
        "coverage": {
            "merged_entries": len(merged),
            "merged_entries_seen": int((counts[merged] > 0).sum()),
            "bytes_covered": len({piece for piece in pieces if len(piece) == 1}),
            "entries_that_are_no_whole_characters": sum(not _is_text(pieces[i]) for i in merged),
            "share_of_words_of_one_token": round(
                sum(n for word, n in words.items() if lengths[word] == 1) / max(1, words.total()), 4
            ),
        },
        "lengths": {str(n): count for n, count in sorted(Counter(len(pieces[i]) for i in merged).items())},
        "longest": [_entry(pieces, counts, i) for i in longest],
        "most_frequent": [_entry(pieces, counts, int(i)) for i in np.argsort(-counts, kind="stable")[:NUM_SHOWN]],
        "entries_with_several_digits": sum(
            sum(map(str.isdigit, pieces[i].decode("utf-8", "ignore"))) > 1 for i in merged
        ),
        "digits": {text: _cut(encoder, pieces, text) for text in SUMS},
        "spelling": {text: _cut(encoder, pieces, text) for text in SPELT},
        "long_words": {word: _cut(encoder, pieces, f" {word}") for word in _long(words)},
        "control_tokens": [
            {"token": token, "id": i, "special": i in tokenizer.all_special_ids or _is_special(tokenizer, i)}
            for token, i in sorted(added.items(), key=lambda item: item[1])
        ],
        "page": _cut(encoder, pieces, max(everything[:100], key=len)[:PAGE_CHARACTERS]),
    }
    folder = Path(folder)
    write_atomically(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_page(folder / "tokenizer.html", "tokenizer.html.jinja", report=report)
    return report


def _read(files: list[Path]) -> dict[tuple[str, str], list[str]]:
    """Texts: all, and by the values of the columns in `GROUPED_BY`; the largest groups, the first megabytes of each."""
    groups: dict[tuple[str, str], list[str]] = {("all", ""): []}
    sizes: Counter = Counter()
    for file in files:
        columns = [name for name in GROUPED_BY if name in pq.read_schema(file).names]
        for batch in pq.ParquetFile(file).iter_batches(256, columns=["text", *columns]):
            for row in batch.to_pylist():
                if not row["text"]:
                    continue
                size = len(row["text"].encode())
                places = [(GROUPED_BY[name], str(row[name] or "unknown")) for name in columns]
                for place in [("all", ""), *places]:
                    if sizes[place] < GROUP_BYTES * (10 if place[0] == "all" else 1):
                        groups.setdefault(place, []).append(row["text"])
                        sizes[place] += size
    if not groups["all", ""]:
        raise StageError(f"{files[0].parent if files else 'the folder'} holds no text to measure a tokenizer on.")
    kept = sorted(groups, key=lambda place: (place[0] != "all", place[0], -sizes[place], place[1]))
    return {place: groups[place] for place in kept[:MAX_GROUPS]}


def _ratio(encoder: Encoder, texts: list[str]) -> float:
    return round(sum(len(text.encode()) for text in texts) / sum(len(encoder.encode(text)) for text in texts), 3)


def _cut(encoder: Encoder, pieces: list[bytes], text: str) -> list[str]:
    return [_shown(pieces[i]) for i in encoder.encode(text)]


def _shown(piece: bytes) -> str:
    """A token as text; bytes that are no whole character as `\\xe3`."""
    return piece.decode("utf-8", "backslashreplace")


def _is_text(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


def _entry(pieces: list[bytes], counts: np.ndarray, i: int) -> dict:
    return {"id": i, "token": _shown(pieces[i]), "num_bytes": len(pieces[i]), "count": int(counts[i])}


def _is_special(tokenizer, i: int) -> bool:
    return tokenizer.added_tokens_decoder[i].special


def _long(words: Counter) -> list[str]:
    """The most frequent words of eight letters or more."""
    return sorted((word for word in words if len(word) >= 8), key=lambda word: (-words[word], word))[:12]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of 5_train_tokenizer.py, or any with a byte-level tokenizer")
    parser.add_argument(
        "--texts", nargs="+", type=Path, required=True, help="Parquet files, or folders with *.parquet"
    )
    parser.add_argument("--compare", nargs="*", default=[], help="Hub ids or folders of other tokenizers")
    given = parser.parse_args()
    found = [file for path in given.texts for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    try:
        if not all(file.is_file() for file in found):
            raise StageError(f"--texts: no such file among {', '.join(map(str, given.texts))}.")
        write_report(given.folder, found, given.compare)
        sys.stdout.write(f"{Path(given.folder, 'tokenizer.html')}\n")
    except StageError as error:
        sys.exit(f"tokenizer_report: error: {error}")

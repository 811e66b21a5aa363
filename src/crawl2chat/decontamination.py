"""Which pages hold a text of an evaluation task: overlaps of 13 words, as GPT-3 looked for them.

Words are lower case and without punctuation, and 13 in a row must agree; a text of 8 to 12 words must stand as a whole,
and shorter ones are not looked for (https://arxiv.org/abs/2005.14165, appendix C, takes 8 to 13 by the length of a
task's examples). Two departures: the whole page counts, where GPT-3 cut out 200 characters around the overlap; and a
run that stands on many pages counts, too, where GPT-3 passed over those on more than ten: the report names each run, so
that boilerplate of a task can be seen.

Against the 612,000 runs of GSM8K's training questions and answers a page of 865 words takes .67 ms of CPU.
"""

import gzip
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from crawl2chat.ngrams import NGramIndex, plain_words
from crawl2chat.pages import num_bytes
from crawl2chat.stage import StageError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def split_task(task: str) -> tuple[str, list[str]]:
    """Path and fields of "path:field,field"; no field if none is named."""
    path, colon, fields = task.rpartition(":")
    return (path, [field.strip() for field in fields.split(",") if field.strip()]) if colon else (task, [])


class Decontamination:
    """All texts of the tasks, to be found in pages.

    Args:
        tasks: "path:field,field" each; a .jsonl, .jsonl.gz or .parquet file, or a folder searched for such.
        num_words: length of an overlap.
        min_words: shorter texts are not looked for.

    Raises:
        StageError: a file cannot be read, lacks a field, or has nothing to look for.
    """

    def __init__(self, tasks: list[str], num_words: int = 13, min_words: int = 8):
        self.starts: list[int] = []  # number of the first example of each file
        self.files: list[tuple[str, str]] = []  # their task and name
        self.num_texts = dict.fromkeys(map(name_of, tasks), 0)
        self.min_words = min_words
        self.index = NGramIndex(self._texts(tasks), num_words, min_words)

    def _texts(self, tasks: list[str]) -> Iterator[tuple[int, str]]:
        number = 0
        for task in tasks:
            path, fields = split_task(task)
            num_long = 0
            for file in files_of(path):
                self.starts.append(number)
                self.files.append((name_of(task), file.name))
                for texts in read_texts(file, fields):
                    for text in texts:
                        num_long += len(plain_words(text)) >= self.min_words
                        yield number, text
                    number += 1
            if not num_long:
                raise StageError(
                    f"eval_tasks: no text of {task} has {self.min_words} words or more, so there is nothing to look "
                    "for; name fields with longer texts, or lower --eval_min_words."
                )
            self.num_texts[name_of(task)] += num_long

    def overlaps(self, text: str) -> list[dict]:
        """For each task that a page overlaps with: the first example and run of words, and the number of runs."""
        words = plain_words(text)
        found: dict[str, dict] = {}
        for number, position, n in sorted(self.index.hits(words), key=lambda hit: (hit[1], hit[2], hit[0])):
            file = bisect_right(self.starts, number) - 1
            task, name = self.files[file]
            line = {"task": task, "example": f"{name}:{number - self.starts[file] + 1}", "num_runs": 0}
            line = found.setdefault(task, line | {"n_gram": " ".join(words[position : position + n])})
            line["num_runs"] += 1
        return list(found.values())

    def search(self, files: list[Path]) -> list[dict]:
        """The pages that overlap: their number, url, id and bytes, and `overlaps`."""
        found, number = [], 0
        for file in tqdm(files, desc="decontaminate", unit="file"):
            for batch in pq.ParquetFile(file).iter_batches(1000, columns=["url", "id", "text"]):
                for page in batch.to_pylist():
                    if overlaps := self.overlaps(page["text"]):
                        size = num_bytes(page.pop("text"))
                        found.append({"page": number, **page, "num_bytes": size, "overlaps": overlaps})
                    number += 1
        return found


def funnel_row(dropped: list[dict], num_pages: int, bytes_in: int) -> dict:
    """The step as `pages.funnel_of` gives others; a page counts for the first task it overlaps with."""
    reasons = Counter(page["overlaps"][0]["task"] for page in dropped)
    samples = {page["overlaps"][0]["task"]: page for page in reversed(dropped)}  # the first of each
    return {
        "step": "decontaminate",
        "num_in": num_pages,
        "num_kept": num_pages - len(dropped),
        "num_dropped": len(dropped),
        "bytes_in": bytes_in,
        "bytes_kept": bytes_in - sum(page["num_bytes"] for page in dropped),
        "reasons": dict(sorted(reasons.items())),
        "samples": [
            {
                "url": page["url"],
                "reason": f"decontaminate/{task}",
                "id": page["id"],
                "text": page["overlaps"][0]["n_gram"],
            }
            for task, page in sorted(samples.items())
        ],
    }


def name_of(task: str) -> str:
    """The last two parts of the path, such as gsm8k/train."""
    path = Path(split_task(task)[0])
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return f"{path.absolute().parent.name}/{name}".lstrip("/")


def files_of(path: str) -> list[Path]:
    if Path(path).is_file():
        if not path.endswith(SUFFIXES):
            raise StageError(f"eval_tasks: {path} is no {', '.join(SUFFIXES)} file; convert it, or name another.")
        return [Path(path)]
    files = sorted(file for file in Path(path).rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise StageError(f"eval_tasks: {path} holds no {', '.join(SUFFIXES)} file; name a file or another folder.")
    return files


def read_texts(file: Path, fields: list[str]) -> Iterator[list[str]]:
    """The texts of each example; those within lists and objects, too: choices, or the messages of a chat."""
    absent, known = set(fields), set()
    for number, row in enumerate(_rows(file, fields), 1):
        absent -= row.keys()
        known |= row.keys()
        for field in fields:
            if not isinstance(row.get(field), str | list | dict | None):
                kind = type(row[field]).__name__
                raise StageError(f"eval_tasks: `{field}` of {file}, example {number}, is {kind} and not text.")
        yield [text for field in fields for text in _strings(row.get(field))]
    if absent:
        there = f"it has {', '.join(sorted(known))}" if known else "it is empty"
        raise StageError(f"eval_tasks: {file} has no field {', '.join(sorted(absent))}; {there}.")


def _rows(file: Path, fields: list[str]) -> Iterator[dict]:
    if file.suffix == ".parquet":
        try:
            data = pq.ParquetFile(file)
            columns = fields if set(fields) <= set(data.schema_arrow.names) else None
            for batch in data.iter_batches(1000, columns=columns):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise StageError(f"eval_tasks: {file} cannot be read as Parquet ({error}); fetch it again.") from error
        return
    number = 0
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"{type(row).__name__}, not an object")
                    yield row
    except (ValueError, EOFError, OSError) as error:  # JSON, UTF-8, gzip
        raise StageError(f"eval_tasks: {file} is no JSON Lines, at or after line {number} ({error}).") from error


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)

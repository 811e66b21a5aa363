"""What the stages on pages share: a filter that counts and gives reasons, the dropped pages, the writer, the funnel."""

import itertools
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers import ParquetWriter

from crawl2chat.executors import WholeFiles
from crawl2chat.html import utf8
from crawl2chat.pii import remove_pii
from crawl2chat.stage import StageError

SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "id", "url", "date", "language", "licence", "opt_out")])
MAX_SAMPLE_CHARACTERS = 4000
MAX_SHOWN_CHARACTERS = 500
# The funnel may be published with the corpus: it must not show what these steps keep out of it.
NOT_SHOWN = {"url", "opt_out", "blocked_words", "protected"}


class DroppedPages:
    """`dropped/<step>/<rank>.jsonl`: url and reason of every page a step drops, with the text of the first few.

    Args:
        num_samples: pages of a task with their text; beyond them the first of each reason, unless it is 0.
    """

    def __init__(self, output_dir: str, step: str, num_samples: int):
        self.files = WholeFiles(Path(output_dir, "dropped", step))
        self.num_samples, self.num_written, self.reasons = num_samples, 0, set()

    def of_task(self, rank: int) -> AbstractContextManager:
        """Within it a task's pages are written."""
        self.num_written, self.reasons = 0, set()
        return self.files.of_task(f"{rank:05d}.jsonl")

    def write(self, document: Document, rank: int = 0, reason: str = "") -> None:
        line = {"url": document.metadata["url"], "reason": reason, "id": document.id}
        if self.num_written < self.num_samples or (self.num_samples and reason not in self.reasons):
            line["text"] = document.text[:MAX_SAMPLE_CHARACTERS]
            self.reasons.add(reason)
        self.num_written += 1
        self.files.write(f"{rank:05d}.jsonl", orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


class PageFilter(PipelineStep):
    """Keeps or drops pages; counts pages, bytes and reasons.

    A subclass says in `reason_to_drop` why a page goes, or "" to keep it; it may rewrite the text of what it keeps.
    """

    type, name = "🔻 - FILTER", ""

    def __init__(self, dropped: DroppedPages | None = None):
        super().__init__()
        self.dropped = dropped

    @abstractmethod
    def reason_to_drop(self, document: Document) -> str:
        raise NotImplementedError

    def begin(self, rank: int) -> None:
        """Loads what the filter needs, in the process that needs it."""

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.begin(rank)
        counts: Counter[str] = Counter()
        with self.dropped.of_task(rank) if self.dropped else nullcontext():
            for document in data:
                with self.track_time():
                    counts["num_in"] += 1
                    counts["bytes_in"] += num_bytes(document.text)
                    reason = self.reason_to_drop(document)
                if reason:
                    counts["num_dropped"] += 1
                    counts[f"dropped_{reason}"] += 1
                    self.dropped.write(document, rank, reason=f"{self.name}/{reason}")
                else:
                    counts["num_kept"] += 1
                    counts["bytes_kept"] += num_bytes(document.text)
                    yield document
            for name, count in counts.items():
                self.stat_update(name, value=count)


class PageWriter(ParquetWriter):
    """`pages/<rank>.parquet`, one a task. The schema is stated, so that files do not differ by their first page."""

    name = "write"

    def __init__(self, output_dir: str):
        super().__init__(str(Path(output_dir, "pages")), compression="zstd", schema=SCHEMA, max_file_size=-1)
        self.adapter = _row
        self.output_mg = WholeFiles(Path(output_dir, "pages"))

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with self.output_mg.of_task(f"{rank:05d}.parquet"):
            yield from super().run(data, rank, world_size)


def _row(document: Document) -> dict:
    values = {"text": document.text, "id": document.id, **document.metadata}
    return {name: values.get(name) or "" for name in SCHEMA.names}


def page_files(folder: str | Path) -> list[Path]:
    """The Parquet files of a stage's pages, in the order of the crawl.

    Raises:
        StageError: there is none.
    """
    files = sorted(Path(folder, "pages").glob("*.parquet"))
    missing = [name for name in ("funnel.json", "fates.jsonl") if not Path(folder, name).is_file()]
    if files and missing:
        raise StageError(f"{folder} has no {' and no '.join(missing)}; name the folder of an earlier stage.")
    if not files:
        raise StageError(
            f"{folder}/pages holds no .parquet file; name the folder of an earlier stage that kept pages."
        )
    return files


def read_pages(file: Path, columns: list[str] | None = None) -> list[dict]:
    return pq.read_table(file, columns=columns).to_pylist()


def funnel_of(steps: list[PipelineStep], totals: list[dict], output_dir: str | Path) -> list[dict]:
    """Pages and bytes in, kept and dropped, why, and a sample of each reason, for each step that drops pages."""
    funnel = []
    for step, total in zip(steps, totals):
        if hasattr(step, "dropped"):  # also one that no page came to
            reasons = {k.removeprefix("dropped_"): v for k, v in sorted(total.items()) if k.startswith("dropped_")}
            counts = {k: total.get(k, 0) for k in ("num_in", "num_kept", "num_dropped", "bytes_in", "bytes_kept")}
            samples = _first_of_each_reason(_dropped_files(output_dir, step.name), len(reasons))
            for line in samples:
                line["text"] = "" if step.name in NOT_SHOWN else remove_pii(line["text"])[0][:MAX_SHOWN_CHARACTERS]
            funnel.append({"step": step.name, **counts, "reasons": reasons, "samples": samples})
    return funnel


def _first_of_each_reason(files: list[Path], num_reasons: int) -> list[dict]:
    """The first line with a text of each reason. Nothing is read on when all have one."""
    samples: dict[str, dict] = {}
    for line in itertools.chain.from_iterable(map(iter_lines, files)):
        if "text" in line:
            samples.setdefault(line["reason"], line)
        if len(samples) == num_reasons:
            break
    return list(samples.values())


def fates_of(output_dir: str | Path) -> Iterator[dict]:
    """Url and reason of every dropped page and, where it could be read, of every damaged record."""
    for file in _dropped_files(output_dir, "*"):
        yield from ({"url": line["url"], "reason": line["reason"]} for line in iter_lines(file))
    for file in sorted(Path(output_dir, "damaged").glob("*.jsonl")):
        yield from ({"url": line["url"], "reason": "read/damaged"} for line in iter_lines(file) if line["url"])


def _dropped_files(output_dir: str | Path, step: str) -> list[Path]:
    return sorted(Path(output_dir, "dropped").glob(f"{step}/*.jsonl"))


def iter_lines(file: Path) -> Iterator[dict]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def read_lines(file: Path) -> list[dict]:
    return list(iter_lines(file))


def num_bytes(text: str) -> int:
    return len(utf8(text))

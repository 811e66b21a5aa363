"""WET files and datasets made by hand, and what a filter run over them has left."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from tiny_warc import paragraphs, prose

FETCH = "data_processing/1_fetch_crawl.py"
FILTER = "data_processing/2_filter_pages.py"
DEDUPLICATE = "data_processing/3_deduplicate.py"
BUILD = "data_processing/4_build_corpus.py"
GERMAN = "Der Bäcker hat am Morgen das Brot in den Ofen geschoben, und die Kinder sind zur Schule gegangen. " * 6


def text_of(seed: int) -> str:
    return "\n".join(paragraphs(prose(seed)))


def conversion(url: str, text: str | bytes, length: int | None = None, kind: str | None = "text/plain") -> bytes:
    """A record as Common Crawl's WET files have it; `length` gives it a wrong Content-Length."""
    block = text.encode() if isinstance(text, str) else text
    content_type = f"Content-Type: {kind}\r\n" if kind else ""
    header = (
        f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-11-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:test:{url}>\r\nWARC-Refers-To: <urn:test:html>\r\n"
        f"WARC-Identified-Content-Language: eng\r\n{content_type}"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return header.encode() + block + b"\r\n\r\n"


def conversions(start: int, count: int) -> list[bytes]:
    return [conversion(f"http://site{i % 5}.test/{i}", text_of(i)) for i in range(start, start + count)]


def rows_of(start: int, count: int) -> list[dict]:
    return [
        {"text": text_of(i), "id": f"<urn:{i}>", "url": f"http://site{i % 5}.test/{i}", "date": "2026-11-01T00:00:00Z",
         "language_score": 0.9}
        for i in range(start, start + count)
    ]  # fmt: skip


def lines_of(rows: list) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write_dataset(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        compress = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
        path.write_bytes(compress(lines_of(rows)))
    return path


def kept(folder: Path) -> dict[str, str]:
    rows = [row for file in sorted((folder / "pages").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["url"] or row["id"]: row["text"] for row in rows}


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def fates(folder: Path) -> dict[str, str]:
    return {line["url"]: line["reason"] for line in lines(folder / "fates.jsonl")}


def damaged(folder: Path) -> list[dict]:
    return [line for file in sorted((folder / "damaged").glob("*.jsonl")) for line in lines(file)]


def assert_counts_add_up(folder: Path) -> list[dict]:
    funnel = json.loads((folder / "funnel.json").read_text())
    for step, following in pairwise(funnel):
        assert step["num_in"] == step["num_kept"] + step["num_dropped"]
        assert (step["num_kept"], step["bytes_kept"]) == (following["num_in"], following["bytes_in"])
        assert sum(step["reasons"].values()) == step["num_dropped"]
    assert {"opt_out", "language_gate", "extract"}.isdisjoint(step["step"] for step in funnel)
    return funnel

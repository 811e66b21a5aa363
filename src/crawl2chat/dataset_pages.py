"""Parquet and JSON Lines files of a dataset, as the Hub has them (HuggingFaceFW/fineweb, allenai/c4) -> pages.

datatrove's readers take the same files, but pass over rows without text and lines that are no JSON with a warning, read
every column, and take a cut .zst file for whole. Here each such row is counted and each such line set aside, and a file
that is damaged, cut off or without the column fails its task.

Of a row the text is taken, and `id`, `url`, `date`, `licence` and `opt_out` where it has them.
"""

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from tqdm import tqdm

from crawl2chat.bodies import MAX_PAGE_BYTES
from crawl2chat.pages import DroppedPages, num_bytes
from crawl2chat.reading import Damage, FileReader
from crawl2chat.remote import RemoteFile
from crawl2chat.stage import StageError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
COLUMNS = ("id", "url", "date", "licence", "opt_out")
MAX_LINE_BYTES = 8 * MAX_PAGE_BYTES  # six bytes a character as \u00e9, and the other columns
ROWS_AT_ONCE = 100
NUM_LINES_CHECKED = 100
BUFFER_BYTES = 2**20
NO_JSON = "is no JSON"
URL = re.compile(rb'"url":\s*"([^"\\]+)"')

Row = tuple[str, dict] | tuple[Damage, bytes]  # a row after its name, or a damaged line


class DatasetPages(FileReader):
    """Reads Parquet and JSON Lines files, one a task, and yields a page a row."""

    def __init__(
        self, files: list[Path | RemoteFile], output_dir: str, dropped: DroppedPages, text_column: str = "text"
    ):
        super().__init__(files, output_dir, dropped)
        self.text_column = text_column

    def read_file(self, file: Path | RemoteFile, rank: int) -> Iterator[Document]:
        check_dataset(file, self.text_column)
        read = parquet_rows if is_parquet(file) else json_rows
        for name, row in tqdm(read(file, self.text_column), desc=file.name, unit="row", mininterval=1):
            if isinstance(name, Damage):
                self.set_aside(name, row, file, rank)
                continue
            with self.track_time():
                document, reason = document_of(row, self.text_column, name)
                is_kept = self.is_kept(document, reason, rank)
            if is_kept:
                yield document


def document_of(row: dict, text_column: str, name: str) -> tuple[Document, str]:
    """The page of a row, and why it is none."""
    values, text = {column: _plain(row.get(column)) for column in COLUMNS}, row.get(text_column)
    document = Document(text="", id=values.pop("id") or name, metadata=values)
    if text is None or not text.strip():
        return document, "empty"
    if num_bytes(text) > MAX_PAGE_BYTES:
        return document, "too_large"
    document.text = text
    return document, ""


def _plain(value: Any) -> str:
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    return "" if value is None else str(value)


def is_parquet(file: Path | RemoteFile) -> bool:
    return file.name.endswith(".parquet")


def check_dataset(file: Path | RemoteFile, text_column: str) -> None:
    """Reads the columns of a file.

    Raises:
        StageError: it is empty, cannot be read, or has no text in `text_column`.
    """
    if is_parquet(file):
        with _open(file) as stream, _readable(file):
            schema = pq.ParquetFile(stream).schema_arrow
        names, is_text = schema.names, [field.name for field in schema if _is_text(field.type)]
        if text_column in names and text_column not in is_text:
            raise StageError(
                f"{file} has {schema.field(text_column).type} in column `{text_column}`, not text; name the column with the "
                f"text by --text_column. Text is in {_listed(is_text)}."
            )
    else:
        lines = [row for name, row in islice(json_rows(file), NUM_LINES_CHECKED)]
        rows = [row for row in lines if isinstance(row, dict)]
        if lines and not rows:
            raise StageError(
                f"{file} holds no JSON object in its first {len(lines)} lines; name files with one object a line."
            )
        names = list(dict.fromkeys(name for row in rows for name in row)) if lines else [text_column]
    if text_column not in names:
        raise StageError(
            f"{file} has no column `{text_column}`; name the column with the text by --text_column. It has "
            f"{_listed(names)}."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def parquet_rows(file: Path | RemoteFile, text_column: str) -> Iterator[Row]:
    """The rows of a Parquet file.

    Raises:
        StageError: it is damaged.
    """
    with _open(file) as stream, _readable(file):
        # Buffered, as else each column of a row group is read whole.
        table = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
        columns, number = [name for name in (text_column, *COLUMNS) if name in table.schema_arrow.names], 0
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                yield f"{file.name}:{number}", row
                number += 1


def json_rows(file: Path | RemoteFile, text_column: str | None = None) -> Iterator[Row]:
    """The rows of a JSON Lines file, and its lines that are none; blank lines are passed over.

    Raises:
        StageError: the file is empty, or it is damaged or cut off within.
    """
    with _readable(file), _open_lines(file) as stream:
        offset = number = 0
        while line := stream.readline(MAX_LINE_BYTES):
            start, number, size, is_cut = offset, number + 1, len(line), not line.endswith(b"\n")
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            while is_cut and (more := stream.readline(MAX_LINE_BYTES)):
                size, is_cut = size + len(more), not more.endswith(b"\n")
            offset += size
            if not line.strip():
                continue
            row, reason = _row_of(line, text_column) if size <= MAX_LINE_BYTES else (None, "is too long")
            if row is not None:
                yield f"{file.name}:{number - 1}", row
            elif is_cut and reason.startswith(NO_JSON):
                raise StageError(f"{file} is cut off: its last line, {number}, is not whole. Fetch the file again.")
            else:
                url = URL.search(line)
                url = url[1].decode("utf-8", "replace") if url else ""
                yield Damage(start, f"line {number} {reason}", size, url), line
        if not number and not _compression(file):
            raise StageError(f"{file} is empty; fetch it again, or delete it.")


def _row_of(line: bytes, text_column: str | None) -> tuple[dict | None, str]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return None, f"{NO_JSON} ({error})"
    if not isinstance(row, dict):
        return None, f"is a JSON {type(row).__name__}, no object"
    text = row.get(text_column)
    if text is not None and not isinstance(text, str):
        return None, f"has a {type(text).__name__} in `{text_column}`, not text"
    return row, ""


def _compression(file: Path | RemoteFile) -> str | None:
    return COMPRESSIONS.get(Path(file.name).suffix)


def _open(file: Path | RemoteFile) -> BinaryIO:
    return file.open("rb") if isinstance(file, Path) else file.open()


@contextmanager
def _open_lines(file: Path | RemoteFile) -> Iterator[BinaryIO]:
    """The file's bytes, inflated by its name's ending. Arrow's stream notices where a compressed file is cut off."""
    with _open(file) as raw:
        compression = _compression(file)
        stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), compression) if compression else raw
        with io.BufferedReader(stream, BUFFER_BYTES) as lines:
            yield lines


@contextmanager
def _readable(file: Path | RemoteFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StageError(
            f"{file} cannot be read to its end ({reason}): it is damaged, cut off, or no such file as its name says; "
            "fetch it again."
        ) from error

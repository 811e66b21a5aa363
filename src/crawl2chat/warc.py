"""WARC and WET files -> pages, with every damaged record counted, located and kept aside.

datatrove's reader and fastwarc's iterator end at the first damaged byte: a cut file passes for complete, a flipped bit
costs the rest of the file, and a small compressed body may grow to gigabytes. Here the framing is done on the file's
bytes: a record is taken only if it is whole, reading goes on at the next record (in .gz, the next member `1f 8b 08`
that inflates to `WARC/1.`), and nothing is inflated past a bound. fastwarc parses the headers of the whole records.

A WET file is a WARC file with the plain text that Common Crawl took out of the pages: UTF-8, in records of type
`conversion`, menus and footers included (https://commoncrawl.org/blog/web-archiving-file-formats-explained).

The format: https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
"""

import io
import mmap
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from datatrove.data import Document
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from isal import isal_zlib  # twice as fast as zlib
from tqdm import tqdm

from crawl2chat.bodies import GZIP_MAGIC, MAX_PAGE_BYTES, TooLarge, decode_body, decode_text
from crawl2chat.reading import MAX_SET_ASIDE_BYTES, Damage, FileReader
from crawl2chat.stage import StageError

MAX_RECORD_BYTES = 256 * 2**20  # as stored; Common Crawl truncates at 1 MiB (5 MiB since 2025)
RELEASED_BYTES = 16 * 2**20  # of the file, at a time
MAX_HEADER_BYTES = 64 * 2**10
RECORD_START = b"WARC/1."
RECORD_END = b"\r\n\r\n"
NUM_RECORDS_CHECKED = 20  # for their type; before the first page stand a warcinfo and a request
MAX_UNDECODED = 0.05  # of a page's characters
PAGE_TYPES = WarcRecordType.response, WarcRecordType.conversion  # of WARC and of WET files
TARGET_URI = re.compile(rb"^WARC-Target-URI:\s*(\S+)", re.IGNORECASE | re.MULTILINE)


class _Broken(Exception):
    """There is no whole record here. `in_frame`: what comes later in the same stream is still readable."""

    def __init__(self, reason: str, in_frame: bool = True, out_of_data: bool = False):
        super().__init__(reason)
        self.reason, self.in_frame, self.out_of_data = reason, in_frame, out_of_data


class _Stream:
    """The bytes of one gzip member, or of a whole uncompressed file, inflated only as far as asked for."""

    def __init__(self, data: mmap.mmap | bytes, offset: int):
        self.data, self.position = data, offset  # `position`: how far the file was read
        self.inflater = isal_zlib.decompressobj(31) if data[offset : offset + 2] == GZIP_MAGIC[:2] else None
        self.buffer = b""
        self.ended = False

    def peek(self, num_bytes: int) -> bytes:
        """At least the next `num_bytes`, or what is left. Nothing is taken."""
        pieces, size = [self.buffer], len(self.buffer)
        try:
            while size < num_bytes and not self.ended:
                piece = self._more(num_bytes - size)
                pieces.append(piece)
                size += len(piece)
        finally:
            self.buffer = b"".join(pieces)
        return self.buffer

    def _more(self, num_bytes: int) -> bytes:
        chunk = self.data[self.position : self.position + 2**16]
        if self.inflater is None:
            self.position += len(chunk)
            self.ended = not chunk
            return chunk
        if not chunk:
            raise _Broken("the gzip member is cut off", in_frame=False, out_of_data=True)
        try:
            piece = self.inflater.decompress(chunk, max(num_bytes, 2**16))
        except isal_zlib.error as error:
            raise _Broken(f"the gzip member is damaged ({error})", in_frame=False) from error
        self.ended = self.inflater.eof
        self.position += len(chunk) - len(self.inflater.unused_data if self.ended else self.inflater.unconsumed_tail)
        return piece

    def take(self, num_bytes: int) -> bytes:
        taken, self.buffer = self.buffer[:num_bytes], self.buffer[num_bytes:]
        return taken

    def skip_to_record(self) -> bool:
        """Drops what comes before the next `WARC/1.` at the start of a line; False if there is none."""
        self.take(1)
        while self.peek(2**20):
            found = self.buffer.find(b"\n" + RECORD_START)
            if found >= 0:
                self.take(found + 1)
                return True
            if self.ended:
                break
            self.take(len(self.buffer) - len(RECORD_START))
        self.buffer = b""
        return False


def read_records(data: mmap.mmap | bytes, offset: int = 0) -> Iterator[tuple[int, WarcRecord] | Damage]:
    """Every whole record of a WARC file with its offset, and every stretch between them as `Damage`."""
    while offset < len(data):
        stream, start = _Stream(data, offset), offset
        try:
            while stream.peek(1):
                start = offset if stream.inflater else stream.position - len(stream.buffer)
                try:
                    record = _take_record(stream)
                except _Broken as broken:
                    if not broken.in_frame:
                        raise
                    url = _url_in(stream.buffer)
                    more = stream.skip_to_record()
                    end = stream.position - len(stream.buffer) if not stream.inflater else stream.position
                    cut = broken.out_of_data and not more and not stream.inflater
                    yield Damage(start, broken.reason, end - start, url, at_end=cut)
                else:
                    yield start, record
            offset = stream.position
        except _Broken as broken:
            url, offset = _url_in(_readable_start(data, start)), _next_member(data, start + 1)
            at_end = offset == len(data) and broken.out_of_data
            yield Damage(start, broken.reason, offset - start, url, at_end)


def _take_record(stream: _Stream) -> WarcRecord:
    header, _, _ = stream.peek(2**10).partition(RECORD_END)
    if not header.startswith(RECORD_START):
        raise _Broken("it does not start with WARC/1.", out_of_data=stream.ended and len(header) < 2**10)
    if len(header) == len(stream.buffer):
        header, end, _ = stream.peek(MAX_HEADER_BYTES).partition(RECORD_END)
        if not end:
            raise _Broken("its header does not end", out_of_data=stream.ended)
    length = re.search(rb"^Content-Length:\s*(\d{1,18})\s*$", header, re.IGNORECASE | re.MULTILINE)
    if not length:
        raise _Broken("it has no Content-Length")
    size = len(header) + len(RECORD_END) + int(length[1])
    if size > MAX_RECORD_BYTES:
        raise _Broken(f"its Content-Length, {int(length[1])}, is more than {MAX_RECORD_BYTES}")
    found = stream.peek(size + len(RECORD_END))
    if len(found) < size:
        raise _Broken(
            f"its Content-Length is {int(length[1])}, but it ends {size - len(found)} bytes before", True, True
        )
    if found[size : size + len(RECORD_END)] not in (RECORD_END, b""):
        raise _Broken(f"its Content-Length is {int(length[1])}, but it goes on after that")
    if stream.inflater:
        stream.peek(size + len(RECORD_END) + 1)  # to the member's end, where its checksum is
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(found[:size] + RECORD_END), parse_http=True)))
        record.freeze()
    except Exception as error:  # fastwarc raises errors of several kinds
        raise _Broken(f"its headers cannot be parsed ({error})") from error
    stream.take(size + len(RECORD_END))
    return record


def _next_member(data: mmap.mmap | bytes, offset: int) -> int:
    """Where the next gzip member with a WARC record starts, or the end of the data."""
    while (offset := data.find(GZIP_MAGIC, offset)) >= 0:
        if _starts_record(data, offset):
            return offset
        offset += 1
    return len(data)


def _starts_record(data: mmap.mmap | bytes, offset: int) -> bool:
    try:
        return _Stream(data, offset).peek(len(RECORD_START)).startswith(RECORD_START)
    except _Broken:
        return False


def _readable_start(data: mmap.mmap | bytes, offset: int) -> bytes:
    """What a damaged gzip member gives before the damage, or before a kilobyte or two."""
    inflater, start = isal_zlib.decompressobj(31), b""
    try:
        for position in range(offset, offset + 2**10, 32):
            start += inflater.decompress(data[position : position + 32])
    except isal_zlib.error:
        pass
    return start


def _url_in(header: bytes) -> str:
    url = TARGET_URI.search(header[:MAX_HEADER_BYTES])
    return url[1].decode("utf-8", "replace").strip("<>") if url else ""


def map_file(path: str | Path) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_warc(path: Path, allow_damaged: bool, is_wet: bool = False) -> None:
    """Reads a file's first whole records and its last one.

    Raises:
        StageError: it is empty, no WARC, has not one whole record, is a WET file or a WARC file instead, or is cut off
            (unless `allow_damaged`).
    """
    if path.stat().st_size == 0:
        raise StageError(f"{path} is empty; fetch it again.")
    data = map_file(path)
    if not _starts_record(data, 0):
        gzipped = data[:3] == GZIP_MAGIC
        if not gzipped or _next_member(data, 1) == len(data):
            start = (
                "gzip, but holds no WARC record" if gzipped else f"starts with {bytes(data[:8])!r}, not with WARC/1."
            )
            raise StageError(f"{path} is no WARC file ({start}); name files in WARC format, gzipped or not.")
    records = (item[1] for item in read_records(data) if isinstance(item, tuple))
    types = [record.record_type for record in islice(records, NUM_RECORDS_CHECKED)]
    if not types:
        raise StageError(f"{path} holds not one readable WARC record; fetch it again.")
    expected, other = PAGE_TYPES[is_wet], PAGE_TYPES[not is_wet]
    if other in types and expected not in types:
        what, name = ("HTML (WARC", ".warc.gz") if is_wet else ("plain text (WET", ".warc.wet.gz")
        raise StageError(f"{path} holds {what}), which its name does not say; rename it to end in {name}.")
    if allow_damaged:
        return

    last = data.rfind(GZIP_MAGIC if data[:3] == GZIP_MAGIC else b"\n" + RECORD_START)
    while last > 0 and data[:3] == GZIP_MAGIC and not _starts_record(data, last):
        last = data.rfind(GZIP_MAGIC, 0, last)
    last = max(last, 0) + (data[:3] != GZIP_MAGIC and last > 0)
    for item in read_records(data, last):
        if isinstance(item, Damage) and item.at_end:
            raise StageError(
                f"{path} is cut off: its last record, at byte {item.offset} of {len(data)}, is not whole. Fetch the file "
                "again, or keep the whole records with --allow_damaged true."
            )


class WarcPages(FileReader):
    """Reads WARC files, one a task, and yields the HTML pages that were answered with status 200.

    The document's text is the decoded HTML.
    """

    is_wet = False

    def read_file(self, file: Path, rank: int) -> Iterator[Document]:
        check_warc(file, self.allow_damaged, self.is_wet)
        data, released = map_file(file), 0
        with tqdm(total=len(data), desc=file.name, unit="B", unit_scale=True, mininterval=1) as progress:
            for item in read_records(data):
                if isinstance(item, Damage):
                    length = min(item.length, MAX_SET_ASIDE_BYTES)
                    self.set_aside(item, data[item.offset : item.offset + length], file, rank)
                    continue
                offset, record = item
                progress.update(offset - progress.n)
                # What was read counts as this process's memory until it lets go.
                if offset - released > RELEASED_BYTES:
                    data.madvise(mmap.MADV_DONTNEED, released, RELEASED_BYTES)
                    released += RELEASED_BYTES
                if record.record_type != PAGE_TYPES[self.is_wet]:
                    continue
                with self.track_time():
                    document, reason, damage = self.page_of(record, f"{file.name}:{offset}")
                    is_kept = self.is_kept(document, reason, rank, is_set_aside=bool(damage))
                if damage:
                    self.set_aside(Damage(offset, damage, url=document.metadata["url"]), b"", file, rank)
                if is_kept:
                    yield document

    def page_of(self, record: WarcRecord, name: str) -> tuple[Document, str, str]:
        return page_of(record, name)


class WetPages(WarcPages):
    """Reads WET files, one a task, and yields their pages; the document's text is the record's."""

    is_wet = True

    def page_of(self, record: WarcRecord, name: str) -> tuple[Document, str, str]:
        return (*wet_page_of(record, name), "")


def _document_of(record: WarcRecord, name: str) -> Document:
    url, date = (record.headers.get("WARC-Target-URI") or "").strip("<>"), record.headers.get("WARC-Date") or ""
    return Document(text="", id=record.record_id or name, metadata={"url": url, "date": date})


def page_of(record: WarcRecord, name: str) -> tuple[Document, str, str]:
    """The page of a response record; why it is none; and what is damaged in it."""
    document = _document_of(record, name)
    http = record.http_headers
    if http is None or http.status_code is None:
        return document, "no_http", ""
    if http.status_code != 200:
        return document, f"status_{http.status_code}", ""
    body, content_type = record.reader.read(), (http.get("Content-Type") or "").lower()
    if content_type and not re.match(r"\s*(text/html|application/xhtml\+xml)", content_type):
        return document, "not_html", ""
    try:
        body = decode_body(body, http.get("Transfer-Encoding") or "", http.get("Content-Encoding") or "")
    except TooLarge:
        return document, "too_large", ""
    except ValueError as error:
        return document, "damaged_body", f"its body cannot be decoded ({error})"
    if not content_type and b"<html" not in body[:2048].lower():
        return document, "not_html", ""
    if not body.strip():
        return document, "empty", ""
    document.text = decode_text(body, content_type)
    if document.text.count("\ufffd") > MAX_UNDECODED * len(document.text):
        return document, "undecodable", ""
    # What a page's headers say on its use, for the opt-out filter.
    document.metadata["robots"] = "\n".join(http.get_multiple("X-Robots-Tag"))
    document.metadata["tdm_reservation"] = http.get("tdm-reservation") or ""
    return document, "", ""


def wet_page_of(record: WarcRecord, name: str) -> tuple[Document, str]:
    """The page of a conversion record, and why it is none."""
    document = _document_of(record, name)
    if not (record.headers.get("Content-Type") or "text/plain").lower().startswith("text/plain"):
        return document, "not_text"
    if record.content_length > MAX_PAGE_BYTES:
        return document, "too_large"
    text = record.reader.read().decode("utf-8", "replace")
    if not text.strip():
        return document, "empty"
    document.text = text
    return document, "undecodable" if text.count("\ufffd") > MAX_UNDECODED * len(text) else ""

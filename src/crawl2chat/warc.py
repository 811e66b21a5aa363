"""WARC files -> pages, with every damaged record counted, located and kept aside.

datatrove's reader and fastwarc's iterator end at the first damaged byte: a cut file passes for complete, a flipped bit
costs the rest of the file, and a small compressed body may grow to gigabytes. Here the framing is done on the file's
bytes: a record is taken only if it is whole, reading goes on at the next record (in .gz, the next member `1f 8b 08`
that inflates to `WARC/1.`), and nothing is inflated past a bound. fastwarc parses the headers of the whole records.

The format: https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
"""

import codecs
import glob
import io
import json
import mmap
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import brotli
import zstandard
from charset_normalizer import from_bytes
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from tqdm import tqdm

from crawl2chat.executors import WholeFiles
from crawl2chat.pages import DroppedPages, num_bytes
from crawl2chat.stage import StageError

MAX_RECORD_BYTES = 256 * 2**20  # as stored; Common Crawl truncates at 1 MiB (5 MiB since 2025)
MAX_PAGE_BYTES = 8 * 2**20  # after inflation
RELEASED_BYTES = 16 * 2**20  # of the file, at a time
MAX_HEADER_BYTES = 64 * 2**10
GZIP_MAGIC = b"\x1f\x8b\x08"
RECORD_START = b"WARC/1."
RECORD_END = b"\r\n\r\n"
STEP = "read"
# What a label means to browsers: https://encoding.spec.whatwg.org/#names-and-labels
CHARSETS = {
    "iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
    "iso8859-1": "cp1252", "iso-8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932",
    "shift-jis": "cp932", "x-sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "tis-620": "cp874",
}  # fmt: skip
META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
TARGET_URI = re.compile(rb"^WARC-Target-URI:\s*(\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass
class Damage:
    """A stretch of a file that holds no whole record."""

    offset: int  # where it starts in the file
    reason: str
    length: int = 0  # up to the next record that was found
    url: str = ""  # if it could still be read
    at_end: bool = False  # the file ends within it: it was cut off


class _Broken(Exception):
    """There is no whole record here. `in_frame`: what comes later in the same stream is still readable."""

    def __init__(self, reason: str, in_frame: bool = True, out_of_data: bool = False):
        super().__init__(reason)
        self.reason, self.in_frame, self.out_of_data = reason, in_frame, out_of_data


class _Stream:
    """The bytes of one gzip member, or of a whole uncompressed file, inflated only as far as asked for."""

    def __init__(self, data: mmap.mmap | bytes, offset: int):
        self.data, self.position = data, offset  # `position`: how far the file was read
        self.inflater = zlib.decompressobj(31) if data[offset : offset + 2] == GZIP_MAGIC[:2] else None
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
        except zlib.error as error:
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
    inflater, start = zlib.decompressobj(31), b""
    try:
        for position in range(offset, offset + 2**10, 32):
            start += inflater.decompress(data[position : position + 32])
    except zlib.error:
        pass
    return start


def _url_in(header: bytes) -> str:
    url = TARGET_URI.search(header[:MAX_HEADER_BYTES])
    return url[1].decode("utf-8", "replace").strip("<>") if url else ""


def map_file(path: str | Path) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def warc_files(warc: str) -> list[Path]:
    """The files that `warc` names: a file, a glob, or a folder searched for *.warc.gz and *.warc; sorted."""
    path = Path(warc)
    if path.is_dir():
        return sorted([*path.rglob("*.warc.gz"), *path.rglob("*.warc")])
    if path.is_file():
        return [path]
    return sorted(Path(name) for name in glob.glob(warc, recursive=True) if Path(name).is_file())


def check_warc(path: Path, allow_damaged: bool) -> None:
    """Reads a file's first whole record and its last one.

    Raises:
        StageError: it is empty, no WARC, has not one whole record, or is cut off (unless `allow_damaged`).
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
    if not any(isinstance(item, tuple) for item in read_records(data)):
        raise StageError(f"{path} holds not one readable WARC record; fetch it again.")
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


class WarcPages(PipelineStep):
    """Reads WARC files, one a task, and yields the HTML pages that were answered with status 200.

    The document's text is the decoded HTML. What is no page goes to `dropped`; what is damaged to `damaged/`: one line a
    stretch in `<rank>.jsonl` and its first MiB in `<rank>.bin`.
    """

    type, name = "📖 - READER", STEP

    def __init__(self, files: list[Path], output_dir: str, dropped: DroppedPages, allow_damaged: bool = False):
        super().__init__()
        self.files, self.dropped, self.allow_damaged = files, dropped, allow_damaged
        self.damaged = WholeFiles(Path(output_dir, "damaged"))

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with self.dropped.of_task(rank), self.damaged.of_task(f"{rank:05d}.jsonl", f"{rank:05d}.bin"):
            for file in self.files[rank::world_size]:
                check_warc(file, self.allow_damaged)
                yield from self.read_file(file, rank)

    def read_file(self, file: Path, rank: int) -> Iterator[Document]:
        data, released = map_file(file), 0
        with tqdm(total=len(data), desc=file.name, unit="B", unit_scale=True, mininterval=1) as progress:
            for item in read_records(data):
                if isinstance(item, Damage):
                    self.set_aside(item, data, file, rank)
                    continue
                offset, record = item
                progress.update(offset - progress.n)
                if (
                    offset - released > RELEASED_BYTES
                ):  # what was read counts as this process's memory until it lets go
                    data.madvise(mmap.MADV_DONTNEED, released, RELEASED_BYTES)
                    released += RELEASED_BYTES
                if record.record_type != WarcRecordType.response:
                    continue
                with self.track_time():
                    self.stat_update("num_in")
                    document, reason, damage = page_of(record, f"{file.name}:{offset}")
                    self.stat_update("bytes_in", value=num_bytes(document.text))
                if damage:
                    self.stat_update("num_dropped", f"dropped_{reason}")
                    self.set_aside(Damage(offset, damage, url=document.metadata["url"]), data, file, rank)
                elif reason:
                    self.stat_update("num_dropped", f"dropped_{reason}")
                    self.dropped.write(document, rank, reason=f"{STEP}/{reason}")
                else:
                    self.stat_update("num_kept")
                    self.stat_update("bytes_kept", value=num_bytes(document.text))
                    yield document

    def set_aside(self, damage: Damage, data: mmap.mmap, file: Path, rank: int) -> None:
        self.stat_update("damaged")
        if damage.at_end:
            self.stat_update("cut_off")
        line = json.dumps({"file": file.name, **vars(damage)}, ensure_ascii=False) + "\n"
        self.damaged.write(f"{rank:05d}.jsonl", line.encode())
        self.damaged.write(f"{rank:05d}.bin", data[damage.offset : damage.offset + min(damage.length, 2**20)])


def page_of(record: WarcRecord, name: str) -> tuple[Document, str, str]:
    """The page of a response record; why it is none; and what is damaged in it."""
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    document = Document(text="", id=record.record_id or name, metadata={"url": url, "date": ""})
    document.metadata["date"] = record.headers.get("WARC-Date") or ""
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
    if document.text.count("\ufffd") > 0.05 * len(document.text):
        return document, "undecodable", ""
    # What a page's headers say on its use, for the opt-out filter.
    document.metadata["robots"] = "\n".join(http.get_multiple("X-Robots-Tag"))
    document.metadata["tdm_reservation"] = http.get("tdm-reservation") or ""
    return document, "", ""


class TooLarge(Exception):
    """The body grows past `MAX_PAGE_BYTES`."""


def decode_body(body: bytes, transfer_encoding: str, content_encoding: str) -> bytes:
    """Undoes chunks and compression, never past `MAX_PAGE_BYTES`.

    Archives often store the decoded body under the original headers, so a body that does not look encoded is taken as
    it is.

    Raises:
        TooLarge: it would grow past the bound.
        ValueError: it is damaged.
    """
    if "chunked" in transfer_encoding.lower() and re.match(rb"[0-9a-fA-F]{1,8}[ \t]*(;[^\r\n]*)?\r?\n", body):
        body = _unchunk(body)
    for encoding in reversed([part.strip().lower() for part in content_encoding.split(",")]):
        if encoding in ("gzip", "x-gzip") and body[:2] == GZIP_MAGIC[:2]:
            body = _inflate(body, 31)
        elif encoding == "deflate" and not _looks_plain(body):
            zlib_wrapped = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
            body = _inflate(body, 15 if zlib_wrapped else -15)
        elif encoding == "br" and not _looks_plain(body):
            body = _unbrotli(body)
        elif encoding == "zstd" and body[:4] == b"\x28\xb5\x2f\xfd":
            body = _unzstd(body)
    if len(body) > MAX_PAGE_BYTES:
        raise TooLarge
    return body


def _looks_plain(body: bytes) -> bool:
    return body[:64].lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"<")


def _unchunk(body: bytes) -> bytes:
    chunks, position = [], 0
    while True:
        line_end = body.find(b"\n", position)
        size = body[position:line_end].split(b";")[0].strip() if line_end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            raise ValueError(f"no chunk size at byte {position}")
        position, size = line_end + 1, int(size, 16)
        if size == 0:
            return b"".join(chunks)
        if position + size > len(body):
            raise ValueError("its last chunk is cut off")
        chunks.append(body[position : position + size])
        position += size
        position += 2 if body[position : position + 2] == b"\r\n" else 1


def _inflate(body: bytes, wbits: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        page = inflater.decompress(body, MAX_PAGE_BYTES + 1)
    except zlib.error as error:
        raise ValueError(error) from error
    if len(page) > MAX_PAGE_BYTES:
        raise TooLarge
    if not inflater.eof:
        raise ValueError("the compressed body is cut off")
    return page


def _unbrotli(body: bytes) -> bytes:
    inflater = brotli.Decompressor()
    try:
        page = inflater.process(body, output_buffer_limit=MAX_PAGE_BYTES + 1)
    except brotli.error as error:
        raise ValueError(error) from error
    if len(page) > MAX_PAGE_BYTES or not inflater.can_accept_more_data():
        raise TooLarge
    if not inflater.is_finished():
        raise ValueError("the compressed body is cut off")
    return page


def _unzstd(body: bytes) -> bytes:
    inflater = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(body, read_across_frames=True)
    try:
        page = inflater.read(MAX_PAGE_BYTES + 1)
    except zstandard.ZstdError as error:
        raise ValueError(error) from error
    if len(page) > MAX_PAGE_BYTES:
        raise TooLarge
    if len(page) < zstandard.frame_content_size(body):
        raise ValueError("the compressed body is cut off")
    return page


def decode_text(body: bytes, content_type: str) -> str:
    """Text by byte order mark, else UTF-8 if it is valid UTF-8, else as declared by header or meta, else as detected.

    Departs from the WHATWG order: pages that are valid UTF-8 but declare something else are far more often wrong in
    the declaration than in the bytes. Seven-bit encodings, which are always valid UTF-8, keep the declared order.
    """
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if body.startswith(mark):
            return body.decode(encoding, "replace").lstrip("\ufeff")
    declared = re.findall(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type)
    declared += [name.decode("ascii") for name in META_CHARSET.findall(body[:4096])]
    declared = [CHARSETS.get(name.lower(), name.lower()) for name in declared if _is_charset(name)]
    stateful = [name for name in declared if name.startswith(("iso-2022", "hz", "utf-16", "utf-7"))]
    for encoding in [*stateful, "utf-8", *declared]:
        try:
            return body.decode(encoding)
        except UnicodeError:
            continue
    if declared:  # a few bad bytes
        text = body.decode(declared[0], "replace")
        if text.count("\ufffd") < 0.01 * len(text):
            return text
    guess = from_bytes(body[:20_000]).best()
    return body.decode(guess.encoding if guess else "cp1252", "replace")


def _is_charset(name: str | bytes) -> bool:
    name = name.decode("ascii") if isinstance(name, bytes) else name
    try:
        "".encode(CHARSETS.get(name.lower(), name))
        return codecs.lookup(CHARSETS.get(name.lower(), name))._is_text_encoding
    except LookupError:
        return False

"""The body of an HTTP response -> text: chunks and compression undone, never past a bound, and the charset found."""

import codecs
import re
import zlib

import brotli
import zstandard
from charset_normalizer import from_bytes

from crawl2chat.html import utf8

MAX_PAGE_BYTES = 8 * 2**20  # after inflation
GZIP_MAGIC = b"\x1f\x8b\x08"
# What a label means to browsers: https://encoding.spec.whatwg.org/#names-and-labels
CHARSETS = {
    "iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
    "iso8859-1": "cp1252", "iso-8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932",
    "shift-jis": "cp932", "x-sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "tis-620": "cp874",
}  # fmt: skip
META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


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
            text = body.decode(encoding)
        except UnicodeError:
            continue
        if encoding == "utf-8":
            utf8.remember(text, body)
        return text
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

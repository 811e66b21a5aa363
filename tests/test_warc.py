"""Reading WARC files, whole and damaged.

pytest tests/test_warc.py
"""

import gzip
import os
import re
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from tiny_warc import info, member, page, prose, record

from crawl2chat.bodies import MAX_PAGE_BYTES, TooLarge, decode_body, decode_text
from crawl2chat.pages import DroppedPages
from crawl2chat.reading import Damage
from crawl2chat.stage import StageError
from crawl2chat.warc import WarcPages, check_warc, page_of, read_records

URLS = [f"http://site{i}.test/" for i in range(6)]
RECORDS = [record(url, page(prose(i))) for i, url in enumerate(URLS)]
MEMBERS = [member(data) for data in [info(), *RECORDS]]


def read(data: bytes) -> tuple[list[str], list[Damage]]:
    items = list(read_records(data))
    urls = [item[1].headers.get("WARC-Target-URI") for item in items if isinstance(item, tuple)]
    return [url for url in urls if url], [item for item in items if isinstance(item, Damage)]


@pytest.mark.parametrize(
    "data",
    [b"".join(MEMBERS), info() + b"".join(RECORDS), member(info() + b"".join(RECORDS))],
    ids=["a member a record", "uncompressed", "one member"],
)
def test_every_record_is_read(data):
    assert read(data) == (URLS, [])


def test_reading_goes_on_after_a_cut_member():
    members = list(MEMBERS)
    members[3] = members[3][: len(members[3]) // 2]
    urls, [damage] = read(b"".join(members))
    assert urls == URLS[:2] + URLS[3:]
    assert damage.offset == sum(map(len, members[:3])) and damage.length == len(members[3])
    assert not damage.at_end


def test_reading_goes_on_after_a_flipped_bit():
    members = list(MEMBERS)
    middle = len(members[2]) // 2
    members[2] = members[2][:middle] + bytes([members[2][middle] ^ 4]) + members[2][middle + 1 :]
    urls, [damage] = read(b"".join(members))
    assert urls == URLS[:1] + URLS[2:] and "damaged" in damage.reason


def test_reading_goes_on_after_garbage_between_members():
    urls, [damage] = read(b"".join([*MEMBERS[:4], b"\x1f\x8b\x08 no gzip at all" * 9, *MEMBERS[4:]]))
    assert urls == URLS and not damage.at_end


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("error", [-30, 30, 100_000])
def test_wrong_content_length_costs_one_record(error, compressed):
    records = list(RECORDS)
    right = int(records[2].split(b"Content-Length: ")[1].split(b"\r\n")[0])
    records[2] = record(URLS[2], page(prose(2)), length=right + error)
    urls, damages = read(b"".join(map(member, records)) if compressed else b"".join(records))
    assert urls == URLS[:2] + URLS[3:]
    assert [damage.url for damage in damages] == [URLS[2]] and not damages[0].at_end


def test_content_length_absent():
    bad = RECORDS[1].replace(b"Content-Length: ", b"Content-Size: ")
    urls, [damage] = read(b"".join(map(member, [RECORDS[0], bad, RECORDS[2]])))
    assert urls == [URLS[0], URLS[2]] and "no Content-Length" in damage.reason


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("left", [1, 5, 19, 300, -9, -1])
def test_cut_off_end_is_noticed(compressed, left, tmp_path):
    """At whatever byte of the last record the file ends."""
    parts = MEMBERS if compressed else [info(), *RECORDS]
    start = sum(map(len, parts[:-1]))
    data = b"".join(parts)[: start + left if left > 0 else left]
    if not compressed and left == -1:
        data = data[:-40]  # the last newline of a file is no loss
    urls, damages = read(data)
    assert urls == URLS[:-1]
    assert damages[-1].at_end and damages[-1].offset == start
    file = tmp_path / "cut.warc"
    file.write_bytes(data)
    with pytest.raises(StageError, match=rf"cut.warc is cut off: .* at byte {start} "):
        check_warc(file, allow_damaged=False)
    check_warc(file, allow_damaged=True)


def test_damage_within_a_file_is_not_refused(tmp_path):
    file = tmp_path / "a.warc.gz"
    file.write_bytes(b"".join([*MEMBERS[:3], MEMBERS[3][:200], *MEMBERS[4:]]))
    check_warc(file, allow_damaged=False)


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"", "is empty"),
        (b"<html>no crawl</html>", "starts with b'<html>no'"),
        (gzip.compress(b"a text"), "gzip, but holds no WARC record"),
        (bytes(1000), "is no WARC file"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n\r\n", "not one readable WARC record"),
    ],
)
def test_what_is_no_warc_is_refused(data, complaint, tmp_path):
    file = tmp_path / "x.warc.gz"
    file.write_bytes(data)
    with pytest.raises(StageError, match=complaint):
        check_warc(file, allow_damaged=True)


HTML = page(prose(1)).encode()
RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATED = RAW_DEFLATE.compress(HTML) + RAW_DEFLATE.flush()
CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(HTML[i : i + 100]), HTML[i : i + 100]) for i in range(0, len(HTML), 100))


@pytest.mark.parametrize(
    "body, transfer, content",
    [
        (HTML, "", ""),
        (CHUNKED + b"0\r\n\r\n", "chunked", ""),
        (gzip.compress(HTML), "", "gzip"),
        (zlib.compress(HTML), "", "deflate"),
        (RAW_DEFLATED, "", "deflate"),
        (brotli.compress(HTML), "", "br"),
        (zstandard.compress(HTML), "", "zstd"),
        (brotli.compress(gzip.compress(HTML)), "", "gzip, br"),
        (HTML, "chunked", "gzip"),  # decoded by the crawler, under the original headers
        (HTML, "", "br"),
    ],
)
def test_bodies(body, transfer, content):
    assert decode_body(body, transfer, content) == HTML


@pytest.mark.parametrize(
    "body, transfer, content",
    [
        (CHUNKED[:500], "chunked", ""),
        (gzip.compress(HTML)[:-20], "", "gzip"),
        (brotli.compress(HTML)[:-20], "", "br"),
        (zstandard.compress(HTML)[:-20], "", "zstd"),
        (b"\x8b\x03 not brotli", "", "br"),
    ],
)
def test_damaged_bodies_are_not_taken_for_whole(body, transfer, content):
    with pytest.raises(ValueError):
        decode_body(body, transfer, content)


@pytest.mark.parametrize(
    "compress, name", [(gzip.compress, "gzip"), (brotli.compress, "br"), (zstandard.compress, "zstd")]
)
def test_bombs_are_bounded(compress, name):
    bomb = compress(bytes(MAX_PAGE_BYTES * 4))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge):
        decode_body(bomb, "", name)


@pytest.mark.parametrize(
    "encoding, header, meta",
    [
        ("utf-8", "utf-8", ""),
        ("utf-8", "iso-8859-1", ""),  # wrongly declared
        ("cp1252", "iso-8859-1", ""),
        ("cp1252", "", "windows-1252"),
        ("utf-8-sig", "", ""),
        ("utf-16", "", ""),
        ("iso-8859-15", "iso-8859-15", ""),
        ("cp1252", "no-such-charset", "iso-8859-1"),
        ("cp1252", "", ""),
    ],
)
def test_charsets(encoding, header, meta):
    text = (
        f"<html><meta charset='{meta}'><p>Das Mädchen aß in Köln fünf süße Äpfel, und der Bär schlief über Nacht.</p>"
        * 3
    )
    assert decode_text(text.encode(encoding), f"text/html; charset={header}") == text


@pytest.mark.parametrize(
    "encoding, label", [("cp932", "Shift_JIS"), ("gb18030", "gb2312"), ("iso2022_jp", "iso-2022-jp")]
)
def test_asian_charsets(encoding, label):
    text = "<p>東京</p>" * 20
    assert decode_text(text.encode(encoding), f"text/html; charset={label}") == text


@pytest.mark.parametrize(
    "status, headers, body, reason",
    [
        (200, {}, page("x"), ""),
        (404, {}, page("x"), "status_404"),
        (301, {}, "", "status_301"),
        (200, {"Content-Type": "image/png"}, b"\x89PNG", "not_html"),
        (200, {"Content-Type": "application/pdf"}, b"%PDF", "not_html"),
        (200, {"Content-Type": None}, page("x"), ""),
        (200, {"Content-Type": None}, "just text", "not_html"),
        (200, {}, "  ", "empty"),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(MAX_PAGE_BYTES * 2)), "too_large"),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(HTML)[:-30], "damaged_body"),
    ],
)
def test_what_is_a_page(status, headers, body, reason):
    [(_, found)] = read_records(record("http://a.test/", body, status, headers))
    document, why, damage = page_of(found, "x")
    assert why == reason and bool(damage) == (reason == "damaged_body")
    assert document.metadata["url"] == "http://a.test/" and bool(document.text) == (reason == "")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what of a file is in memory")
def test_memory_does_not_grow_with_the_file(tmp_path):
    def in_memory() -> int:
        return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

    noise = record("http://a.test/", os.urandom(2**20), status=404)
    with (tmp_path / "large.warc.gz").open("wb") as file:
        file.writelines(gzip.compress(noise, compresslevel=0) for _ in range(120))
        file.writelines(gzip.compress(record(f"http://a.test/{i}", page(prose(i)))) for i in range(2))
    reader = WarcPages([tmp_path / "large.warc.gz"], tmp_path, DroppedPages(tmp_path, "read", 0))
    before, seen = in_memory(), []
    for _ in reader.run():
        seen.append(in_memory())
    assert len(seen) == 2 and max(seen) < before + 60

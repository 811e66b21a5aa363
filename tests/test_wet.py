"""WET files, Common Crawl's text of pages: whole, damaged, and named as something else.

pytest tests/test_wet.py
"""

import gzip

import pytest
from conftest import ROOT, metrics, refusal, run
from tiny_inputs import (
    FETCH,
    FILTER,
    GERMAN,
    assert_counts_add_up,
    conversion,
    conversions,
    damaged,
    fates,
    kept,
    text_of,
)
from tiny_warc import info, member, page, prose, record, write_warc

from crawl2chat.bodies import MAX_PAGE_BYTES
from crawl2chat.stage import StageError
from crawl2chat.warc import check_warc, read_records, wet_page_of


@pytest.mark.parametrize("name", ["a.warc.wet.gz", "a.warc.wet"])
def test_the_text_of_a_wet_file_is_kept_as_it_is(name, tmp_path):
    planted = [
        conversion("http://a.test/german", GERMAN),
        conversion("http://a.test/empty", " \n"),
        conversion("http://a.test/thin", text_of(1).split("\n")[0]),
        conversion("http://a.test/latin", "größer".encode("latin-1") * 3),
        conversion("http://bad.test/x", text_of(2)),
    ]
    write_warc(tmp_path / "wet" / name, [*planted, *conversions(100, 12)])
    (tmp_path / "blocked.txt").write_text("bad.test\n")
    arguments = ["--warc", tmp_path / "wet", "--block_lists", tmp_path / "blocked.txt"]
    run(FILTER, "--config", ROOT / "data_processing/2_filter_pages.yaml", *arguments, "--output_dir", tmp_path / "2")
    assert kept(tmp_path / "2") == {f"http://site{i % 5}.test/{i}": text_of(i) for i in range(100, 112)}
    assert fates(tmp_path / "2") == {
        "http://a.test/german": "language/de",
        "http://a.test/empty": "read/empty",
        "http://a.test/thin": "c4/too_few_sentences",
        "http://a.test/latin": "read/undecodable",
        "http://bad.test/x": "url/blocked_host",
    }
    assert assert_counts_add_up(tmp_path / "2")[0]["num_in"] == 17
    assert not (tmp_path / "2" / "tdmrep").exists()


@pytest.mark.parametrize(
    "text, kind, reason",
    [
        ("A text.", "text/plain", ""),
        ("A text.", None, ""),
        ("Größe, 東京\n", "text/plain; charset=utf-8", ""),
        ("<p>", "text/html", "not_text"),
        ("x" * (MAX_PAGE_BYTES + 1), "text/plain", "too_large"),
        ("\n ", "text/plain", "empty"),
        (b"good text " * 9 + b"\xff", "text/plain", ""),
        (b"\xff\xfe" * 9, "text/plain", "undecodable"),
    ],
)
def test_what_is_a_page_of_a_wet_file(text, kind, reason):
    [(_, found)] = read_records(conversion("http://a.test/", text, kind=kind))
    document, why = wet_page_of(found, "x")
    assert why == reason and document.metadata == {"url": "http://a.test/", "date": "2026-11-01T00:00:00Z"}
    assert document.id == "<urn:test:http://a.test/>"
    if not reason and isinstance(text, str):
        assert document.text == text


def test_damage_in_a_wet_file_costs_only_the_damaged_records(tmp_path):
    records = conversions(200, 12)
    right = int(records[7].split(b"Content-Length: ")[1].split(b"\r\n")[0])
    records[7] = conversion("http://site2.test/207", text_of(207), length=right - 30)
    members = [member(data) for data in [info(), *records]]
    members[4] = members[4][: len(members[4]) // 2]
    middle = len(members[6]) // 2
    members[6] = members[6][:middle] + bytes([members[6][middle] ^ 4]) + members[6][middle + 1 :]
    (tmp_path / "a.warc.wet.gz").write_bytes(b"".join(members))
    run(FILTER, "--warc", tmp_path / "a.warc.wet.gz", "--output_dir", tmp_path / "2")
    lost = {203, 205, 207}
    assert kept(tmp_path / "2") == {
        f"http://site{i % 5}.test/{i}": text_of(i) for i in range(200, 212) if i not in lost
    }
    assert metrics(tmp_path / "2")["num_damaged_records"] == 3
    found = damaged(tmp_path / "2")
    assert [line["url"] for line in found] == [f"http://site{i % 5}.test/{i}" for i in sorted(lost)]
    assert found[0]["offset"] == sum(map(len, members[:4])) and found[0]["length"] == len(members[4])
    assert (tmp_path / "2" / "damaged" / "00000.bin").read_bytes().startswith(members[4] + members[6])
    assert set(fates(tmp_path / "2").values()) == {"read/damaged"}


def test_a_cut_wet_file_is_refused_or_gives_its_whole_records(tmp_path, capsys):
    cut = tmp_path / "cut.warc.wet.gz"
    cut.write_bytes(b"".join(map(member, [info(), *conversions(0, 4)]))[:-40])
    assert f"{cut} is cut off" in refusal(capsys, FILTER, "--warc", cut, "--output_dir", tmp_path / "2")
    run(FILTER, "--warc", cut, "--output_dir", tmp_path / "2", "--allow_damaged", "true")
    assert len(kept(tmp_path / "2")) == 3 and metrics(tmp_path / "2")["num_damaged_records"] == 1


def test_a_file_named_as_the_other_kind_is_refused(tmp_path):
    """Else it would pass for one without a page."""
    wet = write_warc(tmp_path / "a.warc.gz", conversions(0, 2))
    with pytest.raises(StageError, match=r"a.warc.gz holds plain text \(WET\), .* rename it to end in .warc.wet.gz"):
        check_warc(wet, False)
    html = write_warc(tmp_path / "b.warc.wet.gz", [record("http://a.test/", page(prose(1)))])
    with pytest.raises(StageError, match=r"b.warc.wet.gz holds HTML \(WARC\), .* rename it to end in .warc.gz"):
        check_warc(html, False, is_wet=True)
    check_warc(write_warc(tmp_path / "none.warc.gz", []), False)


def test_fetched_wet_files_are_filtered(tmp_path):
    crawl = tmp_path / "mirror" / "crawl-data" / "CC-MAIN-2026-30"
    name = "crawl-data/CC-MAIN-2026-30/wet/CC-MAIN-00000.warc.wet.gz"
    write_warc(tmp_path / "mirror" / name, conversions(300, 5))
    (crawl / "wet.paths.gz").write_bytes(gzip.compress(f"{name}\n".encode()))
    fetch = ["--snapshot", "CC-MAIN-2026-30", "--base_url", tmp_path / "mirror", "--kind", "wet"]
    run(FETCH, *fetch, "--requests_per_second", 10, "--output_dir", tmp_path / "1")
    run(FILTER, "--warc", tmp_path / "1", "--output_dir", tmp_path / "2")
    assert list(kept(tmp_path / "2").values()) == [text_of(i) for i in range(300, 305)]

"""What the filter reads besides WARC files: WET files, and Parquet and JSON Lines of a dataset, whole and damaged.

pytest tests/test_inputs.py
"""

import datetime
import gzip
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from conftest import ROOT, fingerprint, kill_when, metrics, refusal, run
from tiny_warc import info, member, page, paragraphs, prose, record, write_warc

from crawl2chat.bodies import MAX_PAGE_BYTES
from crawl2chat.dataset_pages import MAX_LINE_BYTES, check_dataset, document_of, json_rows, parquet_rows
from crawl2chat.reading import Damage
from crawl2chat.remote import list_remote
from crawl2chat.sources import DATASET, WARC, files_named, open_source
from crawl2chat.stage import StageError
from crawl2chat.warc import check_warc, read_records, wet_page_of

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


# ------------------------------------------------------------------------------------------------------------ WET files


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


# ------------------------------------------------------------------------------------------------------------- datasets

NAMES = [f"part-{i}{ending}" for i, ending in enumerate(DATASET)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A file of each format, twelve rows each."""
    folder = tmp_path_factory.mktemp("dataset")
    for i, name in enumerate(NAMES):
        write_dataset(folder / "data" / name, rows_of(1000 + 12 * i, 12))
    (folder / "data" / "README.md").write_text("A card.\n")
    return folder / "data"


@pytest.fixture(scope="module")
def filtered(dataset) -> Path:
    out = dataset.parent / "2_pages"
    config = ROOT / "data_processing/2_filter_pages.yaml"
    run(FILTER, "--config", config, "--dataset", dataset, "--output_dir", out, "--num_workers", 1)
    return out


def test_all_formats_of_a_dataset_give_their_texts_and_addresses(filtered):
    assert kept(filtered) == {f"http://site{i % 5}.test/{i}": text_of(i) for i in range(1000, 1000 + 12 * len(NAMES))}
    rows = [row for file in sorted((filtered / "pages").glob("*")) for row in pq.read_table(file).to_pylist()]
    assert [row["id"] for row in rows] == [f"<urn:{1000 + i}>" for i in range(len(rows))]
    assert {(row["language"], row["date"]) for row in rows} == {("en", "2026-11-01T00:00:00Z")}
    assert assert_counts_add_up(filtered)[0]["num_in"] == 12 * len(NAMES) == metrics(filtered)["num_pages_in"]
    assert metrics(filtered)["num_files"] == len(NAMES)


def test_a_dataset_goes_on_to_a_corpus_whose_card_says_what_was_not_looked_for(filtered, tmp_path):
    run(DEDUPLICATE, "--pages", filtered, "--output_dir", tmp_path / "3")
    run(BUILD, "--pages", tmp_path / "3", "--output_dir", tmp_path / "4")
    sizes = metrics(tmp_path / "4")
    assert sizes["num_train_pages"] + sizes["num_validation_pages"] == 12 * len(NAMES)
    assert "came as text, in which neither licences nor opt-outs were looked for" in (
        tmp_path / "4" / "README.md"
    ).read_text().replace("\n", " ")
    assert "records and rows" in (tmp_path / "4" / "funnel.html").read_text()


def test_rows_without_an_address_are_no_duplicates_of_each_other(tmp_path):
    rows = [{"content": text_of(i)} for i in (1, 2, 3, 2)]
    write_dataset(tmp_path / "a.jsonl", rows)
    run(FILTER, "--dataset", tmp_path / "a.jsonl", "--text_column", "content", "--output_dir", tmp_path / "2")
    run(DEDUPLICATE, "--pages", tmp_path / "2", "--output_dir", tmp_path / "3")
    assert kept(tmp_path / "3") == {f"a.jsonl:{i}": text_of(i + 1) for i in range(3)}


def test_number_of_workers_changes_nothing(dataset, filtered, tmp_path):
    config = ROOT / "data_processing/2_filter_pages.yaml"
    run(FILTER, "--config", config, "--dataset", dataset, "--output_dir", tmp_path / "2", "--num_workers", 3)
    assert fingerprint(tmp_path / "2") == fingerprint(filtered)


def test_killed_and_started_again(dataset, filtered, tmp_path):
    config = ROOT / "data_processing/2_filter_pages.yaml"
    arguments = ["--config", config, "--dataset", dataset, "--output_dir", tmp_path / "2", "--num_workers", 1]
    kill_when("pages/00001.parquet", FILTER, arguments, tmp_path / "2")
    run(FILTER, *arguments)
    assert fingerprint(tmp_path / "2") == fingerprint(filtered)
    assert metrics(tmp_path / "2")["num_pages_kept"] == metrics(filtered)["num_pages_kept"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_text_are_counted(name, tmp_path):
    rows = rows_of(0, 5)
    rows[1]["text"], rows[3]["text"], rows[4]["text"] = None, " \n", "x" * (MAX_PAGE_BYTES + 1)
    write_dataset(tmp_path / name, rows)
    run(FILTER, "--dataset", tmp_path / name, "--output_dir", tmp_path / "2")
    assert len(kept(tmp_path / "2")) == 2
    assert assert_counts_add_up(tmp_path / "2")[0]["reasons"] == {"empty": 2, "too_large": 1}
    assert fates(tmp_path / "2")["http://site3.test/3"] == "read/empty"


def test_lines_that_are_no_rows_are_counted_and_set_aside(tmp_path):
    good = [lines_of([row]) for row in rows_of(0, 6)]
    broken = [
        b'{"url": "http://a.test/half", "text": "half of a\n', b"[1, 2]\n", b'{"text": ["a", "list"]}\n',
        b'{"text": "bad \xff byte"}\n', b'{"text": "half a \\ud83d pair"}\n',
    ]  # fmt: skip
    parts = [b"\xef\xbb\xbf" + good[0], broken[0], good[1], b"\n", *broken[1:], *good[2:-1], good[-1].rstrip()]
    (tmp_path / "a.jsonl").write_bytes(b"".join(parts))
    run(FILTER, "--dataset", tmp_path / "a.jsonl", "--output_dir", tmp_path / "2")
    assert list(kept(tmp_path / "2").values()) == [text_of(i) for i in range(6)]
    assert metrics(tmp_path / "2")["num_damaged_records"] == 5
    found = damaged(tmp_path / "2")
    assert [line["reason"].split(" (")[0] for line in found] == [
        "line 2 is no JSON", "line 5 is a JSON list, no object", "line 6 has a list in `text`, not text",
        "line 7 is no JSON", "line 8 is no JSON",
    ]  # fmt: skip
    assert found[0]["offset"] == len(parts[0]) and found[0]["length"] == len(broken[0])
    assert (tmp_path / "2" / "damaged" / "00000.bin").read_bytes() == b"".join(broken)
    assert fates(tmp_path / "2") == {"http://a.test/half": "read/damaged"}


def test_a_line_that_inflates_without_end_is_set_aside(tmp_path):
    rows = [lines_of([row]) for row in rows_of(0, 2)]
    bomb = b'{"text": "' + bytes(MAX_LINE_BYTES + 100).replace(b"\0", b"a") + b'"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows[0] + bomb + rows[1], 1))
    names = [(name, row) for name, row in json_rows(tmp_path / "a.jsonl.gz", "text")]
    assert [name for name, _ in names if isinstance(name, str)] == ["a.jsonl.gz:0", "a.jsonl.gz:2"]
    [(damage, data)] = [item for item in names if isinstance(item[0], Damage)]
    assert damage.reason == "line 2 is too long" and damage.length == len(bomb) and len(data) <= MAX_LINE_BYTES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_bytes_lost", [1, 20, 1500])
def test_a_cut_file_is_never_taken_for_whole(name, num_bytes_lost, dataset, tmp_path):
    data = (dataset / name).read_bytes()[:-num_bytes_lost]
    (tmp_path / name).write_bytes(data)
    if name.endswith(".jsonl") and num_bytes_lost == 1:  # the last newline is no loss
        assert len(list(json_rows(tmp_path / name, "text"))) == 12
        return
    with pytest.raises(StageError, match=rf"{name} (is cut off: its last line, 1\d,|cannot be read to its end)"):
        check_dataset(tmp_path / name, "text")


@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
def test_a_cut_file_fails_its_task_with_a_word_and_stops_no_other(name, dataset, filtered, tmp_path, capsys):
    shutil.copytree(dataset, tmp_path / "in")
    file = tmp_path / "in" / name
    file.write_bytes(file.read_bytes()[:-20])
    arguments = ["--config", ROOT / "data_processing/2_filter_pages.yaml", "--dataset", tmp_path / "in"]
    arguments += ["--output_dir", tmp_path / "2", "--num_workers", 1]
    said = refusal(capsys, FILTER, *arguments)
    assert f"1 of {len(NAMES)} tasks failed: {name} (" in said
    assert (
        "is cut off: its last line, 12, " in said if name.endswith(".jsonl") else "cannot be read to its end" in said
    )
    for i, other in enumerate(NAMES):
        written = tmp_path / "2" / "pages" / f"{i:05d}.parquet"
        assert written.exists() == (other != name)
        assert other == name or written.read_bytes() == (filtered / "pages" / written.name).read_bytes()
    shutil.copy(dataset / name, tmp_path / "in")  # fetched again
    run(FILTER, *arguments)
    assert fingerprint(tmp_path / "2") == fingerprint(filtered)


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.parquet", b"PAR1 <html>502 Bad Gateway</html> PAR1"),
        ("a.parquet", b""),
        ("a.jsonl.gz", b"<html>502 Bad Gateway</html>"),
        ("a.jsonl.zst", b"<html>502 Bad Gateway</html>"),
        ("a.json.gz", gzip.compress(lines_of(rows_of(0, 3)))[:-8] + bytes(8)),  # checksum
    ],
)
def test_what_is_not_what_its_name_says(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StageError, match=rf"{name} cannot be read to its end \(.*fetch it again"):
        check_dataset(tmp_path / name, "text")


def test_a_page_of_parquet_with_a_flipped_bit_is_noticed_by_its_checksum(tmp_path):
    stream = io.BytesIO()
    table = pa.Table.from_pylist(rows_of(0, 50))
    pq.write_table(table, stream, write_page_checksum=True, use_dictionary=False, compression="none")
    data = bytearray(stream.getvalue())
    position = data.find(text_of(20).encode()[:60])
    data[position + 30] ^= 1
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(StageError, match="cannot be read to its end"):
        list(parquet_rows(tmp_path / "a.parquet", "text"))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_column_is_named_with_those_that_are_there(name, tmp_path, capsys):
    write_dataset(tmp_path / name, [{"content": text_of(i), "source": "x"} for i in range(3)])
    arguments = ["--dataset", tmp_path / name, "--output_dir", tmp_path / "2"]
    said = refusal(capsys, FILTER, *arguments)
    assert f"{tmp_path / name} has no column `text`; name the column with the text by --text_column." in said
    assert "It has `content`, `source`." in said and not (tmp_path / "2").exists()
    run(FILTER, *arguments, "--text_column", "content")
    assert list(kept(tmp_path / "2").values()) == [text_of(i) for i in range(3)]


def test_a_column_of_something_else_than_text(tmp_path):
    write_dataset(tmp_path / "a.parquet", [{"text": ["a", "b"], "body": "c"}])
    with pytest.raises(StageError, match=r"has list<.*> in column `text`, not text; .* Text is in `body`\."):
        check_dataset(tmp_path / "a.parquet", "text")
    (tmp_path / "b.jsonl").write_bytes(b'[\n{"text": "a"},\n{"text": "b"},\n]\n')
    with pytest.raises(StageError, match="holds no JSON object in its first 4 lines"):
        check_dataset(tmp_path / "b.jsonl", "text")
    (tmp_path / "c.jsonl").write_bytes(b"")
    with pytest.raises(StageError, match="is empty; fetch it again, or delete it"):
        check_dataset(tmp_path / "c.jsonl", "text")
    empty = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "none.parquet")
    check_dataset(tmp_path / "none.parquet", "text")
    dictionary = pa.table({"text": pa.array(["a"]).dictionary_encode()})
    pq.write_table(dictionary, tmp_path / "d.parquet")
    check_dataset(tmp_path / "d.parquet", "text")
    assert [row for _, row in parquet_rows(tmp_path / "d.parquet", "text")] == [{"text": "a"}]


def test_other_columns_become_plain():
    moment = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)
    document, reason = document_of({"body": "A text.", "id": 7, "date": moment, "url": None}, "body", "x:0")
    assert reason == "" and document.text == "A text." and document.id == "7"
    assert document.metadata == {"url": "", "date": "2026-11-01T12:00:00+00:00", "licence": "", "opt_out": ""}
    document, _ = document_of({"text": "A text.", "licence": "cc0"}, "text", "x:0")
    assert document.id == "x:0" and document.metadata["licence"] == "cc0"


# -------------------------------------------------------------------------------------------------- at another address


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    for path in list(files.ls("/", detail=False)):
        files.rm(path, recursive=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_at_an_address_of_fsspec(name, memory, dataset, tmp_path):
    """As hf:// is, which cannot be reached here."""
    memory.pipe(f"/web/data/{name}", (dataset / name).read_bytes())
    memory.pipe("/web/data/README.md", b"A card.")
    arguments = ["--dataset", "memory://web/data", "--output_dir", tmp_path / "2"]
    run(FILTER, *arguments)
    assert len(kept(tmp_path / "2")) == 12
    assert list(yaml.safe_load((tmp_path / "2" / "run.yaml").read_text())["inputs"]) == ["memory://web/data"]


def test_an_address_that_changed_is_another_input(memory, dataset, tmp_path, capsys):
    memory.pipe("/web/a.parquet", (dataset / NAMES[0]).read_bytes())
    arguments = ["--dataset", "memory://web/*.parquet", "--output_dir", tmp_path / "2"]
    run(FILTER, *arguments)
    capsys.readouterr()
    run(FILTER, *arguments)
    assert "is up to date" in capsys.readouterr().err
    memory.pipe("/web/a.parquet", write_dataset(tmp_path / "b.parquet", rows_of(0, 3)).read_bytes())
    assert "holds a run with other" in refusal(capsys, FILTER, *arguments)


def test_files_at_an_address(memory):
    for name in ("b.jsonl", "a.parquet", "deep/c.parquet", "x.txt"):
        memory.pipe(f"/web/{name}", b"x")
    listed = list_remote("memory://web", DATASET).files
    assert [file.name for file in listed] == ["a.parquet", "b.jsonl", "c.parquet"]
    assert all(file.size == 1 and file.open().read() == b"x" for file in listed)
    assert [file.name for file in list_remote("memory://web/**/*.parquet", DATASET).files] == [
        "a.parquet",
        "c.parquet",
    ]
    assert [file.name for file in list_remote("memory://web/b.jsonl", DATASET).files] == ["b.jsonl"]


@pytest.mark.parametrize(
    "address, complaint",
    [
        ("memory://nothing/*.parquet", "nothing/*.parquet has no *.parquet or *.jsonl or"),
        ("nosuch://a/b.parquet", "nosuch://a/b.parquet cannot be listed (ValueError: Protocol not known"),
        (
            "hf://datasets/HuggingFaceFW/fineweb/sample/10BT/*.parquet",
            "*.parquet cannot be listed (OfflineModeIsEnabled:",
        ),
    ],
)
def test_an_address_that_cannot_be_listed(address, complaint, tmp_path, capsys):
    assert complaint in refusal(capsys, FILTER, "--dataset", address, "--output_dir", tmp_path / "2")


# ------------------------------------------------------------------------------------------- which files, which settings


def test_files_are_found_by_file_folder_and_glob(tmp_path):
    files = [write_warc(tmp_path / name, []) for name in ("b/2.warc", "a/1.warc.gz")][::-1]
    (tmp_path / "a/notes.txt").write_text("x")
    (tmp_path / "a/3.warc.wet.gz").write_bytes(b"")
    assert files_named(str(tmp_path), "tdmrep") == files
    assert files_named(str(tmp_path), "warc") == [files[0], tmp_path / "a/3.warc.wet.gz", files[1]]
    assert open_source(str(files[0]), None).files == files[:1] and open_source(str(files[0]), None).kind == WARC
    assert files_named(str(tmp_path / "*" / "*.warc*"), "warc") == [
        files[0],
        tmp_path / "a/3.warc.wet.gz",
        files[1],
    ]
    with pytest.raises(StageError, match=r"none has no \*.warc.gz or \*.warc in it"):
        files_named(str(tmp_path / "none"), "tdmrep")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_warc(folder / "a.warc.gz", [record("http://a.test/", page(prose(1)))])
    write_warc(folder / "b.warc.wet.gz", conversions(0, 2))
    write_dataset(folder / "c.parquet", rows_of(0, 2))
    (folder / "d.txt").write_text("x")
    (folder / "none").mkdir()
    return folder


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ([], "`warc` or `dataset` names what to read; give one of them"),
        (["--warc", "a.warc.gz", "--dataset", "c.parquet"], "give one of them"),
        (["--warc", "."], "has 1 WARC files, with HTML, and 1 WET files, with text, which take different steps"),
        (["--warc", "c.parquet"], "c.parquet is no WARC file by its name; give it as --dataset"),
        (["--dataset", "b.warc.wet.gz"], "b.warc.wet.gz is no file of a dataset by its name; give it as --warc"),
        (["--dataset", "d.txt"], "d.txt is no file of a dataset by its name; name *.parquet or"),
        (["--dataset", "none"], "none has no *.parquet or *.jsonl or"),
        (["--dataset", "nowhere"], "nowhere does not exist"),
        (["--warc", "memory://a.warc.gz"], "such files are read from disk; fetch them first"),
        (
            ["--warc", "b.warc.wet.gz", "--rights_policy", "only_open_licence"],
            "b.warc.wet.gz has their text, which tells no licence; give WARC files, or another policy",
        ),
    ],
)
def test_what_is_refused_before_anything_is_written(flags, complaint, mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(mixed)
    assert complaint in refusal(capsys, FILTER, *flags, "--output_dir", tmp_path / "2")
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize(
    "flags, warning",
    [
        (["--dataset", "c.parquet", "--extraction", "speed"], "no effect on dataset files: --extraction speed\n"),
        (
            ["--warc", "b.warc.wet.gz", "--extraction", "speed", "--text_column", "x"],
            "no effect on WET files: --text_column x",
        ),
        (["--dataset", "c.parquet", "--allow_damaged", "true"], "no effect on dataset files: --allow_damaged True"),
        (["--warc", "a.warc.gz", "--text_column", "x"], "no effect on WARC files: --text_column x\n"),
        (["--warc", "a.warc.gz", "--extraction", "speed", "--allow_damaged", "true"], ""),
        (["--dataset", "c.parquet"], ""),
    ],
)
def test_a_setting_without_effect_is_told(flags, warning, mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(mixed)
    run(FILTER, *flags, "--output_dir", tmp_path / "2", "--dry_run")
    said = capsys.readouterr().err
    assert f"warning: {warning}" in said if warning else "warning" not in said

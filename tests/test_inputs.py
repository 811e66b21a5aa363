"""What the filter reads besides WARC and WET files: Parquet and JSON Lines of a dataset, whole and damaged.

pytest tests/test_inputs.py
"""

import datetime
import gzip
import io
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, fingerprint, kill_when, metrics, refusal, run
from tiny_inputs import (
    BUILD,
    DEDUPLICATE,
    FILTER,
    assert_counts_add_up,
    conversions,
    damaged,
    fates,
    kept,
    lines_of,
    rows_of,
    text_of,
    write_dataset,
)
from tiny_warc import page, prose, record, write_warc

from crawl2chat.bodies import MAX_PAGE_BYTES
from crawl2chat.dataset_pages import MAX_LINE_BYTES, check_dataset, document_of, json_rows, parquet_rows
from crawl2chat.reading import Damage
from crawl2chat.remote import list_remote
from crawl2chat.sources import DATASET, WARC, files_named, open_source
from crawl2chat.stage import StageError

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

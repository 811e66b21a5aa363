"""WARC files to a corpus, by the scripts: every fate, bad input, interruption, the same result on every run.

pytest tests/test_data_stages.py
"""

import json
import os
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import PRETRAIN, ROOT, kill_when, metrics, pretrain_arguments, run
from tiny_warc import info, member, page, prose, record, write_warc

FILTER = "data_processing/2_filter_pages.py"
DEDUPLICATE = "data_processing/3_deduplicate.py"
BUILD = "data_processing/4_build_corpus.py"
DATA = Path(os.environ.get("CRAWL2CHAT_DATA", ROOT.parent / "shared" / "data"))
PASSAGE = (
    "the silver heron counts nine lanterns over a frozen lake while all the bells of the harbour sleep until noon"
)
GERMAN = "Der Bäcker hat am Morgen das Brot in den Ofen geschoben, und die Kinder sind zur Schule gegangen. " * 6
ORIGINAL = prose(500, 30)
# url -> record, and the step and reason that must drop it ("" if it stays)
PAGES = {
    "http://a.test/original": (page(ORIGINAL), ""),
    "http://bad.test/x": (page(prose(1)), "url/blocked_host"),
    "http://a.test/noai": (page(prose(2), '<meta name="robots" content="noai">'), "opt_out/noai_meta"),
    "http://a.test/german": (page(GERMAN), "language_gate/de"),
    "http://a.test/empty": ("<html><body><p>the</p></body></html>", "gopher/short_doc"),
    "http://a.test/spam": (page("Buy lamps now. " * 60), "repetition/"),
    "http://a.test/thin": (page(prose(3, 1)), "gopher/short_doc"),
    "http://a.test/code": (page(prose(4) + " if (x) { return the value of it. }"), "c4/curly_bracket"),
    "http://a.test/protected": (page(prose(6) + " " + PASSAGE.capitalize() + "."), "protected/passage"),
    "http://a.test/mail": (page(prose(7) + " Write to jane@shop.test or +44 20 7946 0123 for it."), ""),
    "http://b.test/mirror": (page(ORIGINAL), "duplicate/same_text"),
    "http://b.test/near": (
        page(ORIGINAL.replace("morning", "Monday") + " And that is all there is to tell."),
        "duplicate/near",
    ),
}


def records(start: int, count: int) -> list[bytes]:
    return [record(f"http://site{i % 7}.test/{i}", page(prose(i))) for i in range(start, start + count)]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    """Three WARC files with a page of every fate, a record cut in the middle, and a body that cannot be decoded."""
    folder = tmp_path_factory.mktemp("web")
    planted = [record(url, html) for url, (html, _) in PAGES.items()]
    planted.append(record("http://a.test/gone", page("x"), status=404))
    planted.append(record("http://a.test/body", b"\x1f\x8b broken", headers={"Content-Encoding": "gzip"}))
    write_warc(folder / "crawl" / "part-0.warc.gz", [*planted, *records(1000, 12)])
    cut = member(records(2000, 1)[0])[:300]
    parts = [member(info()), *map(member, records(2001, 12)), cut, *map(member, records(2020, 12))]
    (folder / "crawl" / "part-1.warc.gz").write_bytes(b"".join(parts))
    write_warc(folder / "crawl" / "part-2.warc", records(3000, 24))
    (folder / "blocked.txt").write_text("bad.test\n")
    (folder / "protected.txt").write_text(PASSAGE + "\n")
    fates = {"url": "blocked_host", "opt_out": "opt_out", "language_gate": "other_language", "duplicate": "duplicate"}
    truth = [
        {
            "url": url,
            "fate": fates.get(reason.split("/")[0], "thin" if reason else "keep"),
            "text": "",
            "pii": [{"kind": "email", "value": "jane@shop.test"}] if url.endswith("mail") else [],
            "duplicate_of": "http://a.test/original" if "duplicate" in reason else None,
        }
        for url, (_, reason) in PAGES.items()
    ]
    (folder / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in truth))
    return folder


def filter_arguments(crawl: Path, out: Path) -> list:
    return [
        "--config", ROOT / "data_processing/2_filter_pages.yaml", "--warc", crawl / "crawl",
        "--block_lists", crawl / "blocked.txt", "--protected_texts", crawl / "protected.txt", "--output_dir", out,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def path(crawl) -> Path:
    """The three stages, run in order."""
    run(FILTER, *filter_arguments(crawl, crawl / "2_pages"), "--num_workers", 1)
    run(DEDUPLICATE, "--pages", crawl / "2_pages", "--output_dir", crawl / "3_unique", "--num_workers", 1)
    run(BUILD, "--pages", crawl / "3_unique", "--truth", crawl / "truth.jsonl", "--output_dir", crawl / "4_corpus")
    return crawl


def fates(folder: Path) -> dict[str, str]:
    lines = (folder / "fates.jsonl").read_text().splitlines()
    return {line["url"]: line["reason"] for line in map(json.loads, lines)}


def texts(folder: Path) -> dict[str, str]:
    rows = [row for file in sorted(folder.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["url"]: row["text"] for row in rows}


def run_fingerprint(folder: Path) -> str:
    return yaml.safe_load((folder / "run.yaml").read_text())["fingerprint"]


@pytest.mark.parametrize("url", PAGES)
def test_each_page_meets_its_fate(url, path):
    expected, found = PAGES[url][1], fates(path / "3_unique").get(url, "")
    assert found.startswith(expected) and bool(found) == bool(expected)
    assert (url in texts(path / "4_corpus")) == (not expected)


def test_nothing_is_lost_without_a_word(path):
    funnel = json.loads((path / "3_unique" / "funnel.json").read_text())
    for step, following in pairwise(funnel):
        assert step["num_in"] == step["num_kept"] + step["num_dropped"]
        assert step["num_kept"] == following["num_in"]
        assert step["bytes_kept"] == following["bytes_in"] or following["step"] == "duplicate"  # after placeholders
        assert sum(step["reasons"].values()) == step["num_dropped"]
    # A record whose frame is damaged is no page that was read; it is in the list all the same.
    assert len(fates(path / "3_unique")) == sum(step["num_dropped"] for step in funnel) + 1
    assert funnel[0]["num_in"] == len(PAGES) + 2 + 12 + 24 + 24
    assert funnel[-1]["num_kept"] == len(texts(path / "3_unique")) == len(texts(path / "4_corpus"))


def test_damage_is_counted_and_set_aside(path):
    assert metrics(path / "2_pages")["num_damaged_records"] == 2
    damaged = [
        json.loads(line)
        for file in sorted((path / "2_pages" / "damaged").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert [(line["file"], line["url"]) for line in damaged] == [
        ("part-0.warc.gz", "http://a.test/body"),
        ("part-1.warc.gz", "http://site5.test/2000"),
    ]
    assert fates(path / "2_pages")["http://a.test/gone"] == "read/status_404"
    assert len((path / "2_pages" / "damaged" / "00001.bin").read_bytes()) == damaged[1]["length"] == 300


def test_personal_data_and_protected_text_appear_nowhere_in_the_corpus(path):
    everything = "".join(texts(path / "4_corpus").values()) + (path / "4_corpus" / "funnel.json").read_text()
    for leak in ("jane@shop.test", "7946", "silver heron"):
        assert leak not in everything
    assert "email@example.com" in texts(path / "4_corpus")["http://a.test/mail"]
    assert metrics(path / "2_pages")["num_replaced"] == {
        "num_emails": 1, "num_ips": 0, "num_phones": 1, "num_cards": 0, "num_ibans": 0,
    }  # fmt: skip


def test_scores(path):
    scores = json.loads((path / "4_corpus" / "scores.json").read_text())
    assert all(values["recall"] == 1.0 for values in scores["fates"].values())
    assert all(values["precision"] in (1.0, 0.0) for values in scores["steps"].values())
    assert scores["duplicates"] == {"num_groups": 1, "recall": 1.0, "num_groups_lost": 0}
    assert scores["personal_data"] == {"num_planted": 1, "num_leaked": 0}


def test_datasets_opens_the_corpus(path, tmp_path):
    from datasets import load_dataset

    dataset = load_dataset(str(path / "4_corpus"), cache_dir=str(tmp_path))
    sizes = metrics(path / "4_corpus")
    assert len(dataset["train"]) == sizes["num_train_pages"] and len(dataset["validation"]) == 20
    assert set(dataset["train"].column_names) >= {"text", "url", "id", "language", "licence"}
    assert not set(dataset["train"]["url"]) & set(dataset["validation"]["url"])


def test_number_of_workers_and_place_change_nothing(path, tmp_path):
    run(FILTER, *filter_arguments(path, tmp_path / "2"), "--num_workers", 3)
    run(DEDUPLICATE, "--pages", tmp_path / "2", "--output_dir", tmp_path / "3", "--num_workers", 3)
    run(BUILD, "--pages", tmp_path / "3", "--output_dir", tmp_path / "4")
    assert run_fingerprint(tmp_path / "2") == run_fingerprint(path / "2_pages")
    assert run_fingerprint(tmp_path / "3") == run_fingerprint(path / "3_unique")
    assert texts(tmp_path / "4") == texts(path / "4_corpus")


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("appears", ["logs/completions/*", "pages/00001.parquet"])
def test_filter_killed_and_started_again(appears, num_workers, path, tmp_path):
    arguments = [*filter_arguments(path, tmp_path / "2"), "--num_workers", num_workers]
    kill_when(appears, FILTER, arguments, tmp_path / "2")
    run(FILTER, *arguments)
    assert run_fingerprint(tmp_path / "2") == run_fingerprint(path / "2_pages")
    assert metrics(tmp_path / "2")["num_pages_kept"] == metrics(path / "2_pages")["num_pages_kept"]


@pytest.mark.parametrize("appears", ["logs/minhash/keys/000001.npy", "logs/minhash/links/000007.npy", "pages/*"])
def test_deduplicate_killed_and_started_again(appears, path, tmp_path):
    arguments = ["--pages", path / "2_pages", "--output_dir", tmp_path / "3", "--num_workers", 1]
    kill_when(appears, DEDUPLICATE, arguments, tmp_path / "3")
    run(DEDUPLICATE, *arguments)
    assert run_fingerprint(tmp_path / "3") == run_fingerprint(path / "3_unique")


def test_build_killed_and_started_again(path, tmp_path):
    arguments = ["--pages", path / "3_unique", "--output_dir", tmp_path / "4"]
    kill_when("train/*", BUILD, arguments, tmp_path / "4")
    run(BUILD, *arguments)
    assert texts(tmp_path / "4") == texts(path / "4_corpus")


@pytest.mark.parametrize(
    "name, data, complaint",
    [
        ("none.warc.gz", None, "none.warc.gz does not exist"),
        ("empty.warc.gz", b"", "empty.warc.gz is empty"),
        ("page.warc", b"<html></html>", "page.warc is no WARC file"),
        (
            "cut.warc.gz",
            b"".join(map(member, [info(), *records(0, 3)]))[:-40],
            "cut.warc.gz is cut off: its last record, at",
        ),
        ("dead.warc.gz", member(b"WARC/1.0\r\nContent-Length: 900\r\n\r\n") * 3, "not one readable WARC record"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(name, data, complaint, tmp_path, capsys):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SystemExit) as stopped:
        run(FILTER, "--warc", tmp_path / name, "--output_dir", tmp_path / "out")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and complaint in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_cut_file_gives_its_whole_records_on_request(tmp_path):
    parts = list(map(member, [info(), *records(0, 4)]))
    (tmp_path / "cut.warc.gz").write_bytes(b"".join(parts)[:-40])
    run(FILTER, "--warc", tmp_path / "cut.warc.gz", "--output_dir", tmp_path / "out", "--allow_damaged", "true")
    counts = metrics(tmp_path / "out")
    assert counts["num_pages_kept"] == 3 and counts["num_damaged_records"] == 1


def test_folder_without_warc_and_pages_without_a_page(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    with pytest.raises(SystemExit):
        run(FILTER, "--warc", tmp_path / "in", "--output_dir", tmp_path / "out")
    assert "has no *.warc.gz or *.warc or *.warc.wet.gz" in capsys.readouterr().err
    for name, records in (("none", []), ("german", [record("http://a.test/", page(GERMAN))])):
        write_warc(tmp_path / "in" / "a.warc.gz", records)
        out = tmp_path / name
        run(FILTER, "--warc", tmp_path / "in", "--output_dir", out)
        assert (metrics(out)["num_pages_in"], metrics(out)["num_pages_kept"]) == (len(records), 0)
        funnel = json.loads((out / "funnel.json").read_text())
        assert [step["step"] for step in funnel][-1] == "fineweb" and funnel[-1]["num_in"] == 0
        with pytest.raises(SystemExit):
            run(DEDUPLICATE, "--pages", out, "--output_dir", tmp_path / "3")
        assert "holds no .parquet file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.real_data
def test_real_pages_from_end_to_end(tmp_path):
    """The first 150 real pages, cut out member by member: corpus, tokenizer, pretraining, bits per byte, samples."""
    file = DATA / "web_pages.warc.gz"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    from crawl2chat.warc import map_file, read_records

    data = map_file(file)
    for number, item in enumerate(read_records(data)):
        if number == 151:
            (tmp_path / "real.warc.gz").write_bytes(data[: item[0]])
            break
    run(FILTER, "--warc", tmp_path / "real.warc.gz", "--output_dir", tmp_path / "2")
    counts = metrics(tmp_path / "2")
    assert counts["num_pages_in"] == 150 and counts["num_damaged_records"] == 0
    assert 15 < counts["num_pages_kept"] < 120
    assert sum(counts["seconds_by_step"].values()) / 150 < 0.03  # 10 ms when nothing else runs
    run(DEDUPLICATE, "--pages", tmp_path / "2", "--output_dir", tmp_path / "3")
    run(BUILD, "--pages", tmp_path / "3", "--output_dir", tmp_path / "4")
    assert min(map(len, texts(tmp_path / "4").values())) > 100
    run("data_processing/5_train_tokenizer.py", "--corpus", tmp_path / "4", "--output_dir", tmp_path / "5")
    tokenized = ["--corpus", tmp_path / "4", "--tokenizer", tmp_path / "5", "--output_dir", tmp_path / "6_tokens"]
    run("data_processing/6_tokenize_corpus.py", *tokenized)
    arguments = [*pretrain_arguments(tmp_path), "--total_tokens", 40_000, "--output_dir", tmp_path / "base"]
    run(PRETRAIN, *arguments)
    assert 0 < metrics(tmp_path / "base")["bits_per_byte"] < 5
    assert list((tmp_path / "base" / "samples").glob("*.txt"))

"""1_fetch_crawl.py against a web server that refuses, stalls, cuts, lies and changes: every file whole, or none.

pytest tests/test_fetch_crawl.py
"""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, metrics, refusal, run
from crawl_server import LIST, SNAPSHOT, CrawlServer, contents, path_of, warc, whole
from tiny_warc import record

import crawl2chat.fetch
from crawl2chat.fetch import Fetcher, alone_in, list_paths, sample_paths
from crawl2chat.stage import StageError
from crawl2chat.stores import open_store

FETCH = "data_processing/1_fetch_crawl.py"
FILTER = "data_processing/2_filter_pages.py"


@pytest.fixture(scope="module")
def crawl() -> dict[str, bytes]:
    files = {path_of(number): warc(number) for number in range(5)}
    return files | {LIST: gzip.compress("".join(f"{path}\n" for path in files).encode())}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(crawl2chat.fetch, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(crawl):
    server = CrawlServer()
    server.files = dict(crawl)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def fetcher_of(base_url: str, folder: Path, max_tries: int = 3, stall_seconds: float = 0.3) -> Fetcher:
    return Fetcher(open_store(base_url, 1000.0, stall_seconds), folder / "crawl", folder / "files.jsonl", max_tries)


def fetch_one(server, folder: Path, **options) -> dict[str, str]:
    return fetcher_of(server.url, folder, **options).fetch([path_of(0)], 1)


def arguments(base_url: str, out: Path, *more) -> list:
    return [
        "--config", ROOT / "data_processing/1_fetch_crawl.yaml", "--snapshot", SNAPSHOT, "--base_url", base_url,
        "--requests_per_second", 10, "--output_dir", out, *more,
    ]  # fmt: skip


# The stage


def test_files_are_fetched_listed_and_filtered(server, crawl, tmp_path):
    out = tmp_path / "1_crawl"
    run(FETCH, *arguments(server.url, out, "--num_files", 2))
    rows = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        data = (out / "crawl" / row["name"]).read_bytes()
        assert data == crawl[row["url"].removeprefix(server.url + "/")]
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert sorted(contents(out)) == [row["name"] for row in rows]
    assert metrics(out)["num_bytes"] == metrics(out)["num_bytes_fetched"] == sum(row["bytes"] for row in rows)
    assert server.agents == {next(iter(server.agents))} and next(iter(server.agents)).startswith("crawl2chat/")

    run(FILTER, "--warc", out, "--output_dir", tmp_path / "2_pages", "--num_workers", 1)
    assert metrics(tmp_path / "2_pages")["num_pages_kept"] == 24

    asked = len(server.requests)
    run(FETCH, *arguments(server.url, out, "--num_files", 2))
    assert len(server.requests) == asked  # up to date: nobody is asked


def test_plain_text_files(server, crawl, tmp_path):
    name = "CC-MAIN-00000.warc.wet.gz"
    server.files[f"crawl-data/{SNAPSHOT}/wet.paths.gz"] = gzip.compress(f"wet/{name}\n".encode())
    server.files[f"wet/{name}"] = crawl[path_of(0)]
    run(FETCH, *arguments(server.url, tmp_path / "out", "--kind", "wet"))
    assert list(contents(tmp_path / "out")) == [name]


def test_the_draw_goes_by_seed():
    paths = [str(number) for number in range(100)]
    few, many = sample_paths(paths, 5, 0), sample_paths(paths, 20, 0)
    assert few == sample_paths(paths, 5, 0) != sample_paths(paths, 5, 1)
    assert set(few) < set(many) and many == sorted(many, key=int) and len(set(many)) == 20
    with pytest.raises(StageError, match="`num_files` is 101, but the snapshot has 100"):
        sample_paths(paths, 101, 0)


@pytest.mark.parametrize("scheme", ["folder", "file://", "memory://"])
def test_a_mirror_that_is_no_web_server(scheme, crawl, tmp_path):
    if scheme == "memory://":
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").pipe({f"/mirror/{path}": data for path, data in crawl.items()})
        base_url = "memory://mirror"
    else:
        for path, data in crawl.items():
            (tmp_path / "mirror" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mirror" / path).write_bytes(data)
        base_url = f"{'' if scheme == 'folder' else scheme}{tmp_path / 'mirror'}"
    run(FETCH, *arguments(base_url, tmp_path / "out", "--num_files", 5))
    assert contents(tmp_path / "out") == whole(crawl, *range(5))


def test_a_part_from_a_folder_goes_on_only_if_the_file_is_the_same(crawl, tmp_path):
    source = tmp_path / "mirror" / path_of(0)
    source.parent.mkdir(parents=True)
    source.write_bytes(crawl[path_of(0)])
    for changed in (False, True):
        fetcher, folder = fetcher_of(str(tmp_path / "mirror"), tmp_path), tmp_path / "crawl"
        part = folder / f"{source.name}.part"
        fetcher.store.pace.stopped.set()  # ends after its first chunk
        assert fetcher.fetch([path_of(0)], 1) == {source.name: "stopped"}
        begun = part.stat().st_size
        assert 0 < begun < source.stat().st_size
        if changed:
            source.write_bytes(crawl[path_of(1)])
        fetcher = fetcher_of(str(tmp_path / "mirror"), tmp_path)
        assert fetcher.fetch([path_of(0)], 1) == {}
        assert contents(tmp_path) == {source.name: source.read_bytes()}
        assert fetcher.bytes_fetched == source.stat().st_size - (0 if changed else begun)
        shutil.rmtree(folder)
        (tmp_path / "files.jsonl").unlink()


def test_a_folder_whose_file_is_not_as_long_as_it_says(crawl, tmp_path, monkeypatch):
    source = tmp_path / "mirror" / path_of(0)
    source.parent.mkdir(parents=True)
    source.write_bytes(crawl[path_of(0)])
    fetcher = fetcher_of(str(tmp_path / "mirror"), tmp_path)
    monkeypatch.setattr(fetcher.store.files, "size", lambda place: source.stat().st_size + 10)
    (reason,) = fetcher.fetch([path_of(0)], 1).values()
    assert "bytes came, not" in reason and not list((tmp_path / "crawl").glob("*.gz"))


def test_dry_run_counts_what_is_to_come(server, crawl, tmp_path, capsys):
    run(FETCH, *arguments(server.url, tmp_path / "out", "--num_files", 3, "--dry_run"))
    plan = yaml.safe_load(capsys.readouterr().out)["plan"]
    assert (plan["num_files_listed"], plan["num_files"], plan["num_files_to_fetch"]) == (5, 3, 3)
    chosen = sample_paths([path_of(number) for number in range(5)], 3, 0)
    assert abs(plan["bytes_to_fetch"] - sum(len(crawl[path]) for path in chosen)) <= 1
    assert plan["bytes_free"] > 0 and not (tmp_path / "out").exists()
    assert {method for method, path, *_ in server.requests if path != LIST} == {"HEAD"}


def test_dry_run_without_sizes(server, tmp_path, capsys):
    missing = {path: data for path, data in server.files.items() if path == LIST}
    server.files = missing
    run(FETCH, *arguments(server.url, tmp_path / "out", "--dry_run"))
    assert "unknown" in yaml.safe_load(capsys.readouterr().out)["plan"]["bytes_to_fetch"]


def test_too_little_disk_is_said_before(server, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=400_000))
    for more in ([], ["--dry_run"]):
        said = refusal(capsys, FETCH, *arguments(server.url, tmp_path / "out", "--num_files", 2, *more))
        assert "2 files need 0.001 GB more" in said and "has 0.000 GB free; lower `num_files`" in said
    assert not (tmp_path / "out").exists()


def test_a_full_disk_costs_no_whole_file(server, crawl, tmp_path, monkeypatch):
    fetcher = fetcher_of(server.url, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert "No space left on device" in fetcher.fetch([path_of(0)], 1)["CC-MAIN-00000.warc.gz"]
    monkeypatch.undo()
    assert not list((tmp_path / "crawl").glob("*.gz"))
    assert fetch_one(server, tmp_path) == {} and contents(tmp_path) == whole(crawl, 0)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--snapshot", "CC-MAIN-1999-01"], "no warc files of a snapshot 'CC-MAIN-1999-01'. Common Crawl's snapshots"),
        (["--kind", "wet"], "wet.paths.gz is not there (404)"),
        (["--snapshot", "../../etc"], "`snapshot` '../../etc' is no name of a snapshot; give one like"),
        (["--num_files", 6], "`num_files` is 6, but the snapshot has 5; ask for fewer"),
        (["--kind", "wat"], "`kind` must be one of warc, wet"),
        (["--base_url", "nosuch://bucket"], "`base_url` nosuch://bucket cannot be opened"),
        (["--base_url", "/no/such/folder"], "/no/such/folder has no warc files of a snapshot"),
        (["--base_url", "http://127.0.0.1:9"], "cannot be fetched: no answer (ConnectionRefusedError"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_a_sentence(words, complaint, server, tmp_path, capsys):
    said = refusal(capsys, FETCH, *arguments(server.url, tmp_path / "out", *words, "--max_tries", 2))
    assert complaint in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, complaint",
    [
        (gzip.compress(b"a/one.warc.gz\n", mtime=0)[:-6], "the list is damaged"),
        (b"<html>", "the list is damaged"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(b"../../etc/passwd\n", mtime=0), "lists '../../etc/passwd', which does not end in .warc.gz"),
        (gzip.compress(b"a/one.warc.gz\nb/one.warc.gz\n", mtime=0), "several files of one name"),
    ],
)
def test_a_bad_list(content, complaint, server):
    server.files[LIST] = content
    with pytest.raises(StageError, match=complaint):
        list_paths(open_store(server.url, 1000.0, 1.0), SNAPSHOT, "warc", 2)


def test_a_list_is_asked_for_again(server):
    server.faults[LIST] = ["503", "truncate", "flip"]
    assert len(list_paths(open_store(server.url, 1000.0, 1.0), SNAPSHOT, "warc", 4)) == 5


# A single file

ONCE = [
    "403",
    "429",
    "500",
    "503",
    "stall",
    "truncate",
    "drip",
    "short_length",
    "flip",
    "html",
    "chunked",
    "labelled",
    "overlong",
]


@pytest.mark.parametrize("fault", ONCE)
def test_one_failure_is_outlived(fault, server, crawl, tmp_path):
    server.faults[path_of(0)] = [fault]
    assert fetch_one(server, tmp_path) == {}
    assert contents(tmp_path) == whole(crawl, 0)  # and no .part, nor what stands beside it
    restarted = fault not in ("stall", "truncate", "drip")
    ranges = server.ranges(path_of(0))
    assert len(ranges) == (1 if fault in ("chunked", "labelled") else 2)
    assert ranges[-1] == ("", 200) if restarted else ranges[-1][1] == 206


@pytest.mark.parametrize("fault, reason", [
    ("503", "503 Service Unavailable, in the last of 3 tries"),
    ("403", "403 Forbidden, in the last of 3 tries"),
    ("truncate", "the connection broke (IncompleteRead"),
    ("stall", "stalled: nothing came for 0.3 s"),
    ("html", "the server's own file is damaged (Not a gzipped file"),
    ("flip", "the server's own file is damaged"),
    ("short_length", "the server's own file is damaged (Compressed file ended"),
    ("no_length", "tells no length"),
    ("404", "is not there (404)"),
    ("401", "the server answers 401 Unauthorized"),
])  # fmt: skip
def test_a_file_that_never_comes_whole_is_none(fault, reason, server, tmp_path):
    server.faults[path_of(0)] = [fault] * 10
    assert reason in fetch_one(server, tmp_path)["CC-MAIN-00000.warc.gz"]
    assert not list((tmp_path / "crawl").glob("*.gz")) and not (tmp_path / "files.jsonl").exists()
    assert len(server.requests) == {"no_length": 1, "404": 1, "401": 1, "html": 2, "flip": 2, "short_length": 2}.get(
        fault, 3
    )


@pytest.mark.parametrize("validator, resumes", [("ETag", True), ("Last-Modified", True), ("", False)])
def test_a_part_goes_on_by_range(validator, resumes, server, crawl, tmp_path):
    server.validator, size = validator, len(crawl[path_of(0)])
    server.faults[path_of(0)] = ["truncate", "truncate"]
    assert fetch_one(server, tmp_path) == {} and contents(tmp_path) == whole(crawl, 0)
    second, third = server.ranges(path_of(0))[1:]
    if resumes:
        assert second == (f"bytes={size // 2}-", 206)
        assert third == (f"bytes={size // 2 + (size - size // 2) // 2}-", 206)
    else:  # what is here could be of another version
        assert second == third == ("", 200)


@pytest.mark.parametrize("fault", ["change", "splice", "ignore_range", "416"])
def test_a_part_of_another_version_is_thrown_away(fault, server, tmp_path):
    """The cut lies between two members, so that two versions put together would be sound gzip of the right size."""

    def version(text: str) -> list[bytes]:
        return [gzip.compress(record(f"http://{i}.test", text * 1000), 0, mtime=0) for i in range(2)]

    old, new = version("a"), version("b")
    server.files[path_of(0)], server.files[path_of(0) + "?new"] = b"".join(old), b"".join(new)
    server.faults[path_of(0)], server.cut = ["truncate", fault], len(old[0])
    assert len(old[0]) == len(new[0]) and fetch_one(server, tmp_path) == {}
    assert contents(tmp_path) == {"CC-MAIN-00000.warc.gz": b"".join(new if fault == "change" else old)}
    statuses = {"change": [200], "splice": [206, 200], "ignore_range": [200], "416": [416, 200]}[fault]
    assert [status for _, status in server.ranges(path_of(0))] == [200, *statuses]
    assert server.ranges(path_of(0))[1][0] == f"bytes={len(old[0])}-"


def test_every_byte_of_progress_is_kept_over_many_breaks(server, crawl, tmp_path, monkeypatch):
    monkeypatch.setattr(crawl2chat.fetch, "PROGRESS_BYTES", 1000)
    server.faults[path_of(0)] = ["truncate"] * 7  # each half of what is left
    assert fetch_one(server, tmp_path, max_tries=2) == {} and contents(tmp_path) == whole(crawl, 0)


def test_the_rest_is_fetched_although_some_fail_and_then_only_these(server, crawl, tmp_path, capsys):
    out = tmp_path / "out"
    words = arguments(server.url, out, "--num_files", 5, "--max_tries", 2)
    server.faults[path_of(1)], server.faults[path_of(3)] = ["404"], ["503", "503"]
    said = refusal(capsys, FETCH, *words)
    assert "2 of 5 files could not be fetched; the others are whole. Start it again to fetch only these:" in said
    assert "CC-MAIN-00001.warc.gz: " in said and "CC-MAIN-00003.warc.gz: " in said
    assert contents(out) == whole(crawl, 0, 2, 4) and not (out / "run.yaml").exists()
    with pytest.raises(SystemExit):  # the next stage takes no unfinished folder
        run(FILTER, "--warc", out, "--output_dir", tmp_path / "2_pages")

    server.requests.clear()
    run(FETCH, *arguments(server.url, out, "--num_files", 5, "--max_tries", 5, "--stall_seconds", 9))
    assert {path for method, path, *_ in server.requests if method == "GET"} == {path_of(1), path_of(3)}
    assert contents(out) == whole(crawl, *range(5)) and len((out / "files.jsonl").read_text().splitlines()) == 5


def test_a_whole_file_that_is_not_in_the_list_is_checked(server, crawl, tmp_path):
    (tmp_path / "crawl").mkdir()
    names = [Path(path_of(number)).name for number in range(2)]
    (tmp_path / "crawl" / names[0]).write_bytes(crawl[path_of(0)])
    (tmp_path / "crawl" / names[1]).write_bytes(crawl[path_of(1)][:-1000])
    assert fetcher_of(server.url, tmp_path).fetch([path_of(0), path_of(1)], 2) == {}
    assert contents(tmp_path) == whole(crawl, 0, 1)
    assert [path for _, path, *_ in server.requests] == [path_of(1)]
    (tmp_path / "crawl" / names[0]).write_bytes(b"")  # in the list, and changed by somebody
    assert fetch_one(server, tmp_path) == {} and contents(tmp_path) == whole(crawl, 0, 1)


def test_killed_and_started_again_is_as_never_killed(server, crawl, tmp_path):
    words = ["--num_files", 3, "--num_workers", 2]
    run(FETCH, *arguments(server.url, tmp_path / "calm", *words))
    chosen = sample_paths([path_of(number) for number in range(5)], 3, 0)
    server.faults[chosen[1]] = ["stall"]  # which the first run waits for when it is killed
    server.requests.clear()
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / FETCH), *map(str, arguments(server.url, out, *words))]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    part, others = out / "crawl" / f"{Path(chosen[1]).name}.part", {Path(chosen[0]).name, Path(chosen[2]).name}
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None:
        listed = (out / "files.jsonl.part").read_text() if (out / "files.jsonl.part").is_file() else ""
        if part.is_file() and part.stat().st_size > 100_000 and all(name in listed for name in others):
            break
        time.sleep(0.01)

    with pytest.raises(StageError, match="another run is writing"), alone_in(out):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with (out / "files.jsonl.part").open("a") as log:
        log.write('\n{"name": "CC')  # killed in the middle of a line
    assert set(contents(out)) == others | {part.name, f"{part.name}.json"} and not (out / "run.yaml").exists()
    begun = part.stat().st_size

    run(FETCH, *arguments(server.url, out, *words))
    assert server.ranges(chosen[1])[-1] == (f"bytes={begun}-", 206)
    assert len(server.ranges(chosen[0])) == len(server.ranges(chosen[2])) == 1
    for name in ("files.jsonl", f"{SNAPSHOT}.warc.paths"):
        assert (out / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert contents(out) == contents(tmp_path / "calm")
    prints = [yaml.safe_load((folder / "run.yaml").read_text())["fingerprint"] for folder in (out, tmp_path / "calm")]
    assert prints[0] == prints[1]
    assert metrics(out)["num_bytes_fetched"] < metrics(tmp_path / "calm")["num_bytes_fetched"]

"""The benchmarks measure what they say: our half of each runs here, datatrove's needs an environment of its own.

pytest tests/test_benchmarks.py
"""

import json
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT
from tiny_warc import page, prose, record, write_warc

CRAWL_PIPELINE = ROOT / "benchmarks" / "crawl_pipeline.py"


@pytest.fixture
def warc(tmp_path):
    path = tmp_path / "pages.warc.gz"
    write_warc(path, [record(f"http://host{i}.test/", page(prose(i))) for i in range(4)])
    return path


@pytest.mark.parametrize("mode", ["quality", "speed"])
def test_our_half_of_the_crawl_benchmark(mode, warc):
    command = [sys.executable, CRAWL_PIPELINE, "--worker", mode, "--warc", warc]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert set(found["kept"]) == {f"http://host{i}.test/" for i in range(4)}
    assert found["cpu_seconds"] > 0 and set(found["seconds_by_block"]) >= {"url", "extract", "gopher", "fineweb"}


def test_medians_and_spread():
    summary = runpy.run_path(str(CRAWL_PIPELINE))["summary"]
    runs = [
        {"cpu_seconds": s, "peak_mb": [s * 100, 0], "kept": ["a"], "seconds_by_block": {"read": s / 2}}
        for s in (3, 1, 2)
    ]
    found = summary(runs, num_pages=100)
    assert found["cpu_ms_per_page"] == 20.0 and found["cpu_ms_spread"] == [10.0, 30.0]
    assert found["block_ms_per_page"] == {"read": 10.0} and found["peak_mb"] == 300 and found["kept"] == 1


def test_extraction_benchmark(warc, tmp_path):
    text = prose(0).split("\n")[0][:40]
    lines = [
        {"url": f"http://host{i}.test/", "with": [text] if i == 0 else [], "without": ["Imprint"]} for i in range(4)
    ]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [
        sys.executable,
        ROOT / "benchmarks" / "extraction.py",
        "--warc",
        warc,
        "--truth",
        tmp_path / "truth.jsonl",
    ]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert table[0] == "| | precision | recall | F1 | CPU ms a page |"
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| quality", "| speed", "| trafilatura precision", "| trafilatura fast",
    ]  # fmt: skip
    assert all(line.split(" | ")[2] == "1.000" for line in table[2:])

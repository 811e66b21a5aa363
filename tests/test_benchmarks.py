"""The benchmarks measure what they say: our half of each runs here, datatrove's needs an environment of its own.

pytest tests/test_benchmarks.py
"""

import json
import runpy
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL
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


@pytest.mark.slow
def test_our_half_of_the_pretraining_benchmark(path_folder, tmp_path):
    for split in ("train", "validation"):
        shutil.copy(path_folder / "4_corpus" / split / "00000.parquet", tmp_path / f"{split}.parquet")
    command = [
        sys.executable,
        ROOT / "benchmarks" / "pretrain.py",
        "--text",
        tmp_path,
        "--seconds",
        "1",
        "--seeds",
        "1",
    ]
    command += ["--vocab_size", "400", "--trial_tokens", "10000", "--max_passes", "1000", "--plain"]
    command += ["--per_device_train_batch_size", "8", "--bf16", "false", "--torch_compile", "false", *map(str, SMALL)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found, plain = (json.loads(ran.stdout)[name] for name in ("ours_1", "plain_1"))
    assert plain["parameters"] == found["parameters"] and 0 < plain["bits_per_byte"] < 8
    assert 0.2 < found["seconds"] < 5 and found["tokens"] % 512 == 0
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"], rel=0.5)
    low, high = found["bits_per_byte_spread"]
    assert 0 < low <= found["bits_per_byte"] <= high < 4 and 0 < found["mfu"] < 2


def test_products(capsys, monkeypatch):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(sys, "argv", ["products.py"])
    runpy.run_path(str(ROOT / "benchmarks" / "products.py"), run_name="__main__")
    torch.backends.mkldnn.matmul.fp32_precision = before
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("| attention, ms |")
    assert all(float(cell) > 0 for line in lines[4:] for cell in line.split("|")[2:4])


def test_rollouts_beside_trl(path_folder, tmp_path):
    """All three train, their checkpoints are judged, and the ratios are those of what they took."""
    prompts = shutil.copytree(path_folder / "7_conversations", tmp_path / "run/7_conversations") / "rl_train.jsonl"
    prompts.write_text(2 * prompts.read_text())  # PPO asks 64 at once
    (tmp_path / "run/sft").symlink_to(path_folder / "base")
    given = [tmp_path / "run", "--steps", 2, "--save_steps", 1, "--accuracy", 0]
    given += ["--output_dir", tmp_path / "trained", "--plot", tmp_path / "curves.svg"]
    command = [sys.executable, ROOT / "benchmarks/rollouts.py", *given]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout)
    theirs = found["trl"][0]
    for name in ("grpo", "ppo"):
        ours = found[name][0]
        assert len(ours["curve"]) == len(theirs["curve"]) == 2 and ours["curve"][0][0] < ours["curve"][1][0]
        assert ours["seconds_to_accuracy"] == ours["curve"][0][0]  # everything is at least 0
        ratio = ours["completions_per_second"] / theirs["completions_per_second"]
        assert found[f"{name}_completions_per_second_ratio"] == pytest.approx(ratio, abs=0.01)
    assert "trl grpo" in (tmp_path / "curves.svg").read_text()


def test_the_playground(chat_folder):
    command = [sys.executable, ROOT / "benchmarks/playground.py", "--model", chat_folder, "--repeats", "2"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for name in ("next_token_view_ms", "first_token_ms"):
        assert 0 < found[name]["least"] <= found[name]["median"] <= found[name]["most"]

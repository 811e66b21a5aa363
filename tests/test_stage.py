"""The stage contract, on small stages made here.

pytest tests/test_stage.py
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from crawl2chat.stage import (
    StageError,
    bounded,
    fingerprint,
    hardware,
    peak_memory_mb,
    read_run,
    run_stage,
    write_atomically,
)


@dataclass
class CountConfig:
    text: str = field(metadata={"help": "A text file, or a folder of them."})
    output_dir: str = field(metadata={"help": "Where count.txt goes."})
    num_words: int = bounded(10, "Words to keep.", low=1, high=1000)
    share: float = bounded(0.5, "A share.", low=0.0, high=1.0)
    num_workers: int = bounded(1, "Processes.", low=1)
    hub_token: str | None = field(default=None, metadata={"help": "Secret."})


@pytest.fixture
def text(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one two three\n")
    return tmp_path / "in"


@pytest.fixture
def stage(text, tmp_path, monkeypatch):
    """`stage(*flags)` runs a stage that counts how often its main was called, in `stage.calls`."""
    monkeypatch.setattr(sys, "argv", ["count.py"])

    def main(config: CountConfig) -> dict:
        run.calls.append(config)
        words = [word for file in sorted(Path(config.text).glob("*.txt")) for word in file.read_text().split()]
        Path(config.output_dir, "count.txt").write_text(f"{len(words[: config.num_words])}\n")
        return {"num_words": len(words)}

    def run(*flags: str, main=main, preflight=lambda config: {}) -> None:
        argv = ["--text", str(text), "--output_dir", str(tmp_path / "out"), *flags]
        run_stage(main, CountConfig, inputs=lambda config: [config.text], preflight=preflight, argv=argv)

    run.calls = []
    return run


@pytest.fixture
def refusal(stage, capsys):
    """`refusal(*flags)` is the message with which the stage refuses; it checks the exit code and that nothing ran."""

    def run(*flags: str, **functions) -> str:
        capsys.readouterr()
        calls = len(stage.calls)
        with pytest.raises(SystemExit) as stop:
            stage(*flags, **functions)
        assert stop.value.code == 2
        assert len(stage.calls) == calls
        message = capsys.readouterr().err
        assert message.startswith("count: error: ")
        assert "Traceback" not in message
        return message

    return run


def test_a_run_leaves_metrics_and_record(stage, tmp_path, text):
    stage("--hub_token", "hf_secret")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"count.txt", "metrics.json", "run.yaml"}
    assert (out / "metrics.json").read_text() == '{\n  "num_words": 3\n}\n'
    record = read_run(out)
    assert record["stage"] == "count"
    assert record["config"]["num_words"] == 10
    assert record["inputs"] == {str(text): fingerprint(text)}
    assert record["hardware"] == hardware()
    assert record["seconds"] >= 0 and record["peak_memory_mb"]["process"] > 10
    assert record["versions"]["python"].startswith("3.")
    assert "hf_secret" not in (out / "run.yaml").read_text()
    assert record["command"].startswith("python ") and record["command"].endswith("--hub_token '***'")


def test_memory_is_that_of_the_process_alone():
    held = bytes(range(256)) * 2**21  # 512 MB, of which a program started now must count nothing as its own
    code = "from crawl2chat.stage import peak_memory_mb; print(peak_memory_mb())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(ran.stdout) < 256 < len(held) / 2**20 < peak_memory_mb()


def test_no_secret_while_it_runs(stage, tmp_path):
    def main(config):
        assert "hf_secret" not in (tmp_path / "out" / "started.yaml").read_text()
        return {}

    stage("--hub_token=hf_secret", main=main)


def test_run_yaml_is_written_last(stage, tmp_path, monkeypatch):
    order = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append(target.name), replace(self, target))[1])
    stage()
    assert order == ["started.yaml", "metrics.json", "run.yaml"]


def test_finished_is_up_to_date(stage, capsys, tmp_path):
    stage()
    before = (tmp_path / "out" / "run.yaml").read_bytes()
    stage("--num_workers", "2", "--hub_token", "hf_secret")  # neither changes what is written
    assert len(stage.calls) == 1
    assert f"count: {tmp_path / 'out'} is up to date." in capsys.readouterr().err
    assert (tmp_path / "out" / "run.yaml").read_bytes() == before


def test_the_path_of_an_input_does_not_count(stage, tmp_path, text):
    stage()
    text.rename(tmp_path / "moved")
    stage("--text", str(tmp_path / "moved"))
    assert len(stage.calls) == 1


def test_other_config_is_refused(stage, refusal, tmp_path):
    stage()
    before = fingerprint(tmp_path / "out" / "count.txt")
    message = refusal("--num_words", "2", "--share", "0.25")
    assert "num_words (10, not 2); share (0.5, not 0.25)" in message
    assert "--overwrite" in message
    assert fingerprint(tmp_path / "out" / "count.txt") == before


def test_other_input_is_refused(stage, refusal, text):
    stage()
    (text / "a.txt").write_text("something else\n")
    assert "input 1 (" in refusal()


def test_other_stage_is_refused(stage, capsys, monkeypatch):
    stage()
    monkeypatch.setattr(sys, "argv", ["sort.py"])
    with pytest.raises(SystemExit):
        stage()
    assert "other stage (count, not sort)" in capsys.readouterr().err
    assert len(stage.calls) == 1


def test_overwrite_deletes_and_runs(stage, tmp_path):
    stage()
    (tmp_path / "out" / "old").mkdir()
    (tmp_path / "out" / "old" / "file").touch()
    stage("--num_words", "2", "--overwrite")
    assert len(stage.calls) == 2
    assert (tmp_path / "out" / "count.txt").read_text() == "2\n"
    assert not (tmp_path / "out" / "old").exists()
    assert read_run(tmp_path / "out")["config"]["num_words"] == 2
    stage("--num_words", "2", "--overwrite")
    assert len(stage.calls) == 3


def test_killed_while_deleting(stage, refusal, tmp_path, monkeypatch):
    """Half of a deleted run is neither up to date nor resumed, whatever config comes next."""
    stage()
    (tmp_path / "out" / "checkpoint-1").mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        stage("--num_words", "2", "--overwrite")
    assert (tmp_path / "out" / "checkpoint-1").exists()
    assert "half deleted" in refusal()
    assert "half deleted" in refusal("--num_words", "2")
    stage("--num_words", "2", "--overwrite")
    assert not (tmp_path / "out" / "checkpoint-1").exists()


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["thesis.txt", "run.yaml"])
def test_a_folder_of_another_program_is_never_touched(refusal, tmp_path, flags, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious: true\n")
    assert "was not written by a stage" in refusal(*flags)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "precious: true\n"


def test_output_dir_is_a_file(refusal, tmp_path):
    (tmp_path / "out").write_text("precious\n")
    assert "is a file" in refusal("--overwrite")
    assert (tmp_path / "out").read_text() == "precious\n"


def test_output_dir_around_an_input(stage, refusal, tmp_path, text):
    stage()
    (tmp_path / "out" / "a.txt").write_text("one\n")
    assert "lies in output_dir" in refusal("--text", str(tmp_path / "out" / "a.txt"), "--overwrite")
    assert (tmp_path / "out" / "a.txt").exists()


def test_missing_input(refusal, tmp_path):
    assert "nowhere does not exist" in refusal("--text", str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_unfinished_input(refusal, tmp_path, text):
    (text / "started.yaml").write_text("stage: fetch\n")
    assert "is unfinished (no run.yaml)" in refusal()
    assert "is unfinished (no run.yaml)" in refusal("--text", str(text / "a.txt"))
    assert not (tmp_path / "out").exists()


def test_an_input_not_given_is_for_preflight(refusal):
    def preflight(config):
        raise StageError("--text needs a folder.")

    assert "--text needs a folder." in refusal("--text", "", preflight=preflight)


def test_dry_run_writes_nothing(stage, refusal, capsys, tmp_path):
    stage("--dry_run", preflight=lambda config: {"words": 3})
    plan = yaml.safe_load(capsys.readouterr().out)
    assert plan["plan"] == {"words": 3}
    assert plan["config"]["num_words"] == 10
    assert plan["output"] == "new"
    assert not (tmp_path / "out").exists()
    assert not stage.calls

    stage()
    stage("--dry_run")
    assert yaml.safe_load(capsys.readouterr().out)["output"] == "up to date"
    assert "num_words (10, not 2)" in refusal("--num_words", "2", "--dry_run")
    stage("--num_words", "2", "--dry_run", "--overwrite")
    assert (tmp_path / "out" / "count.txt").read_text() == "3\n"


def test_preflight_refuses(refusal, tmp_path):
    def preflight(config):
        raise StageError("too little disk.")

    assert refusal(preflight=preflight) == "count: error: too little disk.\n"
    assert not (tmp_path / "out").exists()


def test_a_failed_stage_is_unfinished_and_goes_on(stage, tmp_path, capsys, refusal):
    def main(config):
        Path(config.output_dir, "half.txt").write_text("half\n")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        stage(main=main)
    assert not (tmp_path / "out" / "run.yaml").exists()
    with pytest.raises(StageError, match="is unfinished"):
        read_run(tmp_path / "out")
    assert "num_words (10, not 2)" in refusal("--num_words", "2")
    stage()
    assert "going on with the unfinished run" in capsys.readouterr().err
    assert (tmp_path / "out" / "half.txt").exists()
    assert (tmp_path / "out" / "run.yaml").exists()


def test_read_run_of_nothing(tmp_path):
    with pytest.raises(StageError, match="does not exist"):
        read_run(tmp_path / "nowhere")


def test_fingerprint(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    first = fingerprint(folder)
    for volatile in ("logs/x.txt", "checkpoint-10/model.bin", "metrics.json", "sub/b.tmp"):
        (folder / volatile).parent.mkdir(exist_ok=True)
        (folder / volatile).write_text(str(time.time()))
    assert fingerprint(folder) == first
    (folder / "sub" / "a.txt").write_text("b")
    second = fingerprint(folder)
    (folder / "sub" / "a.txt").rename(folder / "sub" / "c.txt")
    assert len({first, second, fingerprint(folder)}) == 3


def test_write_atomically_keeps_the_old_file(tmp_path):
    write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "a.txt", b"bytes")
    assert (tmp_path / "a.txt").read_text() == "old"


# As a program

SCRIPT = """
import os, sys, time
from dataclasses import dataclass, field
from pathlib import Path
from crawl2chat.stage import run_stage, StageError

@dataclass
class Config:
    output_dir: str = field(metadata={"help": ""})
    seconds: float = 0.0

def main(config):
    part = Path(config.output_dir, "part-0.txt")
    if not part.exists():
        part.write_text(str(os.getpid()))
        time.sleep(config.seconds)
    with Path(config.output_dir, "calls.txt").open("a") as file:
        file.write("call\\n")
    return {}

if __name__ == "__main__":
    run_stage(main, Config)
"""


@pytest.fixture
def script(tmp_path) -> list[str]:
    (tmp_path / "wait.py").write_text(SCRIPT)
    return [sys.executable, str(tmp_path / "wait.py"), "--output_dir", str(tmp_path / "out")]


def test_exit_code_and_message(script, tmp_path):
    run = subprocess.run([*script, "--second", "x"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "wait: error: unknown flag `--second`; did you mean `seconds`?\n" in run.stderr
    assert "Traceback" not in run.stderr and run.stdout == ""
    assert not (tmp_path / "out").exists()


def test_killed_and_started_again(script, tmp_path):
    with subprocess.Popen([*script, "--seconds", "600"], stderr=subprocess.DEVNULL) as process:
        deadline = time.time() + 120
        while not (tmp_path / "out" / "part-0.txt").exists() and time.time() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(StageError, match="unfinished"):
        read_run(tmp_path / "out")
    run = subprocess.run([*script, "--seconds", "600"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "going on with the unfinished run" in run.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "part-0.txt",
        "calls.txt",
        "metrics.json",
        "run.yaml",
    }


def test_killed_before_the_first_mark(stage, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "started.yaml.tmp").write_text("sta")
    stage()
    assert len(stage.calls) == 1


@pytest.mark.slow
def test_two_processes_agree(script, tmp_path):
    """The main process decides for all: begun, up to date, and refused with a non-zero exit code."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *script[1:]]

    def run(*flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([*torchrun, *flags], capture_output=True, text=True, timeout=240)

    first = run()
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "out" / "calls.txt").read_text() == "call\n" * 2
    assert run().returncode == 0
    assert (tmp_path / "out" / "calls.txt").read_text() == "call\n" * 2
    refused = run("--seconds", "1")
    assert refused.returncode != 0
    assert refused.stderr.count("holds a run with other seconds (0.0, not 1.0)") == 1
    assert run("--seconds", "1", "--overwrite").returncode == 0
    assert (tmp_path / "out" / "calls.txt").read_text() == "call\n" * 2

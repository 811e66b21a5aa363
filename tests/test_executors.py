"""Tasks on this machine, on Slurm and on Ray: the same output, failures that stop no other, full disks, two runs at once.

pytest tests/test_executors.py
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, fingerprint, kill_when, metrics, refusal, run, start
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from tiny_warc import page, prose, record, write_warc

import crawl2chat.executors
from crawl2chat.executors import ClusterConfig, WholeFiles, run_pipeline
from crawl2chat.stage import StageError, read_run

FILTER = "data_processing/2_filter_pages.py"
DEDUPLICATE = "data_processing/3_deduplicate.py"
GERMAN = "Der Bäcker hat am Morgen das Brot in den Ofen geschoben, und die Kinder sind zur Schule gegangen. " * 6


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    """Four WARC files; nothing of the third is kept."""
    folder = tmp_path_factory.mktemp("crawl")
    for number in range(4):
        texts = [GERMAN] * 3 if number == 2 else [prose(100 * number + i) for i in range(20)] + [prose(7)]
        records = [record(f"http://site{number}.test/{i}", page(text)) for i, text in enumerate(texts)]
        write_warc(folder / f"part-{number}.warc.gz", records)
    return folder


@pytest.fixture(scope="module")
def expected(crawl, tmp_path_factory) -> Path:
    """What one worker on this machine makes of it."""
    out = tmp_path_factory.mktemp("expected")
    run(FILTER, "--warc", crawl, "--output_dir", out / "2", "--num_workers", 1)
    run(DEDUPLICATE, "--pages", out / "2", "--output_dir", out / "3", "--num_workers", 1)
    return out


@pytest.fixture(scope="module", autouse=True)
def steps_of_this_file_can_be_imported():
    """By jobs and nodes, which take the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def ray_cluster():
    """Two nodes of one processor on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'crawl2chat[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, memory=4 * 2**30, object_store_memory=80 * 2**20, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


SBATCH = """#!/bin/bash
# Runs an array in the background, two tasks at a time; it is in the queue as long as its file is in $SLURM.
echo "$@" >> $SLURM/calls
for word; do [[ $word == --export=* ]] && offset=${word##*RUN_OFFSET=}; script=$word; done
cp "$script" $SLURM/script
name=$(sed -n 's/#SBATCH --job-name=//p' $script)
last=$(sed -nE 's/#SBATCH --array=0-([0-9]+).*/\\1/p' $script)
touch $SLURM/queue-$name
(
    sleep ${SLURM_DELAY:-0}
    for task in $(seq 0 $last); do
        SLURM_NODELIST=here RUN_OFFSET=$offset SLURM_ARRAY_TASK_ID=$task bash $SLURM/script >> $SLURM/log 2>&1 &
        (( task % 2 )) && wait
    done
    wait
    rm $SLURM/queue-$name
) > /dev/null 2>&1 &
echo Submitted batch job 7
"""
COMMANDS = {
    "sbatch": SBATCH,
    "squeue": '#!/bin/bash\nname="${@: -1}"; [[ ! -e $SLURM/queue-$name ]] || echo 7 R\n',
    "srun": '#!/bin/bash\nexec "${@:4}"\n',
    "scontrol": "#!/bin/bash\necho here\n",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Slurm's commands, by shell scripts that run a job on this machine; the folder where they note what was asked."""
    folder = tmp_path / "slurm"
    (folder / "bin").mkdir(parents=True)
    for name, text in COMMANDS.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(crawl2chat.executors, "SECONDS_BETWEEN_LOOKS", 0.2)
    return folder


ON_SLURM = ["--executor", "slurm", "--partition", "cpu", "--time_limit", "02:00:00", "--memory_gb", "3"]


# ---------------------------------------------------------------------------------------------------- the same output


def both_stages(crawl: Path, out: Path, *flags) -> None:
    run(FILTER, "--warc", crawl, "--output_dir", out / "2", "--num_workers", 2, *flags)
    run(DEDUPLICATE, "--pages", out / "2", "--output_dir", out / "3", "--num_workers", 2, *flags)


def assert_same(out: Path, expected: Path) -> None:
    for stage in ("2", "3"):
        assert fingerprint(out / stage) == fingerprint(expected / stage)
        ours, theirs = metrics(out / stage), metrics(expected / stage)
        assert {k: v for k, v in ours.items() if "seconds" not in k} == {
            k: v for k, v in theirs.items() if "seconds" not in k
        }
        assert not list(out.rglob("*.tmp")) and not list(out.rglob(".lock"))


def test_two_workers_on_a_loaded_machine(crawl, expected, tmp_path):
    load = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(2)]
    for process in load:
        process.start()
    try:
        both_stages(crawl, tmp_path)
    finally:
        for process in load:
            process.kill()
    assert_same(tmp_path, expected)


def _burn() -> None:
    while True:
        pass


def test_ray(crawl, expected, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Ray's workers stand elsewhere
    both_stages(crawl, Path("."), "--executor", "ray", "--memory_gb", 1)
    assert_same(tmp_path, expected)


def test_slurm(crawl, expected, tmp_path, slurm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both_stages(crawl, Path("out"), *ON_SLURM)
    assert_same(tmp_path / "out", expected)
    script = (tmp_path / "out" / "2" / "logs" / "launch_script.slurm").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.MULTILINE))
    assert {key: asked[key] for key in ("array", "partition", "time", "mem-per-cpu", "cpus-per-task", "nodes")} == {
        "array": "0-3%2", "partition": "cpu", "time": "02:00:00", "mem-per-cpu": "3G", "cpus-per-task": "1",
        "nodes": "1",
    }  # fmt: skip
    assert "qos" not in asked and subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert f"launch_pickled_pipeline {tmp_path}/out/2/logs/executor.pik" in script
    # filter; signatures, buckets, clusters, duplicates
    assert len((slurm / "calls").read_text().splitlines()) == 5


# ------------------------------------------------------------------------------------------------------ interruptions


def test_ray_killed_and_started_again(crawl, expected, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'crawl2chat[ray]'")
    # A process of its own starts a cluster of its own, and takes it along.
    flags = ["--warc", crawl, "--output_dir", tmp_path / "2", "--executor", "ray", "--memory_gb", 1]
    kill_when("logs/completions/*", FILTER, [*flags, "--num_workers", 1], tmp_path / "2")
    run(FILTER, "--warc", crawl, "--output_dir", tmp_path / "2")
    assert fingerprint(tmp_path / "2") == fingerprint(expected / "2")


def test_slurm_goes_on_without_the_stage_and_is_found_again(crawl, expected, tmp_path, slurm, monkeypatch):
    flags = ["--warc", crawl, "--output_dir", tmp_path / "2", *ON_SLURM]
    monkeypatch.setenv("SLURM_DELAY", "3")
    process = start(FILTER, *flags)
    wait_until(lambda: list(slurm.glob("queue-*")))
    process.kill()
    process.wait()
    run(FILTER, *flags)
    assert fingerprint(tmp_path / "2") == fingerprint(expected / "2")
    assert len((slurm / "calls").read_text().splitlines()) == 2  # for tdmrep.json, and for the pages; none twice


def test_workers_die_with_the_stage(crawl, tmp_path):
    process = start(FILTER, "--warc", crawl, "--output_dir", tmp_path / "2", "--num_workers", 2)
    wait_until(lambda: list((tmp_path / "2").glob("logs/logs/task_*")))
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    wait_until(lambda: not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE])
    assert children and not (tmp_path / "2" / "run.yaml").exists()


def wait_until(condition) -> None:
    deadline = time.time() + 60
    while not condition():
        assert time.time() < deadline, "it never came"
        time.sleep(0.002)


# ----------------------------------------------------------------------------------------------------------- failures


class Numbers(PipelineStep):
    """A hundred documents a task; a task with its number among `failing/` raises, or is killed, after half of them."""

    def __init__(self, failing: Path, output_dir: Path):
        super().__init__()
        self.failing, self.files = failing, WholeFiles(output_dir)

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        name = f"{rank:05d}.txt"
        with self.files.of_task(name):
            for number in range(100):
                self.stat_update("num_in")
                self.files.write(name, f"{rank} {number}\n".encode())
                if number == 50 and (self.failing / f"{rank}").exists():
                    if (self.failing / f"{rank}").read_text() == "killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise ValueError("fifty is too much")
                yield Document(text=str(number), id=str(number))


@pytest.mark.parametrize("executor", ["local", "ray", "slurm"])
def test_a_task_that_fails_or_is_killed_stops_no_other(executor, tmp_path, request):
    request.getfixturevalue({"local": "tmp_path", "ray": "ray_cluster", "slurm": "slurm"}[executor])
    cluster = ClusterConfig(executor, "cpu", memory_gb=1)
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / "0").write_text("raises")
    (tmp_path / "failing" / "2").write_text("killed")
    steps = [Numbers(tmp_path / "failing", tmp_path / "out")]
    arguments = (steps, 5, 2, tmp_path / "logs", cluster)
    with pytest.raises(StageError) as failed:
        run_pipeline(*arguments)
    assert "2 of 5 tasks failed: task 0 (ValueError: fifty is too much), task 2 (" in str(failed.value)
    whole = tmp_path / "out" / "00001.txt"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.txt")) == ["00001.txt", "00003.txt", "00004.txt"]
    assert "fifty is too much" in (tmp_path / "logs" / "failures" / "00000.txt").read_text()

    shutil.rmtree(tmp_path / "failing")
    before = whole.stat().st_mtime_ns
    assert run_pipeline(*arguments)[0]["num_in"] == 500
    assert whole.stat().st_mtime_ns == before
    for rank in range(5):
        lines = "".join(f"{rank} {number}\n" for number in range(100))
        assert (tmp_path / "out" / f"{rank:05d}.txt").read_text() == lines
    assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.parametrize("flags", [["--num_workers", 1], ["--num_workers", 2], ["--executor", "ray"], ON_SLURM])
def test_a_corrupt_file_stops_no_other_and_never_passes(flags, crawl, expected, tmp_path, capsys, request):
    if "ray" in flags or "slurm" in flags:
        request.getfixturevalue({"ray": "ray_cluster", "slurm": "slurm"}[flags[1]])
    shutil.copytree(crawl, tmp_path / "crawl")
    (tmp_path / "crawl" / "part-0.warc.gz").write_bytes(b"<html>502 Bad Gateway</html>")
    arguments = ["--warc", tmp_path / "crawl", "--output_dir", tmp_path / "2", *flags]
    said = refusal(capsys, FILTER, *arguments)
    assert "1 of 4 tasks failed: part-0.warc.gz (" in said and "is no WARC file" in said
    written = tmp_path / "2" / "pages" / "00001.parquet"
    assert written.read_bytes() == (expected / "2" / "pages" / "00001.parquet").read_bytes()
    assert not (tmp_path / "2" / "pages" / "00000.parquet").exists() and not (tmp_path / "2" / "run.yaml").exists()
    before = written.stat().st_mtime_ns
    refusal(capsys, FILTER, *arguments)
    assert written.stat().st_mtime_ns == before
    shutil.copy(crawl / "part-0.warc.gz", tmp_path / "crawl")  # fetched again
    run(FILTER, *arguments)
    assert written.stat().st_mtime_ns == before
    assert fingerprint(tmp_path / "2") == fingerprint(expected / "2")


def test_a_file_replaced_under_an_unfinished_run_is_read_again(crawl, expected, tmp_path, capsys):
    shutil.copytree(crawl, tmp_path / "crawl")
    (tmp_path / "crawl" / "part-0.warc.gz").write_bytes(b"<html>502 Bad Gateway</html>")
    shutil.copy(crawl / "part-3.warc.gz", tmp_path / "crawl" / "part-1.warc.gz")
    arguments = ["--warc", tmp_path / "crawl", "--output_dir", tmp_path / "2"]
    refusal(capsys, FILTER, *arguments)
    (tmp_path / "blocked.txt").write_text("site0.test\n")
    assert "holds a run with other" in refusal(capsys, FILTER, *arguments, "--block_lists", tmp_path / "blocked.txt")
    for name in ("part-0.warc.gz", "part-1.warc.gz"):
        shutil.copy(crawl / name, tmp_path / "crawl")
    run(FILTER, *arguments)
    assert fingerprint(tmp_path / "2") == fingerprint(expected / "2")
    (tmp_path / "crawl" / "part-3.warc.gz").unlink()
    assert "holds a run with other" in refusal(capsys, FILTER, *arguments)


def test_what_an_earlier_attempt_left_is_no_output(tmp_path):
    files = WholeFiles(tmp_path)
    for name in ("00000.jsonl", "00000.jsonl.tmp", "00001.jsonl"):
        (tmp_path / name).write_text("stale")
    with files.of_task("00000.jsonl"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["00001.jsonl"]


def test_slurm_refuses(crawl, tmp_path, slurm, capsys):
    arguments = ["--warc", crawl, "--output_dir", tmp_path / "2", "--executor", "slurm"]
    assert "needs --partition" in refusal(capsys, FILTER, *arguments)
    (slurm / "bin" / "sbatch").write_text("#!/bin/bash\necho invalid partition >&2\nexit 1\n")
    assert "sbatch refused" in refusal(capsys, FILTER, *arguments, "--partition", "none")
    (slurm / "bin" / "sbatch").unlink()
    assert "needs sbatch" in refusal(capsys, FILTER, *arguments, "--partition", "cpu")


def test_fewer_files_than_the_run_began_with(crawl, tmp_path):
    files = sorted(crawl.iterdir())
    run_pipeline([Numbers(tmp_path, tmp_path / "out")], 4, 1, tmp_path / "logs", files=files)
    with pytest.raises(StageError, match="there were 4 files and now are 3"):
        run_pipeline([Numbers(tmp_path, tmp_path / "out")], 3, 1, tmp_path / "logs", files=files[:3])


# ------------------------------------------------------------------------------------------- disk full, two runs at once


@pytest.mark.parametrize("num_workers", [1, 2])
def test_full_disk(num_workers, crawl, expected, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        arguments = ["--warc", crawl, "--output_dir", disk / "2", "--num_workers", num_workers]
        said = refusal(capsys, FILTER, *arguments)
        assert "No space left on device" in said and said.count("error:") == 1
        assert not (disk / "2" / "run.yaml").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        run(FILTER, *arguments)
        assert fingerprint(disk / "2") == fingerprint(expected / "2")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_runs_on_one_output(crawl, expected, tmp_path, capsys):
    arguments = ["--warc", crawl, "--output_dir", tmp_path / "2"]
    process = start(FILTER, *arguments)
    wait_until(lambda: (tmp_path / "2" / "started.yaml").exists())
    os.kill(process.pid, signal.SIGSTOP)  # it is at work as long as this test needs
    assert "another run is writing output_dir" in refusal(capsys, FILTER, *arguments)
    assert "another run is writing output_dir" in refusal(capsys, FILTER, *arguments, "--overwrite")
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait() == 0
    assert fingerprint(tmp_path / "2") == fingerprint(expected / "2")
    run(FILTER, *arguments)
    assert "up to date" in capsys.readouterr().err
    assert not (tmp_path / "2" / ".lock").exists()


def test_nothing_is_left_after_a_filter(crawl, expected):
    assert len(list((expected / "2" / "pages").iterdir())) == 3  # of four files
    counts = metrics(expected / "3")
    assert counts["num_pages_in"] == 63 and counts["num_dropped"] == {"same_text": 3}
    funnel = json.loads((expected / "3" / "funnel.json").read_text())
    assert funnel[0]["num_in"] == 66 and funnel[-1]["num_kept"] == 60


# -------------------------------------------------------------------------------------------------------------- costs


def test_costs_of_a_crawl(expected):
    command = [sys.executable, "benchmarks/scaling.py", expected / "2", expected / "3", "--num_pages", "66000"]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = {
        cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in table.splitlines()) if len(cells) > 4
    }
    kept, needed = rows["pages kept"]
    assert "95.5 % of pages read" in kept and "0 million pages" in needed  # 63 of 66
    assert float(rows["filter: processor time"][0].split()[0]) > 0.1
    assert 50 < float(rows["filter: peak memory of a task"][0].split()[0]) < 1000
    assert read_run(expected / "2")["peak_memory_mb"]["largest_child"] > 50  # of a task
    assert 448 <= int(rows["MinHash signatures"][0].split()[0]) < 470  # 112 hashes of 32 bits, and a file's header
    refused = subprocess.run(command[:2] + [expected], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and "is unfinished" in refused.stderr and "Traceback" not in refused.stderr

"""Where the tasks of a pipeline run: in processes of this machine, as a Slurm job array, or on a Ray cluster.

The tasks, their logs, statistics and completion marks are datatrove's. Its executors differ in what a failed task does:
the local one stops the others, Ray's ends well, and both wait for ever for a process that was killed. Here a task that
fails or is killed stops no other, the stage then ends with one sentence that names it, and a rerun does only what is
left. A task's files stand under their names only when they are whole. What a task writes depends on its input alone:
no executor, number of workers or interruption changes it.
"""

import getpass
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import multiprocess
from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.io import OutputFileManager, get_datafolder
from datatrove.pipeline.base import PipelineStep
from loguru import logger
from multiprocess.connection import wait

from crawl2chat.remote import RemoteFile
from crawl2chat.stage import StageError, bounded, peak_memory_mb, write_atomically

SECONDS_BETWEEN_LOOKS = 15.0  # at the queue of a shared cluster
MAX_NAMES_SHOWN = 5


@dataclass
class ClusterConfig:
    """Where the tasks of a stage run. Every node must see the input and output folders under the same paths."""

    executor: str = bounded("local", "local, slurm or ray.", choices=("local", "slurm", "ray"))
    partition: str | None = field(default=None, metadata={"help": "Slurm's; needed there."})
    time_limit: str = field(default="24:00:00", metadata={"help": "Of a task on Slurm."})
    memory_gb: int = bounded(2, "Of a task on Slurm and Ray.", low=1)

    def check(self) -> None:
        """Raises a `StageError` for what this executor lacks here."""
        if self.executor == "slurm":
            lacking = [name for name in ("sbatch", "squeue") if shutil.which(name) is None]
            if lacking:
                raise StageError(f"--executor slurm needs {' and '.join(lacking)}; start it on a login node.")
            if self.partition is None:
                raise StageError("--executor slurm needs --partition; `sinfo` lists them.")
        if self.executor == "ray" and importlib.util.find_spec("ray") is None:
            raise StageError("--executor ray needs Ray; `pip install 'crawl2chat[ray]'` on every node.")


class WholeFiles(OutputFileManager):
    """The files a step writes for a task: `<name>.tmp` until the step ends without an error, then flushed and renamed."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute()
        super().__init__(get_datafolder(str(self.folder)), mode="wb", compression=None)

    def get_file(self, filename: str):
        if filename not in self._output_files:
            self._output_files[filename] = self.fs.open(f"{filename}.tmp", mode="wb")
        return self._output_files[filename]

    @contextmanager
    def of_task(self, *names: str) -> Iterator[None]:
        """Within it the files `names` may be written. What an interrupted run left of them is deleted first."""
        paths = [(self.folder / f"{name}.tmp", self.folder / name) for name in names]
        for path in (path for pair in paths for path in pair):
            path.unlink(missing_ok=True)
        try:
            yield
        finally:
            self.close()
        for temporary, path in paths:
            if temporary.exists():
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)


class _Noting(PipelineExecutor):
    """Notes what a task took in `usage/`, why it failed in `failures/`; keeps datatrove's log lines in the log files."""

    def note_of(self, rank: int) -> Path:
        return Path(self.logging_dir.resolve_paths(f"failures/{rank:05d}.txt"))

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1):
        self.note_of(rank).unlink(missing_ok=True)
        logger.enable("datatrove")
        logger.disable("datatrove.executor.base")  # it shows every failure on the console
        started = time.process_time()
        try:
            stats = super()._run_for_rank(rank, 1, node_rank)  # tasks other than 0 are quiet
            self._write_usage(rank, time.process_time() - started)
            return stats
        except Exception as error:
            with suppress(OSError):  # on a full disk there is no note either
                self.note_of(rank).parent.mkdir(exist_ok=True)
                self.note_of(rank).write_text(f"{_in_a_line(error)}\n\n{traceback.format_exc()}", encoding="utf-8")
            raise
        finally:
            logger.enable("datatrove.executor.base")

    def _write_usage(self, rank: int, cpu_seconds: float) -> None:
        note = Path(self.logging_dir.resolve_paths(f"usage/{rank:05d}.json"))
        note.parent.mkdir(exist_ok=True)
        write_atomically(note, json.dumps({"cpu_seconds": cpu_seconds, "peak_mb": peak_memory_mb()}))


class Executor(_Noting, LocalPipelineExecutor):
    """A pipeline and its tasks, which can be sent to another process."""

    def __init__(self, steps: list[PipelineStep], tasks: int, logging_dir: Path):
        super().__init__(steps, tasks=tasks, logging_dir=str(logging_dir))

    def run_task(self, rank: int) -> str:
        """Runs one task; returns why it failed, in a line, or ""."""
        try:
            self._run_for_rank(rank)
        except Exception as error:
            return _in_a_line(error)
        return ""


class SlurmExecutor(_Noting, SlurmPipelineExecutor):
    """A pipeline whose tasks are a job array."""

    def launch_merge_stats(self) -> None:
        """No job for it: `run_pipeline` adds the statistics up."""


def run_pipeline(
    steps: list[PipelineStep],
    tasks: int,
    num_workers: int,
    logging_dir: Path,
    cluster: ClusterConfig | None = None,
    files: Sequence[Path | RemoteFile] = (),
) -> list[dict]:
    """Runs a pipeline, or what is left of it, and returns the statistics of its steps, summed over all tasks.

    Args:
        num_workers: how many tasks run at a time.
        files: what each task reads, if that is one file; an error names it, and a task whose file was replaced since it
            was done is done again.

    Raises:
        StageError: tasks failed; all others are done.
    """
    executor = Executor(steps, tasks, logging_dir)
    if files:
        _forget_replaced(files, logging_dir)
    if ranks := executor.get_incomplete_ranks():
        cluster = cluster or ClusterConfig()
        if cluster.executor == "slurm":
            reasons = _run_on_slurm(executor, cluster, num_workers)
        elif cluster.executor == "ray":
            reasons = _run_on_ray(executor, ranks, cluster, num_workers)
        elif tasks == 1:
            reasons = {0: executor.run_task(0)}
        else:
            reasons = _run_locally(executor, ranks, num_workers)
        failed = executor.get_incomplete_ranks()
        if failed:
            shown = [
                f"{files[rank].name if files else f'task {rank}'} ({reasons.get(rank) or 'it ended without a word'})"
                for rank in failed[:MAX_NAMES_SHOWN]
            ]
            more = f" and {len(failed) - len(shown)} more" if len(failed) > len(shown) else ""
            raise StageError(
                f"{len(failed)} of {tasks} tasks failed: {', '.join(shown)}{more}; the others are done. {logging_dir} "
                "has the logs; mend the cause and start again, and only what failed is run."
            )
    # Not what datatrove's executors return: that leaves out the tasks an earlier, killed run had finished.
    totals: list[Counter] = [Counter() for _ in steps]
    for rank in range(tasks):
        for total, step in zip(totals, json.loads((logging_dir / "stats" / f"{rank:05d}.json").read_text())):
            numbers = {"seconds": step["time_stats"], **step["stats"]}
            total.update({k: v["total"] if isinstance(v, dict) else v for k, v in numbers.items()})
    return [dict(total) for total in totals]


def _forget_replaced(files: Sequence[Path | RemoteFile], logging_dir: Path) -> None:
    """Deletes the completion marks of tasks whose file has another name, size or version than when it was read."""
    stamps = [[file.name, *_size_and_version(file)] for file in files]
    listing = logging_dir / "files.json"
    read = json.loads(listing.read_text()) if listing.is_file() else stamps
    if len(read) > len(stamps):
        raise StageError(f"there were {len(read)} files and now are {len(stamps)}; begin anew with --overwrite.")
    for rank, (old, new) in enumerate(zip(read, stamps)):
        if old != new:
            (logging_dir / "completions" / f"{rank:05d}").unlink(missing_ok=True)
    logging_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(listing, json.dumps(stamps))


def _size_and_version(file: Path | RemoteFile) -> tuple[int, int | str]:
    if isinstance(file, RemoteFile):
        return file.size, file.version
    return file.stat().st_size, file.stat().st_mtime_ns


def _run_locally(executor: Executor, ranks: list[int], num_workers: int) -> dict[int, str]:
    """Each task in a process of its own: one that is killed is seen, and memory does not grow from file to file."""
    context = multiprocess.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *{type(step).__module__ for step in executor.pipeline}])

    def start(rank: int):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send_reason, args=(executor, rank, sender), daemon=True)
        process.start()
        sender.close()
        processes[receiver] = process
        return receiver

    def reason(receiver) -> str:
        try:
            return receiver.recv()
        except EOFError:
            processes[receiver].join()
            return f"its process ended with code {processes[receiver].exitcode}"
        finally:
            processes.pop(receiver).join()

    processes: dict = {}
    return _run_all(ranks, num_workers, start, wait, reason)


def _send_reason(executor: Executor, rank: int, sender) -> None:
    def die_with_parent():
        wait([multiprocess.parent_process().sentinel])
        os._exit(1)  # or it would write on beside the next run

    threading.Thread(target=die_with_parent, daemon=True).start()
    sender.send(executor.run_task(rank))


def _run_on_ray(executor: Executor, ranks: list[int], cluster: ClusterConfig, num_workers: int) -> dict[int, str]:
    """Each task as one of Ray's, which repeats it if its node is lost."""
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")

    def run_task(folder: str, shared: list, rank: int) -> str:
        os.chdir(folder)  # before the paths are unpacked, as they may be relative
        return ray.get(shared[0]).run_task(rank)

    resources = {"num_cpus": 1, "memory": cluster.memory_gb * 2**30}
    remote = ray.remote(run_task).options(**resources, max_retries=3)
    folder, shared = os.getcwd(), [ray.put(executor)]

    def reason(task) -> str:
        try:
            return ray.get(task)
        except ray.exceptions.RayError as error:
            return _in_a_line(getattr(error, "cause", None) or error)

    def start(rank: int):
        return remote.remote(folder, shared, rank)

    return _run_all(ranks, num_workers, start, lambda tasks: ray.wait(tasks)[0], reason)


def _run_all(ranks: list[int], num_workers: int, start: Callable, wait: Callable, reason: Callable) -> dict[int, str]:
    """Runs tasks, `num_workers` at a time; returns for each why it failed, or ""."""
    waiting, running, reasons = list(ranks), {}, {}
    while waiting or running:
        while waiting and len(running) < num_workers:
            rank = waiting.pop(0)
            running[start(rank)] = rank
        for task in wait(list(running)):
            reasons[running.pop(task)] = reason(task)
    return reasons


def _run_on_slurm(executor: Executor, cluster: ClusterConfig, num_workers: int) -> dict[int, str]:
    """Submits a job array, unless an earlier, interrupted run did, and waits until it has left the queue.

    Slurm may limit the size of an array; datatrove then submits several, one after the other.
    """
    logs = Path(executor.logging_dir.resolve_paths("")).absolute()
    name = f"crawl2chat-{hashlib.sha256(str(logs).encode()).hexdigest()[:12]}"  # by it the array is found again
    if not _is_queued(name):
        binaries = shlex.quote(str(Path(sys.executable).parent))
        array = SlurmExecutor(
            executor.pipeline,
            executor.tasks,
            cluster.time_limit,
            cluster.partition,
            mem_per_cpu_gb=cluster.memory_gb,
            workers=num_workers,
            job_name=name,
            qos="",
            env_command=f"export PATH={binaries}:$PATH",
            logging_dir=str(logs),
        )
        try:
            array.launch_job()
        except subprocess.CalledProcessError as error:
            raise StageError(f"sbatch refused {logs / 'launch_script.slurm'}, as it says above.") from error
    while _is_queued(name):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if executor.get_incomplete_ranks():
        time.sleep(SECONDS_BETWEEN_LOOKS)  # a shared file system may show a node's files some seconds later
    notes = {rank: executor.note_of(rank) for rank in executor.get_incomplete_ranks()}
    return {rank: note.read_text().partition("\n")[0] for rank, note in notes.items() if note.is_file()}


def _is_queued(name: str) -> bool:
    """Whether jobs of that name wait or run. A controller that does not answer has not ended them."""
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--name", name]
    listed = subprocess.run(command, capture_output=True, text=True)
    return listed.returncode != 0 or bool(listed.stdout.strip())


def _in_a_line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:300]
    return first if isinstance(error, StageError) else f"{type(error).__name__}: {first}"

"""The stage contract: every script of the path is checked, started, resumed and finished by this one file.

A stage is a script with a flat YAML beside it. It ends in

    if __name__ == "__main__":
        run_stage(main, FilterConfig, inputs=lambda config: [config.warc], preflight=preflight)

and `run_stage` then

1. parses, strictly: dataclass default < YAML (`--config`) < flag; all unknown keys, wrong types and values out of
   range are reported together (`parsing.py`);
2. calls `preflight(*configs)`, which returns facts to show (sizes, parameter counts) and raises `StageError` for what
   would fail later; with `--dry_run` it prints them with the resolved config and stops there;
3. compares with what `output_dir` holds: finished with the same config and inputs -> "up to date", and done; finished
   or begun with others -> refused, unless `--overwrite`; begun with the same -> resumed; while one run writes there,
   which a lock on `.lock` says that dies with its process, a second is refused;
4. calls `main(*configs)`, which returns the metrics;
5. writes `metrics.json` and then `run.yaml` (config, versions, commit, fingerprints, time, memory, hardware), by temp
   file and rename. `run.yaml` is the done-marker: a folder without it is unfinished, and no later stage reads it.
"""

import atexit
import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from crawl2chat.machine import commit, hardware, largest_child_mb, peak_memory_mb, versions
from crawl2chat.parsing import SECRETS, StageError, bounded, missing, parse, raise_all, resolved
from crawl2chat.remote import RemoteFiles

__all__ = [
    "StageArguments",
    "StageError",
    "bounded",
    "fingerprint",
    "hardware",
    "missing",
    "parse",
    "peak_memory_mb",
    "read_run",
    "resolved",
    "run_stage",
    "write_atomically",
    "write_jsonl",
]

DONE = "run.yaml"
STARTED = "started.yaml"
LOCK = ".lock"
# Never part of a folder's fingerprint: they hold times or the folder's own name, or are there only to resume from.
VOLATILE = ("logs", "checkpoint-*", "runs", "metrics.json", "README.md", "funnel.html", "tokenizer.html")
VOLATILE += ("thoughts.html", "report.html")
VOLATILE += (DONE, STARTED, LOCK, "*.tmp")
# Fields that do not change what a stage writes, so a rerun may differ in them and still be "up to date".
SHOWN = {"disable_tqdm", "log_level", "log_level_replica", "report_to"}  # two of them default to the terminal's state
NEUTRAL = {"output_dir", "logging_dir", "run_name", "num_workers", "local_rank", "push_to_hub"} | SHOWN
NEUTRAL |= {"collapse_steps"}  # when it would be given up
NEUTRAL |= {"executor", "partition", "time_limit", "memory_gb"}  # where it runs
NEUTRAL |= {"estimate_for", "estimated_mfu", "dollars_per_hour"}  # what it may cost
NEUTRAL |= {"requests_per_second", "max_tries", "stall_seconds"}  # how files are fetched, not which


@dataclass
class StageArguments:
    """Flags that every stage takes."""

    overwrite: bool = field(default=False, metadata={"help": "Delete what an earlier run wrote to output_dir; run."})
    dry_run: bool = field(default=False, metadata={"help": "Check everything, print the plan, and stop."})


def run_stage(
    main: Callable[..., dict],
    *config_types: type,
    inputs: Callable[..., Iterable[str | Path | RemoteFiles]] = lambda *configs: (),
    inputs_by_task: Callable[..., Iterable[str | Path | RemoteFiles]] = lambda *configs: (),
    preflight: Callable[..., dict] = lambda *configs: {},
    argv: list[str] | None = None,
) -> None:
    """Parses, checks and runs one stage (see the file's docstring). Exits with code 2 on a `StageError`.

    Args:
        main: takes one instance of each of `config_types`, returns metrics (a JSON-able dict).
        config_types: dataclasses; exactly one of them has the field `output_dir`.
        inputs: the files and folders the stage reads, given the configs; an empty one is left to `preflight`.
        inputs_by_task: those of them whose changes an unfinished run may meet, as it does the tasks again that read them.
        preflight: facts to print before the start, given the configs.
    """
    name, code = Path(sys.argv[0]).stem, 0
    try:
        *configs, arguments = parse(argv if argv is not None else sys.argv[1:], *config_types, StageArguments)
        config = resolved(*configs)
        named = [path for path in inputs(*configs) if path]
        local = [Path(path) for path in named if not isinstance(path, RemoteFiles)]
        paths = _checked_inputs(local, Path(config["output_dir"]))
        paths += [path for path in named if isinstance(path, RemoteFiles)]
        facts = preflight(*configs)
        ours = {"stage": name, "config": config, "inputs": {str(path): fingerprint(path) for path in paths}}
        ours["command"] = _command(argv if argv is not None else sys.argv[1:])
        ours["by_task"] = [str(path) for path in inputs_by_task(*configs)]
        if arguments.dry_run:
            plan = {"stage": name, "output": _standing(ours, arguments.overwrite), "plan": facts, "config": config}
            if _is_main_process():
                sys.stdout.write(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))
        else:
            with ExitStack() as held:
                if _agreed(lambda: _begin(ours, arguments.overwrite, held)):
                    _finish(ours, main, configs)
    except (StageError, OSError) as error:
        if isinstance(error, OSError):
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            error = (
                f"{error.strerror} in output_dir {config['output_dir']}; free some and start again: it goes on there."
            )
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine
            sys.stderr.write(f"{name}: error: {error}\n")
        code = 2
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        if torch.distributed.get_world_size() > 1:
            leave(code)
        torch.distributed.destroy_process_group()
    if code:
        sys.exit(code)


def leave(code: int) -> NoReturn:
    """Ends one of several processes without the interpreter's teardown, in which gloo's threads now and then abort it."""
    if code == 0:
        sys.modules["torch"].distributed.barrier()  # the others may still need this one
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _command(argv: list[str]) -> str:
    """How this stage was started; secrets left out."""
    shown, before = ["python", os.path.relpath(sys.argv[0])], ""
    for word in argv:
        flag, equals, _ = word.partition("=")
        is_secret = equals and flag.removeprefix("--") in SECRETS
        shown.append("***" if before.removeprefix("--") in SECRETS else f"{flag}=***" if is_secret else word)
        before = word
    return shlex.join(shown)


def read_run(folder: str | Path) -> dict:
    """The `run.yaml` of a finished stage.

    Raises:
        StageError: the folder is missing or unfinished.
    """
    marker = Path(folder) / DONE
    if not marker.is_file():
        state = "is unfinished (no run.yaml)" if Path(folder).is_dir() else "does not exist"
        raise StageError(f"{folder} {state}; run the stage that writes it first.")
    return yaml.safe_load(marker.read_text(encoding="utf-8"))


def fingerprint(path: str | Path | RemoteFiles) -> str:
    """A short SHA-256 of a file's content, or a folder's names and contents; a finished stage's is read, not made."""
    if isinstance(path, RemoteFiles):
        return path.fingerprint  # of names and versions
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    elif (path / DONE).is_file():
        return read_run(path)["fingerprint"]
    else:
        for file in sorted(path.rglob("*")):
            parts = [Path(part) for part in file.relative_to(path).parts]
            if file.is_file() and not any(part.match(pattern) for part in parts for pattern in VOLATILE):
                digest.update(f"{file.relative_to(path).as_posix()}\0{fingerprint(file)}\0".encode())
    return digest.hexdigest()[:16]


def write_atomically(path: str | Path, text: str | Iterable[str]) -> None:
    """Writes a whole file or none, of one text or its parts: temp file in the same folder, flushed to disk, then renamed."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes one JSON object a line, the whole file or none."""
    write_atomically(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _checked_inputs(paths: list[Path], output_dir: Path) -> list[Path]:
    problems = []
    for path in paths:
        folders = (path, *path.absolute().parents)  # a file of an unfinished folder is unfinished, too
        unfinished = [folder for folder in folders if (folder / STARTED).is_file() and not (folder / DONE).is_file()]
        if not path.exists():
            problems.append(f"input {path} does not exist; check the path, or run the stage that writes it first.")
        elif path.resolve().is_relative_to(output_dir.resolve()):
            problems.append(f"input {path} lies in output_dir {output_dir}; choose another output_dir.")
        elif unfinished:
            problems.append(f"input {path} is unfinished (no {DONE}); run the stage that writes it again first.")
    raise_all(problems)
    return paths


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _agreed(decide: Callable[[], Any]) -> Any:
    """What `decide()` returns or refuses on the main process, told to all: none may look while another writes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return decide()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    started = int(os.environ["WORLD_SIZE"])
    joined = PartialState(cpu=not torch.accelerator.is_available()).num_processes
    if started != joined:  # else each would train alone and write over the others
        raise StageError(f"{started} processes were started but {joined} train together; on processors use --use_cpu.")

    decision, refusal = None, None
    if _is_main_process():
        try:
            decision = decide()
        except StageError as error:
            refusal = str(error)
    decision, refusal = broadcast_object_list([decision, refusal])
    if refusal:
        raise StageError(refusal)
    return decision


def _standing(ours: dict, overwrite: bool) -> str:
    """What `output_dir` is to this run: "new", "unfinished", "up to date", or "to be overwritten".

    Raises:
        StageError: it holds something else, which stays untouched.
    """
    folder = Path(ours["config"]["output_dir"])
    if folder.exists() and not folder.is_dir():
        raise StageError(f"output_dir {folder} is a file; choose another path.")
    for marker in (DONE, STARTED):
        theirs = yaml.safe_load((folder / marker).read_text(encoding="utf-8")) if (folder / marker).is_file() else None
        if not isinstance(theirs, dict) or "stage" not in theirs:  # another program's file of that name
            continue
        if overwrite:
            return "to be overwritten"
        if differences := _differences(theirs, ours, marker == STARTED):
            raise StageError(
                f"output_dir {folder} holds a run with other {'; '.join(differences)}. "
                "Choose another output_dir, or delete that run with --overwrite."
            )
        return "up to date" if marker == DONE else "unfinished"
    if folder.is_dir() and any(child.name not in (LOCK, f"{STARTED}.tmp") for child in folder.iterdir()):
        raise StageError(f"output_dir {folder} is not empty and was not written by a stage; choose another path.")
    return "new"


def _lock(folder: Path, held: ExitStack) -> None:
    """Takes the folder for this process until `held` ends, or the process does.

    Raises:
        StageError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = held.enter_context((folder / LOCK).open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = (folder / LOCK).exists() and os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat())
    except BlockingIOError:
        ours = False
    except OSError as error:  # some cluster file systems are mounted without locks
        _say(f"{folder} cannot be locked ({error.strerror}); see to it yourself that no second run writes there.")
        return
    if not ours:
        raise StageError(f"another run is writing output_dir {folder}; wait for it, or choose another path.")
    held.callback((folder / LOCK).unlink, missing_ok=True)  # before the file is closed


def _begin(ours: dict, overwrite: bool, held: ExitStack) -> bool:
    """Locks `output_dir` and marks it as begun; False if it is already up to date."""
    name, folder = ours["stage"], Path(ours["config"]["output_dir"])
    if _standing(ours, overwrite) != "up to date":
        _lock(folder, held)
    standing = _standing(ours, overwrite)  # again: a run that had the lock may have ended
    if standing == "up to date":
        _say(f"{name}: {folder} is up to date.")
        return False
    if standing == "unfinished":
        _say(f"{name}: going on with the unfinished run in {folder}.")
    if standing == "to be overwritten":
        # Killed while deleting, what is left must pass for no run's: neither whole nor to be resumed.
        write_atomically(folder / STARTED, yaml.safe_dump({"stage": "half deleted"}))
        (folder / DONE).unlink(missing_ok=True)
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name not in (STARTED, LOCK):
                child.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    ours["seconds_before"] = _seconds_spent(folder) if standing == "unfinished" else 0.0
    write_atomically(folder / STARTED, yaml.safe_dump(ours, sort_keys=False))
    return True


def _seconds_spent(folder: Path) -> float:
    """What an interrupted run took, as far as its files tell: from its start to the last of them."""
    started = folder / STARTED
    last = max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
    return yaml.safe_load(started.read_text()).get("seconds_before", 0.0) + last - started.stat().st_mtime


def _differences(theirs: dict, ours: dict, unfinished: bool) -> list[str]:
    if theirs["stage"] != ours["stage"]:
        return [f"stage ({theirs['stage']}, not {ours['stage']})"]

    by_task = {*ours["by_task"], *theirs.get("by_task", [])} if unfinished else set()

    def what_counts(run: dict) -> dict:
        """Of an input the content, and not the path it was reached by."""
        config = {k: v for k, v in run["config"].items() if k not in NEUTRAL and str(v) not in run["inputs"]}
        digests = [digest for path, digest in run["inputs"].items() if path not in by_task]
        return config | {f"input {i + 1}": digest for i, digest in enumerate(digests)}

    old, new = what_counts(theirs), what_counts(ours)
    return [
        f"{key} ({old.get(key)!r}, not {new.get(key)!r})" for key in {**old, **new} if old.get(key) != new.get(key)
    ]


def _finish(ours: dict, main: Callable, configs: list) -> None:
    folder, started_at = Path(ours["config"]["output_dir"]), time.time()
    _say(f"{ours['stage']}: writing {folder}")
    metrics = main(*configs)
    _agreed(lambda: None)  # every process has written its part
    if not _is_main_process():
        return
    seconds = ours["seconds_before"] + time.time() - started_at
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    # Tasks are no children of this process; each notes what it took.
    tasks = [json.loads(file.read_text())["peak_mb"] for file in (folder / "logs").glob("**/usage/*.json")]
    record = {
        "stage": ours["stage"],
        "command": ours["command"],
        "seconds": round(seconds, 1),
        "peak_memory_mb": {
            "process": round(peak_memory_mb()),
            "largest_child": round(max([largest_child_mb(), *tasks])),
        },
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": fingerprint(folder),
        "inputs": ours["inputs"],
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
        "config": ours["config"],
    }
    write_atomically(folder / DONE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    (folder / STARTED).unlink()
    _say(f"{ours['stage']}: done in {seconds:.1f} s")


def _say(line: str) -> None:
    if _is_main_process():
        sys.stderr.write(line + "\n")

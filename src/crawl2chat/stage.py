"""The stage contract: every script of the path is parsed, checked, started, resumed and finished by this one file.

A stage is a script with a flat YAML beside it. It ends in

    if __name__ == "__main__":
        run_stage(main, FilterConfig, inputs=lambda config: [config.warc], preflight=preflight)

and `run_stage` then

1. parses, strictly: dataclass default < YAML (`--config`) < flag; all unknown keys, wrong types and values out of range
   are reported together;
2. calls `preflight(*configs)`, which returns facts to show (sizes, parameter counts) and raises `StageError` for what
   would fail later; with `--dry_run` it prints them with the resolved config and stops there;
3. compares with what `output_dir` holds: finished with the same config and inputs -> "up to date", and done; finished or
   begun with others -> refused, unless `--overwrite`; begun with the same -> resumed;
4. calls `main(*configs)`, which returns the metrics;
5. writes `metrics.json` and then `run.yaml` (config, versions, commit, fingerprints, time, memory, hardware), by temp
   file and rename. `run.yaml` is the done-marker: a folder without it is unfinished, and no later stage reads it.
"""

import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

DONE = "run.yaml"
STARTED = "started.yaml"
# Never part of a folder's fingerprint: they hold times, or are there only to resume from.
VOLATILE = ("logs", "checkpoint-*", "runs", "metrics.json", DONE, STARTED, "*.tmp")
# Fields that do not change what a stage writes, so a rerun may differ in them and still be "up to date".
NEUTRAL = {"overwrite", "dry_run", "output_dir", "logging_dir", "run_name", "num_workers", "hub_token", "push_to_hub"}
# Bounds of the fields we use from transformers and TRL, which check some of them late and some not at all.
LIBRARY_BOUNDS = {
    "learning_rate": (0.0, None),
    "max_steps": (-1, None),
    "num_train_epochs": (0.0, None),
    "per_device_train_batch_size": (1, None),
    "per_device_eval_batch_size": (1, None),
    "gradient_accumulation_steps": (1, None),
    "save_steps": (1, None),
    "save_total_limit": (1, None),
    "logging_steps": (1, None),
    "weight_decay": (0.0, None),
    "warmup_steps": (0, None),
    "max_grad_norm": (0.0, None),
    "max_length": (1, None),
    "num_generations": (2, None),
    "max_completion_length": (1, None),
    "temperature": (0.0, None),
    "beta": (0.0, None),
    "seed": (0, 2**32 - 1),
}


class StageError(ValueError):
    """What the user gave cannot work. The message names what, which value, and the remedy; shown without a traceback."""


@dataclass
class StageArguments:
    """Flags that every stage takes."""

    overwrite: bool = field(default=False, metadata={"help": "Delete what an earlier run wrote to output_dir, and run."})
    dry_run: bool = field(default=False, metadata={"help": "Check everything, print the plan, and stop."})


def bounded(default: Any, help: str, low: float | None = None, high: float | None = None, choices: Iterable = ()):
    """A dataclass field with a default, a help text, and bounds (inclusive) or choices that `run_stage` checks."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "among": tuple(choices)})


def run_stage(
    main: Callable[..., dict],
    *config_types: type,
    inputs: Callable[..., Iterable[str | Path]] = lambda *configs: (),
    preflight: Callable[..., dict] = lambda *configs: {},
    argv: list[str] | None = None,
) -> None:
    """Parses, checks and runs one stage (see the file's docstring). Exits with code 2 on a `StageError`.

    Args:
        main: takes one instance of each of `config_types`, returns metrics (a JSON-able dict).
        config_types: dataclasses; exactly one of them has the field `output_dir`.
        inputs: the files and folders the stage reads, given the configs.
        preflight: facts to print before the start, given the configs.
    """
    name = Path(sys.argv[0]).stem
    try:
        *configs, arguments = parse(argv if argv is not None else sys.argv[1:], *config_types, StageArguments)
        paths = [Path(path) for path in inputs(*configs)]
        fingerprints = {str(path): fingerprint(path) for path in _checked_inputs(paths)}
        facts = preflight(*configs)
        config = resolved(*configs)
        if arguments.dry_run:
            sys.stdout.write(yaml.safe_dump({"stage": name, "plan": facts, "config": config}, sort_keys=False))
            return
        if _open(name, config, fingerprints, arguments.overwrite):
            _finish(name, config, fingerprints, main, configs)
    except StageError as error:
        sys.exit(f"{name}: error: {error}" if _is_main_process() else 2)


# ---------------------------------------------------------------------------------------------------------------------
# Parsing and checking


def parse(argv: list[str], *config_types: type) -> tuple:
    """Instances of `config_types` from dataclass defaults < the YAML named by `--config` < flags, all checked.

    Raises:
        StageError: one message with every problem found.
    """
    from trl import TrlParser

    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    problems = []
    if "--config" in argv:
        position = argv.index("--config") + 1
        if position == len(argv):
            raise StageError("--config needs the path of a YAML file.")
        problems += _yaml_problems(Path(argv[position]), config_types)
        problems += _flag_problems(argv[: position - 1] + argv[position + 1 :], config_types)
    else:
        problems += _flag_problems(argv, config_types)
    _raise(problems)

    class Parser(TrlParser):
        def add_argument(self, *names, low=None, high=None, among=None, **options):
            """argparse would refuse the bounds that fields carry."""
            return super().add_argument(*names, **options)

    parser = Parser(config_types)
    parser.error = lambda message: _raise([message])
    try:
        configs = parser.parse_args_and_config(args=argv)
    except StageError:
        raise
    except (ValueError, TypeError) as error:
        raise StageError(str(error)) from error
    # Only now are relations between fields known: each config may have `problems() -> list[str]`.
    for config in configs:
        problems += getattr(config, "problems", list)()
    _raise(problems)
    return tuple(configs)


def _raise(problems: list[str]) -> None:
    if len(problems) == 1:
        raise StageError(problems[0])
    if problems:
        raise StageError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _known_fields(config_types: Iterable[type]) -> dict[str, tuple[Any, dataclasses.Field]]:
    known = {}
    for config_type in config_types:
        hints = typing.get_type_hints(config_type)
        known.update({f.name: (hints[f.name], f) for f in dataclasses.fields(config_type) if f.init})
    return known


def _yaml_problems(path: Path, config_types: Iterable[type]) -> list[str]:
    if not path.is_file():
        return [f"--config {path}: no such file."]
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return [f"{path} is not YAML: {' '.join(str(error).split())}."]
    if not isinstance(values, dict):
        return [f"{path} must hold one `key: value` a line, not {type(values).__name__}."]
    known, problems = _known_fields(config_types), []
    for key, value in values.items():
        if key not in known:
            problems.append(f"unknown key `{key}` in {path}{_did_you_mean(key, known)}.")
        else:
            problems += _value_problems(key, value, *known[key], where=str(path))
    return problems


def _flag_problems(argv: list[str], config_types: Iterable[type]) -> list[str]:
    known, problems = _known_fields(config_types), []
    for position, word in enumerate(argv):
        if not word.startswith("--") or word in ("--", "--help"):
            continue
        key, _, value = word[2:].partition("=")
        key = key.replace("-", "_")
        following = argv[position + 1] if position + 1 < len(argv) else "--"
        if key not in known:
            if not (key.startswith("no_") and key[3:] in known):
                problems.append(f"unknown flag `--{key}`{_did_you_mean(key, known)}.")
        elif value or not following.startswith("--"):
            problems += _value_problems(key, _literal(value or following), *known[key], where="the command line")
    return problems


def _literal(word: str) -> Any:
    """What the YAML parser would make of a command-line word: `2.5` is a float, `true` a bool."""
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"; did you mean `{close[0]}`?" if close else "; see --help for the list"


def _value_problems(key: str, value: Any, hint: Any, spec: dataclasses.Field, where: str) -> list[str]:
    if isinstance(value, str) and float in _members(hint) and str not in _members(hint):
        try:  # YAML 1.1 reads 1e-3 as text
            value = float(value)
        except ValueError:
            pass
    if not _fits(value, hint):
        return [f"`{key}` must be {_hint_name(hint)}, but {where} gives {value!r}."]
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    if low is None and high is None:
        low, high = LIBRARY_BOUNDS.get(key, (None, None))
    if isinstance(value, int | float) and not isinstance(value, bool):
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"in [{low}, {high}]"
            return [f"`{key}` must be {bounds}, but {where} gives {value!r}."]
    among = spec.metadata.get("among")
    if among and value not in among:
        return [f"`{key}` must be one of {', '.join(map(str, among))}, but {where} gives {value!r}."]
    return []


def _members(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for member in _members(hint):
        origin = typing.get_origin(member) or member
        if origin is Any or member is type(None) and value is None:
            return True
        if origin is typing.Literal and value in typing.get_args(member):
            return True
        if origin is float and isinstance(value, int | float) and not isinstance(value, bool):
            return True
        if origin is int and isinstance(value, int) and not isinstance(value, bool):
            return True
        if origin is str and isinstance(value, str | int | float):  # a path such as 2024 is still text
            return True
        if origin in (bool, list, dict) and isinstance(value, origin):
            return True
        if origin is list and not isinstance(value, dict | list):  # one word of a list flag
            return True
        if isinstance(origin, type) and origin not in (bool, int, float, str, list, dict, type(None)):
            return True  # enums and the like: the library's own constructor judges
    return False


def _hint_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return " or ".join(names.get(member, getattr(member, "__name__", str(member))) for member in _members(hint))


def resolved(*configs: Any) -> dict:
    """Every field of every config as plain YAML types; secrets left out."""
    values = {}
    for config in configs:
        values.update({f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init})
    plain = json.loads(json.dumps(values, default=str))
    return {key: value for key, value in plain.items() if not key.endswith("token") or value is None}


# ---------------------------------------------------------------------------------------------------------------------
# The output folder


def read_run(folder: str | Path) -> dict:
    """The `run.yaml` of a finished stage.

    Raises:
        StageError: the folder is missing or unfinished.
    """
    marker = Path(folder) / DONE
    if not marker.is_file():
        state = "is unfinished (no run.yaml)" if Path(folder).is_dir() else "does not exist"
        raise StageError(f"{folder} {state}; run the stage that writes it first.")
    return yaml.safe_load(marker.read_text())


def fingerprint(path: str | Path) -> str:
    """A short SHA-256 of a file's content, or of a folder's names and contents; a finished stage's is read, not made."""
    path = Path(path)
    if path.is_file():
        return _digest_file(path)
    if (path / DONE).is_file():
        return read_run(path)["fingerprint"]
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path)
        if file.is_file() and not any(part.match(pattern) for part in map(Path, relative.parts) for pattern in VOLATILE):
            digest.update(f"{relative.as_posix()}\0{_digest_file(file)}\0".encode())
    return digest.hexdigest()[:16]


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256_of(file)


def _sha256_of(file: typing.BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()[:16]


def write_atomically(path: str | Path, text: str) -> None:
    """Writes a whole file or none: temp file in the same folder, flushed to disk, then renamed."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _checked_inputs(paths: list[Path]) -> list[Path]:
    problems = []
    for path in paths:
        if not path.exists():
            problems.append(f"input {path} does not exist; check the path, or run the stage that writes it first.")
        elif (path / STARTED).is_file() and not (path / DONE).is_file():
            problems.append(f"input {path} is unfinished (no {DONE}); run the stage that writes it again first.")
    _raise(problems)
    return paths


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _open(name: str, config: dict, fingerprints: dict, overwrite: bool) -> bool:
    """Marks `output_dir` as begun; False if it is already up to date."""
    folder = Path(config["output_dir"])
    if folder.exists() and not folder.is_dir():
        raise StageError(f"output_dir {folder} is a file; choose another path.")
    ours = {"stage": name, "config": config, "inputs": fingerprints}
    for marker in (DONE, STARTED):
        if not (folder / marker).is_file():
            continue
        differences = _differences(yaml.safe_load((folder / marker).read_text()) or {}, ours)
        if not differences and marker == DONE and not overwrite:
            _say(f"{name}: {folder} is up to date.")
            return False
        if differences and not overwrite:
            raise StageError(
                f"output_dir {folder} holds a run with other {'; '.join(differences)}. "
                "Choose another output_dir, or delete that run with --overwrite."
            )
        if overwrite and _is_main_process():
            shutil.rmtree(folder)
        break
    else:
        if folder.is_dir() and any(folder.iterdir()):
            raise StageError(f"output_dir {folder} is not empty and was not written by a stage; choose another path.")
    folder.mkdir(parents=True, exist_ok=True)
    if _is_main_process():
        if (folder / STARTED).is_file():
            _say(f"{name}: going on with the unfinished run in {folder}.")
        write_atomically(folder / STARTED, yaml.safe_dump(ours, sort_keys=False))
    return True


def _differences(theirs: dict, ours: dict) -> list[str]:
    if theirs.get("stage") != ours["stage"]:
        return [f"stage ({theirs.get('stage')}, not {ours['stage']})"]
    found = []
    for part in ("config", "inputs"):
        old, new = theirs.get(part) or {}, ours[part]
        if part == "inputs":  # what counts is the content, not the path it was reached by
            old, new = dict(enumerate(old.values())), dict(enumerate(new.values()))
        for key in sorted(set(old) | set(new), key=str):
            if key not in NEUTRAL and old.get(key) != new.get(key):
                label = key if part == "config" else f"input {list(ours['inputs'])[key] if key < len(new) else key}"
                found.append(f"{label} ({old.get(key)!r}, not {new.get(key)!r})")
    return found


def _finish(name: str, config: dict, fingerprints: dict, main: Callable, configs: list) -> None:
    folder, started_at = Path(config["output_dir"]), time.time()
    _say(f"{name}: writing {folder}")
    metrics = main(*configs)
    if not _is_main_process():
        return
    seconds = time.time() - started_at
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    record = {
        "stage": name,
        "seconds": round(seconds, 1),
        "peak_memory_mb": {
            "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "largest_child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        },
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": fingerprint(folder),
        "inputs": fingerprints,
        "hardware": hardware(),
        "versions": _versions(),
        "commit": _commit(),
        "config": config,
    }
    write_atomically(folder / DONE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
    (folder / STARTED).unlink()
    _say(f"{name}: done in {seconds:.1f} s")


def hardware() -> str:
    """One line: processor, cores, memory, and GPUs if torch was loaded and sees any."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    line = f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return line


def _versions() -> dict[str, str]:
    names = ["torch", "transformers", "tokenizers", "datasets", "accelerate", "trl", "peft", "deepspeed", "datatrove"]
    found = {"python": platform.python_version()}
    for name in ["crawl2chat", *names]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None


def _say(line: str) -> None:
    if _is_main_process():
        sys.stderr.write(line + "\n")

"""Dataclass default < YAML (`--config`) < flag, strictly: all unknown keys, wrong types, values out of range at once.

TRL's `TrlParser` does the parsing; what it lets pass (2.5 for a whole number, text for a list) is checked here first.
"""

import dataclasses
import difflib
import enum
import itertools
import json
import types
import typing
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml

# Never written anywhere.
SECRETS = {"hub_token", "token"}
COMMAND_LINE = "the command line"
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
    """What the user gave cannot work: the message names what, which value, and the remedy; shown without traceback."""


def bounded(default: Any, help: str, low: float | None = None, high: float | None = None, choices: Iterable = ()):
    """A dataclass field with a default, a help text, and bounds (inclusive) or choices that `run_stage` checks."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "among": tuple(choices)})


def parse(argv: list[str], *config_types: type) -> tuple:
    """Instances of `config_types` from dataclass defaults < the YAML named by `--config` < flags, all checked.

    Raises:
        StageError: one message with every problem found.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def add_argument(self, *names, low=None, high=None, among=None, **options):
            """argparse would refuse the bounds that fields carry, and take a `%` of a help text for a format."""
            options["help"] = (options.get("help") or "").replace("%%", "%").replace("%", "%%")
            return super().add_argument(*names, **options)

    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if not {"-h", "--help"} & set(argv):
        raise_all(_problems(argv, config_types))
    parser = Parser(config_types)
    parser.error = lambda message: raise_all([message])
    try:
        configs = parser.parse_args_and_config(args=argv)
    except StageError:
        raise
    except (ValueError, TypeError) as error:
        raise StageError(str(error)) from error
    # Only now are relations between fields known: each config may have `problems() -> list[str]`.
    raise_all([problem for config in configs for problem in getattr(config, "problems", list)()])
    return tuple(configs)


def missing(config: Any, *names: str) -> list[str]:
    """A problem for each of these fields that is empty; for configs whose other fields all have defaults."""
    return [f"--{name} is missing; name a folder." for name in names if not getattr(config, name)]


def raise_all(problems: list[str]) -> None:
    """Nothing if there is no problem; else one `StageError` with all of them."""
    if len(problems) == 1:
        raise StageError(problems[0])
    if problems:
        raise StageError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _problems(argv: list[str], config_types: Iterable[type]) -> list[str]:
    """What is wrong with the YAML and the flags, one sentence each."""
    known: dict[str, tuple[Any, dataclasses.Field]] = {}
    for config_type in config_types:
        hints = typing.get_type_hints(config_type)
        known.update({f.name: (hints[f.name], f) for f in dataclasses.fields(config_type) if f.init})

    values, unreadable = {}, []
    if "--config" in argv:
        position = argv.index("--config")
        path, argv = Path(*argv[position + 1 : position + 2]), argv[:position] + argv[position + 2 :]
        values, unreadable = _read_yaml(path)
    given = [(key, value, str(path)) for key, value in values.items()]
    given += [(key, value, COMMAND_LINE) for key, value in _flags(argv, known)]

    problems = list(unreadable)
    for key, value, where in given:
        if key in known:
            problems += _value_problems(key, value, *known[key], where)
        else:
            close = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean `{close[0]}`?" if close else "see --help for the list."
            what = f"flag `--{key}`" if where == COMMAND_LINE else f"key `{key}` in {where}"
            problems.append(f"unknown {what}; {advice}")
    required = [key for key, (_, spec) in known.items() if key == "output_dir" or _is_required(spec)]
    missing = [f"--{key}" for key in required if key not in {key for key, _, _ in given}]
    if missing and not unreadable:
        problems.append(f"{', '.join(missing)} must be given, as a flag or in the YAML.")
    return problems


def _is_required(spec: dataclasses.Field) -> bool:
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING


def _read_yaml(path: Path) -> tuple[dict, list[str]]:
    if not path.is_file():
        return {}, [f"--config needs the path of a YAML file, and {path} is none."]
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return {}, [f"{path} is not YAML: {' '.join(str(error).split())}."]
    if not isinstance(values, dict):
        return {}, [f"{path} must hold one `key: value` a line, not {type(values).__name__}."]
    return values, []


def _flags(argv: list[str], known: dict) -> list[tuple[str, Any]]:
    """Keys and values of a command line, typed as YAML would type them where the field is not text."""
    found = []
    for position, word in enumerate(argv):
        if not word.startswith("--"):
            continue
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        words = itertools.takewhile(lambda word: not word.startswith("--"), argv[position + 1 :])
        words = [value] if equals else list(words)
        if key not in known:
            if not (key.startswith("no_") and key[3:] in known):
                found.append((key, None))
            continue
        hint = known[key][0]
        lists = [member for member in _members(hint) if typing.get_origin(member) is list]
        if str in _members(hint):
            found += [(key, word) for word in words[:1]]
        elif lists:
            (item,) = typing.get_args(lists[0])
            found.append((key, words if str in _members(item) else [_literal(word) for word in words]))
        elif words or bool in _members(hint):  # argparse complains about a flag without its value
            found.append((key, _literal(words[0]) if words else True))
    return found


def _literal(word: str) -> Any:
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _value_problems(key: str, value: Any, hint: Any, spec: dataclasses.Field, where: str) -> list[str]:
    if isinstance(value, str) and float in _members(hint) and str not in _members(hint):
        try:  # YAML 1.1 reads 1e-3 as text
            value = float(value)
        except ValueError:
            pass
    if not _fits(value, hint):
        remedy = ", in quotes" if str in _members(hint) and isinstance(value, bool | int | float) else ""
        return [f"`{key}` must be {_hint_name(hint)}{remedy}, but {where} gives {value!r}."]
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    if low is None and high is None:
        low, high = LIBRARY_BOUNDS.get(key, (None, None))
    if isinstance(value, int | float) and not isinstance(value, bool):
        # written so that nan, which compares as false, is out of range
        if not ((low is None or value >= low) and (high is None or value <= high)):
            bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"in [{low}, {high}]"
            return [f"`{key}` must be {bounds}, but {where} gives {value!r}."]
    among = spec.metadata.get("among")
    if among and value not in among:
        return [f"`{key}` must be one of {', '.join(map(str, among))}, but {where} gives {value!r}."]
    return []


def _members(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in arguments)
    if origin is typing.Literal:
        return value in arguments
    if isinstance(value, bool):  # Python takes it for an int
        return origin is bool
    if origin is float:
        return isinstance(value, int | float)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, argument) for item in value for argument in arguments)
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return isinstance(value, str)  # which text is for its own constructor to judge
    return not isinstance(origin, type) or isinstance(value, origin)


def _hint_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    names |= {list: "a list", dict: "a mapping"}
    kinds = [typing.get_origin(member) or member for member in _members(hint)]
    return " or ".join(names.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)


def resolved(*configs: Any) -> dict:
    """Every field of every config as plain YAML types; secrets left out."""
    values = {}
    for config in configs:
        names = [f.name for f in dataclasses.fields(config) if f.init and f.name not in SECRETS]
        values.update({name: getattr(config, name) for name in names})
    return json.loads(json.dumps(values, default=str))

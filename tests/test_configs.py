"""Every YAML is found by glob and parsed by its script's own parser; so is every command in the docs and docstrings."""

import dataclasses
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import crawl2chat.stage
from crawl2chat.stage import StageArguments, parse

SCRIPTS = sorted(
    path
    for folder in ("data_processing", "recipes")
    for path in (ROOT / folder).rglob("*.py")
    if "run_stage(" in path.read_text()
)
YAMLS = sorted(path for folder in ("data_processing", "recipes") for path in (ROOT / folder).glob("**/*.yaml"))
YAMLS = [path for path in YAMLS if path.parent.name != "tasks"]  # lm-evaluation-harness parses those: test_harness.py
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *SCRIPTS]


def config_types(script: Path, monkeypatch) -> tuple[type, ...]:
    """The dataclasses that a script hands to `run_stage`."""
    seen = []
    monkeypatch.setattr(crawl2chat.stage, "run_stage", lambda main, *types, **options: seen.append(types))
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    runpy.run_path(str(script), run_name="__main__")
    return seen[0]


def required_flags(types: tuple[type, ...]) -> list[str]:
    return [
        word
        for config_type in types
        for field in dataclasses.fields(config_type)
        if field.default is field.default_factory is dataclasses.MISSING
        for word in (f"--{field.name}", "somewhere")
    ]


def script_of(config: Path) -> Path:
    scripts = [config.with_suffix(".py")] if config.with_suffix(".py").exists() else []
    scripts += [path for path in SCRIPTS if path.parent == config.parent and config.parent.parent.name == "recipes"]
    assert len(scripts) == 1, f"{config} lies beside no script, or several"
    return scripts[0]


def test_there_are_scripts_and_configs():
    assert len(SCRIPTS) >= 11 and len(YAMLS) >= 11


@pytest.mark.parametrize("config", YAMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_is_accepted_by_its_script(config, monkeypatch, tmp_path):
    types = config_types(script_of(config), monkeypatch)
    names = {field.name for config_type in types for field in dataclasses.fields(config_type)}
    given = {
        "output_dir": str(tmp_path),
        "model": "m",
        "chats": "c",
        "prompts": "p",
        "tokens": "t",
        "warc": "w",
        "pairs": "q",
        "tests": "e",
    }
    flags = required_flags(types) + [word for name in given if name in names for word in (f"--{name}", given[name])]
    parse(["--config", str(config), *flags], *types, StageArguments)


def commands(document: Path) -> list[str]:
    """Lines that start python, accelerate, make or a shell file, in fenced blocks (Markdown) or indented (docstrings)."""
    text = document.read_text().replace("\\\n", " ")
    if document.suffix == ".md":
        text = "\n".join(re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    else:
        text = text.split('"""')[1]
    lines = (line.strip().split(" #")[0] for line in text.splitlines())
    starts = ("cp -r ", "python ", "accelerate launch ", "make ", "recipes/", ".venv/bin/python ", "SEED=")
    return [line for line in lines if line.startswith(starts)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_docs_are_real(document, monkeypatch):
    copies = {}  # copied folder -> what it is a copy of
    for command in commands(document):
        words = [
            word
            for word in shlex.split(command)
            if not re.fullmatch(r"[A-Z]+=\S*", word) or command.startswith("make")
        ]
        if words[0] == "cp":
            copies[words[3]] = words[2]
            continue
        for copy, original in copies.items():
            words = [original + word.removeprefix(copy) if word.startswith(f"{copy}/") else word for word in words]
        if words[0] == "make":
            assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True).returncode == 0, command
            continue
        script = next(word for word in words if word.endswith((".py", ".sh")) or word in ("-m",))
        if script == "-m":
            continue
        path = ROOT / script
        assert path.is_file(), f"{document.name}: {command} names a file that is not there"
        if path not in SCRIPTS:
            continue
        arguments = words[words.index(script) + 1 :]
        types = config_types(path, monkeypatch)
        if "--help" not in arguments:
            parse(
                ["--output_dir", "somewhere", *arguments] if "--output_dir" not in arguments else arguments,
                *types,
                StageArguments,
            )


def test_every_stage_script_shows_its_command():
    for script in SCRIPTS:
        assert commands(script), f"{script.name} has no command in its docstring"


def test_a_copied_recipe_runs_from_anywhere(path_folder, tmp_path):
    shutil.copytree(ROOT / "recipes" / "06_grpo", tmp_path / "my_grpo")
    arguments = ["--config", "my_grpo/tiny.yaml", "--model", path_folder / "base", "--prompts"]
    arguments += [path_folder / "7_conversations", "--output_dir", "out", "--dry_run"]
    ran = subprocess.run(
        [sys.executable, "my_grpo/grpo.py", *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "completions_per_step: 64" in ran.stdout and not (tmp_path / "out").exists()

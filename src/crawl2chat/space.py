"""A Space of the Hub that serves the playground on published models (https://huggingface.co/docs/hub/spaces-sdks-gradio)."""

import shutil
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

import crawl2chat

# What the playground imports of our optional dependencies.
OPTIONAL = ("gradio", "jinja2", "pyarrow")
APP = '''"""Serves the playground; the models are loaded when they are first asked for."""

from playground import PlaygroundConfig, Studio, app, launch

launch(app(Studio(PlaygroundConfig(models={models!r}))))
'''
CARD = """---
title: {title}
sdk: gradio
sdk_version: {gradio}
app_file: app.py
license: {license}
models:
{models}
---

# {title}

Tokens, next tokens, and chats with these models side by side. The Space reads private models with a token: add one that may
read them as the secret `HF_TOKEN` in its settings.
"""


def lay_out(folder: Path, script: Path, models: list[str], title: str, license: str) -> None:
    """Writes the Space: the playground's script, this package, what they need, and a card.

    Args:
        script: recipes/09_playground/playground.py.
        models: Hub ids.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(script, folder / "playground.py")
    package = Path(crawl2chat.__file__).parent
    shutil.copytree(package, folder / "crawl2chat", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "app.py").write_text(APP.format(models=models))
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in needed()))
    listed = "\n".join(f"- {model}" for model in models)
    card = CARD.format(title=title, gradio=version("gradio"), license=license, models=listed)
    (folder / "README.md").write_text(card)


def needed() -> list[str]:
    """The package's dependencies, and those of its extras that the playground imports; gradio is the Space's own."""
    found = {}
    for line in requires("crawl2chat") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.name in OPTIONAL:
            found[requirement.name] = f"{requirement.name}{requirement.specifier}"
    found.pop("gradio", None)
    return sorted(found.values())

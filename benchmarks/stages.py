"""How benchmarks start a stage of the recipes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stage(script: str, *arguments) -> None:
    """Runs one of `recipes/`; what it says is shown if it fails, and ends the benchmark."""
    command = [sys.executable, ROOT / "recipes" / script, *arguments]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{script} failed:\n{ran.stderr[-3000:]}")

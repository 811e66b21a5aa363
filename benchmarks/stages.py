"""How benchmarks run a stage of the recipes whose time is not what they measure."""

import io
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stage(script: str, *arguments) -> None:
    """Runs one of `recipes/` in this process, which has its imports already; if it fails, it says so and ends the benchmark.

    What it prints is left out, as a benchmark prints one line of its own.
    """
    path, before = ROOT / "recipes" / script, sys.argv
    sys.argv = [str(path), *map(str, arguments)]
    try:
        with redirect_stdout(io.StringIO()):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = before

"""What a run notes of where it ran: memory, hardware, versions, commit."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path


def peak_memory_mb() -> float:
    """The most that this process held. Linux's ru_maxrss begins with what the process held that started it."""
    status = Path("/proc/self/status")
    found = status.is_file() and re.search(r"VmHWM:\s+(\d+)", status.read_text())
    return int(found[1]) / 2**10 if found else _largest(resource.RUSAGE_SELF)


def largest_child_mb() -> float:
    """The most that one of the ended child processes held."""
    return _largest(resource.RUSAGE_CHILDREN)


def _largest(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, else KiB


# For the estimate of energy, which is stated where it is shown, and rough: of a processor under load, and of a kWh.
WATTS, GRAMS_PER_KWH = 65, 400


def energy(seconds: float) -> dict[str, float]:
    """kWh and grams of CO2 of so many seconds, at `WATTS` and `GRAMS_PER_KWH`."""
    kwh = seconds * WATTS / 3.6e6
    return {"watts": WATTS, "kwh": kwh, "grams": kwh * GRAMS_PER_KWH, "grams_per_kwh": GRAMS_PER_KWH}


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def hardware() -> str:
    """One line: processor, cores, memory, and GPUs if torch was loaded and sees any."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    line = f"{model}, {num_cores} cores, {memory_bytes() / 2**30:.0f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return line


def versions() -> dict[str, str]:
    names = ["torch", "transformers", "tokenizers", "datasets", "accelerate", "trl", "peft", "deepspeed", "datatrove"]
    found = {"python": platform.python_version()}
    for name in ["crawl2chat", *names]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() or None

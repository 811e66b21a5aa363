"""What a run notes of where it ran: memory, hardware, versions, commit."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median


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
    line = f"{model}, {num_cores()} cores, {memory_bytes() / 2**30:.0f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        line += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return line


def plain_tokens_per_second(num_steps: int = 12) -> int:
    """Tokens a second of a plain training step on all cores: the measure by which seconds of two machines compare.

    A Qwen3 of the tiny recipe's shape reads 8 x 256 random tokens, PyTorch's AdamW takes the step, the median counts.
    Nothing of this project's is in it, so that no work on its speed moves the measure.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4, "head_dim": 32, "vocab_size": 2048}
    model = Qwen3ForCausalLM(Qwen3Config(**shape, num_attention_heads=5, num_key_value_heads=5))
    optimizer = torch.optim.AdamW(model.parameters())
    ids, num_threads, seconds = torch.randint(2048, (8, 256)), torch.get_num_threads(), []
    torch.set_num_threads(num_cores())
    for _ in range(num_steps):
        started_at = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started_at)
    torch.set_num_threads(num_threads)
    return round(ids.numel() / median(seconds))


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


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

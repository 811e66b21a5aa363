"""MKL and oneDNN on this processor: products of float32 matrices as the tiny model has them, and its attention.

    OMP_NUM_THREADS=2 python benchmarks/products.py

Prints a Markdown table. GFLOP/s of (rows x inner) (inner x columns); milliseconds forward and backward of the attention of
8 x 5 heads over 256 tokens of 32 dimensions. Medians of 50 rounds, both in turns.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from crawl2chat.machine import hardware

SHAPES = [(2048, 160, 480), (2048, 480, 160), (160, 2048, 480), (2048, 160, 2048), (64, 160, 480)]
ROUNDS = 50


def both(work: Callable[[], object]) -> tuple[float, float]:
    """Median seconds by MKL and by oneDNN."""
    seconds: dict[str, list[float]] = {"ieee": [], "bf16": []}
    for _ in range(ROUNDS + 5):
        for precision, found in seconds.items():
            torch.backends.mkldnn.matmul.fp32_precision = precision
            started_at = time.perf_counter()
            work()
            found.append(time.perf_counter() - started_at)
    mkl, onednn = (statistics.median(found[5:]) for found in seconds.values())
    return mkl, onednn


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    F.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()


def main() -> None:
    lines = [f"{hardware()}, {torch.get_num_threads()} threads", "", "| | MKL | oneDNN |", "|---|---|---|"]
    for rows, inner, columns in SHAPES:
        left, right = torch.randn(rows, inner), torch.randn(columns, inner)
        mkl, onednn = (2e-9 * rows * inner * columns / seconds for seconds in both(lambda: left @ right.T))  # noqa: B023
        lines.append(f"| {rows} x {inner} x {columns}, GFLOP/s | {mkl:.0f} | {onednn:.0f} |")
    heads = [torch.randn(8, 5, 256, 32, requires_grad=True) for _ in range(3)]
    mkl, onednn = both(lambda: attend(*heads))
    lines.append(f"| attention, ms | {1e3 * mkl:.1f} | {1e3 * onednn:.1f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

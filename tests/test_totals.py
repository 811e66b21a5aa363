"""Time and memory of a run whose stages overlap, and the measure of the machine that it ran on."""

import torch

from crawl2chat.machine import plain_tokens_per_second
from crawl2chat.totals import busy_seconds, memory_at_once


def stage(finished_at: str, seconds: float, megabytes: int) -> dict:
    memory = {"process": megabytes, "largest_child": 1}
    return {"finished_at": f"2026-01-01T00:{finished_at}Z", "seconds": seconds, "peak_memory_mb": memory}


def test_time_counts_once_and_memory_adds_up_where_stages_overlap():
    alone = stage("01:00", 20, 700)  # 40 to 60
    long, short = stage("03:00", 60, 300), stage("02:40", 20, 200)  # 120 to 180, and 140 to 160 within it
    later = stage("03:10", 30, 250)  # 160 to 190
    assert busy_seconds([alone]) == 20 and memory_at_once([alone]) == 700
    assert busy_seconds([later, long, short, alone]) == 20 + 70
    assert memory_at_once([later, long, short, alone]) == 700
    assert memory_at_once([later, long, short]) == 300 + 250  # the short one had ended


def test_the_measure_of_a_machine_leaves_torch_as_it_was():
    num_threads = torch.get_num_threads()
    found = [plain_tokens_per_second(num_steps=2) for _ in range(2)]
    assert torch.get_num_threads() == num_threads
    assert all(100 < tokens < 1_000_000 for tokens in found)

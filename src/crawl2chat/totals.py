"""What a whole run took, of whose stages several may run at once."""

from collections.abc import Iterable
from datetime import datetime


def spans(runs: Iterable[dict]) -> list[tuple[float, float, dict]]:
    """When each of these `run.yaml`s began and ended, in seconds since 1970, the earliest first."""
    ends = [(datetime.fromisoformat(run["finished_at"]).timestamp(), run) for run in runs]
    return sorted(((end - run["seconds"], end, run) for end, run in ends), key=lambda span: span[:2])


def busy_seconds(runs: Iterable[dict]) -> float:
    """Seconds in which at least one stage ran."""
    total, until = 0.0, float("-inf")
    for start, end, _ in spans(runs):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def memory_at_once(runs: Iterable[dict]) -> int:
    """MB that the stages held at most, if those that ran at once had their peaks at the same time."""
    all_spans = spans(runs)
    return max(
        sum(max(run["peak_memory_mb"].values()) for start, end, run in all_spans if start <= moment < end)
        for moment, _, _ in all_spans
    )

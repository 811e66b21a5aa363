"""1_fetch_crawl.py as a guest: no more requests than were asked for, and none before a pause is over."""

import email.utils
import threading
import time

import pytest
from crawl_server import path_of
from test_fetch_crawl import crawl, fetcher_of, quick, server  # noqa: F401

from crawl2chat.fetch import Fetcher
from crawl2chat.stores import GaveUp, Pace, open_store

# ruff: noqa: F811


def test_all_threads_together_keep_the_pace(server, tmp_path):
    store = open_store(server.url, 20.0, 1.0)
    fetcher = Fetcher(store, tmp_path / "crawl", tmp_path / "files.jsonl", 3)
    assert fetcher.fetch([path_of(number) for number in range(5)], 5) == {}
    times = sorted(server.times)
    assert len(times) == 5 and times[-1] - times[0] > 4 * 0.05 * 0.9


@pytest.mark.parametrize("as_date", [False, True])
def test_nobody_asks_before_the_pause_is_over(as_date, server, tmp_path):
    server.retry_after = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.faults[path_of(0)] = ["429"]
    fetcher = fetcher_of(server.url, tmp_path)
    assert fetcher.fetch([path_of(0)], 1) == {}
    assert server.times[1] - server.times[0] > 0.9


def test_a_pause_of_hours_is_not_waited_for(server, tmp_path):
    server.retry_after, server.faults[path_of(0)] = "7200", ["503"]
    failures = fetcher_of(server.url, tmp_path).fetch([path_of(0), path_of(1), path_of(2)], 1)
    assert len(failures) == 3 and len(server.requests) == 1
    assert all("asks for a pause of" in reason and "start again after it" in reason for reason in failures.values())


def test_a_stopped_pace_wakes_who_waits():
    pace = Pace(0.01)
    pace.wait()
    threading.Timer(0.1, pace.stopped.set).start()
    with pytest.raises(GaveUp, match="stopped"):
        pace.wait()

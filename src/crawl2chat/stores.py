"""Reading files from a web server, or from any file system that fsspec knows: from any byte on, politely, by version.

Common Crawl asks for at most about one request a second and answers 403, 429 or 503 to what is faster
(https://status.commoncrawl.org): all threads share one `Pace`, and none goes on while a server asks for a pause.
"""

import importlib.metadata
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import requests
import urllib3

from crawl2chat.stage import StageError

CHUNK_BYTES = 2**18
MAX_PAUSE_SECONDS = 900  # a server that asks for more is left alone
MIN_BYTES_PER_SECOND = 1024  # fewer, over `stall_seconds`, is a stall
BUSY = {403, 408, 425, 429}  # and everything from 500 on: worth another try


class TryAgain(Exception):
    """This try failed, the next may not. `restart`: what is here of the file is of no use."""

    def __init__(self, reason: str, restart: bool = False):
        super().__init__(reason)
        self.restart = restart


class GaveUp(Exception):
    """It will not work, or not now."""


class NotThere(GaveUp):
    """There is no such file."""


class Pace:
    """Lets so many requests a second through, of all threads together, and none while a server asks for a pause."""

    def __init__(self, requests_per_second: float):
        self.interval, self.next_at = 1 / requests_per_second, 0.0
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def wait(self) -> None:
        while True:
            with self.lock:
                seconds = self.next_at - time.monotonic()
                if seconds <= 0:
                    self.next_at = time.monotonic() + self.interval
                    return
            if seconds > MAX_PAUSE_SECONDS:
                raise GaveUp(f"the server asks for a pause of {seconds:.0f} s; start again after it")
            self.sleep(seconds)

    def pause(self, seconds: float) -> None:
        with self.lock:
            self.next_at = max(self.next_at, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise GaveUp("stopped")


@dataclass
class Answer:
    """A file, or its end from byte `start` on."""

    start: int
    total: int | None  # bytes of the whole file
    version: str  # changes with the content; "" if the server does not tell
    chunks: Iterator[bytes]


class WebStore:
    """Files under an http(s) URL."""

    def __init__(self, base_url: str, pace: Pace, stall_seconds: float):
        self.base_url, self.pace, self.stall_seconds = base_url.rstrip("/"), pace, stall_seconds
        self.session = requests.Session()
        self.session.headers["User-Agent"] = f"crawl2chat/{importlib.metadata.version('crawl2chat')}"
        self.session.headers["Accept-Encoding"] = "identity"  # the file's own bytes, of which the length is told

    def url(self, path: str) -> str:
        return f"{self.base_url}/{urllib.parse.quote(path)}"

    def size(self, path: str) -> int | None:
        with self._ask("HEAD", path, {}) as response:
            length = response.headers.get("Content-Length", "")
            return int(length) if response.status_code == 200 and length.isdigit() else None

    @contextmanager
    def open(self, path: str, start: int = 0, version: str = "") -> Iterator[Answer]:
        wanted = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
        with self._ask("GET", path, wanted) as response:
            headers, total = response.headers, None
            if response.status_code == 206:
                given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
                if not given or int(given[1]) != start:
                    raise TryAgain(f"asked for byte {start} on, got {headers.get('Content-Range')!r}", restart=True)
                total = int(given[2])
            elif response.status_code == 200:
                start = 0
                if headers.get("Content-Length", "").isdigit():
                    total = int(headers["Content-Length"])
                elif "chunked" not in headers.get("Transfer-Encoding", "").lower():
                    raise GaveUp(
                        "the server tells no length, so that a cut file would look whole; use another base_url"
                    )
            elif response.status_code == 416:
                raise TryAgain("the file on the server is shorter than what is here", restart=True)
            else:
                raise GaveUp(f"the server answers {response.status_code}")
            yield Answer(start, total, _version(headers), self._chunks(response))

    def _ask(self, method: str, path: str, headers: dict) -> requests.Response:
        self.pace.wait()
        try:
            response = self.session.request(
                method, self.url(path), headers=headers, stream=True, timeout=self.stall_seconds, allow_redirects=True
            )
        except requests.RequestException as error:
            raise TryAgain(f"no answer ({_root_of(error)})") from error
        status = response.status_code
        if status < 400 or status == 416:
            return response
        response.close()
        if status in (404, 410):
            raise NotThere(f"{self.url(path)} is not there ({status})")
        if status not in BUSY and status < 500:
            raise GaveUp(f"the server answers {status} {response.reason}")
        seconds = _retry_after(response.headers.get("Retry-After"))
        self.pace.pause(seconds)
        asked = f" and asks for a pause of {seconds:.0f} s" if seconds else ""
        raise TryAgain(f"the server answers {status} {response.reason}{asked}")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        since, num_bytes = time.monotonic(), 0
        while True:
            try:  # read1 returns what has come; read would wait for a whole chunk, however slowly it drips
                chunk = response.raw.read1(CHUNK_BYTES, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise TryAgain(f"stalled: nothing came for {self.stall_seconds:g} s") from error
            except urllib3.exceptions.HTTPError as error:
                raise TryAgain(f"the connection broke ({_root_of(error)})") from error
            if not chunk:
                return
            yield chunk
            num_bytes += len(chunk)
            seconds = time.monotonic() - since
            if seconds >= self.stall_seconds:
                if num_bytes < MIN_BYTES_PER_SECOND * seconds:
                    raise TryAgain(f"stalled: {num_bytes} bytes in {seconds:.0f} s")
                since, num_bytes = time.monotonic(), 0


class FileStore:
    """Files under a local path or any URL that fsspec opens: s3://, hf://, gs://, file://; how long it waits is its own."""

    def __init__(self, base_url: str, pace: Pace):
        self.base_url, self.pace = base_url.rstrip("/"), pace
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.base_url)
        except (ImportError, ValueError) as error:
            raise StageError(f"`base_url` {base_url} cannot be opened: {error}.") from error

    def url(self, path: str) -> str:
        return f"{self.base_url}/{path}"

    def size(self, path: str) -> int | None:
        self.pace.wait()
        with self._failures(path):
            return self.files.size(f"{self.root}/{path}")

    @contextmanager
    def open(self, path: str, start: int = 0, version: str = "") -> Iterator[Answer]:
        self.pace.wait()
        place = f"{self.root}/{path}"
        with self._failures(path):
            total, found = self.files.size(place), self.files.ukey(place)
            file = self.files.open(place, "rb")
        with file:
            start = start if version == found else 0
            yield Answer(start, total, found, self._chunks(file, start, path))

    def _chunks(self, file: Any, start: int, path: str) -> Iterator[bytes]:
        with self._failures(path):
            file.seek(start)
        while True:
            with self._failures(path):
                chunk = file.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotThere(f"{self.url(path)} is not there") from error
        except (PermissionError, IsADirectoryError, NotADirectoryError, ImportError) as error:
            raise GaveUp(f"{self.url(path)} cannot be read ({error})") from error
        except Exception as error:  # each file system raises errors of its own
            raise TryAgain(f"{type(error).__name__}: {error}") from error


def open_store(base_url: str, requests_per_second: float, stall_seconds: float) -> WebStore | FileStore:
    pace = Pace(requests_per_second)
    if base_url.startswith(("http://", "https://")):
        return WebStore(base_url, pace, stall_seconds)
    return FileStore(base_url, pace)


def _version(headers: Any) -> str:
    """A strong entity tag or the date: what `If-Range` takes (https://www.rfc-editor.org/rfc/rfc9110#name-if-range)."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _retry_after(value: str | None) -> float:
    try:
        return urllib3.util.Retry().parse_retry_after(value) if value else 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _root_of(error: BaseException) -> str:
    """The innermost reason of a nested error; the outer ones repeat it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}"

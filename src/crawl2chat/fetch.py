"""Files of a crawl, each whole or not at all.

A file grows as `<name>.part` and takes its name only when its size is what the server said, every gzip member of it
inflates to its checksum, and a WARC record stands at its start. An interrupted `.part` goes on where it stood if the
server still has the same version (entity tag or date) of the same size; else it starts again. Between tries the wait
doubles, and is drawn by chance, so that many who failed together do not come back together
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
"""

import fcntl
import gzip
import hashlib
import json
import os
import random
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crawl2chat.stage import StageError, write_atomically, write_jsonl
from crawl2chat.stores import FileStore, GaveUp, NotThere, Pace, TryAgain, WebStore
from crawl2chat.warc import RECORD_START

SNAPSHOTS = "https://index.commoncrawl.org/collinfo.json"
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 60.0
PROGRESS_BYTES = 2**20  # a try that brings so much more is none of the `max_tries`


def list_paths(store: WebStore | FileStore, snapshot: str, kind: str, max_tries: int) -> list[str]:
    """The paths of a snapshot's `kind` ("warc" or "wet") files, in its own order.

    Raises:
        StageError: there is no such snapshot, or its list cannot be read.
    """
    path = f"crawl-data/{snapshot}/{kind}.paths.gz"

    def read() -> list[str]:
        with store.open(path) as answer:
            data = b"".join(answer.chunks)
        try:
            if answer.total not in (None, len(data)):
                raise EOFError(f"{len(data)} of {answer.total} bytes")
            return gzip.decompress(data).decode().split()
        except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
            raise TryAgain(f"the list is damaged ({error})") from error

    try:
        paths = list(dict.fromkeys(retry(read, max_tries, store.pace, lambda line: _tell(path, line))))
    except NotThere as error:
        raise StageError(
            f"{error}: {store.base_url} has no {kind} files of a snapshot {snapshot!r}. Common Crawl's snapshots are "
            f"listed at {SNAPSHOTS}."
        ) from error
    except GaveUp as error:
        raise StageError(f"the list {store.url(path)} cannot be fetched: {error}.") from error
    ending = ".warc.wet.gz" if kind == "wet" else ".warc.gz"
    strange = [line for line in paths if not line.endswith(ending)]
    if strange or not paths:
        found = f"lists {strange[0]!r}, which does not end in {ending}" if strange else "is empty"
        raise StageError(f"{store.url(path)} {found}; use another `snapshot` or `base_url`.")
    if len({Path(line).name for line in paths}) < len(paths):
        raise StageError(f"{store.url(path)} lists several files of one name; use another `base_url`.")
    return paths


def sample_paths(paths: list[str], num_files: int, seed: int) -> list[str]:
    """`num_files` of the paths, in their order; more files of the same seed include the fewer."""
    if num_files > len(paths):
        raise StageError(f"`num_files` is {num_files}, but the snapshot has {len(paths)}; ask for fewer.")
    order = list(range(len(paths)))
    random.Random(seed).shuffle(order)
    return [paths[number] for number in sorted(order[:num_files])]


def retry(attempt: Callable[[], Any], max_tries: int, pace: Pace, tell: Callable[[str], None], size=lambda: 0) -> Any:
    """What `attempt` returns, after up to `max_tries` tries in a row in which `size` has hardly grown."""
    most, failures = 0, 0
    while True:
        try:
            return attempt()
        except TryAgain as error:
            now = size()
            most, failures = (now, 0) if now >= most + PROGRESS_BYTES else (most, failures + 1)
            if failures >= max_tries:
                raise GaveUp(f"{error}, in the last of {max_tries} tries") from error
            seconds = random.uniform(0, min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2**failures))
            tell(f"{error}; trying again")
            pace.sleep(seconds)


class Fetcher:
    """Fetches files into a folder, several at once, and keeps their list (name, url, bytes, sha256) in `manifest`."""

    def __init__(self, store: WebStore | FileStore, folder: Path, manifest: Path, max_tries: int):
        self.store, self.folder, self.manifest, self.max_tries = store, folder, manifest, max_tries
        self.lock, self.sizes, self.num_retries, self.bytes_fetched = threading.Lock(), {}, 0, 0
        self.log = manifest.with_name(manifest.name + ".part")
        rows = [*_rows(manifest), *_rows(self.log)]
        self.rows = {row["name"]: row for row in rows if _size(folder / row["name"]) == row["bytes"]}

    def missing(self, paths: list[str]) -> list[str]:
        return [path for path in paths if Path(path).name not in self.rows]

    def bytes_missing(self, paths: list[str], num_asked: int = 4) -> int | None:
        """Bytes to come, by the mean size of the first few files that are missing; None if the store does not tell."""
        missing, sizes = self.missing(paths), []
        for path in missing[:num_asked]:
            try:
                sizes.append(self.store.size(path))
            except (TryAgain, GaveUp):
                sizes.append(None)
        known = [size for size in sizes if size is not None]
        if not known:
            return None if missing else 0
        parts = sum(_size(self._part(Path(path).name)) or 0 for path in missing)
        return max(0, round(sum(known) / len(known) * len(missing)) - parts)

    def fetch(self, paths: list[str], num_workers: int) -> dict[str, str]:
        """Fetches what is missing; returns why which files could not be fetched."""
        self.folder.mkdir(exist_ok=True)
        missing, failures = self.missing(paths), {}
        with tqdm(desc="fetch", unit="B", unit_scale=True) as self.bar, ThreadPoolExecutor(num_workers) as pool:
            try:
                futures = {pool.submit(self._fetch_one, path): Path(path).name for path in missing}
                for future in as_completed(futures):
                    try:
                        self._add(future.result())
                    except (GaveUp, OSError) as error:  # an OSError of this machine: no space, no permission
                        failures[futures[future]] = str(error)
            except BaseException:
                self.store.pace.stopped.set()  # what is under way ends with its chunk, and can go on from there
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if not failures:
            write_jsonl(self.manifest, sorted(self.rows.values(), key=lambda row: row["name"]))
            self.log.unlink(missing_ok=True)
        return dict(sorted(failures.items()))

    def _add(self, row: dict) -> None:
        self.rows[row["name"]] = row
        with self.log.open("a") as file:
            file.write("\n" + json.dumps(row))  # the line before may have been cut by a kill

    def _fetch_one(self, path: str) -> dict:
        name = Path(path).name
        target, part, seen = self.folder / name, self._part(name), set()

        def attempt() -> str:
            try:
                self._continue(path, part)
                return check_whole(part, seen)
            except TryAgain as error:
                if error.restart:
                    part.unlink(missing_ok=True)
                raise

        def tell(line: str) -> None:
            with self.lock:
                self.num_retries += 1
            _tell(name, line)

        if target.is_file():  # killed between the rename and the list
            try:
                return self._row(path, check_whole(target, set()))
            except TryAgain:
                target.unlink()
        sha256 = retry(attempt, self.max_tries, self.store.pace, tell, lambda: _size(part) or 0)
        part.replace(target)
        _memo(part).unlink()
        return self._row(path, sha256)

    def _row(self, path: str, sha256: str) -> dict:
        name = Path(path).name
        size = (self.folder / name).stat().st_size
        return {"name": name, "url": self.store.url(path), "bytes": size, "sha256": sha256}

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def _continue(self, path: str, part: Path) -> None:
        """Adds to a `.part` what it lacks; beside it stands of which version and size of the file it is."""
        memo = json.loads(_memo(part).read_text()) if _memo(part).is_file() else {"version": "", "total": None}
        have = _size(part) or 0 if memo["version"] else 0
        if have and have == memo["total"]:
            return
        with self.store.open(path, have, memo["version"]) as answer:
            now = {"version": answer.version, "total": answer.total}
            if answer.start and now != memo:
                raise TryAgain("the file on the server has changed", restart=True)
            size = answer.start
            with part.open("r+b" if size else "wb") as file:
                if not size:
                    write_atomically(_memo(part), json.dumps(now))
                file.seek(size)
                for chunk in answer.chunks:
                    file.write(chunk)
                    size += len(chunk)
                    self._show(part, size, answer.total, len(chunk))
                    if self.store.pace.stopped.is_set():
                        raise GaveUp("stopped")
                file.flush()
                os.fsync(file.fileno())
        if answer.total is not None and size != answer.total:
            raise TryAgain(f"{size} bytes came, not {answer.total}", restart=size > answer.total)

    def _show(self, part: Path, size: int, total: int | None, num_new: int) -> None:
        with self.lock:
            self.bytes_fetched += num_new
            self.bar.update(size - self.sizes.get(part, (0, 0))[0])
            self.sizes[part] = size, total or size
            self.bar.total = sum(total for _, total in self.sizes.values())


def check_whole(path: Path, seen: set[str]) -> str:
    """The SHA-256 of a whole gzipped WARC file.

    Args:
        seen: digests of damaged files; gets this one's, if it is damaged.

    Raises:
        TryAgain: it is not whole.
        GaveUp: it is not whole, and was the same before: so it is on the server.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with gzip.open(path) as members:
            if not members.read(len(RECORD_START)) == RECORD_START:
                raise EOFError("it does not start with WARC/1.")
            while members.read(2**20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        if digest in seen:
            raise GaveUp(f"the server's own file is damaged ({error})") from error
        seen.add(digest)
        raise TryAgain(f"damaged ({error})", restart=True) from error
    return digest


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second run out of a folder; a killed run's hold ends with it.

    Raises:
        StageError: another run is at work in it.
    """
    lock = folder / "lock.tmp"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(f"another run is writing {folder}; wait for it, or choose another output_dir.") from error
        yield
        lock.unlink()


def _rows(file: Path) -> Iterator[dict]:
    """The lines of a manifest or its log, less one that was cut."""
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _memo(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _tell(name: str, line: str) -> None:
    tqdm.write(f"{name}: {line}", file=sys.stderr)

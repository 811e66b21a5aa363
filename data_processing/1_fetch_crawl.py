"""A snapshot's name -> some of its WARC (or WET) files, by HTTPS from Common Crawl; no AWS account.

The files are drawn by seed from all of the snapshot. A WARC file holds about 1 GB and 20,000 to 40,000 pages, a WET
file their plain text. Start it again after any interruption or failure: it fetches only what is missing.

    python data_processing/1_fetch_crawl.py --config data_processing/1_fetch_crawl.yaml \
        --snapshot CC-MAIN-2026-30 --num_files 4 --output_dir outputs/2026-30/1_crawl
    python data_processing/2_filter_pages.py --config data_processing/2_filter_pages.yaml \
        --warc outputs/2026-30/1_crawl --output_dir outputs/2026-30/2_pages
"""

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from crawl2chat.fetch import Fetcher, alone_in, list_paths, sample_paths
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically
from crawl2chat.stores import open_store


@dataclass
class FetchConfig:
    snapshot: str = field(metadata={"help": "As https://index.commoncrawl.org names it: CC-MAIN-2026-30."})
    output_dir: str = field(metadata={"help": "Where crawl/*.gz and files.jsonl go."})
    kind: str = bounded("warc", "warc: the pages as they were served; wet: their plain text.", choices=("warc", "wet"))
    num_files: int = bounded(1, "So many of the snapshot's files, drawn by seed.", low=1)
    seed: int = bounded(0, "Of the draw.", low=0)
    base_url: str = field(
        default="https://data.commoncrawl.org", metadata={"help": "http(s), a folder, or what fsspec opens."}
    )
    requests_per_second: float = bounded(1.0, "Of all downloads together.", low=0.01, high=10.0)
    num_workers: int = bounded(4, "Downloads at once.", low=1, high=16)
    max_tries: int = bounded(10, "Tries in a row that bring less than 1 MiB, before a file is given up.", low=1)
    stall_seconds: float = bounded(60.0, "A connection as slow as 1 KiB a second for so long is broken off.", low=0.1)

    def problems(self) -> list[str]:
        if re.fullmatch(r"\w[\w-]*(/\w[\w-]*)*", self.snapshot):  # CC-NEWS/2026/07 is a folder
            return []
        return [f"`snapshot` {self.snapshot!r} is no name of a snapshot; give one like CC-MAIN-2026-30."]


def plan(config: FetchConfig) -> tuple[Fetcher, list[str], list[str]]:
    """The fetcher, all paths of the snapshot, and those to fetch."""
    out, store = Path(config.output_dir), open_store(config.base_url, config.requests_per_second, config.stall_seconds)
    listed = out / list_name(config)
    if listed.is_file():
        paths = listed.read_text().split()
    else:
        paths = list_paths(store, config.snapshot, config.kind, config.max_tries)
    fetcher = Fetcher(store, out / "crawl", out / "files.jsonl", config.max_tries)
    return fetcher, paths, sample_paths(paths, config.num_files, config.seed)


def list_name(config: FetchConfig) -> str:
    return f"{config.snapshot.replace('/', '-')}.{config.kind}.paths"


def preflight(config: FetchConfig) -> dict:
    fetcher, paths, chosen = plan(config)
    num_bytes, folder = fetcher.bytes_missing(chosen), Path(config.output_dir).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
    if num_bytes is not None and num_bytes > free:
        raise StageError(
            f"{config.num_files} files need {num_bytes / 1e9:.3f} GB more, and {folder} has {free / 1e9:.3f} GB free; lower "
            "`num_files`, or choose an output_dir on another disk."
        )
    return {
        "num_files_listed": len(paths),
        "num_files": len(chosen),
        "num_files_to_fetch": len(fetcher.missing(chosen)),
        "bytes_to_fetch": "unknown: the server does not tell" if num_bytes is None else num_bytes,
        "bytes_free": free,
    }


def main(config: FetchConfig) -> dict:
    with alone_in(Path(config.output_dir)):
        started_at = time.monotonic()
        fetcher, paths, chosen = plan(config)
        write_atomically(Path(config.output_dir, list_name(config)), "".join(f"{path}\n" for path in paths))
        failures = fetcher.fetch(chosen, config.num_workers)
    if failures:
        raise StageError(
            f"{len(failures)} of {len(chosen)} files could not be fetched; the others are whole. Start it again to fetch "
            "only these:\n" + "\n".join(f"  - {name}: {reason}" for name, reason in failures.items())
        )
    return {
        "num_files": len(chosen),
        "num_bytes": sum(row["bytes"] for row in fetcher.rows.values()),
        "num_bytes_fetched": fetcher.bytes_fetched,
        "num_retries": fetcher.num_retries,
        "seconds": round(time.monotonic() - started_at, 2),
    }


if __name__ == "__main__":
    run_stage(main, FetchConfig, preflight=preflight)

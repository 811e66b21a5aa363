"""Pages of a stage -> shuffled Parquet shards, with memory for one shard and 32 bytes a page."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm
from xxhash import xxh3_64_intdigest

from crawl2chat.pages import SCHEMA

BATCH = 10_000
MAX_OPEN_FILES = 500  # half of what Linux allows a process by default
POSITION = "position"


def shuffled_order(files: list[Path]) -> np.ndarray:
    """Numbers of all pages, in the order of a hash of their address, and of their id where that is the same."""
    keys = [np.empty((0, 2), np.uint64)]
    for file in tqdm(files, desc="order", unit="file"):
        for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["url", "id"]):
            hashes = [
                [xxh3_64_intdigest((row[name] or "").encode()) for name in ("url", "id")] for row in batch.to_pylist()
            ]
            keys.append(np.array(hashes, np.uint64).reshape(-1, 2))
    url, record = np.concatenate(keys).T
    return np.lexsort((record, url))


def write_shards(files: list[Path], splits: dict[str, np.ndarray], pages_per_file: int, out: Path) -> dict[str, dict]:
    """`<split>/<number>.parquet` with the pages of each split in its order; returns bytes of text and languages of each.

    One reading: pages are handed to temporary files, each of which holds a shard (or several, where there are more
    shards than files may be open), and each is then sorted in memory.
    """
    shards = [
        (split, number, pages[start : start + pages_per_file])
        for split, pages in splits.items()
        for number, start in enumerate(range(0, len(pages), pages_per_file))
    ]
    shards_a_heap = -(-len(shards) // MAX_OPEN_FILES)
    heaps = [shards[i : i + shards_a_heap] for i in range(0, len(shards), shards_a_heap)]
    temporary = out / "heaps.tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    _scatter(files, [np.concatenate([pages for _, _, pages in heap]) for heap in heaps], temporary)

    sizes: dict[str, dict] = {split: {"num_bytes": 0, "languages": set()} for split in splits}
    for number, heap in enumerate(tqdm(heaps, desc="write", unit="heap")):
        with pa.OSFile(str(temporary / f"{number}.arrow")) as file:
            table = pa.ipc.open_stream(file).read_all().sort_by(POSITION).drop_columns(POSITION)
        start = 0
        for split, shard, pages in heap:
            rows = table.slice(start, len(pages)).combine_chunks()
            start += len(pages)
            (out / split).mkdir(exist_ok=True)
            pq.write_table(rows, out / split / f"{shard:05d}.parquet", compression="zstd")
            sizes[split]["num_bytes"] += pc.sum(pc.binary_length(rows["text"])).as_py()
            sizes[split]["languages"] |= set(pc.unique(rows["language"]).to_pylist())
    shutil.rmtree(temporary)
    return sizes


def _scatter(files: list[Path], heaps: list[np.ndarray], folder: Path) -> None:
    """Writes each page, with its position, to the file of its heap."""
    num_pages = sum(pq.read_metadata(file).num_rows for file in files)
    position = np.full(num_pages, -1)  # -1: in no heap
    position[np.concatenate(heaps)] = np.arange(sum(map(len, heaps)))
    stops = np.cumsum([len(heap) for heap in heaps])
    schema, start = SCHEMA.append(pa.field(POSITION, pa.int64())), 0
    with ExitStack() as stack:
        streams = [
            stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(path), "wb")), schema))
            for path in (folder / f"{number}.arrow" for number in range(len(heaps)))
        ]
        for file in tqdm(files, desc="read", unit="file"):
            for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=SCHEMA.names):
                here = position[start : start + len(batch)]
                start += len(batch)
                table = pa.Table.from_batches([batch]).cast(SCHEMA).append_column(POSITION, pa.array(here))
                heap = np.where(here < 0, -1, np.searchsorted(stops, here, side="right"))
                for number in np.unique(heap[heap >= 0]):
                    streams[number].write_table(table.filter(pa.array(heap == number)))

"""Exact and near duplicates: signatures by datatrove's MinHash, and the one rule for which page of a cluster stays.

MinHash with 14 buckets of 8 hashes over 5-grams of words, as in FineWeb (https://arxiv.org/abs/2406.17557, section 3.4):
two pages whose 5-grams overlap by 75% are found with a probability of 77%, by 80% with 92%, by 90% with 99.97%.
"""

import struct
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.text import simplify_text
from xxhash import xxh3_64_intdigest

from crawl2chat.executors import ClusterConfig, run_pipeline
from crawl2chat.pages import DroppedPages, PageFilter, page_files, read_pages

MINHASH = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)


class Signature(MinhashDedupSignature):
    """datatrove's signatures of words between spaces.

    The text was simplified before and has no punctuation left: spaCy splits it hardly otherwise, and takes 11 ms a page.
    """

    def get_shingles(self, text: str) -> np.ndarray:
        words = simplify_text(text).split()
        n_grams = zip(*[words[i:] for i in range(self.config.n_grams)])
        hashes = [xxh3_64_intdigest(" ".join(n_gram).encode()) for n_gram in n_grams]
        return np.array(hashes, dtype=np.uint64).reshape(-1, 1)  # (N, 1)


def find_clusters(
    pages: str, work_dir: Path, num_workers: int, cluster: ClusterConfig | None = None
) -> dict[tuple[int, int], int]:
    """(file, row) -> cluster of near duplicates, by datatrove's first three MinHash steps."""
    signature = Signature(str(work_dir / "signatures"), MINHASH)
    buckets = MinhashDedupBuckets(str(work_dir / "signatures"), str(work_dir / "buckets"), config=MINHASH)
    clusters = MinhashDedupCluster(
        str(work_dir / "buckets"), str(work_dir / "clusters"), MINHASH, save_cluster_id=True
    )

    files = page_files(pages)
    run_pipeline([pages_reader(pages), signature], len(files), num_workers, work_dir / "logs_1", cluster, files)
    run_pipeline([buckets], MINHASH.num_buckets, num_workers, work_dir / "logs_2", cluster)
    run_pipeline([clusters], 1, 1, work_dir / "logs_3", cluster)

    cluster_of = {}
    for file in sorted((work_dir / "clusters").glob("*.clusters")):
        for row, number in struct.iter_unpack("<2I", file.read_bytes()):
            cluster_of[int(file.stem), row] = number
    return cluster_of


def pages_reader(pages: str) -> ParquetReader:
    """Reads one file of pages a task; no page is left out, so that rows keep their numbers."""
    return ParquetReader(str(Path(pages, "pages")), glob_pattern="*.parquet")


def reasons_to_drop(pages: str, cluster_of: dict[tuple[int, int], int]) -> list[dict[int, str]]:
    """For each file of pages, the rows that go and why.

    Of pages with one address, one text, or in one cluster, the first in the order of the crawl stays.
    """
    seen: set[tuple[str, int]] = set()
    reasons: list[dict[int, str]] = []
    for number, file in enumerate(page_files(pages)):
        reasons.append({})
        for row, page in enumerate(read_pages(file, ["url", "text"])):
            keys = {
                "same_url": ("url", xxh3_64_intdigest(page["url"].encode())),
                "same_text": ("text", xxh3_64_intdigest(" ".join(page["text"].split()).encode())),
            }
            if (number, row) in cluster_of:
                keys["near_duplicate"] = ("cluster", cluster_of[number, row])
            reason = next((reason for reason, key in keys.items() if key in seen), None)
            if reason:
                reasons[number][row] = reason
            else:
                seen.update(keys.values())
    return reasons


class DuplicateFilter(PageFilter):
    """Drops the rows that `reasons_to_drop` names."""

    name = "duplicate"

    def __init__(self, reasons: list[dict[int, str]], dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.reasons = reasons

    def begin(self, rank: int) -> None:
        self.rows = iter(range(2**62))
        self.mine = self.reasons[rank]

    def reason_to_drop(self, document: Document) -> str:
        return self.mine.get(next(self.rows), "")

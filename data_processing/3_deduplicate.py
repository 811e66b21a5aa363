"""Text pages -> unique text pages: exact by address and by text, near duplicates by MinHash.

Of duplicates the one crawled first stays; the rule, its reason and the thresholds are in `crawl2chat.duplicates`.

    python data_processing/3_deduplicate.py --config data_processing/3_deduplicate.yaml \
        --pages outputs/tiny/2_pages --output_dir outputs/tiny/3_unique
"""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from crawl2chat.duplicates import DuplicateFilter, PageReader, find_duplicates
from crawl2chat.executors import ClusterConfig, run_pipeline
from crawl2chat.pages import (
    DroppedPages,
    PageWriter,
    fates_of,
    funnel_of,
    iter_lines,
    page_files,
)
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically, write_jsonl


@dataclass
class DeduplicateConfig:
    pages: str = field(metadata={"help": "Folder of 2_filter_pages.py."})
    output_dir: str = field(metadata={"help": "Where pages/, dropped/ and funnel.json go."})
    num_samples: int = bounded(20, "Dropped pages with their text, of each file; more for rare reasons.", low=0)
    num_workers: int = bounded(2, "Tasks at a time; a file of pages is one.", low=1)


def preflight(config: DeduplicateConfig, cluster: ClusterConfig) -> dict:
    cluster.check()
    files = page_files(config.pages)
    num_pages = sum(pq.read_metadata(file).num_rows for file in files)
    if not num_pages:
        raise StageError(f"{config.pages} holds no page; name the folder of an earlier stage that kept pages.")
    return {"num_files": len(files), "num_pages": num_pages}


def main(config: DeduplicateConfig, cluster: ClusterConfig) -> dict:
    out = Path(config.output_dir)
    found = out / "logs" / "minhash"
    num_clusters = find_duplicates(config.pages, found, config.num_workers, cluster)

    steps = [
        PageReader(config.pages),
        DuplicateFilter(found, DroppedPages(str(out), "duplicate", config.num_samples)),
        PageWriter(str(out)),
    ]
    files = page_files(config.pages)
    totals = run_pipeline(steps, len(files), config.num_workers, out / "logs" / "filter", cluster, files)

    # The folder carries what earlier steps dropped, so that the next stage needs no other.
    earlier, [step] = json.loads(Path(config.pages, "funnel.json").read_text()), funnel_of(steps, totals, out)
    write_atomically(out / "funnel.json", json.dumps([*earlier, step], indent=2) + "\n")
    fates = itertools.chain(iter_lines(Path(config.pages, "fates.jsonl")), fates_of(out))
    write_jsonl(out / "fates.jsonl", fates)
    return {
        "num_pages_in": step["num_in"],
        "num_pages_kept": step["num_kept"],
        "num_clusters": num_clusters,
        "num_dropped": step["reasons"],
    }


if __name__ == "__main__":
    run_stage(
        main, DeduplicateConfig, ClusterConfig, inputs=lambda config, cluster: [config.pages], preflight=preflight
    )

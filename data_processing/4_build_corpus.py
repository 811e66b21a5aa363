"""Unique pages -> a dataset: two splits in Parquet shards, dataset card, funnel and its page, scores against the truth.

The order of pages and the split are those of a hash of the address: shuffled, and the same on every run.

    python data_processing/4_build_corpus.py --config data_processing/4_build_corpus.yaml \
        --pages outputs/tiny/3_unique --truth outputs/tiny/0_web/truth.jsonl --output_dir outputs/tiny/4_corpus
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm
from xxhash import xxh3_64_intdigest

from crawl2chat.funnel_page import write_funnel_page
from crawl2chat.pages import SCHEMA, num_bytes, page_files, read_lines, read_pages
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically
from crawl2chat.truth import score

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train/*.parquet
  - split: validation
    path: validation/*.parquet
task_categories:
- text-generation
language: [{languages}]
---
# A web corpus made by crawl2chat

{num_train} pages to train on and {num_validation} to validate on, {megabytes:.1f} MB of text.

Columns: `text`, `id` (of the WARC record), `url`, `date` (of the crawl), `language`, `licence` (as the page states it:
a Creative Commons licence, "copyright", or empty). Pages that opt out of training were dropped; e-mail addresses,
public IP addresses and phone numbers were replaced. The rights in the texts remain with their authors.

| step | pages in | dropped | kept | MB kept |
|---|---|---|---|---|
{rows}

```python
datasets.load_dataset("{folder}")
```
"""


@dataclass
class CorpusConfig:
    pages: str = field(metadata={"help": "Folder of 3_deduplicate.py or 2_filter_pages.py."})
    output_dir: str = field(metadata={"help": "Where train/, validation/, funnel.json, funnel.html, README.md go."})
    truth: str | None = field(default=None, metadata={"help": "truth.jsonl of the invented web: adds scores.json."})
    validation_fraction: float = bounded(0.02, "Share of the pages for validation.", low=0.0, high=0.5)
    min_validation_pages: int = bounded(20, "At least so many, if there are twice as many.", low=1)
    pages_per_file: int = bounded(10_000, "Rows of a Parquet file.", low=1)


def preflight(config: CorpusConfig) -> dict:
    num_pages = sum(pq.read_metadata(file).num_rows for file in page_files(config.pages))
    if num_pages < 2:
        raise StageError(
            f"{config.pages} holds {num_pages} page(s); a corpus needs one to train on and one to validate."
        )
    return {"num_pages": num_pages}


def main(config: CorpusConfig) -> dict:
    out = Path(config.output_dir)
    pages = [page for file in tqdm(page_files(config.pages), desc="read", unit="file") for page in read_pages(file)]
    pages.sort(key=lambda page: (xxh3_64_intdigest(page["url"].encode()), page["id"]))
    num_validation = max(config.min_validation_pages, round(config.validation_fraction * len(pages)))
    num_validation = min(num_validation, len(pages) // 2)
    splits = {"validation": pages[:num_validation], "train": pages[num_validation:]}

    for split, rows in splits.items():
        (out / split).mkdir(exist_ok=True)
        for number, start in enumerate(range(0, len(rows), config.pages_per_file)):
            table = pa.Table.from_pylist(rows[start : start + config.pages_per_file], schema=SCHEMA)
            pq.write_table(table, out / split / f"{number:05d}.parquet", compression="zstd")

    funnel = json.loads(Path(config.pages, "funnel.json").read_text(encoding="utf-8"))
    write_atomically(out / "funnel.json", json.dumps(funnel, indent=2, ensure_ascii=False) + "\n")
    metrics = {
        "num_train_pages": len(splits["train"]),
        "num_validation_pages": num_validation,
        "train_bytes": sum(num_bytes(page["text"]) for page in splits["train"]),
        "validation_bytes": sum(num_bytes(page["text"]) for page in splits["validation"]),
    }
    write_atomically(out / "README.md", card(funnel, pages, metrics, out))
    if config.truth:
        kept = {page["url"]: page["text"] for page in pages}
        scores = score(read_lines(Path(config.truth)), read_lines(Path(config.pages, "fates.jsonl")), kept)
        write_atomically(out / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
        metrics |= {key: scores[key] for key in ("extraction_f1", "personal_data", "duplicates")}
        metrics["recall"] = {fate: values["recall"] for fate, values in scores["fates"].items()}
        metrics["precision"] = {step: values["precision"] for step, values in scores["steps"].items()}
    write_funnel_page(out)
    return metrics


def card(funnel: list[dict], pages: list[dict], metrics: dict, folder: Path) -> str:
    rows = [
        f"| {s['step']} | {s['num_in']:,} | {s['num_dropped']:,} | {s['num_kept']:,} | {s['bytes_kept'] / 1e6:.1f} |"
        for s in funnel
    ]
    return CARD.format(
        languages=", ".join(sorted({page["language"] for page in pages})),
        num_train=f"{metrics['num_train_pages']:,}",
        num_validation=f"{metrics['num_validation_pages']:,}",
        megabytes=(metrics["train_bytes"] + metrics["validation_bytes"]) / 1e6,
        rows="\n".join(rows),
        folder=folder,
    )


if __name__ == "__main__":
    run_stage(main, CorpusConfig, inputs=lambda config: [config.pages, config.truth], preflight=preflight)

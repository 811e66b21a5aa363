"""Unique pages -> a dataset: decontaminated, split, in Parquet shards, with card, funnel and scores against the truth.

The order of pages and the split are those of a hash of the address: shuffled, and the same on every run. Pages that hold
a text of the `eval_tasks` are dropped or only listed, in `decontamination.jsonl`; none are given by default.

    python data_processing/4_build_corpus.py --config data_processing/4_build_corpus.yaml \
        --pages outputs/tiny/3_unique --truth outputs/tiny/0_web/truth.jsonl --output_dir outputs/tiny/4_corpus

and with an evaluation task, fields after a colon:

    python data_processing/4_build_corpus.py --pages outputs/tiny/3_unique --output_dir outputs/clean \
        --eval_tasks gsm8k/train.jsonl:question,answer
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from crawl2chat.corpus import shuffled_order, write_shards
from crawl2chat.decontamination import Decontamination, funnel_row, split_task
from crawl2chat.funnel_page import write_funnel_page
from crawl2chat.pages import page_files, read_lines, read_pages
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically, write_jsonl
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
"cc-by-4.0", "mentions cc-by-4.0" for a bare link, "all-rights-reserved", "copyright", or empty), `opt_out` (how a page
reserves itself from training; the default policy drops such pages).{no_rights} E-mail addresses, public IP addresses,
phone, card and bank account numbers were replaced. The rights in the texts remain with their authors.
{contamination}

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
    eval_tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "path:field,field of each evaluation task; a .jsonl or .parquet file, or a folder of them."},
    )
    decontaminate: str = bounded("drop", "Pages that hold a text of a task.", choices=("drop", "report"))
    eval_num_words: int = bounded(13, "So many words in a row of a task's text; a shorter text as a whole.", low=3)
    eval_min_words: int = bounded(8, "Shorter texts of a task are not looked for.", low=1)
    validation_fraction: float = bounded(0.02, "Share of the pages for validation.", low=0.0, high=0.5)
    min_validation_pages: int = bounded(20, "At least so many, if there are twice as many.", low=1)
    pages_per_file: int = bounded(10_000, "Rows of a Parquet file.", low=1)

    def problems(self) -> list[str]:
        return [
            f"`eval_tasks`: {task} names no field with text; write {task.rstrip(':')}:question,answer, say."
            for task in self.eval_tasks
            if not split_task(task)[1]
        ]


def inputs(config: CorpusConfig) -> list:
    return [config.pages, config.truth, *(split_task(task)[0] for task in config.eval_tasks)]


def decontamination(config: CorpusConfig) -> Decontamination | None:
    if config.eval_tasks:
        return Decontamination(config.eval_tasks, config.eval_num_words, config.eval_min_words)


def preflight(config: CorpusConfig) -> dict:
    num_pages = sum(pq.read_metadata(file).num_rows for file in page_files(config.pages))
    if num_pages < 2:
        raise StageError(
            f"{config.pages} holds {num_pages} page(s); a corpus needs one to train on and one to validate."
        )
    tasks = decontamination(config)
    return {"num_pages": num_pages} | ({"num_eval_texts": tasks.num_texts} if tasks else {})


def main(config: CorpusConfig) -> dict:
    out, files = Path(config.output_dir), page_files(config.pages)
    tasks = decontamination(config)
    contaminated = tasks.search(files) if tasks else []
    dropped = contaminated if config.decontaminate == "drop" else []

    order = shuffled_order(files)
    num_pages = len(order)
    order = order[~np.isin(order, [page["page"] for page in dropped])]
    if len(order) < 2:
        raise StageError(
            f"{len(dropped)} of {num_pages} pages hold a text of the evaluation tasks, which leaves too few for a corpus; "
            f"see them with --decontaminate report --overwrite."
        )
    num_validation = max(config.min_validation_pages, round(config.validation_fraction * len(order)))
    num_validation = min(num_validation, len(order) // 2)
    splits = {"validation": order[:num_validation], "train": order[num_validation:]}
    sizes = write_shards(files, splits, config.pages_per_file, out)

    metrics = {
        "num_train_pages": len(splits["train"]),
        "num_validation_pages": num_validation,
        "train_bytes": sizes["train"]["num_bytes"],
        "validation_bytes": sizes["validation"]["num_bytes"],
    }
    funnel = json.loads(Path(config.pages, "funnel.json").read_text(encoding="utf-8"))
    if tasks:
        lines = [(page, overlap) for page in contaminated for overlap in page["overlaps"]]
        found = [{"url": page["url"], "id": page["id"], **overlap} for page, overlap in lines]
        write_jsonl(out / "decontamination.jsonl", found)
        counts = Counter(line["task"] for line in found)
        metrics["num_contaminated"] = {task: counts[task] for task in tasks.num_texts}
        bytes_in = sum(size["num_bytes"] for size in sizes.values()) + sum(page["num_bytes"] for page in dropped)
        funnel.append(funnel_row(dropped, num_pages, bytes_in))
    write_atomically(out / "funnel.json", json.dumps(funnel, indent=2, ensure_ascii=False) + "\n")
    languages = sorted(sizes["train"]["languages"] | sizes["validation"]["languages"])
    write_atomically(out / "README.md", card(config, funnel, languages, metrics))
    if config.truth:
        kept = {
            page["url"]: page["text"]
            for split in splits
            for file in sorted((out / split).glob("*.parquet"))
            for page in read_pages(file)
        }
        fates = read_lines(Path(config.pages, "fates.jsonl"))
        fates += [{"url": page["url"], "reason": f"decontaminate/{page['overlaps'][0]['task']}"} for page in dropped]
        scores = score(read_lines(Path(config.truth)), fates, kept)
        write_atomically(out / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
        metrics |= {key: scores[key] for key in ("extraction_f1", "personal_data", "duplicates")}
        metrics["recall"] = {fate: values["recall"] for fate, values in scores["fates"].items()}
        metrics["precision"] = {step: values["precision"] for step, values in scores["steps"].items()}
    write_funnel_page(out)
    return metrics


def card(config: CorpusConfig, funnel: list[dict], languages: list[str], metrics: dict) -> str:
    rows = [
        f"| {s['step']} | {s['num_in']:,} | {s['num_dropped']:,} | {s['num_kept']:,} | {s['bytes_kept'] / 1e6:.1f} |"
        for s in funnel
    ]
    counts = [f"{task}: {count:,}" for task, count in metrics.get("num_contaminated", {}).items()]
    from_text = all(step["step"] != "opt_out" for step in funnel)
    done = {"drop": "dropped", "report": "found and left in, listed in `decontamination.jsonl`"}[config.decontaminate]
    return CARD.format(
        languages=", ".join(languages),
        num_train=f"{metrics['num_train_pages']:,}",
        num_validation=f"{metrics['num_validation_pages']:,}",
        megabytes=(metrics["train_bytes"] + metrics["validation_bytes"]) / 1e6,
        contamination=f"Pages that hold {config.eval_num_words} words in a row of an evaluation task were {done} "
        f"({'; '.join(counts)})."
        if counts
        else "The pages were not searched for texts of evaluation tasks.",
        no_rights=" These pages came as text, in which neither licences nor opt-outs were looked for."
        if from_text
        else "",
        rows="\n".join(rows),
        folder=config.output_dir,
    )


if __name__ == "__main__":
    run_stage(main, CorpusConfig, inputs=inputs, preflight=preflight)

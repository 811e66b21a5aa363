"""Labelled texts -> a classifier of quality for 2_filter_pages.py, and how well it does on texts it did not see.

Labels are good and bad, or scores on any scale. Here they come from the invented web, whose truth is known:

    python data_processing/train_quality_classifier.py --config data_processing/train_quality_classifier.yaml \
        --data outputs/tiny/0_web/truth.jsonl --output_dir outputs/tiny/quality

For real pages, FineWeb-Edu's 0 to 5 for educational value, of which it kept 3 and above:

    python data_processing/train_quality_classifier.py --data HuggingFaceFW/fineweb-edu-llama3-annotations --good_from 3 \
        --pages outputs/my_crawl/2_pages --output_dir outputs/quality_edu

`metrics.json` has the thresholds to choose `min_quality` from: what each keeps of the held-out texts, and, with `--pages`,
what keeps the best tenth, two tenths... of a crawl (DCLM kept the best tenth). `words.md` shows what it goes by.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from tqdm import tqdm
from xxhash import xxh3_64_intdigest

from crawl2chat.filters import host_of
from crawl2chat.pages import page_files, read_pages
from crawl2chat.quality_classifier import QualityClassifier, features_of, indicative_terms, train, words_of
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
MIN_TO_TRAIN, MIN_TO_TEST = 20, 10  # good and bad each
NUM_TERMS = 50
MAX_TEXTS_FOR_TERMS = 5000


@dataclass
class QualityConfig:
    data: str = field(metadata={"help": "A .jsonl, .parquet or .csv file, or a dataset of the Hub."})
    output_dir: str = field(metadata={"help": "Where the classifier and words.md go."})
    split: str = field(default="train", metadata={"help": "Of a dataset of the Hub."})
    text_column: str = field(default="text", metadata={"help": "Column with the text."})
    score_column: str = field(default="score", metadata={"help": "Column with a number, or with a label (below)."})
    good_labels: list[str] = field(default_factory=list, metadata={"help": "Labels that count 1."})
    bad_labels: list[str] = field(default_factory=list, metadata={"help": "Labels that count 0; others are left out."})
    good_from: float | None = bounded(None, "A text is good from this score on; default: the middle of the scale.")
    group_column: str | None = field(
        default=None, metadata={"help": "Host or URL: texts of a host are all trained on or all tested on."}
    )
    pages: str | None = field(default=None, metadata={"help": "Folder of 2_filter_pages.py to find thresholds for."})
    max_texts: int = bounded(200_000, "Of more, so many are drawn.", low=1)
    test_fraction: float = bounded(0.2, "Share of the hosts, or texts, to test on.", low=0.01, high=0.9)
    num_bits: int = bounded(20, "2 to this power weights of 4 bytes.", low=10, high=28)
    num_epochs: int = bounded(3, "Passes over the texts.", low=1)
    learning_rate: float = bounded(0.1, "AdaGrad's.", low=1e-6)
    seed: int = bounded(0, "Of the draw, the split, and the order of the texts.", low=0)

    def problems(self) -> list[str]:
        found = []
        if bool(self.good_labels) != bool(self.bad_labels):
            found.append("`good_labels` and `bad_labels` need each other; give both, or none for scores.")
        if both := set(self.good_labels) & set(self.bad_labels):
            found.append(f"{', '.join(sorted(both))} cannot be among `good_labels` and `bad_labels`; choose one.")
        return found


def inputs(config: QualityConfig) -> list:
    is_file = Path(config.data).suffix in READERS or Path(config.data).exists()
    return [config.data if is_file else None, config.pages]


def preflight(config: QualityConfig) -> dict:
    _, _, good, held_out = labelled(config)
    facts = {"num_train": int((~held_out).sum()), "num_held_out": int(held_out.sum()), "num_good": int(good.sum())}
    return facts | ({"num_page_files": len(page_files(config.pages))} if config.pages else {})


def main(config: QualityConfig) -> dict:
    dataset, scores, good, held_out = labelled(config)
    texts = dataset[config.text_column]  # stays on disk
    features = [features_of(text or "", config.num_bits) for text in tqdm(texts, desc="read", unit="text")]
    known = np.flatnonzero(~held_out)
    classifier = train(
        [features[i] for i in known],
        scores[known],
        config.num_bits,
        config.num_epochs,
        config.learning_rate,
        config.seed,
    )
    classifier.save(config.output_dir)
    terms = indicative_terms(classifier, (texts[int(i)] or "" for i in known[:MAX_TEXTS_FOR_TERMS]))
    write_atomically(Path(config.output_dir, "words.md"), table_of(terms))

    found = np.array([classifier.score_features(features[i]) for i in np.flatnonzero(held_out)])
    metrics = {
        "num_train": len(known),
        "num_train_good": int(good[known].sum()),
        "scale": [classifier.low, classifier.high],
        **quality_of(found, scores[held_out], good[held_out], classifier),
    }
    if config.pages:
        metrics["min_quality_to_keep"] = thresholds_of(classifier, config.pages)
    return metrics


def labelled(config: QualityConfig) -> tuple[Dataset, np.ndarray, np.ndarray, np.ndarray]:
    """The texts that have a label, and for each: its score, whether it is good, whether it is held out.

    Raises:
        StageError: they cannot be read, a column is missing or of the wrong kind, or there are too few on a side.
    """
    dataset = read_dataset(config)
    labels = dataset[config.score_column][:]
    if config.good_labels:
        score_of = dict.fromkeys(config.bad_labels, 0.0) | dict.fromkeys(config.good_labels, 1.0)
        labels = [score_of.get(str(label)) for label in labels]
    scores = np.array(labels, dtype=np.float64)  # None becomes nan
    rows = np.flatnonzero(np.isfinite(scores))
    if len(rows) > config.max_texts:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, config.max_texts, replace=False))
    dataset, scores = dataset.select(rows), scores[rows]

    groups = (f"{config.seed} {group_of(row, config)}" for row in dataset)
    limit = config.test_fraction * 2**64
    held_out = np.array([xxh3_64_intdigest(group.encode("utf-8", "replace")) < limit for group in groups], dtype=bool)
    good_from = config.good_from
    if good_from is None:
        good_from = (scores.min() + scores.max()) / 2 if len(scores) else 0.0
    good = scores >= good_from
    check_sides(config, good, held_out)
    return dataset, scores, good, held_out


def read_dataset(config: QualityConfig) -> Dataset:
    path = Path(config.data)
    try:
        if path.suffix in READERS:
            dataset = load_dataset(READERS[path.suffix], data_files=str(path), split="train")
        else:
            dataset = load_dataset(config.data, split=config.split)
    except (DatasetsError, OSError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise StageError(
            f"{config.data} cannot be read by `datasets` ({reason}); name a file or a dataset."
        ) from error
    named = {key: getattr(config, key) for key in ("text_column", "score_column", "group_column")}
    missing = [f"{key} {name}" for key, name in named.items() if name and name not in dataset.column_names]
    if missing:
        columns = ", ".join(dataset.column_names)
        raise StageError(f"{config.data} has no {' and no '.join(missing)}; its columns are {columns}.")
    kinds = {key: str(getattr(dataset.features[name], "dtype", "")) for key, name in named.items() if name}
    if kinds["text_column"] not in ("string", "large_string"):
        raise StageError(f"text_column {config.text_column} of {config.data} does not hold text; name another.")
    if not config.good_labels and not kinds["score_column"].startswith(("int", "uint", "float", "bool")):
        raise StageError(
            f"score_column {config.score_column} of {config.data} does not hold numbers; name another, or say which of its "
            "values are good and bad with --good_labels and --bad_labels."
        )
    return dataset.select_columns(sorted({name for name in named.values() if name}))


def group_of(row: dict, config: QualityConfig) -> str:
    """What is split as one: a host, or else all texts that begin with the same twenty words."""
    if config.group_column is None:
        return " ".join(words_of(row[config.text_column] or "")[:20])
    return host_of(str(row[config.group_column])) or str(row[config.group_column])


def check_sides(config: QualityConfig, good: np.ndarray, held_out: np.ndarray) -> None:
    counts = f"{config.data} has {good.sum()} good and {(~good).sum()} bad texts"
    if good.all() or not good.any():
        raise StageError(f"{counts}, and both are needed; change the labels or good_from, or add texts.")
    sides = {"good": good, "bad": ~good}
    to_train = {name: int((side & ~held_out).sum()) for name, side in sides.items()}
    to_test = {name: int((side & held_out).sum()) for name, side in sides.items()}
    if min(to_train.values()) < MIN_TO_TRAIN or min(to_test.values()) < MIN_TO_TEST:
        raise StageError(
            f"{counts}; the split leaves {to_train['good']} good and {to_train['bad']} bad to train on, {to_test['good']} "
            f"good and {to_test['bad']} bad to test on, and {MIN_TO_TRAIN} and {MIN_TO_TEST} of each are needed: "
            "add texts, or change test_fraction or seed."
        )


def quality_of(found: np.ndarray, scores: np.ndarray, good: np.ndarray, classifier: QualityClassifier) -> dict:
    """How well scores order the held-out texts, and what each threshold keeps of them."""
    ranks, num_good = pd.Series(found).rank().to_numpy(), good.sum()  # a tie gets its mean rank
    low, high = classifier.low, classifier.high
    thresholds = [
        {"min_quality": round(float(t), 4), **kept_by(found >= t, good)} for t in np.linspace(low, high, 11)[1:-1]
    ]
    return {
        "num_held_out": len(found),
        "num_held_out_good": int(num_good),
        "auc": round(float((ranks[good].mean() - (num_good + 1) / 2) / (~good).sum()), 4),
        "spearman": round(float(np.corrcoef(ranks, pd.Series(scores).rank())[0, 1]), 4),
        "mean_score": {str(score): round(float(found[scores == score].mean()), 3) for score in np.unique(scores)[:20]},
        "thresholds": thresholds,
    }


def kept_by(kept: np.ndarray, good: np.ndarray) -> dict:
    both = (kept & good).sum()
    accuracy = (both / good.sum() + (~kept & ~good).sum() / (~good).sum()) / 2
    shares = {"share_kept": kept.mean(), "precision": both / max(1, kept.sum()), "recall": both / good.sum()}
    return {name: round(float(value), 4) for name, value in {**shares, "balanced_accuracy": accuracy}.items()}


def thresholds_of(classifier: QualityClassifier, pages: str) -> dict[str, float]:
    """Share of the pages -> the score that this best share of them reaches."""
    texts = (page["text"] for file in page_files(pages) for page in read_pages(file, ["text"]))
    found = np.array([classifier.score(text) for text in tqdm(texts, desc="score", unit="page")])
    return {f"{share:.1f}": float(np.quantile(found, 1 - share)) for share in np.arange(1, 10) / 10}


def table_of(terms: list[tuple[str, float, int]]) -> str:
    """The best and the worst signs, as a Markdown table."""
    cells = [f"`` {term} `` {weight:+.2f} ({count})".replace("|", "\\|") for term, weight, count in terms]
    pairs = zip(cells[:NUM_TERMS], cells[: -NUM_TERMS - 1 : -1])
    rows = "".join(f"| {best} | {worst} |\n" for best, worst in pairs)
    return f"Words and pairs, their weights, and the texts that have them.\n\n| good | bad |\n|---|---|\n{rows}"


if __name__ == "__main__":
    run_stage(main, QualityConfig, inputs=inputs, preflight=preflight)

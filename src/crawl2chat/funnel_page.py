"""funnel.json and what lies around it -> funnel.html: what each step of the path kept, what it dropped, and why.

One file without scripts that fetches nothing. All of it is read from what the stages wrote, so it can be made again,
byte for byte; with a tokenizer it also says how many tokens each step saw:

    python -m crawl2chat.funnel_page outputs/tiny/4_corpus
    python -m crawl2chat.funnel_page outputs/tiny/4_corpus --tokenizer outputs/tiny/5_tokenizer
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer

from crawl2chat.filters import host_of
from crawl2chat.html_page import write_page
from crawl2chat.pages import MAX_SHOWN_CHARACTERS, NOT_SHOWN
from crawl2chat.stage import DONE, STARTED, StageError

COUNTS = ("num_in", "num_kept", "num_dropped", "bytes_in", "bytes_kept")
MAX_BARS = 12
SAMPLE_BYTES = 4_000_000  # of kept text, tokenized for the ratio of bytes to tokens: some seconds
WHAT_IT_DOES = {
    "read": "records and rows that are whole pages",
    "url": "block list of hosts",
    "opt_out": "pages that reserve themselves from training",
    "language_gate": "rough language, before extraction",
    "extract": "text out of HTML",
    "language": "language of the text",
    "repetition": "Gopher: repeated lines and n-grams",
    "gopher": "Gopher: length, symbols, stop words",
    "c4": "C4: sentences, braces, boilerplate",
    "fineweb": "FineWeb: line ends, short and repeated lines",
    "protected": "passages of protected texts",
    "duplicate": "same address, same text, near duplicates",
    "personal_data": "addresses and numbers replaced",
    "write": "Parquet",
}
PERSONAL_DATA = {"emails": "e-mail addresses", "ips": "IP addresses", "phones": "phone numbers"}


@dataclass
class KeptPages:
    """What a corpus holds, read in batches."""

    num_characters: np.ndarray
    num_bytes: int
    splits: Counter = field(default_factory=Counter)
    hosts: Counter = field(default_factory=Counter)
    languages: Counter = field(default_factory=Counter)
    licences: Counter = field(default_factory=Counter)


def write_funnel_page(folder: str | Path, tokenizer: str | Path | None = None) -> Path:
    """Writes `funnel.html` beside the `funnel.json` of a corpus.

    Args:
        folder: of 4_build_corpus.py. The seconds a step took are read from the stages before it, if they are still there.
        tokenizer: folder with a `tokenizer.json`, to count tokens.

    Raises:
        StageError: no funnel, no pages or no tokenizer there.
    """
    folder = Path(folder)
    funnel, files = _read_funnel(folder), sorted(folder.glob("*/*.parquet"))
    if not files:
        raise StageError(f"{folder} holds no pages in */*.parquet; name a folder of 4_build_corpus.py.")
    kept = kept_pages(files)
    tokens = bytes_per_token(files, Path(tokenizer)) if tokenizer else None
    scores = folder / "scores.json"
    steps = _steps(funnel, tokens)
    write_page(
        folder / "funnel.html",
        "funnel.html.jinja",
        steps=steps,
        num_pages=max(1, funnel[0]["num_in"]),
        kept=kept,
        lengths=histogram(kept.num_characters),
        hosts=_bars(kept.hosts),
        languages=_bars(kept.languages, "unknown"),
        licences=_bars(kept.licences, "none stated"),
        tokens=tokens,
        earlier=_earlier(folder, funnel),
        scores=_read_json(scores) if scores.is_file() else None,
        what_it_does=WHAT_IT_DOES,
        personal_data=PERSONAL_DATA,
        max_bars=MAX_BARS,
        max_shown=MAX_SHOWN_CHARACTERS,
    )
    return folder / "funnel.html"


def kept_pages(files: list[Path]) -> KeptPages:
    kept, lengths = KeptPages(np.zeros(0, np.int64), 0), []
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["text", "url", "language", "licence"]):
            lengths.append(pc.utf8_length(batch["text"]).to_numpy(zero_copy_only=False))
            kept.num_bytes += pc.sum(pc.binary_length(batch["text"])).as_py() or 0
            kept.splits[file.parent.name] += len(batch)
            kept.hosts.update(filter(None, map(host_of, batch["url"].to_pylist())))
            kept.languages.update(batch["language"].to_pylist())
            kept.licences.update(batch["licence"].to_pylist())
    kept.num_characters = np.concatenate(lengths)
    return kept


def bytes_per_token(files: list[Path], folder: Path) -> dict:
    """Bytes a token stands for, over the first megabytes of the kept pages; end-of-text tokens are not counted.

    Raises:
        StageError: `folder` has no tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise StageError(f"{folder} has no tokenizer.json; name the folder of a fast tokenizer.")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    num_bytes = num_tokens = 0
    for texts in _texts(files):
        num_bytes += sum(len(text.encode()) for text in texts)
        num_tokens += sum(len(item.ids) for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        if num_bytes >= SAMPLE_BYTES:
            break
    return {"ratio": num_bytes / max(1, num_tokens), "num_bytes": num_bytes, "vocab_size": tokenizer.get_vocab_size()}


def _texts(files: list[Path]) -> Iterator[list[str]]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=100, columns=["text"]):
            yield batch["text"].to_pylist()


def histogram(num_characters: np.ndarray) -> dict:
    """Pages by length, in bins that are equal on a logarithmic axis: at least 16, if the lengths differ so much."""
    logs = np.log10(np.maximum(num_characters, 1))
    for per_decade in (5, 10, 20, 50, 100):
        bins = np.floor(logs * per_decade).astype(int)
        first, num_bins = int(bins.min()), int(bins.max() - bins.min()) + 1
        if num_bins >= 16:
            break
    counts = np.bincount(bins - first, minlength=num_bins).tolist()
    edges = [10 ** ((first + i) / per_decade) for i in range(num_bins + 1)]

    def position(length: float) -> float:
        return round(100 * (np.log10(max(length, 1)) * per_decade - first) / num_bins, 3)

    ticks = [m * 10**e for e in range(10) for m in (1, 2, 5) if edges[0] <= m * 10**e <= edges[-1]]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if str(tick).startswith("1")]
    elif len(ticks) < 4:
        step = _round_step(edges[-1] - edges[0], 6)
        ticks = list(range(-(-int(np.ceil(edges[0])) // step) * step, int(edges[-1]) + 1, step))
    apart: list[tuple[int, float]] = []  # far enough for a label each on a phone
    for tick in ticks:
        if position(tick) <= 96 and (not apart or position(tick) - apart[-1][1] >= 13):
            apart.append((tick, position(tick)))
    grid = _round_step(max(counts), 4)
    quantiles = np.quantile(num_characters, (0.05, 0.5, 0.95), method="inverted_cdf").tolist()
    return {
        "bins": list(zip(edges, edges[1:], counts)),
        "top": -(-max(counts) // grid) * grid,
        "grid": grid,
        "ticks": apart,
        "quantiles": [(int(value), position(value)) for value in quantiles],
    }


def _round_step(span: float, most: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... that goes into `span` at most so many times."""
    return next(m * 10**e for e in range(16) for m in (1, 2, 5) if span / (m * 10**e) <= most)


def _bars(counts: Counter, nameless: str = "") -> dict:
    """The most frequent first, each with its share of all; how many names and pages are left over."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    total = max(1, counts.total())
    shown = [(name or nameless, count, count / total) for name, count in ordered[:MAX_BARS]]
    return {"shown": shown, "num_names": len(ordered), "num_left": counts.total() - sum(bar[1] for bar in shown)}


def _steps(funnel: list[dict], tokens: dict | None) -> list[dict]:
    """The funnel's steps with their reasons, the most frequent first, each with its sample; tokens where it is text."""
    names = [step["step"] for step in funnel]
    first_text = names.index("extract") + 1 if "extract" in names else 0
    steps = []
    for number, step in enumerate(funnel):
        name, reasons = step["step"], sorted(step["reasons"].items(), key=lambda item: (-item[1], item[0]))
        samples = {sample["reason"].removeprefix(f"{name}/"): sample for sample in step["samples"]}
        is_text = {"in": number >= first_text, "kept": number >= first_text - 1}
        steps.append(
            {
                **{key: step[key] for key in COUNTS},
                "name": name,
                "bytes_dropped": step["bytes_in"] - step["bytes_kept"],
                "tokens": {side: tokens is not None and is_text[side] for side in is_text},
                "is_html": not is_text["in"],
                "hides_text": name in NOT_SHOWN,
                "reasons": [(reason, count, samples.get(reason)) for reason, count in reasons],
            }
        )
    return steps


def _earlier(folder: Path, funnel: list[dict]) -> dict:
    """Seconds by step, damage and replacements from the stages that made these pages, back to the first one still there.

    A folder counts only if its funnel is the beginning of this one: another run may stand there by now.
    """
    found = {"seconds": [], "hardware": None, "num_damaged": 0, "replaced": {}}
    visited = set()
    while pages := _config_of(folder).get("pages"):
        visited.add(folder.resolve())
        # The path as it was given then, or, if all were moved since, beside this folder.
        places = [place for place in (Path(pages), folder.parent / Path(pages).name) if (place / DONE).is_file()]
        places = [place for place in places if place.resolve() not in visited]
        if not places or (earlier := _read_funnel(places[0])) != funnel[: len(earlier)]:
            break
        folder, metrics = places[0], _read_json(places[0] / "metrics.json")
        seconds = metrics.get("seconds_by_step", {})
        if seconds:
            found["hardware"] = yaml.safe_load((folder / DONE).read_text(encoding="utf-8"))["hardware"]
        found["seconds"] = _times(seconds, earlier) + found["seconds"]
        found["num_damaged"] += metrics.get("num_damaged_records", 0)
        replaced = metrics.get("num_replaced", {})
        found["replaced"] |= {kind.removeprefix("num_"): number for kind, number in replaced.items() if number}
    return found


def _times(seconds: dict[str, float], funnel: list[dict]) -> list[tuple[str, float, float]]:
    """Each step's name, milliseconds a page of the crawl, and milliseconds a page that reached it."""
    counted, num_pages, times = {step["step"]: step for step in funnel}, max(1, funnel[0]["num_in"]), []
    num_reached = 0
    for name, value in seconds.items():
        num_reached = counted[name]["num_in"] if name in counted else num_reached
        times.append((name, 1000 * value / num_pages, 1000 * value / max(1, num_reached)))
        num_reached = counted[name]["num_kept"] if name in counted else num_reached
    return times


def _config_of(folder: Path) -> dict:
    """The config of a stage, finished or, as when this page is first made, about to finish."""
    for marker in (STARTED, DONE):
        if (folder / marker).is_file():
            return (yaml.safe_load((folder / marker).read_text(encoding="utf-8")) or {}).get("config") or {}
    return {}


def _read_funnel(folder: Path) -> list[dict]:
    file = folder / "funnel.json"
    if not file.is_file():
        raise StageError(f"{folder} has no funnel.json; name a folder of 4_build_corpus.py.")
    funnel = _read_json(file)
    needed = {"step", "reasons", "samples", *COUNTS}
    if not (isinstance(funnel, list) and funnel and all(isinstance(s, dict) and needed <= s.keys() for s in funnel)):
        raise StageError(f"{file} is no list of steps with their counts; run the stage that writes it again.")
    return funnel


def _read_json(file: Path):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{file} is no JSON ({error}); run the stage that writes it again.") from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of 4_build_corpus.py, e.g. outputs/tiny/4_corpus")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer.json: count tokens, too")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(f"{write_funnel_page(arguments.folder, arguments.tokenizer)}\n")
    except StageError as error:
        sys.exit(f"funnel_page: error: {error}")

"""What a crawl costs in core-hours, memory and disk, from what a run of the stages on a sample took a page.

    python benchmarks/scaling.py outputs/web_pages/2_pages outputs/web_pages/3_unique --num_pages 2.6e9

Every number is read from the run's own files: processor time and peak memory of each task (`logs/**/usage/`), pages
(`metrics.json`), and the sizes of the input and of what was written. The last column is that times the pages of the
crawl. A sample says nothing about shares that depend on size: duplicates above all are far more frequent in a crawl.
"""

import argparse
import json
import sys
from pathlib import Path

from crawl2chat.pages import iter_lines
from crawl2chat.stage import StageError, read_run


def size(*paths: Path) -> int:
    """Bytes of files, and of the files in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def usage(logs: Path) -> tuple[float, float]:
    """Processor seconds of all tasks below a folder of logs, and the largest task's peak memory in MB."""
    tasks = [json.loads(file.read_text()) for file in sorted(logs.rglob("usage/*.json"))]
    if not tasks:
        raise SystemExit(f"{logs} holds no usage/*.json; name the output folder of a finished stage.")
    return sum(task["cpu_seconds"] for task in tasks), max(task["peak_mb"] for task in tasks)


def constants(filtered: Path, unique: Path | None) -> list[tuple[str, float, str, float]]:
    """Name, value and unit of what was measured, and how much of it the crawl needs a page that was read."""
    counts = json.loads((filtered / "metrics.json").read_text())
    read, kept = counts["num_pages_in"], counts["num_pages_kept"]
    inputs = read_run(filtered)["inputs"]
    warcs = size(*(Path(path) for path in inputs if not path.endswith(".txt")))
    seconds, peak_mb = usage(filtered / "logs")
    share = kept / read
    lines = (line for file in (filtered / "dropped").rglob("*.jsonl") for line in iter_lines(file))
    dropped = sum(len(json.dumps({**line, "text": ""})) for line in lines)
    rows = [
        ("filter: processor time", 1000 * seconds / read, "ms a page read", seconds / read),
        ("filter: peak memory of a task", peak_mb, "MB", 0.0),
        ("WARC files", warcs / read / 1e3, "kB a page read", warcs / read),
        ("pages kept", 100 * share, "% of pages read", share),
        ("pages/", size(filtered / "pages") / kept / 1e3, "kB a page kept", size(filtered / "pages") / read),
        ("dropped/, without texts", dropped / read / 1e3, "kB a page read", dropped / read),
        ("fates.jsonl", size(filtered / "fates.jsonl") / read / 1e3, "kB a page read",
         size(filtered / "fates.jsonl") / read),
    ]  # fmt: skip
    if unique:
        signatures = size(unique / "logs" / "minhash" / "signatures") / kept
        seconds, peak_mb = usage(unique / "logs")
        rows += [
            ("deduplicate: processor time of the tasks", 1000 * seconds / kept, "ms a page kept", seconds / read),
            ("deduplicate: peak memory of a task", peak_mb, "MB", 0.0),
            ("MinHash signatures", signatures, "bytes a page kept", signatures * share),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("filtered", type=Path, help="output folder of 2_filter_pages.py")
    parser.add_argument("unique", type=Path, nargs="?", help="output folder of 3_deduplicate.py")
    parser.add_argument("--num_pages", type=float, default=2.6e9, help="pages of the crawl")
    arguments = parser.parse_args()

    try:
        run = read_run(arguments.filtered)
    except StageError as error:
        raise SystemExit(str(error)) from error
    counts = json.loads((arguments.filtered / "metrics.json").read_text())
    lines = [
        f"{counts['num_pages_in']:,} pages of {counts['num_files']} files; {run['hardware']}; commit {run['commit']}.",
        "",
        f"| | measured | {arguments.num_pages:.3g} pages |",
        "|---|---|---|",
    ]
    for name, value, unit, per_page in constants(arguments.filtered, arguments.unique):
        total = per_page * arguments.num_pages
        needs = (
            f"{total / 3600:,.0f} core-hours" if "time" in name
            else f"{total / 1e6:,.0f} million pages" if name == "pages kept"
            else f"{total / 1e12:,.2f} TB" if total
            else "the same"
        )  # fmt: skip
        lines.append(f"| {name} | {value:,.3g} {unit} | {needs} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Precision, recall and F1 of text extraction on pages with snippets that must and must not be found, and its CPU time.

    python benchmarks/extraction.py --warc path/to/web_pages.warc.gz --truth path/to/web_pages_truth.jsonl

The truth has a line a page: `url`, `with` (snippets of the article) and `without` (of navigation, adverts and the like);
these are trafilatura's evaluation pages (https://github.com/adbar/trafilatura/tree/master/tests). Compared are our two
modes and trafilatura alone, in precision mode as in FineWeb and in its fast mode, in turns.
"""

import argparse
import json
import sys
import time

import trafilatura

from crawl2chat.extract import MODES, extract_text
from crawl2chat.warc import map_file, page_of, read_records

EXTRACTORS = {mode: lambda html, mode=mode: extract_text(html, mode) for mode in MODES} | {
    "trafilatura precision": lambda html: trafilatura.extract(html, favor_precision=True, include_comments=False),
    "trafilatura fast": lambda html: trafilatura.extract(html, fast=True, include_comments=False),
}


def main(arguments: argparse.Namespace) -> None:
    with open(arguments.truth, encoding="utf-8") as lines:
        truth = {page["url"]: page for page in map(json.loads, lines)}
    items = [item[1] for item in read_records(map_file(arguments.warc)) if isinstance(item, tuple)]
    pages = [page_of(record, "")[0] for record in items if record.http_headers is not None]
    pages = [(page.text, truth[page.metadata["url"]]) for page in pages if page.metadata["url"] in truth]
    counts = {name: dict.fromkeys(("found", "missed", "false", "seconds"), 0.0) for name in EXTRACTORS}
    for html, page in pages:
        for name, extract in EXTRACTORS.items():
            started_at = time.process_time()
            text = extract(html) or ""
            counts[name]["seconds"] += time.process_time() - started_at
            found = sum(snippet in text for snippet in page["with"])
            counts[name]["found"] += found
            counts[name]["missed"] += len(page["with"]) - found
            counts[name]["false"] += sum(snippet in text for snippet in page["without"])
    sys.stdout.write("| | precision | recall | F1 | CPU ms a page |\n|---|---|---|---|---|\n")
    for name, count in counts.items():
        precision = count["found"] / max(1, count["found"] + count["false"])
        recall = count["found"] / max(1, count["found"] + count["missed"])
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        ms = 1000 * count["seconds"] / max(1, len(pages))
        sys.stdout.write(f"| {name} | {precision:.3f} | {recall:.3f} | {f1:.3f} | {ms:.1f} |\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--warc", required=True, help="A WARC file.")
    parser.add_argument("--truth", required=True, help="JSON lines with url, with, without.")
    main(parser.parse_args())

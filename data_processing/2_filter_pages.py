"""WARC files -> text pages: read, block list, opt-outs, language, extraction, quality rules, protected passages, PII.

The order of FineWeb (https://arxiv.org/abs/2406.17557) with three additions: opt-outs are respected, a language gate
stands before the costly extraction, and every dropped page is listed with its reason in `dropped/<step>/`.

    python data_processing/2_filter_pages.py --config data_processing/2_filter_pages.yaml \
        --warc outputs/tiny/0_web/crawl --blocked_hosts outputs/tiny/0_web/blocked_hosts.txt \
        --protected_texts outputs/tiny/0_web/protected.txt --output_dir outputs/tiny/2_pages
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from crawl2chat.executors import ClusterConfig, run_pipeline
from crawl2chat.extract import ExtractText, LanguageFilter, LanguageGate, OptOutFilter
from crawl2chat.filters import (
    BlockedHosts,
    C4Filter,
    FineWebFilter,
    GopherFilter,
    ProtectedFilter,
    RepetitionFilter,
)
from crawl2chat.pages import DroppedPages, PageWriter, fates_of, funnel_of
from crawl2chat.personal_data import RemovePersonalData
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically, write_jsonl
from crawl2chat.warc import WarcPages, check_warc, warc_files


@dataclass
class FilterConfig:
    warc: str = field(metadata={"help": "A WARC file, a glob, or a folder searched for *.warc.gz and *.warc."})
    output_dir: str = field(metadata={"help": "Where pages/, dropped/, damaged/ and funnel.json go."})
    blocked_hosts: str | None = field(default=None, metadata={"help": "Text file, a host a line."})
    protected_texts: str | None = field(default=None, metadata={"help": "Text file, a passage a line."})
    languages: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "ISO 639 codes to keep."})
    min_gate_probability: float = bounded(0.2, "Of the languages, before extraction.", low=0.0, high=1.0)
    min_language_probability: float = bounded(0.65, "Of a language, after extraction.", low=0.0, high=1.0)
    max_extraction_seconds: float = bounded(5.0, "Processor time a page.", low=0.1)
    min_words: int = bounded(50, "Gopher.", low=1)
    max_words: int = bounded(100_000, "Gopher.", low=1)
    min_alpha_words: float = bounded(0.8, "Gopher; lower keeps pages of sums.", low=0.0, high=1.0)
    min_sentences: int = bounded(5, "C4.", low=1)
    protected_words: int = bounded(13, "So many words in a row of a protected passage drop a page.", low=3)
    num_samples: int = bounded(20, "Dropped pages kept with their text, for each step and file.", low=0)
    allow_damaged: bool = field(default=False, metadata={"help": "Take a cut-off file's whole records."})
    num_workers: int = bounded(2, "Tasks at a time; a WARC file is one.", low=1)


def inputs(config: FilterConfig, cluster: ClusterConfig) -> list:
    warcs = [config.warc] if Path(config.warc).exists() else warc_files(config.warc) or [config.warc]
    return [*warcs, config.blocked_hosts, config.protected_texts]


def warcs(config: FilterConfig, cluster: ClusterConfig) -> list:
    return inputs(config, cluster)[:-2]


def preflight(config: FilterConfig, cluster: ClusterConfig) -> dict:
    cluster.check()
    files = warc_files(config.warc)
    if not files:
        raise StageError(f"{config.warc} has no *.warc.gz or *.warc in it; name a file, a glob or another folder.")
    bad = []
    for file in files:
        try:
            check_warc(file, config.allow_damaged)
        except StageError as error:
            bad.append(str(error))
    if len(bad) == len(files):
        raise StageError(" ".join(bad[:3]))
    # Some bad files stop no others: their tasks fail, and the stage with them, when the others are done.
    return {"num_files": len(files), "num_bytes": sum(file.stat().st_size for file in files), "bad_files": bad}


def main(config: FilterConfig, cluster: ClusterConfig) -> dict:
    files, out = warc_files(config.warc), config.output_dir

    def dropped(step: str) -> DroppedPages:
        return DroppedPages(out, step, config.num_samples)

    steps = [
        WarcPages(files, out, dropped("read"), config.allow_damaged),
        BlockedHosts(config.blocked_hosts, dropped("url")) if config.blocked_hosts else None,
        OptOutFilter(dropped("opt_out")),
        LanguageGate(config.languages, config.min_gate_probability, dropped("language_gate")),
        ExtractText(config.max_extraction_seconds, dropped("extract")),
        LanguageFilter(config.languages, config.min_language_probability, dropped("language")),
        RepetitionFilter(dropped("repetition")),
        GopherFilter(config.min_words, config.max_words, config.min_alpha_words, dropped("gopher")),
        C4Filter(config.min_sentences, dropped("c4")),
        FineWebFilter(dropped("fineweb")),
        ProtectedFilter(config.protected_texts, config.protected_words, dropped("protected"))
        if config.protected_texts
        else None,
        RemovePersonalData(),
        PageWriter(out),
    ]
    steps = [step for step in steps if step]
    totals = run_pipeline(steps, len(files), config.num_workers, Path(out, "logs"), cluster, files)

    reader, funnel = totals[0], funnel_of(steps, totals, out)
    if reader.get("cut_off") and not config.allow_damaged:
        raise StageError(
            f"{reader['cut_off']} of the files are cut off, as {out}/damaged says. Fetch them again, or keep their whole "
            "records with --allow_damaged true --overwrite."
        )
    write_atomically(Path(out, "funnel.json"), json.dumps(funnel, indent=2) + "\n")
    write_jsonl(Path(out, "fates.jsonl"), fates_of(out))
    personal_data = totals[[step.name for step in steps].index("personal_data")]
    return {
        "num_files": len(files),
        "num_pages_in": funnel[0]["num_in"],
        "num_pages_kept": funnel[-1]["num_kept"],
        "num_dropped": {step["step"]: step["num_dropped"] for step in funnel},
        "num_damaged_records": reader.get("damaged", 0),
        "num_replaced": {kind: personal_data.get(kind, 0) for kind in ("num_emails", "num_ips", "num_phones")},
        "seconds_by_step": {step.name: round(total["seconds"], 2) for step, total in zip(steps, totals)},
    }


if __name__ == "__main__":
    run_stage(main, FilterConfig, ClusterConfig, inputs=inputs, inputs_by_task=warcs, preflight=preflight)

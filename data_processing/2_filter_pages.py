"""Crawled pages -> text pages: read, block list, opt-outs, language, extraction, quality, blocked words and passages, PII.

The order of FineWeb (https://arxiv.org/abs/2406.17557) with three additions: opt-outs are respected, a language gate
stands before the costly extraction, and every dropped page is listed with its reason in `dropped/<step>/`.

    python data_processing/2_filter_pages.py --config data_processing/2_filter_pages.yaml \
        --warc outputs/tiny/0_web/crawl --block_lists outputs/tiny/0_web/blocked_hosts.txt \
        --protected_texts outputs/tiny/0_web/protected.txt --output_dir outputs/tiny/2_pages

Text that others took out of the pages starts at the second look at the language. Opt-outs and licences stand in HTML and
its headers, so they cannot be seen there. It may be Common Crawl's WET files (`--warc outputs/crawl/*.warc.wet.gz`), or
a dataset in Parquet or JSON Lines, on disk or on the Hub:

    python data_processing/2_filter_pages.py --config data_processing/2_filter_pages.yaml \
        --dataset "hf://datasets/HuggingFaceFW/fineweb/sample/10BT/*.parquet" --output_dir outputs/fineweb/2_pages
"""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from crawl2chat.block_list import FINEWEB, BlockedUrls, compile_block_list, list_files
from crawl2chat.executors import ClusterConfig, run_pipeline
from crawl2chat.extract import MODES, ExtractText
from crawl2chat.filters import (
    BlockedWords,
    C4Filter,
    FineWebFilter,
    GopherFilter,
    ProtectedFilter,
    RepetitionFilter,
    read_word_list,
)
from crawl2chat.language import LanguageFilter, LanguageGate
from crawl2chat.pages import DroppedPages, PageWriter, fates_of, funnel_of
from crawl2chat.pii import KINDS, RemovePersonalData
from crawl2chat.quality import STOP_WORDS
from crawl2chat.quality_classifier import QualityFilter, check_min_quality
from crawl2chat.rights import POLICIES, LicenceFilter, OptOutFilter, TdmFiles
from crawl2chat.sources import WARC, Source, files_named, input_paths, open_source
from crawl2chat.stage import StageError, bounded, run_stage, write_atomically, write_jsonl


@dataclass
class FilterConfig:
    output_dir: str = field(metadata={"help": "Where pages/, dropped/, damaged/ and funnel.json go."})
    warc: str | None = field(default=None, metadata={"help": "WARC or WET files: one, a glob, or a folder of them."})
    dataset: str | None = field(
        default=None,
        metadata={"help": "Instead: Parquet or JSON Lines files: one, a glob, a folder, or an hf:// address."},
    )
    text_column: str = field(default="text", metadata={"help": "Of the dataset."})
    block_lists: list[str] = field(
        default_factory=lambda: [FINEWEB],
        metadata={
            "help": "Text files (a host or address a line), folders of UT1, or fineweb for the lists FineWeb takes."
        },
    )
    rights_policy: str = bounded("drop_opt_out", "What goes for what it says on its use.", choices=POLICIES)
    noarchive_opts_out: bool = field(default=True, metadata={"help": "As Bing and Amazon take it."})
    tdmrep: str | None = field(
        default=None, metadata={"help": "WARC files with hosts' /.well-known/tdmrep.json; default: those of --warc."}
    )
    blocked_words: str | None = field(default=None, metadata={"help": "Text file, a word or phrase a line."})
    max_blocked_words: int = bounded(0, "More different ones drop a page; 0 is C4's rule.", low=0)
    protected_texts: str | None = field(default=None, metadata={"help": "Text file, a passage a line."})
    languages: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "ISO 639 codes to keep."})
    min_gate_probability: float = bounded(0.2, "Of the languages, before extraction.", low=0.0, high=1.0)
    min_language_probability: float = bounded(0.65, "Of a language, after extraction.", low=0.0, high=1.0)
    extraction: str = bounded("quality", "By trafilatura, or in a fraction of its time by resiliparse.", choices=MODES)
    max_extraction_seconds: float = bounded(5.0, "Processor time a page.", low=0.1)
    min_words: int = bounded(50, "Gopher.", low=1)
    max_words: int = bounded(100_000, "Gopher.", low=1)
    min_alpha_words: float = bounded(0.8, "Gopher; lower keeps pages of sums.", low=0.0, high=1.0)
    stop_words: list[str] = field(
        default_factory=lambda: list(STOP_WORDS),
        metadata={"help": "Gopher asks for two of them; [] for none. Those of your languages."},
    )
    min_sentences: int = bounded(5, "C4.", low=1)
    quality_model: str | None = field(default=None, metadata={"help": "Folder of train_quality_classifier.py."})
    min_quality: float | None = bounded(
        None, "Pages that the model scores lower go; its metrics.json helps to choose."
    )
    protected_words: int = bounded(13, "So many words in a row of a protected passage drop a page.", low=3)
    num_samples: int = bounded(20, "Dropped pages with their text, of a step and file; more for rare reasons.", low=0)
    allow_damaged: bool = field(default=False, metadata={"help": "Take a cut-off file's whole records."})
    num_workers: int = bounded(2, "Tasks at a time; a file is one.", low=1)

    def problems(self) -> list[str]:
        problems = []
        if (self.warc is None) == (self.dataset is None):
            problems.append("`warc` or `dataset` names what to read; give one of them.")
        if (self.quality_model is None) != (self.min_quality is None):
            problems.append("`quality_model` and `min_quality` need each other; give both, or neither.")
        return problems


def inputs(config: FilterConfig, cluster: ClusterConfig) -> list:
    lists = [source for source in config.block_lists if source != FINEWEB]
    others = (config.blocked_words, config.protected_texts, config.quality_model)
    return [*sources(config, cluster), *lists, *others]


def sources(config: FilterConfig, cluster: ClusterConfig) -> list:
    return [path for flag in ("warc", "dataset", "tdmrep") for path in input_paths(getattr(config, flag), flag)]


def preflight(config: FilterConfig, cluster: ClusterConfig) -> dict:
    cluster.check()
    source = open_source(config.warc, config.dataset)
    source.check_settings(config)
    bad = source.check_files(config.allow_damaged, config.text_column)
    if source.is_html and config.tdmrep:
        bad += Source(WARC, files_named(config.tdmrep, "tdmrep")).check_files(config.allow_damaged, "")
    for block_list in config.block_lists:
        if block_list != FINEWEB:
            list_files(block_list)
    if config.blocked_words:
        read_word_list(config.blocked_words)
    if config.quality_model:
        check_min_quality(config.quality_model, config.min_quality)
    if "en" not in config.languages and tuple(config.stop_words) == STOP_WORDS:
        warnings.warn(
            "`stop_words` are English and no kept language is; give those of yours, or [] for none.", stacklevel=2
        )
    # Some bad files stop no others: their tasks fail, and the stage with them, when the others are done.
    return {"num_files": len(source.files), "num_bytes": source.num_bytes, "bad_files": bad}


def build_steps(config: FilterConfig) -> list:
    """What a page goes through, in this order."""
    source, out = open_source(config.warc, config.dataset), config.output_dir

    def dropped(step: str) -> DroppedPages:
        return DroppedPages(out, step, config.num_samples)

    text_of_html = [
        OptOutFilter(config.rights_policy, config.noarchive_opts_out, f"{out}/tdmrep", dropped("opt_out")),
        LanguageGate(config.languages, config.min_gate_probability, dropped("language_gate")),
        LicenceFilter(config.rights_policy, dropped("licence")),
        ExtractText(config.max_extraction_seconds, config.extraction, dropped("extract")),
    ]
    steps = [
        source.reader(out, dropped("read"), config.allow_damaged, config.text_column),
        BlockedUrls(compile_block_list(config.block_lists), dropped("url")) if config.block_lists else None,
        *(text_of_html if source.is_html else []),
        LanguageFilter(config.languages, config.min_language_probability, dropped("language")),
        RepetitionFilter(dropped("repetition")),
        GopherFilter(config.min_words, config.max_words, config.min_alpha_words, config.stop_words, dropped("gopher")),
        C4Filter(config.min_sentences, dropped("c4")),
        FineWebFilter(dropped("fineweb")),
        BlockedWords(config.blocked_words, config.max_blocked_words, dropped("blocked_words"))
        if config.blocked_words
        else None,
        QualityFilter(config.quality_model, config.min_quality, dropped("quality")) if config.quality_model else None,
        ProtectedFilter(config.protected_texts, config.protected_words, dropped("protected"))
        if config.protected_texts
        else None,
        RemovePersonalData(),
        PageWriter(out),
    ]
    return [step for step in steps if step]


def main(config: FilterConfig, cluster: ClusterConfig) -> dict:
    source, out = open_source(config.warc, config.dataset), config.output_dir
    if source.is_html:
        tdm_files = files_named(config.tdmrep, "tdmrep") if config.tdmrep else source.files
        num_workers = config.num_workers if len(tdm_files) > 50 else 1  # processes take longer to start than 50 files
        first_pass = [TdmFiles(tdm_files, f"{out}/tdmrep")]
        run_pipeline(first_pass, len(tdm_files), num_workers, Path(out, "logs", "tdmrep"), cluster, tdm_files)

    steps = build_steps(config)
    totals = run_pipeline(steps, len(source.files), config.num_workers, Path(out, "logs"), cluster, source.files)

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
        "num_files": len(source.files),
        "num_pages_in": funnel[0]["num_in"],
        "num_pages_kept": funnel[-1]["num_kept"],
        "num_dropped": {step["step"]: step["num_dropped"] for step in funnel},
        "num_damaged_records": reader.get("damaged", 0),
        "num_replaced": {kind: personal_data.get(kind, 0) for kind in KINDS},
        "seconds_by_step": {step.name: round(total["seconds"], 2) for step, total in zip(steps, totals)},
    }


if __name__ == "__main__":
    run_stage(main, FilterConfig, ClusterConfig, inputs=inputs, inputs_by_task=sources, preflight=preflight)

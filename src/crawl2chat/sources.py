"""What `2_filter_pages.py` reads: WARC files with HTML, WET files with text, or the Parquet and JSON Lines of a dataset."""

import glob
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from crawl2chat.dataset_pages import DatasetPages, check_dataset
from crawl2chat.pages import DroppedPages
from crawl2chat.reading import FileReader
from crawl2chat.remote import RemoteFile, RemoteFiles, list_remote
from crawl2chat.stage import StageError
from crawl2chat.warc import WarcPages, WetPages, check_warc

# The names of each kind.
WARC = (".warc.gz", ".warc")
WET = (".warc.wet.gz", ".warc.wet")
DATASET = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz")
# Settings of the steps that only HTML goes through.
OF_HTML = ["rights_policy", "noarchive_opts_out", "tdmrep", "min_gate_probability"]
OF_HTML += ["extraction", "max_extraction_seconds"]
NAMES_BY_FLAG = {"warc": WARC + WET, "tdmrep": WARC, "dataset": DATASET}


@dataclass
class Source:
    """The files of one kind that a run reads, one a task."""

    kind: tuple[str, ...]
    files: list[Path | RemoteFile]

    @property
    def is_html(self) -> bool:
        return self.kind == WARC

    @property
    def num_bytes(self) -> int:
        return sum(file.size if isinstance(file, RemoteFile) else file.stat().st_size for file in self.files)

    def check_files(self, allow_damaged: bool, text_column: str) -> list[str]:
        """What is wrong with files, a sentence each. Some bad files stop no others: their tasks fail.

        Raises:
            StageError: all of them are bad.
        """
        problems = []
        for file in self.files:
            try:
                if self.kind == DATASET:
                    check_dataset(file, text_column)
                else:
                    check_warc(file, allow_damaged, is_wet=self.kind == WET)
            except StageError as error:
                problems.append(str(error))
        if len(problems) == len(self.files):
            raise StageError(" ".join(problems[:3]))
        return problems

    def check_settings(self, config: Any) -> None:
        """Warns of settings that differ from their default and have no effect on files of this kind.

        Raises:
            StageError: the files cannot tell what a setting asks for.
        """
        if not self.is_html and config.rights_policy == "only_open_licence":
            raise StageError(
                f"rights_policy only_open_licence needs the HTML of pages, and {self.files[0]} has their text, which tells "
                "no licence; give WARC files, or another policy."
            )
        idle = [] if self.is_html else OF_HTML
        idle = [*idle, "allow_damaged"] if self.kind == DATASET else [*idle, "text_column"]
        changed = [
            f"--{field.name} {getattr(config, field.name)}"
            for field in fields(config)
            if field.name in idle and getattr(config, field.name) != field.default
        ]
        if changed:
            what = {WARC: "WARC", WET: "WET", DATASET: "dataset"}[self.kind]
            sys.stderr.write(f"warning: no effect on {what} files: {', '.join(changed)}\n")

    def reader(self, output_dir: str, dropped: DroppedPages, allow_damaged: bool, text_column: str) -> FileReader:
        if self.kind == DATASET:
            return DatasetPages(self.files, output_dir, dropped, text_column)
        return (WarcPages if self.is_html else WetPages)(self.files, output_dir, dropped, allow_damaged)


def open_source(warc: str | None, dataset: str | None) -> Source:
    """The files that `--warc` or `--dataset` names.

    Raises:
        StageError: there is none, or they are of several kinds.
    """
    if dataset:
        return Source(DATASET, files_named(dataset, "dataset"))
    files = files_named(warc, "warc")
    texts = [file for file in files if file.name.endswith(WET)]
    if texts and len(texts) < len(files):
        raise StageError(
            f"{warc} has {len(files) - len(texts)} WARC files, with HTML, and {len(texts)} WET files, with text, which take "
            "different steps; name one kind, as by a glob that ends in .warc.gz or in .warc.wet.gz."
        )
    return Source(WET if texts else WARC, files)


def files_named(named: str, flag: str) -> list[Path | RemoteFile]:
    """The files that `--<flag>` names: one, a glob, or a folder searched for files of the flag's kinds; sorted.

    Raises:
        StageError: there is none, or one of another kind.
    """
    names = NAMES_BY_FLAG[flag]
    found, known = _find(named, names), " or ".join(f"*{name}" for name in names)
    if isinstance(found, RemoteFiles):
        if flag != "dataset":
            raise StageError(
                f"--{flag} {named}: such files are read from disk; fetch them first, by 1_fetch_crawl.py --base_url, say."
            )
        found = list(found.files)
    if not found:
        raise StageError(f"{named} has no {known} in it; name a file, a glob or another folder.")
    for file in found:
        if flag == "dataset" and not file.name.endswith(DATASET):
            other = "give it as --warc" if file.name.endswith(WARC + WET) else f"name {known}"
            raise StageError(f"{file} is no file of a dataset by its name; {other}.")
        if flag != "dataset" and file.name.endswith(DATASET):
            raise StageError(f"{file} is no WARC file by its name; give it as --dataset.")
    return found


def input_paths(named: str | None, flag: str) -> list[str | Path | RemoteFiles]:
    """What a run's record names and takes the fingerprint of; not there, it is the stage contract's to say."""
    if not named or Path(named).exists():
        return [named] if named else []
    found = _find(named, NAMES_BY_FLAG[flag])
    return [found] if isinstance(found, RemoteFiles) else found or [named]


def _find(named: str, names: tuple[str, ...]) -> list[Path] | RemoteFiles:
    if "://" in named:
        return list_remote(named, names)
    path = Path(named)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.name.endswith(names))
    if path.is_file():
        return [path]
    return sorted(Path(name) for name in glob.glob(named, recursive=True) if Path(name).is_file())

"""What the readers of pages share: their counters, the list of what is no page, and the quarantine of what is damaged."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from crawl2chat.executors import WholeFiles
from crawl2chat.pages import DroppedPages, num_bytes
from crawl2chat.remote import RemoteFile

STEP = "read"
MAX_SET_ASIDE_BYTES = 2**20


@dataclass
class Damage:
    """A stretch of a file that holds no whole record."""

    offset: int  # where it starts in the file
    reason: str
    length: int = 0  # up to the next record that was found
    url: str = ""  # if it could still be read
    at_end: bool = False  # the file ends within it: it was cut off


class FileReader(PipelineStep):
    """Reads files, one a task, and yields their pages.

    What is no page goes to `dropped`; what is damaged to `damaged/`: one line a stretch in `<rank>.jsonl` and its first
    MiB in `<rank>.bin`.
    """

    type, name = "📖 - READER", STEP

    def __init__(
        self, files: Sequence[Path | RemoteFile], output_dir: str, dropped: DroppedPages, allow_damaged: bool = False
    ):
        super().__init__()
        self.files, self.dropped, self.allow_damaged = files, dropped, allow_damaged
        self.damaged = WholeFiles(Path(output_dir, "damaged"))

    @abstractmethod
    def read_file(self, file: Path | RemoteFile, rank: int) -> Iterator[Document]:
        raise NotImplementedError

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with self.dropped.of_task(rank), self.damaged.of_task(f"{rank:05d}.jsonl", f"{rank:05d}.bin"):
            for file in self.files[rank::world_size]:
                yield from self.read_file(file, rank)

    def is_kept(self, document: Document, reason: str, rank: int, is_set_aside: bool = False) -> bool:
        """Counts a page that was read; where there is a reason to drop it, lists it, unless it is set aside anyway."""
        self.stat_update("num_in")
        self.stat_update("bytes_in", value=num_bytes(document.text))
        if reason:
            self.stat_update("num_dropped", f"dropped_{reason}")
            if not is_set_aside:
                self.dropped.write(document, rank, reason=f"{STEP}/{reason}")
            return False
        self.stat_update("num_kept")
        self.stat_update("bytes_kept", value=num_bytes(document.text))
        return True

    def set_aside(self, damage: Damage, data: bytes, file: Path | RemoteFile, rank: int) -> None:
        self.stat_update("damaged")
        if damage.at_end:
            self.stat_update("cut_off")
        line = json.dumps({"file": file.name, **vars(damage)}, ensure_ascii=False) + "\n"
        self.damaged.write(f"{rank:05d}.jsonl", line.encode())
        self.damaged.write(f"{rank:05d}.bin", data[:MAX_SET_ASIDE_BYTES])

"""URL block lists: hosts, addresses and words in addresses, memory-mapped, so that workers share them.

The lists of UT1 (https://dsi.ut-capitole.fr/blacklists/index_en.php), which FineWeb uses, name 4.6 million hosts: 661 MB
in each worker as a set of strings, 37 MB in all of them together as sorted 64-bit hashes in a file.
"""

import hashlib
import io
import json
import re
import tarfile
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import ahocorasick
import numpy as np
from datatrove.utils._import_utils import ASSETS_PATH
from huggingface_hub import cached_assets_path
from xxhash import xxh3_64_intdigest

from crawl2chat.pages import DroppedPages, PageFilter
from crawl2chat.stage import StageError, fingerprint, write_atomically

FINEWEB = "fineweb"  # the lists that datatrove brings: UT1 and words, as in FineWeb's recipe
BUNDLED = Path(ASSETS_PATH)
BUNDLED_LISTS = BUNDLED / "url_filterblacklistsv0_3_0.tar.gz"
WORD_LISTS = ("banned_words", "soft_banned_words", "banned_subwords")
MAX_SOFT_WORDS = 1
NO_WORD = re.compile(r"[^a-zA-Z0-9]+")


class BlockList:
    """A compiled list: what it has against a URL, or "".

    Args:
        folder: what `compile_block_list` returned.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.hosts = np.load(folder / "hosts.npy", mmap_mode="r")  # (N,) uint64, sorted
        self.urls = np.load(folder / "urls.npy", mmap_mode="r")  # (M,) uint64, sorted
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        self.words, self.soft_words = set(words["banned_words"]), set(words["soft_banned_words"])
        self.subwords = ahocorasick.Automaton(ahocorasick.STORE_LENGTH)
        for word in words["banned_subwords"]:
            self.subwords.add_word(word)
        self.subwords.make_automaton()

    def reason(self, url: str) -> str:
        """Hosts hold for their subdomains; words and their counts are as in datatrove's `URLFilter`."""
        host, rest = split_url(url)
        labels = host.split(".")
        if any(_is_in(self.hosts, ".".join(labels[i:])) for i in range(len(labels))):
            return "blocked_host"
        if len(self.urls) and _is_in(self.urls, host + rest):
            return "blocked_url"
        words = set(NO_WORD.split(url))
        if not self.words.isdisjoint(words):
            return "blocked_word"
        if len(self.soft_words & words) > MAX_SOFT_WORDS:
            return "soft_words"
        if len(self.subwords) and next(self.subwords.iter(NO_WORD.sub("", url).lower()), None):
            return "blocked_subword"
        return ""


class BlockedUrls(PageFilter):
    """Drops the pages whose address is on a list."""

    name = "url"

    def __init__(self, folder: str | Path, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.folder = folder

    def begin(self, rank: int) -> None:
        self.block_list = BlockList(self.folder)

    def reason_to_drop(self, document) -> str:
        return self.block_list.reason(document.metadata["url"])


def compile_block_list(sources: list[str]) -> Path:
    """Hashes and sorts the lists once; later runs find the result in the cache of huggingface_hub.

    Args:
        sources: text files with a host or an address a line, folders of UT1 (with `domains` and `urls` in them or below
            them), or "fineweb".

    Raises:
        StageError: a source is missing, or a folder has no lists in it.
    """
    digest = hashlib.sha256()
    for source in sources:
        if source != FINEWEB:
            list_files(source)  # there must be some
        digest.update((str(BUNDLED_LISTS.stat().st_size) if source == FINEWEB else fingerprint(source)).encode())
    folder = cached_assets_path(library_name="crawl2chat", namespace="block_lists", subfolder=digest.hexdigest()[:16])
    if (folder / "words.json").is_file():
        return folder

    hosts, urls, words = array("Q"), array("Q"), {name: [] for name in WORD_LISTS}
    for source in sources:
        if source == FINEWEB:
            with tarfile.open(BUNDLED_LISTS) as archive:
                for member in filter(tarfile.TarInfo.isfile, archive):
                    with io.TextIOWrapper(archive.extractfile(member), encoding="utf-8", errors="replace") as lines:
                        _add(lines, hosts, urls)
            for name in WORD_LISTS:
                lines = (BUNDLED / f"{name}.txt").read_text(encoding="utf-8").splitlines()
                words[name] += [NO_WORD.sub("", line).lower() for line in lines if line[:1] not in ("", "#")]
        else:
            for file in list_files(source):
                with file.open(encoding="utf-8", errors="replace") as lines:
                    _add(lines, hosts, urls)
    with tempfile.TemporaryDirectory(dir=folder) as own:  # other processes may be compiling the same lists
        for name, hashes in (("hosts", hosts), ("urls", urls)):
            np.save(Path(own, f"{name}.npy"), np.unique(np.frombuffer(hashes, np.uint64)))
        write_atomically(Path(own, "words.json"), json.dumps({k: sorted(set(v)) for k, v in words.items()}))
        for name in ("hosts.npy", "urls.npy", "words.json"):  # the last one says that all are there
            Path(own, name).replace(folder / name)
    return folder


def list_files(source: str | Path) -> list[Path]:
    """The files of a source that is no name.

    Raises:
        StageError: there is none.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    files = sorted(file for name in ("domains", "urls") for file in source.rglob(name) if file.is_file())
    if not files:
        raise StageError(
            f"block list {source} is no file, and no folder with files named domains or urls in it; name a text file with "
            f"a host a line, a folder of UT1, or {FINEWEB}."
        )
    return files


def _add(lines: Iterable[str], hosts: array, urls: array) -> None:
    for line in lines:
        line = line.split("#")[0].strip().removesuffix("/")
        if line:
            host, rest = split_url(line)
            (urls if rest else hosts).append(xxh3_64_intdigest((host + rest).encode()))


def split_url(url: str) -> tuple[str, str]:
    """The host in lower case without `www.`, and path and query; the scheme may be missing."""
    if "/" not in url:  # a line of a list of hosts: there are millions
        return url.lower().removeprefix("www.").rstrip("."), ""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host = (parts.hostname or "").removeprefix("www.").rstrip(".")
    except ValueError:  # "http://[oops"
        return "", ""
    return host, parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")


def _is_in(hashes: np.ndarray, text: str) -> bool:
    digest = np.uint64(xxh3_64_intdigest(text.encode()))
    position = np.searchsorted(hashes, digest)
    return bool(position < len(hashes) and hashes[position] == digest)

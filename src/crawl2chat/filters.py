"""Blocks of the path that look at a page's address or text: block list, quality rules, protected passages.

Each returns the reason why a page goes, or "". The rules of Gopher, C4 and FineWeb themselves are in `quality.py`.
"""

from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from datatrove.data import Document
from xxhash import xxh3_64_intdigest

from crawl2chat import quality
from crawl2chat.ngrams import NGramIndex, plain_words
from crawl2chat.pages import DroppedPages, PageFilter


class BlockedHosts(PageFilter):
    """Drops pages of listed hosts and of their subdomains.

    The list has a host a line; `#` starts a comment. It is held as sorted 64-bit hashes, 8 bytes a host: 4.6 million
    hosts (https://dsi.ut-capitole.fr/blacklists/index_en.php) take 37 MB, and 661 MB as a set of strings.
    """

    name = "url"

    def __init__(self, blocked_hosts: str, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.blocked_hosts = blocked_hosts

    def begin(self, rank: int) -> None:
        lines = Path(self.blocked_hosts).read_text(encoding="utf-8").splitlines()
        hosts = [line.split("#")[0].strip().lower().removeprefix("www.") for line in lines]
        self.hashes = np.unique(
            np.array([xxh3_64_intdigest(host.encode()) for host in hosts if host], dtype=np.uint64)
        )

    def reason_to_drop(self, document: Document) -> str:
        labels = host_of(document.metadata["url"]).split(".")
        domains = [".".join(labels[i:]) for i in range(len(labels))]
        return "blocked_host" if any(map(self.is_listed, domains)) else ""

    def is_listed(self, host: str) -> bool:
        digest = np.uint64(xxh3_64_intdigest(host.encode()))
        position = np.searchsorted(self.hashes, digest)
        return bool(position < len(self.hashes) and self.hashes[position] == digest)


def host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # "http://[oops"
        return ""


class RepetitionFilter(PageFilter):
    name = "repetition"

    def reason_to_drop(self, document: Document) -> str:
        return quality.repetition(document.text)


class GopherFilter(PageFilter):
    name = "gopher"

    def __init__(self, min_words: int, max_words: int, min_alpha_words: float, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.thresholds = min_words, max_words, min_alpha_words

    def reason_to_drop(self, document: Document) -> str:
        return quality.gopher_quality(document.text, *self.thresholds)


class C4Filter(PageFilter):
    name = "c4"

    def __init__(self, min_sentences: int, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.min_sentences = min_sentences

    def reason_to_drop(self, document: Document) -> str:
        reason, text = quality.c4(document.text, self.min_sentences)
        if not reason:
            document.text = text
        return reason


class FineWebFilter(PageFilter):
    name = "fineweb"

    def reason_to_drop(self, document: Document) -> str:
        return quality.fineweb(document.text)


class ProtectedFilter(PageFilter):
    """Drops pages that hold `num_words` words in a row of a protected passage, or a shorter passage as a whole.

    Thirteen words is what GPT-3 took for an overlap that is no accident (https://arxiv.org/abs/2005.14165, appendix C).
    """

    name = "protected"

    def __init__(self, protected_texts: str, num_words: int, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.protected_texts, self.num_words = protected_texts, num_words

    def begin(self, rank: int) -> None:
        passages = Path(self.protected_texts).read_text(encoding="utf-8").splitlines()
        self.index = NGramIndex(enumerate(passages), self.num_words)

    def reason_to_drop(self, document: Document) -> str:
        return "passage" if any(self.index.hits(plain_words(document.text))) else ""

"""Blocks of the path that look at a page's address or text: block list, quality rules, protected passages, personal data.

Each returns the reason why a page goes, or "". The rules of Gopher, C4 and FineWeb themselves are in `quality.py`.
"""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from xxhash import xxh3_64_intdigest

from crawl2chat import quality
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

    def __init__(self, min_words: int, max_words: int, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.min_words, self.max_words = min_words, max_words

    def reason_to_drop(self, document: Document) -> str:
        return quality.gopher_quality(document.text, self.min_words, self.max_words)


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
        self.n_grams: dict[int, set[str]] = {}  # by their length: nearly always one
        for passage in Path(self.protected_texts).read_text(encoding="utf-8").splitlines():
            if words := plain_words(passage):
                n = min(self.num_words, len(words))
                self.n_grams.setdefault(n, set()).update(n_grams(words, n))

    def reason_to_drop(self, document: Document) -> str:
        words = plain_words(document.text)
        overlaps = any(not grams.isdisjoint(n_grams(words, n)) for n, grams in self.n_grams.items())
        return "passage" if overlaps else ""


def plain_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def n_grams(words: list[str], n: int) -> list[str]:
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


EMAIL = re.compile(  # datatrove's PIIFormatter's, without its rare forms
    r"\b[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
)
IP_V4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)")
IP_V6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
PHONE = re.compile(
    r"(?<![\w.+-])\+\d{1,3}(?:[ .-]?\(\d{1,4}\)|[ .-]\d{1,4}|\d{2,4})(?:[ .-]?\d{2,4}){1,5}(?![\w])"  # +44 20 7946 0123
    r"|(?<![\w.+-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}(?![\w])"  # (212) 555-0123
    r"|(?:(?<=\bTel)|(?<=\bPhone)|(?<=\bCall)|(?<=\bcall)|(?<=\bFax)|(?<=\bphone)|(?<=\btel)|(?<=\bMobile))"
    r"(?:[:.]+ ?| )(?:us at |on )?\(?\d{2,5}\)?(?:[ ./-]\d{2,5}){1,4}(?![\w])"  # Tel: 030 1234 567
)
# Addresses that belong to nobody: RFC 2606, RFC 5737, RFC 3849, and numbers kept for fiction.
EMAIL_PLACEHOLDER, IP_V4_PLACEHOLDER, IP_V6_PLACEHOLDER = "email@example.com", "192.0.2.1", "2001:db8::1"
PHONE_PLACEHOLDER = "555-0100"


class RemovePersonalData(PipelineStep):
    """Replaces e-mail addresses, public IP addresses and phone numbers by placeholders, and counts them.

    FineWeb replaces the first two (https://huggingface.co/datasets/HuggingFaceFW/fineweb#personal-and-sensitive-information).
    """

    type, name = "✂️ - FORMAT", "personal_data"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            with self.track_time():
                document.text, counts = remove_personal_data(document.text)
            for kind, count in counts.items():
                if count:
                    self.stat_update(kind, value=count)
            yield document


def remove_personal_data(text: str) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and how many of each kind were put in."""
    num_emails = num_ips = num_ips_v6 = num_phones = 0
    if "@" in text:
        text, num_emails = EMAIL.subn(EMAIL_PLACEHOLDER, text)
    text, num_ips = _replace_public(IP_V4, IP_V4_PLACEHOLDER, text)
    if "::" in text or text.count(":") > 6:
        text, num_ips_v6 = _replace_public(IP_V6, IP_V6_PLACEHOLDER, text)
    # What follows "Tel" is matched with the mark before it, which must stay.
    text, num_phones = PHONE.subn(_phone_placeholder, text)
    return text, {"num_emails": num_emails, "num_ips": num_ips + num_ips_v6, "num_phones": num_phones}


def _phone_placeholder(match: re.Match) -> str:
    mark = re.match(r"[:.]*\s?(?:us at |on )?", match[0])[0]
    return mark + PHONE_PLACEHOLDER


def _replace_public(pattern: re.Pattern, placeholder: str, text: str) -> tuple[str, int]:
    num_replaced = 0

    def replacement(match: re.Match) -> str:
        nonlocal num_replaced
        try:
            is_public = ipaddress.ip_address(match[0]).is_global
        except ValueError:
            return match[0]
        num_replaced += is_public
        return placeholder if is_public else match[0]

    return pattern.sub(replacement, text), num_replaced

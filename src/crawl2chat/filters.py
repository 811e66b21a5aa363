"""Blocks of the path that look at a page's address or text: block list, quality rules, blocked words, protected passages.

Each returns the reason why a page goes, or "". The rules of Gopher, C4 and FineWeb are in `quality.py`, and here as plain
functions of a text, which return None for a page that stays: `repetition`, `gopher_quality`, `c4` and `fineweb`.
"""

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from datatrove.data import Document

from crawl2chat.ngrams import NGramIndex, plain_words
from crawl2chat.pages import DroppedPages, PageFilter
from crawl2chat.quality import STOP_WORDS, c4, c4_lines, fineweb, gopher_quality, repetition
from crawl2chat.stage import StageError

__all__ = ["c4", "fineweb", "gopher_quality", "repetition"]


def host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # "http://[oops"
        return ""


class RepetitionFilter(PageFilter):
    name = "repetition"

    def reason_to_drop(self, document: Document) -> str:
        return repetition(document.text) or ""


class GopherFilter(PageFilter):
    name = "gopher"

    def __init__(
        self,
        min_words: int,
        max_words: int,
        min_alpha_words: float,
        stop_words: Collection[str] = STOP_WORDS,
        dropped: DroppedPages | None = None,
    ):
        super().__init__(dropped)
        self.thresholds = min_words, max_words, min_alpha_words, frozenset(stop_words)

    def reason_to_drop(self, document: Document) -> str:
        return gopher_quality(document.text, *self.thresholds) or ""


class C4Filter(PageFilter):
    name = "c4"

    def __init__(self, min_sentences: int, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.min_sentences = min_sentences

    def reason_to_drop(self, document: Document) -> str:
        reason, text = c4_lines(document.text, self.min_sentences)
        if not reason:
            document.text = text
        return reason or ""


class FineWebFilter(PageFilter):
    name = "fineweb"

    def reason_to_drop(self, document: Document) -> str:
        return fineweb(document.text) or ""


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


class BlockedWords(PageFilter):
    """Drops pages in which more than `max_blocked_words` different entries of a list appear, as whole words.

    C4 drops a page for one (https://jmlr.org/papers/volume21/20-074/20-074.pdf, with the list
    https://github.com/LDNOOBW/List-of-Dirty-Naughty-Obscene-and-Otherwise-Bad-Words), which takes away more of what
    minorities write about themselves than of the rest (https://arxiv.org/abs/2104.08758). datatrove's C4BadWordsFilter can
    keep a random share; a count can be as mild and depends on nothing but the page. 0 is C4's rule.

    The list has a word or phrase a line. Upper and lower case are the same ("STRASSE" is "straße"), and so are the gaps in
    a phrase. As in C4, Chinese, Japanese and Thai entries are found inside words, too.
    """

    name = "blocked_words"

    def __init__(self, blocked_words: str, max_blocked_words: int = 0, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.blocked_words, self.max_blocked_words = blocked_words, max_blocked_words

    def begin(self, rank: int) -> None:
        entries = read_word_list(self.blocked_words)
        plain = {tuple(plain_words(entry)): entry for entry in entries if re.fullmatch(r"\w(?:.*\w)?", entry)}
        plain = {words: entry for words, entry in plain.items() if not UNSPACED.search(entry)}
        self.words = {words[0] for words in plain if len(words) == 1}
        self.phrases = [(frozenset(words), f" {' '.join(words)} ") for words in plain if len(words) > 1]
        self.inside = [entry for entry in entries if UNSPACED.search(entry)]
        others = entries - set(self.inside) - set(plain.values())  # "@ss"
        self.marks = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(others)))})(?!\w)") if others else None

    def reason_to_drop(self, document: Document) -> str:
        text = folded(document.text)
        words = plain_words(text)
        distinct = set(words)
        found = len(self.words & distinct)
        phrases = [phrase for members, phrase in self.phrases if members <= distinct]
        if phrases:
            joined = f" {' '.join(words)} "
            found += sum(phrase in joined for phrase in phrases)
        found += sum(entry in text for entry in self.inside)
        found += len(set(self.marks.findall(text))) if self.marks else 0
        return "blocked_words" if found > self.max_blocked_words else ""


UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def folded(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).casefold()


def read_word_list(path: str) -> set[str]:
    """The entries, folded.

    Raises:
        StageError: the file is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise StageError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    return {folded(line.strip()) for line in lines if line.strip()}

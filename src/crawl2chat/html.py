"""A page's HTML as bytes and as a tree, made once for all the steps that look at it."""

from collections.abc import Callable
from typing import Generic, TypeVar

from selectolax.lexbor import LexborHTMLParser

T = TypeVar("T")
NO_TEXT_TAGS = ["script", "style", "template"]


class remember_last(Generic[T]):
    """Keeps a function's last result: steps in a row ask for the same of a page."""

    def __init__(self, function: Callable[[str], T]):
        self.function, self.last = function, (None, None)

    def __call__(self, text: str) -> T:
        known, result = self.last
        if known is not text:
            result = self.function(text)
            self.remember(text, result)
        return result

    def remember(self, text: str, result: T) -> None:
        self.last = text, result


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

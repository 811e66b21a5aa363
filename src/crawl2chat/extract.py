"""HTML -> text, in two modes.

`quality` is trafilatura (https://aclanthology.org/2021.acl-demo.15/), as in FineWeb, `speed` is resiliparse
(https://resiliparse.chatnoir.eu), as in DCLM. Before either, the fast lexbor parser shrinks the page: what can never be
text (scripts, styles, drawings) and what hardly ever is (navigation, footers, asides) goes. `benchmarks/extraction.py`
measures both.
"""

import signal
from contextlib import contextmanager

import trafilatura
from datatrove.data import Document
from lxml import etree
from lxml.html import HtmlElement
from resiliparse.extract.html2text import extract_plain_text
from selectolax.lexbor import LexborHTMLParser

from crawl2chat.html import NO_TEXT_TAGS, tree_of
from crawl2chat.pages import DroppedPages, PageFilter

MODES = ("quality", "speed")
# Never text, and hardly ever text.
STRIPPED_TAGS = [
    *NO_TEXT_TAGS, "svg", "canvas", "iframe", "object", "embed", "video", "audio", "map", "select", "button", "input",
    "nav", "footer", "aside", "dialog",
]  # fmt: skip
# trafilatura's own, but for one class of elements for all tags: lxml.html looks for it in Python.
PARSER = etree.HTMLParser(
    collect_ids=False, default_doctype=False, encoding="utf-8", remove_comments=True, remove_pis=True
)
PARSER.set_element_class_lookup(etree.ElementDefaultClassLookup(element=HtmlElement))


def extract_text(html: str, mode: str = "quality") -> str:
    """The main content of a page as plain text, a paragraph a line; "" if there is none.

    Args:
        mode: "quality" or "speed"; see above.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}.")
    return main_text(LexborHTMLParser(html), mode)


def main_text(tree: LexborHTMLParser, mode: str) -> str:
    """Of a page as a tree, which is shrunk thereby."""
    tree.strip_tags(STRIPPED_TAGS)
    html = tree.html or ""
    if mode == "speed":
        return extract_plain_text(html, main_content=True, comments=False, preserve_formatting=True, alt_texts=False)
    # `fast` leaves out the second opinions. No `deduplicate`: it remembers earlier pages, so that the result would depend
    # on which process saw what.
    page = etree.fromstring(html.encode("utf-8", "replace"), PARSER)
    text = trafilatura.extract(page, fast=True, include_comments=False, include_tables=True, output_format="txt")
    return text or ""


class ExtractText(PageFilter):
    """Replaces HTML by the text of its main content, a paragraph a line.

    The bound is on processor time: one on the clock would make the result depend on what else the machine does.
    """

    name = "extract"

    def __init__(self, max_seconds: float, mode: str = "quality", dropped: DroppedPages | None = None):
        super().__init__(dropped)
        self.max_seconds, self.mode = max_seconds, mode

    def reason_to_drop(self, document: Document) -> str:
        try:
            with cpu_limit(self.max_seconds):
                text = main_text(tree_of(document.text), self.mode)
        except CpuTimeout:
            return "too_slow"
        except Exception:  # of a parser on hostile input; the page is lost, not the file
            return "failed"
        if not text:
            return "empty"
        document.text = text
        return ""


class CpuTimeout(BaseException):
    """No `Exception`: trafilatura catches those, and would go on without a limit."""


@contextmanager
def cpu_limit(seconds: float):
    """Raises CpuTimeout in the block once it has used so much of the processor. In the main thread only."""

    def stop(signum, frame):
        raise CpuTimeout

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

"""Pages for people: a Jinja template beside this file -> one HTML file, whole, safe to open, and fetching nothing."""

import re
from pathlib import Path

import jinja2

from crawl2chat.stage import write_atomically


def write_page(path: Path, template: str, **values) -> None:
    """Fills a template that extends `page.html.jinja`."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # whatever the web wrote is text here
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"num": "{:,}".format, "size": _size, "percent": _percent, "short": _short}
    page = templates.get_template(template).render(values)
    # Lone surrogates cannot be written, and control characters have no place in HTML.
    page = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", page.encode("utf-8", "replace").decode())
    write_atomically(path, page)


def _size(num_bytes: float) -> str:
    return f"{_three_digits(num_bytes / 1e6)} MB" if num_bytes < 1e9 else f"{_short(num_bytes)}B"


def _short(count: float) -> str:
    """1234567 -> "1.23 M"."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return _three_digits(count / unit) + name
    return f"{count:.0f}"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value == 0 or value >= 100 else 1 if value >= 10 else 2}f}"


def _percent(share: float) -> str:
    if share in (0, 1):
        return f"{share:.0%}"
    return "<0.1%" if share < 0.0005 else ">99.9%" if share >= 0.9995 else f"{100 * share:.1f}%"

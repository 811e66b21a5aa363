"""The playground's pictures, as HTML: templates and look; whatever a model, a page or a person wrote is shown as text."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

_HERE = Path(__file__).parent
CSS = (_HERE / "playground.css").read_text()
# In the page: a click on a bar tells which token it stands for.
CLICKS = """
element.addEventListener("click", (event) => {
  const bar = event.target.closest("[data-token]");
  if (bar) trigger("select", { token: bar.dataset.token });
});
"""


def shown(text: str) -> Markup:
    """Text as it is to be seen, control characters by their pictures.

    Braces and dollars are written as entities, since Gradio reads what it is given as a template, too.
    """
    clean = text.encode("utf-8", "replace").decode()
    pictures = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), clean).replace(
        "\x7f", "\u2421"
    )
    entities = {ord(letter): f"&#{ord(letter)};" for letter in "{}$`"}
    return Markup(str(escape(pictures)).translate(entities))


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_environment.filters["shown"] = shown
_macros = _environment.get_template("playground.html.jinja").module


def tokens(columns: list[dict]) -> str:
    return str(_macros.tokens(columns))


def bars(rows: list[dict]) -> str:
    return str(_macros.bars(rows))


def surprise(rows: list[dict], entropy: float, left_out: int) -> str:
    return str(_macros.surprise(rows, entropy, left_out))


def tree(branches: list[dict]) -> str:
    return f'<div class="c2c tree">{_macros.tree(branches)}</div>'


def chat(turns: list[dict], coloured: bool) -> str:
    return str(_macros.chat(turns, coloured))


def found(sentences: list[tuple[str, str]], query: str) -> str:
    """Sentences and their pages, the words of the query marked."""
    words = "|".join(re.escape(word) for word in re.findall(r"\w+", query))
    split = re.compile(rf"\b({words})\b", re.IGNORECASE).split if words else lambda sentence: [sentence]
    return str(_macros.found([{"parts": split(sentence), "url": url} for sentence, url in sentences], query))

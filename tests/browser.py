"""Pages in headless Chromium, and what is wrong with them: errors in the console, calls to elsewhere, text hard to read."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; on Debian: apt-get install chromium")

# Of all visible text: its colour against what is painted behind it, as WCAG 2.2 counts contrast.
_CONTRASTS = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]);
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
    const s = c[i] / 255; return sum + w * (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4); }, 0);
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    const text = walker.currentNode.textContent.trim();
    const isSeen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!text || !isSeen || !element.getClientRects().length || element.closest("svg, script, style")) continue;
    if (style.clip === "rect(0px, 0px, 0px, 0px)") continue;  // for screen readers only
    const chain = []; let faint = 1;
    for (let e = element; e; e = e.parentElement) {
      chain.unshift(parse(getComputedStyle(e).backgroundColor));
      faint *= Number(getComputedStyle(e).opacity);
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const behind = chain.reduce((under, top) => over(top, under), dark ? [18, 18, 18] : [255, 255, 255]);
    const ink = parse(style.color), drawn = over([...ink.slice(0, 3), ink[3] * faint], behind);
    const [a, b] = [light(drawn), light(behind)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push([(a + 0.05) / (b + 0.05), large, text.slice(0, 40), element.className.toString()]);
  }
  return found;
}"""


@contextmanager
def opened(url: str, width: int = 1440, height: int = 1000, dark: bool = False):
    """A page, with a list of what it should not have done."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        wrong: list[str] = []
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        here = ("http://127.0.0.1:", "data:", "blob:", "file:")
        page.on("request", lambda asked: None if asked.url.startswith(here) else wrong.append(f"asks {asked.url}"))
        page.goto(url, wait_until="load")
        try:
            yield page, wrong
        finally:
            chromium.close()


def hard_to_read(page) -> list[str]:
    """Texts with less contrast than WCAG 2.2 AA asks for: 4.5, or 3 for large ones."""
    rows = page.evaluate(_CONTRASTS)
    assert rows, "the page shows no text"
    low = {(round(ratio, 2), text, name) for ratio, large, text, name in rows if ratio < (3 if large else 4.5)}
    return [f"{ratio}: {text!r} ({name})" for ratio, text, name in sorted(low)]

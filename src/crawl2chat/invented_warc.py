"""Pages of the invented web as HTML, and as records of WARC 1.0 (https://iipc.github.io/warc-specifications/).

The HTML puts the chrome of a site around the text: navigation, a cookie banner, scripts, comments, a footer. The records
are shaped like Common Crawl's: one gzip member a record.
"""

import gzip
import hashlib
import html
import random
import zlib

import brotli

from crawl2chat.invented_pages import KINDS, Page
from crawl2chat.invented_world import COUNTRY

DATE = "2025-04-12T08:30:00Z"


def page_html(page: Page, rng: random.Random) -> str:
    """The whole document: one of three layouts, by host, around the text."""
    layout = zlib.crc32(page.host.encode()) % 3
    navigation = "".join(
        f'<li><a href="/{name}/">{name.title()}</a></li>' for name in ("home", "news", *KINDS, "contact")
    )
    text = "".join(f"<p>{html.escape(paragraph, quote=False)}</p>\n" for paragraph in page.paragraphs)
    side = "".join(f'<li><a href="/{kind}/{rng.randint(1, 9)}.html">More about {kind}s</a></li>' for kind in KINDS)
    main = {
        0: f"<article><h1>{page.title}</h1>\n{text}</article><aside><h3>Read also</h3><ul>{side}</ul></aside>",
        1: f'<div id="content" class="post"><h1>{page.title}</h1>\n{text}</div><div class="sidebar"><ul>{side}</ul></div>',
        2: f'<main><section class="entry-content"><h2>{page.title}</h2>\n{text}</section></main>',
    }[layout]
    comments = '<div class="comments" id="comments"><h3>Comments</h3><p>Nice.</p><p>Thanks for this!</p></div>'
    return f"""<!DOCTYPE html>
<html lang="{page.language}"><head><meta charset="{page.charset}"><title>{page.title} - {page.host}</title>{page.head}
<style>body {{ font: 16px serif; margin: 2em }} .cookie {{ position: fixed }}</style>
<script>window.dataLayer = [{{ id: {rng.randint(1000, 9999)} }}]; function track() {{ return 1; }}</script></head>
<body><div class="cookie cookie-banner" role="dialog"><p>We use cookies. <button>Accept</button></p></div>
<header><nav><ul>{navigation}</ul></nav></header>
{main}
{comments if layout == 0 else ""}
<footer><p>&copy; 2019 {page.host}. All rights reserved. <a href="/imprint">Imprint</a></p></footer>
</body></html>
"""


def warc_info(filename: str) -> bytes:
    body = f"software: crawl2chat\r\ndescription: the invented web of {COUNTRY}\r\nformat: WARC File Format 1.0\r\n".encode()
    return _record(
        "warcinfo",
        f"info {filename}",
        [("WARC-Filename", filename), ("Content-Type", "application/warc-fields")],
        body,
    )


def warc_records(page: Page, rng: random.Random) -> bytes:
    """The request and the response of a page as gzip members; a page's planted damage is done here."""
    target = ("WARC-Target-URI", page.url)
    path = page.url.split(page.host, 1)[1]
    request = f"GET {path} HTTP/1.1\r\nHost: {page.host}\r\nUser-Agent: CCBot/2.0\r\nAccept-Encoding: br, gzip\r\n\r\n".encode()
    response = _http_response(page, rng)
    kind = ("Content-Type", "application/http; msgtype=response")
    members = _record("request", page.url, [target, ("Content-Type", "application/http; msgtype=request")], request)
    member = _record("response", page.url, [target, kind], response, wrong_length=page.damage == "wrong_length")
    return members + (member[: len(member) // 2] if page.damage == "cut_member" else member)


def _record(kind: str, name: str, headers: list[tuple[str, str]], body: bytes, wrong_length: bool = False) -> bytes:
    digest = hashlib.sha1(f"{kind} {name}".encode()).hexdigest()
    identity = f"<urn:uuid:{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}>"
    length = len(body) + (1000 if wrong_length else 0)
    fields = [
        ("WARC-Type", kind),
        ("WARC-Record-ID", identity),
        ("WARC-Date", DATE),
        *headers,
        ("Content-Length", str(length)),
    ]
    head = "WARC/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields) + "\r\n"
    return gzip.compress(head.encode() + body + b"\r\n\r\n", compresslevel=6, mtime=0)


def _http_response(page: Page, rng: random.Random) -> bytes:
    document = page_html(page, rng)
    body = document.encode(page.charset, errors="xmlcharrefreplace")
    if page.mime != "text/html":
        body = b"%PDF-1.4\n" + rng.randbytes(2000)
    elif page.damage == "garbage":
        body = rng.randbytes(len(body))
    headers = [f"Content-Type: {page.mime}" + (f"; charset={page.charset}" if page.mime == "text/html" else "")]
    headers += ["Server: nginx", "Date: Sat, 12 Apr 2025 08:30:00 GMT", *page.headers]
    coding = "gzip" if page.damage == "cut_body" else rng.choice(["", "", "", "gzip", "br"])
    if coding:
        body = gzip.compress(body, mtime=0) if coding == "gzip" else brotli.compress(body, quality=4)
        headers.append(f"Content-Encoding: {coding}")
    if page.damage == "cut_body":
        body = body[: len(body) // 3]
    if rng.random() < 0.2:
        headers.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(body, 1024)) + b"0\r\n\r\n"
    else:
        headers.append(f"Content-Length: {len(body)}")
    head = [f"HTTP/1.1 {page.status}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def _parts(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]

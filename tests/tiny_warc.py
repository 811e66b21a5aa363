"""WARC files of a few pages, made in the test."""

import gzip
import random
from pathlib import Path

NOUNS = "river baker garden lantern letter island doctor window harbour teacher village orchard".split()
VERBS = "carried watched painted repaired remembered described followed visited admired counted".split()
PLACES = "market bridge station library meadow lighthouse kitchen valley workshop chapel".split()
TIMES = "morning winter evening storm holiday harvest summer festival journey lesson".split()


def prose(seed: int, num_sentences: int = 14) -> str:
    """English of no sense that passes every quality rule: no five words in a row stand fast."""
    rng = random.Random(seed)
    sentences = []
    for _ in range(num_sentences):
        a, b, c = rng.sample(NOUNS, 3)
        verb, did = rng.sample(VERBS, 2)
        place, time, number = rng.choice(PLACES), rng.choice(TIMES), rng.randrange(2, 3000)
        forms = [
            f"In the {time} that {a} {verb} a {b}, and {number} people {did} it with the {c} to their {place}.",
            f"Nobody of the {place} {verb} why {a} and {b} {did} {number} things for a {c}.",
            f"{number} {time} days have passed, but no {a} {verb} our {place} to be {did} by some {b}.",
            f"When {time} came, {c} of {place} {verb} that {b} and {did} the {a} {number} times.",
            f"Every {b} {did} {number} letters with one {c}, which {verb} her {a} all {time}.",
            f"Of {number} visitors to this {place} only the {c} {did} and {verb} what {a} could be.",
        ]
        sentences.append(rng.choice(forms))
    return " ".join(sentences)


def paragraphs(text: str) -> list[str]:
    sentences = text.split(". ")
    return [". ".join(sentences[i : i + 4]).rstrip(".") + "." for i in range(0, len(sentences), 4)]


def page(text: str, head: str = "", tail: str = "") -> str:
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs(text))
    return (
        f"<!DOCTYPE html><html><head><title>A page</title>{head}</head><body><nav><a href='/'>Home page</a></nav>"
        f"<article><h1>A page of the village</h1>{body}</article>{tail}<footer>Imprint</footer></body></html>"
    )


def record(
    url: str, body: bytes | str, status: int = 200, headers: dict | None = None, length: int | None = None
) -> bytes:
    """One uncompressed response record; `length` gives it a wrong Content-Length."""
    body = body.encode() if isinstance(body, str) else body
    fields = {"Content-Type": "text/html; charset=utf-8", **(headers or {})}
    lines = "".join(f"{key}: {value}\r\n" for key, value in fields.items() if value is not None)
    block = f"HTTP/1.1 {status} OK\r\n{lines}\r\n".encode() + body
    header = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-11-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:test:{url}>\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return header.encode() + block + b"\r\n\r\n"


def info() -> bytes:
    block = b"software: test\r\n"
    return b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (len(block), block)


def member(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def write_warc(path: Path, records: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join(map(member, [info(), *records])) if path.suffix == ".gz" else b"".join([info(), *records])
    )
    return path

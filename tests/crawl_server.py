"""A web server in a thread that serves files as Common Crawl does, and fails in the ways that servers fail."""

import hashlib
import random
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tiny_warc import info, member, page, prose, record

SNAPSHOT = "CC-MAIN-2026-30"
LIST = f"crawl-data/{SNAPSHOT}/warc.paths.gz"


def warc(seed: int, num_pages: int = 12) -> bytes:
    """Pages, and between them bytes that do not shrink, so that the file is large enough to be cut."""
    noise = random.Random(seed).randbytes(300_000)
    pages = [record(f"http://site{seed}.test/{i}", page(prose(100 * seed + i))) for i in range(num_pages)]
    noise = record(f"http://site{seed}.test/noise", noise, headers={"Content-Type": "image/png"})
    return b"".join(map(member, [info(), *pages[: num_pages // 2], noise, *pages[num_pages // 2 :]]))


def path_of(number: int) -> str:
    return f"crawl-data/{SNAPSHOT}/segments/17.{number}/warc/CC-MAIN-{number:05d}.warc.gz"


def contents(folder: Path) -> dict[str, bytes]:
    """What a run left in `crawl/`."""
    return {file.name: file.read_bytes() for file in sorted((folder / "crawl").iterdir())}


def whole(crawl: dict, *numbers: int) -> dict[str, bytes]:
    return {Path(path_of(number)).name: crawl[path_of(number)] for number in numbers}


class CrawlServer(ThreadingHTTPServer):
    """`files`: path -> content. `faults`: path -> what is to go wrong with the next GETs, "" for nothing.

    `requests` has (method, path, Range or "", status) of each request, `times` when it came, `agents` its User-Agent.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests, self.times, self.agents = {}, defaultdict(list), [], [], set()
        self.retry_after, self.validator, self.released = "0", "ETag", threading.Event()
        self.cut = None  # bytes after which "truncate" and "stall" end; else half of them

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self, path: str) -> list[tuple[str, int]]:
        return [(asked, status) for method, of, asked, status in self.requests if of == path and method == "GET"]

    def handle_error(self, request, client_address):
        pass  # clients that hang up, which the tests do on purpose


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(200 if self.path[1:] in self.server.files else 404)
        self.send_header("Content-Length", str(len(self.server.files.get(self.path[1:], b""))))
        self.end_headers()

    def do_GET(self):
        path, server = self.path[1:], self.server
        fault = server.faults[path].pop(0) if server.faults[path] else ""
        if fault.isdigit() or path not in server.files:
            self.answer(int(fault or 404))
            if fault in ("429", "503"):
                self.send_header("Retry-After", server.retry_after)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "change":
            server.files[path] = server.files[path + "?new"]
        body = server.files[path]
        version = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last-Modified": "Mon, 20 Jul 2026 00:00:00 GMT"}
        version = {server.validator: version[server.validator]} if server.validator else {}

        asked, start = self.headers.get("Range", ""), 0
        if asked and fault != "ignore_range" and self.headers.get("If-Range") in (*version.values(), None):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if fault == "splice":  # another content from here on, as if it were the same
            body, start = server.files[path + "?new"], int(asked.removeprefix("bytes=").removesuffix("-"))
            version = {"ETag": '"another"'}
        self.answer(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in version.items():
            self.send_header(name, value)
        body, half = body[start:], (len(body) - start) // 2
        if fault == "flip":
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        if fault == "short_length":
            body = body[:half]
        if fault == "html":
            body = b"<html>Please sign in.</html>"
        if fault == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        if fault == "no_length":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(half if fault == "overlong" else len(body)))
        if fault == "labelled":  # some servers call a .gz file an encoding of what is in it
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if fault == "drip":
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        elif fault in ("truncate", "stall"):
            self.wfile.write(body[: server.cut or half])
            if fault == "stall":
                server.released.wait(20)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def answer(self, status: int) -> None:
        server = self.server
        server.times.append(time.monotonic())
        server.agents.add(self.headers.get("User-Agent", ""))
        server.requests.append((self.command, self.path[1:], self.headers.get("Range", ""), status))
        self.send_response(status)

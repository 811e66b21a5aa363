"""A Hub that lives for a test: repositories and commits in memory, and answers that go wrong on demand."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Use as a context manager.

    repos: by "models/owner/name", whether private, and the files of all commits.
    failures: [part of the path, status or "cut", how many times], each used up in turn.
    """

    def __init__(self):
        self.repos: dict[str, dict] = {}
        self.collections: dict[str, list[str]] = {}
        self.failures: list[list] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words):
                pass

            def do_GET(self):
                hub.answer(self, "GET", b"")

            def do_POST(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.answer(self, "POST", body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()

    def answer(self, handler, method: str, body: bytes) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((method, path))
        self.tokens.add(handler.headers.get("authorization", ""))
        for failure in self.failures:
            if failure[0] in path and failure[2] > 0:
                failure[2] -= 1
                if failure[1] == "cut":
                    handler.connection.close()
                    return
                return self.reply(handler, failure[1], {"error": "as asked for"})
        status, found = self.found(path, body)
        self.reply(handler, status, found)

    def reply(self, handler, status: int, found: dict) -> None:
        text = json.dumps(found).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def found(self, path: str, body: bytes) -> tuple[int, dict]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            kind = asked.get("type", "model") + "s"
            name = "/".join(filter(None, [kind, asked.get("organization"), asked["name"]]))
            url = f"{self.url}/{name.removeprefix('models/')}"
            if name in self.repos:
                return 409, {"url": url, "error": "You already created this repo"}
            private = asked.get("private", asked.get("visibility") == "private")
            if kind == "spaces" and asked.get("sdk") != "gradio":
                return 400, {"error": "a Space needs an sdk"}
            self.repos[name] = {"private": private, "files": {}, "commits": 0}
            return 200, {"url": url}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/collections":
            asked = json.loads(body)
            slug = f"{asked['namespace']}/{asked['title']}-0123456789abcdef01234567"
            self.collections.setdefault(slug, [])
            return 200, self.collection(slug)
        if path.startswith("/api/collections/") and path.endswith("/items"):
            slug = path.removeprefix("/api/collections/").removesuffix("/items")
            self.collections[slug].append(json.loads(body)["item"]["id"])
            return 200, self.collection(slug)
        parts = path.removeprefix("/api/").split("/")
        repo = self.repos.get("/".join(parts[:3]))
        if repo is None:
            return 404, {"error": "Repository not found"}
        if "preupload" in parts:
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "commit" in parts:
            for text in body.decode().splitlines():
                entry = json.loads(text)
                if entry["key"] == "file":
                    repo["files"][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            repo["commits"] += 1
            oid, shown = f"{repo['commits']:040x}", "/".join(parts[:3]).removeprefix("models/")
            return 200, {"commitUrl": f"{self.url}/{shown}/commit/{oid}", "commitOid": oid}
        return 200, {"id": "/".join(parts[1:3]), "private": repo["private"], "sha": "0" * 40, "siblings": []}

    @staticmethod
    def collection(slug: str) -> dict:
        owner = {"name": "me", "type": "user", "_id": "1", "fullname": "Me", "avatarUrl": ""}
        shape = {"slug": slug, "title": "x", "owner": owner, "items": [], "lastUpdated": "2026-01-01T00:00:00.000Z"}
        return {**shape, "position": 0, "private": True, "theme": "blue", "upvotes": 0}

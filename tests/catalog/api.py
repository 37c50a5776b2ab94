"""A small STAC API over HTTP, in a process of its own, whose answers can be spoiled."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: How a page can be spoiled.
FAULTS = ("500", "429", "404", "cut", "html", "drip", "circle", "empty")


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.items`` by pages of ``server.size``.

    ``server.rules`` has, for the number of a page, ``[fault, times]``: so often it is spoiled.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/asked":
            return self.send(200, json.dumps(self.server.asked).encode())
        links = [{"rel": "search", "href": f"{self.server.url}/search", "method": "POST",
                  "type": "application/geo+json"}]  # fmt: skip
        conforms = [
            "https://api.stacspec.org/v1.0.0/core",
            "https://api.stacspec.org/v1.0.0/item-search",
        ]
        return self.send(200, json.dumps({
            "type": "Catalog", "stac_version": "1.0.0", "id": "made", "description": "made",
            "conformsTo": conforms, "links": links}).encode())  # fmt: skip

    def do_PUT(self) -> None:
        self.server.rules = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send(200, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        page = body.get("page", 0)
        server = self.server
        with server.lock:
            server.asked.append(page)
            fault, times = server.rules.get(str(page), ["", 0])
            server.rules[str(page)] = [fault, times - 1]
        fault = fault if times > 0 else ""
        items = server.items[page * server.size : (page + 1) * server.size]
        links, following = [], page + 1
        if fault == "circle":
            following = max(page - 1, 0)
        if following * server.size < len(server.items) or fault == "empty":
            items = [] if fault == "empty" else items
            links = [{"rel": "next", "href": f"{server.url}/search", "method": "POST",
                      "body": {**body, "page": following}}]  # fmt: skip
        answer = json.dumps({"type": "FeatureCollection", "features": items, "links": links,
                             "numberMatched": server.matched}).encode()  # fmt: skip
        if fault.isdigit():
            return self.send(int(fault), b'{"detail": "spoiled"}')
        if fault == "html":
            return self.send(200, b"<html>busy</html>")
        if fault == "cut":
            self.close_connection = True
            return self.send(200, answer[: len(answer) // 2], len(answer))
        if fault == "drip":
            self.send(200, b" ", 10**9)
            for _ in range(10**6):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
        return self.send(200, answer)


def main(path: str, size: int) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.items = json.loads(Path(path).read_text())
    server.size, server.matched = size, len(server.items)
    server.rules, server.asked, server.lock = {}, [], threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    print(server.url, flush=True)
    server.serve_forever(0.05)


class Api:
    """The server, seen from outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def spoil(self, **rules: list) -> None:
        """Spoil pages from now on: ``page_3=["500", 2]``."""
        body = json.dumps({name.removeprefix("page_"): rule for name, rule in rules.items()})
        request = urllib.request.Request(self.url, body.encode(), method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    @property
    def asked(self) -> list[int]:
        """Numbers of the pages that were asked for."""
        with urllib.request.urlopen(f"{self.url}/asked", timeout=10) as answer:
            return json.loads(answer.read())


@contextmanager
def serving(items: list[dict], folder: Path, size: int) -> Iterator[Api]:
    path = folder / "api.json"
    path.write_text(json.dumps(items))
    process = subprocess.Popen(
        [sys.executable, __file__, str(path), str(size)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Api(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

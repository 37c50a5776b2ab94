"""A real HTTP server of ranges, in a process of its own, that fails as it is told to."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: What the server does instead of an answer.
FAULTS = ("500", "503", "429", "403", "404", "reset", "truncate", "stall", "slow")


class Handler(BaseHTTPRequestHandler):
    """Serves files below a folder.

    ``server.rules`` has, for each name of a file, ``[fault, first, last]``: requests number `first`
    to `last` for it (from 0) fail so. ``server.secret``, if any, must be in the query.
    """

    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def do_POST(self) -> None:
        """New rules."""
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.rules, self.server.secret = told["rules"], told["secret"]
            self.server.counts, log = {}, self.server.log
            self.server.log = []
        self.send(200, json.dumps(log).encode())

    def answer(self, head: bool) -> None:
        path, _, query = self.path.partition("?")
        file = Path(str(self.server.root) + path)
        with self.server.lock:
            number = self.server.counts.get(file.name, 0)
            self.server.counts[file.name] = number + 1
            self.server.log.append([file.name, query])
            fault, first, last = self.server.rules.get(file.name, ["", 0, -1])
            secret = self.server.secret
        if secret and secret not in query:
            return self.send(403, b"expired", head=head)
        fault = fault if first <= number <= last else ""
        if fault.isdigit():
            return self.send(int(fault), b"fault", {"Retry-After": "0"}, head=head)
        if fault == "reset":
            # A socket that does not linger is reset rather than closed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            socket.close(self.connection.detach())
            return None
        if fault == "stall":
            time.sleep(30)
        if not file.is_file():
            return self.send(404, b"", head=head)
        return self.give(file, head, fault)

    def give(self, file: Path, head: bool, fault: str) -> None:
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"Accept-Ranges": "bytes"}
        code, total = 200, len(content)
        if wanted:
            a, b = int(wanted[1]), min(int(wanted[2] or total - 1), total - 1)
            content, code = content[a : b + 1], 206
            headers["Content-Range"] = f"bytes {a}-{b}/{total}"
        if fault == "slow":
            time.sleep(0.3)
        self.send(code, content, headers, head=head, truncate=fault == "truncate")

    def send(self, code, content, headers=None, *, head=False, truncate=False) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not head:
            self.wfile.write(content[: len(content) // 2] if truncate else content)
        if truncate:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """The server and what it is told."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.rules: dict[str, list] = {}
        self.secret = ""
        self.counts: dict[str, int] = {}
        self.log: list[list[str]] = []
        self.lock = threading.Lock()

    def handle_error(self, *args: object) -> None:
        """Clients that hang up are no news."""


class Remote:
    """The server, as a test talks to it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def tell(self, rules: dict[str, list] | None = None, secret: str = "") -> list[list[str]]:
        """Give it rules, and start counting anew; return the requests since last time."""
        body = json.dumps({"rules": rules or {}, "secret": secret}).encode()
        request = urllib.request.Request(self.url, data=body, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


@contextmanager
def serving(root: Path) -> Iterator[Remote]:
    """Serve a folder."""
    process = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), str(root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Remote(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    server = Server(Path(sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()

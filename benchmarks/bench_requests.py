"""What a full-size scene asks of a server, and what it stores: requests and bytes.

    python benchmarks/bench_requests.py [--edge 10980]

One COG as those of bench_archive.py, behind an HTTP server in this machine that counts; the run is
that of bench_archive.py. Objects are counted on disk: into an object store go the same ones, each
by one request (tests/runs/test_s3.py compares them).
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import measure
from bench_archive import make_scene, pipeline
from measure import CHUNK


@contextmanager
def counting_server(root: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Serve ranges of files; count requests and bytes."""
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, send: bool) -> None:
            path = root / self.path.lstrip("/")
            size = path.stat().st_size
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            last = min(int(asked[2]), size - 1) if asked and asked[2] else size - 1
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Accept-Ranges", "bytes")
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if send:
                with path.open("rb") as file:
                    file.seek(first)
                    self.wfile.write(file.read(last - first + 1))
            with lock:
                counts.update(requests=1, bytes=(last - first + 1) * send)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()
        server.server_close()


def count(folder: str, edge: int) -> measure.Job:
    import xgeocat as xgc

    measure.two_threads()

    def job(out: Path) -> dict[str, float]:
        facts: dict[str, float] = {}
        sinks = {"zarr": xgc.sinks.Zarr(), "shards": xgc.sinks.Zarr(shard=2048), "cog": "cog"}
        for name, sink in sinks.items():
            with counting_server(Path(folder)) as (url, counts):
                catalog = xgc.from_files([f"{url}/scene.tif"], time="2024-06-01")
                domain = catalog.geocat.domain(chunks=CHUNK)
                counts.clear()
                target = out / name
                xgc.run(pipeline(), domain, target, sink=sink, progress=False)
            stored = [path for path in (target / "data").rglob("*") if path.is_file()]
            facts |= {
                f"{name} requests": counts["requests"],
                f"{name} read": counts["bytes"] / 2**20,
                f"{name} objects": len(stored),
                f"{name} stored": sum(path.stat().st_size for path in stored) / 2**20,
            }
        return facts

    return job


def make(folder: str, edge: int) -> measure.Job:
    return lambda out: make_scene(Path(folder) / "scene.tif", edge)


def main() -> None:
    given = measure.options(__doc__, repeats=1, edge=10980)
    with measure.scratch() as folder:
        measure.once(__file__, "make", folder, edge=given.edge)
        size = (Path(folder) / "scene.tif").stat().st_size / 2**20
        facts = measure.once(__file__, "count", folder, edge=given.edge).facts
    print(f"one COG of {given.edge} px square, {size:.0f} MiB")
    print(("{:10}" + "{:>16}" * 4).format("sink", "GET requests", "MiB read", "objects", "MiB"))
    for name in ("zarr", "shards", "cog"):
        row = [facts[f"{name} {what}"] for what in ("requests", "read", "objects", "stored")]
        print(f"{name:10}" + "".join(f"{value:16,.0f}" for value in row))


if __name__ == "__main__":
    main()

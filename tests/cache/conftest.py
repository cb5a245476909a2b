"""An object store on loopback, and a proxy before it that injects faults."""

import http.client
import random
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

collect_ignore = ["object_store.py", "remote_writer.py"]  # programs


@dataclass
class Faults:
    """What the proxy does: a share of requests meets each fault, drawn by a seed.

    Kinds: `503` is answered; `slow` is a delay; the connection is dropped `before` the store is asked, `after` it has
    done what was asked, or in the middle of the answer (`cut`); `stall` lets the client wait longer than it will.

    Attributes:
        shares: kind of fault to share of requests
        seed: of the draw
        always: kind of fault of the next requests, before any is drawn
        forbid: methods that are answered 403
        slow_s: how long `slow` is, in seconds
        unconditional: whether conditions of puts are kept from the store
        done: method or kind of fault to how often it was met
        most: requests at a time
    """

    shares: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    always: list[tuple[str, str]] = field(default_factory=list)
    forbid: frozenset[str] = frozenset()
    slow_s: float = 0.3
    unconditional: bool = False
    done: Counter[str] = field(default_factory=Counter)
    most: int = 0

    def __post_init__(self) -> None:
        self.random, self.lock, self.now = random.Random(self.seed), threading.Lock(), 0

    @contextmanager
    def at_once(self) -> Iterator[None]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        yield
        with self.lock:
            self.now -= 1

    def draw(self, method: str) -> str:
        with self.lock:
            self.done[method] += 1
            kind = ""
            if self.always and self.always[0][0] == method:
                kind = self.always.pop(0)[1]
            elif self.shares:
                kind = self.random.choices(["", *self.shares], [1 - sum(self.shares.values()), *self.shares.values()])[
                    0
                ]
            if kind:
                self.done[kind] += 1
            return kind


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def _serve(self) -> None:
        server: Proxy = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        faults = server.faults
        kind = faults.draw(self.command)
        if self.command in faults.forbid:
            self._answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
            return
        if kind == "before":
            self._drop()
            return
        if kind == "503":
            self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if kind == "slow":
            time.sleep(faults.slow_s)
        backend = http.client.HTTPConnection("127.0.0.1", server.backend, timeout=60)
        headers = {k: v for k, v in self.headers.items() if not (faults.unconditional and k.lower().startswith("if-"))}
        backend.request(self.command, self.path, body, headers)
        reply = backend.getresponse()
        data = reply.read()
        backend.close()
        if kind in {"after", "stall"}:
            time.sleep(3 if kind == "stall" else 0)
            self._drop()
        elif kind == "cut" and len(data) > 1:
            self._answer(reply.status, reply.getheaders(), data, len(data) // 2)
            self._drop()
        else:
            self._answer(reply.status, reply.getheaders(), data)

    def _one(self) -> None:
        with self.server.faults.at_once():  # type: ignore[attr-defined]
            self._serve()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _one

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, most: int | None = None) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:most])

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the store, but for the faults."""

    daemon_threads = True

    def __init__(self, backend: int, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend, self.faults = backend, faults


@pytest.fixture(scope="session")
def store_port() -> Iterator[int]:
    """Port of an object store in a process of its own."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    program = [sys.executable, str(Path(__file__).with_name("object_store.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


@pytest.fixture
def bucket(store_port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URL of a cache in a bucket of its own; the environment names the store."""
    name = f"b{zlib.crc32(request.node.nodeid.encode())}"
    make = urllib.request.Request(f"http://127.0.0.1:{store_port}/{name}", method="PUT")
    urllib.request.urlopen(make).close()
    for key, value in _environment(store_port).items():
        monkeypatch.setenv(key, value)
    return f"s3://{name}/some prefix"


@pytest.fixture
def proxy(store_port: int, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Faults], Faults]]:
    """Put faults between the store and whoever opens the cache from now on."""
    servers = []

    def start(faults: Faults) -> Faults:
        server = Proxy(store_port, faults)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        return faults

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def faults() -> type[Faults]:
    """How to make faults."""
    return Faults


def _environment(port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_REGION": "us-east-1",
        "VBX_REMOTE_PATIENCE_S": "60",
    }

"""Fetching weights from a small hub on loopback: what is asked for, what goes wrong, and what is said about it."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save

from vbx.cache.feature import list_encoders
from vbx.errors import CheckpointError
from vbx.extract import download
from vbx.extract.checkpoints import find_checkpoint, weights_digest
from vbx.extract.hub import cached_checkpoint, fetch_checkpoint
from vbx.extract.weights import CONFIGS

COMMIT, OLD = "a" * 40, "b" * 40
WEIGHTS = save({"weight": np.random.default_rng(0).random((500, 600), np.float32)})
FILES = {
    "config.json": b'{"model_type": "wav2vec2"}',
    "preprocessor_config.json": b'{"do_normalize": true}',
    "README.md": b"# a model",
    "optimizer.pt": b"o" * 9000,
    "model.safetensors": WEIGHTS,
}
LARGE = (".safetensors", ".bin", ".pt")
"""Kept beside git: served from another host, known by their SHA-256."""


@dataclass
class Hub:
    """A hub with one model, `org/name`, and what is wrong with it.

    Attributes:
        files: content by name, for the commit that `main` and `v1` are
        cuts: bytes after which answers for weights break off, one after the other; None for all bytes
        refusals: status and error code of files, one after the other
        wrong: whether weights are served with a byte changed
        ranges: whether a part of a file may be asked for
        stall: an event that weights wait for after their first 100,000 bytes
        seen: method, path, `Range` and `Authorization` of each request
        sent: bytes of weights that went out
    """

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    cuts: list[int | None] = field(default_factory=list)
    refusals: list[tuple[int, str]] = field(default_factory=list)
    listing: tuple[int, str] = (200, "")
    wrong: int = 0
    ranges: bool = True
    stall: threading.Event | None = None
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    far: str = ""

    def asked(self, what: str) -> list[tuple[str, str, str | None, str | None]]:
        return [request for request in self.seen if what in request[1]]

    def names(self) -> list[str]:
        return [path.rsplit("/", 1)[-1] for _, path, _, _ in self.asked("/resolve/")]


def git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def list_files(hub: Hub) -> dict[str, Any]:
    siblings = []
    for name, content in hub.files.items():
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_id(content)}
        if name.endswith(LARGE):
            entry["lfs"] = {
                "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134
            }  # fmt: skip
        siblings.append(entry)
    return {"id": "org/name", "sha": COMMIT, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.seen.append((self.command, path, self.headers["Range"], self.headers["Authorization"]))
        if path.startswith("/far/"):
            self.give(hub.files[path.rsplit("/", 1)[-1]])
        elif path.startswith("/api/models/"):
            self.list_model(path)
        elif match := re.fullmatch(f"/org/name/resolve/(?:main|v1|{COMMIT})/(.+)", path):
            self.resolve(match[1])
        else:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def list_model(self, path: str) -> None:
        status, code = self.hub.listing
        if status != 200:
            self.answer(status, {"X-Error-Code": code})
        elif not path.startswith("/api/models/org/name"):
            self.answer(401, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/org/name/tree/"):
            tree = [{"type": "file", "path": n, "size": len(c), "oid": git_id(c)} for n, c in self.hub.files.items()]
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
        elif path.removeprefix("/api/models/org/name") not in ("", "/revision/v1", "/revision/main"):
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(200, {"Content-Type": "application/json"}, json.dumps(list_files(self.hub)).encode())

    def resolve(self, name: str) -> None:
        hub = self.hub
        if hub.refusals:
            status, code = hub.refusals.pop(0)
            self.answer(status, {"X-Error-Code": code})
            return
        content = hub.files[name]
        about = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_id(content)}"'}
        if name.endswith(LARGE):
            about["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            about |= {"X-Linked-Size": str(len(content)), "Location": f"{hub.far}/far/{name}"}
        self.answer(302 if "Location" in about else 200, about, content if "Location" not in about else b"")

    def give(self, content: bytes) -> None:
        """Weights, from where they were asked for, as far as they go."""
        hub = self.hub
        if hub.wrong:
            hub.wrong -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if self.headers["Range"] else 0
        begin = begin if hub.ranges else 0
        about = {"Content-Length": str(len(content) - begin)}
        if begin:
            about["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        cut = hub.cuts.pop(0) if hub.cuts else None
        body = content[begin:] if cut is None else content[begin : begin + cut]
        if hub.stall:
            self.answer(206 if begin else 200, about, body[:100_000])
            self.wfile.flush()
            hub.stall.wait(30)
            body = body[100_000:]
            self.wfile.write(body)
        else:
            self.answer(206 if begin else 200, about, body)
        hub.sent += len(body)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, its second host for large files, and an empty cache."""
    made = Hub()
    handler = type("Bound", (Handler,), {"hub": made})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url, made.far = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    point_to(made.url, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "WAIT_S", 0.001)
    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read only once a process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def partial(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.incomplete"))


def refused(hub: Hub, model: str = "org/name", revision: str | None = None) -> str:
    """The one sentence that fetching ends with."""
    with pytest.raises(CheckpointError) as caught:
        fetch_checkpoint(model, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what is fetched


def test_only_what_is_needed_is_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_checkpoint("org/name")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {n: FILES[n] for n in (*CONFIGS, "model.safetensors")}
    assert hub.names() == [*CONFIGS, "model.safetensors"] and not partial(tmp_path)
    requests = len(hub.seen)
    assert fetch_checkpoint("org/name") == cached_checkpoint("org/name") == folder
    assert len(hub.seen) == requests


def test_the_layout_is_that_of_the_hub_s_own_programs(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_checkpoint("org/name", "v1")
    for revision in ("v1", COMMIT):
        for name in (*CONFIGS, "model.safetensors"):
            found = huggingface_hub.hf_hub_download("org/name", name, revision=revision, local_files_only=True)
            assert Path(found) == folder / name
    (repository,) = huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE).repos
    assert repository.repo_id == "org/name" and {r.commit_hash for r in repository.revisions} == {COMMIT}
    assert {f.blob_path.name for r in repository.revisions for f in r.files} == {
        hashlib.sha256(WEIGHTS).hexdigest(),
        *(git_id(FILES[name]) for name in CONFIGS),
    }
    assert huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE).warnings == []


def test_what_the_hub_s_own_programs_fetched_is_used_offline(hub: Hub) -> None:
    # They keep a list of all files beside; a model without its README is no incomplete model.
    wanted = [*CONFIGS, "model.safetensors"]
    theirs = huggingface_hub.snapshot_download("org/name", allow_patterns=wanted[:1])
    assert cached_checkpoint("org/name") is None
    for name in wanted[1:]:
        huggingface_hub.hf_hub_download("org/name", name)
    assert cached_checkpoint("org/name") == Path(theirs)


@pytest.mark.parametrize("where", ["org/name@v1", "org/name"])
def test_revision_goes_to_the_hub_and_the_spec_stays(where: str, hub: Hub) -> None:
    spec = list_encoders()["w2v2-R-emotion"]
    found, folder = find_checkpoint(spec, where)
    assert found == spec and folder.name == COMMIT
    assert hub.seen[0][1] == "/api/models/org/name" + ("/revision/v1" if "@" in where else "")
    assert (folder.parents[1] / "refs" / ("v1" if "@" in where else "main")).read_text() == COMMIT


def test_safetensors_come_before_a_pickle(hub: Hub) -> None:
    hub.files["pytorch_model.bin"] = b"p" * 5000
    fetch_checkpoint("org/name")
    assert "pytorch_model.bin" not in hub.names()


def test_a_pickle_is_fetched_where_there_is_nothing_else(hub: Hub) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    assert (fetch_checkpoint("org/name") / "pytorch_model.bin").read_bytes() == WEIGHTS


def test_shards_are_fetched_with_their_index(hub: Hub) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    del hub.files["model.safetensors"]
    hub.files |= {name: name.encode() for name in (*shards, "model-x/../../escape.safetensors")}
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": dict(enumerate(shards))}).encode()
    folder = fetch_checkpoint("org/name")
    assert hub.names() == [*CONFIGS, "model.safetensors.index.json", *shards]
    assert cached_checkpoint("org/name") == folder


def test_a_model_without_a_preprocessor_is_not_asked_for_again(hub: Hub) -> None:
    del hub.files["preprocessor_config.json"]
    folder = fetch_checkpoint("org/name")
    assert cached_checkpoint("org/name") == folder


def test_a_cache_that_another_program_filled_in_part_is_completed(hub: Hub) -> None:
    # Without preprocessor_config.json a waveform would be normalised that should not be, or the other way round.
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("org/name", name)
    hub.seen.clear()
    assert (fetch_checkpoint("org/name") / "preprocessor_config.json").exists()
    assert hub.names() == ["preprocessor_config.json"]


def test_a_token_goes_to_the_hub_and_to_no_other_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_checkpoint("org/name")
    assert {a for _, path, _, a in hub.seen if not path.startswith("/far/")} == {"Bearer hf_secret"}
    assert [a for _, _, _, a in hub.asked("/far/")] == [None]


def test_progress_adds_up_to_the_whole(hub: Hub) -> None:
    told: list[Any] = []

    class Told:
        def start(self, what: str, total: float, unit: str) -> None:
            told.append((what, total, unit))

        def advance(self, amount: float = 1.0, note: str = "") -> None:
            told.append(amount)

        def finish(self) -> None:
            told.append("end")

    hub.cuts, hub.ranges = [300_000], False
    find_checkpoint(list_encoders()["hf"], "org/name", progress=Told())
    (what, total, unit), amounts = told[0], told[1:-1]
    assert (what, unit, told[-1]) == ("fetching org/name", "MB", "end")
    size = sum(len(FILES[name]) for name in (*CONFIGS, "model.safetensors")) / 1e6
    assert total == pytest.approx(size) and sum(amounts) == pytest.approx(size) and min(amounts) < 0


# ---------------------------------------------------------------- interruptions


def test_an_interrupted_download_goes_on_where_it_broke_off(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [400_000, 0, 200_000]
    folder = fetch_checkpoint("org/name")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [r for _, _, r, _ in hub.asked("/far/")] == [None, "bytes=400000-", "bytes=400000-", "bytes=600000-"]
    assert hub.sent == len(WEIGHTS)


def test_a_download_that_was_given_up_goes_on_with_the_next_command(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [400_000] + [0] * download.TRIES
    message = refused(hub)
    assert "model.safetensors broke off after 0.4 of 1.2 MB" in message and "type the command again" in message
    assert [p.stat().st_size for p in partial(tmp_path)] == [400_000]
    assert cached_checkpoint("org/name") is None
    hub.seen.clear()
    folder = fetch_checkpoint("org/name")
    assert hub.names() == ["model.safetensors"]
    assert [r for _, _, r, _ in hub.asked("/far/")] == ["bytes=400000-"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and not partial(tmp_path)


def test_a_hub_that_gives_no_parts_gives_the_whole_again(hub: Hub) -> None:
    hub.cuts, hub.ranges = [400_000], False
    assert (fetch_checkpoint("org/name") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_busy_is_asked_again(status: int, hub: Hub) -> None:
    hub.refusals = [(status, "")] * (download.TRIES - 1)
    assert len(list(fetch_checkpoint("org/name").iterdir())) == 3


FETCH = "import sys; from vbx.extract.hub import fetch_checkpoint; print(fetch_checkpoint(sys.argv[1]))"


def start(hub: Hub, tmp_path: Path, **environment: str) -> "subprocess.Popen[str]":
    """Fetch in a process of its own, which finds the hub by its environment."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), **environment}
    command = [sys.executable, "-c", FETCH, "org/name"]
    return subprocess.Popen(
        command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_download_goes_on_in_another_process(hub: Hub, tmp_path: Path) -> None:
    hub.stall = threading.Event()
    process = start(hub, tmp_path)
    blobs = tmp_path / "cache" / "models--org--name" / "blobs"
    aside = blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}{download.PARTIAL}"
    deadline = time.monotonic() + 60
    while not (aside.exists() and aside.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[1] == "" and process.returncode == -signal.SIGKILL
    hub.stall.set()
    size = aside.stat().st_size
    assert 0 < size <= 100_000
    hub.stall = None
    hub.seen.clear()
    out, err = start(hub, tmp_path).communicate(timeout=60)
    assert (Path(out.strip()) / "model.safetensors").read_bytes() == WEIGHTS, err
    assert [r for _, _, r, _ in hub.asked("/far/")] == [f"bytes={size}-"]
    offline, _ = start(hub, tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9").communicate(timeout=60)
    assert offline == out


def test_two_processes_fetch_a_file_once(hub: Hub, tmp_path: Path) -> None:
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(fetch_checkpoint("org/name"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and len(set(results)) == 1
    assert (results[0] / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.sent == len(WEIGHTS) and len(hub.names()) == 3


# ---------------------------------------------------------------- digests


def test_a_wrong_digest_is_found_and_the_file_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.wrong = 1
    message = refused(hub)
    assert "model.safetensors arrived damaged" in message and hashlib.sha256(WEIGHTS).hexdigest()[:12] in message
    assert "deleted" in message and "--checkpoint NAME=FOLDER" in message
    assert not partial(tmp_path) and cached_checkpoint("org/name") is None
    assert (fetch_checkpoint("org/name") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_small_file_is_verified_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "list_files", lambda hub, real=list_files: json.loads(
        json.dumps(real(hub)).replace(git_id(FILES["config.json"]), "0" * 40)
    ))  # fmt: skip
    assert "config.json arrived damaged" in refused(hub)


def test_a_leftover_that_is_wrong_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}{download.PARTIAL}").write_bytes(b"rubbish" * 1000)
    assert (fetch_checkpoint("org/name") / "model.safetensors").read_bytes() == WEIGHTS
    assert [r for _, _, r, _ in hub.asked("/far/")] == ["bytes=7000-", None]


def test_a_file_that_does_not_end_is_cut_short(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hub.files, "model.safetensors", WEIGHTS)
    real = list_files(hub)
    monkeypatch.setitem(globals(), "list_files", lambda hub: real)
    hub.files["model.safetensors"] = WEIGHTS + bytes(20_000_000)
    assert "arrived damaged" in refused(hub)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    assert sum(p.stat().st_size for p in cache.rglob("*") if p.is_file() and not p.is_symlink()) < 1000


def test_digests_that_the_hub_does_not_state(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list_files(hub)
    for entry in listed["siblings"]:
        entry.pop("lfs", None)
        entry["blobId"] = "../../escape"
    monkeypatch.setitem(globals(), "list_files", lambda hub: listed)
    assert "states no digest of 'config.json'" in refused(hub)


def test_weights_that_were_damaged_in_the_cache_are_found(hub: Hub) -> None:
    folder = fetch_checkpoint("org/name")
    weights_digest(folder)
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=f"damaged.*delete '{re.escape(str(blob))}' to fetch it"):
        weights_digest(folder)
    blob.unlink()
    assert weights_digest(fetch_checkpoint("org/name"))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_gated_model(status: int, at_once: bool, hub: Hub) -> None:
    # The hub lists a gated model to everybody, and refuses its files.
    hub.listing, hub.refusals = ((status, "GatedRepo"), []) if at_once else ((200, ""), [(status, "GatedRepo")])
    message = refused(hub)
    for part in ("'org/name' is gated", f"accept its terms at {hub.url}/org/name", "HF_TOKEN", "hf auth login"):
        assert part in message


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("org/nam", None, "there is no folder 'org/nam', and 127.0.0.1:.* has no model of that name, .*HF_TOKEN"),
        ("org/name", "v9", "'org/name' on 127.0.0.1:.* has no revision 'v9'"),
        ("my weights", None, "neither a folder here nor a name on 127"),
        ("org/name", "../../main", "is no revision"),
        ("org/name", "/etc", "is no revision"),
    ],
)  # fmt: skip
def test_names_that_are_not_there(model: str, revision: str | None, message: str, hub: Hub) -> None:
    assert re.search(message, refused(hub, model, revision))


def test_a_file_that_is_listed_and_missing(hub: Hub) -> None:
    hub.refusals = [(404, "EntryNotFound")]
    assert re.search(r"lists config\.json of 'org/name' and does not have it; .*org/name@REVISION", refused(hub))


def test_a_model_without_weights(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    assert "holds neither model.safetensors nor pytorch_model.bin" in refused(hub)


@pytest.mark.parametrize(("status", "part"), [(403, "refuses 'org/name' to the token"), (500, "cannot be reached")])
def test_other_refusals(status: int, part: str, hub: Hub) -> None:
    hub.listing = (status, "")
    assert part in refused(hub)


# ---------------------------------------------------------------- no hub


def unreachable(message: str) -> bool:
    parts = ("config.json, preprocessor_config.json and model.safetensors or pytorch_model.bin", "--checkpoint NAME=")
    return "cannot be reached" in message and all(part in message for part in parts) and "\n" not in message


def test_without_network_one_learns_what_to_download_and_how_to_pass_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)
    spec = list_encoders()["w2v2-R-emotion"]
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(spec)
    assert unreachable(str(caught.value)) and f"http://127.0.0.1:9/{spec.model}" in str(caught.value)


def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refused(hub, revision="v1")
    assert unreachable(message) and "HF_HUB_OFFLINE is set" in message and "org/name/tree/v1" in message
    assert not hub.seen


def test_a_dry_run_fetches_nothing(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="not on this machine yet"):
        find_checkpoint(list_encoders()["hf"], "org/name", download=False)
    assert not hub.seen


@pytest.mark.parametrize("in_the_way", ["", "models--org--name"])
def test_a_cache_that_cannot_be_written(in_the_way: str, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache" / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / "cache" / in_the_way).write_text("a file in the way")
    assert "cannot write config.json" in (message := refused(hub)) and "set HF_HOME" in message


def test_a_full_disk_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    assert "No space left on device; set HF_HOME" in refused(hub)

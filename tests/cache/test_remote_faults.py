"""Faults of the object store: 503s, slow and dropped connections are ridden out, up to a limit that is a sentence."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vbx.cache.check import check_cache
from vbx.cache.remote import RemotePath, open_place
from vbx.cache.store import Store
from vbx.cache.tidy import drop_damaged
from vbx.errors import StoreError
from vbx.extract.corpus import read_corpus
from vbx.extract.pipeline import extract_vectors
from vbx.extract.synthesis import synthesise_corpus

Start = Callable[[Any], Any]
SHARES = {"503": 0.08, "slow": 0.04, "before": 0.06, "after": 0.06, "cut": 0.04}


def place(url: str) -> RemotePath:
    found = open_place(url)
    assert isinstance(found, RemotePath)
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_an_extraction_rides_out_every_kind_of_fault(
    bucket: str, proxy: Start, faults: Callable[..., Any], tmp_path: Any, seed: int
) -> None:
    corpus = read_corpus(synthesise_corpus(tmp_path / "bursts", speakers=4, clips_per_speaker=5))
    features = ["noise", "noise@frames"]
    extract_vectors(corpus, features, Store(tmp_path / "cache"))
    met = proxy(faults(SHARES if seed else {kind: share / 2 for kind, share in SHARES.items()}, seed))
    report = extract_vectors(corpus, features, Store(bucket))
    assert [f.extracted for f in report.features] == [20, 20]
    store, local = Store(bucket), Store(tmp_path / "cache")
    one, other = store.load_vectors("bursts", "noise"), local.load_vectors("bursts", "noise")
    assert np.array_equal(one.x, other.x)
    assert one.fingerprint == other.fingerprint
    frames = local.load_frames("bursts", "noise@frames")
    assert all(np.array_equal(f, frames[name]) for name, f in store.load_frames("bursts", "noise@frames").items())
    assert check_cache(store) == []
    assert sum(met.done[kind] for kind in SHARES) > 5, met.done


@pytest.mark.parametrize("kind", ["503", "before", "after", "stall"])
def test_a_conditional_put_that_meets_a_fault_is_still_our_own(
    bucket: str, proxy: Start, faults: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBX_REMOTE_PATIENCE_S", "20" if kind != "stall" else "4")
    met = proxy(faults())
    path = place(bucket) / "record.json"
    path.bucket.replace("first.json", b"conditional puts have been tried out", None)
    times = 3 if kind != "stall" else 1
    met.always = [("PUT", kind)] * times
    seen = path.bucket.replace(path.key, b"mine", None)
    assert seen is not None
    assert path.read_bytes() == b"mine"
    assert met.done[kind] == times
    assert path.bucket.replace(path.key, b"another's", None) is None
    met.always = [("PUT", kind)] * times
    assert path.bucket.replace(path.key, b"newer", seen) is not None
    assert path.bucket.replace(path.key, b"stale", seen) is None
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("kind", ["503", "before", "after", "cut", "stall"])
def test_reading_and_listing_meet_a_fault(
    bucket: str, proxy: Start, faults: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBX_REMOTE_PATIENCE_S", "20" if kind != "stall" else "4")
    data = np.random.default_rng(0).bytes(300_000)
    met = proxy(faults())
    path = place(bucket) / "a" / "data"
    path.bucket.put(path.key, data)
    times = 2 if kind != "stall" else 1
    met.always = [("GET", kind)] * times
    assert path.read_bytes() == data
    met.always = [("GET", kind)] * times
    assert [p.name for p in path.parent.iterdir()] == ["data"]
    met.always = [("HEAD", kind)] * times
    assert path.is_file()
    assert met.done[kind] >= 2 * times, "an answer without a body cannot be cut"


def test_patience_ends_with_a_sentence_and_nothing_is_damaged(
    bucket: str, proxy: Start, faults: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = read_corpus(synthesise_corpus(tmp_path / "bursts", speakers=3, clips_per_speaker=2))
    met = proxy(faults())
    monkeypatch.setenv("VBX_REMOTE_PATIENCE_S", "1.5")
    store = Store(bucket)
    met.shares = {"503": 1.0}
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"s3://.*no luck in 1.5 s \(503 Service Unavailable, SlowDown\)") as caught:
        extract_vectors(corpus, ["noise"], store)
    assert time.monotonic() - began < 30
    assert "\n" not in str(caught.value)
    met.shares = {}
    extract_vectors(corpus, ["noise"], store)
    assert check_cache(store) == []
    assert len(store.load_vectors("bursts", "noise").ids) == 6


def test_what_cannot_be_read_now_is_not_taken_for_damage(
    bucket: str, proxy: Start, faults: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = read_corpus(synthesise_corpus(tmp_path / "bursts", speakers=3, clips_per_speaker=2))
    extract_vectors(corpus, ["noise"], Store(bucket))
    met = proxy(faults())
    monkeypatch.setenv("VBX_REMOTE_PATIENCE_S", "0.3")
    store = Store(bucket)
    requests = 0
    while True:  # the store goes away at some request of a check
        requests += 5
        met.always = [("GET", "")] * (requests - 1) + [("GET", "503")] * 50
        try:
            drop_damaged(store)
        except StoreError:
            continue
        break
    assert requests > 10
    met.always = []
    assert check_cache(store) == []
    assert len(store.load_vectors("bursts", "noise").ids) == 6

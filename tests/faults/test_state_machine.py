"""Any order of whatever a user may do to a corpus and its cache, against a dict that says what must come out."""

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import vbx
from vbx.cache.check import check_cache
from vbx.cache.tidy import collect_leftovers, drop_corpus, drop_units
from vbx.errors import CacheError, UnknownName
from vbx.extract import passes
from vbx.extract.encoder import load_encoder
from vbx.extract.plan import Settings, plan_jobs

NAMES = st.sampled_from([f"{letter}.wav" for letter in "abcdefghij"])
SEEDS = st.integers(0, 12)
LABELS = st.sampled_from(["anger", "joy", "fear"])
FEATURES = st.sampled_from([("noise",), ("prosody",), ("noise", "prosody"), ("noise", "noise@frames")])


class Killed(BaseException):
    """The process ends here."""


def wave_of(seed: int) -> np.ndarray:
    """Samples that 16 bits hold exactly: the same bytes whenever they are written."""
    return np.random.default_rng(seed).integers(-16384, 16384, 1600 + 40 * seed).astype(np.float32) / 32768


class Cache(RuleBasedStateMachine):
    """Files and labels as a dict, beside the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.tmp = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(passes, "choose_unit_rows", lambda *_: 4)
        self.folder, self.store = self.tmp / "toy", vbx.Store(self.tmp / "cache")
        self.folder.mkdir()
        self.files: dict[str, int] = {}
        self.labels: dict[str, str] = {}
        self.registered: dict[str, tuple[int, str]] = {}
        self.done: dict[str, set[int]] = {"noise": set(), "prosody": set()}
        self.encoders = {name: load_encoder(plan_jobs([name], {}, Settings())[0].spec) for name in self.done}
        self.known: dict[tuple[str, int], np.ndarray] = {}

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.tmp)

    @initialize(seed=SEEDS, label=LABELS)
    def begin(self, seed: int, label: str) -> None:
        self.put("a.wav", seed, label)

    # ------------------------------------------------------------ the corpus

    @rule(name=NAMES, seed=SEEDS, label=LABELS)
    def put(self, name: str, seed: int, label: str) -> None:
        """A new clip, or another under an old name."""
        soundfile.write(self.folder / name, wave_of(seed), 16000, subtype="PCM_16")
        self.files[name], self.labels[name] = seed, label
        self.write_table()

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        if old in self.files and new not in self.files:
            (self.folder / old).rename(self.folder / new)
            self.files[new], self.labels[new] = self.files.pop(old), self.labels.pop(old)
            self.write_table()

    @precondition(lambda self: len(self.files) > 1)
    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if name in self.files:
            (self.folder / name).unlink()
            del self.files[name], self.labels[name]
            self.write_table()

    @rule(name=NAMES, label=LABELS)
    def relabel(self, name: str, label: str) -> None:
        if name in self.files:
            self.labels[name] = label
            self.write_table()

    def write_table(self) -> None:
        lines = [f"{name},{self.labels[name]},train" for name in sorted(self.files)]
        (self.folder / "labels.csv").write_text("\n".join(["file,emotion,split", *lines]) + "\n")

    # ------------------------------------------------------------ the cache

    @rule(features=FEATURES, part=st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 2)]))
    def extract(self, features: tuple[str, ...], part: tuple[int, int]) -> None:
        report = vbx.extract_vectors(
            vbx.read_corpus(self.folder), features, self.store, settings=Settings(workers=0, part=part)
        )
        self.registered = {name: (seed, self.labels[name]) for name, seed in self.files.items()}
        assert report.failures == ()
        for count in report.features:
            assert count.extracted + count.cached + count.left == len(self.files)
            assert part != (1, 1) or count.left == 0
        if part == (1, 1):
            for feature in {name.partition("@")[0] for name in features}:
                self.done[feature] |= set(self.files.values())

    @rule(features=FEATURES, operation=st.integers(1, 60))
    def extract_and_die(self, features: tuple[str, ...], operation: int) -> None:
        """A kill at some operation on the disk: whatever comes after it does not happen."""
        left = [operation]

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                left[0] -= 1
                if left[0] <= 0:
                    raise Killed
                return real(*args)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vbx.cache.files.os.replace", dying(os.replace))
            patch.setattr("vbx.cache.files.os.link", dying(os.link))
            try:
                vbx.extract_vectors(vbx.read_corpus(self.folder), features, self.store, settings=Settings(workers=0))
            except Killed:
                pass
        self.registered = {}  # the old table or the new one: the next extraction settles it

    @rule(features=FEATURES)
    def extract_twice_at_once(self, features: tuple[str, ...]) -> None:
        corpus, quiet = vbx.read_corpus(self.folder), Settings(workers=0)
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(vbx.extract_vectors, corpus, features, self.store, settings=quiet) for _ in range(2)]
        for run in runs:
            run.result()
        self.extract(features, (1, 1))

    @rule(feature=st.sampled_from(["noise", "prosody"]))
    def drop(self, feature: str) -> None:
        if "toy" in self.store.corpora():
            for folder, spec in self.store.specs("toy").items():
                if spec.encoder == feature:
                    drop_units(folder)
        self.done[feature] = set()

    @rule()
    def drop_all(self) -> None:
        if "toy" in self.store.corpora():
            drop_corpus(self.store, "toy")
        self.registered, self.done = {}, {"noise": set(), "prosody": set()}

    @rule()
    def collect(self) -> None:
        collect_leftovers(self.store)
        assert [f for f in check_cache(self.store) if f.problem == "leftover"] == []

    # ------------------------------------------------------------ what must hold

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert {f.problem for f in check_cache(self.store)} <= {"leftover", "missing"}

    @invariant()
    def what_is_loaded_is_right(self) -> None:
        for feature in ("noise", "prosody"):
            try:
                vectors = self.store.load_vectors("toy", feature)
            except (CacheError, UnknownName):
                lost = self.done[feature] & {seed for seed, _ in self.registered.values()}
                assert not lost, "vectors that were acknowledged are gone"
                continue
            if not self.registered:
                continue
            loaded = dict(zip(vectors.ids, vectors.x, strict=True))
            assert set(loaded) <= set(self.registered)
            for name, (seed, label) in self.registered.items():
                assert name in loaded or seed not in self.done[feature]
                if name in loaded:
                    np.testing.assert_array_equal(loaded[name], self.expected(feature, seed))
                    assert vectors.labels["emotion"][vectors.ids.index(name)] == label

    def expected(self, feature: str, seed: int) -> np.ndarray:
        if (feature, seed) not in self.known:
            encoder = self.encoders[feature]
            (outputs,) = encoder.encode([wave_of(seed)], [encoder.outputs[0].name])
            self.known[feature, seed] = outputs[encoder.outputs[0].name].astype(np.float32)
        return self.known[feature, seed]


class LongRuns(Cache):
    """The same, for longer."""


quick = settings(max_examples=6, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
Cache.TestCase.settings = quick
LongRuns.TestCase.settings = settings(quick, max_examples=60, stateful_step_count=30)
TestCache = Cache.TestCase
TestLongRuns = pytest.mark.timeout(1800)(pytest.mark.slow(LongRuns.TestCase))

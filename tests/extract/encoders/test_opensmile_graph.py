"""One openSMILE graph for many clips: against the package, which makes a graph for each."""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from vbx.cache.spec import EncoderSpec
from vbx.errors import AudioError
from vbx.extract.encoder import load_encoder
from vbx.extract.encoders import _smile_graph as module
from vbx.extract.encoders._smile_graph import Graph, Table, make_extractor, to_pcm

opensmile = pytest.importorskip("opensmile")
RATE = 16000
SETS = list(opensmile.FeatureSet.__members__)
QUICK = ["eGeMAPSv02", "ComParE_2016", "IS09"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated.*")
        warnings.filterwarnings("ignore", message="Segment too short.*")
        yield


def smiles(name: str, frames: bool = False) -> list[Any]:
    levels = ["func"] if not frames else ["lld"] if "GeMAPS" in name else ["lld", "lld_de"]
    return [opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel(level)) for level in levels]


def package(smile: Any, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start of each row in ns, and values, by `process_signal`."""
    frame = smile.process_signal(np.clip(wave, -1, np.float32(32767 / 32768)), RATE)
    starts = frame.index.get_level_values("start").to_numpy()
    return starts.astype("timedelta64[ns]").astype(np.int64), frame.to_numpy()


def assert_same(tables: list[Table], expected: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for table, (starts, values) in zip(tables, expected, strict=True):
        assert table.values.dtype == np.float32
        np.testing.assert_array_equal(table.times, starts)
        np.testing.assert_array_equal(table.values, values)


def clips(seed: int, seconds: list[float]) -> list[np.ndarray]:
    """Silence, noise, tones, clipping and tones with pauses, of given lengths, in random order."""
    rng = np.random.default_rng(seed)
    made = []
    for i, length in enumerate(seconds):
        t = np.arange(round(length * RATE)) / RATE
        voice = sum(np.sin(2 * np.pi * k * rng.uniform(80, 500) * t) / k for k in range(1, 12))
        noise = rng.standard_normal(len(t))
        kinds = [0 * t, 0.3 * noise, 0.05 * voice, 1.5 * np.sign(voice), (t % 1 < 0.4) * 0.1 * voice + 1e-3 * noise]
        made.append(kinds[i % len(kinds)].astype(np.float32))
    return [made[i] for i in rng.permutation(len(made))]


@pytest.mark.parametrize("frames", [False, True], ids=["functionals", "frames"])
@pytest.mark.parametrize("name", QUICK)
def test_values_do_not_depend_on_the_order(name: str, frames: bool) -> None:
    smile = smiles(name, frames)
    extract = Graph(smile, RATE).extract
    waves = clips(len(name), [0.06, 0.3, 0.0625, 1.0, 2.0])
    expected = [[package(each, wave) for each in smile] for wave in waves]
    for i in [0, 1, 2, 3, 4, 2, 0, 4, 1, 3]:
        assert_same(extract(waves[i]), expected[i])


@pytest.mark.slow
@pytest.mark.parametrize("frames", [False, True], ids=["functionals", "frames"])
@pytest.mark.parametrize("name", SETS)
def test_values_of_every_set_at_every_length(name: str, frames: bool) -> None:
    smile = smiles(name, frames)
    extract = Graph(smile, RATE).extract
    waves = clips(SETS.index(name), [0.06, 0.0601, 0.07, 0.3, 0.5, 0.9, 1.3, 2.0, 5.1, 12.0, 30.0])
    for wave in [*waves, *waves[:4]]:
        assert_same(extract(wave), [package(each, wave) for each in smile])


@pytest.mark.parametrize("samples", [0, 1, 300, 959])
@pytest.mark.parametrize("frames", [False, True], ids=["functionals", "frames"])
def test_too_short_a_clip_is_a_row_of_nan(samples: int, frames: bool) -> None:
    smile = smiles("ComParE_2016", frames)
    extract = Graph(smile, RATE).extract
    wave = clips(0, [0.5])[0]
    before = extract(wave)
    for table, each in zip(extract(np.ones(samples, np.float32)), smile, strict=True):
        assert table.times.tolist() == [0] and table.values.shape == (1, each.num_features)
        assert np.isnan(table.values).all()
    for table, again in zip(before, extract(wave), strict=True):
        np.testing.assert_array_equal(table.values, again.values)


def test_a_long_clip_goes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4999)
    smile = smiles("ComParE_2016", frames=True)
    wave = clips(3, [1.7, 1.7])[0]
    assert_same(Graph(smile, RATE).extract(wave), [package(each, wave) for each in smile])


def test_samples_are_the_package_s_but_for_full_scale() -> None:
    wave = np.array([-2, -1, -0.99999, -1e-5, 0, 1e-5, 0.5, 32767 / 32768, 1, 2], np.float32)
    assert to_pcm(wave).tolist() == [-32768, -32768, -32767, 0, 0, 0, 16384, 32767, 32767, 32767]


def test_a_spoiled_graph_is_replaced() -> None:
    smile = smiles("eGeMAPSv02")
    graph = Graph(smile, RATE)
    wave = clips(1, [0.5, 0.5])[1]
    graph.extract(wave)
    spoiled = graph._graph
    spoiled.external_audio_source_set_eoi("extsource")
    spoiled.run()  # ended and not reset: it takes nothing more
    assert_same(graph.extract(wave), [package(smile[0], wave)])
    assert graph._graph is not spoiled and spoiled._smileobj is None


def test_a_clip_that_fails_twice_is_an_audio_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from opensmile.core import lib

    smile = smiles("eGeMAPSv02")
    extract = Graph(smile, RATE).extract
    wave = clips(1, [0.5])[0]
    extract(wave)
    runs = []

    def fail(self: Any) -> None:
        runs.append(self)
        raise lib.OpenSmileException(lib.SMILE_FAIL, "no luck")

    with monkeypatch.context() as patch:
        patch.setattr(lib.OpenSMILE, "run", fail)
        with pytest.raises(AudioError, match="^openSMILE failed: Code: 1, Message: no luck$"):
            extract(wave)
    assert len(set(map(id, runs))) == 2
    assert_same(extract(wave), [package(smile[0], wave)])


def test_no_room_for_a_row_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    smile = smiles("eGeMAPSv02", frames=True)
    extract = Graph(smile, RATE).extract
    wave = clips(1, [0.5])[0]

    def full(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module.ctypes, "string_at", full)
        with pytest.raises(MemoryError):
            extract(wave)
    assert_same(extract(wave), [package(smile[0], wave)])


def test_ctrl_c_within_the_library_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = module._Sink._receive

    def interrupted(self: Any, *row: Any) -> int:
        if len(self._times) == 3:
            signal.raise_signal(signal.SIGINT)
        return receive(self, *row)

    with monkeypatch.context() as patch:
        patch.setattr(module._Sink, "_receive", interrupted)
        smile = smiles("eGeMAPSv02", frames=True)
        graph = Graph(smile, RATE)
    wave, handler = clips(1, [0.5])[0], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        graph.extract(wave)
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert_same(graph.extract(wave), [package(smile[0], wave)])
    finally:
        signal.signal(signal.SIGINT, handler)


def test_threads_wait_for_each_other() -> None:
    smile = smiles("eGeMAPSv02")
    extract = Graph(smile, RATE).extract
    waves = clips(5, [0.3, 0.5, 0.4, 0.6])
    found: dict[int, list[Table]] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: extract(waves[i % 4])})) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [[package(smile[0], wave)] for wave in waves]
    assert len(found) == 12
    for i, tables in found.items():
        assert_same(tables, expected[i % 4])


def without_reset(patch: pytest.MonkeyPatch) -> None:
    from opensmile.core import lib

    patch.delattr(lib.OpenSMILE, "reset")


def other_interface(patch: pytest.MonkeyPatch) -> None:
    """What makes a graph takes something else; the package itself goes another way."""
    from opensmile.core import lib

    make = lib.OpenSMILE.initialize

    def otherwise(self: Any, *args: Any, **options: Any) -> None:
        if args:
            raise TypeError("initialize() takes no positional arguments")
        make(self, **options)

    patch.setattr(lib.OpenSMILE, "initialize", otherwise)


def other_configuration(patch: pytest.MonkeyPatch) -> None:
    """One of which nothing that is known can be found; a wrong one would crash the library now and then."""

    def strange(lines: Any, levels: Any) -> str:
        raise ValueError("no component writes level 'func'")

    patch.setattr(module, "cut_config", strange)


def other_layout(patch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"no module {name}")

    patch.setattr(module, "import_module", absent)


def reset_that_leaves_something(patch: pytest.MonkeyPatch) -> None:
    extract = Graph.extract
    before: list[np.ndarray] = []

    def leaking(self: Graph, wave: np.ndarray) -> list[Table]:
        tables = extract(self, np.concatenate([*before, wave]))
        before[:] = [wave[-100:]]
        return tables

    patch.setattr(Graph, "extract", leaking)


BREAKS = [without_reset, other_interface, other_layout, other_configuration, reset_that_leaves_something]


@pytest.mark.parametrize("break_it", BREAKS)
@pytest.mark.parametrize("level", ["functionals", "lld"])
def test_what_cannot_be_used_again_falls_back(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], level: str
) -> None:
    waves = clips(2, [0.06, 0.4, 0.9])
    name = "functionals" if level == "functionals" else "frames"
    spec = EncoderSpec("opensmile", "ComParE_2016", level=level)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        expected = load_encoder(spec).encode(waves, [name])
    break_it(monkeypatch)
    encoder = load_encoder(spec)
    with pytest.warns(RuntimeWarning, match="cannot be used again .*: same values, but slower"):
        found = encoder.encode(waves, [name])
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine[name], theirs[name])


def test_the_package_s_failure_is_an_audio_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from opensmile.core import lib

    without_reset(monkeypatch)
    wave = clips(2, [0.4])[0]
    with pytest.warns(RuntimeWarning):
        extract = make_extractor(smiles("eGeMAPSv02"), RATE)

    def fail(self: Any) -> None:
        raise lib.OpenSmileException(lib.SMILE_FAIL)

    monkeypatch.setattr(lib.OpenSMILE, "run", fail)
    with pytest.raises(AudioError, match="^openSMILE failed: Code: 1$"):
        extract(wave)


@pytest.mark.slow
def test_memory_does_not_grow() -> None:
    extract = Graph(smiles("eGeMAPSv02"), RATE).extract
    wave = clips(0, [0.3])[0]

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(200):
        extract(wave)
    before = resident()
    for _ in range(1000):
        extract(wave)
    assert resident() - before < 3e6

"""The crew: the same in processes as in one; a process that dies costs the clip it died of, and no other."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vbx
from vbx.cache.spec import EncoderSpec
from vbx.errors import CheckpointError, MissingExtra, UnknownName, VbxError
from vbx.extract.corpus import Utterance
from vbx.extract.crew import Crew, cut_tasks
from vbx.extract.plan import Settings
from vbx.extract.work import Answer, Item, Order

PLUGIN = """
import os, signal
import numpy as np
from vbx.extract.encoder import Encoder, Output

IN_WORKERS = True


class Fragile(Encoder):
    def __init__(self, spec):
        self.spec = spec
        self.outputs = (Output("hidden", ("mean", "process")),)

    def encode(self, waves, wanted):
        for wave in waves:
            if len(wave) == 1234:
                os.kill(os.getpid(), signal.SIGSEGV)
            if len(wave) == 2345:
                os._exit(3)
        return [{"hidden": np.array([len(wave), os.getpid()], np.float32)} for wave in waves]


def fingerprint(spec, checkpoint):
    return None


def load(spec, checkpoint, device):
    if spec.model == "absent":
        from vbx.errors import CheckpointError
        raise CheckpointError("no weights at all")
    if spec.model == "deadly":
        os._exit(7)
    return Fragile(spec)
"""


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Order]:
    (tmp_path / "fragile").mkdir()
    (tmp_path / "fragile" / "plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield Order(EncoderSpec("fragile.plugin", "m"), None, in_worker=True)
    for name in ("fragile", "fragile.plugin"):
        sys.modules.pop(name, None)


def write_items(folder: Path, lengths: Sequence[int]) -> list[Item]:
    items = []
    for row, length in enumerate(lengths):
        path = folder / f"{row}.wav"
        soundfile.write(path, np.random.default_rng(row).uniform(-0.5, 0.5, length), 16000)
        items.append(Item(row, Utterance(path.name, path), None, {0: {"hidden": "float32"}}, length / 16000))
    return items


def do(order: Order, items: Sequence[Item], workers: int, cost_s: float = 0.0) -> tuple[list[Answer], Crew]:
    with Crew([order], workers) as crew:
        crew.describe()
        return [answer for answers in crew.run(items, cost_s) for answer in answers], crew


def test_answers_come_in_order_and_are_those_of_one_process(order: Order, tmp_path: Path) -> None:
    items = write_items(tmp_path, [1600 + 7 * i for i in range(100)])
    here, _ = do(order, items, 0)
    there, crew = do(order, items, 3, cost_s=100.0)
    assert [a.row for a in there] == [a.row for a in here] == list(range(100))
    assert [a.outcomes[0]["hidden"][0] for a in there] == [1600 + 7 * i for i in range(100)]  # type: ignore[index]
    assert len({a.outcomes[0]["hidden"][1] for a in there}) > 1  # type: ignore[index]
    assert crew.deaths == 0


@pytest.mark.parametrize(("length", "how"), [(1234, "SIGSEGV"), (2345, "exit status 3")])
def test_a_clip_that_kills_its_process_costs_no_other(order: Order, tmp_path: Path, length: int, how: str) -> None:
    items = write_items(tmp_path, [length if i in (3, 20, 39) else 1600 + i for i in range(40)])
    answers, crew = do(order, items, 2, cost_s=100.0)
    assert [answer.row for answer in answers] == list(range(40))
    for answer in answers:
        outcome = answer.outcomes[0]
        if answer.row in (3, 20, 39):
            assert isinstance(outcome, str) and how in outcome and f"{answer.row}.wav" in outcome
        else:
            assert outcome["hidden"][0] == 1600 + answer.row  # type: ignore[index]
    assert crew.deaths == 6


def test_an_error_of_a_worker_arrives_as_it_was(order: Order) -> None:
    with pytest.raises(CheckpointError, match="no weights at all"):
        do(Order(EncoderSpec("fragile.plugin", "absent"), None, in_worker=True), [], 1)
    with pytest.raises(VbxError, match="did not start .exit status 7"):
        do(Order(EncoderSpec("fragile.plugin", "deadly"), None, in_worker=True), [], 1)
    with pytest.raises(UnknownName, match="encoder 'fragil'"):
        do(Order(EncoderSpec("fragil", "m"), None, in_worker=True), [], 1)


def test_waveforms_are_handed_on_without_a_change(tmp_path: Path) -> None:
    items = write_items(tmp_path, [1600, 16000, 480])
    answers, _ = do(Order(EncoderSpec("noise", "noise"), None, in_worker=False), items, 1)
    for item, answer in zip(items, answers, strict=True):
        np.testing.assert_array_equal(answer.waves[0], vbx.read_wave(item.utterance.path))


def test_tasks_are_short() -> None:
    item = Item(0, Utterance("a", Path("a")), None, {}, 1.0)
    assert [len(task) for task in cut_tasks([item] * 40)] == [16, 16, 8]
    long = Item(0, Utterance("a", Path("a")), None, {}, 29.5)
    assert [len(task) for task in cut_tasks([item, long, long, item])] == [1, 1, 1, 1]


def test_a_run_survives_a_clip_that_kills(order: Order, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write_items(tmp_path / "x", [1600, 1234, 1700])
    corpus, store = vbx.read_corpus(tmp_path / "x"), vbx.Store(tmp_path / "cache")
    report = vbx.extract_vectors(corpus, ["fragile.plugin:m"], store, settings=Settings(workers=2))
    (count,) = report.features
    assert (count.extracted, count.failed) == (2, 1)
    assert "SIGSEGV" in report.failures[0]["reason"]
    assert any("died" in note for note in report.notes)


def test_errors_keep_their_sentence_and_kind() -> None:
    import pickle

    for error in (UnknownName("feature", "egemap", ["egemaps"]), MissingExtra("x", "av"), CheckpointError("a b")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)

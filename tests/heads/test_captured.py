"""What a graph would replay, without a GPU: a tape records each operation of a step and does it again in its memory."""

from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.heads.test_training import AGE, CASES, COUNTRY, EMOTION, make_run, make_vectors, varied_runs
from vbx.heads import captured as captured_module
from vbx.heads import fitting, steps
from vbx.heads.captured import CapturedSteps
from vbx.heads.data import make_ready, make_split
from vbx.heads.model import make_model
from vbx.heads.parts import Task, Trunk
from vbx.heads.stack import predict_stack, select_runs, start_stack
from vbx.heads.steps import train_epoch

CPU = torch.device("cpu")
FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "unique")
"""Operations that wait for the device, bring something from the host, or whose result's size hangs on values."""


class Tape(TorchDispatchMode):
    """Records operations with their tensors and numbers, as a CUDA graph does.

    All that they read must be what they made, or at one of the places that stay.
    """

    def __init__(self, stays):
        super().__init__()
        self.operations, self.known = [], {place(t) for t in stays}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in FORBIDDEN, f"a graph cannot hold {name}"
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        assert {place(t) for t in read} <= self.known, f"{name} reads what is not on the device"
        result = function(*args, **(kwargs or {}))
        self.known |= {place(t) for t in tree_leaves(result) if isinstance(t, torch.Tensor)}
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        """Do it all again: memory that was new then is written to again; views and changes in place need no more."""
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, result in self.operations:
                again = function(*args, **kwargs)
                ours, theirs = (r if isinstance(r, tuple | list) else [r] for r in (result, again))
                for old, new in zip(ours, theirs, strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def record(step):
    """Record a step of `CapturedSteps`, which may read its stack, its split and its buffers."""
    _, stack, train, buffers, _ = step.args
    parts = [getattr(part, f.name) for part in (stack, stack.moving, train, buffers) for f in fields(part)]
    tape = Tape([t for t in tree_leaves(parts) if isinstance(t, torch.Tensor)])
    with tape:
        step()
    return tape.replay


def prepare(runs, vectors, device=CPU):
    ready = make_ready(runs[0], vectors)
    model = make_model(runs[0], vectors.x.shape[1], ready.classes)
    return model, make_split(ready, runs[0], vectors, "train", device)


def each_role():
    """Every role, a learnt weighting with a memory, and labels that are replaced."""
    tasks = (
        replace(EMOTION, missing="replace"),
        AGE,
        replace(COUNTRY, role="adversarial"),
        Task("told", ("country",), "focal", ("uar",), hidden=(5,), role="discriminator"),
        Task("aux", ("age",), "ccc", ("ccc",), role="auxiliary"),
    )
    trunk = Trunk((12, 10), dropout=0.2)
    return [make_run(tasks, trunk, seed=s, epochs=4, weighting="druw", discriminator_lr=0.01 * s) for s in (1, 2)]


RUNS = {"varied": varied_runs(5), "roles": each_role(), **{name: [r, replace(r, seed=9)] for name, r in CASES.items()}}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RUNS)
def test_replayed_steps_are_those_made_one_by_one(name):
    vectors = make_vectors(n=100, missing=0.2)
    model, train = prepare(RUNS[name], vectors)
    ours, theirs = (start_stack(model, RUNS[name], CPU) for _ in range(2))
    recorded = []
    captured = CapturedSteps(lambda step: recorded.append(step) or record(step))
    for epoch in (1, 2, 3):
        captured.train_epoch(model, ours, train, epoch)
        train_epoch(model, theirs, train, epoch)
        assert torch.equal(ours.moving.numbers, theirs.moving.numbers)
    assert len(recorded) == (0 if name == "one batch" else 1)


def test_most_steps_are_replayed(monkeypatch):
    made, replayed = [], []
    monkeypatch.setattr(captured_module, "train_step", lambda *args: made.append(args[-1]) or steps.train_step(*args))
    model, train = prepare([RUNS["adam"][0]], make_vectors(n=100))  # 50 utterances in batches of 8
    stack = start_stack(model, RUNS["adam"], CPU)

    def capture(step):
        replay = record(step)
        made.clear()
        return lambda: replayed.append(1) or replay()

    captured = CapturedSteps(capture)
    for epoch in (1, 2):
        captured.train_epoch(model, stack, train, epoch)
    # Of 12 full steps, three warmed up and one was made twice; the last two utterances of an epoch are no full step.
    assert (made, len(replayed)) == ([8, 2, 2], 1 + 8)


def test_a_stack_of_fewer_is_recorded_anew():
    vectors, runs = make_vectors(n=100), varied_runs(4)
    model, train = prepare(runs, vectors)
    ours, theirs = (start_stack(model, runs, CPU) for _ in range(2))
    recorded = []
    captured = CapturedSteps(lambda step: recorded.append(1) or record(step))
    for epoch in (1, 2, 3):
        if epoch == 2:
            ours, theirs = select_runs(ours, [0, 3]), select_runs(theirs, [0, 3])
        captured.train_epoch(model, ours, train, epoch)
        train_epoch(model, theirs, train, epoch)
    assert torch.equal(ours.moving.numbers, theirs.moving.numbers) and len(recorded) == 2


def refuse(step):
    raise RuntimeError("operation not permitted when stream is capturing")


def forget(step):
    """A recording that lost the last change: what it replays gives other weights."""
    return lambda: None


@pytest.mark.parametrize(("capture", "words"), [(refuse, "cannot be recorded .*capturing"), (forget, "other weights")])
def test_a_step_that_cannot_be_trusted_recorded_is_made_one_by_one(capture, words):
    model, train = prepare(RUNS["adam"], make_vectors(n=100))
    ours, theirs = (start_stack(model, RUNS["adam"], CPU) for _ in range(2))
    captured = CapturedSteps(capture)
    with pytest.warns(UserWarning, match=words) as told:
        for epoch in (1, 2):
            captured.train_epoch(model, ours, train, epoch)
            train_epoch(model, theirs, train, epoch)
    assert len(told) == 1 and torch.equal(ours.moving.numbers, theirs.moving.numbers)


def test_a_step_that_asks_its_device_cannot_be_recorded():
    model, train = prepare(RUNS["adam"], make_vectors(n=100))
    stack = start_stack(model, RUNS["adam"], CPU)
    order = steps.draw_orders(model, stack.runs, len(train.rows), 1)
    buffers = steps.make_buffers(model, stack, order)
    for wrong in (lambda: buffers.at.item(), lambda: stack.previous[:, [0]]):
        with pytest.raises(AssertionError):
            record(partial(lambda *_, wrong=wrong: wrong(), model, stack, train, buffers, 8))


def test_runs_that_have_stopped_may_idle_along(monkeypatch):
    vectors, runs = make_vectors(n=100), varied_runs(9)
    model, train = prepare(runs, vectors)
    dev = make_split(make_ready(runs[0], vectors), runs[0], vectors, "dev", CPU)
    sizes = []

    def monitor(stack):
        outputs = predict_stack(model, stack.moving.numbers, dev)
        return [float(o.square().sum()) for o in outputs[0]]

    def see(*args):
        sizes.append(len(args[1].runs))
        train_epoch(*args)

    at_once = fitting.fit_stack(model, runs, train, monitor, lambda _: None, see)
    seen = sizes.copy()
    sizes.clear()
    monkeypatch.setitem(fitting.IDLE, "cpu", 0.5)
    told = []
    later = fitting.fit_stack(model, runs, train, monitor, told.append, see)
    assert torch.equal(at_once.numbers, later.numbers) and at_once.watches == later.watches
    assert sum(told) == sum(run.fit.epochs for run in runs)
    assert len(set(sizes)) < len(set(seen)) and set(sizes) <= {9, 4, 3, 2, 1}

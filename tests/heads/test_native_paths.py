"""The native kernel against torch's engine: on every path, in both precisions, for all that is drawn."""

import numpy as np
import pytest
import torch

from tests.heads.native_runs import MANY, both, make_run, make_vectors, task_of
from vbx.errors import DeviceError
from vbx.heads.activations import ACTIVATIONS
from vbx.heads.data import Split, make_ready, make_split
from vbx.heads.losses import LOSSES
from vbx.heads.model import forward, make_model, view_weights
from vbx.heads.native import NativeRun, build, find_kernel, predict_native
from vbx.heads.native.build import find_compiler
from vbx.heads.objective import make_shares, task_losses, total_loss
from vbx.heads.parts import Trunk
from vbx.heads.stack import predict_stack, start_stack

pytestmark = [
    pytest.mark.usefixtures("kernel"),
    pytest.mark.skipif(not find_compiler() and find_kernel().library is None, reason="no C++ compiler and no kernel"),
]


@pytest.mark.parametrize("batch", [2, 8, 13])
@pytest.mark.parametrize("rate", [0.5, 0.17])
def test_dropout_drops_what_torch_drops(batch, rate, monkeypatch):
    run = make_run(MANY, Trunk((12, 150), dropout=rate), batch_size=batch, epochs=2)
    ours, theirs = both(run, make_vectors(missing=0.1), monkeypatch)
    for name in ours.head.state:
        np.testing.assert_allclose(ours.head.state[name], theirs.head.state[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("path", list(build.list_paths()))
def test_every_path_computes_the_same(path, monkeypatch):
    run = make_run(MANY, Trunk((40, 33), dropout=0.2, activation="tanh"), batch_size=20, epochs=2)
    try:
        ours, theirs = both(run, make_vectors(dim=200), monkeypatch, path)
    except DeviceError as error:
        pytest.skip(str(error))
    for name in ours.head.state:
        np.testing.assert_allclose(ours.head.state[name], theirs.head.state[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("path", list(build.list_paths()))
def test_float32_agrees_in_metrics(path, activation, monkeypatch):
    trunk = Trunk((32, 16), activation=activation)
    run = make_run(MANY, trunk, dtype="float32", epochs=5, patience=3, restore_best=True, lr=3e-3)
    try:
        ours, theirs = both(run, make_vectors(n=600, dim=20), monkeypatch, path)
    except DeviceError as error:
        pytest.skip(str(error))
    assert ours.key == theirs.key and ours.epochs == theirs.epochs and ours.best_epoch == theirs.best_epoch
    for a, b in zip(ours.rows, theirs.rows, strict=True):
        assert (a.split, a.task, a.column, a.metric, a.n) == (b.split, b.task, b.column, b.metric, b.n)
        assert a.value == pytest.approx(b.value, abs=0.02)
    score = [row.value for row in ours.rows if row.task == "score"]
    assert min(score) > 0.4  # it has learnt something


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations_are_as_exact_near_0_as_far_from_it(activation, dtype):
    # A head that only applies its activation: every weight matrix is the unit matrix.
    random = np.random.default_rng(0)
    x = random.standard_normal((4000, 3)) * 10.0 ** random.uniform(-9, 3, (4000, 3))
    x[:8] = np.array([0.0, -0.0, 88, -88, 1e4, -1e4, np.inf, -np.inf])[:, None]
    trunk = Trunk((3,), norm="none", activation=activation)
    run = make_run([task_of("mse")], trunk, dtype=dtype)
    model = make_model(run, 3, {})
    numbers = torch.zeros(1, model.size, dtype=getattr(torch, dtype))
    for view in view_weights(model, numbers).values():
        if view.shape[1:] == (32, 32):
            view[0].fill_diagonal_(1.0)
    given = torch.zeros(len(x), 32, dtype=numbers.dtype)
    given[:, :3] = torch.from_numpy(x)
    (ours,) = predict_native(find_kernel(), model, numbers, Split("test", np.arange(len(x)), given, (), ()))
    expected = ACTIVATIONS[activation](given[:, :3].double())
    exact = torch.finfo(numbers.dtype)
    # A value below 0 of gelu or silu is a difference of like numbers; torch's own float32 is no nearer.
    loose = 1e-6 if activation in ("gelu", "silu") and dtype == "float32" else exact.tiny * 4
    torch.testing.assert_close(ours[0].double()[:6], expected[:6], rtol=8 * exact.eps, atol=max(loose, 1e-30))
    torch.testing.assert_close(ours[0].double()[8:], expected[8:], rtol=8 * exact.eps, atol=max(loose, 1e-30))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_slopes_of_the_loss(loss):
    # One step of plain descent over all of train moves the weights by the gradient; the loss is torch's.
    vectors = make_vectors(missing=0.3)
    run = make_run([task_of(loss, hidden=(4,))], Trunk((5,), activation="tanh"), optimizer="sgd", lr=1.0, batch_size=99)
    ready = make_ready(run, vectors)
    train = make_split(ready, run, vectors, "train", torch.device("cpu"))
    model = make_model(run, vectors.x.shape[1], ready.classes)
    stack = start_stack(model, [run], torch.device("cpu"))
    start = stack.moving.numbers.clone()
    shares, _ = make_shares([run], 1, start)
    with NativeRun(find_kernel(), model, train) as native:
        native.train_epoch(model, stack, train, 1)
    gradient = (start - stack.moving.numbers)[0]

    def loss_at(numbers):
        outputs = forward(model, view_weights(model, numbers), train.x.unsqueeze(0))
        truth, weight = [t.unsqueeze(0) for t in train.truth], [w.unsqueeze(0) for w in train.weight]
        return float(total_loss(model, {}, shares, task_losses(model, outputs, truth, weight)))

    random = np.random.default_rng(1)
    places = random.choice(np.flatnonzero(start[0].numpy()), 40, replace=False)
    assert (gradient[places] != 0).sum() > 20
    for place in places:
        step = torch.zeros_like(start)
        step[0, place] = 1e-6
        slope = (loss_at(start + step) - loss_at(start - step)) / 2e-6
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-7)


def test_predictions_come_in_the_order_of_the_tasks():
    # Layers of a discriminator come last, wherever its task is.
    tasks = [task_of("cross_entropy", "who", role="discriminator", hidden=(5,)), *MANY]
    for trunk in (Trunk((12, 10)), Trunk(())):
        run, vectors = make_run(tasks, trunk), make_vectors()
        ready = make_ready(run, vectors)
        model = make_model(run, vectors.x.shape[1], ready.classes)
        numbers = start_stack(model, [run], torch.device("cpu")).moving.numbers
        dev = make_split(ready, run, vectors, "dev", torch.device("cpu"))
        ours, theirs = predict_native(find_kernel(), model, numbers, dev), predict_stack(model, numbers, dev)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

"""Every loss against an outside reference, run by run, with and without missing labels."""

import pytest
import torch
import torch.nn.functional as F

from vbx.heads.losses import LOSSES

R, B, K, C = 3, 7, 4, 5


def plain_ccc(p, t):
    """1 - CCC of one column, from the definition."""
    cov = ((p - p.mean()) * (t - t.mean())).mean()
    return 1 - 2 * cov / (p.var(unbiased=False) + t.var(unbiased=False) + (p.mean() - t.mean()) ** 2)


def plain_focal(logits, t, gamma):
    p = logits.softmax(1).gather(1, t[:, None])[:, 0]
    return (-((1 - p) ** gamma) * p.log()).mean()


REGRESSION = {
    "mse": lambda p, t: F.mse_loss(p, t),
    "mae": lambda p, t: F.l1_loss(p, t),
    "bce": lambda p, t: F.binary_cross_entropy(p, t),
}


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.rand(R, B, K, dtype=torch.float64, generator=generator).requires_grad_()
    truth = torch.rand(R, B, K, dtype=torch.float64, generator=generator)
    weight = (torch.rand(R, B, K, generator=generator) > 0.4).double()
    return prediction, truth, weight


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_is_the_mean_over_labelled_elements(name):
    prediction, truth, weight = draw()
    ours = LOSSES[name].function(prediction, truth, weight)
    for r in range(R):
        there = weight[r] > 0
        expected = REGRESSION[name](prediction[r][there], truth[r][there])
        assert ours[r].item() == pytest.approx(expected.item(), abs=1e-14)


def test_ccc_is_taken_over_the_labelled_rows_of_each_column():
    prediction, truth, weight = draw()
    weight[0, :, 1] = 0.0
    weight[0, 2, 1] = 1.0  # one label is too few: the column is left out
    ours = LOSSES["ccc"].function(prediction, truth, weight)
    for r in range(R):
        columns = [(prediction[r, weight[r, :, k] > 0, k], truth[r, weight[r, :, k] > 0, k]) for k in range(K)]
        expected = torch.stack([plain_ccc(p, t) for p, t in columns if len(p) > 1]).mean()
        assert ours[r].item() == pytest.approx(expected.item(), abs=1e-7)  # the reference has no epsilon
    (gradient,) = torch.autograd.grad(ours.sum(), prediction)
    assert (gradient[weight == 0] == 0).all()  # a missing label teaches nothing
    assert (gradient[0, 2, 1] == 0).all()


def test_ccc_is_0_where_prediction_is_the_truth_and_finite_where_both_are_constant():
    _, truth, _ = draw()
    ones = torch.ones_like(truth)
    assert LOSSES["ccc"].function(truth, truth, ones).abs().max() < 1e-6
    constant = torch.full_like(truth, 0.3).requires_grad_()
    loss = LOSSES["ccc"].function(constant, torch.full_like(truth, 0.3), ones)
    assert torch.equal(loss, torch.ones(R, dtype=torch.float64))
    assert torch.isfinite(torch.autograd.grad(loss.sum(), constant)[0]).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_as_torch_defines_it(weighted):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(R, B, C, dtype=torch.float64, generator=generator)
    truth = torch.randint(C, (R, B), generator=generator)
    class_weights = torch.rand(C, dtype=torch.float64, generator=generator) if weighted else torch.ones(C).double()
    there = torch.rand(R, B, generator=generator) > 0.3
    ours = LOSSES["cross_entropy"].function(logits, truth, class_weights[truth] * there)
    for r in range(R):
        expected = F.cross_entropy(logits[r][there[r]], truth[r][there[r]], weight=class_weights)
        assert ours[r].item() == pytest.approx(expected.item(), abs=1e-14)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 10.0])
def test_focal_from_its_definition(gamma):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(R, B, C, dtype=torch.float64, generator=generator)
    truth = torch.randint(C, (R, B), generator=generator)
    ours = LOSSES["focal"].function(logits, truth, torch.ones(R, B), gamma)
    for r in range(R):
        assert ours[r].item() == pytest.approx(plain_focal(logits[r], truth[r], gamma).item(), abs=1e-12)
    if gamma == 0:
        plain = LOSSES["cross_entropy"].function(logits, truth, torch.ones(R, B))
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_gradient_where_it_is_certain(gamma):
    logits = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]], requires_grad=True)
    loss = LOSSES["focal"].function(logits, torch.tensor([[0, 0]]), torch.ones(1, 2), gamma)
    assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_contributes_0(name):
    loss = LOSSES[name]
    options = {"gamma": 2.0} if loss.options else {}
    prediction = torch.rand(2, B, K, requires_grad=True)
    truth = torch.zeros(2, B, dtype=torch.long) if loss.kind == "classification" else torch.rand(2, B, K)
    weight = torch.zeros(truth.shape)
    weight[1] = 1.0  # the neighbour is labelled
    value = loss.function(prediction, truth, weight, **options)
    assert value.shape == (2,) and value[0] == 0 and value[1] > 0
    (gradient,) = torch.autograd.grad(value.sum(), prediction)
    assert (gradient[0] == 0).all() and torch.isfinite(gradient).all() and (gradient[1] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_has_no_gradient_from_its_neighbour(name):
    loss = LOSSES[name]
    options = {"gamma": 2.0} if loss.options else {}
    prediction = torch.rand(2, B, K, requires_grad=True)
    truth = torch.ones(2, B, dtype=torch.long) if loss.kind == "classification" else torch.rand(2, B, K)
    value = loss.function(prediction, truth, torch.ones(truth.shape), **options)
    (gradient,) = torch.autograd.grad(value[0], prediction)
    assert (gradient[1] == 0).all() and (gradient[0] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_one_truth_may_serve_every_run(name):
    loss = LOSSES[name]
    options = {"gamma": 2.0} if loss.options else {}
    prediction = torch.rand(3, B, K)
    truth = torch.randint(K, (1, B)) if loss.kind == "classification" else torch.rand(1, B, K)
    shared = loss.function(prediction, truth, torch.ones(truth.shape), **options)
    each = truth.expand(3, *truth.shape[1:])
    torch.testing.assert_close(shared, loss.function(prediction, each, torch.ones(each.shape), **options))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences(name):
    loss = LOSSES[name]
    prediction, truth, weight = draw(3)
    if loss.kind == "classification":
        truth, weight = truth[..., 0].mul(K).long(), weight[..., 0] * torch.rand(R, B).double()
    else:
        weight = weight * (torch.arange(R) != 1).view(R, 1, 1)  # a run whose batch has no label
    options = {"gamma": 1.5} if loss.options else {}
    assert torch.autograd.gradcheck(lambda p: loss.function(p, truth, weight, **options), prediction)

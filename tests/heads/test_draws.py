"""All that is random in a run comes from its own seed."""

import torch
from torch import nn

from vbx.heads.draws import derive_seed, draw_keep, draw_order, draw_weights, dropout_table
from vbx.heads.head import Layer

LAYERS = (Layer("trunk.0", 9, 12, True, True), Layer("age.0", 12, 5, False, True), Layer("age.out", 5, 1, False, False))


def keys(*seeds):
    return torch.tensor([derive_seed("dropout", s) & 0xFFFFFFFF for s in seeds]).view(-1, 1, 1)


def test_weights_are_those_of_linear_layers_made_one_after_the_other():
    for dtype in (torch.float32, torch.float64):
        ours = draw_weights(LAYERS, 7, dtype)
        torch.manual_seed(7)
        for layer in LAYERS:
            linear = nn.Linear(layer.width_in, layer.width_out, dtype=dtype)
            assert torch.equal(ours[f"{layer.name}.weight"], linear.weight)
            assert torch.equal(ours[f"{layer.name}.bias"], linear.bias)
    assert set(ours) - {f"{x.name}.{w}" for x in LAYERS for w in ("weight", "bias")} == {
        "trunk.0.norm.weight",
        "trunk.0.norm.bias",
    }


def test_draws_leave_the_global_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw_weights(LAYERS, 1, torch.float32)
    draw_order(1, 1, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_order_is_a_permutation_of_its_own_for_each_seed_and_epoch():
    orders = [tuple(draw_order(seed, epoch, 50).tolist()) for seed in (1, 2) for epoch in (1, 2)]
    assert len(set(orders)) == 4 and all(sorted(o) == list(range(50)) for o in orders)
    assert tuple(draw_order(1, 1, 50).tolist()) == orders[0]


def test_dropout_drops_the_share_that_is_asked_for():
    table = dropout_table(64, 128, torch.device("cpu"))
    rate = torch.tensor([0.0, 0.1, 0.5, 0.9]).view(-1, 1, 1)
    kept = torch.stack([draw_keep(table, keys(1, 2, 3, 4), rate, step).double() for step in range(50)])
    shares = kept.mean((0, 2, 3))  # of 409,600 values: standard deviation at most 0.0008
    torch.testing.assert_close(shares, 1 - rate.flatten().double(), rtol=0, atol=0.004)
    assert shares[0] == 1


def test_dropout_of_places_steps_and_runs_is_unrelated():
    table = dropout_table(32, 64, torch.device("cpu"))
    half = torch.tensor([0.5, 0.5]).view(-1, 1, 1)
    signs = torch.stack([draw_keep(table, keys(1, 2), half, step).double() * 2 - 1 for step in range(100)])
    flat = signs.permute(1, 0, 2, 3)  # run, step, row, column
    for other in (flat[:, 1:] * flat[:, :-1], flat[:, :, 1:] * flat[:, :, :-1], flat[..., 1:] * flat[..., :-1]):
        assert abs(other.mean().item()) < 0.01
    assert abs((flat[0] * flat[1]).mean().item()) < 0.01


def test_dropout_of_a_run_does_not_depend_on_its_neighbours_or_the_padding():
    half = torch.tensor([0.5, 0.5, 0.5]).view(-1, 1, 1)
    three = draw_keep(dropout_table(8, 64, torch.device("cpu")), keys(1, 2, 3), half, 5)
    alone = draw_keep(dropout_table(8, 32, torch.device("cpu")), keys(2), half[:1], 5)
    assert torch.equal(three[1, :, :32], alone[0])

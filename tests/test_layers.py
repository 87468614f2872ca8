"""Dropout whose randomness is an argument."""

import pytest
import torch

from befa import layers
from befa.layers import dropout, relu_dropout
from befa.rng import stream

RATES = pytest.mark.parametrize("p", [0.1, 0.3, 0.5])


@RATES
@pytest.mark.parametrize("drop", [dropout, relu_dropout])
def test_the_rate_is_met_and_the_mean_kept(drop, p):
    x = drop(torch.ones(1000, 301), p, rng=stream(0, "dropout"), training=True)
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert (x == 0).double().mean().item() == pytest.approx(p, abs=5 * deviation)
    assert x.double().mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p))
    assert x.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)


@RATES
def test_entries_are_dropped_independently_of_their_neighbours(p):
    kept = (dropout(torch.ones(400_000), p, rng=stream(0, "dropout"), training=True) > 0).double() - (1 - p)
    for distance in (1, 2, 3, 4, 5):  # four share a draw
        assert (kept[distance:] * kept[:-distance]).mean().abs().item() < 5 * p * (1 - p) / 400_000**0.5


@RATES
def test_relu_dropout_has_the_gradient_of_the_two_steps(p):
    x = torch.randn(300, 7, generator=stream(0, "x"), requires_grad=True)
    weights = torch.randn(300, 7, generator=stream(0, "weights"))
    found = relu_dropout(x * 1, p, rng=stream(0, "dropout"), training=True)
    expected = dropout(torch.relu(x), p, rng=stream(0, "dropout"), training=True)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_nothing_is_dropped_outside_training_or_at_rate_zero():
    x = torch.randn(5, 3, generator=stream(0, "x"))
    for p, training in ((0.5, False), (0.0, True)):
        assert torch.equal(dropout(x, p, rng=stream(0, "d"), training=training), x)
        assert torch.equal(relu_dropout(x, p, rng=stream(0, "d"), training=training), torch.relu(x))


def test_relu_dropout_is_worked_in_blocks_without_a_seam(monkeypatch):
    monkeypatch.setattr("befa.layers.BLOCK", 8)
    x = relu_dropout(torch.ones(13, 3), 0.5, rng=stream(0, "d"), training=True)
    assert set(x.unique().tolist()) == {0, 2}


def test_layers_start_within_torchs_bounds():
    rng = stream(0, "init")
    layer = layers.linear(100, 400, rng=rng)
    for x in (layer.weight, layer.bias):
        assert x.abs().max().item() == pytest.approx(0.1, rel=0.01)
        assert x.mean().item() == pytest.approx(0, abs=0.01)
    xavier = layers.linear(100, 400, rng=rng, xavier=True)
    assert xavier.weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert xavier.weight.abs().max() > 3 * (2 / 500) ** 0.5  # normal, not uniform
    assert xavier.bias.abs().max().item() == pytest.approx(0.1, rel=0.01)
    table = layers.table(400, 100, rng=rng)
    assert table.abs().max().item() == pytest.approx((6 / 500) ** 0.5, rel=0.01)

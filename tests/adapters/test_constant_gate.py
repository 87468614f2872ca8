"""ConstantGate is BeFA in everything but content."""

import pytest
import torch

from befa.adapters.befa import BeFA
from befa.adapters.constant_gate import ConstantGate
from befa.rng import stream
from tests.adapters.test_befa import content_and_ids


def build(kind, **settings):
    return kind(kind.Config(**settings), 8, rng=stream(0, "adapter"))


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_content_does_not_matter(variant):
    adapter, (x, ids) = build(ConstantGate, variant=variant), content_and_ids(5, 8)
    one, other = (adapter(content, ids, rng=stream(0, "noise")) for content in (x, -7 * x))
    assert torch.equal(one, other)


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_it_starts_as_befa_on_ones(variant):
    _, ids = content_and_ids(5, 8)
    ones = torch.ones(5, 8)
    control, befa = build(ConstantGate, variant=variant), build(BeFA, variant=variant)
    assert [value.shape for value in control.parameters()] == [value.shape for value in befa.parameters()]
    assert torch.equal(control(ones, ids, rng=stream(0, "noise")), befa(ones, ids, rng=stream(0, "noise")))


def test_without_dropout_every_item_has_the_same_gate():
    adapter, (x, ids) = build(ConstantGate).eval(), content_and_ids(5, 8)
    gate_nd = adapter(x, ids, rng=stream(0, "noise")) / ids
    torch.testing.assert_close(gate_nd, gate_nd[:1].expand(5, 8))
    assert ((gate_nd > 0) & (gate_nd < 1)).all()


def test_gradient_reaches_every_parameter_and_the_ids_but_not_the_content():
    adapter, (x, ids) = build(ConstantGate), content_and_ids(20, 8)
    x.requires_grad_()
    ids.requires_grad_()
    adapter(x, ids, rng=stream(0, "noise")).square().sum().backward()
    assert all(tensor.grad.any() for tensor in [ids, *adapter.parameters()])
    assert x.grad is None

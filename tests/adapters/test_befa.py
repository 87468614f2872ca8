"""BeFA computes what the published network and the paper's equations say."""

import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

import befa.adapters
from befa.adapters import ADAPTERS
from befa.adapters.befa import BeFA
from befa.rng import stream

GOLDEN = Path(__file__).parent.parent / "golden/befa_released.npz"


def build(host_width, **settings):
    return BeFA(BeFA.Config(**settings), host_width, rng=stream(0, "adapter"))


def content_and_ids(n, width):
    rng = stream(0, "inputs")
    return torch.randn(n, width, generator=rng), torch.randn(n, width, generator=rng)


def test_the_released_variant_is_the_published_network():
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}  # see golden/README.md
    adapter = build(golden["x"].shape[1], width=golden["w1"].shape[0] / golden["x"].shape[1])
    layers = {"decouple": "1", "filter": "2", "recombine": "3"}
    state = {f"{layer}.weight": golden[f"w{n}"] for layer, n in layers.items()}
    state |= {f"{layer}.bias": golden[f"b{n}"] for layer, n in layers.items()}
    adapter.load_state_dict(state)
    adapter.eval()
    out = adapter(golden["x"], golden["id"], rng=stream(0, "noise"))
    torch.testing.assert_close(out, golden["y"], rtol=1e-6, atol=1e-6)


def test_one_id_is_not_taken_for_every_items():
    content, ids = content_and_ids(5, 8)
    forward = inspect.unwrap(BeFA.forward)  # as users have it, without the tests' check of types
    with pytest.raises(ValueError, match=r"content of shape \(5, 8\) and ids of \(1, 8\)"):
        forward(build(8), content, ids[:1], rng=stream(0, "noise"))


@pytest.mark.parametrize("width", [0.5, 1.0, 4.0])
def test_the_paper_variant_is_equations_8_to_10(width):
    adapter = build(6, variant="paper", width=width, dropout=0.0)
    p = {name: value.detach().numpy().astype(np.float64) for name, value in adapter.named_parameters()}
    x, ids = content_and_ids(5, 6)
    for row, id_row, out in zip(x.numpy(), ids.numpy(), adapter(x, ids, rng=stream(0, "noise")), strict=True):
        inner_id = p["id_to_inner.weight"] @ id_row if width != 1.0 else id_row
        decoupled = np.maximum(p["decouple.weight"] @ row + p["decouple.bias"], 0)
        kept = inner_id * np.tanh(p["filter.weight"] @ decoupled + p["filter.bias"])
        gate = 1 / (1 + np.exp(-(p["recombine.weight"] @ np.maximum(kept, 0) + p["recombine.bias"])))
        np.testing.assert_allclose(out.detach().numpy(), id_row * gate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "inner"), [(0.001, 1), (0.125, 8), (8, 512)])
def test_lambda_is_the_relative_width(width, inner):
    assert build(64, width=float(width)).decouple.weight.shape == (inner, 64)


@pytest.mark.parametrize("variant", ["released", "paper"])
class TestBothVariants:
    def test_dropout_acts_in_training_only_and_draws_from_its_argument(self, variant):
        adapter = build(8, variant=variant, dropout=0.5)
        x, ids = content_and_ids(20, 8)
        first, again, other = (adapter(x, ids, rng=stream(seed, "noise")) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        adapter.eval()
        assert torch.equal(adapter(x, ids, rng=stream(1, "noise")), adapter(x, ids, rng=stream(2, "noise")))

    def test_gradient_reaches_every_parameter_and_the_ids(self, variant):
        adapter, (x, ids) = build(8, variant=variant), content_and_ids(20, 8)
        ids.requires_grad_()
        adapter(x, ids, rng=stream(0, "noise")).square().sum().backward()
        assert all(tensor.grad.any() for tensor in [ids, *adapter.parameters()])

    def test_rows_do_not_mix(self, variant):
        adapter, (x, ids) = build(8, variant=variant).eval(), content_and_ids(20, 8)
        together = adapter(x, ids, rng=stream(0, "noise"))
        alone = adapter(x[3:4], ids[3:4], rng=stream(0, "noise"))
        torch.testing.assert_close(together[3:4], alone)


def test_no_adapter_hands_the_content_on():
    x, ids = content_and_ids(4, 8)
    identity = ADAPTERS["none"](ADAPTERS["none"].Config(), 8, rng=stream(0, "adapter"))
    assert identity(x, ids, rng=stream(0, "noise")) is x
    assert not list(identity.parameters())


def test_no_adapter_is_left_out():
    files = {module.name for module in pkgutil.iter_modules(befa.adapters.__path__)} - {"base"}
    registered = {inspect.getmodule(kind).__name__.rpartition(".")[2] for kind in ADAPTERS.values()}
    assert files == registered


@pytest.mark.parametrize(("width", "inner"), [(0.7, 45), (0.001, 1)])
def test_the_inner_width_is_rounded(width, inner):
    assert BeFA(BeFA.Config(width=width), 64, rng=stream(0, "adapter")).decouple.out_features == inner


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_both_hidden_layers_are_dropped_out(variant, monkeypatch):
    from befa.adapters import befa as module

    rates, real = [], module.relu_dropout
    monkeypatch.setattr(module, "relu_dropout", lambda x, p, **named: (rates.append(p), real(x, p, **named))[1])
    adapter = BeFA(BeFA.Config(variant=variant, dropout=0.3), 8, rng=stream(0, "adapter"))
    adapter(torch.ones(5, 8), torch.ones(5, 8), rng=stream(0, "noise"))
    assert rates == [0.3, 0.3]


def test_the_gate_of_the_paper_variant_hands_the_ids_its_gradient():
    adapter = BeFA(BeFA.Config(variant="paper", dropout=0.0), 8, rng=stream(0, "adapter")).double()
    x, ids = torch.randn(2, 5, 8, generator=stream(1, "input"), dtype=torch.float64)
    ids.requires_grad_()
    gate = adapter(x, ids, rng=stream(0, "noise")) / ids
    (grad,) = torch.autograd.grad(gate.sum(), ids)
    assert grad.abs().amax(1).gt(1e-4).all()

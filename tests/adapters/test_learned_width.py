"""LearnedWidth is BeFA with units that open and close, and the loss decides how many."""

import pytest
import torch
from safetensors.torch import load, save

from befa import config
from befa.adapters import ADAPTERS
from befa.adapters.befa import BeFA
from befa.adapters.learned_width import LearnedWidth, LearnedWidthConfig
from befa.errors import ConfigError
from befa.rng import stream
from tests.adapters.test_befa import content_and_ids

WIDTH = 8


def build(seed=0, width=WIDTH, **settings):
    return LearnedWidth(LearnedWidth.Config(**settings), width, rng=stream(seed, "adapter"))


def set_place(adapter, units):
    """Closes the units from `units` on."""
    with torch.no_grad():
        adapter.theta.copy_(torch.logit(torch.tensor(units / adapter.filter.in_features)))


@pytest.mark.parametrize("training", [True, False])
def test_wide_open_it_is_the_published_network(training):
    adapter = build(widest=4.0, softness=1e-4).train(training)
    befa = BeFA(BeFA.Config(width=4.0), WIDTH, rng=stream(0, "other")).train(training)
    befa.load_state_dict({name: value for name, value in adapter.state_dict().items() if name != "theta"})
    set_place(adapter, adapter.filter.in_features)
    x, ids = content_and_ids(20, WIDTH)
    open_nd, befa_nd = (module(x, ids, rng=stream(0, "noise")) for module in (adapter, befa))
    assert torch.equal(open_nd, befa_nd)
    set_place(adapter, 10)
    assert not torch.allclose(adapter(x, ids, rng=stream(0, "noise")), befa_nd)


def test_with_closed_units_it_is_the_published_network_of_that_width():
    adapter, kept = build(widest=4.0, softness=1e-4).eval(), 12
    set_place(adapter, kept)
    befa = BeFA(BeFA.Config(width=kept / WIDTH), WIDTH, rng=stream(0, "other")).eval()
    state = adapter.state_dict()
    befa.load_state_dict(
        {
            "decouple.weight": state["decouple.weight"][:kept],
            "decouple.bias": state["decouple.bias"][:kept],
            "filter.weight": state["filter.weight"][:kept, :kept],
            "filter.bias": state["filter.bias"][:kept],
            "recombine.weight": state["recombine.weight"][:, :kept],
            "recombine.bias": state["recombine.bias"],
        }
    )
    x, ids = content_and_ids(20, WIDTH)
    torch.testing.assert_close(*(module(x, ids, rng=stream(0, "noise")) for module in (adapter, befa)))
    assert adapter.learned_lambda == pytest.approx(kept / WIDTH)


def test_a_closed_unit_has_no_effect_and_an_open_one_has():
    x, ids = content_and_ids(20, WIDTH)
    for unit, matters in ((20, False), (5, True)):
        adapter = build(widest=4.0, softness=1e-4).eval()
        set_place(adapter, 12)
        before = adapter(x, ids, rng=stream(0, "noise"))
        with torch.no_grad():
            for layer in (adapter.decouple, adapter.filter):
                layer.weight[unit] += 3
                layer.bias[unit] += 3
            adapter.filter.weight[:, unit] -= 3
            adapter.recombine.weight[:, unit] -= 3
        assert torch.equal(adapter(x, ids, rng=stream(0, "noise")), before) is not matters


@pytest.mark.parametrize("rewarded", [True, False])
def test_lambda_goes_where_the_loss_wants_it(rewarded):
    """Every unit adds as much to the output as it is open; the loss wants the output large, or small."""
    adapter = build(widest=4.0, start=2.0, softness=0.25, dropout=0.0)
    with torch.no_grad():
        for layer in (adapter.decouple, adapter.filter, adapter.recombine):
            layer.weight.zero_()
            layer.bias.zero_()
        adapter.decouple.bias.fill_(1)
        adapter.filter.weight.fill_diagonal_(1)
        adapter.recombine.weight.fill_(0.1)
    x, ids = content_and_ids(20, WIDTH)
    start, found = adapter.learned_lambda, []
    optimizer = torch.optim.Adam([adapter.theta], lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        output = adapter(x, ids.abs(), rng=stream(0, "noise")).mean()
        (-output if rewarded else output).backward()
        optimizer.step()
        found.append(adapter.learned_lambda)
    assert start == pytest.approx(2.0, abs=0.05)
    assert sorted(found, reverse=not rewarded) == found
    assert abs(found[-1] - start) > 1
    assert 0 < found[-1] < 4.0


def test_lambda_starts_where_it_is_told_and_stays_within_its_bounds():
    for start in (0.5, 1.0, 4.0, 7.0):
        assert build(width=64, start=start).learned_lambda == pytest.approx(start, abs=0.07)
    adapter = build(width=64)
    for theta in (-50.0, -2.0, 0.0, 2.0, 50.0):
        with torch.no_grad():
            adapter.theta.fill_(theta)
        assert 0 < adapter.learned_lambda <= 8.0


def test_gradient_reaches_every_parameter_and_the_ids():
    adapter, (x, ids) = build(), content_and_ids(20, WIDTH)
    ids.requires_grad_()
    adapter(x, ids, rng=stream(0, "noise")).square().sum().backward()
    assert all(tensor.grad.any() for tensor in [ids, *adapter.parameters()])
    assert adapter.theta.grad.isfinite()


def test_dropout_acts_in_training_only_and_draws_from_its_argument():
    adapter = build(dropout=0.5)
    x, ids = content_and_ids(20, WIDTH)
    first, again, other = (adapter(x, ids, rng=stream(seed, "noise")) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    adapter.eval()
    assert torch.equal(adapter(x, ids, rng=stream(1, "noise")), adapter(x, ids, rng=stream(2, "noise")))


def test_the_seed_decides_the_start():
    one, same, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["filter.weight"], other["filter.weight"])


def test_what_was_learned_survives_a_checkpoint():
    adapter, fresh = build(), build(seed=1, start=1.0)
    set_place(adapter, 23)
    fresh.load_state_dict(load(save(adapter.state_dict())))
    assert "theta" in dict(adapter.named_parameters())
    assert fresh.learned_lambda == adapter.learned_lambda
    x, ids = content_and_ids(5, WIDTH)
    outputs = [module.eval()(x, ids, rng=stream(0, "noise")) for module in (adapter, fresh)]
    assert torch.equal(*outputs)


def test_a_start_beyond_the_widest_is_an_error():
    params = {"adapters": {"learned_width": {"widest": 2.0, "start": 4.0}}}
    with pytest.raises(ConfigError, match=r"'adapters\.learned_width.*start is 4\.0, more than widest, 2\.0"):
        config.load(params, "adapters.learned_width", LearnedWidthConfig)
    assert build(width=64, widest=2.0, start=2.0).learned_lambda == pytest.approx(1.95, abs=0.05)


@pytest.mark.parametrize(("widest", "inner"), [(0.7, 45), (0.001, 1)])
def test_the_widest_is_rounded(widest, inner):
    kind = ADAPTERS["learned_width"]
    adapter = kind(kind.Config(widest=widest, start=widest), 64, rng=stream(0, "adapter"))
    assert adapter.filter.in_features == inner


def test_a_start_at_the_widest_can_be_left():
    kind = ADAPTERS["learned_width"]
    adapter = kind(kind.Config(widest=8.0, start=8.0), 8, rng=stream(0, "adapter"))
    adapter.open_j.sum().backward()
    assert adapter.theta.isfinite()
    assert adapter.theta.grad != 0

"""LoRA adds a low-rank map that is nothing at the start, and whose two factors learn."""

import numpy as np
import pytest
import torch

from befa.adapters.lora import LoRA
from befa.rng import stream
from tests.adapters.test_befa import content_and_ids


def build(width=8, **settings):
    return LoRA(LoRA.Config(**settings), width, rng=stream(0, "adapter"))


def adapted(adapter, x, ids):
    return adapter(x, ids, rng=stream(0, "noise"))


def test_training_begins_at_the_base_model():
    x, ids = content_and_ids(5, 8)
    assert torch.equal(adapted(build(), x, ids), x)


def test_it_is_equation_3():
    adapter, (x, ids) = build(rank=3, alpha=6.0), content_and_ids(5, 8)
    torch.nn.init.normal_(adapter.up_dr, generator=stream(0, "up"))
    a, b = (adapter.state_dict()[name].numpy().astype(np.float64) for name in ("down_rd", "up_dr"))
    for row, out in zip(x.numpy(), adapted(adapter, x, ids).detach().numpy(), strict=True):
        np.testing.assert_allclose(out, row + 2 * b @ (a @ row), rtol=1e-5, atol=1e-5)


def test_the_map_has_the_rank_it_says():
    adapter = build(rank=3)
    torch.nn.init.normal_(adapter.up_dr, generator=stream(0, "up"))
    change_nd = adapted(adapter, torch.eye(8), torch.ones(8, 8)) - torch.eye(8)
    assert torch.linalg.matrix_rank(change_nd) == 3


def test_the_second_factor_learns_at_once_and_the_first_after_one_step():
    adapter, (x, ids) = build(), content_and_ids(20, 8)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    reached = []
    for _ in range(2):
        optimizer.zero_grad()
        (adapted(adapter, x, ids) - ids).square().sum().backward()
        reached.append({name for name, value in adapter.named_parameters() if value.grad.any()})
        optimizer.step()
    assert reached == [{"up_dr"}, {"up_dr", "down_rd"}]


@pytest.mark.parametrize("width", [8, 64])
def test_the_first_factor_keeps_the_scale_of_the_content(width):
    x, _ = content_and_ids(500, width)
    down = x @ build(width, rank=200).down_rd.T
    assert down.std().item() == pytest.approx(x.std().item(), rel=0.1)


def test_gradient_passes_to_the_content_from_the_start():
    x, ids = content_and_ids(5, 8)
    x.requires_grad_()
    adapted(build(), x, ids).square().sum().backward()
    assert x.grad.any(1).all()

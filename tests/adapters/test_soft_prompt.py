"""SoftPrompt adds one vector to all items: as this project reads it, a second bias."""

import torch

from befa.adapters.soft_prompt import SoftPrompt
from befa.content import ContentTower
from befa.problem import Content
from befa.rng import stream
from tests.adapters.test_befa import content_and_ids


def build(width=8):
    return SoftPrompt(SoftPrompt.Config(), width, rng=stream(0, "adapter"))


def test_training_begins_at_the_base_model():
    x, ids = content_and_ids(5, 8)
    assert torch.equal(build()(x, ids, rng=stream(0, "noise")), x)


def test_every_item_gets_the_same_vector():
    adapter, (x, ids) = build(), content_and_ids(5, 8)
    adapter.load_state_dict({"prompt_d": torch.arange(8.0)})
    torch.testing.assert_close(adapter(x, ids, rng=stream(0, "noise")) - x, torch.arange(8.0).expand(5, 8))


def test_it_is_a_second_bias_as_its_docstring_says():
    values_Ic, ids = content_and_ids(6, 8)
    present_I = torch.tensor([True, True, False, True, True, True])
    tower = ContentTower(Content(values_Ic, present_I), build(), 8, trainable=True, rng=stream(0, "init"))
    rows = torch.tensor([0, 2, 2, 5, 1])
    h_nd, _ = tower(rows, ids, rng=stream(0, "noise"))
    h_nd.square().sum().backward()
    assert tower.adapter.prompt_d.grad.any()
    assert torch.equal(tower.adapter.prompt_d.grad, tower.project.bias.grad)

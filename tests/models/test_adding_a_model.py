"""The example of docs/adding-a-model.md is a model."""

import re
from pathlib import Path

import torch

from befa.rng import stream
from tests.models import naive

PAGE = Path(__file__).parents[2] / "docs/adding-a-model.md"


def test_the_documented_model_trains():
    example = {"__name__": "example"}
    exec(re.search(r"```python\n(\"\"\".*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1], example)
    problem = naive.small_problem()
    model = naive.build(example["ContentMF"], problem, "befa", width=naive.WIDTH)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.05), []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(model.loss(naive.BATCH, rng=stream(0, "noise")))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    users_Ud, items_Id = model.user_item_vectors()
    assert (users_Ud.shape, items_Id.shape) == ((naive.N_USERS, naive.WIDTH), (naive.N_ITEMS, naive.WIDTH))

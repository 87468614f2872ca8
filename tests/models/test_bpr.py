"""BPR computes its formula."""

import math

import pytest

from befa.models.bpr import BPR
from befa.rng import stream
from tests.models import naive


def test_loss_and_scores_are_the_formulas():
    problem = naive.small_problem()
    model = naive.build(BPR, problem, width=naive.WIDTH, reg_weight=0.3)
    p = naive.arrays(model)
    triples = list(naive.rows(p["users"], p["items"]))
    norms = sum(math.sqrt(sum(x @ x for x in column)) for column in zip(*triples, strict=True))
    wanted = naive.bpr(p["users"], p["items"]) + 0.3 * norms / len(triples)
    assert model.loss(naive.BATCH, rng=stream(0, "noise")).item() == pytest.approx(wanted, rel=1e-5)
    users_Ud, items_Id = model.user_item_vectors()
    for u in range(naive.N_USERS):
        for i in range(naive.N_ITEMS):
            assert (users_Ud[u] @ items_Id[i]).item() == pytest.approx(p["users"][u] @ p["items"][i], abs=1e-5)

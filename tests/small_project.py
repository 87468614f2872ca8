"""A project of 20 users and 16 items whose features were made elsewhere: everything that `train` needs, and no more."""

import numpy as np
import pyarrow as pa
from ruamel.yaml import YAML

from befa import feature_store, splits, tables
from befa.paths import Layout
from tests.test_training import N_ITEMS, N_USERS, small_problem

USERS = [f"user{number:02}" for number in range(N_USERS)]
ITEMS = [f"item{number:02}" for number in range(N_ITEMS)]
NAMES = ("small", "made", "bm3", "befa")
"""Dataset, encoder, model and adapter of its cell."""


def small_project(root, *, seeds=(1,), epochs=4, patience=50, network=None, model="bm3", adapter="befa"):
    """Writes the project below `root`; a user's first held-out item is for validation, the rest for the test."""
    layout = Layout(root)
    problem, held = small_problem()
    parts = [("train", problem.users_E.numpy(), problem.items_E.numpy())]
    first = held.offsets[:-1][held.counts > 0]
    users = np.repeat(np.arange(N_USERS), held.counts)
    rest = np.setdiff1d(np.arange(len(users)), first)
    parts += [(name, users[rows], held.items_E[rows]) for name, rows in (("valid", first), ("test", rest))]
    split = {
        "user_index": pa.array(np.concatenate([part[1] for part in parts]), pa.int32()),
        "item_index": pa.array(np.concatenate([part[2] for part in parts]), pa.int32()),
        "split": [name for name, users, _ in parts for _ in users],
    }
    splits.write(layout.split("small"), pa.table(split), pa.chunked_array([USERS]), pa.chunked_array([ITEMS]))
    numbered = {"user_index": pa.array(range(N_USERS), pa.int32()), "user": USERS}
    tables.write_table(layout.filtered("small") / "users.parquet", pa.table(numbered))
    texts = [f"title of {item}" if number else None for number, item in enumerate(ITEMS)]
    items = {"item_index": pa.array(range(N_ITEMS), pa.int32()), "item": ITEMS, "text": pa.array(texts)}
    tables.write_table(layout.filtered("small") / "items.parquet", pa.table(items))
    pictures = {"item": ITEMS, "image": [f"raw/small/{item}.jpg" if item != ITEMS[1] else None for item in ITEMS]}
    tables.write_table(layout.media("small") / "pictures/references.parquet", pa.table(pictures))
    feature_store.write_given(
        layout.vectors("small", "audio"),
        pa.chunked_array([ITEMS]),
        ITEMS,
        problem.contents["image"].values_Ic.numpy(),
        dataset="small",
        modality="audio",
    )
    training = {"seeds": list(seeds), "epochs": epochs, "batch_size": 32, "patience": patience}
    params = {
        "protocol": "clean",
        "datasets": {"small": {}},
        "encoders": {"made": {}},
        "features": {"small": {"modalities": ["audio"]}},
        "training": {"small": training},
        "models": {model: {"network": {"width": 8} if network is None else network, "optimizer": {}}},
        "adapters": {adapter: {}},
    }
    with layout.params.open("w") as file:
        YAML(typ="safe").dump(params, file)
    return layout

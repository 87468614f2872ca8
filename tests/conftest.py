"""Shared material: a tiny generated catalogue, and a CLIP of a few steps trained on it."""

import gc
import os

# On tensors as small as these, threads only wait for each other: ten times as slow on a busy machine. Set before torch
# is loaded, and inherited by the stages that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray gives its workers the last place (15) in the queue for the CPUs: beside another test process they stood still for
# minutes, and a test's time ran out.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name

import befa  # noqa: F401 - before torch, which it holds to one order of summation

# Where somebody's own data lie is not where tests look for theirs.
for name in [name for name in os.environ if name.startswith("BEFA_MIRROR_")]:
    del os.environ[name]

# What befa imports at length, loaded before it: inside a module that jaxtyping instruments its import hook has every
# import compiled from source, which took a third of each worker's start.
import open_clip  # noqa: F401
import polars  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import statsmodels.stats.multitest  # noqa: F401
import torch
import torchvision  # noqa: F401
from hypothesis import settings

from befa.sources import demo

# Stages that tests start compute on the CPU, whatever the machine has; a GPU is this process's alone (test_cuda.py).
if torch.cuda.is_available():
    torch.cuda.init()
os.environ["CUDA_VISIBLE_DEVICES"] = ""

settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _nothing_stays_frozen():
    """A command freezes what it loads (`pipelines.commands.loading`), for its process's life; here others follow.

    Holm's correction, which freezes by itself where nothing is frozen, then took ten times as long in them.
    """
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory):
    """Raw folder of the tiny demo catalogue. Not to be written to."""
    raw = tmp_path_factory.mktemp("catalogue")
    demo.fetch(demo.DemoConfig(size="tiny", seed=1), raw)
    return raw


@pytest.fixture(scope="session")
def clip_config():
    """A CLIP of the project's own, as small as it goes."""
    from befa.encoders.clip_config import Architecture, ContrastiveConfig, OpenClipConfig, TextTower, VisionTower

    return OpenClipConfig(
        architecture=Architecture(
            embed_dim=16,
            vision=VisionTower(image_size=32, patch_size=16, width=32, layers=1, heads=2),
            text=TextTower(context_length=24, width=32, layers=1, heads=2),
        ),
        weights="trained",
        batch_size=8,
        training=ContrastiveConfig(epochs=2, batch_size=16, learning_rate=0.003),
    )


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, catalogue, clip_config):
    """Folder of that CLIP, trained on the tiny catalogue. Not to be written to."""
    from befa.encoders.contrastive import train_clip
    from befa.images import ImageFiles
    from pipelines.encoding import picture

    items = [item for batch in demo.items(catalogue, None) for item in batch.to_pylist()]
    folder = tmp_path_factory.mktemp("encoder") / "clip"
    pictures = [picture(ImageFiles(catalogue), item["image"]) for item in items]
    train_clip(pictures, [item["text"] for item in items], clip_config, folder)
    return folder

"""Named streams: equal by seed and name, independent otherwise, and torch's global generator is left alone."""

import numpy as np
import pytest
import torch

from befa.rng import global_seed, numpy_stream, stream


def test_a_stream_is_its_seed_and_names():
    draw = lambda *name: torch.rand(4, generator=stream(*name)).tolist()  # noqa: E731
    assert draw(1, "init") == draw(1, "init")
    assert len({tuple(draw(*name)) for name in [(1, "init"), (2, "init"), (1, "noise"), (1, "init", "image")]}) == 4
    assert numpy_stream(1, "split").random() == numpy_stream(1, "split").random() != numpy_stream(2, "split").random()


def test_a_seed_is_the_number_whatever_its_type():
    """NumPy writes its own integers otherwise, and they were other seeds."""
    wanted = numpy_stream(3, "init").random()
    assert all(numpy_stream(seed, "init").random() == wanted for seed in (np.int64(3), np.uint8(3), torch.tensor(3)))
    for seed in (3.0, "3", None):
        with pytest.raises(TypeError):
            stream(seed, "init")


def test_the_global_generator_is_seeded_inside_and_restored_after():
    before = torch.get_rng_state()
    with global_seed(1, "clip"):
        first = torch.rand(3)
    with global_seed(1, "clip"):
        assert torch.equal(torch.rand(3), first)
    stream(3, "x")
    assert torch.equal(torch.get_rng_state(), before)

"""Vectors of a few pictures and texts that a library's upgrade must not move: decoding, resizing, tokens, towers.

The network is the demo's architecture with weights written as a formula, so that nothing but the code decides. After a
change that is meant: `python -m tests.golden.test_golden_encoder` writes encoder.npz anew, and the commit says why.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from befa import config
from befa.encoders import clip_model
from befa.encoders.clip_config import OpenClipConfig
from befa.encoders.open_clip import OpenClipEncoder
from befa.images import decode

GOLDEN = Path(__file__).parent / "encoder.npz"
ROOT = Path(__file__).parents[2]

TEXTS = [
    "Nordal dotted rain umbrella in teal",
    "秋装 新款 打底衫",
    "mug ☕ with an emoji 🐈",
    "word " * 100,  # cut at the context's end
]


def encoder():
    """The demo's encoder, each weight sin(n + 1) of its place n, scaled as an initialisation would be."""
    params = config.read_params(ROOT / "params.yaml")
    cfg = config.load(params, "encoders.clip_small", OpenClipConfig)
    description = cfg.architecture.model_config()
    model = clip_model.build(description)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                values = np.sin(np.arange(1, weight.numel() + 1)) / np.sqrt(weight.shape[-1])
                weight.copy_(torch.from_numpy(values.reshape(weight.shape)))
            elif not name.endswith("logit_scale"):
                weight.fill_(1.0 if name.endswith("weight") else 0.01)
    preprocessing = clip_model.preprocess_config(clip_model.default_preprocessing(), model)
    return OpenClipEncoder(model, description, preprocessing)


def pictures():
    """Pictures of several sizes and modes, as PNG: its bytes decode alike everywhere."""
    rows, columns = np.mgrid[0:90, 0:70]
    rgb = np.stack([rows * 2, columns * 3, (rows * columns) % 256], 2).astype(np.uint8)
    alpha = np.dstack([rgb, (rows + columns).astype(np.uint8)])
    made = [
        Image.fromarray(rgb),
        Image.fromarray(alpha, "RGBA"),
        Image.fromarray(rgb[:40, :, 0]),
        Image.fromarray(rgb[:, :33]),
    ]
    for picture in made:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        yield decode(buffer.getvalue())


def vectors():
    network = encoder()
    pixels = torch.stack([network.preprocess(picture) for picture in pictures()])
    tokens, n_tokens, truncated = network.tokenize(TEXTS)
    return {
        "image": network.encode_images(pixels).numpy(),
        "text": network.encode_texts(tokens).numpy(),
        "n_tokens": n_tokens.numpy(),
        "truncated": truncated.numpy(),
    }


def test_no_upgrade_moves_a_vector():
    found, golden = vectors(), np.load(GOLDEN)
    assert set(golden.files) == set(found)
    for name in ("n_tokens", "truncated"):
        np.testing.assert_array_equal(found[name], golden[name])
    for name in ("image", "text"):
        # Room for another CPU's rounding, a hundred times float32's; none for another algorithm.
        np.testing.assert_allclose(found[name], golden[name], atol=2e-5 * np.abs(golden[name]).max(), rtol=0)


def test_the_vectors_tell_the_fixtures_apart():
    golden = np.load(GOLDEN)
    for name in ("image", "text"):
        unit = golden[name] / np.linalg.norm(golden[name], axis=1, keepdims=True)
        assert (unit @ unit.T - np.eye(len(unit))).max() < 0.9999


if __name__ == "__main__":
    np.savez(GOLDEN, **vectors())

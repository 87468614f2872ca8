"""Training a small CLIP: it learns, the same run gives the same bytes, and odd pairs do not stop it."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from befa.encoders import contrastive
from befa.encoders.clip_config import Architecture, ContrastiveConfig, OpenClipConfig, TextTower, VisionTower
from befa.encoders.contrastive import crop, info_nce, train_clip
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import EncoderError, TrainingError
from befa.rng import stream

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (30, 60, 220), "white": (250, 250, 250)}


def pairs(n, seed):
    """Plain squares of four colours with a little noise, titled by colour."""
    rng = np.random.default_rng(seed)
    names = [list(COLOURS)[place % 4] for place in range(n)]
    noise = rng.integers(-25, 25, (n, 32, 32, 3))
    pictures = [(np.array(COLOURS[name]) + noise[k]).clip(0, 255).astype(np.uint8) for k, name in enumerate(names)]
    return pictures, [f"a {name} square" for name in names]


def config(**training):
    return OpenClipConfig(
        architecture=Architecture(
            embed_dim=16,
            vision=VisionTower(image_size=32, patch_size=16, width=32, layers=1, heads=2),
            text=TextTower(context_length=8, width=32, layers=1, heads=2),
        ),
        weights="trained",
        training=ContrastiveConfig(**{"epochs": 12, "batch_size": 16, "learning_rate": 0.005, **training}),
    )


def test_it_learns_what_pictures_and_titles_share(tmp_path):
    seen = []
    result = train_clip(*pairs(64, 0), config(), tmp_path / "clip", progress=lambda *step: seen.append(step))
    assert seen == [(done, 48) for done in range(1, 49)]
    assert len(result["loss"]) == 12
    assert result["loss"][-1] < result["loss"][0] - 0.5
    assert result["pairs"] == 64
    assert result["picture_to_title_recall_at_1"] > 0.9  # of 64 pairs, a quarter share each title
    encoder = OpenClipEncoder.load(tmp_path / "clip", config())
    pictures, titles = pairs(20, 99)
    images = encoder.encode_images(torch.stack([encoder.preprocess(Image.fromarray(picture)) for picture in pictures]))
    texts = encoder.encode_texts(encoder.tokenize(titles)[0])
    nearest = (torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T).argmax(1)
    assert np.mean([titles[place] == title for place, title in zip(nearest, titles, strict=True)]) > 0.9


def test_pictures_may_come_one_by_one_and_recall_is_counted_in_blocks(tmp_path, monkeypatch):
    whole = train_clip(*pairs(20, 0), config(epochs=2), tmp_path / "whole")
    monkeypatch.setattr(contrastive, "ROWS_AT_ONCE", 3)
    pictures, titles = pairs(20, 0)
    assert train_clip(iter([None, *pictures]), iter(["a", *titles]), config(epochs=2), tmp_path / "b") == {
        **whole,
        "left_out": 1,
    }


def test_the_same_seed_gives_the_same_bytes_and_the_global_generator_is_left_alone(tmp_path):
    state = torch.get_rng_state()
    results = [
        train_clip(*pairs(20, 0), config(epochs=2, seed=seed), tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(state, torch.get_rng_state())
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert results[0] == results[1]
    assert set(a) == {"open_clip_config.json", "open_clip_model.safetensors"}
    assert a["open_clip_model.safetensors"] != c["open_clip_model.safetensors"]


def test_only_whole_pairs_are_used_and_an_old_folder_is_replaced(tmp_path):
    pictures, titles = pairs(18, 0)
    pictures[0], titles[1], titles[2] = None, None, ""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/old").touch()
    result = train_clip(pictures, titles, config(epochs=1), tmp_path / "clip")
    assert (result["pairs"], result["left_out"]) == (15, 3)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    # 17 pairs in batches of 16: the last has one pair and nothing to tell it from.
    assert math.isfinite(train_clip(*pairs(17, 0), config(epochs=1), tmp_path / "clip")["loss"][0])


def test_what_cannot_be_trained_is_an_error_and_leaves_nothing(tmp_path):
    pictures, titles = pairs(8, 0)
    with pytest.raises(EncoderError, match="1 items have both a picture and a title"):
        train_clip([pictures[0], None], titles[:2], config(), tmp_path / "clip")
    named = OpenClipConfig(architecture="ViT-B-32-quickgelu", weights="openai")
    with pytest.raises(EncoderError, match="nothing to train"):
        train_clip(pictures, titles, named, tmp_path / "clip")
    with pytest.raises(TrainingError, match=r"loss is nan in epoch \d+ in contrastive training; lower"):
        train_clip(pictures, titles, config(learning_rate=1e30), tmp_path / "clip")
    assert list(tmp_path.iterdir()) == []


def test_info_nce_is_the_mean_of_both_cross_entropies():
    image, text = torch.randn(5, 3, generator=stream(1, "i")), torch.randn(5, 3, generator=stream(1, "t"))
    cosine = (image / image.norm(dim=1, keepdim=True)) @ (text / text.norm(dim=1, keepdim=True)).T
    logits = cosine.double() * 10
    rows = -(logits.diag() - logits.exp().sum(1).log()).mean()
    columns = -(logits.diag() - logits.exp().sum(0).log()).mean()
    loss = info_nce(image, text, torch.tensor(math.log(10.0)))
    assert float(loss) == pytest.approx(float(rows + columns) / 2, rel=1e-5)


def test_crops_stay_inside_the_picture():
    ramp = torch.linspace(0, 1, 16).expand(3, 16, 16)
    batch = ramp.expand(40, 3, 16, 16)
    assert torch.allclose(crop(batch, 1.0, flip=False, rng=stream(1)), batch, atol=1e-6)
    cut = crop(batch, 0.5, flip=True, rng=stream(1))
    slope = cut[:, 0, 8, 12] - cut[:, 0, 8, 4]
    whole = ramp[0, 8, 12] - ramp[0, 8, 4]
    assert ((slope.abs() >= 0.49 * whole) & (slope.abs() <= 1.01 * whole)).all()
    assert 5 < (slope < 0).sum() < 35  # some are mirrored
    assert cut.min() >= 0
    assert cut.max() <= 1


def test_the_training_block_is_checked():
    with pytest.raises(ValueError, match="greater than 0"):
        ContrastiveConfig(crop=0.0)

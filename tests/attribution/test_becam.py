"""Heatmaps: equation 2 as a loop, both kinds of towers, and a score whose place in the picture is known."""

import numpy as np
import pytest
import torch
from torch import nn

from befa.attribution.activations import activations, maps, upsampled
from befa.attribution.becam import SCORE_CAM, BeCAMConfig, becam, behaviour, grad_cam, masked
from befa.attribution.heatmap import RESOLUTION, Heatmap
from befa.encoders import clip_model
from befa.errors import EncoderError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


def heatmap(model, pixels, score, config=None, **baseline):
    config = config or BeCAMConfig()
    return becam(masked(model, pixels, config.masks, config.batch_size), score, config, **baseline)


@pytest.fixture(scope="module", params=[VIT, RESNET], ids=["vit", "resnet"])
def model(request):
    made = clip_model.build({"embed_dim": 16, "vision_cfg": request.param, "text_cfg": TEXT})
    return made.eval().requires_grad_(False)


@pytest.fixture
def pixels(model):
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def score():
    generator = torch.Generator().manual_seed(2)
    project, ids = torch.randn(16, 8, generator=generator), torch.randn(8, generator=generator)
    return behaviour(lambda vectors: torch.relu(vectors @ project), ids)


def test_maps_are_the_layers_before_the_vector(model, pixels):
    found, vectors = maps(model, torch.stack([pixels, -pixels]))
    assert found.shape == ((2, 32, 4, 4) if hasattr(model.visual, "transformer") else (2, 256, 2, 2))
    torch.testing.assert_close(vectors, model.encode_image(torch.stack([pixels, -pixels])))
    assert not torch.allclose(found[0], found[1])
    if hasattr(model.visual, "layer4"):
        assert found.min() >= 0  # behind the last ReLU


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        BeCAMConfig(),
        BeCAMConfig(batch_size=5),
        BeCAMConfig(masks="raw", rectify=False),
        BeCAMConfig(weights="relu"),
        SCORE_CAM,
    ],
)
def test_becam_is_equation_2_channel_by_channel(model, pixels, score, config, baseline):
    channels = maps(model, pixels[None])[0][0]
    weights = []
    for channel in channels:
        mask = channel
        if config.masks == "unit" and channel.max() > channel.min():
            mask = (channel - channel.min()) / (channel.max() - channel.min())
        elif config.masks == "unit":
            mask = torch.zeros_like(channel)
        seen = pixels * upsampled(mask[None], pixels.shape[1:])
        weight = score(model.encode_image(seen[None]))[0]
        weights.append(weight - score(model.encode_image(0 * pixels[None]))[0] if baseline else weight)
    weights = torch.stack(weights)
    weights = {"cosine": weights, "relu": weights.relu(), "softmax": weights.softmax(0)}[config.weights]
    expected = sum(weight * channel for weight, channel in zip(weights, channels, strict=True))
    expected = expected.relu() if config.rectify else expected
    found = heatmap(model, pixels, score, config, baseline=baseline)
    torch.testing.assert_close(found.heat_hw, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.weights_K, weights, rtol=1e-4, atol=1e-5)


def test_grad_cam_is_the_mean_gradient_of_each_channel(model, pixels, score):
    found = grad_cam(model, pixels, score).heat_hw
    channels = maps(model, pixels[None])[0][0]
    raw, vectors = activations(model, pixels[None].clone().requires_grad_())
    [gradient] = torch.autograd.grad(score(vectors).sum(), raw)
    if gradient.ndim == 3:  # tokens: without the class token, row by row
        gradient = gradient[:, 1:].transpose(1, 2).reshape(1, -1, *channels.shape[1:])
    expected = sum(gradient[0, k].mean() * channel for k, channel in enumerate(channels)).relu()
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class Spot(nn.Module):
    """A tower that sees the brightness of each quarter of a picture, one channel each."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Module()
        self.visual.layer4 = nn.AvgPool2d(2)

    def encode_image(self, pixels):
        quarters = self.visual.layer4(pixels[:, :1])  # one map of the picture itself
        return torch.cat([quarters.flatten(1), torch.ones(len(pixels), 1)], 1)


def test_the_heat_lies_where_the_score_comes_from():
    pixels = torch.zeros(3, 4, 4)
    pixels[:, :2, :2] = 1.0
    wanted = nn.functional.one_hot(torch.tensor(0), 5).float()
    score = behaviour(lambda vectors: vectors, wanted)
    for found in (heatmap(Spot(), pixels, score), grad_cam(Spot(), pixels, score)):
        heat = found.heat_hw
        assert found.with_heat
        assert heat.argmax() == 0
        assert heat[0, 0] > 0
        assert heat.flatten()[1:].max() == 0


def gated(openness, share=1.0):
    """The score of content that is the id times a gate, as behind BeFA; `share`: how far the gate heeds the picture."""
    generator = torch.Generator().manual_seed(2)
    project, ids = torch.randn(16, 8, generator=generator), torch.randn(8, generator=generator)
    return behaviour(lambda vectors: ids * torch.sigmoid(openness + share * (vectors @ project)), ids)


# Saturated gates still have gradients: tiny ones, and none that a score in float32 would show.
IGNORES, LOOKS = gated(9.0, 0.01), gated(0.0)


def test_tiny_gradients_behind_a_gate_that_ignores_the_picture_are_no_heat(model, pixels):
    ignored, seen = grad_cam(model, pixels, IGNORES), grad_cam(model, pixels, LOOKS)
    assert 0 < ignored.heat_hw.max() < RESOLUTION
    assert not ignored.with_heat
    assert seen.with_heat
    blank = model.encode_image(torch.zeros_like(pixels[None]))
    changes = [(score(model.encode_image(pixels[None])) - score(blank)).abs().item() for score in (IGNORES, LOOKS)]
    assert changes[0] < RESOLUTION < changes[1]


def test_scores_all_but_equal_weigh_alike(model, pixels):
    ignored, seen = heatmap(model, pixels, IGNORES), heatmap(model, pixels, LOOKS)
    assert ignored.weights_spread < RESOLUTION < 10 * RESOLUTION < seen.weights_spread
    alike = maps(model, pixels[None])[0][0].sum(0).relu()
    torch.testing.assert_close(ignored.heat_hw / ignored.weights_K.mean(), alike, rtol=1e-4, atol=1e-4)


def test_less_the_empty_pictures_score_nothing_is_left(model, pixels):
    # Both ways round: heat is of the score's growth alone.
    def both(score):
        return [
            heatmap(model, pixels, lambda vectors, sign=sign: sign * score(vectors), baseline=True) for sign in (1, -1)
        ]

    ignored, seen = both(IGNORES), both(LOOKS)
    assert not any(heatmap.with_heat for heatmap in ignored)
    assert any(heatmap.with_heat for heatmap in seen)


def test_weights_spread_is_the_deviation_over_the_mean_size():
    one = Heatmap(torch.zeros(2, 2), torch.tensor([1.0, 3.0, -2.0, 2.0]), 0.0)
    assert one.weights_spread == pytest.approx(np.std([1, 3, -2, 2]) / 2)
    assert not one.with_heat
    assert Heatmap(torch.zeros(2, 2), torch.zeros(3), 0.0).weights_spread == 0


def test_score_cams_softmax_cancels_its_baseline(model, pixels, score):
    without, with_it = (heatmap(model, pixels, score, SCORE_CAM, baseline=one) for one in (False, True))
    torch.testing.assert_close(without.heat_hw, with_it.heat_hw)


def test_negative_weights_are_a_share_of_the_channels():
    one = Heatmap(torch.zeros(2, 2), torch.tensor([1.0, 0.0, -2.0, 2.0]), 0.0)
    assert one.negative_weights == 0.25


def test_towers_without_such_a_layer_are_an_error():
    one = clip_model.build({"embed_dim": 16, "vision_cfg": {**VIT, "layers": 1}, "text_cfg": TEXT})
    with pytest.raises(EncoderError, match="has one block"):
        maps(one, torch.zeros(1, 3, 32, 32))
    other = nn.Module()
    other.visual = nn.Linear(2, 2)
    with pytest.raises(EncoderError, match="Linear is neither a ResNet nor a vision transformer"):
        maps(other, torch.zeros(1, 3, 32, 32))

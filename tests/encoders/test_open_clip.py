"""CLIP through open_clip: right weights in the right architecture or one clear error; vectors are open_clip's own."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from befa.encoders import ENCODERS, clip_model
from befa.encoders.clip_config import OpenClipConfig
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import EncoderError

NAME = "small-test"


@pytest.fixture
def named(tmp_path, clip_config, monkeypatch):
    """A small architecture that open_clip knows by name, twice: with GELU and with QuickGELU."""
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    config = clip_config.architecture.model_config()
    for name, quick in ((NAME, False), (f"{NAME}-quickgelu", True)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**config, "quick_gelu": quick}))
        open_clip.add_model_config(path)
    return NAME


@pytest.fixture
def tags(named, monkeypatch, tmp_path):
    """Tags as open_clip has them: "openai" was made with QuickGELU and is listed for both names."""
    from open_clip import pretrained

    hub = {"hf_hub": "owner/small/"}
    quick = {**hub, "quick_gelu": True, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bicubic"}
    monkeypatch.setitem(pretrained._PRETRAINED, named, {"openai": quick, "laion": {**hub, "quick_gelu": False}})
    monkeypatch.setitem(pretrained._PRETRAINED, f"{named}-quickgelu", {"openai": quick})


def test_the_registry_holds_it():
    assert ENCODERS["open_clip"] is OpenClipEncoder


def config_for(architecture, weights, **options):
    return OpenClipConfig(architecture=architecture, weights=str(weights), **options)


def picture(seed=0, size=(50, 40)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def test_vectors_are_those_of_open_clip_on_the_same_folder(clip_folder, clip_config):
    ours = OpenClipEncoder.load(clip_folder, clip_config)
    theirs, transform = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}")
    theirs.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    texts = ["A red dotted dress", "红色条纹连衣裙", "word " * 100, ""]
    pixels = ours.preprocess(picture())
    assert torch.equal(pixels, transform(picture()))
    tokens, n_tokens, truncated = ours.tokenize(texts)
    assert torch.equal(tokens, tokenizer(texts))
    assert n_tokens.tolist()[0] == 6
    assert n_tokens.tolist()[2:] == [24, 2]
    assert truncated.tolist() == [False, False, True, False]
    assert tokens[2, -1] == tokens[0, 5]  # an over-long text keeps its end token
    with torch.inference_mode():
        assert torch.equal(ours.encode_images(pixels[None]), theirs.encode_image(pixels[None]))
        assert torch.equal(ours.encode_texts(tokens), theirs.encode_text(tokens))
    assert ours.encode_texts(tokens).shape == (4, ours.dimension) == (4, 16)


def test_normalising_is_a_parameter(clip_folder, clip_config):
    raw = OpenClipEncoder.load(clip_folder, clip_config)
    unit = OpenClipEncoder.load(
        clip_folder, OpenClipConfig(architecture=clip_config.architecture, weights="trained", normalise=True)
    )
    pixels = torch.stack([raw.preprocess(picture(seed)) for seed in range(3)])
    lengths = raw.encode_images(pixels).norm(dim=1)
    assert not torch.allclose(lengths, torch.ones(3), atol=0.01)
    torch.testing.assert_close(unit.encode_images(pixels), raw.encode_images(pixels) / lengths[:, None])
    assert raw.identity == unit.identity


def test_a_named_architecture_with_a_local_checkpoint_in_any_form(clip_folder, clip_config, named, tmp_path):
    state = load_file(clip_folder / "open_clip_model.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "wrapped.pt")
    trained = OpenClipEncoder.load(clip_folder, clip_config)
    pixels = trained.preprocess(picture())[None]
    for path in (clip_folder / "open_clip_model.safetensors", tmp_path / "plain.pt", tmp_path / "wrapped.pt"):
        encoder = OpenClipEncoder.load(tmp_path / "nothing", config_for(named, path))
        assert torch.equal(encoder.encode_images(pixels), trained.encode_images(pixels))
        assert encoder.identity["weights_sha256"] == trained.identity["weights_sha256"]


def test_loading_leaves_the_global_generator_alone(clip_folder, clip_config):
    before = torch.get_rng_state()
    OpenClipEncoder.load(clip_folder, clip_config)
    assert torch.equal(before, torch.get_rng_state())


def altered(clip_folder, tmp_path, change):
    state = load_file(clip_folder / "open_clip_model.safetensors")
    change(state)
    save_file(state, tmp_path / "altered.safetensors")
    return tmp_path / "altered.safetensors"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("visual.proj"), r"1 of \d+ tensors are missing \(first: visual\.proj\)"),
        (lambda s: s.update(extra=torch.ones(1)), r"1 of \d+ tensors are unexpected \(first: extra\)"),
        # open_clip would resize these silently.
        (lambda s: s.update({"visual.positional_embedding": torch.ones(10, 32)}), r"of another shape \(first: visual"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("visual")], r"tensors are missing"),
    ],
    ids=["missing", "unexpected", "shape", "one tower"],
)
def test_weights_that_do_not_fit_are_an_error(clip_folder, named, tmp_path, change, says):
    path = altered(clip_folder, tmp_path, change)
    with pytest.raises(EncoderError, match=says):
        OpenClipEncoder.load(tmp_path, config_for(named, path))


def test_files_that_are_no_weights_are_an_error(clip_folder, named, tmp_path):
    data = (clip_folder / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.pt").write_text("<html>404</html>")
    torch.save({"model": Path}, tmp_path / "code.pt")
    for name, says in (
        ("half.safetensors", "not a whole safetensors file"),
        ("page.pt", "not a checkpoint of tensors alone"),
        ("code.pt", "not a checkpoint of tensors alone"),
    ):
        with pytest.raises(EncoderError, match=says):
            OpenClipEncoder.load(tmp_path, config_for(named, tmp_path / name))


def test_openai_weights_need_quick_gelu(clip_folder, named, tags, tmp_path):
    checkpoint = clip_folder / "open_clip_model.safetensors"
    mirror = {"mirror": str(checkpoint)}
    for config in (config_for(named, "openai", **mirror), config_for(named, checkpoint, tag="openai")):
        with pytest.raises(EncoderError, match="set architecture to small-test-quickgelu"):
            OpenClipEncoder.load(tmp_path, config)
    quick = f"{named}-quickgelu"
    encoders = [
        OpenClipEncoder.load(tmp_path, config)
        for config in (config_for(quick, "openai", **mirror), config_for(quick, checkpoint, tag="openai"))
    ]
    assert encoders[0].identity == encoders[1].identity
    assert encoders[0].identity["activation"] == "quick_gelu"
    assert encoders[0].preprocessing == encoders[1].preprocessing
    assert '"mean":[0.5,0.5,0.5]' in encoders[0].preprocessing
    plain = OpenClipEncoder.load(tmp_path, config_for(named, checkpoint))
    assert plain.identity["activation"] == "gelu"
    pixels = plain.preprocess(picture())[None]
    assert not torch.allclose(plain.encode_images(pixels), encoders[0].encode_images(pixels))


def test_open_clip_itself_lists_openai_for_the_plain_name():
    """The reason for the check above: ViT-B-32 with openai is GELU with QuickGELU's weights."""
    config = clip_model.model_config("ViT-B-32")
    with pytest.raises(EncoderError, match="set architecture to ViT-B-32-quickgelu"):
        clip_model.pretrained_config("ViT-B-32", config, "openai")
    quick = clip_model.model_config("ViT-B-32-quickgelu")
    assert clip_model.pretrained_config("ViT-B-32-quickgelu", quick, "openai")["quick_gelu"]


def test_names_that_nobody_knows(named, tags, tmp_path, clip_config):
    with pytest.raises(EncoderError, match=r"no architecture 'ViT-B-23'; nearest: .*ViT-B-32"):
        OpenClipEncoder.load(tmp_path, config_for("ViT-B-23", "openai"))
    with pytest.raises(EncoderError, match=r"no weights 'opnai' for small-test; known tags: openai, laion"):
        OpenClipEncoder.load(tmp_path, config_for(named, "opnai"))
    with pytest.raises(EncoderError, match="no weights 'openai' for an architecture of the project's own"):
        OpenClipEncoder.load(tmp_path, config_for(clip_config.architecture, "openai"))
    for path in ("weights/openai", "openai.pt", "~/openai"):
        with pytest.raises(EncoderError, match=r"no such checkpoint or folder in .*openai.*; correct `weights`"):
            OpenClipEncoder.load(tmp_path, config_for(named, path))


def test_a_folder_of_another_architecture_or_none(clip_folder, clip_config, tmp_path):
    with pytest.raises(EncoderError, match="no trained encoder"):
        OpenClipEncoder.load(tmp_path, clip_config)
    folder = tmp_path / "changed"
    shutil.copytree(clip_folder, folder)
    description = json.loads((folder / "open_clip_config.json").read_text())
    description["model_cfg"]["embed_dim"] = 8
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    with pytest.raises(EncoderError, match="another architecture than configured"):
        OpenClipEncoder.load(folder, clip_config)
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(EncoderError, match="not an open_clip description"):
        OpenClipEncoder.load(folder, clip_config)


def test_an_impossible_architecture_says_what_to_mend():
    from befa.encoders.clip_config import Architecture, TextTower

    with pytest.raises(EncoderError, match="make heads divide width"):
        clip_model.build(Architecture(text=TextTower(width=30, heads=4)).model_config())


def test_the_preparation_of_the_published_code_squashes_standardises_nothing_and_cuts_texts(clip_folder, clip_config):
    legacy = OpenClipEncoder.load(clip_folder, dataclasses.replace(clip_config, preparation="befa_legacy"))
    usual = OpenClipEncoder.load(clip_folder, clip_config)
    assert legacy.identity == usual.identity
    assert legacy.preprocessing != usual.preprocessing
    assert legacy.text_preprocessing != usual.text_preprocessing
    wide = Image.new("RGB", (90, 30), "white")
    wide.paste("black", (0, 0, 30, 30))  # the left third, which a centre crop would lose
    prepared = legacy.preprocess(wide)
    size = prepared.shape[1]
    assert prepared[:, :, : size // 4].max() == 0
    assert prepared[:, :, size // 2 :].min() == 1
    assert usual.preprocess(wide)[:, :, : size // 4].min() > 1
    tokens, n_tokens, truncated = legacy.tokenize(["blue jeans", "blue jeans with long wide legs"])
    assert truncated.tolist() == [False, True]
    assert torch.equal(tokens[1], usual.tokenize(["blue jeans with long"])[0][0])
    assert n_tokens[1] == usual.tokenize(["blue jeans with long"])[1][0]

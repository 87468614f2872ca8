"""ImageBind's towers: the checkpoint's tensors all find their place or there is one clear error; and `compare`."""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from befa.compare import compare
from befa.downloads import KnownFile, Policy
from befa.encoders.base import Encoder
from befa.encoders.clip_config import Architecture, TextTower, VisionTower
from befa.encoders.imagebind import CHECKPOINT, ImageBindConfig, ImageBindEncoder, checkpoint, convert, model_config
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import EncoderError

GOLDEN = Path(__file__).parents[3] / "shared/golden/imagebind_tiny.npz"
QUICK = Policy(tries=3, shortest_wait=0.001, longest_wait=0.01, connect_timeout=2, read_timeout=2, reserve_bytes=0)


def tiny_architecture(*, pool="tok"):
    """Small, with a square text projection (as the published one has) and 16 tokens of context."""
    return Architecture(
        embed_dim=16,
        vision=VisionTower(image_size=28, patch_size=14, width=32, layers=2, heads=2, pool=pool),
        text=TextTower(context_length=16, width=16, layers=1, heads=2),
    )


def tensors_of(config, make):
    """A checkpoint of the published file's form, by the sizes of `config`; `make` gives a tensor of a shape.

    Written from the list of keys, not as the inverse of `convert`, so that the two cannot share a mistake.
    """
    vision, text, d = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    grid = vision["image_size"] // vision["patch_size"]
    v, t, p = vision["width"], text["width"], vision["patch_size"]
    shapes = {
        "modality_preprocessors.vision.cls_token": (1, 1, v),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (v, 3, 2, p, p),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, grid * grid + 1, v),
        "modality_preprocessors.text.pos_embed": (1, text["context_length"], t),
        "modality_preprocessors.text.mask": (text["context_length"], text["context_length"]),
        "modality_preprocessors.text.token_embedding.weight": (text["vocab_size"], t),
        "modality_preprocessors.audio.cls_token": (1, 1, 8),
        "modality_preprocessors.depth.rgbt_stem.norm_layer.weight": (8,),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (v,),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (v,),
        "modality_trunks.audio.blocks.0.attn.bias_k": (1, 1, 8),
        "modality_trunks.imu.blocks.0.norm_1.weight": (8,),
        "modality_heads.vision.0.weight": (v,),
        "modality_heads.vision.0.bias": (v,),
        "modality_heads.vision.2.weight": (d, v),
        "modality_heads.text.proj.0.weight": (t,),
        "modality_heads.text.proj.0.bias": (t,),
        "modality_heads.text.proj.1.weight": (d, t),
        "modality_heads.thermal.2.weight": (d, 8),
        "modality_postprocessors.text.1.log_logit_scale": (),
        "modality_postprocessors.audio.1.log_logit_scale": (),
    }
    for place, width, layers in (("vision", v, vision["layers"]), ("text", t, text["layers"])):
        for layer in range(layers):
            block = f"modality_trunks.{place}.blocks.{layer}."
            for norm in ("norm_1", "norm_2"):
                shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
            for name, out, into in (
                ("attn.in_proj_", 3 * width, width),
                ("attn.out_proj.", width, width),
                ("mlp.fc1.", 4 * width, width),
                ("mlp.fc2.", width, 4 * width),
            ):
                shapes |= {f"{block}{name}weight": (out, into), f"{block}{name}bias": (out,)}
    return {key: make(shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def state():
    """Random numbers under the published file's keys. Not to be written to: copy it."""
    generator = torch.Generator().manual_seed(1)
    return tensors_of(model_config(tiny_architecture()), lambda shape: torch.randn(shape, generator=generator) / 4)


@pytest.fixture(scope="module")
def encoder(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("imagebind") / CHECKPOINT
    torch.save(state, path)
    return load(path)


def load(path, **options):
    config = ImageBindConfig(weights=str(path), architecture=tiny_architecture(), **options)
    return ImageBindEncoder.load(Path("nowhere"), config)


def picture(seed=0, size=(50, 40)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"{GOLDEN} is absent: golden values of the reference ImageBind")
def test_vectors_are_those_of_the_reference_imagebind(tmp_path):
    """Computed with the reference implementation on a reduced model; provenance in the README beside the file."""
    golden = np.load(GOLDEN)
    sizes = json.loads(str(golden["config"]))
    architecture = Architecture(
        embed_dim=sizes["embed_dim"],
        vision=VisionTower(
            image_size=sizes["image_size"],
            patch_size=sizes["patch"],
            width=sizes["vision_width"],
            layers=sizes["vision_layers"],
            heads=sizes["vision_heads"],
            pool="tok",
        ),
        text=TextTower(
            context_length=sizes["context"],
            width=sizes["text_width"],
            layers=sizes["text_layers"],
            heads=sizes["text_heads"],
        ),
    )
    state = {key.removeprefix("state/"): torch.tensor(golden[key]) for key in golden.files if key.startswith("state/")}
    torch.save(state, tmp_path / CHECKPOINT)
    config = ImageBindConfig(weights=str(tmp_path / CHECKPOINT), architecture=architecture)
    encoder = ImageBindEncoder.load(tmp_path, config)
    image = encoder.encode_images(torch.tensor(golden["pixels"]).float())
    text = encoder.encode_texts(torch.tensor(golden["tokens"]))
    torch.testing.assert_close(image, torch.tensor(golden["image"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(text, torch.tensor(golden["text"]), rtol=0, atol=1e-5)


def test_the_published_sizes_have_686_tensors_and_the_map_makes_them_all():
    config = model_config()
    with torch.device("meta"):
        wanted = open_clip.CLIP(**json.loads(json.dumps(config))).state_dict()
        made = convert(tensors_of(config, torch.empty))
    assert config["embed_dim"] == 1024
    assert len(wanted) == 686
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in wanted.items()}


def test_every_norm_has_imagebinds_epsilon(encoder):
    config = model_config()
    with torch.device("meta"):
        published = open_clip.CLIP(**json.loads(json.dumps(config)))
    for model, number in ((published, 2 * (32 + 24) + 3), (encoder.model, 2 * (2 + 1) + 3)):
        norms = [module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
        assert norms == [1e-6] * number
    assert encoder.identity["architecture"].count('"norm_kwargs":{"eps":1e-06}') == 2
    assert encoder.identity["activation"] == "gelu"


def test_it_is_an_encoder_as_the_store_needs_one(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.modalities == ("image", "text")
    assert (encoder.dimension, encoder.normalise, encoder.precision) == (16, True, "fp32")
    steps = json.loads(encoder.preprocessing)
    assert (steps["size"], steps["interpolation"], steps["resize"]) == ([28, 28], "bicubic", "shortest")
    assert steps["mean"] == [0.48145466, 0.4578275, 0.40821073]


def test_both_outputs_have_length_one_whatever_the_logit_scale(encoder, state, tmp_path):
    pixels = torch.stack([encoder.preprocess(picture(seed)) for seed in range(3)])
    tokens, n_tokens, truncated = encoder.tokenize(["a dress", "word " * 50, ""])
    assert n_tokens.tolist() == [4, 16, 2]
    assert truncated.tolist() == [False, True, False]
    assert tokens[1, -1] == tokens[0, 3]  # an over-long text keeps its end token
    image, text = encoder.encode_images(pixels), encoder.encode_texts(tokens)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
    assert torch.unique(text, dim=0).shape == (3, 16)
    torch.save(state | {"modality_postprocessors.text.1.log_logit_scale": torch.tensor(4.6)}, tmp_path / CHECKPOINT)
    assert torch.equal(load(tmp_path / CHECKPOINT).encode_texts(tokens), text)


def test_the_square_text_projection_is_turned(encoder, state):
    """Read beside the tower: forgetting to transpose raises nothing, the shape fits either way."""
    weight = state["modality_heads.text.proj.1.weight"]
    assert weight.shape[0] == weight.shape[1]
    before = []
    hook = encoder.model.ln_final.register_forward_hook(lambda module, inputs, output: before.append(output))
    tokens, n_tokens, _ = encoder.tokenize(["a red dress", "boots"])
    text = encoder.encode_texts(tokens)
    hook.remove()
    ends = before[0][torch.arange(2), n_tokens - 1]
    torch.testing.assert_close(text, torch.nn.functional.normalize(torch.nn.functional.linear(ends, weight), dim=-1))
    turned = torch.nn.functional.normalize(torch.nn.functional.linear(ends, weight.T), dim=-1)
    assert (text - turned).abs().max() > 0.1


def test_a_film_of_two_equal_frames_is_one_picture_in_fp32(state):
    """Two halves whose sum is no half: 1 + 2^-11 needs more digits than a half has."""
    key = "modality_preprocessors.vision.rgbt_stem.proj.1.weight"
    frames = torch.tensor([1.0, 2.0**-11], dtype=torch.float16).reshape(1, 1, 2, 1, 1).expand(32, 3, 2, 14, 14)
    summed = convert({**state, key: frames})["visual.conv1.weight"]
    assert summed.dtype == torch.float32
    assert torch.equal(summed, torch.full((32, 3, 14, 14), 1 + 2.0**-11))
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    film = torch.nn.functional.conv3d(pixels[:, :, None].repeat(1, 1, 2, 1, 1), state[key], stride=(2, 14, 14))
    still = torch.nn.functional.conv2d(pixels, convert(state)["visual.conv1.weight"], stride=14)
    torch.testing.assert_close(film[:, :, 0], still, rtol=1e-4, atol=1e-4)


def test_halves_load_as_their_exact_fp32_values_and_leave_the_global_generator_alone(state, tmp_path):
    before = torch.get_rng_state()
    halves = {key: value.half() for key, value in state.items()}
    torch.save(halves, tmp_path / "halves.pth")
    torch.save({key: value.float() for key, value in halves.items()}, tmp_path / "floats.pth")
    torch.save(halves, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    first, *others = [load(tmp_path / f"{name}.pth") for name in ("halves", "floats", "legacy")]
    pixels = first.preprocess(picture())[None]
    for other in others:
        # The stem alone differs: the sum of the two frames is taken in fp32 in both, and is the same.
        assert other.identity == first.identity
        assert torch.equal(other.encode_images(pixels), first.encode_images(pixels))
    assert torch.equal(before, torch.get_rng_state())


CLASS = "modality_preprocessors.vision.cls_token"
STEM = "modality_preprocessors.vision.rgbt_stem.proj.1.weight"
PLACES = "modality_preprocessors.text.pos_embed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("modality_heads.vision.2.weight"), r"1 of 50 tensors are missing \(first: visual\.proj\)"),
        (lambda s: s.pop("modality_trunks.vision.blocks.1.mlp.fc2.bias"), r"missing \(first: .*1\.mlp\.c_proj\.bias"),
        (
            lambda s: s.update({"modality_heads.vision.3.weight": torch.ones(1)}),
            r"1 of \d+ tensors are none of ImageBind's \(first: modality_heads\.vision\.3\.weight\)",
        ),
        # Of a sense that is not left out by name, and of one block too many.
        (lambda s: s.update({"modality_trunks.smell.x": torch.ones(1)}), r"none of .*modality_trunks\.smell\.x"),
        (
            lambda s: s.update({"modality_trunks.text.blocks.1.norm_1.bias": torch.ones(16)}),
            r"1 of \d+ tensors are unexpected \(first: transformer\.resblocks\.1\.ln_1\.bias\)",
        ),
        (lambda s: s.update({CLASS: torch.ones(2, 1, 16)}), r"cls_token is of another shape \(\[2, 1, 16\]\)"),
        (lambda s: s.update({CLASS: torch.ones(1, 1, 31)}), r"of another shape \(first: visual\.class_embedding\)"),
        (lambda s: s.update({STEM: torch.ones(32, 3, 14, 14)}), r"rgbt_stem.* is of another shape"),
        (lambda s: s.update({STEM: torch.ones(32, 3, 1, 14, 14)}), r"rgbt_stem.* is of another shape"),
        (lambda s: s.update({PLACES: torch.ones(2, 16, 16)}), r"pos_embed is of another shape"),
        (lambda s: s.update({PLACES: torch.ones(1, 15, 16)}), r"of another shape \(first: positional_embedding\)"),
        (lambda s: s.clear(), r"50 of 50 tensors are missing"),
        (lambda s: s.update({CLASS: "text"}), "holds no state_dict"),
    ],
    ids=[
        "head",
        "bias",
        "leftover",
        "sense",
        "block",
        "film",
        "width",
        "flat",
        "frame",
        "stack",
        "short",
        "empty",
        "text",
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_one_error(state, tmp_path, change, says):
    changed = dict(state)
    change(changed)
    torch.save(changed, tmp_path / CHECKPOINT)
    with pytest.raises(EncoderError, match=says) as caught:
        load(tmp_path / CHECKPOINT)
    assert str(tmp_path / CHECKPOINT) in str(caught.value)
    assert caught.value.mend == f"take the {CHECKPOINT} that Meta published, as it is"


class Touch:
    """A pickle that makes a file when it is read by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_are_no_tensors_alone_are_one_error_and_run_nothing(state, tmp_path, zipped):
    whole, executed = tmp_path / "whole.pth", tmp_path / "executed"
    torch.save(state, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    for share in (0, 0.01, 0.5, 0.999):
        (tmp_path / "part.pth").write_bytes(data[: int(share * len(data))])
        with pytest.raises(EncoderError, match=r"not a checkpoint of tensors alone .*part\.pth; it is damaged"):
            load(tmp_path / "part.pth")
    code = tmp_path / "code.pth"
    torch.save({**state, "extra": Touch(executed)}, code, _use_new_zipfile_serialization=zipped)
    with pytest.raises(EncoderError, match="not a checkpoint of tensors alone"):
        load(code)
    assert not executed.exists()
    torch.load(code, weights_only=False)
    assert executed.exists()  # so the pickle was a live one


def test_an_absent_checkpoint_and_an_average_over_the_map_say_what_to_mend(tmp_path):
    with pytest.raises(EncoderError, match=r"no such checkpoint in .*absent\.pth; set weights to its path"):
        load(tmp_path / "absent.pth")
    with pytest.raises(EncoderError, match=r"set architecture\.vision\.pool: tok"):
        model_config(tiny_architecture(pool="avg"))


class Handler(BaseHTTPRequestHandler):
    """Serves one checkpoint with ranges, and drops the first answer in the middle."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, asked = self.server, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        server.log.append((self.path, self.headers.get("Range")))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Length", str(len(server.data) - start))
        self.send_header("ETag", '"one"')
        self.end_headers()
        rest = server.data[start:]
        self.wfile.write(rest[: len(rest) // 2] if len(server.log) == 1 else rest)
        self.close_connection = True


@pytest.fixture
def server(state, tmp_path):
    torch.save(state, tmp_path / "published.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.data, server.log = (tmp_path / "published.pth").read_bytes(), []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def download(server, **options):
    options = {"mirror": f"http://127.0.0.1:{server.server_port}/imagebind", **options}
    return ImageBindConfig(weights="download", architecture=tiny_architecture(), **options)


def test_the_checkpoint_is_fetched_once_resumed_and_checked(server, encoder, tmp_path):
    into, data = tmp_path / "weights", server.data
    known = KnownFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    config, path = download(server, file=known), f"/imagebind/{CHECKPOINT}"
    assert checkpoint(into, config, policy=QUICK) == into / CHECKPOINT
    (first, none), (second, rest) = server.log
    assert (first, second, none) == (path, path, None)
    assert 0 < int(rest.removeprefix("bytes=").removesuffix("-")) <= len(data) // 2 + 1
    assert [file.name for file in into.iterdir()] == [CHECKPOINT]
    told = []
    loaded = ImageBindEncoder.load(into, config, progress=lambda *about: told.append(about))
    assert loaded.identity == encoder.identity
    assert len(server.log) == 2  # there already, and looked through
    assert told[-1][:2] == (len(data), len(data))


def test_another_file_than_known_is_one_error_and_leaves_nothing(server, tmp_path):
    config = download(server, file=KnownFile(sha256="0" * 64))
    with pytest.raises(EncoderError, match=r"has the sha256 .*BEFA_MIRROR_IMAGEBIND; or set weights to the path"):
        checkpoint(tmp_path / "weights", config, policy=QUICK)
    assert list((tmp_path / "weights").iterdir()) == []
    with pytest.raises(
        EncoderError, match=r"holds a password or a query string.*; put the whole address into .* BEFA_MIRROR_IMAGEBIND"
    ):
        checkpoint(tmp_path, download(server, mirror="https://host.invalid/imagebind?signature=secret"))


def test_a_mirror_of_the_environment_goes_first(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BEFA_MIRROR_IMAGEBIND", str(tmp_path / "published.pth"))
    path = checkpoint(tmp_path / "weights", download(server), policy=QUICK)
    assert path.read_bytes() == server.data
    assert server.log == []


def test_the_published_place_is_the_default():
    config = ImageBindConfig(weights="download")
    assert f"{config.mirror}/{CHECKPOINT}" == "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"
    assert (config.kind, config.architecture, config.file) == ("imagebind", None, KnownFile())


def test_vectors_are_those_of_the_real_package(tmp_path):
    """A reduced model of the authors' own class, random, saved and read back; runs where their package is installed."""
    package = pytest.importorskip(
        "imagebind.models.imagebind_model",
        reason="the imagebind package (not on the index; needs pkg_resources and pytorchvideo) cannot be imported",
        exc_type=ImportError,
    )
    torch.manual_seed(1)
    reference = package.ImageBindModel(
        out_embed_dim=16,
        vision_embed_dim=32, vision_num_blocks=2, vision_num_heads=2,
        text_embed_dim=16, text_num_blocks=2, text_num_heads=2,
        audio_embed_dim=12, audio_num_blocks=1, audio_num_heads=2,
        depth_embed_dim=16, depth_num_blocks=1, depth_num_heads=2,
        thermal_embed_dim=12, thermal_num_blocks=1, thermal_num_heads=2,
        imu_embed_dim=16, imu_num_blocks=1, imu_num_heads=2,
    ).eval()  # fmt: skip
    torch.save(reference.state_dict(), tmp_path / CHECKPOINT)
    architecture = Architecture(
        embed_dim=16,
        vision=VisionTower(image_size=224, patch_size=14, width=32, layers=2, heads=2, pool="tok"),
        text=TextTower(context_length=77, width=16, layers=2, heads=2),
    )
    config = ImageBindConfig(weights=str(tmp_path / CHECKPOINT), architecture=architecture)
    ours = ImageBindEncoder.load(tmp_path, config)
    pixels = torch.stack([ours.preprocess(picture(seed)) for seed in range(3)])
    tokens, _, _ = ours.tokenize(["a red dress", "boots", "a long winter coat"])
    with torch.inference_mode():
        theirs = reference({"vision": pixels, "text": tokens})
    torch.testing.assert_close(ours.encode_images(pixels), theirs["vision"], rtol=0, atol=1e-5)
    text = torch.nn.functional.normalize(theirs["text"], dim=-1)  # theirs is multiplied by the logit scale
    torch.testing.assert_close(ours.encode_texts(tokens), text, rtol=0, atol=1e-5)


class Turned:
    """An encoder whose vectors are another's, passed through `turn`."""

    def __init__(self, encoder, turn, modalities=("image", "text")):
        self.encoder, self.turn, self.modalities = encoder, turn, modalities
        self.identity, self.preprocessing, self.precision = encoder.identity, encoder.preprocessing, "fp32"
        self.dimension, self.normalise = encoder.dimension, encoder.normalise
        self.pixels, self.tokenize = encoder.pixels, encoder.tokenize
        self.device, self.text_lengths = encoder.device, encoder.text_lengths
        self.text_preprocessing = encoder.text_preprocessing

    def encode_images(self, pixels):
        return self.turn(self.encoder.encode_images(pixels))

    def encode_texts(self, tokens):
        return self.turn(self.encoder.encode_texts(tokens))


PICTURES = [picture(seed) for seed in range(20)]
TEXTS = [f"{colour} {kind}" for colour in ("red", "blue", "dotted", "white") for kind in ("dress", "boots", "hat")]


def test_an_encoder_agrees_with_itself(encoder):
    found = compare(encoder, encoder, PICTURES, TEXTS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found == compare(encoder, encoder, PICTURES, TEXTS)
    for modality, sample in (("image", 20), ("text", 12)):
        assert (found[modality]["sample"], found[modality]["dimensions"]) == (sample, [16, 16])
        assert found[modality]["same_dimension"]
        assert found[modality]["largest_difference"] == 0
        assert found[modality]["least_cosine"] == pytest.approx(1, abs=1e-12)
        assert found[modality]["similarity_correlation"] == pytest.approx(1, abs=1e-12)
        assert found[modality]["neighbour_overlap_at_10"] == 1


def test_a_rotated_encoder_differs_in_vectors_and_not_in_likeness(encoder):
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(3)))[0]
    found = compare(encoder, Turned(encoder, lambda x: x @ rotation), PICTURES, TEXTS)
    for modality in ("image", "text"):
        assert found[modality]["mean_cosine"] < 0.7
        assert found[modality]["least_cosine"] <= found[modality]["mean_cosine"]
        assert found[modality]["largest_difference"] > 0.1
        assert found[modality]["similarity_correlation"] == pytest.approx(1, abs=1e-5)
        assert found[modality]["neighbour_overlap_at_10"] > 0.98


def test_another_width_is_told_by_likeness_alone(encoder):
    wider = Turned(encoder, lambda x: torch.cat([x, torch.zeros(len(x), 4)], dim=1))
    found = compare(encoder, wider, PICTURES, TEXTS)["image"]
    assert (found["dimensions"], found["same_dimension"]) == ([16, 20], False)
    assert found["largest_difference"] is found["mean_cosine"] is found["least_cosine"] is None
    assert found["similarity_correlation"] == pytest.approx(1)


def test_encoders_that_have_nothing_to_do_with_each_other_do_not_agree(encoder):
    generator = torch.Generator().manual_seed(4)
    noise = Turned(encoder, lambda x: torch.randn(x.shape, generator=generator))
    found = compare(encoder, noise, [picture(seed) for seed in range(60)], TEXTS)["image"]
    assert abs(found["similarity_correlation"]) < 0.2
    assert found["neighbour_overlap_at_10"] == pytest.approx(10 / 59, abs=0.08)


def test_what_a_small_sample_or_a_missing_tower_cannot_tell_is_none(encoder):
    only_text = Turned(encoder, lambda x: x, modalities=("text",))
    assert compare(encoder, only_text, PICTURES, TEXTS[:2])["image"] is None
    assert compare(encoder, encoder, [], [])["text"] is None
    few = compare(encoder, only_text, PICTURES, TEXTS[:2])["text"]
    assert few["similarity_correlation"] is few["neighbour_overlap_at_10"] is None
    same = compare(encoder, encoder, [picture()] * 3, TEXTS[:11])
    assert same["image"]["similarity_correlation"] is None
    assert same["text"]["similarity_correlation"] == pytest.approx(1)
    assert same["text"]["neighbour_overlap_at_10"] is None


def test_a_broken_vector_is_an_error_not_a_nan(encoder):
    for turn in (torch.zeros_like, lambda x: x / 0):
        with pytest.raises(EncoderError, match=r"20 of 20 vectors .* zero or not finite in the second encoder's image"):
            compare(encoder, Turned(encoder, turn), PICTURES, TEXTS)


def test_imagebind_compares_with_any_clip(encoder, clip_folder, clip_config):
    clip = OpenClipEncoder.load(clip_folder, clip_config)
    found = compare(encoder, clip, PICTURES[:4], TEXTS[:4])
    assert found["image"]["dimensions"] == found["text"]["dimensions"] == [16, 16]
    assert -1 <= found["image"]["least_cosine"] <= found["image"]["mean_cosine"] <= 1

"""What the encoder stages share."""

import shutil

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from befa.encoders.imagebind import ImageBindEncoder
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import ConfigError, EncoderError
from befa.paths import Layout
from pipelines import encoding
from pipelines.stages import encoder as stage

PARAMS = """
datasets: {demo: {}, hm: {}}
encoders:
  bind: {kind: imagebind, weights: download}
  placed: {kind: imagebind, weights: /weights/imagebind_huge.pth}
"""


def test_weights_are_downloaded_once_for_all_datasets(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS)
    folders = []

    def load(folder, cfg, device, progress):
        folders.append(folder)
        progress(1, 4_500_000_000, "imagebind_huge.pth")
        raise EncoderError("enough seen")

    monkeypatch.setattr(ImageBindEncoder, "load", load)
    layout = Layout(tmp_path)
    for dataset in ("demo", "hm"):
        with pytest.raises(EncoderError, match="enough seen"):
            encoding.loaded(layout, dataset, "bind")
    assert folders == [layout.downloaded.resolve()] * 2
    with pytest.raises(ConfigError, match="unknown encoder 'bnd'; did you mean 'bind'"):
        encoding.loaded(layout, "hm", "bnd")


def test_weights_that_were_replaced_since_their_stage_are_an_error(tmp_path, clip_folder, clip_config):
    shutil.copytree(clip_folder, tmp_path / "local")
    weights = tmp_path / "local/open_clip_model.safetensors"
    block = OpenClipEncoder.Config(architecture=clip_config.architecture, weights=str(tmp_path / "local"))
    params = {"datasets": {"demo": {}}, "encoders": {"clip": TypeAdapter(type(block)).dump_python(block)}}
    YAML().dump(params, tmp_path / "params.yaml")
    layout = Layout(tmp_path)
    stage.run("demo", "clip", layout)
    first = encoding.loaded(layout, "demo", "clip")
    former, state = weights.read_bytes(), load_file(weights)
    save_file({**state, "logit_scale": state["logit_scale"] + 1}, weights)
    message = r"another one than its stage identified \(first difference: weights_sha256\) in .*encoder\.json; .*"
    with pytest.raises(EncoderError, match=message + r"dvc repro --force encoder@demo-clip"):
        encoding.loaded(layout, "demo", "clip")
    weights.write_bytes(former)
    assert encoding.loaded(layout, "demo", "clip").identity == first.identity
    save_file({**state, "logit_scale": state["logit_scale"] + 1}, weights)
    (layout.weights("demo", "clip") / "encoder.json").unlink()  # as DVC does before it runs the stage
    stage.run("demo", "clip", layout)
    assert encoding.loaded(layout, "demo", "clip").identity["weights_sha256"] != first.identity["weights_sha256"]

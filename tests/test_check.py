"""What `check` says of a dataset before anything is run."""

import shutil
from pathlib import Path

import pytest

from befa.paths import Layout
from pipelines import check

ROOT = Path(__file__).parent.parent


def test_the_table_of_befa_has_a_line_of_the_dataset(tmp_path):
    layout = Layout(tmp_path)
    for path in (layout.params, layout.cells):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path.relative_to(tmp_path), path)

    def line():
        (found,) = (need for need in check.needs("microlens_titles", layout) if "train_befa" in need.what)
        return found

    assert line().there
    text = layout.params.read_text()
    layout.params.write_text(text.replace("\n  microlens_titles: {encoder: minilm}\n", "\n"))
    assert not line().there
    assert line().mend == "add `microlens_titles: {encoder: minilm}` to it"
    layout.params.write_text(text.replace("microlens_titles: {encoder: minilm}", "microlens_titles: {encoder: minlm}"))
    assert not line().there


def test_every_key_that_dvc_watches_must_be_there(tmp_path):
    layout = Layout(tmp_path)
    for path in (layout.params, layout.cells):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path.relative_to(tmp_path), path)
    layout.params.write_text(
        layout.params.read_text().replace("  demo:\n    <<: *dataset\n    kind", "  demo:\n    kind")
    )
    (found,) = (need for need in check.needs("demo", layout) if "every key" in need.what)
    assert not found.there
    assert "no text, window, actions, require, floor, split)" in found.what


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"kind": "sbert", "model": "package:not_there"}, "no Python package 'not_there' is installed"),
        ({"kind": "sbert", "model": "/data/models/not_there"}, "/data/models/not_there"),
        ({"kind": "imagebind", "weights": "copies/imagebind"}, "copies/imagebind"),
        ({"kind": "imagebind", "weights": "download", "mirror": "/not/there"}, "imagebind_huge.pth at /not/there"),
    ],
)
def test_weights_that_are_not_there_are_missing(tmp_path, block, says):
    (found,) = check._weights({"encoders": {"one": block}}, "one", Layout(tmp_path))
    assert not found.there
    assert found.what == f"weights of encoder one: {says}"
    assert found.mend


def test_the_check_names_an_encoders_weights(tmp_path):
    params = {"encoders": {"clip": {"kind": "open_clip", "architecture": "ViT-B-32-quickgelu", "weights": "openai"}}}
    (found,) = check._weights(params, "clip", Layout(tmp_path))
    assert found.there
    assert found.what.startswith("weights of encoder clip: ViT-B-32.pt from https://openaipublic.azureedge.net/clip/")
    params["encoders"]["clip"]["weights"] = "copies/ViT-B-32.pt"
    (absent,) = check._weights(params, "clip", Layout(tmp_path))
    assert (absent.there, absent.what) == (False, "weights of encoder clip: copies/ViT-B-32.pt")
    assert absent.mend.startswith("place them there")

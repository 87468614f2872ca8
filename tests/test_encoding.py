"""What the encoder stages share."""

import pytest

from befa.encoders.imagebind import ImageBindEncoder
from befa.errors import ConfigError
from befa.paths import Layout
from pipelines import encoding

PARAMS = """
datasets: {demo: {}, hm: {}}
encoders:
  bind: {kind: imagebind, weights: download}
  placed: {kind: imagebind, weights: /weights/imagebind_huge.pth}
"""


def test_weights_are_downloaded_once_for_all_datasets(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS)
    folders = []
    monkeypatch.setattr(ImageBindEncoder, "load", lambda folder, cfg: folders.append(folder))
    layout = Layout(tmp_path)
    for dataset, encoder in (("demo", "bind"), ("hm", "bind"), ("hm", "placed")):
        encoding.loaded(layout, dataset, encoder)
    assert folders == [layout.downloaded, layout.downloaded, layout.weights("hm", "placed")]
    with pytest.raises(ConfigError, match="unknown encoder 'bnd'; did you mean 'bind'"):
        encoding.loaded(layout, "hm", "bnd")

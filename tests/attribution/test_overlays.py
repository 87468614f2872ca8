"""The image of heatmaps: a heatmap without heat is left blank, and says so."""

import numpy as np
import torch
from PIL import Image

from befa.attribution import overlays
from befa.attribution.heatmap import Heatmap


def drawn(path, heat):
    picture = Image.fromarray(np.full((32, 32, 3), 128, np.uint8))
    overlays.write(path, [picture], {"grad_cam": [heat]}, [None], ["a title"])
    with Image.open(path) as made:
        return np.asarray(made.convert("RGB"), dtype=int)


def test_no_heat_is_a_blank_picture_with_a_word(tmp_path):
    blank, cold, hot = (
        drawn(tmp_path / f"{number}.png", heat)
        for number, heat in enumerate([None, np.zeros((2, 2)), np.array([[1.0, 0.0], [0.0, 0.0]])])
    )

    def colours(pixels):
        right = pixels[:, pixels.shape[1] // 2 :]
        return int((np.ptp(right, axis=2) > 30).sum())

    assert colours(blank) == 0
    assert colours(hot) > 1000
    # the word stands there, in white on black, and on no other picture
    middle = blank[blank.shape[0] // 3 : 2 * blank.shape[0] // 3, blank.shape[1] // 2 :]
    assert middle.min() < 60
    assert middle.max() > 200
    assert not np.array_equal(blank, cold)
    assert np.array_equal(blank, drawn(tmp_path / "again.png", None))


def test_titles_may_hold_dollars_and_letters_that_the_font_lacks(tmp_path, recwarn):
    picture = Image.new("RGB", (16, 16), "red")
    for title in ("Socks, were $9, now 50% off: $4.50", "was $19.99, now $9.99"):
        overlays.write(tmp_path / "a.png", [picture], {}, [None], [title])
    assert overlays.drawable(title)
    assert not overlays.drawable("\u732b")
    assert overlays.title({"text": "\u732b", "item": "0012"}) == "0012"
    assert overlays.title({"text": None, "item": "0012"}) == "0012"
    assert overlays.title({"text": title, "item": "0012"}) == title
    assert not recwarn.list


def test_before_stands_before_after_for_every_method():
    hot, cold = (Heatmap(torch.full((2, 2), heat), torch.ones(1), 0.5) for heat in (1.0, 0.0))
    methods = ("becam", "becam_baseline", "score_cam", "grad_cam")
    found = {(adapter, name): [hot, cold] for adapter in ("none", "befa") for name in methods}
    columns = overlays.columns(found)
    assert list(columns) == [
        f"{name}\n{adapter}"
        for name in ("BeCAM", "BeCAM less baseline", "Score-CAM", "Grad-CAM")
        for adapter in ("without adapter", "with BeFA")
    ]
    assert all(first.max() == 1 and second is None for first, second in columns.values())

"""Heatmaps over their pictures, as one image."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from befa import figures
from befa.attribution.heatmap import METHODS, Heatmap
from befa.attribution.study import Heatmaps, Pictured

ADAPTERS = {"none": "without adapter", "befa": "with BeFA", "lora": "with LoRA", "soft_prompt": "with SoftPrompt"}
"""What stands below a method's name in the picture; others go by their own name."""


def write_sample(
    path: Path, found: Heatmaps, sampled: Sequence[Pictured], items: Sequence[Mapping[str, str | None]]
) -> None:
    """The first pictures of a sample, those of `sampled`, with each method's heatmap before and after.

    `items`: id and text of all items, by dense id.
    """
    shown = {key: of[: len(sampled)] for key, of in found.items()}
    write(
        path,
        [one.seen for one in sampled],
        columns(shown),
        [one.object_HW for one in sampled],
        [title(items[one.item]) for one in sampled],
    )


def columns(found: Mapping[tuple[str, str], Sequence[Heatmap]]) -> dict[str, list[np.ndarray | None]]:
    """The picture's columns by title: each method's heatmaps by (adapter, method), before and then after."""
    return {
        f"{name}\n{ADAPTERS.get(adapter, f'with {adapter}')}": [
            one.heat_hw.numpy() if one.with_heat else None for one in of
        ]
        for method, name in METHODS.items()
        for (adapter, of_method), of in found.items()
        if of_method == method
    }


def title(item: Mapping[str, str | None]) -> str:
    """An item's text, or its id where the font cannot show that."""
    text = item["text"] or ""
    return text[:60] if text and drawable(text) else str(item["item"])


def drawable(text: str) -> bool:
    """Whether the font of the pictures has all letters of `text`: it has no Chinese, for one."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return all(font.get_char_index(ord(letter)) for letter in text)


def write(
    path: Path,
    pictures: Sequence[Image.Image],
    heatmaps: Mapping[str, Sequence[Float[np.ndarray, "h w"] | None]],
    objects: Sequence[Bool[np.ndarray, "H W"] | None],
    titles: Sequence[str],
) -> None:
    """A row for each picture: itself, with its object's outline where that is known, and a column for each heatmap.

    Every heatmap has its own scale, from nothing to its hottest place; None is one without heat, and is left blank with
    these words. PNG; the same inputs give the same bytes.
    """
    from matplotlib.figure import Figure  # here: it takes half a second to load

    rows, columns = len(pictures), 1 + len(heatmaps)
    figure = Figure(figsize=(1.8 * columns, 1.95 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (axes, picture, known, title) in enumerate(zip(grid, pictures, objects, titles, strict=True)):
        for place, (axis, name) in enumerate(zip(axes, ["", *heatmaps], strict=True)):
            axis.set_axis_off()
            if row == 0:
                axis.set_title(name, fontsize=9)
            axis.imshow(picture if place == 0 else picture.convert("L"), cmap=None if place == 0 else "gray")
            found = heatmaps[name][row] if place else None
            if place and found is None:
                middle = {"ha": "center", "va": "center", "color": "white", "backgroundcolor": "#000000b0"}
                axis.text(0.5, 0.5, "no heat", transform=axis.transAxes, fontsize=9, **middle)
            if found is not None:
                heat = np.maximum(found, 0)
                extent = (-0.5, picture.width - 0.5, picture.height - 0.5, -0.5)
                axis.imshow(
                    heat / max(heat.max(), 1e-12), cmap="inferno", alpha=0.6, extent=extent,
                    interpolation="bilinear", vmin=0, vmax=1,
                )  # fmt: skip
            if known is not None:
                edge = np.asarray(Image.fromarray(known).resize(picture.size, Image.Resampling.NEAREST))
                axis.contour(edge, levels=[0.5], colors="white" if place else "lime", linewidths=0.8)
        # A dollar is escaped: else what stands between two of them is read as mathematics.
        shown = textwrap.fill(title, 30).replace("$", r"\$")
        axes[0].text(0, -0.02, shown, transform=axes[0].transAxes, fontsize=7, va="top", clip_on=False)
    figures.save(figure, path, dpi=110)

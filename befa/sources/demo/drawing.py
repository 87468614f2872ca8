"""Pictures of the demo catalogue: an object of some category, colour and pattern over clutter that means nothing."""

import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
"""Height and width of a picture in pixels."""
SCALE = 4
"""Everything is drawn this much larger and averaged down, for smooth edges."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "yellow": (250, 220, 60),
    "green": (50, 160, 70),
    "blue": (40, 90, 210),
    "pink": (245, 140, 190),
    "black": (35, 35, 40),
}

PATTERNS = ("solid", "striped", "dotted")

Polygon = list[tuple[float | int, float | int]]

SILHOUETTES: dict[str, list[Polygon]] = {
    "shirt": [
        [(0.3, 0.12), (0.42, 0.2), (0.58, 0.2), (0.7, 0.12), (1, 0.32), (0.88, 0.52), (0.76, 0.44), (0.76, 0.92),
         (0.24, 0.92), (0.24, 0.44), (0.12, 0.52), (0, 0.32)],
    ],
    "dress": [
        [(0.36, 0), (0.44, 0.1), (0.56, 0.1), (0.64, 0), (0.68, 0.3), (0.62, 0.42), (0.92, 1), (0.08, 1), (0.38, 0.42),
         (0.32, 0.3)],
    ],
    "trousers": [
        [(0.22, 0), (0.78, 0), (0.86, 1), (0.6, 1), (0.5, 0.34), (0.4, 1), (0.14, 1)],
    ],
    "skirt": [
        [(0.3, 0.2), (0.7, 0.2), (1, 0.82), (0.84, 0.76), (0.68, 0.86), (0.5, 0.78), (0.32, 0.86), (0.16, 0.76),
         (0, 0.82)],
    ],
    "hat": [
        [(0.28, 0.62), (0.32, 0.26), (0.42, 0.2), (0.58, 0.2), (0.68, 0.26), (0.72, 0.62), (1, 0.66), (0.96, 0.78),
         (0.04, 0.78), (0, 0.66)],
    ],
    "bag": [
        [(0.06, 0.42), (0.94, 0.42), (0.86, 0.96), (0.14, 0.96)],
        [(0.26, 0.44), (0.32, 0.08), (0.68, 0.08), (0.74, 0.44), (0.64, 0.44), (0.6, 0.18), (0.4, 0.18), (0.36, 0.44)],
    ],
    "boot": [
        [(0.18, 0.02), (0.56, 0.02), (0.56, 0.56), (0.9, 0.68), (0.98, 0.86), (0.98, 0.98), (0.46, 0.98), (0.42, 0.88),
         (0.36, 0.98), (0.16, 0.98)],
    ],
    "tie": [
        [(0.4, 0), (0.6, 0), (0.64, 0.12), (0.57, 0.2), (0.7, 0.78), (0.5, 1), (0.3, 0.78), (0.43, 0.2), (0.36, 0.12)],
    ],
    "mitten": [
        [(0.34, 1), (0.34, 0.66), (0.08, 0.5), (0.06, 0.34), (0.2, 0.32), (0.36, 0.44), (0.38, 0.16), (0.5, 0.02),
         (0.7, 0.02), (0.82, 0.16), (0.82, 0.66), (0.78, 1)],
    ],
    "umbrella": [
        [(0, 0.5), (0.08, 0.28), (0.28, 0.1), (0.5, 0.03), (0.72, 0.1), (0.92, 0.28), (1, 0.5), (0.84, 0.42),
         (0.67, 0.5), (0.5, 0.42), (0.33, 0.5), (0.16, 0.42)],
        [(0.47, 0.42), (0.53, 0.42), (0.53, 0.86), (0.62, 0.86), (0.62, 0.8), (0.68, 0.8), (0.68, 0.95), (0.47, 0.95)],
    ],
}  # fmt: skip
"""Outlines by category, in a unit square with y pointing down."""


def draw(category: str, colour: str, pattern: str, *, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A picture (RGB, SIZE x SIZE) of the object, and its mask (mode "1"): where an explanation should look.

    Place, scale, tilt and shade vary, and so does the background: `rng` draws all of them.
    """
    wide = SIZE * SCALE
    outline = _place(SILHOUETTES[category], wide, rng)
    mask = Image.new("L", (wide, wide))
    for polygon in outline:
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    canvas = _clutter(wide, rng)
    # A thin light rim parts the object from clutter of its own colour, as a product photograph's lighting does.
    rim = ImageDraw.Draw(canvas)
    for polygon in outline:
        rim.line([*polygon, polygon[0]], fill=(250, 250, 250), width=2 * SCALE, joint="curve")
    canvas.paste(_cloth(COLOURS[colour], pattern, wide, rng), mask=mask)
    picture = canvas.resize((SIZE, SIZE), Image.Resampling.BOX)
    return picture, mask.resize((SIZE, SIZE), Image.Resampling.BOX).point(
        lambda covered: 255 * (covered >= 128)
    ).convert("1")


def _place(polygons: list[Polygon], wide: int, rng: np.random.Generator) -> list[Polygon]:
    """The outline at a random size, tilt and place, wholly inside the picture; in pixels."""
    size = wide * rng.uniform(0.7, 0.84)
    tilt = math.radians(rng.uniform(-8, 8))
    points = [np.array(polygon) - 0.5 for polygon in polygons]
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    points = [polygon @ turn * size for polygon in points]
    everything = np.concatenate(points)
    low, high = everything.min(0), everything.max(0)
    margin = 0.03 * wide
    room = wide - 2 * margin - (high - low)
    shift = margin - low + room * rng.uniform(0.25, 0.75, 2)
    return [[(float(x), float(y)) for x, y in polygon + shift] for polygon in points]


def _shade(colour: tuple[int, int, int], amount: float) -> tuple[int, int, int]:
    """`colour` moved towards white (amount > 0) or black (amount < 0), by a share of the way."""
    goal = 255 if amount > 0 else 0
    return tuple(round(channel + (goal - channel) * abs(amount)) for channel in colour)  # type: ignore[return-value]


def _cloth(colour: tuple[int, int, int], pattern: str, wide: int, rng: np.random.Generator) -> Image.Image:
    """A square of patterned cloth; the second colour is a strong tint of the first, and names no other colour."""
    ground = _shade(colour, float(rng.uniform(-0.15, 0.15)))
    figure = _shade(colour, -0.6 if colour == COLOURS["yellow"] else 0.75)  # a tint of yellow would not be seen
    cloth = Image.new("RGB", (wide, wide), ground)
    pen = ImageDraw.Draw(cloth)
    step = int(wide * rng.uniform(0.1, 0.14))
    start = int(rng.integers(step))
    lines = range(start - step, wide + step, step)
    if pattern == "striped":
        for x in lines:
            pen.rectangle((x, 0, x + step * 2 // 5, wide), fill=figure)
    if pattern == "dotted":
        radius = step * 0.32
        for row, y in enumerate(lines):
            for x in lines:
                middle = x + (row % 2) * step / 2
                pen.ellipse((middle - radius, y - radius, middle + radius, y + radius), fill=figure)
    return cloth


def _clutter(wide: int, rng: np.random.Generator) -> Image.Image:
    """A background of overlapping shapes in the objects' own colours: it carries no preference, but draws the eye."""
    palette = list(COLOURS.values())
    canvas = Image.new("RGB", (wide, wide), _shade(palette[rng.integers(len(palette))], float(rng.uniform(0.75, 0.92))))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(8, 16))):
        fill = _shade(palette[rng.integers(len(palette))], float(rng.uniform(0.45, 0.85)))
        x, y = rng.uniform(-0.1, 1.0, 2) * wide
        across, down = rng.uniform(0.06, 0.35, 2) * wide
        kind = int(rng.integers(4))
        if kind == 0:
            pen.rectangle((x, y, x + across, y + down), fill=fill)
        elif kind == 1:
            pen.ellipse((x, y, x + across, y + down), fill=fill)
        elif kind == 2:
            pen.polygon([(x, y), (x + across, y + down / 2), (x + across / 3, y + down)], fill=fill)
        else:
            end = rng.uniform(0, 1, 2) * wide
            pen.line((x, y, float(end[0]), float(end[1])), fill=fill, width=int(rng.uniform(0.02, 0.06) * wide))
    return canvas

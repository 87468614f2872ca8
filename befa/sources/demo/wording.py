"""Titles of the demo catalogue: the object's attributes in varying words, among words that mean nothing."""

import numpy as np

NOUNS = {
    "shirt": ("shirt", "T-shirt"),
    "dress": ("dress", "gown"),
    "trousers": ("trousers", "pants"),
    "skirt": ("skirt", "flared skirt"),
    "hat": ("hat", "fedora"),
    "bag": ("bag", "tote"),
    "boot": ("boot", "boots"),
    "tie": ("tie", "necktie"),
    "mitten": ("mitten", "mittens"),
    "umbrella": ("umbrella", "rain umbrella"),
}
COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "yellow": ("yellow", "lemon yellow"),
    "green": ("green", "leaf green"),
    "blue": ("blue", "cobalt"),
    "pink": ("pink", "rose pink"),
    "black": ("black", "jet black"),
}
PATTERN_WORDS = {
    "solid": ("plain", "solid"),
    "striped": ("striped", "pinstripe"),
    "dotted": ("dotted", "polka dot"),
}
# Words that no preference depends on.
BRANDS = ("Nordal", "Aveline", "Kestrel & Co", "Mirov", "Tansy", "Halden", "Oboro", "Pell", "Quince", "Vesper")
PRAISE = ("classic", "everyday", "lightweight", "new season", "soft", "premium", "signature", "limited", "easy", "fine")
TEMPLATES = (
    "{brand} {praise} {colour} {pattern} {noun}",
    "{pattern} {noun} in {colour}, {praise}, by {brand}",
    "{colour} {noun}, {pattern} - {brand}",
    "{praise} {pattern} {colour} {noun}",
    "{brand} {noun} ({colour}, {pattern})",
)

CHINESE = {
    "shirt": "上衣", "dress": "连衣裙", "trousers": "长裤", "skirt": "短裙", "hat": "帽子",
    "bag": "手提包", "boot": "靴子", "tie": "领带", "mitten": "手套", "umbrella": "雨伞",
    "red": "红色", "yellow": "黄色", "green": "绿色",
    "blue": "蓝色", "pink": "粉色", "black": "黑色",
    "solid": "纯色", "striped": "条纹", "dotted": "圆点",
}  # fmt: skip
CHINESE_SHARE = 0.05

CARE = (
    "machine wash at thirty degrees with similar tones, do not bleach, do not tumble dry, iron on the reverse at low "
    "heat, may be dry cleaned, keep away from fire, packed in recycled paper, ships within two working days, free "
    "returns within thirty days, the model on the picture is one metre seventy-eight tall, sizes run true, see the "
    "size guide for the measurements of every part, colours on your screen may differ a little from the real ones"
)
"""Some 90 tokens that make a title longer than CLIP's 77."""


def title(category: str, colour: str, pattern: str, *, rng: np.random.Generator) -> str:
    """An English title, or (CHINESE_SHARE of all) a Chinese one, that names all three attributes."""
    if rng.random() < CHINESE_SHARE:
        return CHINESE[colour] + CHINESE[pattern] + CHINESE[category]

    def one(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    words = one(TEMPLATES).format(
        brand=one(BRANDS),
        praise=one(PRAISE),
        colour=one(COLOUR_WORDS[colour]),
        pattern=one(PATTERN_WORDS[pattern]),
        noun=one(NOUNS[category]),
    )
    return words[0].upper() + words[1:]

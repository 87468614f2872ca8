"""Parameters of a CLIP: a named architecture or one of the project's own, its weights, and how to train them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from befa.config import configuration
from befa.downloads import KnownFile

Positive = Annotated[int, Field(ge=1)]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation by channel that OpenAI's CLIP expects of pixels in [0, 1] (openai/CLIP, clip/clip.py)."""


@configuration
class VisionTower:
    """A vision transformer; `image_size / patch_size` squared is the size of its spatial map."""

    image_size: Positive = 64
    """Height and width of its input in pixels."""
    patch_size: Positive = 8
    """Height and width of one token in pixels; divides `image_size`."""
    width: Positive = 64
    layers: Positive = 3
    heads: Positive = 2
    """Divides `width`."""
    pool: Literal["tok", "avg"] = "avg"
    """From where the vector is read: the class token, or the mean over the map (learns from fewer pictures)."""


@configuration
class TextTower:
    """A causal text transformer over CLIP's byte-pair vocabulary."""

    context_length: Annotated[int, Field(ge=3)] = 48
    """Tokens of a title, the start and the end included; a longer title is cut and flagged."""
    width: Positive = 64
    layers: Positive = 2
    heads: Positive = 2
    """Divides `width`."""


@configuration
class Architecture:
    """A CLIP of the project's own."""

    embed_dim: Positive = 64
    """Width of the vectors."""
    vision: VisionTower = VisionTower()
    text: TextTower = TextTower()

    def model_config(self) -> dict[str, Any]:
        """The same in open_clip's words (`model_cfg` of open_clip_config.json)."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.vision.image_size,
                "layers": self.vision.layers,
                "width": self.vision.width,
                "head_width": self.vision.width // self.vision.heads,
                "patch_size": self.vision.patch_size,
                "pool_type": self.vision.pool,
            },
            "text_cfg": {
                "context_length": self.text.context_length,
                "vocab_size": 49408,
                "width": self.text.width,
                "heads": self.text.heads,
                "layers": self.text.layers,
            },
        }


@configuration
class ContrastiveConfig:
    """Training of a CLIP on a catalogue's own pictures and titles."""

    seed: int = 1
    """Of the initialisation, the order of pairs and the crops."""
    threads: Positive = 1
    """CPU threads. A parameter, because sums may differ in their last bit between numbers of threads."""
    epochs: Positive = 40
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Pairs of a step: each picture is told from the titles of all others."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    """Its peak; it rises over the warm-up and falls as half a cosine to zero."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Of matrices; not of biases, norms, embeddings and the temperature."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Smallest side of the random crop that a step sees, as a share of the picture's; 1 for no cropping."""
    flip: bool = False
    """Mirror half of the pictures."""


@configuration
class OpenClipConfig:
    """One block of `encoders` in params.yaml, of the kind `open_clip`."""

    kind: Literal["open_clip"] = "open_clip"
    architecture: str | Architecture
    """A name that open_clip knows ("ViT-B-32-quickgelu", "RN50-quickgelu"), or a CLIP of the project's own."""
    weights: str
    """"trained" (by the project's own stage, from the dataset's pictures and titles), a tag that open_clip knows for
    the architecture ("openai"; downloaded), or a path: of a checkpoint (.safetensors, .pt, .bin), or of a folder with
    open_clip_config.json beside its weights. A path has a slash or one of these endings."""
    tag: str | None = None
    """For a checkpoint's path: which tag the file is a copy of. Its normalisation is used, its activation checked."""
    mirror: str | None = None
    """For a tag: address or folder of its file; null for where open_clip says. The environment's
    BEFA_MIRROR_<ARCHITECTURE>_<TAG> (BEFA_MIRROR_VIT_B_32_QUICKGELU_OPENAI) goes first."""
    file: KnownFile = KnownFile()
    """For a tag or a checkpoint's path: its size and checksum, compared where given. OpenAI's checksums are known."""
    preparation: Literal["open_clip", "befa_legacy"] = "open_clip"
    """`befa_legacy`: as the loader in BeFA's published code, which is commented out there, has it: pictures squashed to
    the tower's size, whatever their shape, and not standardised; texts cut to 20 characters. Bicubic here (it does not
    say), and without its prompt."""
    normalise: bool = False
    """Divide vectors by their length. The paper's code does not."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, several times as fast on a GPU; vectors differ by about a hundredth."""
    batch_size: Positive = 64
    """Rows of every call to a tower; the last batch is padded, so that vectors do not depend on it."""
    training: ContrastiveConfig | None = None
    """Needed for weights "trained"."""

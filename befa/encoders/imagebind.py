"""ImageBind's image and text towers, which are those of open_clip's ViT-H-14, from the published checkpoint."""

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from befa.config import configuration
from befa.downloads import PATIENT, KnownFile, Policy, fetch, mirrors
from befa.downloads import need as need_of_file
from befa.encoders import clip_model
from befa.encoders.base import not_fetched
from befa.encoders.clip_config import Architecture
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import ConfigError, DataError, EncoderError, first_line
from befa.needs import Need
from befa.progress import Progress

CHECKPOINT = "imagebind_huge.pth"
PUBLISHED = f"take the {CHECKPOINT} that Meta published, as it is"
ARCHITECTURE = "ViT-H-14"
EPSILON = 1e-6
"""Of every LayerNorm. open_clip's own 1e-5 moves vectors by up to 6e-4."""


@configuration
class ImageBindConfig:
    """One block of `encoders` in params.yaml, of the kind `imagebind`."""

    kind: Literal["imagebind"] = "imagebind"
    weights: str
    """Path of imagebind_huge.pth, or "download" (4.5 GB, fetched once into the encoder's folder). The weights are
    Meta's, under CC BY-NC-SA 4.0: for non-commercial use."""
    mirror: str = "https://dl.fbaipublicfiles.com/imagebind"
    """For "download": address or folder of the checkpoint. The environment's BEFA_MIRROR_IMAGEBIND goes first."""
    file: KnownFile = KnownFile()
    """For "download": size and checksum of the checkpoint, compared where given. None are published."""
    architecture: Architecture | None = None
    """Sizes of a reduced checkpoint of the same form; null for the published one. Its `vision.pool` is "tok"."""
    normalise: Literal[True] = True
    """Vectors have length one. Not for choice: it is the last layer of the model."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, several times as fast on a GPU; vectors differ by about a hundredth."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows of every call to a tower; the last batch is padded, so that vectors do not depend on it."""


class ImageBindEncoder:
    """Makes an OpenClipEncoder with ImageBind's weights (arXiv 2305.05665), for images and texts; has no instances.

    Vectors are the towers' projected outputs divided by their length. Text is cut at the model's full context; an
    over-long one keeps its end token and is flagged. Departs from the authors' code in that it never multiplies text
    vectors by the learned logit scale, which their model does last.
    """

    Config = ImageBindConfig
    modalities = ("image", "text")

    @staticmethod
    def need(folder: Path, config: ImageBindConfig) -> Need:
        """Whether the checkpoint is there, or where it would come from; nothing is asked over the network."""
        if config.weights != "download":
            path = Path(config.weights).expanduser()
            return Need(str(path), path.is_file(), "place it there, or correct `weights` of the encoder")
        if (folder / CHECKPOINT).is_file():
            return Need(str(folder / CHECKPOINT), True)
        try:
            return need_of_file(CHECKPOINT, mirrors(config.mirror, "imagebind"))
        except ConfigError as error:
            return Need(error.what, False, error.mend or "")

    @classmethod
    def load(
        cls,
        folder: Path,
        config: ImageBindConfig,
        device: torch.device | str = "cpu",
        *,
        progress: Progress | None = None,
    ) -> OpenClipEncoder:
        """The encoder of `config`; a checkpoint that is to be downloaded lies in `folder`.

        `progress` is told the bytes of a download.

        Raises EncoderError when it is absent, cannot be fetched, is damaged or holds code, and when one tensor is
        missing, left over or of another shape.
        """
        path = checkpoint(folder, config, progress=progress)
        description = model_config(config.architecture)
        state = read(path)  # before the model, which takes seconds and 4 GB
        model = clip_model.build(description)
        try:
            clip_model.load_weights(model, convert(state), where=path)
        except EncoderError as error:
            raise EncoderError(error.what, where=path, mend=PUBLISHED) from None
        return OpenClipEncoder(
            model,
            description,
            clip_model.preprocess_config({}, model),
            normalise=config.normalise,
            precision=config.precision,
            device=device,
        )


def model_config(architecture: Architecture | None = None) -> dict[str, Any]:
    """open_clip's description of ImageBind's towers. Raises EncoderError when they average over the spatial map."""
    description = clip_model.model_config(architecture or ARCHITECTURE)
    if description["vision_cfg"].get("pool_type", "tok") != "tok":
        raise EncoderError("ImageBind reads its vector from the class token", mend="set architecture.vision.pool: tok")
    norm = {"norm_kwargs": {"eps": EPSILON}}
    return description | {tower: description[tower] | norm for tower in ("vision_cfg", "text_cfg")}


def checkpoint(
    folder: Path, config: ImageBindConfig, *, progress: Progress | None = None, policy: Policy = PATIENT
) -> Path:
    """Where the checkpoint of `config` lies; fetched into `folder` if that is wanted and it is not there yet.

    A download that was cut off is resumed, also by a later process. Raises EncoderError when it cannot be had.
    """
    if config.weights != "download":
        return Path(config.weights).expanduser()
    try:
        fetch(CHECKPOINT, mirrors(config.mirror, "imagebind"), folder, config.file, progress=progress, policy=policy)
    except (ConfigError, DataError) as error:
        raise not_fetched(error, "imagebind") from None
    return folder / CHECKPOINT


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, mapped from the disk; runs no code from it.

    Raises EncoderError when it is absent, damaged, or holds anything else than tensors by name.
    """
    try:
        # Only the zip form that torch writes today can be mapped. Read whole, it would double 4.5 GB of memory.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise EncoderError("no such checkpoint", where=path, mend="set weights to its path, or to download") from None
    except Exception as error:  # torch.load raises UnpicklingError, RuntimeError, EOFError, KeyError, ...
        reason = first_line(error)
        raise EncoderError(
            f"not a checkpoint of tensors alone ({reason})",
            where=path,
            mend="it is damaged or another file: get it anew",
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise EncoderError("the checkpoint holds no state_dict", where=path, mend=PUBLISHED)
    return state


class _Rule(NamedTuple):
    """How one kind of tensor passes from ImageBind to open_clip."""

    pattern: str
    """Of the whole key in the checkpoint."""
    name: str
    """In open_clip, with the pattern's groups."""
    form: tuple[int | None, ...] | None = None
    """Shape that `change` relies on; None for any length, and in place of the whole for any shape."""
    change: Callable[[Tensor], Tensor] = lambda value: value


def _block(place: str, name: str) -> tuple[_Rule, ...]:
    """The rules of a trunk's blocks."""
    pairs = {
        r"norm_([12])\.(weight|bias)": r"ln_\2.\3",
        r"attn\.(in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias)": r"attn.\2",
        r"mlp\.fc1\.(weight|bias)": r"mlp.c_fc.\2",
        r"mlp\.fc2\.(weight|bias)": r"mlp.c_proj.\2",
    }
    trunk = rf"modality_trunks\.{place}\.blocks\.(\d+)\."
    return tuple(_Rule(trunk + old, rf"{name}transformer.resblocks.\1.{new}") for old, new in pairs.items())


RULES = (
    _Rule(r"modality_preprocessors\.vision\.cls_token", "visual.class_embedding", (1, 1, None), torch.flatten),
    _Rule(
        r"modality_preprocessors\.vision\.pos_embedding_helper\.pos_embed",
        "visual.positional_embedding",
        (1, None, None),
        lambda value: value[0],
    ),
    # The authors show a picture as a film of two equal frames; the sum over time is the same convolution of one. In
    # fp32, because the sum of two halves need not be a half.
    _Rule(
        r"modality_preprocessors\.vision\.rgbt_stem\.proj\.1\.weight",
        "visual.conv1.weight",
        (None, 3, 2, None, None),
        lambda value: value.float().sum(2),
    ),
    _Rule(r"modality_trunks\.vision\.pre_transformer_layer\.0\.(weight|bias)", r"visual.ln_pre.\1"),
    *_block("vision", "visual."),
    _Rule(r"modality_heads\.vision\.0\.(weight|bias)", r"visual.ln_post.\1"),
    # open_clip multiplies by its projections from the right. The text's is square: not transposed, it fits as well.
    _Rule(r"modality_heads\.vision\.2\.weight", "visual.proj", (None, None), torch.t),
    _Rule(r"modality_preprocessors\.text\.token_embedding\.weight", "token_embedding.weight"),
    _Rule(r"modality_preprocessors\.text\.pos_embed", "positional_embedding", (1, None, None), lambda value: value[0]),
    *_block("text", ""),
    _Rule(r"modality_heads\.text\.proj\.0\.(weight|bias)", r"ln_final.\1"),
    _Rule(r"modality_heads\.text\.proj\.1\.weight", "text_projection", (None, None), torch.t),
    _Rule(r"modality_postprocessors\.text\.1\.log_logit_scale", "logit_scale"),
)
DROPPED = re.compile(
    r"modality_(preprocessors|trunks|heads|postprocessors)\.(audio|depth|thermal|imu)\..+"
    r"|modality_preprocessors\.text\.mask"
)
"""The other four senses; and the causal mask, which open_clip makes itself."""


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageBind's tensors of image and text under open_clip's names, whatever the sizes of the towers.

    Raises EncoderError for a tensor that is neither of these nor of another sense, and for one whose shape cannot be
    passed over. What is missing, only the model can tell.
    """
    converted, leftover = {}, []
    for key, value in state.items():
        if DROPPED.fullmatch(key):
            continue
        found = next(((rule, match) for rule in RULES if (match := re.fullmatch(rule.pattern, key))), None)
        if found is None:
            leftover.append(key)
            continue
        rule, match = found
        if not _has_form(value, rule.form):
            shape = list(value.shape)
            raise EncoderError(f"the tensor {key} is of another shape ({shape})", mend=PUBLISHED)
        converted[match.expand(rule.name)] = rule.change(value)
    if leftover:
        raise EncoderError(
            f"{len(leftover)} of {len(state)} tensors are none of ImageBind's (first: {', '.join(leftover[:3])})",
            mend=PUBLISHED,
        )
    return converted


def _has_form(value: Tensor, form: tuple[int | None, ...] | None) -> bool:
    return form is None or (
        value.ndim == len(form) and all(want in (None, size) for want, size in zip(form, value.shape, strict=True))
    )

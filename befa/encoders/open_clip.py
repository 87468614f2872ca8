"""CLIP through open_clip: the same code for OpenAI's weights, a local checkpoint, and a CLIP trained by the project."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from befa.encoders import clip_model
from befa.encoders.clip_config import Architecture, OpenClipConfig
from befa.errors import EncoderError

__all__ = ["Architecture", "OpenClipConfig", "OpenClipEncoder"]


class OpenClipEncoder:
    """A frozen CLIP (arXiv 2103.00020), in evaluation mode, without gradients, in fp32.

    Vectors are the towers' projected outputs; `normalise` divides them by their length (off: the paper's code does
    not). Text is cut at the model's full context; an over-long one keeps its end token and is flagged.
    """

    Config = OpenClipConfig
    modalities = ("image", "text")

    def __init__(
        self,
        model: nn.Module,
        config: dict[str, Any],
        preprocessing: PreprocessCfg,
        *,
        normalise: bool = False,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.normalise = normalise
        self.batch_size = batch_size
        self.dimension: int = config["embed_dim"]
        """Width of image and text vectors."""
        self.precision = "fp32"
        self.identity: dict[str, str] = {
            "architecture": json.dumps(config, sort_keys=True, separators=(",", ":")),
            "activation": "quick_gelu" if clip_model.activation_is_quick_gelu(config) else "gelu",
            "weights_sha256": clip_model.fingerprint(model),
        }
        """What a vector depends on beside its picture or text; says nothing of library versions or places."""
        self.preprocessing = _canonical(preprocessing)
        """What is done to a picture before the tower sees it, as canonical JSON."""
        self._transform = image_transform_v2(preprocessing, is_train=False)
        text = config["text_cfg"]
        self._tokenizer = SimpleTokenizer(**text.get("tokenizer_kwargs") or {})
        self._context_length: int = text.get("context_length", 77)

    @classmethod
    def load(cls, folder: Path, config: OpenClipConfig, device: torch.device | str = "cpu") -> "OpenClipEncoder":
        """The encoder that `config` names; `folder` holds its files when the project trained it.

        Raises EncoderError when weights are absent, not of the architecture, or made for another activation.
        """
        description, preprocessing, checkpoint = _resolve(folder, config)
        model = clip_model.build(description)
        clip_model.load_weights(model, clip_model.read_weights(checkpoint), where=checkpoint)
        return cls(
            model,
            description,
            clip_model.preprocess_config(preprocessing, model),
            normalise=config.normalise,
            batch_size=config.batch_size,
            device=device,
        )

    def preprocess(self, picture: Image.Image) -> Float[Tensor, "3 H W"]:
        """Resizes, crops and normalises an RGB picture."""
        return self._transform(picture)

    @torch.inference_mode()
    def encode_images(self, pixels_B3HW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Image vectors of preprocessed pictures, on the CPU."""
        return self._finish(self.model.encode_image(pixels_B3HW.to(self.device)))

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B"], Bool[Tensor, "B"]]:
        """Token ids padded with zeros to the context, how many of them are tokens, and which texts were cut.

        The start and the end token count; the end token of a text that was cut is its last.
        """
        start, end, length = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, self._context_length
        tokens_BL = torch.zeros(len(texts), length, dtype=torch.int64)
        wanted_B = torch.zeros(len(texts), dtype=torch.int64)
        for row, text in enumerate(texts):
            inner = self._tokenizer.encode(text)
            wanted_B[row] = len(inner) + 2
            kept = [start, *inner[: length - 2], end]
            tokens_BL[row, : len(kept)] = torch.tensor(kept)
        return tokens_BL, wanted_B.clamp(max=length), wanted_B > length

    @torch.inference_mode()
    def encode_texts(self, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """Text vectors of tokenized texts, on the CPU."""
        return self._finish(self.model.encode_text(tokens_BL.to(self.device)))

    def _finish(self, x_Bd: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        x_Bd = x_Bd.float()
        return (nn.functional.normalize(x_Bd, dim=-1) if self.normalise else x_Bd).cpu()


def _resolve(folder: Path, config: OpenClipConfig) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Architecture, preprocessing and checkpoint that `config` asks for."""
    wanted = clip_model.model_config(config.architecture)
    if config.weights == "trained":
        found, preprocessing = clip_model.read_folder(folder)
        if found != wanted:
            raise EncoderError("another architecture than configured", where=folder, mend="train the encoder again")
        return found, preprocessing, folder / clip_model.WEIGHTS_FILE
    name = config.architecture
    local = Path(config.weights).expanduser()
    tag = config.tag if local.is_file() else config.weights
    if tag is None:
        return wanted, clip_model.default_preprocessing(), local
    if not isinstance(name, str):
        raise EncoderError(f"no weights {tag!r} for an architecture of the project's own", mend="set weights: trained")
    pretrained = clip_model.pretrained_config(name, wanted, tag)
    if local.is_file():
        return wanted, pretrained, local
    try:
        return wanted, pretrained, Path(download_pretrained(pretrained))
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"the weights {tag!r} of {name} cannot be downloaded ({error})",
            mend=f"set weights to the path of a local copy, and tag to {tag}",
        ) from None


def _canonical(preprocessing: PreprocessCfg) -> str:
    steps = {
        "colour": "RGB, alpha on white",
        "resize": preprocessing.resize_mode,
        "interpolation": preprocessing.interpolation,
        "crop": "centre",
        "size": list(preprocessing.size),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
    return json.dumps(steps, sort_keys=True, separators=(",", ":"))

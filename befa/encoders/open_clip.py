"""CLIP through open_clip: the same code for OpenAI's weights, a local checkpoint, and a CLIP trained by the project."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Normalize, ToTensor

from befa.encoders import clip_model, clip_weights
from befa.encoders.clip_config import OpenClipConfig
from befa.errors import EncoderError
from befa.progress import Progress

LEGACY = {"resize_mode": "squash", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bicubic"}
LEGACY_CHARACTERS = 20
"""See OpenClipConfig.preparation."""


class OpenClipEncoder:
    """A frozen CLIP (arXiv 2103.00020), in evaluation mode and without gradients.

    Vectors are the towers' projected outputs in fp32; `normalise` divides them by their length (off: the paper's code
    does not). Text is cut at the model's full context; an over-long one keeps its end token and is flagged.
    `precision` "bf16" computes in bfloat16 where torch's autocast does, which moves vectors by about a hundredth.
    """

    Config = OpenClipConfig
    modalities = ("image", "text")

    def __init__(
        self,
        model: nn.Module,
        config: dict[str, Any],
        preprocessing: PreprocessCfg,
        *,
        characters: int | None = None,
        normalise: bool = False,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
    ) -> None:
        weights_sha256 = clip_model.fingerprint(model)  # before a GPU has them: they would come back for it
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.normalise = normalise
        self.dimension: int = config["embed_dim"]
        """Width of image and text vectors."""
        self.precision = precision
        self.identity: dict[str, str] = {
            "architecture": json.dumps(config, sort_keys=True, separators=(",", ":")),
            "activation": "quick_gelu" if clip_model.activation_is_quick_gelu(config) else "gelu",
            "weights_sha256": weights_sha256,
        }
        """What a vector depends on beside its picture or text; says nothing of library versions or places."""
        self.preprocessing = _canonical(preprocessing)
        """What is done to a picture before the tower sees it, as canonical JSON."""
        self.text_preprocessing = "tokenizer of the encoder, full context"
        """What is done to a text before the tower sees it."""
        if characters is not None:
            self.text_preprocessing = f"first {characters} characters, {self.text_preprocessing}"
        self._characters = characters
        *self._resize, to_tensor, normalise_pixels = image_transform_v2(preprocessing, is_train=False).transforms
        if not isinstance(to_tensor, ToTensor) or not isinstance(normalise_pixels, Normalize):
            raise EncoderError("open_clip prepares pictures otherwise than this code knows", mend="install the lock's")
        self._mean_311, self._std_311 = (
            torch.tensor(x, device=self.device)[:, None, None] for x in (normalise_pixels.mean, normalise_pixels.std)
        )
        text = config["text_cfg"]
        self._tokenizer = SimpleTokenizer(**text.get("tokenizer_kwargs") or {})
        self._context_length: int = text.get("context_length", 77)
        self.text_lengths: tuple[int, ...] = clip_model.text_lengths(model, self._context_length)
        """Numbers of tokens at which `encode_texts` may be given a text, ascending; see `tokenize`."""

    need = staticmethod(clip_weights.need)

    @classmethod
    def load(
        cls,
        folder: Path,
        config: OpenClipConfig,
        device: torch.device | str = "cpu",
        *,
        progress: Progress | None = None,
    ) -> "OpenClipEncoder":
        """The encoder that `config` names; `folder` holds its files, or those of all that are downloaded by a tag.

        `progress` is told the bytes of a download.

        Raises EncoderError when weights are absent, not of the architecture, or made for another activation.
        """
        description, preprocessing, checkpoint = clip_weights.resolve(folder, config, progress=progress)
        legacy = config.preparation == "befa_legacy"
        model = clip_model.build(description)
        clip_model.load_weights(model, clip_model.read_weights(checkpoint), where=checkpoint)
        return cls(
            model,
            description,
            clip_model.preprocess_config(preprocessing | (LEGACY if legacy else {}), model),
            characters=LEGACY_CHARACTERS if legacy else None,
            normalise=config.normalise,
            precision=config.precision,
            device=device,
        )

    def preprocess(self, picture: Image.Image) -> Float[Tensor, "3 H W"]:
        """Resizes, crops and normalises an RGB picture."""
        return self.normalised(self.pixels(picture).to(self.device)).cpu()

    def pixels(self, picture: Image.Image) -> UInt8[Tensor, "3 H W"]:
        """Resizes and crops an RGB picture: what `preprocess` gives, in a quarter of its bytes."""
        for step in self._resize:
            picture = step(picture)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def encode_images(self, pixels_B3HW: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        """Image vectors, on the CPU, of pictures as `preprocess` or as `pixels` gives them."""
        with self._computing():
            pixels_B3HW = pixels_B3HW.to(self.device, non_blocking=True)
            if pixels_B3HW.dtype == torch.uint8:
                pixels_B3HW = self.normalised(pixels_B3HW)
            return self._finish(self.model.encode_image(pixels_B3HW))

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Token ids padded with zeros to the context, how many of them are tokens, and which texts were cut.

        The start and the end token count; the end token of a text that was cut is its last.
        """
        start, end, length = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, self._context_length
        tokens_BL = torch.zeros(len(texts), length, dtype=torch.int64)
        wanted_B = torch.zeros(len(texts), dtype=torch.int64)
        for row, text in enumerate(texts):
            inner = self._tokenizer.encode(text[: self._characters])
            wanted_B[row] = len(inner) + 2
            kept = [start, *inner[: length - 2], end]
            tokens_BL[row, : len(kept)] = torch.tensor(kept)
        cut_B = torch.tensor([len(text) > len(text[: self._characters]) for text in texts], dtype=torch.bool)
        return tokens_BL, wanted_B.clamp(max=length), cut_B | (wanted_B > length)

    def encode_texts(self, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """Text vectors of tokenized texts, on the CPU; tokens may be cut at any of `text_lengths` that holds them all.

        A cut moves a vector by rounding alone, about 5e-7 of its length, and saves the work on what is cut off.
        """
        with self._computing():
            return self._finish(clip_model.encode_text(self.model, tokens_BL.to(self.device, non_blocking=True)))

    def normalised(self, pixels_3HW: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
        """What `preprocess` gives, of what `pixels` gave."""
        return pixels_3HW.float().div_(255).sub_(self._mean_311).div_(self._std_311)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        half = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            yield

    def _finish(self, x_Bd: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        x_Bd = x_Bd.float()
        return (nn.functional.normalize(x_Bd, dim=-1) if self.normalise else x_Bd).cpu()


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

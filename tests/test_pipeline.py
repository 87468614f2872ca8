"""The whole pipeline as a user runs it: `dvc repro train_befa@demo` in a copy of the project, at the tiny size."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from befa.attribution.heatmap import METHODS as HEATMAPS
from befa.metrics import CUTOFFS, METRICS
from befa.report.published import HOSTS
from tests.processes import asked
from tests.toy_graph import initialised

ROOT = Path(__file__).parent.parent

OTHER_CELLS = (
    r"(?m)^  (tmall|microlens|hm-clip_small|hm-clip_rn50|hm-imagebind)\S*: .*\n"
    r"|^  hm-clip-(?!bm3-(none|befa): )\S+: .*\n"
    r"|^  demo-\S+-(lora|soft_prompt|learned_width|random_features|shuffled_features|none_fixed|befa_fixed): .*\n"
)
# The stages' own commands in one process: each would else load torch anew. Names them on its output.
RUN_ALL = """
import shlex, sys
from dvc.repo import Repo
from pipelines import __main__ as main, graph
steps, repo = [step.name for step in graph.plan(sys.argv[1:]).steps], Repo()
for command in [repo.stage.collect(name)[0].cmd for name in steps]:
    main.app(shlex.split(command)[3:], standalone_mode=False)
print(*steps)
"""
CODE = 5
"""Stages that hash the code of encoder, encode_images, encode_texts, train and evaluate."""

pytestmark = pytest.mark.xdist_group("pipeline")


def command(project, *words):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "150",
    }
    return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=900)


def repro(project, *words):
    ran = command(project, sys.executable, "-m", "dvc", "repro", *words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [line.split("'")[1] for line in ran.stdout.splitlines() if line.startswith("Running stage")]


def edit(project, old, new):
    text = (project / "params.yaml").read_text()
    assert old in text
    (project / "params.yaml").write_text(text.replace(old, new))


def bytes_of(project):
    """SHA-256 of every file under data/ but the side files that are no outputs."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((project / "data").rglob("*"))
        if path.is_file() and path.name != "timing.json" and project / "data/speed" not in path.parents
    }


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project with all that `dvc repro train_befa@demo` makes at the tiny size, committed to DVC."""
    at = tmp_path_factory.mktemp("project")
    for name in ("befa", "pipelines", "params.yaml", "dvc.yaml", ".dvcignore"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, at / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, at / name)
    (at / ".gitignore").write_text("/data/\n__pycache__/\n")
    initialised(at)
    shutil.copytree(ROOT / ".dvc/plots", at / ".dvc/plots")
    # The demo's cells and a few that cannot be run here: DVC reads a smaller graph faster.
    cells = at / "pipelines/cells.yaml"
    cells.write_text(re.sub(OTHER_CELLS, "", cells.read_text()))
    edit(at, "{size: demo, seed: 1}", "{size: tiny, seed: 1}")
    edit(at, "      epochs: 40", "      epochs: 2")
    edit(at, "    epochs: 1000\n    batch_size: 512", "    epochs: 3\n    batch_size: 512")
    edit(at, "max_missing: 0.05", "max_missing: 0.2")
    edit(at, "  items: 64", "  items: 20")
    ran = command(at, sys.executable, "-c", RUN_ALL, "train_befa@demo")
    assert ran.returncode == 0, ran.stderr
    steps = ran.stdout.splitlines()[-1].split()
    # download, filter, media, split, encoder, two modalities, their code, 8 cells trained and evaluated, the roll-up
    assert len(steps) == 7 + CODE + 2 * 8 + 1
    assert command(at, sys.executable, "-m", "dvc", "commit", "-q", "-f", *steps).returncode == 0
    return at


def test_the_table_has_base_befa_and_gain_per_model_and_metric(project):
    table = json.loads((project / "data/reports/demo/befa.json").read_text())
    found = {(row["model"], row["metric"]) for row in table["rows"]}
    assert found == {(model, f"{m}@{k}") for model in HOSTS for m in METRICS for k in CUTOFFS}
    for row in table["rows"]:
        for adapter, column in (("none", "base"), ("befa", "befa")):
            cell = project / f"data/runs/demo/clip_small/{row['model']}/{adapter}"
            assert row[column] == json.loads((cell / "metrics.json").read_text())["test"][row["metric"]]
        if row["base"]:
            assert row["gain"] == pytest.approx(row["befa"] / row["base"] - 1)
    assert "| recall@20 |" in (project / "data/reports/demo/befa.md").read_text()


def test_the_overlap_needs_the_features_alone(project):
    assert repro(project, "overlap@demo") == ["overlap@demo"]
    assert repro(project, "overlap@demo") == []
    [pair] = json.loads((project / "data/reports/demo/overlap.json").read_text())["pairs"].values()
    assert 0 <= pair["neighbour_overlap"] <= 1


def test_heatmaps_of_a_cell_stand_beside_those_without_adapter(project):
    stage, folder = "attribute@demo-clip_small-bm3-befa", project / "data/attribution/demo/clip_small/bm3/befa"
    assert repro(project, stage) == ["code_attribute", stage]
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["items"] == scores["with_object"] == 20
    for adapter in ("none", "befa"):
        assert set(scores[adapter]) == {"behaviour", *HEATMAPS}
        assert 0 < scores[adapter]["becam"]["energy"] < 1
        # BM3's table is trained: the encoder's vectors lie elsewhere.
        assert 0 < scores[adapter]["behaviour"]["angle"] != scores[adapter]["behaviour"]["angle_trained"] > 0
    assert scores["none"]["becam"]["energy"] != scores["none"]["becam_baseline"]["energy"]
    difference = scores["difference"]["becam"]
    assert 0 < difference["pictures"] <= scores["items"]
    assert difference["energy"]["low"] <= difference["energy"]["mean"] <= difference["energy"]["high"]
    table = pq.read_table(folder / "heatmaps.parquet")
    assert len(table) == 2 * len(HEATMAPS) * scores["items"]
    assert {len(heat) for heat in table["heat"].to_pylist()} == {8 * 8}
    with Image.open(folder / "heatmaps.png") as picture:
        assert picture.width > 700
    assert repro(project, stage) == []
    before = bytes_of(project)
    assert repro(project, "--force", "--single-item", "--no-run-cache", stage) == [stage]
    assert bytes_of(project) == before


def test_the_report_has_every_figure_and_says_what_is_missing(project):
    assert repro(project, "report") == ["report"]
    folder = project / "data/reports/experiment"
    figures = pd.read_csv(folder / "figures.csv").set_index("figure")
    assert figures.index.is_unique
    ours = figures.loc["table2/demo/clip_small/bm3+befa/recall@20"]
    metrics = json.loads((project / "data/runs/demo/clip_small/bm3/befa/metrics.json").read_text())
    assert ours["ours"] == pytest.approx(metrics["test"]["recall@20"])
    assert (ours["status"], ours["command"]) == ("current", "dvc repro evaluate@demo-clip_small-bm3-befa")
    paper = figures.loc["table2/hm/clip/bm3+befa/recall@20"]
    assert (paper["published"], paper["source"]) == (0.0391, "arXiv 2406.00323, Table 2")
    assert (paper["status"], paper["detail"]) == ("absent", "download@hm")
    assert "download@hm" in (folder / "report.md").read_text()
    made = figures[figures["status"] == "current"]["command"]
    stages = {stage for command in made if "@demo" in command for stage in command.removeprefix("dvc repro ").split()}
    assert len(stages) > len(HOSTS)
    assert repro(project, *stages) == []


def test_a_figure_tells_what_it_was_made_from(project):
    name = "table2/demo/clip_small/bm3+befa/recall@20"
    told = asked(project, "cell", name)
    assert told.returncode == 0, told.stderr
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]
    for stage in ("download@demo", "encode_images@demo-clip_small", "train@demo-clip_small-bm3-befa"):
        assert stage in told.stdout
        assert all(out["md5"] in told.stdout for out in lock[stage]["outs"])
    assert "current" in told.stdout
    edit(project, "      dropout: 0.5\n", "      dropout: 0.45\n")
    try:
        told = asked(project, "cell", name)
    finally:
        edit(project, "      dropout: 0.45\n", "      dropout: 0.5\n")
    assert "stale: models.bm3 modified" in told.stdout
    told = asked(project, "cell", name.replace("bm3+befa", "bm3+befo"))
    assert told.returncode == 1
    assert f"did you mean {name}" in told.stderr


def test_a_second_repro_does_nothing(project):
    assert repro(project, "train_befa@demo") == []


def test_a_models_parameter_reruns_its_own_cells_alone(project):
    edit(project, "      dropout: 0.5\n", "      dropout: 0.45\n")
    try:
        ran = repro(project, "evaluate@demo-clip_small-bm3-none", "evaluate@demo-clip_small-mgcn-none")
    finally:
        edit(project, "      dropout: 0.45\n", "      dropout: 0.5\n")
        repro(project, "evaluate@demo-clip_small-bm3-none")  # from the cache of what was run
    assert ran == [f"{stage}@demo-clip_small-bm3-none" for stage in ("train", "evaluate")]


def test_a_cell_made_by_dvc_in_another_folder_has_the_same_bytes(project, tmp_path):
    """Each stage in a process of its own here, and in one for all there: what a stage leaves behind changes nothing."""
    again = tmp_path / "again"
    shutil.copytree(project, again, ignore=lambda at, _: ["data", "cache", "dvc.lock"] if Path(at) == project else [])
    shutil.rmtree(again / ".dvc/cache")
    # download, filter, media, split, encoder, two modalities, their code, the cell trained and evaluated
    assert len(repro(again, "evaluate@demo-clip_small-bm3-befa")) == 7 + CODE + 2
    made = bytes_of(again)
    assert len(made) == 30
    before = bytes_of(project)
    assert {path: digest for path, digest in made.items() if before.get(path) != digest} == {}


def test_a_cell_of_several_seeds_has_means_deviations_and_a_plot_line_each(project):
    cell = project / "data/runs/demo/clip_small/bm3/none"
    alone = (cell / "checkpoints/1.safetensors").read_bytes()
    edit(project, "    seeds: [1] #", "    seeds: [2, 1] #")
    try:
        repro(project, "evaluate@demo-clip_small-bm3-none")
        assert {path.name for path in cell.iterdir()} == {
            *("checkpoints", "config.json", "history.csv", "metrics.json", "per_user.parquet", "timing.json")
        }
        assert (cell / "checkpoints/1.safetensors").read_bytes() == alone
        metrics = json.loads((cell / "metrics.json").read_text())
        one, two = (metrics["seeds"][seed]["test"]["ndcg@50"] for seed in "12")
        assert metrics["test"]["ndcg@50"] == pytest.approx((one + two) / 2)
        assert metrics["deviation"]["test"]["ndcg@50"] == pytest.approx(abs(one - two) / 2**0.5)
        plotted = command(project, sys.executable, "-m", "dvc", "plots", "show", str(cell / "history.csv"), "--json")
        [plot] = json.loads(plotted.stdout)["data"][str((cell / "history.csv").relative_to(project))]
        assert plot["content"]["encoding"]["detail"]["field"] == "seed"
        assert {row["seed"] for row in plot["content"]["data"]["values"]} == {"1", "2"}
    finally:
        edit(project, "    seeds: [2, 1] #", "    seeds: [1] #")
        repro(project, "train_befa@demo")


def test_a_trained_run_recommends_and_gives_its_vectors(project):
    run, users = "data/runs/demo/clip_small/bm3/befa", pq.read_table(project / "data/filtered/demo/users.parquet")
    user = users["user"][0].as_py()
    ran = asked(project, "recommend", "--run", run, "--user", user, "--k", "3")
    assert ran.returncode == 0, ran.stderr
    assert f"For user {user}, by bm3+befa, demo, clip_small features, seed 1" in ran.stdout
    ran = asked(project, "recommend", "--run", run, "--user", f"{user}0")
    assert ran.returncode == 1
    assert f"unknown user '{user}0' in the users of demo; did you mean '{user}'" in ran.stderr
    named = ["--dataset", "demo", "--encoder", "clip_small", "--model", "bm3", "--adapter", "befa"]
    for words in (
        ["recommend", *named, "--output", "out/lists.parquet"],
        ["export-vectors", *named, "--output", "out"],
    ):
        ran = asked(project, *words)
        assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in (project / "out").iterdir()) == [
        *("items.parquet", "lists.parquet", "users.parquet")
    ]
    shutil.rmtree(project / "out")


def test_a_new_split_encodes_nothing_again(project):
    edit(project, "rule: random, valid: 0.1, test: 0.1, seed: 1}", "rule: user_time, valid: 0.1, test: 0.1, seed: 1}")
    try:
        ran = repro(project, "train@demo-clip_small-bm3-none")
    finally:
        edit(project, "rule: user_time", "rule: random")
    assert ran == ["split@demo", "train@demo-clip_small-bm3-none"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["filter", "dmo"], "unknown dataset 'dmo'; did you mean 'demo'?"),
        (["train", "demo", "clip_smal", "bm3", "none"], "unknown encoder 'clip_smal'; did you mean 'clip_small'?"),
        (["train", "demo", "clip_small", "bm33", "none"], "unknown model 'bm33'; did you mean 'bm3'?"),
        (["train", "demo", "clip_small", "bm3", "beffa"], "unknown adapter 'beffa'; did you mean 'befa'?"),
        (
            ["recommend", "--run", "data/runs/demo/clip_small/bm3/lora", "--user", "1"],
            "no trained run in data/runs/demo/clip_small/bm3/lora; run dvc repro train@demo-clip_small-bm3-lora",
        ),
        (["encode_images", "demo", "clip_smal"], "unknown encoder 'clip_smal'; did you mean 'clip_small'?"),
        (["download", "hm"], "no credentials for Kaggle"),
        (["filter", "hm"], "no such file in data/raw/hm/handm-dataset-128x128.zip; run `dvc repro download@hm`"),
        (["run", "train_befa@dmo"], "no stage 'train_befa@dmo' in dvc.yaml; did you mean 'train_befa@demo'?"),
    ],
)
def test_bad_input_is_one_error_and_exit_code_1(project, words, says):
    before = bytes_of(project)
    ran = asked(project, *words)
    assert ran.returncode == 1
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert bytes_of(project) == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "batch_size: 512",
            "batch_sise: 512",
            "unknown key 'training.demo.batch_sise' in params.yaml; did you mean 'batch_size'?",
        ),
        (
            "batch_size: 512",
            "batch_size: many",
            "'training.demo.batch_size' is \"many\": input should be a valid integer",
        ),
        (
            "    monitor: recall@20\n  hm",
            "    monitor: recall@21\n  hm",
            "'training.demo.monitor' is \"recall@21\": unknown metric; did you mean 'recall@20'",
        ),
        ("max_missing: 0.2", "max_missing: 0.001", "of items have no vector (allowed"),
    ],
)
def test_a_wrong_parameter_is_one_error_and_keeps_what_was_there(project, old, new, says):
    before = bytes_of(project)
    edit(project, old, new)
    try:
        ran = asked(project, "train", "demo", "clip_small", "bm3", "none")
    finally:
        edit(project, new, old)
    assert ran.returncode == 1
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert bytes_of(project) == before


def test_features_of_another_encoder_are_refused(project):
    store = project / "data/features/demo/clip_small/image.parquet"
    foreign = project / "data/features/demo/other/image.parquet"
    foreign.parent.mkdir()
    shutil.copy(store, foreign)
    shutil.copy(store.with_name("text.parquet"), foreign.with_name("text.parquet"))
    edit(project, "  clip_small: #", "  other: {kind: open_clip, architecture: RN50, weights: openai}\n  clip_small: #")
    try:
        ran = asked(project, "train", "demo", "other", "bm3", "none")
    finally:
        edit(project, "  other: {kind: open_clip, architecture: RN50, weights: openai}\n", "")
        shutil.rmtree(foreign.parent)
    assert ran.returncode == 1
    assert "clip_small" in ran.stderr
    assert "dvc repro encode_images@demo-other" in ran.stderr
    assert not (project / "data/runs/demo/other").exists()


def test_a_flow_brings_the_target_up_to_date(project):
    repro(project, "train_befa@demo")
    (project / "data/reports/demo/befa.md").unlink()
    ran = command(project, sys.executable, "-m", "pipelines", "run", "train_befa@demo")
    assert ran.returncode == 0, ran.stderr
    assert f"1 of {7 + CODE + 2 * 8 + 1} stages" in ran.stdout + ran.stderr
    assert (project / "data/reports/demo/befa.md").exists()

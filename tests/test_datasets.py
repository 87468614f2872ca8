"""From nothing to filtered interactions, and on to a trained cell, as a user with data of their own does it."""

import io
import json
import os
import re
import shutil
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from befa import tables
from befa.errors import BefaError
from pipelines import __main__ as commands
from tests.processes import asked
from tests.test_pipeline import ROOT, RUN_ALL, command, repro
from tests.toy_graph import initialised

pytestmark = pytest.mark.xdist_group("datasets")


@pytest.fixture
def project(tmp_path):
    """A copy of the project without data."""
    at = tmp_path / "project"
    for name in ("befa", "pipelines"):
        shutil.copytree(ROOT / name, at / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, at / name)
    (at / ".gitignore").write_text("/data/\n__pycache__/\n")
    initialised(at)
    return at


def without_cells(project):
    """Leaves the stages of datasets alone: DVC reads a smaller graph faster."""
    lists = project / "pipelines/cells.yaml"
    lists.write_text(re.sub(r"(?m)^(\w+):.*\n(  .*\n)*", r"\1: {}\n", lists.read_text()))


def add(project, text):
    """Writes the blocks of `text` at the ends of those of params.yaml."""
    path = project / "params.yaml"
    params = path.read_text()
    for block in text.strip().split("\n\n"):
        for name, body in re.findall(r"^(\w+):\n((?:  .*\n?)+)", block, flags=re.MULTILINE):
            old = re.search(rf"^{name}:.*\n(?:(?:  .*)?\n)*", params, flags=re.MULTILINE).group()
            params = params.replace(old, f"{old.rstrip()}\n{body.rstrip()}\n\n")
    path.write_text(params)


@pytest.fixture
def server(tmp_path):
    """A real HTTP server over a folder; it counts requests by path."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            path = folder / self.path.split("?")[0].lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            self.wfile.write(path.read_bytes())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.folder, running.asked = folder, asked
        running.at = f"127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()


def documented(shop):
    """The YAML of docs/your-own-catalogue.md, over the folder `shop`."""
    page = (ROOT / "docs/your-own-catalogue.md").read_text(encoding="utf-8")
    return page.split("```yaml\n")[1].split("```")[0].replace("/data/shop", str(shop))


def test_the_documented_catalogue_runs_to_a_trained_cell(project, catalogue, tmp_path):
    """The demo's tables, pictures and a third modality, described as the page says."""
    shop = tmp_path / "shop"
    shop.mkdir()
    table = pq.read_table(catalogue / "interactions.parquet")
    days = table["time"].cast(pa.timestamp("s")).cast(pa.date32(), safe=False)
    pa.csv.write_csv(table.set_column(2, "time", days).rename_columns(["customer", "sku", "day"]), shop / "sales.csv")
    items = pq.read_table(catalogue / "items.parquet").rename_columns(["sku", "name", "image"])
    pq.write_table(items, shop / "products.parquet")
    with zipfile.ZipFile(catalogue / "images.zip") as archive:
        archive.extractall(shop / "photos")
    np.save(shop / "audio.npy", np.random.default_rng(1).normal(size=(len(items), 8)))
    (shop / "audio.txt").write_text("\n".join(items["sku"].to_pylist()))
    add(project, documented(shop))
    text = (project / "params.yaml").read_text()
    text = text.replace("epochs: 40", "epochs: 2").replace("epochs: 1000", "epochs: 2")
    (project / "params.yaml").write_text(text.replace("max_missing: 0.05", "max_missing: 0.2"))

    without_cells(project)
    missing = asked(project, "check", "shop")
    assert missing.returncode == 1
    assert "add-cells shop" in missing.stderr
    assert asked(project, "add-cells", "shop", "clip_small", "--model", "bm3").returncode == 0
    assert asked(project, "check", "shop").returncode == 0
    ran = command(project, sys.executable, "-c", RUN_ALL, "table_1@shop", "evaluate@shop-clip_small-bm3-befa")
    assert ran.returncode == 0, ran.stderr

    stats = json.loads((project / "data/filtered/shop/stats.json").read_text())
    assert (stats["paper"], stats["core"]) == (None, 5)
    assert stats["items_without_image"] < stats["items"] / 4
    media = json.loads((project / "data/media/shop/stats.json").read_text())
    assert media["vectors"]["audio"]["ok"] == media["items"] == stats["items"]
    cell = json.loads((project / "data/runs/shop/clip_small/bm3/befa/config.json").read_text())
    assert cell["features"]["modalities"] == ["image", "text", "audio"]
    metrics = json.loads((project / "data/runs/shop/clip_small/bm3/befa/metrics.json").read_text())
    assert 0 < metrics["test"]["recall@20"] <= 1
    assert "5-core" in (project / "data/reports/shop/table_1.md").read_text()
    # A colleague who has only the raw folder needs neither the shop's files nor their place.
    shutil.rmtree(shop)
    ran = asked(project, "filter", "shop")
    assert ran.returncode == 0, ran.stderr


def test_a_catalogue_of_vectors_alone_runs_to_a_trained_cell(project, catalogue, tmp_path):
    """No item table, no picture, no title: interactions and a matrix, as the field's public feature files are."""
    shop = tmp_path / "shop"
    shop.mkdir()
    table = pq.read_table(catalogue / "interactions.parquet")
    pq.write_table(table, shop / "sales.parquet")
    ids = sorted(set(table["item"].to_pylist()))
    np.save(shop / "vectors.npy", np.random.default_rng(1).normal(size=(len(ids), 8)))
    (shop / "ids.txt").write_text("\n".join(ids))
    add(
        project,
        f"""
datasets:
  shop:
    <<: *dataset
    kind: catalogue
    source:
      folder: {shop}
      interactions: {{file: sales.parquet, user: user, item: item, time: time}}
      features: {{audio: {{vectors: vectors.npy, ids: ids.txt}}}}
    core: 5

features:
  shop: {{<<: *features, modalities: [audio]}}

training:
  shop: {{<<: *training, seeds: [1], epochs: 2}}
""",
    )
    without_cells(project)
    assert asked(project, "add-cells", "shop", "given", "--model", "bm3").returncode == 0
    ran = asked(project, "check", "shop")
    assert ran.returncode == 0, ran.stderr
    ran = command(project, sys.executable, "-c", RUN_ALL, "evaluate@shop-given-bm3-befa")
    assert ran.returncode == 0, ran.stderr
    coverage = json.loads((project / "data/features/shop/given/image.coverage.json").read_text())
    assert (coverage["ok"], coverage["missing"]) == (0, coverage["items"])
    metrics = json.loads((project / "data/runs/shop/given/bm3/befa/metrics.json").read_text())
    assert 0 < metrics["test"]["recall@20"] <= 1

    # What the rows are to blame for is taken over anew once it is mended; a core that is too large is not.
    again = "dvc repro --force --single-item download@shop"
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("    core: 5\n", "    core: 500\n"))
    ran = asked(project, "filter", "shop")
    assert "core 500 leaves 0 users" in ran.stderr
    assert again not in ran.stderr
    table = table.set_column(0, "user", pa.array([None, *table["user"].to_pylist()[1:]]))
    pq.write_table(table, shop / "sales.parquet")
    assert asked(project, "download", "shop").returncode == 0
    ran = asked(project, "filter", "shop")
    assert f"1 events have no user in the data of shop; drop or mend these rows, then `{again}`" in ran.stderr


def test_the_documented_block_is_of_ten_lines(tmp_path):
    lines = documented(tmp_path).split("datasets:")[1].split("\n\n")[0].strip().splitlines()
    assert len(lines[1:]) <= 10


def test_hm_from_a_web_mirror_with_a_password_that_is_nowhere(project, server, monkeypatch):
    rows = [
        f"2020-09-{day},{user:064x},01087750{item}" for day in (16, 17) for user in range(30) for item in range(15, 40)
    ]
    with zipfile.ZipFile(server.folder / "handm-dataset-128x128.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("transactions_train.csv", "\n".join(["t_dat,customer_id,article_id", *rows]) + "\n")
        names = "article_id,prod_name,product_type_name,colour_group_name,detail_desc"
        articles = [f"01087750{item},Top,Vest top,Black,Soft" for item in range(15, 40)]
        archive.writestr("articles.csv", "\n".join([names, *articles]) + "\n")
        archive.writestr("images_128_128/010/0108775015.jpg", b"picture")
    without_cells(project)
    monkeypatch.setenv("BEFA_MIRROR_HM", f"http://reader:hidden-word@{server.at}/")
    ran = command(project, sys.executable, "-m", "dvc", "repro", "table_1@hm", "media@hm")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert server.asked == ["/handm-dataset-128x128.zip"]
    table = json.loads((project / "data/reports/hm/table_1.json").read_text())
    assert table["ours"] == {"users": 30, "items": 25, "interactions": 750, "density": 1.0}
    assert table["paper"]["users"] == 43_543
    assert table["difference"]["users"]["absolute"] == 30 - 43_543
    assert "43,543" in ran.stdout
    listed = json.loads((project / "data/raw/hm/files.json").read_text())
    assert listed["handm-dataset-128x128.zip"]["bytes"] == (server.folder / "handm-dataset-128x128.zip").stat().st_size
    written = [path for path in project.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hidden-word" in path.read_bytes()]
    assert "hidden-word" not in ran.stdout + ran.stderr
    # Nothing is fetched twice.
    assert command(project, sys.executable, "-m", "dvc", "repro", "table_1@hm").returncode == 0
    assert len(server.asked) == 1


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_pictures_of_tmall_come_from_their_links_and_failed_ones_are_tried_again(project, server):
    placed = project / "data/incoming/tmall"
    placed.mkdir(parents=True)
    products = ["item_id,title,pict_url,category,brand_id,seller_id"]
    products += [f"{n},秋装 {n},http://{server.at}/{n}.jpg,1-1,b1,s1" for n in range(25)]
    products += ["25,no link,null,1-1,b1,s1"]
    (placed / "sam_tianchi_2014001_rec_tmall_product.csv").write_bytes("\n".join(products).encode("gb18030"))
    log = [f"i{item},u{user},cart,2014/9/{18 + user % 9} 15:03" for user in range(25) for item in range(26)]
    log += [f"i{item},u99,click,2014/9/18 15:03" for item in range(25)]
    text = "\n".join(["item_id,user_id,action,vtime", *log]) + "\n"
    (placed / "sam_tianchi_2014002_rec_tmall_log.csv").write_text(text)
    for n in range(24):
        (server.folder / f"{n}.jpg").write_bytes(picture((n, 0, 0)))
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("form: full", "form: sample").replace("pause: 0.05", "pause: 0.0"))

    without_cells(project)
    repro(project, "media@tmall")
    stats = json.loads((project / "data/filtered/tmall/stats.json").read_text())
    assert (stats["users"], stats["items"], stats["items_without_image"]) == (25, 26, 1)  # u99 only clicked
    assert stats["read"]["actions"] == {"cart": 650, "click": 25}
    media = json.loads((project / "data/media/tmall/stats.json").read_text())
    assert media["web"]["errors"] == {"404": 1}
    assert (media["web"]["ok"], media["no_reference"]) == (24, 1)
    asked = len(server.asked)

    (server.folder / "24.jpg").write_bytes(picture("white"))
    ran = command(project, sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "media@tmall")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert server.asked[asked:] == ["/24.jpg"]
    references = tables.read_table(project / "data/media/tmall/pictures/references.parquet").to_pydict()
    found = dict(zip(references["item"], references["image"], strict=True))
    assert found["25"] is None
    assert found["24"] == "media/tmall/pictures/web/pictures.zip/24.jpg"
    assert sorted(path.name for path in (project / "data/media/tmall/pictures").rglob("*") if path.is_file()) == [
        "pictures.parquet", "pictures.zip", "references.parquet",
    ]  # fmt: skip


def test_microlens_from_a_mirror_that_lacks_covers(project, server):
    real = ROOT.parent / "shared/data/microlens"
    if not real.exists():
        pytest.skip("the real MicroLens files are not beside the project")
    for path in real.iterdir():
        shutil.copy(path, server.folder / path.name)
    params = project / "params.yaml"
    text = params.read_text().replace("https://recsys.westlake.edu.cn/MicroLens-50k-Dataset", f"http://{server.at}")
    params.write_text(text)
    without_cells(project)
    ran = command(project, sys.executable, "-m", "dvc", "repro", "table_1@microlens", "media@microlens")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    difference = json.loads((project / "data/reports/microlens/table_1.json").read_text())["difference"]
    assert [difference[name]["absolute"] for name in ("users", "items", "interactions")] == [0, 0, 0]
    assert sorted(path.name for path in (project / "data/raw/microlens").iterdir()) == [
        "MicroLens-50k_pairs.tsv", "MicroLens-50k_titles.csv", "files.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "lacks"),
    [
        ("tmall", "tmall lacks tianchi_2014001_rec_tmall_product.zip at data/incoming/tmall (and 3 more); download it"),
        ("hm", "hm lacks an account of Kaggle; make an API token"),
        ("nothing", "unknown dataset 'nothing'"),
    ],
)
def test_check_names_what_is_missing(project, dataset, lacks, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(project))
    monkeypatch.chdir(project)
    ran = CliRunner().invoke(commands.app, ["check", dataset])
    assert isinstance(ran.exception, BefaError)
    assert lacks in str(ran.exception)
    assert not (project / "data").exists()


def test_check_is_content_with_the_demo(project):
    ran = asked(project, "check", "demo")
    assert ran.returncode == 0
    assert "missing" not in ran.stdout


def test_an_argument_of_another_encoding_is_told(project):
    ran = asked(project, "check", os.fsdecode(b"d\xe9mo"))
    assert ran.returncode == 1
    assert ran.stderr == "error: the argument 'd\\udce9mo' is not text in UTF-8; write it in UTF-8\n"


def test_a_failed_download_leaves_no_raw_folder_and_keeps_what_came(project, server):
    (server.folder / "MicroLens-50k_pairs.tsv").write_text("1\t2 3\n")
    params = project / "params.yaml"
    text = params.read_text().replace("https://recsys.westlake.edu.cn/MicroLens-50k-Dataset", f"http://{server.at}")
    params.write_text(text.replace("bytes: 2295542", "bytes: null").replace(
        "sha256: 46be22f478aa891b9c2a4b357c1df2ac2478793a99d58d07336e6277b6bf426d", "sha256: null"
    ))  # fmt: skip
    ran = asked(project, "download", "microlens")
    assert ran.returncode == 1
    assert "not there (404) in http://127.0.0.1" in ran.stderr
    assert "MicroLens-50k_titles.csv" in ran.stderr
    assert not (project / "data/raw/microlens").exists()
    assert (project / "data/raw/microlens.partial/MicroLens-50k_pairs.tsv").exists()

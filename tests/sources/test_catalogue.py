"""A catalogue described by parameters alone: every form of table, time, picture and vector that it may have."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from befa import config, feature_store
from befa.errors import BefaError, ConfigError, DataError, FeatureError
from befa.feature_store import FeatureStore
from befa.images import ImageFiles
from befa.sources import catalogue

SALES = 'customer,sku,date,kind\n"00,7",0012,2024-03-01,buy\n00b,0013,2024-03-02,view\n'
PRODUCTS = 'sku,name,about,photo,link\n0012,"Cup, blue","Of\nclay",cups/b.jpg,https://shop.example/b.jpg\n0013,Cup,,,\n'
INTERACTIONS = {"file": "sales.csv", "user": "customer", "item": "sku", "time": "date", "action": "kind"}
ITEMS = {"file": "products.csv", "item": "sku"}


@pytest.fixture
def shop(tmp_path):
    """The folder of a small catalogue."""
    folder = tmp_path / "shop"
    (folder / "cups").mkdir(parents=True)
    (folder / "sales.csv").write_text(SALES)
    (folder / "products.csv").write_text(PRODUCTS)
    (folder / "cups/b.jpg").write_bytes(b"blue")
    (folder / "cups/0013.jpg").write_bytes(b"plain")
    np.save(folder / "audio.npy", np.arange(6, dtype=np.float64).reshape(3, 2))
    (folder / "audio.txt").write_text("0013\n0012\nother\n")
    (folder / "latin.txt").write_bytes("é\nb\nc\n".encode("latin-1"))
    return folder


def fetched(shop, **source):
    """Raw folder, as the stage would have it."""
    raw = shop.parent / "raw"
    raw.mkdir(exist_ok=True)
    block = {"folder": str(shop), "interactions": INTERACTIONS, "items": ITEMS, **source}
    cfg = config.load({"source": block}, "source", catalogue.Config)
    names = catalogue.fetch(cfg, raw, dataset="shop", progress=lambda *_: None)
    assert sorted(names) == sorted(path.name for path in raw.iterdir())
    return raw


def rows(batches):
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def test_tables_keep_leading_zeros_commas_and_line_ends(shop):
    raw = fetched(shop)
    assert rows(catalogue.events(raw)) == [("00,7", "0012", 1709251200, "buy"), ("00b", "0013", 1709337600, "view")]
    assert rows(catalogue.items(raw, "{name}. {about}")) == [
        ("0012", "Cup, blue. Of clay", None),
        ("0013", "Cup.", None),
    ]
    assert rows(catalogue.items(raw, None)) == [("0012", None, None), ("0013", None, None)]


@pytest.mark.parametrize(
    ("images", "first", "second"),
    [
        ({"pattern": "cups/{sku}.jpg"}, None, b"plain"),
        ({"column": "photo"}, b"blue", None),
    ],
)
def test_pictures_by_pattern_and_by_column_are_packed(shop, images, first, second):
    raw = fetched(shop, images=images)
    files = ImageFiles(raw)
    found = [None if image is None else files.read(image) for _, _, image in rows(catalogue.items(raw, None))]
    assert found == [first, second]


def test_pictures_on_the_web_stay_addresses(shop):
    raw = fetched(shop, images={"url": "link"})
    assert [row[2] for row in rows(catalogue.items(raw, None))] == ["https://shop.example/b.jpg", None]
    assert not (raw / "images.zip").exists()


def test_addresses_without_http_are_addresses_and_other_columns_an_error(shop):
    text = PRODUCTS.replace("https://", " ").replace("Cup,,,", "Cup,,,//shop.example/1.jpg")
    (shop / "products.csv").write_text(text)
    raw = fetched(shop, images={"url": "link"})
    assert [row[2] for row in rows(catalogue.items(raw, None))] == ["//shop.example/b.jpg", "//shop.example/1.jpg"]
    with pytest.raises(DataError, match=r"not one of 2 values of 'name' is a web address \(first: 'Cup, blue'\)"):
        fetched(shop, images={"url": "name"})


def test_errors_after_the_download_name_the_catalogues_own_file_and_how_to_take_it_over(shop):
    (shop / "sales.csv").write_text(SALES.replace("2024-03-02", "02.03.2024"))
    raw = fetched(shop)
    with pytest.raises(DataError, match=r"in sales\.csv; give dates.*; then `dvc repro --force --single-item downl"):
        rows(catalogue.events(raw))


def test_a_picture_outside_the_folder_is_not_taken(shop):
    (shop.parent / "secret.jpg").write_bytes(b"secret")
    (shop / "products.csv").write_text(
        PRODUCTS.replace("cups/b.jpg", "../secret.jpg").replace("0013,Cup,,,", "0013,Cup,,cups/b.jpg,")
    )
    raw = fetched(shop, images={"column": "photo"})
    with zipfile.ZipFile(raw / "images.zip") as archive:
        assert archive.namelist() == ["cups/b.jpg"]


def test_the_same_catalogue_gives_the_same_bytes(shop):
    raw = fetched(shop, images={"column": "photo"})
    first = {path.name: path.read_bytes() for path in raw.iterdir()}
    (shop / "cups/b.jpg").touch()
    again = fetched(shop, images={"column": "photo"})
    assert {path.name: path.read_bytes() for path in again.iterdir()} == first
    assert str(shop).encode() not in b"".join(first.values())


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([1709251200, 1709337600]), "s"),
        (pa.array([1709251200000, 1709337600001]), "ms"),
        (pa.array([1709251200.0, 1709337600.0]), "s"),
        (pa.array([1709251200, 1709337600], pa.timestamp("s")), "s"),
        (pa.array([1709251200000, 1709337600999], pa.timestamp("ms", "UTC")), "s"),
        (pa.array(["2024-03-01", "2024-03-02"]), "s"),
        (pa.array([19783, 19784], pa.int32()).cast(pa.date32()), "s"),
    ],
)
@pytest.mark.parametrize("form", ["parquet", "csv", "tsv"])
def test_times_of_every_type(shop, column, unit, form):
    table = pa.table({"customer": [7, 8], "sku": ["0012", "0013"], "date": column})
    if form == "parquet":
        pq.write_table(table, shop / "sales.parquet")
    else:
        text = table.set_column(2, "date", column.cast(pa.string())).to_pylist()
        mark = "\t" if form == "tsv" else ","
        lines = [mark.join(table.column_names), *(mark.join(map(str, row.values())) for row in text)]
        (shop / f"sales.{form}").write_text("\n".join(lines) + "\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "file": f"sales.{form}", "action": None, "unit": unit})
    assert rows(catalogue.events(raw)) == [("7", "0012", 1709251200), ("8", "0013", 1709337600)]


@pytest.mark.parametrize(
    "form",
    [
        "2024-03-01T10:00:00Z",
        "2024-03-01T11:00:00+01:00",
        "2024-03-01 10:00:00.123",
        "2024-03-01 10:00",
        "2024/03/01 10:00",
    ],
)
def test_times_of_every_form_of_text(shop, form):
    (shop / "sales.csv").write_text(f"customer,sku,date\na,0012,{form}\na,0013,\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "action": None})
    assert [row[2] for row in rows(catalogue.events(raw))][:2] == [1709287200, None]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_forms_of_times_may_change_from_row_to_row(shop, form):
    times = ["2024/03/01", "2024-03-01", "2024/03/01 10:00", None, "2024-03-01T10:00:00.123456789", "2024-03-01T10:00Z"]
    table = pa.table({"customer": list("abcdef"), "sku": ["0012"] * 6, "date": pa.array(times).dictionary_encode()})
    if form == "parquet":
        pq.write_table(table, shop / "sales.parquet")
    else:
        lines = [",".join(str(value or "") for value in row.values()) for row in table.to_pylist()]
        (shop / "sales.csv").write_text("\n".join(["customer,sku,date", *lines]) + "\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "file": f"sales.{form}", "action": None})
    day, hour = 1709251200, 1709287200
    assert [row[2] for row in rows(catalogue.events(raw))] == [day, day, hour, None, hour, hour]


def test_a_time_that_is_none_is_told(shop):
    (shop / "sales.csv").write_text("customer,sku,date\na,0012,2024-03-01\na,0013,yesterday\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "action": None})
    with pytest.raises(DataError, match=r"times cannot be read \('yesterday' is no date or time\)"):
        rows(catalogue.events(raw))


def test_times_that_pandas_made_floats_of_are_times(shop):
    (shop / "sales.csv").write_text("customer,sku,date\na,0012,1709251200.0\na,0013,\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "action": None})
    assert [row[2] for row in rows(catalogue.events(raw))] == [1709251200, None]


@pytest.mark.parametrize(
    ("time", "unit", "says"),
    [
        ("1709251200000", "s", "times lie in the year 56134 in .*; say `unit: ms` beside `time`"),
        ("1709251200000000", "ms", "times lie in the year 56134 in .*; give seconds or milliseconds since 1970"),
        ("1709251200", "ms", "times in milliseconds all lie in 1970 in .*; say `unit: s` beside `time`"),
    ],
)
def test_times_of_another_unit_are_refused(shop, time, unit, says):
    (shop / "sales.csv").write_text(f"customer,sku,date\na,0012,{time}\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "action": None, "unit": unit})
    with pytest.raises(DataError, match=says):
        rows(catalogue.events(raw))


def test_a_running_number_is_a_time(shop):
    numbers = pa.table({"customer": ["a"] * 200, "sku": ["0012"] * 200, "date": range(20_240_100, 20_240_300)})
    pq.write_table(numbers, shop / "sales.parquet")
    raw = fetched(shop, interactions={**INTERACTIONS, "file": "sales.parquet", "action": None})
    assert len(rows(catalogue.events(raw))) == 200


def test_dates_written_as_numbers_are_refused(shop):
    """They would all be an evening of August 1970."""
    (shop / "sales.csv").write_text("customer,sku,date\na,0012,20240101\na,0013,20241231\n")
    raw = fetched(shop, interactions={**INTERACTIONS, "action": None})
    with pytest.raises(DataError, match=r"times from 20240101 to 20241231 look like dates .* write 2024-01-01"):
        rows(catalogue.events(raw))


def test_a_picture_has_one_name_however_its_path_is_written(shop):
    for form in ("./cups/b.jpg", "cups//b.jpg", "cups/../cups/b.jpg"):
        (shop / "products.csv").write_text(PRODUCTS.replace("cups/b.jpg", form))
        raw = fetched(shop, images={"column": "photo"})
        assert ImageFiles(raw).read(rows(catalogue.items(raw, None))[0][2]) == b"blue"


@pytest.mark.parametrize("path", ["/media/b.jpg", "../elsewhere/b.jpg", "cups/none.jpg"])
def test_pictures_none_of_which_is_there_are_an_error(shop, path):
    (shop / "products.csv").write_text(PRODUCTS.replace("cups/b.jpg", path))
    with pytest.raises(DataError, match=rf"not one of 1 pictures is there below the folder \(first: {path}\)"):
        fetched(shop, images={"column": "photo"})


def test_columns_that_nothing_asks_for_may_hold_anything(shop):
    table = pa.table({"sku": ["0012", "0013"], "name": ["Cup", "Mug"], "tags": [["a"], []], "raw": [b"\xff", b""]})
    pq.write_table(table, shop / "products.parquet")
    raw = fetched(shop, items={**ITEMS, "file": "products.parquet"})
    assert [row[1] for row in rows(catalogue.items(raw, "{name}"))] == ["Cup", "Mug"]
    for name in ("tags", "raw"):
        with pytest.raises(DataError, match=rf"column '{name}' holds .*, which is no text"):
            rows(catalogue.items(raw, f"{{{name}}}"))


@pytest.mark.parametrize(
    ("file", "data", "says"),
    [
        (
            "products.csv",
            "sku,n\xe4me\n0012,Cup\n".encode("cp1252"),
            "not a text in UTF-8 in products.csv; save it as UTF-8",
        ),
        ("products.csv", "sku,name\n0012,T\xe4sse\n".encode("cp1252"), "not a text in UTF-8 in products.csv"),
        (
            "products.csv",
            b"sku,name\n" + 2000 * b"0012,Cup\n" + b"0013,T\xe4sse\n",
            "not a text in UTF-8 in products.csv",
        ),
        ("products.parquet", b"PAR1 and no more", "a table cannot be read"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_clear_error(shop, file, data, says):
    (shop / file).write_bytes(data)
    raw = fetched(shop, items={**ITEMS, "file": file})
    with pytest.raises(DataError, match=says):
        rows(catalogue.items(raw, "{name}"))


def test_without_times_rows_are_in_their_order(shop):
    raw = fetched(shop, interactions={**INTERACTIONS, "time": None, "action": None})
    assert [row[2] for row in rows(catalogue.events(raw))] == [0, 1]


def test_a_catalogue_of_interactions_alone_has_no_items(shop):
    assert rows(catalogue.items(fetched(shop, items=None), None)) == []


def test_ids_of_vectors_are_lines_whatever_they_hold(shop):
    (shop / "windows.txt").write_text("0012\n00\u202813\n0015\n", encoding="utf-8-sig", newline="\r\n")
    raw = fetched(shop, features={"audio": {"vectors": "audio.npy", "ids": "windows.txt"}})
    assert catalogue.vectors(raw)["audio"][0] == ["0012", "00\u202813", "0015"]


def test_vectors_become_a_store_of_their_modality(shop, tmp_path):
    raw = fetched(shop, features={"audio": {"vectors": "audio.npy", "ids": "audio.txt"}})
    ids, values = catalogue.vectors(raw)["audio"]
    items = pa.chunked_array([["0013", "0012", "0014"]])
    path = tmp_path / "audio.parquet"
    coverage = feature_store.write_given(path, items, ids, values, dataset="shop", modality="audio")
    assert coverage == {"items": 3, "ok": 2, "missing": 1, "corrupt": 0, "dimension": 2}
    store = FeatureStore.open(path, dataset="shop", encoder="given", modality="audio")
    found, present = store.aligned(["0012", "0013"], max_missing=0.0)
    assert (found.tolist(), present.tolist()) == ([[2, 3], [0, 1]], [True, True])
    with pytest.raises(FeatureError, match=r"33\.3% of items have no vector.*run dvc repro media@shop"):
        store.aligned(["0012", "0013", "0014"], max_missing=0.1)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"interactions": {**INTERACTIONS, "user": "costumer"}}, "no column 'costumer' in .*did you mean 'customer'"),
        ({"interactions": {**INTERACTIONS, "file": "none.csv"}}, "no such file in none.csv in .*place it there"),
        ({"interactions": {**INTERACTIONS, "file": "sales.xlsx"}}, "'sales.xlsx' is no table that can be read"),
        ({"interactions": {**INTERACTIONS, "time": "kind"}}, "a table cannot be read|times"),
        ({"items": {**ITEMS, "item": "id"}, "images": {"column": "photo"}}, "no column 'id'"),
        ({"images": {"pattern": "photos/{sku}.jpg"}}, "not one of 2 pictures is there"),
        ({"images": {"pattern": "photos/{nr}.jpg"}}, "no column 'nr'"),
        ({"images": {"pattern": "{sku}", "url": "link"}}, "images need one of pattern, column and url"),
        ({"images": {"column": "photo"}, "items": None}, "images need an items file"),
        ({"features": {"audio": {"vectors": "audio.npy", "ids": "products.csv"}}}, "4 ids for an array of shape"),
        ({"features": {"audio": {"vectors": "sales.csv", "ids": "audio.txt"}}}, "not an array of numbers"),
        ({"features": {"image": {"vectors": "audio.npy", "ids": "audio.txt"}}}, "'image' is no name for a modality"),
        ({"features": {"audio": {"vectors": "audio.npy", "ids": "latin.txt"}}}, "not a text in UTF-8"),
        ({"interaction": {}}, "did you mean 'interactions'"),
        ({"images": {"pattern": "photos/{sku.jpg"}}, "the template 'photos/{sku.jpg' cannot be read"),
        ({"images": {"pattern": "photos/{sku!z}.jpg"}}, "has more, or less, than a name between its braces"),
    ],
)
def test_a_wrong_description_is_one_clear_error(shop, source, says):
    with pytest.raises(BefaError, match=says):
        list(catalogue.events(fetched(shop, **source)))


def test_two_modalities_may_share_their_ids(shop):
    given = {"vectors": "audio.npy", "ids": "audio.txt"}
    found = catalogue.vectors(fetched(shop, features={"audio": given, "video": given}))
    assert found["audio"][0] == found["video"][0] == ["0013", "0012", "other"]


def test_a_catalogue_without_interactions_has_no_events(shop):
    (shop / "sales.csv").write_text(SALES.splitlines()[0] + "\n")
    assert rows(catalogue.events(fetched(shop))) == []


def test_ids_that_became_floats_are_refused(shop):
    pq.write_table(pa.table({"customer": [7.0, None], "sku": ["1", "2"]}), shop / "sales.parquet")
    raw = fetched(shop, interactions={"file": "sales.parquet", "user": "customer", "item": "sku"})
    with pytest.raises(DataError, match="column 'customer' holds ids as double"):
        list(catalogue.events(raw))


def test_objects_in_an_array_are_not_loaded(shop):
    np.save(shop / "audio.npy", np.array([["a", None]] * 3, dtype=object))
    with pytest.raises(DataError, match="not an array of numbers"):
        fetched(shop, features={"audio": {"vectors": "audio.npy", "ids": "audio.txt"}})


def test_a_template_over_absent_columns_is_an_error(shop):
    with pytest.raises(ConfigError, match="no column 'title' for the text template"):
        list(catalogue.items(fetched(shop), "{title}"))


@pytest.mark.parametrize("template", ["{name} {", "{name!z}", "{name:d}", "{}"])
def test_a_template_of_another_form_is_an_error(shop, template):
    with pytest.raises(ConfigError, match=r"the template .*; name columns as \{name\}; a brace itself is"):
        list(catalogue.items(fetched(shop), template))


def test_a_columns_name_has_the_blanks_that_the_file_has(shop):
    (shop / "sales.csv").write_text('customer, sku,"date, local"\na,0012,2024-03-01\n')
    named = {**INTERACTIONS, "action": None, "time": "date, local"}
    with pytest.raises(DataError, match=r"no column 'sku' in .*did you mean ' sku'"):
        list(catalogue.events(fetched(shop, interactions=named)))
    named["item"] = " sku"
    assert rows(catalogue.events(fetched(shop, interactions=named))) == [("a", "0012", 1709251200)]


def test_a_file_that_is_separated_otherwise_says_so(shop):
    (shop / "sales.csv").write_text(SALES.replace(",", ";"))
    with pytest.raises(DataError, match="it is separated by semicolons: save it with commas, or with tabs"):
        list(catalogue.events(fetched(shop)))

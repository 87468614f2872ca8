"""Reading, deduplication and 10-core of a log of H&M's size, against plain pandas; and memory against a log's length.

    .venv/bin/python benchmarks/bench_filter.py [--rows 31788324] [--log-rows 10e6 30e6 100e6] [--folder /tmp]

First part: a generated transactions file of H&M's shape (31.8 million rows, 64-character customer ids, baskets in the
order of days and customers as in the real file, repeat purchases), read and filtered by befa and by pandas, each in a
process of its own, with its time and its peak of memory. Second part: logs of TMALL's form of growing
length over the same users and items, with the actions of params.yaml (clicks are read and left out, as nine in ten
lines of the official sample are), and the longest with every action kept; with the peak of memory of each.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

CUSTOMERS, ARTICLES, DAYS = 1_362_281, 104_547, 734
CORE, LOG_CORE = 10, 3
ROWS_IN_MEMORY = 1 << 22
"""Of the second part: fewer than the filter's own, so that the shortest log is already longer than it."""


def generate_hm(path: Path, rows: int) -> None:
    """A transactions file of H&M's shape; customers' and articles' shares are log-normal."""
    import pyarrow as pa
    import pyarrow.csv

    rng = np.random.default_rng(1)
    customers = pa.array(sorted(rng.bytes(32).hex() for _ in range(CUSTOMERS)))
    articles = pa.array([f"0{108_775_015 + 7_919 * i:09d}" for i in range(ARTICLES)])
    of_customers, of_articles = (_shares(n, spread, rng) for n, spread in ((CUSTOMERS, 1.4), (ARTICLES, 1.8)))
    left = rows
    with path.open("wb") as file:
        for day in range(DAYS):
            n = left // (DAYS - day)
            left -= n
            baskets = rng.geometric(1 / 4, n)
            baskets = baskets[: np.searchsorted(np.cumsum(baskets), n) + 1]
            customer = np.repeat(np.sort(_draw(of_customers, len(baskets), rng)), baskets)[:n]
            article = _draw(of_articles, n, rng)
            again = np.flatnonzero(rng.random(n) < 0.12)[1:]  # two of one article
            article[again] = article[again - 1]
            table = pa.table({
                "t_dat": pa.array(np.repeat(np.datetime64("2018-09-20") + day, n)),
                "customer_id": customers.take(pa.array(customer)),
                "article_id": articles.take(pa.array(article)),
                "price": rng.integers(1, 999, n) / 590,
                "sales_channel_id": rng.integers(1, 3, n),
            })  # fmt: skip
            options = pyarrow.csv.WriteOptions(include_header=day == 0, quoting_style="none")
            pyarrow.csv.write_csv(table, file, options)


def generate_tmall(path: Path, rows: int) -> None:
    """A log of TMALL's form, without a header; the same users and items whatever its length."""
    import pyarrow as pa
    import pyarrow.csv

    rng = np.random.default_rng(2)
    users = pa.array([f"u{n}" for n in range(200_000)])
    items = pa.array([str(n) for n in range(100_000)])
    of_users, of_items = _shares(len(users), 1.4, rng), _shares(len(items), 1.8, rng)
    actions = pa.array(["click", "collect", "cart", "alipay"])
    with path.open("wb") as file:
        for start in range(0, rows, 1_000_000):
            n = min(1_000_000, rows - start)
            times = np.datetime64("2014-01-01T00:00:00") + rng.integers(0, 86_400 * 180, n)
            table = pa.table({
                "item": items.take(pa.array(_draw(of_items, n, rng))),
                "user": users.take(pa.array(_draw(of_users, n, rng))),
                "action": actions.take(pa.array(rng.choice(4, n, p=[0.924, 0.001, 0.074, 0.001]))),
                "time": pa.array(times.astype("datetime64[s]")),
            })  # fmt: skip
            options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none", delimiter="\x01")
            pyarrow.csv.write_csv(table, file, options)


def _shares(n: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    return np.cumsum(rng.lognormal(0, spread, n))


def _draw(shares: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return np.searchsorted(shares, rng.random(n) * shares[-1]).clip(max=len(shares) - 1)


def by_pandas(path: Path) -> dict:
    """What one would write without thinking: read, drop duplicates, filter by group sizes until nothing changes."""
    import pandas as pd

    start = time.perf_counter()
    rows = pd.read_csv(path, dtype={"article_id": str}, usecols=["t_dat", "customer_id", "article_id"])
    read = time.perf_counter()
    rows = rows.sort_values("t_dat", kind="stable").drop_duplicates(["customer_id", "article_id"])
    deduplicated = time.perf_counter()
    while True:
        of_customer = rows.groupby("customer_id")["article_id"].transform("size")
        of_article = rows.groupby("article_id")["customer_id"].transform("size")
        kept = rows[(of_customer >= CORE) & (of_article >= CORE)]
        if len(kept) == len(rows):
            break
        rows = kept
    end = time.perf_counter()
    sizes = [rows["customer_id"].nunique(), rows["article_id"].nunique(), len(rows)]
    parts = {"read": read - start, "deduplicate": deduplicated - read, "core": end - deduplicated}
    return {"sizes": sizes, "seconds": end - start, "parts": parts}


def by_befa(path: Path) -> dict:
    """The filter as the stage runs it, without the item table's texts and the writing."""
    import pyarrow as pa

    from befa.datasets import DatasetConfig
    from befa.interactions import filter_events
    from befa.sources import hm

    config = DatasetConfig(kind="hm", source=None, core=CORE)
    start = time.perf_counter()
    with pa.OSFile(str(path)) as file:
        stats = filter_events(hm.transactions(file, path), lambda: iter(()), config).stats
    return {"sizes": [stats[n] for n in ("users", "items", "interactions")], "seconds": time.perf_counter() - start}


def log_by_befa(path: Path, actions: tuple[str, ...] | None = ("alipay", "collect", "cart")) -> dict:
    """A log of TMALL's form."""
    from befa.datasets import DatasetConfig
    from befa.interactions import filter_events
    from befa.sources import tmall

    config = DatasetConfig(kind="tmall", source=None, core=LOG_CORE, actions=actions)
    start = time.perf_counter()
    with path.open("rb") as file:
        stats = filter_events(
            tmall.log_events(file, path),
            lambda: iter(()),
            config,
            rows_in_memory=ROWS_IN_MEMORY,
            folder=path.parent,
        ).stats
    return {"sizes": [stats[n] for n in ("users", "items", "interactions")], "seconds": time.perf_counter() - start}


WAYS = {
    "pandas": by_pandas,
    "befa": by_befa,
    "log": log_by_befa,
    "log, every action kept": lambda path: log_by_befa(path, None),
}


def measured(way: str, path: Path) -> dict:
    """One way in a process of its own, for its own peak of memory."""
    ran = subprocess.run([sys.executable, __file__, "--way", way, str(path)], stdout=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        sys.exit(f"{way} failed")
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=31_788_324, help="rows of the H&M-shaped file; 0: not this part")
    parser.add_argument("--log-rows", type=float, nargs="*", default=[1e7, 3e7, 1e8], help="rows of TMALL-shaped logs")
    parser.add_argument("--folder", type=Path, help="where to generate the files (4 GB each; default: a temporary one)")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        way, path = arguments.way
        result = WAYS[way](Path(path))
        print(json.dumps({**result, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.rows:
            path = Path(folder) / "transactions_train.csv"
            generate_hm(path, int(arguments.rows))
            print(f"H&M-shaped: {int(arguments.rows):,} rows, {path.stat().st_size / 1e9:.2f} GB")
            reference, ours = measured("pandas", path), measured("befa", path)
            for name, result in (("pandas", reference), ("befa", ours)):
                print(f"  {name:7} {result['seconds']:7.1f} s  {result['gib']:6.2f} GiB  left: {result['sizes']}")
            same = reference["sizes"] == ours["sizes"]
            print(f"  ratio   {reference['seconds'] / ours['seconds']:7.1f}    same result: {same}")
            path.unlink()
        for rows in map(int, arguments.log_rows):
            path = Path(folder) / "log.txt"
            generate_tmall(path, rows)
            for way in ("log", "log, every action kept") if rows == max(arguments.log_rows) else ("log",):
                result = measured(way, path)
                rate = rows / result["seconds"] / 1e6
                print(
                    f"TMALL-shaped {way}: {rows:,} rows  {result['seconds']:.1f} s  {rate:.1f} M rows/s  "
                    f"{result['gib']:.2f} GiB  left: {result['sizes']}",
                    flush=True,
                )
            path.unlink()


if __name__ == "__main__":
    main()

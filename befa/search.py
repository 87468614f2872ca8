"""Nearest items by cosine, through faiss: an index of a feature store's vectors, in one file below data/indexes/.

faiss proposes candidates in float32; their cosines are then taken again in float64 and rounded to steps (as in
befa/neighbours.py), and equal ones are ordered by item id. Answers thus depend neither on how many queries come at
once nor on the order of the rows, and where the index is exact they are those of a loop over all items.
"""

import json
import logging
import zipfile
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float32, Int64

from befa import tables
from befa.errors import BefaError, ConfigError, DataError, FeatureError
from befa.feature_store import FeatureStore, Modality, check_ids, has_direction
from befa.neighbours import SPARE, certain, ranked, threads

log = logging.getLogger(__name__)

EXACT_UP_TO = 200_000
"""Items up to which every query is compared with every item: 0.1 s a query at most, on one core at width 512."""

PROBED_SHARE = 1 / 16
"""Share of the lists of an inexact index that a query looks into."""

FEWEST_PROBES = 16
"""Lists that a query looks into at least: in small indexes they are short, and neighbours are spread over several."""

SEED = 1
"""Of the lists' training."""

BLOCK = 4096
"""Vectors that are held in float64 at once."""

GPU_CANDIDATES = 2047
"""Most candidates that faiss finds on a GPU, and most lists that it looks into there; more: on the CPU."""

FORMAT = 1
"""Of the file; another one is built again."""


class Index:
    """Items by direction; `features_sha256` is the hash of the feature store that they are from.

    Exact (`lists` is 0) up to the number of items that `build` is given. Beyond it, items lie in about 4 sqrt(n)
    lists and a query looks into one in sixteen of them. Recall@10 on 300,000 x 64, at seven times the speed: 1.00 in
    3,000 clusters, 0.66 on noise without any structure.
    """

    def __init__(self, ids: Sequence[str], index: Any, features_sha256: str) -> None:
        self.ids = list(ids)
        """In ascending order, as the rows are."""
        self.features_sha256 = features_sha256
        self.lists: int = getattr(index, "nlist", 0)
        """How many lists the items lie in; 0 where the index is exact."""
        self._row = {item: row for row, item in enumerate(self.ids)}
        self._index = index
        self._searched = _on_gpu(index)

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        vectors_Id: Float[np.ndarray, "I d"],
        *,
        features_sha256: str,
        exact_up_to: int = EXACT_UP_TO,
    ) -> "Index":
        """An index of `vectors_Id`, row by row those of `ids`; their order and lengths do not matter.

        Raises FeatureError when ids are repeated, and for a vector that is zero or not finite: absent items are to be
        left out.
        """
        faiss = _faiss()
        check_ids(pa.chunked_array([pa.array(ids, pa.string())]), "the ids to index")
        if len(ids) != len(vectors_Id):
            raise FeatureError(f"{len(ids)} ids for {len(vectors_Id)} vectors", mend="give one id for each vector")
        # Python orders strings by code points, which is also the order of their bytes in UTF-8.
        order_I = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        wrong_I = ~has_direction(vectors_Id)
        if wrong_I.any():
            raise FeatureError(
                f"{wrong_I.sum()} vectors are zero or not finite (first: item {ids[int(np.argmax(wrong_I))]})",
                where="the vectors to index",
                mend="leave absent items out",
            )
        unit_Id, width = np.empty(vectors_Id.shape, np.float32), vectors_Id.shape[1]
        for start in range(0, len(ids), BLOCK):  # in float64, which is to exist for a block at a time
            unit_Id[start : start + BLOCK] = _unit(vectors_Id[order_I[start : start + BLOCK]])
        ids, lists = [ids[row] for row in order_I], lists_for(len(ids), exact_up_to)
        index = faiss.IndexFlatIP(width)
        with threads(faiss, 1):
            if lists:
                index = faiss.IndexIVFFlat(index, width, lists, faiss.METRIC_INNER_PRODUCT)
                index.cp.seed, index.cp.min_points_per_centroid = SEED, 1  # without it, small ones get a warning
                index.train(unit_Id)
            index.add(unit_Id)
        return cls(ids, index, features_sha256)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item: str) -> bool:
        return item in self._row

    def save(self, path: Path) -> None:
        """Writes one file, whole or not at all; same vectors, same bytes.

        It is a zip of about.json (which features it is of), items.json and index.faiss.
        """
        if self.lists:
            self._index.set_direct_map_type(_faiss().DirectMap.NoMap)  # there only if it was searched
        about = {"format": FORMAT, "features_sha256": self.features_sha256, "items": len(self)}
        members = {
            "about.json": json.dumps(about).encode(),
            "items.json": json.dumps(self.ids, ensure_ascii=False).encode(),
            "index.faiss": memoryview(_faiss().serialize_index(self._index)),
        }
        with tables.whole(path) as part, zipfile.ZipFile(part, "w") as archive:
            for name, content in members.items():
                # A ZipInfo of its own says 1980 for the time; writestr would say now.
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                    member.write(content)

    @classmethod
    def open(cls, path: Path, *, features_sha256: str) -> "Index | None":
        """The index at `path`, or None when it is to be built again.

        That is when there is none, it is of other features or another format, or (with a warning) it is unreadable.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                about = json.loads(archive.read("about.json"))
                if (about["format"], about["features_sha256"]) != (FORMAT, features_sha256):
                    return None
                ids = json.loads(archive.read("items.json"))
                index = _faiss().deserialize_index(np.frombuffer(archive.read("index.faiss"), np.uint8))
            if not len(ids) == about["items"] == index.ntotal:
                raise ValueError(f"{len(ids)} ids for {index.ntotal} vectors")
        except FileNotFoundError:
            return None
        except BefaError:
            raise
        except Exception as error:  # BadZipFile, KeyError, zlib.error, faiss' RuntimeError, ...: no common base
            log.warning("%s: unreadable (%s), it is built again", path, error)
            return None
        return cls(ids, index, features_sha256)

    def vector(self, item: str) -> Float32[np.ndarray, " d"]:
        """The direction of `item`. Raises DataError when it is not in the index."""
        if item not in self._row:
            raise DataError(f"no vector of item {item!r}", where="the index", mend="ask for one that is in the store")
        return self._vectors(np.array([self._row[item]]))[0]

    def neighbours(self, item: str, k: int) -> tuple[Float32[np.ndarray, " k"], list[str]]:
        """The `k` items nearest to `item`, itself not among them: cosines and ids. Errors as in `vector`, `nearest`."""
        scores_1k, [ids] = self.nearest(self.vector(item)[None], k + 1 if k > 0 else k)
        # Among more than k duplicates with lower ids it does not find itself: then the last is one too many.
        own = ids.index(item) if item in ids else len(ids) - 1
        return np.delete(scores_1k[0], own), ids[:own] + ids[own + 1 :]

    def nearest(self, query_Qd: Float[np.ndarray, "Q d"], k: int) -> tuple[Float32[np.ndarray, "Q k"], list[list[str]]]:
        """Cosines, falling, and ids of the items nearest to each query: `k`, or as many as there are.

        Raises ConfigError for k < 1, FeatureError for queries of another width and for one that is zero or not finite.
        """
        unit_Qd = self._directions(query_Qd)
        if k < 1:
            raise ConfigError(f"{k} nearest items are asked for", mend="ask for one at least")
        k = min(k, len(self))
        scores_Qk, ids = np.zeros((len(unit_Qd), k), np.float32), [[""] * k for _ in unit_Qd]
        waiting, candidates, probes = list(range(len(unit_Qd) if k else 0)), k + SPARE, self._probes()
        while waiting:
            candidates, probes = min(candidates, len(self)), min(probes, self.lists)
            last = candidates == len(self) and probes == self.lists
            rough_Wc, rows_Wc = self._propose(unit_Qd[waiting].astype(np.float32), candidates, probes)
            unsure = []
            for query, rough_c, rows_c in zip(waiting, rough_Wc, rows_Wc, strict=True):
                cosines_k, rows_k = self._refined(unit_Qd[query], rows_c[rows_c >= 0], k)
                if last or (len(rows_k) == k and self._certain(rough_c, cosines_k)):
                    scores_Qk[query], ids[query] = cosines_k, [self.ids[row] for row in rows_k]
                else:
                    unsure.append(query)
            # Many equal vectors (a shop's placeholder picture, say): the one of lowest id may lie beyond.
            waiting, candidates, probes = unsure, 4 * candidates, 4 * probes
        return scores_Qk, ids

    def _directions(self, query_Qd: np.ndarray) -> Float[np.ndarray, "Q d"]:
        if query_Qd.shape[1] != self._index.d:
            raise FeatureError(
                f"queries are {query_Qd.shape[1]} wide, the index is {self._index.d}",
                mend="encode them with the encoder that the index is of",
            )
        wrong_Q = ~has_direction(query_Qd)
        if wrong_Q.any():
            raise FeatureError(
                f"query {int(np.argmax(wrong_Q))} is zero or not finite, and has no direction to search in",
                mend="ask with the vector of an item that is present, or another text",
            )
        return _unit(query_Qd)

    def _probes(self) -> int:
        return max(FEWEST_PROBES, int(self.lists * PROBED_SHARE))

    def _propose(
        self, unit_Wd: Float32[np.ndarray, "W d"], candidates: int, probes: int
    ) -> tuple[Float32[np.ndarray, "W c"], Int64[np.ndarray, "W c"]]:
        """What faiss finds, best first: cosines and rows, -1 where there are no more in the lists looked into."""
        index = self._searched if max(candidates, probes) <= GPU_CANDIDATES else self._index
        with threads(_faiss(), 1):
            if not self.lists:
                return index.search(unit_Wd, candidates)
            return index.search(unit_Wd, candidates, params=_faiss().SearchParametersIVF(nprobe=probes))

    def _refined(
        self, unit_d: Float[np.ndarray, " d"], rows_c: Int64[np.ndarray, " c"], k: int
    ) -> tuple[Float[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """The best `k` of the candidates `rows_c`, cosines first, then ids (that is, rows)."""
        parts = [rows_c[start : start + BLOCK] for start in range(0, len(rows_c), BLOCK)]
        exact = [np.einsum("cd,d->c", self._vectors(rows).astype(np.float64), unit_d) for rows in parts]
        cosines_1c = torch.from_numpy(np.concatenate([np.zeros(0), *exact]))[None]
        best_1k, rows_1k = ranked(cosines_1c, torch.from_numpy(rows_c)[None], k)
        return best_1k[0].numpy(), rows_1k[0].numpy()

    def _certain(self, rough_c: Float32[np.ndarray, " c"], cosines_k: Float[np.ndarray, " k"]) -> bool:
        found = torch.from_numpy(rough_c)[None], torch.from_numpy(cosines_k)[None]
        return bool(certain(*found, self._index.d))

    def _vectors(self, rows_n: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
        if self.lists and self._index.direct_map.no():
            self._index.make_direct_map()  # from an item to its place in a list; not part of the file
        return self._index.reconstruct_batch(rows_n)


def open_or_build(
    store_path: Path,
    index_path: Path,
    *,
    dataset: str,
    encoder: str,
    modality: Modality,
    exact_up_to: int = EXACT_UP_TO,
) -> Index:
    """The index of the present vectors of the store at `store_path`, kept at `index_path` and built only if need be.

    That is: when there is none, or the store's bytes are others than it was built from. Raises FeatureError when the
    store is absent, broken, or of another dataset, encoder or modality.
    """
    if store_path.is_file():
        features_sha256 = tables.sha256_of(store_path)
        found = Index.open(index_path, features_sha256=features_sha256)
        if found is not None and found.lists == lists_for(len(found), exact_up_to):
            return found
    store = FeatureStore.open(store_path, dataset=dataset, encoder=encoder, modality=modality)
    items = tables.read_table(store_path, ["item"])["item"].to_pylist()
    vectors_Id, present_I = store.aligned(items, max_missing=1.0)
    ids = [item for item, present in zip(items, present_I, strict=True) if present]
    index = Index.build(ids, vectors_Id[present_I], features_sha256=features_sha256, exact_up_to=exact_up_to)
    try:
        index.save(index_path)
        log.info("%s: index of %s items built", index_path, f"{len(index):,}")
    except OSError as error:  # a machine that only looks things up need not be allowed to write
        log.warning("%s: the index cannot be kept (%s), it is built at every search", index_path, error)
    return index


def lists_for(items: int, exact_up_to: int) -> int:
    """Into how many lists an index divides its items: 0 (none, it is exact) up to `exact_up_to`, then 4 sqrt(items)."""
    return 0 if items <= max(exact_up_to, 16) else 4 * isqrt(items)  # of fewer than 16 items, 4 sqrt is more than all


def _unit(x_nd: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1, in float64. Divided by the largest entry first: squares of tiny ones would be 0."""
    x_nd = x_nd.astype(np.float64)
    x_nd = x_nd / abs(x_nd).max(1, initial=0, keepdims=True)
    return x_nd / np.linalg.norm(x_nd, axis=1, keepdims=True)


def _on_gpu(index: Any) -> Any:
    """The index where it is searched: a copy on the GPU where faiss has one, else itself."""
    faiss = _faiss()
    # The CPU's build has neither function.
    if getattr(faiss, "get_num_gpus", int)() == 0:
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def _faiss() -> ModuleType:
    try:
        import faiss  # here: it is an extra, on the CPU or on the GPU
    except ImportError:
        raise ConfigError("faiss is not installed", mend="run `make environment`, which installs it") from None
    return faiss

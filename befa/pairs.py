"""Interactions as numbers, in bounded memory: pieces of sorted unique pairs, on disk where they are many."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from scipy import sparse

from befa.parallel import ordered

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""User, item (int32) and time (int64 seconds) of some rows."""


class Spool:
    """Rows put in and read back in order: up to `rows_in_memory` of them in memory, what comes after on disk."""

    def __init__(self, rows_in_memory: int, folder: Path | None = None) -> None:
        self.rows = 0
        self._rows_in_memory, self._folder = rows_in_memory, folder
        self._held: list[Columns] = []
        self._file = None
        self._chunks_on_disk = 0

    def append(self, user_E: np.ndarray, item_E: np.ndarray, time_E: np.ndarray) -> None:
        """Adds rows."""
        self.rows += len(user_E)
        if self._file is None and self.rows <= self._rows_in_memory:
            self._held.append((user_E, item_E, time_E))
            return
        if self._file is None:
            # Without a name: nothing is left behind, however the process ends.
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the last reference
        self._file.seek(0, 2)
        for column in (user_E, item_E, time_E):
            np.save(self._file, column)
        self._chunks_on_disk += 1

    def chunks(self, *, forget: bool = False) -> Iterator[Columns]:
        """Rows as they came, chunk by chunk; `forget` frees each chunk held in memory once it is read."""
        for place, columns in enumerate(self._held):
            yield columns
            if forget:
                self._held[place] = ()
        if self._file is not None:
            self._file.seek(0)
            for _ in range(self._chunks_on_disk):
                yield tuple(np.load(self._file) for _ in range(3))

    def columns(self, *, forget: bool = False) -> Columns:
        """All rows at once."""
        chunks = list(self.chunks(forget=forget))
        if len(chunks) == 1:
            return chunks[0]
        empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
        return tuple(np.concatenate(parts) for parts in zip(empty, *chunks, strict=True))


def partition(rows: Spool, users: int, pieces: int, *, rows_in_memory: int, folder: Path | None = None) -> list[Spool]:
    """Divides rows into `pieces` of about as many rows, each of a range of users, in the order of users."""
    if pieces == 1:
        return [rows]
    count_U = np.zeros(users, np.int64)
    for user_E, _, _ in rows.chunks():
        np.add.at(count_U, user_E, 1)  # not bincount: a chunk is far shorter than the list of users
    # The piece of a user: which share of all rows lies before the user's.
    before_U = np.cumsum(count_U) - count_U
    piece_U = (before_U * pieces // max(1, rows.rows)).astype(np.uint16)
    divided = [Spool(rows_in_memory // pieces, folder) for _ in range(pieces)]

    def by_piece(columns: Columns) -> tuple[np.ndarray, list[np.ndarray]]:
        piece_E = piece_U[columns[0]]
        order = np.argsort(piece_E, kind="stable")  # of 16 bits: numpy sorts by counting
        return np.cumsum(np.bincount(piece_E, minlength=pieces)), [column[order] for column in columns]

    for ends, columns in ordered(by_piece, rows.chunks(forget=True)):
        for piece, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                divided[piece].append(*(column[start:end] for column in columns))
    return divided


def unique_pieces(pieces: list[Spool], items: int, *, rows_in_memory: int, folder: Path | None = None) -> list[Spool]:
    """Each piece with every pair once (see `unique`); empties the list that it is given."""

    def taken() -> Iterator[Columns]:
        while pieces:
            yield pieces.pop(0).columns(forget=True)  # with the piece its file is closed

    share, results = rows_in_memory // max(1, len(pieces)), []
    for columns in ordered(lambda columns: unique(columns, items), taken()):
        results.append(Spool(share, folder))
        results[-1].append(*columns)
    return results


def unique(columns: Columns, items: int) -> Columns:
    """Each (user, item) once, with its earliest time; sorted by user, then item."""
    user_E, item_E, time_E = columns
    if not len(user_E):
        return columns
    first = user_E.min()
    order, end_I, time_E = _sorted(item_E, time_E, items)
    user_E, item_E = user_E[order] - first, np.repeat(np.arange(items, dtype=np.int32), np.diff(end_I))
    order, end_U, time_E = _sorted(user_E, time_E, int(user_E.max()) + 1)
    user_E = np.repeat(np.arange(len(end_U) - 1, dtype=np.int32), np.diff(end_U)) + first
    item_E = item_E[order]
    begins_E = np.ones(len(user_E), bool)
    begins_E[1:] = (user_E[1:] != user_E[:-1]) | (item_E[1:] != item_E[:-1])
    starts = np.flatnonzero(begins_E)
    return user_E[starts], item_E[starts], np.minimum.reduceat(time_E, starts)


def _sorted(
    key_E: Int[np.ndarray, " E"], time_E: Int[np.ndarray, " E"], keys: int
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " ends"], Int[np.ndarray, " E"]]:
    """The stable order of rows by key, where each key's rows end, and the times in that order.

    Changing a sparse matrix of one entry a row from rows to columns is a sort by counting: linear, and outside Python's
    lock, so that two of them run at a time (half of the time of Polars' sort).
    """
    shape, ends = (len(key_E), keys), np.arange(len(key_E) + 1, dtype=np.int32)
    columns = sparse.csr_array((time_E, key_E, ends), shape=shape).tocsc()
    return columns.indices, columns.indptr, columns.data


def k_core(
    pieces: Sequence[Spool], users: int, items: int, k: int
) -> tuple[Bool[np.ndarray, " U"], Bool[np.ndarray, " I"], list[dict[str, int]]]:
    """Who is in the largest set of pairs in which every user and item has at least `k`; and what each round left.

    Each round drops the users and items that have fewer than `k` at its start, until none is dropped: the result
    depends neither on the order of rows nor on which side goes first. Pairs are unique. The first entry of the rounds
    is what there was before the first.
    """
    degree_U, degree_I = np.zeros(users, np.int64), np.zeros(items, np.int64)
    for piece in pieces:
        for user_E, item_E, _ in piece.chunks():
            degree_U += np.bincount(user_E, minlength=users)
            degree_I += np.bincount(item_E, minlength=items)
    alive_U, alive_I = degree_U > 0, degree_I > 0
    rounds = []
    while True:
        left = {"users": int(alive_U.sum()), "items": int(alive_I.sum()), "interactions": int(degree_U.sum())}
        rounds.append(left)
        poor_U, poor_I = alive_U & (degree_U < k), alive_I & (degree_I < k)
        if not (poor_U.any() or poor_I.any()):
            return alive_U, alive_I, rounds
        lost_U, lost_I = np.zeros_like(degree_U), np.zeros_like(degree_I)
        for piece in pieces:
            for user_E, item_E, _ in piece.chunks():
                dropped = np.flatnonzero(poor_U[user_E] | poor_I[item_E])
                # Those of earlier rounds are still among the rows.
                dropped = dropped[alive_U[user_E[dropped]] & alive_I[item_E[dropped]]]
                lost_U += np.bincount(user_E[dropped], minlength=users)
                lost_I += np.bincount(item_E[dropped], minlength=items)
        degree_U -= lost_U
        degree_I -= lost_I
        # Poor ones go, and so do those whose last neighbour went.
        alive_U, alive_I = alive_U & ~poor_U & (degree_U > 0), alive_I & ~poor_I & (degree_I > 0)

"""Raw ids to numbers, batch by batch, in memory that grows with the distinct ids and not with the rows."""

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int, UInt64

EMPTY = -1


class Ids:
    """Numbers distinct strings 0, 1, 2, ... in the order of their first appearance.

    A hash table whose probes run over whole batches: strings looked up one by one in a dictionary of millions wait for
    memory at every row, and took half of the time of a whole filter. Strings are told apart by a hash of 64 bits among
    those that another hash sends to one place: in a hundred million ids, the chance that two are confused is 1e-10.
    """

    def __init__(self) -> None:
        self._size = 0
        self._slots = np.full(1 << 10, EMPTY, np.int32)  # codes, placed by hash; at most half full
        self._place_N = np.zeros(0, np.uint64)  # the hash that says where a code is placed
        self._hash_N = np.zeros(0, np.uint64)  # the one that tells ids apart
        self._names: list[pa.Array] = []

    def __len__(self) -> int:
        return self._size

    def encode(self, column_E: pa.StringArray) -> Int[np.ndarray, " E"]:
        """The code of every row, int32; ids not seen before are given the next ones."""
        strings = pl.from_arrow(column_E)
        hash_E = strings.hash(seed=1).to_numpy()
        begins_E = np.ones(len(hash_E), bool)
        np.not_equal(hash_E[1:], hash_E[:-1], out=begins_E[1:])
        starts = np.flatnonzero(begins_E)
        if 2 * len(starts) > len(hash_E):
            return self._encode(column_E, strings.hash(seed=2).to_numpy(), hash_E)
        # Logs are written in runs: a basket repeats its customer, so only the first row of a run is looked up.
        place_R = strings.gather(starts).hash(seed=2).to_numpy()
        code_R = self._encode(column_E.take(pa.array(starts)), place_R, hash_E[starts])
        return np.repeat(code_R, np.diff(starts, append=len(hash_E)))

    def _encode(
        self, column_R: pa.StringArray, place_R: UInt64[np.ndarray, " R"], hash_R: UInt64[np.ndarray, " R"]
    ) -> Int[np.ndarray, " R"]:
        code_R = self._find(place_R, hash_R)
        # A second round only for two new ids of one hash and different places.
        while len(unseen := np.flatnonzero(code_R == EMPTY)):
            _, first = np.unique(hash_R[unseen], return_index=True)
            new = unseen[np.sort(first)]
            self._add(place_R[new], hash_R[new], column_R.take(pa.array(new)))
            code_R[unseen] = self._find(place_R[unseen], hash_R[unseen])
        return code_R

    def names(self) -> pa.Array:
        """The distinct ids, by code."""
        return pa.concat_arrays([pa.array([], pa.large_string()), *self._names])

    def ranks(self) -> tuple[Int[np.ndarray, " N"], pa.Array]:
        """For every code its place among the sorted ids (int32), and the sorted ids."""
        names = self.names()
        order = pl.from_arrow(names).arg_sort().to_numpy()
        rank_N = np.empty(len(names), np.int32)
        rank_N[order] = np.arange(len(names), dtype=np.int32)
        return rank_N, names.take(pa.array(order))

    def _find(self, place_R: UInt64[np.ndarray, " R"], hash_R: UInt64[np.ndarray, " R"]) -> Int[np.ndarray, " R"]:
        """Codes; EMPTY for the unknown."""
        if not self._size:
            return np.full(len(hash_R), EMPTY, np.int32)
        last = len(self._slots) - 1
        slot_R = (place_R & np.uint64(last)).view(np.int64)
        code_R = self._slots[slot_R]
        todo = np.flatnonzero((self._hash_N[code_R] != hash_R) & (code_R != EMPTY))
        while len(todo):  # the slot is another id's: the next one
            slot_R[todo] = (slot_R[todo] + 1) & last
            code_R[todo] = code = self._slots[slot_R[todo]]
            todo = todo[(self._hash_N[code] != hash_R[todo]) & (code != EMPTY)]
        return code_R

    def _add(self, place_N: UInt64[np.ndarray, " N"], hash_N: UInt64[np.ndarray, " N"], names: pa.Array) -> None:
        """Gives new ids, distinct ones, the next codes."""
        size = self._size + len(names)
        if size > len(self._hash_N):
            self._place_N, self._hash_N = (np.resize(old, 2 * size) for old in (self._place_N, self._hash_N))
        self._place_N[self._size : size], self._hash_N[self._size : size] = place_N, hash_N
        # Offsets of 64 bits: the names of a hundred million customers are longer than 2 GiB.
        self._names.append(names.cast(pa.large_string()))
        new = np.arange(self._size, size, dtype=np.int32)
        self._size = size
        if 2 * size > len(self._slots):
            self._slots = np.full(1 << (4 * size).bit_length(), EMPTY, np.int32)
            new = np.arange(size, dtype=np.int32)
        self._settle(new)

    def _settle(self, code_N: Int[np.ndarray, " N"]) -> None:
        """Writes codes into free slots; of several that want one slot the last gets it, the others try the next."""
        last = len(self._slots) - 1
        slot_N = (self._place_N[code_N] & np.uint64(last)).view(np.int64)
        while len(code_N):
            free = self._slots[slot_N] == EMPTY
            self._slots[slot_N[free]] = code_N[free]
            lost = self._slots[slot_N] != code_N
            code_N, slot_N = code_N[lost], (slot_N[lost] + 1) & last

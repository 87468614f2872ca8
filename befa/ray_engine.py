"""Encoding on a Ray cluster, or on all GPUs of one machine: a local engine in every partition of the items."""

import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

import befa
from befa.encoders.base import Encoder
from befa.encoding import About, LocalEngine, Piece
from befa.errors import BefaError, ConfigError, FeatureError, first_line
from befa.feature_store import Modality
from befa.images import ImageFiles

OBJECT_STORE = 2**29
"""Bytes of a local cluster's shared memory; it holds hashes and the vectors of a few batches."""


class RayEngine:
    """Encodes in partitions by the hash of the item's id, each an actor with an encoder of its own.

    With GPUs there is one partition for each of them, which shares the cluster's CPUs with the others to read and
    decode; else one for each CPU, which decodes by itself. The same reader, batches and tower as in LocalEngine give
    the same vectors; parts and store are written here, so a killed run is taken up by any engine. All nodes see the
    same files under the same paths (a shared folder), and get this package from here. Partitions hold their CPUs and
    GPUs as long as the engine lives, and a second one waits for them.

    `load`: gives the encoder on a device; it is pickled. `address`: of the cluster; None: the environment's
    RAY_ADDRESS, or a cluster of this machine alone, that ends with this process. Raises ConfigError when Ray is not
    installed or the cluster cannot be reached, FeatureError when its nodes see other weights or no files.
    """

    def __init__(
        self,
        load: Callable[[str], Encoder],
        modality: Modality,
        files: ImageFiles | None = None,
        *,
        batch_size: int,
        workers: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        partitions: int | None = None,
        address: str | None = None,
    ) -> None:
        self._ray = _connected(address)
        resources = self._ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 1)), 0 if device == "cpu" else int(resources.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise ConfigError("the Ray cluster has no GPU", mend="set encode.device to cpu, or add a node with one")
        n = max(1, min(partitions or gpus or cpus, gpus or cpus, cpus))  # each has a CPU, or would wait for ever
        readers = (max(0, cpus // n - 1) if gpus else 0) if workers is None else workers
        actor = self._ray.remote(_Partition).options(num_cpus=1, num_gpus=1 if gpus else 0)
        self._partitions = [
            actor.remote(load, modality, files, batch_size, readers, "cuda" if gpus else "cpu") for _ in range(n)
        ]
        abouts = self._got([partition.about.remote() for partition in self._partitions])
        if any(about != abouts[0] for about in abouts):
            raise FeatureError(
                "the nodes of the Ray cluster load different encoders", mend="give all of them the same weights"
            )
        self.about: About = abouts[0]

    def run(self, items: pa.Table, known: frozenset[str]) -> Iterator[Piece]:
        """See encoding.Engine; pieces come in the order in which they are ready."""
        ray, shared = self._ray, self._ray.put(known)
        place_I = np.array([partition_of(item, len(self._partitions)) for item in items["item"].to_pylist()])
        streams = [
            partition.run.options(num_returns="streaming").remote(items.filter(pa.array(place_I == number)), shared)
            for number, partition in enumerate(self._partitions)
        ]
        while streams:
            [stream, *_], _ = ray.wait(streams, num_returns=1)
            try:
                yield self._got(next(stream))
            except StopIteration:
                streams.remove(stream)

    def _got(self, reference: Any) -> Any:
        """What a reference stands for; errors of the project as themselves."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BefaError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayActorError as error:
            raise FeatureError(
                f"a partition died on the Ray cluster ({first_line(error)})",
                mend="run again, what was encoded is kept",
            ) from None


def partition_of(item: str, partitions: int) -> int:
    """Which of `partitions` an item lies in, by the hash of its id: the same on every machine and in every run."""
    return int(sha256(item.encode()).hexdigest()[:15], 16) % partitions


class _Partition:
    """What runs on a node: an engine that hands its pieces over."""

    def __init__(
        self,
        load: Callable[[str], Encoder],
        modality: Modality,
        files: ImageFiles | None,
        batch_size: int,
        workers: int,
        device: str,
    ) -> None:
        self._load, self._device, self._files = load, device, files if modality == "image" else None
        self._settings = {"modality": modality, "batch_size": batch_size, "workers": workers}

    def about(self) -> About:
        """Loads the encoder: here and not above, because Ray hands an error in a constructor on as its own."""
        if self._files is not None and not self._files.raw.is_dir():
            # Without it, every picture would be recorded as missing.
            raise FeatureError(
                f"the node {os.uname().nodename} sees no such folder",
                where=self._files.raw,
                mend="give all nodes of the Ray cluster the project's folder under one path",
            )
        torch.set_num_threads(1)
        self._engine = LocalEngine(self._load(self._device), files=self._files, **self._settings)
        return self._engine.about

    def run(self, items: pa.Table, known: frozenset[str]) -> Iterator[Piece]:
        yield from self._engine.run(items, known)


def _connected(address: str | None) -> Any:
    """The module ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"Ray cannot be imported ({error})", mend="run `make environment`, which installs it"
        ) from None
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    modules: Sequence[Any] = [befa]
    try:
        ray.init(
            address=address or "local",
            runtime_env={"py_modules": modules},
            log_to_driver=False,
            logging_level="warning",
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConfigError(
            f"no Ray cluster can be reached ({first_line(error)})",
            where=address or "this machine",
            mend="correct encode.address in params.yaml or the environment's RAY_ADDRESS, start one (`ray start "
            "--head`), or give its machines and this one the same RAY_AUTH_MODE and token (docs/encoding.md)",
        ) from None
    return ray

"""An epoch of every recommender, phase by phase, against the field's formulation of the same mathematics.

    .venv/bin/python benchmarks/bench_train.py [--models bm3 mgcn] [--threads 1 2] [--repeats 3]
    .venv/bin/python benchmarks/bench_train.py --large [--models bm3]

First form: TMALL's size (13,104 users, 7,848 items, 151,928 interactions, 124,107 of them for training; two modalities
of 512), d 64, batches of 2,048, generated. For each model: seconds to make it (LATTICE's item graphs, say), and of
sampling, forward and loss, backward, optimiser and evaluation; of an epoch by befa and, in the same run, by
benchmarks/reference.py, whose losses are the same (tests/test_reference_formulation.py); the issue's figure for the
public code on two cores of another machine; peak memory; and how much longer an epoch takes with BeFA. Ways alternate,
a process each, and the quickest of `--repeats` counts. With one thread, seconds are the process's own (CPU seconds), so
that other work on the machine counts little; with more they are wall time. LATTICE's reference, whose first batch takes
minutes, runs a few; the rest of its epoch and of its evaluation is extrapolated.

`--large`: one million users, 100,000 items, 8 million interactions; the first batches of an epoch and its peak memory,
the epoch extrapolated.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

ISSUE = {
    "bpr": (0.51, 1), "vbpr": (1.65, 3), "lightgcn": (3.2, 2), "freedom": (4.1, 3), "bm3": (5.4, 3), "mgcn": (11.3, 3),
    "lattice": (44, 15), "lattice_released": (15, 3),
}  # fmt: skip
"""Seconds of an epoch by the public implementations, two cores, and how many times faster befa is to be."""
BASE = {"lattice_released": "befa"}
"""The adapter of the first line, where it is not `none`: the published host has BeFA in it."""
SIZES = {False: (13_104, 7_848, 151_928, 124_107), True: (1_000_000, 100_000, 8_000_000, 7_800_000)}
"""Users, items, interactions, those for training; plain and large."""
WIDTH, BATCH = 512, 2048
LARGE_BATCHES, SLOW_BATCHES = 5, 3
PHASES = ("sampling", "loss", "backward", "optimiser")


def interactions(n_users: int, n_items: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Unique pairs, in order, log-normal shares of users and items; every user and item has one at least."""
    of_users, of_items = (np.cumsum(rng.lognormal(0, spread, m)) for m, spread in ((n_users, 0.7), (n_items, 1.2)))
    first = np.arange(n_users) * n_items + np.arange(n_users) % n_items
    pairs = np.union1d(first, rng.integers(0, n_users, n_items) * n_items + np.arange(n_items))
    while len(pairs) < n:
        m = (n - len(pairs)) * 5 // 4 + 100
        users = np.searchsorted(of_users, rng.random(m) * of_users[-1]).clip(max=n_users - 1)
        items = np.searchsorted(of_items, rng.random(m) * of_items[-1]).clip(max=n_items - 1)
        new = np.setdiff1d(users * n_items + items, pairs)
        pairs = np.union1d(pairs, rng.permutation(new)[: n - len(pairs)])
    return pairs // n_items, pairs % n_items


def generated(large: bool):
    """The problem, and the interactions that are not for training."""
    import torch

    from befa.metrics import Interactions
    from befa.problem import Content, Problem

    n_users, n_items, n, n_train = SIZES[large]
    rng, everyone = np.random.default_rng(1), torch.ones(n_items, dtype=torch.bool)
    users, items = interactions(n_users, n_items, n, rng)
    train = np.zeros(n, dtype=bool)
    train[rng.permutation(n)[:n_train]] = True
    contents = {}
    for modality in ("image", "text"):
        values = rng.standard_normal((n_items, WIDTH), dtype=np.float32)
        centres = rng.standard_normal((200, WIDTH), dtype=np.float32)
        for part, kind in zip(
            np.array_split(values, 50), np.array_split(rng.integers(0, 200, n_items), 50), strict=True
        ):
            part += centres[kind]
        contents[modality] = Content(torch.from_numpy(values), everyone)
    problem = Problem(n_users, n_items, torch.from_numpy(users[train]), torch.from_numpy(items[train]), contents)
    return problem, Interactions.of(users[~train], items[~train], n_users)


class Timed:
    """Seconds by phase."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._clock, self._last = clock, clock()

    def phase(self, name: str) -> None:
        """Ends one."""
        now = self._clock()
        self.seconds[name] += now - self._last
        self._last = now


def measured(name: str, adapter: str, way: str, threads: int, frozen: bool, large: bool, most: int | None) -> dict:
    """One epoch, after two batches to warm up, and one evaluation, in this process."""
    import reference
    import torch

    from befa.adam import Adam
    from befa.adapters import ADAPTERS
    from befa.devices import keep_freed_memory
    from befa.models import MODELS
    from befa.rng import stream
    from befa.sampling import batches
    from befa.training import validate

    clock = time.process_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error" if way == "befa" else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(1)
    if way == "befa":
        keep_freed_memory()
    problem, valid = generated(large)
    given = peak()
    kind, make, start = MODELS[name], ADAPTERS[adapter], clock()
    settings = {"trainable_features": not frozen} if hasattr(kind.Config(), "trainable_features") else {}
    settings = {} if name == "vbpr" and not frozen else settings  # its features are fixed by default
    config = kind.Config(**settings)
    adapters = {m: make(make.Config(), config.width, rng=stream(1, "adapter", m)) for m in problem.contents}
    model = kind(problem, adapters, config, rng=stream(1, "init"))
    sampler = reference.Sampler(problem, 1) if way == "reference" else None
    if way == "reference":
        model = reference.FORMULATIONS[name](model, problem)
    else:
        problem = replace(problem, contents={})  # as pipelines/fitting.py does
    init, noise = clock() - start, stream(1, "noise")
    optimizer = (Adam if way == "befa" else torch.optim.Adam)(model.parameters(), 1e-3)
    total = -(-len(problem.users_E) // BATCH)
    slow = way == "reference" and name == "lattice"
    run = min(LARGE_BATCHES if large else SLOW_BATCHES if slow else total, most or total)

    def epoch(limit: int, seed: str) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds by phase, of the first batch and of the others."""
        model.train()
        drawn = batches(problem, BATCH, rng=stream(1, seed))
        if way == "reference":  # which samples by itself
            drawn = list(drawn)
        first, timed = {}, Timed(clock)
        for number, batch in enumerate(drawn):
            if way == "reference":
                batch.negatives_B.copy_(sampler.negatives(batch.users_B))
            timed.phase("sampling")
            loss = model.loss(batch, rng=noise) if way == "befa" else model.loss(batch)
            timed.phase("loss")
            loss.backward()
            timed.phase("backward")
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            timed.phase("optimiser")
            if number == 0:
                first = dict(timed.seconds)
            if number + 1 == limit:
                break
        return first, {phase: timed.seconds[phase] - first[phase] for phase in PHASES}

    if not slow:
        epoch(2, "warm")
    first, rest = epoch(run, "epoch")
    seconds = {phase: first[phase] + rest[phase] / (run - 1) * (total - 1) for phase in PHASES}
    trained, evaluation = peak(), None
    if not large:
        train = problem.train
        users = np.flatnonzero((valid.counts > 0) & (train.counts > 0))
        asked = users[: reference.EVALUATED_AT_ONCE] if slow else users
        model.eval()
        start = clock()
        if way == "befa":
            validate(model, problem, valid)
        else:
            reference.evaluated(model, train, valid, asked)
        evaluation = (clock() - start) * len(users) / len(asked)
    return {
        "init": init,
        **seconds,
        "epoch": sum(seconds.values()),
        "evaluation": evaluation,
        "gib": peak(),
        "gib_trained": trained,
        "gib_data": given,
        "extrapolated": run < total,
    }


def peak() -> float:
    """Of this process's memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def best(jobs: list[tuple], repeats: int) -> list[dict]:
    """Each job's quickest figures, a process each time, the jobs in turn."""
    found: list[dict] = [{} for _ in jobs]
    for _ in range(repeats):
        for job, result in zip(jobs, found, strict=True):
            ran = subprocess.run(
                [sys.executable, __file__, "--job", json.dumps(job)], stdout=subprocess.PIPE, text=True
            )
            if ran.returncode != 0:
                sys.exit(f"{job} failed")
            new = json.loads(ran.stdout.splitlines()[-1])
            evaluations = [r["evaluation"] for r in (result, new) if r.get("evaluation") is not None]
            if not result or new["epoch"] < result["epoch"]:
                result.update(new)
            result["evaluation"] = min(evaluations, default=None)
    return found


def plain(names: list[str], threads: int, repeats: int, most: int | None) -> None:
    """The table of one number of threads."""
    print(f"\n{threads} thread{'s' * (threads > 1)}; seconds of an epoch, phases of befa's; e: extrapolated")
    print(f"{'':29}{'init':>7}{'sample':>7}{'loss':>7}{'backw':>7}{'optim':>7}{'epoch':>8}{'refer.':>9}{'ratio':>6}{'issue':>7}"
          f"{'ratio':>6}{'wanted':>7}{'eval':>7}{'refer.':>8}{'GiB':>6}{'refer.':>7}{'with BeFA':>11}")  # fmt: skip
    for name in names:
        base, (issue, wanted) = BASE.get(name, "none"), ISSUE[name]
        has_content = name not in ("bpr", "lightgcn")
        jobs = [
            (name, base, "befa", threads, False, False, most),
            (name, base, "reference", threads, False, False, most),
        ]
        jobs += [(name, "none" if base == "befa" else "befa", "befa", threads, False, False, most)] * has_content
        jobs += [(name, base, "befa", threads, True, False, most)] * (has_content and name != "vbpr")
        ours, theirs, *others = best(jobs, repeats)
        with_befa = ""
        if others:
            pair = (others[0], ours) if base == "befa" else (ours, others[0])
            with_befa = f"{pair[1]['epoch'] / pair[0]['epoch']:.2f} x"
        print(f"{name + ' + ' + base:29}" + "".join(f"{ours[p]:7.2f}" for p in ("init", *PHASES))
              + f"{ours['epoch']:8.2f}{theirs['epoch']:8.2f}{'e' if theirs['extrapolated'] else ' '}"
              f"{theirs['epoch'] / ours['epoch']:6.1f}{issue:7.2f}{issue / ours['epoch']:6.1f}{wanted:7}"
              f"{ours['evaluation']:7.2f}{theirs['evaluation']:8.2f}{ours['gib']:6.2f}{theirs['gib']:7.2f}{with_befa:>11}",
              flush=True)  # fmt: skip
        for job, other in zip(jobs[2:], others, strict=True):
            label = f"  {job[1]}, features {'fixed' if job[4] else 'trained' if name != 'vbpr' else 'fixed'}"
            seconds = "".join(f"{other[p]:7.2f}" for p in ("init", *PHASES))
            print(f"{label:29}{seconds}{other['epoch']:8.2f}"
                  f"{'':35}{other['evaluation']:7.2f}{'':8}{other['gib']:6.2f}", flush=True)  # fmt: skip


def large(names: list[str], adapters: list[str], threads: int) -> None:
    """The table of the large problem."""
    n_users, n_items, _, n_train = SIZES[True]
    total = -(-n_train // BATCH)
    print(f"\n{n_users:,} users, {n_items:,} items, {n_train:,} training interactions, two modalities of {WIDTH}")
    print(f"threads: {threads}; {LARGE_BATCHES} batches of {total:,}, the epoch extrapolated")
    print(f"{'':29}{'init s':>8}{'ms a batch':>12}{'epoch min':>11}{'GiB':>7}{'of it data':>12}")
    for name in names:
        for adapter in adapters if name not in ("bpr", "lightgcn") else ["none"]:
            (found,) = best([(name, adapter, "befa", threads, False, True, None)], 1)
            per_batch = found["epoch"] / total * 1e3
            print(f"{name + ' + ' + adapter:29}{found['init']:8.1f}{per_batch:12.0f}{found['epoch'] / 60:11.1f}"
                  f"{found['gib']:7.2f}{found['gib_data']:12.2f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(ISSUE), choices=list(ISSUE))
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2, help="processes of each kind; the quickest counts")
    parser.add_argument("--batches", type=int, help="stop an epoch after so many (2 at least) and extrapolate")
    parser.add_argument("--large", action="store_true", help="the large problem in place of TMALL's size")
    parser.add_argument(
        "--adapters", nargs="*", default=["none", "befa"], choices=["none", "befa"], help="with --large"
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measured(*json.loads(arguments.job))))
    elif arguments.large:
        large(arguments.models, arguments.adapters, max(arguments.threads))
    else:
        for threads in arguments.threads:
            plain(arguments.models, threads, arguments.repeats, arguments.batches)


if __name__ == "__main__":
    main()

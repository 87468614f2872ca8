"""How items' content lies on the sphere, before and after the adapter: Figure 9 of arXiv 2406.00323, and as numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist
from scipy.stats import gaussian_kde
from torch import nn

from befa import figures
from befa.config import configuration
from befa.errors import ConfigError, DataError
from befa.models.base import evaluating
from befa.problem import Problem
from befa.rng import numpy_stream

FEWEST = 8
"""Items that a picture needs."""

BANDWIDTH = 0.2
"""Standard deviation in radians of the angles' density. Scott's rule has 0.5 for 500 even angles, which hides clumps,
and another one for each panel."""

EDGE = 1.5
"""Of the plane that is shown, on each side of 0."""


@configuration
class DistributionConfig:
    """Block `distribution` of params.yaml."""

    items: Annotated[int, Field(ge=FEWEST)] = 500
    """Items in the picture and in the uniformity: a sample of those with the modality, the same for all adapters.
    Memory grows with its square."""
    perplexity: Annotated[float, Field(gt=1)] = 30.0
    """Of t-SNE; at most a third of the other items."""
    seed: int = 1
    """Of the sample and of t-SNE."""


@dataclass(frozen=True)
class Gate:
    """Of content that is the item's id times a number in (0, 1) for each channel, as BeFA's is (its equation 10)."""

    mean: float
    """Over items and channels."""
    over_items: float
    """Standard deviation over the items, mean of the channels: 0 where the gate tells no item from another, and with it
    content has no say."""
    over_channels: float
    """Standard deviation over the channels of their means over items."""


@dataclass(frozen=True)
class Measures:
    """Of one modality's content in one cell, its vectors at length 1 (Wang & Isola, arXiv 2005.10242, section 4)."""

    items: int
    """In the sample."""
    uniformity: float
    """log of the mean of exp(-2 |x - y|^2) over the pairs of the sample; 0 where all are the same, lower is evener."""
    uniformity_of_ids: float
    """The same of their id vectors: what is in the ids comes through where an adapter multiplies content by them."""
    alignment_to_id: float
    """Mean of |x - e|^2, in [0, 4], of an item's content and its own id vector, over all items with the modality."""
    alignment_in_baskets: float | None
    """Mean of |x - y|^2, in [0, 4], of two different items of a user's training items, over all such users, each with
    all such pairs and the same weight; None without any."""
    users: int
    """Users with two such items."""
    gate: Gate | None
    """Over all items with the modality; None where content is no gated id."""


@dataclass(frozen=True)
class Distribution:
    """What the picture shows of one modality in one cell, and its measures."""

    circle_n2: Float[np.ndarray, "n 2"]
    """The sample on the unit circle, see `on_circle`."""
    measures: Measures


def distributions(recommender: nn.Module, problem: Problem, cfg: DistributionConfig) -> dict[str, Distribution]:
    """By modality, of a trained recommender.

    Content is h_m, what the host makes of its feature table by projection and adapter, each item's adapter with the
    item's own row of the id table: without adapter, the projection alone. Two cells are two trainings, so that the
    one without adapter is what the host does without it, not what the adapter of the other one was given. Mind that
    BeFA's content is the id times a gate in (0, 1): it is aligned with the id whatever the content says.

    Raises ConfigError for a model without content; DataError when fewer than 8 items have a modality, or the content
    of one is 0 or not finite.
    """
    if not getattr(recommender, "towers", None):
        raise ConfigError("the model makes no content", mend="choose one with content, such as bm3")
    users_E, items_E = problem.users_E.cpu().numpy(), problem.items_E.cpu().numpy()
    order = numpy_stream(cfg.seed, "distribution").permutation(problem.n_items)
    found = {}
    for name, tower in recommender.towers.items():
        with evaluating(recommender) as unused:
            content_Id, present = (x.cpu().numpy() for x in tower(None, recommender.items, rng=unused))
        sample = order[present[order]][: cfg.items]
        if len(sample) < FEWEST:
            raise DataError(f"{len(sample)} items have {name}, {FEWEST} are needed", mend="choose a larger dataset")
        x_Id = unit(content_Id, present, f"the content of {name}")
        ids_Id = unit(recommender.items.detach().cpu().numpy(), present, "the id table")
        in_baskets, users = alignment_in_baskets(x_Id, present, users_E, items_E, problem.n_users)
        measures = Measures(
            items=len(sample),
            uniformity=uniformity(x_Id[sample]),
            uniformity_of_ids=uniformity(ids_Id[sample]),
            alignment_to_id=alignment(x_Id[present], ids_Id[present]),
            alignment_in_baskets=in_baskets,
            users=users,
            gate=gate(content_Id[present], recommender.items.detach().cpu().numpy()[present]),
        )
        found[name] = Distribution(on_circle(x_Id[sample], cfg), measures)
    return found


def unit(x_Id: Float[np.ndarray, "I d"], present_I: Bool[np.ndarray, " I"], what: str) -> Float[np.ndarray, "I d"]:
    """Rows at length 1, in float64; absent ones are 0. Raises DataError for a present one without a direction."""
    length_I = np.linalg.norm(x_Id.astype(np.float64), axis=1)
    without = present_I & ~((length_I > 0) & np.isfinite(length_I))
    if without.any():
        raise DataError(f"{without.sum()} rows of {what} are 0 or not finite", mend="train the cell again")
    scale_I = np.divide(1, length_I, out=np.zeros_like(length_I), where=present_I)
    return x_Id * scale_I[:, None]


def gate(content_nd: Float[np.ndarray, "n d"], ids_nd: Float[np.ndarray, "n d"]) -> Gate | None:
    """See `Gate`; None unless all quotients of content and id lie in [0, 1]. An id's entry that is 0 has none."""
    ids_nd = np.where(ids_nd == 0, np.nan, ids_nd.astype(np.float64))
    gate_nd = content_nd / ids_nd
    if not np.nanmin(gate_nd) >= 0 or np.nanmax(gate_nd) > 1:
        return None
    means_d = np.nanmean(gate_nd, 0)
    return Gate(float(means_d.mean()), float(np.nanstd(gate_nd, 0).mean()), float(means_d.std()))


def uniformity(x_nd: Float[np.ndarray, "n d"]) -> float:
    """log mean exp(-2 |x - y|^2) over the pairs of different rows, which have length 1: in [-8, 0]."""
    # torch's exp: numpy's has other last bits where a CPU has AVX-512 (torch's is held to AVX2: befa/__init__.py).
    distances_P = torch.from_numpy(pdist(x_nd, "sqeuclidean"))
    return float(torch.exp(-2 * distances_P).mean().log())


def alignment(x_nd: Float[np.ndarray, "n d"], positive_nd: Float[np.ndarray, "n d"]) -> float:
    """Mean of |x - x+|^2 over rows, which have length 1: in [0, 4]."""
    return float(((x_nd - positive_nd) ** 2).sum(1).mean())


def alignment_in_baskets(
    x_Id: Float[np.ndarray, "I d"],
    present_I: Bool[np.ndarray, " I"],
    users_E: Int[np.ndarray, " E"],
    items_E: Int[np.ndarray, " E"],
    n_users: int,
) -> tuple[float | None, int]:
    """`Measures.alignment_in_baskets` and `.users`, from unit rows and interactions; absent items are left out.

    Exact and without making a pair: the cosines of n items' pairs sum to |sum of their vectors|^2 - n.
    """
    kept = present_I[items_E]
    ones = np.ones(kept.sum())
    baskets_UI = csr_array((ones, (users_E[kept], items_E[kept])), shape=(n_users, len(x_Id)))
    sums_Ud, n_U = baskets_UI @ x_Id, baskets_UI.sum(1)
    several = n_U > 1
    if not several.any():
        return None, 0
    n_B = n_U[several]
    cosine_B = ((sums_Ud[several] ** 2).sum(1) - n_B) / (n_B * (n_B - 1))
    return float((2 - 2 * cosine_B).mean()), int(several.sum())


def on_circle(x_nd: Float[np.ndarray, "n d"], cfg: DistributionConfig) -> Float[np.ndarray, "n 2"]:
    """Unit rows by t-SNE in the plane, around their mean, each then at length 1.

    The same input gives the same bits, on any number of threads. An angle means nothing across two calls.
    """
    # Here: they take two seconds to load.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(cfg.perplexity, (len(x_nd) - 1) / 3)
    with threadpool_limits(1):
        made_n2 = TSNE(init="pca", perplexity=perplexity, random_state=cfg.seed).fit_transform(x_nd)
    around_n2 = made_n2.astype(np.float64) - made_n2.mean(0, dtype=np.float64)
    return around_n2 / np.linalg.norm(around_n2, axis=1, keepdims=True)


def angle_density(circle_n2: Float[np.ndarray, "n 2"], at_k: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Density of the points' angles at angles `at_k` in [-pi, pi], per radian: Gaussian, and round the circle."""
    angle_n = np.arctan2(circle_n2[:, 1], circle_n2[:, 0])
    around = np.concatenate([angle_n - 2 * np.pi, angle_n, angle_n + 2 * np.pi])
    return 3 * gaussian_kde(around, bw_method=BANDWIDTH / around.std(ddof=1))(at_k)


def as_json(found: Mapping[str, Mapping[str, Distribution]]) -> dict[str, Any]:
    """The measures of `found`, which is by adapter and modality, by modality and adapter."""
    modalities = next(iter(found.values()))
    return {
        modality: {adapter: asdict(of[modality].measures) for adapter, of in found.items()} for modality in modalities
    }


def draw(path: Path, found: Mapping[str, Mapping[str, Distribution]]) -> None:
    """A column for each modality and adapter of `found` (by adapter and modality): circle above, angles below.

    Density is Gaussian: in the plane with scipy's bandwidth (Scott), of the angle with `BANDWIDTH`; one scale for all
    columns. PNG; the same input gives the same bytes.
    """
    from matplotlib.figure import Figure  # here: it takes half a second to load

    columns = [(modality, adapter) for modality in next(iter(found.values())) for adapter in found]
    figure = Figure(figsize=(2.3 * len(columns), 4.3), layout="constrained")
    grid = figure.subplots(
        2, len(columns), squeeze=False, sharex="row", sharey="row", gridspec_kw={"height_ratios": [2.3, 1]}
    )
    planes = [_plane_density(found[adapter][modality].circle_n2) for modality, adapter in columns]
    densest = max(plane.max() for plane in planes)
    at_k = np.linspace(-np.pi, np.pi, 361)
    angles = [angle_density(found[adapter][modality].circle_n2, at_k) for modality, adapter in columns]
    for (modality, adapter), plane, density_k, above, below in zip(columns, planes, angles, *grid, strict=True):
        name = "without adapter" if adapter == "none" else f"with {adapter}"
        above.set_title(f"{modality}, {name}\n{_told(found[adapter][modality].measures)}", fontsize=8)
        # Blues: one hue from light to dark, which every kind of sight tells apart, and print too.
        above.imshow(
            plane, cmap="Blues", vmin=0, vmax=densest, origin="lower", extent=(-EDGE, EDGE, -EDGE, EDGE),
            interpolation="bilinear",
        )  # fmt: skip
        above.set_aspect("equal")
        above.set_xticks([-1, 0, 1])
        above.set_yticks([-1, 0, 1])
        below.fill_between(at_k, density_k, color="#9ecae1")
        below.plot(at_k, density_k, color="#08519c", linewidth=1)
        below.axhline(1 / (2 * np.pi), color="black", linewidth=0.8, linestyle=":")
        below.set_xlim(-np.pi, np.pi)
        below.set_xticks([-np.pi, 0, np.pi], ["\N{MINUS SIGN}π", "0", "π"])
        below.set_xlabel("angle", fontsize=8)
        for axis in (above, below):
            axis.tick_params(labelsize=7)
    grid[1, 0].set_ylim(0, 1.05 * max(density_k.max() for density_k in angles))
    grid[1, 0].set_ylabel("density", fontsize=8)
    figures.save(figure, path, dpi=200)


def _plane_density(circle_n2: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "k k"]:
    at_k = np.linspace(-EDGE, EDGE, 121)
    x_kk, y_kk = np.meshgrid(at_k, at_k)
    return gaussian_kde(circle_n2.T)(np.stack([x_kk.ravel(), y_kk.ravel()])).reshape(x_kk.shape)


def _told(measures: Measures) -> str:
    in_baskets = "-" if measures.alignment_in_baskets is None else f"{measures.alignment_in_baskets:.2f}"
    uniform = f"{measures.uniformity:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"uniformity {uniform}\nalignment: id {measures.alignment_to_id:.2f}, baskets {in_baskets}"

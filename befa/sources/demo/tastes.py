"""The demo catalogue's truth: what items are, what users want, and what they therefore choose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from befa.rng import numpy_stream
from befa.sources.demo.drawing import COLOURS, PATTERNS, SILHOUETTES

LEVELS: Mapping[str, tuple[str, ...]] = {
    "category": tuple(SILHOUETTES),
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
}
"""The attributes that content shows, and their values."""

WEIGHTS = {"category": 1.6, "colour": 1.3, "pattern": 0.8, "hidden": 1.0}
"""Standard deviation of a user's utility due to each attribute, in units of the choice noise (standard Gumbel)."""

HIDDEN = 4
"""Width of the factor that neither picture nor title shows (fit, say): what content omits and behaviour reveals."""

ARCHETYPES = 16
"""Users share tastes: each is one of these plus a part of their own, so that behaviour carries over between users."""
OWN_TASTE = 0.6
"""Share of the variance of taste that is a user's own."""

POPULARITY = 0.5
"""Standard deviation of an item's log popularity."""

START = 1_704_067_200
"""2024-01-01 00:00 UTC in seconds: where the simulated clock starts."""
DAY = 86_400
REPEATS = 0.03
"""Share of interactions that occur a second time, as repeat purchases do."""


@dataclass(frozen=True)
class Truth:
    """Items by attribute and users by preference; rows are in the order of raw ids."""

    items: list[str]
    users: list[str]
    attributes: dict[str, Int[np.ndarray, " I"]]
    """For each attribute the place of the item's value in LEVELS."""
    hidden_Ih: Float[np.ndarray, "I h"]
    popularity_I: Float[np.ndarray, " I"]
    """Log popularity, the same for every user."""
    tastes: dict[str, Float[np.ndarray, "U values"]]
    """Preference for each value of each attribute, and for each hidden direction; standard normal."""

    def utility(self, users: slice) -> Float[np.ndarray, "U I"]:
        """Systematic utility of all items to some users, in units of the choice noise."""
        total = self.popularity_I + WEIGHTS["hidden"] * self.tastes["hidden"][users] @ self.hidden_Ih.T / HIDDEN**0.5
        for name, of_I in self.attributes.items():
            total = total + WEIGHTS[name] * self.tastes[name][users][:, of_I]
        return total


def make(n_users: int, n_items: int, *, seed: int, special: Int[np.ndarray, " special"]) -> Truth:
    """Draws items and users. `special` items are popular, so that a k-core keeps what is odd about them."""
    rng = numpy_stream(seed, "demo", "items")
    attributes = {name: rng.integers(len(values), size=n_items) for name, values in LEVELS.items()}
    hidden = rng.standard_normal((n_items, HIDDEN))
    popularity = POPULARITY * rng.standard_normal(n_items)
    popularity[special] = 1.5 * POPULARITY
    rng = numpy_stream(seed, "demo", "users")
    archetype = rng.integers(ARCHETYPES, size=n_users)
    tastes: dict[str, Any] = {}
    for name, width in {**{name: len(values) for name, values in LEVELS.items()}, "hidden": HIDDEN}.items():
        shared = rng.standard_normal((ARCHETYPES, width))[archetype]
        own = rng.standard_normal((n_users, width))
        tastes[name] = (1 - OWN_TASTE) ** 0.5 * shared + OWN_TASTE**0.5 * own
    ids = numpy_stream(seed, "demo", "ids").permutation(10 * n_items)[:n_items]
    items = sorted(f"{number:07d}" for number in ids)  # leading zeros: a reader that takes ids for numbers shows
    users = [f"u{number:06d}" for number in range(n_users)]
    return Truth(items, users, attributes, hidden, popularity, tastes)


def choices(
    truth: Truth, *, mean: float, seed: int
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Users, items (places in `truth`) and times in seconds of all interactions, in the order of time.

    A user with n interactions takes the n items of the greatest utility plus Gumbel noise, which draws them without
    replacement in proportion to exp(utility) (Plackett-Luce; Yellott 1977), and meets them in random order.
    """
    rng = numpy_stream(seed, "demo", "choices")
    n_users, n_items = len(truth.users), len(truth.items)
    # Lognormal with the wanted mean; at least 5, at most half of the catalogue.
    sizes = rng.lognormal(np.log(mean) - 0.45**2 / 2, 0.45, n_users).round().astype(np.int64)
    sizes = sizes.clip(5, max(5, n_items // 2))
    users, items, times = [], [], []
    for start in range(0, n_users, 256):
        utility = truth.utility(slice(start, start + 256)) + rng.gumbel(size=(min(256, n_users - start), n_items))
        for offset, scores in enumerate(utility):
            size = sizes[start + offset]
            chosen = rng.permutation(np.argpartition(-scores, size - 1)[:size])
            joined = START + rng.integers(300 * DAY)
            time = joined + np.cumsum(60 + rng.exponential(4 * DAY, size).astype(np.int64))
            again = rng.random(size) < REPEATS
            users.append(np.full(size + again.sum(), start + offset))
            items.append(np.concatenate([chosen, chosen[again]]))
            times.append(np.concatenate([time, time[again] + DAY]))
    user_E, item_E, time_E = np.concatenate(users), np.concatenate(items), np.concatenate(times)
    order = np.lexsort((item_E, user_E, time_E))
    return user_E[order], item_E[order], time_E[order]

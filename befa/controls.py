"""Features that cannot help, to compare the real ones with: does content matter, or only the network around it?"""

import numpy as np
from jaxtyping import Bool, Float

from befa.adapters.base import FeatureUse


def controlled(
    values_Ic: Float[np.ndarray, "I c"], present_I: Bool[np.ndarray, " I"], use: FeatureUse, *, rng: np.random.Generator
) -> Float[np.ndarray, "I c"]:
    """One modality's features as an adapter of that `FeatureUse` is given them; absent rows stay as they are.

    `random`: independent normal numbers, with the mean and the standard deviation that each column has over the
    present rows. `shuffled`: the present rows exchanged along one random cycle, so that no item keeps its own where
    two are present. Otherwise: `values_Ic` itself.
    """
    present = np.flatnonzero(present_I)
    if use in ("given", "unused", "fixed") or len(present) == 0:
        return values_Ic
    real_nc = values_Ic[present]
    made_Ic = values_Ic.copy()
    if use == "random":
        made_Ic[present] = real_nc.mean(0) + real_nc.std(0) * rng.standard_normal(real_nc.shape, dtype=np.float32)
    else:
        order = rng.permutation(present)
        made_Ic[order] = values_Ic[np.roll(order, 1)]
    return made_Ic

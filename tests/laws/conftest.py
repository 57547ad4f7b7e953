"""Made grids with a known truth."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from vlmlaw.laws.cells import Cells
from vlmlaw.laws.families import LAWS

SIZES = (0.5, 1.8, 4.0, 7.0, 14.0)
TOKENS = (1, 4, 16, 36, 144, 576)


def make_cells(
    law: str,
    params: dict[str, float],
    *,
    noise: float = 0.0,
    seed: int = 0,
    sizes=SIZES,
    tokens=TOKENS,
    copies: int = 1,
) -> Cells:
    """A full grid whose error follows a law, with Gaussian noise."""
    n, v = (x.ravel() for x in np.meshgrid(sizes, tokens, indexing="ij"))
    n, v = np.tile(n, copies), np.tile(v, copies)
    known = LAWS[law]
    theta = known.to_working(np.array([params[p.name] for p in known.parameters]))
    error = known.evaluate(theta[:, None, None], np.log(n), np.log(v))[0][0]
    return Cells.of(n, v, error + np.random.default_rng(seed).normal(0, noise, n.size))


@pytest.fixture
def make() -> Callable[..., Cells]:
    return make_cells


@pytest.fixture
def grid_frame() -> pd.DataFrame:
    """A clean grid of N, V and error to damage."""
    cells = make_cells("logit", {"c0": -0.4, "a": 0.15, "b": 0.03}, noise=0.003, seed=1)
    return pd.DataFrame({"N": cells.n, "V": cells.v, "error": cells.error})

"""The law of one family finds the peak that made data have, and none where there is none."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from vlmlaw.evaluation.measuring.cells import Cell, Model
from vlmlaw.evaluation.measuring.family_law import family_laws

V = (16, 64, 256, 1024, 4096)


def made(*, bend: float, slope: float, family: str = "qwen2-vl", n: int = 1200):
    """Judged rows of three sizes: logit(score) = -1 + 0.4 ln N + slope ln V + bend (ln V)^2."""
    rng, frames, cells = np.random.default_rng(0), [], []
    for billions in (1, 4, 16):
        for v in V:
            cell = Cell(Model(name=f"m-{billions}B", family=family, n_params=billions * 1e9), v)
            score = expit(-1 + 0.4 * np.log(billions) + slope * np.log(v) + bend * np.log(v) ** 2)
            lost = (rng.random(n) > score).astype(float)
            columns = {"question": np.arange(n), "cluster": np.arange(n) // 3, "height": 9, "n_visual_tokens": float(v)}
            frames.append(pd.DataFrame({**columns, "cell": cell.name, "budget": str(v), "lost": lost}))
            cells.append(cell)
    return pd.concat(frames, ignore_index=True), cells


def test_a_peak_is_found():
    (law,), refused = family_laws(*made(bend=-0.06, slope=0.06 * 2 * np.log(300)))  # its top is at V = 300
    assert law.peak == pytest.approx(300, rel=0.25) and law.peak_interval[0] < 300 < law.peak_interval[1]
    assert law.gain_of_size[0] < 0.4 < law.gain_of_size[1] and law.rms < 0.03 and not refused
    assert law.error(4e9, 300) < min(law.error(4e9, 16), law.error(4e9, 4096))


def test_none_is_claimed_where_error_falls_to_the_end():
    (law,), _ = family_laws(*made(bend=0.0, slope=0.2))
    assert law.peak is None and law.coefficients[2] == pytest.approx(0.2, abs=0.25)


def test_there_is_no_law_across_families_or_of_too_few_cells():
    judged, cells = made(bend=0.0, slope=0.2, family="")
    laws, refused = family_laws(judged, cells)
    assert laws == [] and "unknown family" in refused[0]
    judged, cells = made(bend=0.0, slope=0.2)
    few = judged.budget.isin(["16", "64", "256"])
    laws, refused = family_laws(judged[few], cells)
    assert laws == [] and "4 different V" in refused[0]

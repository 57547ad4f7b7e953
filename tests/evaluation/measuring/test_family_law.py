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


@pytest.mark.parametrize("law", ["parabola", "power"])
def test_what_is_filled_in_holds_the_truth_as_often_as_it_says(law):
    """Cells between the measured ones, under a law of the fitted form, and under the paper's, which it is not."""
    sizes, rng, hits = (2, 7, 72), np.random.default_rng(3), []

    def error(n, v):
        if law == "power":
            return 0.05 + 0.9 * n**-0.2 * v**-0.3
        return 1 - expit(-2.5 + 0.4 * np.log(n) + 0.9 * np.log(v) - 0.06 * np.log(v) ** 2)

    for _ in range(25):
        frames, cells = [], []
        hardness = rng.random(300)  # the same questions in all cells, and half of what decides a reply
        for n in sizes:
            for v in V:
                cell = Cell(Model(name=f"m-{n}B", family="qwen2-vl", n_params=n * 1e9), v)
                shared = rng.random(300) < 0.5
                lost = np.where(shared, hardness, rng.random(300)) < error(n, v)
                columns = {"question": range(300), "cluster": range(300), "height": 9, "n_visual_tokens": float(v)}
                frames.append(
                    pd.DataFrame({**columns, "cell": cell.name, "budget": str(v), "lost": lost.astype(float)})
                )
                cells.append(cell)
        (found,), _ = family_laws(pd.concat(frames, ignore_index=True), cells)
        middles = [v for v in found.columns() if found.measured("m-2B", v) is None]
        assert middles == pytest.approx([32, 128, 512, 2048])
        for n in sizes:
            ends = [found.interval(n * 1e9, v, level=0.95) for v in middles]
            hits += [low <= error(n, v) <= high for v, (low, high) in zip(middles, ends, strict=True)]
    assert 0.9 <= np.mean(hits) <= 1.0, np.mean(hits)
    assert np.mean(hits) < 1  # and not because they hold everything

"""Which cell of a grid is the best within a budget of FLOPs for an answer, and how sure the cells measured so far are.

Every affordable cell is compared with the one of least predicted error under all laws and ratios of shared noise of the
posterior (`laws/posterior.py`). The choice is known once no other cell is better by more than a tolerance, except with
the probability that an interval leaves to one side; the cell for which that probability is largest is its rival.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, format_size
from vlmlaw.laws.costs import Cost
from vlmlaw.laws.posterior import NEGLIGIBLE, RATIOS, Posterior
from vlmlaw.laws.result import LawFit

TOLERANCE = 0.005  # relative excess over the least error within which a choice is as good, as in `recommend`


@dataclass(frozen=True)
class Deployment:
    """The budget of the cell that is asked for: FLOPs of an answer to a question of `question_tokens`.

    tolerance: relative excess over the least error within which a cell counts as as good as the best.
    """

    flops: float
    question_tokens: float = 50.0
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        for name, least in (("flops", "above 0"), ("question_tokens", "of 0 or more"), ("tolerance", "of 0 or more")):
            value = getattr(self, name)
            if not (np.isfinite(value) and (value > 0 or (least != "above 0" and value == 0))):
                raise UserError(f"{name} of the best cell is {value!r}; expected a number {least}")

    def affordable(self, candidates: pd.DataFrame) -> Array:
        """N (billions) and V of the cells that may be deployed (A, 2). Raises UserError where none is cheap enough."""
        cells = candidates[["N", "V"]].drop_duplicates().to_numpy(dtype=float)
        costs = Cost(question_tokens=self.question_tokens).of(cells[:, 0], cells[:, 1])
        found = cells[costs <= self.flops * (1 + 1e-12)]
        if not len(found):
            n, v = cells[int(np.argmin(costs))]
            raise UserError(
                f"no cell of the grid answers within {self.flops:.3g} FLOPs; the cheapest, N = {format_size(n)} and "
                f"V = {v:g}, takes {costs.min():.3g} with {self.question_tokens:g} text tokens"
            )
        return found


@dataclass(frozen=True)
class BestCell:
    """The best affordable cell so far: N in billions, V and its predicted error.

    rival: the cell (N, V) that is the likeliest to be better by more than the tolerance. doubt: that probability.
    """

    n: float
    v: float
    error: float
    rival: tuple[float, float] | None
    doubt: float


def best_cell(fit: LawFit, affordable: Array, *, tolerance: float = TOLERANCE) -> BestCell:
    """The cell (N, V) of least predicted error among those affordable (A, 2), and its rival.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "logit")
    >>> found = best_cell(fit, np.array([[0.5, 576.0], [1.8, 144.0], [7.0, 16.0]]))
    >>> found.n, found.v, found.rival, found.doubt < 0.001
    (7.0, 16.0, (1.8, 144.0), True)
    """
    n, v = affordable.T
    predicted = np.asarray(fit.predict(n, v), dtype=float)
    at = int(np.argmin(predicted))
    doubts = _doubts(fit.posterior, np.log(n), np.log(v), chosen=at, tolerance=tolerance)
    doubts[at] = -1.0
    rival = int(np.argmax(doubts))
    alone = len(affordable) == 1
    return BestCell(
        n=float(n[at]),
        v=float(v[at]),
        error=float(predicted[at]),
        rival=None if alone else (float(n[rival]), float(v[rival])),
        doubt=0.0 if alone else float(doubts[rival]),
    )


def _doubts(posterior: Posterior, ln_n: Array, ln_v: Array, *, chosen: int, tolerance: float) -> Array:
    """The probability (A,) of each cell that its error is below that of the chosen one by more than the tolerance."""
    distances = []
    for law in posterior.laws:
        error, gradient = law.fit.law.evaluate(law.fit.theta[:, None, None], ln_n, ln_v)
        gradient = gradient[:, 0]
        excess = (1 - tolerance) * error[0, chosen] - error[0]  # (A,)
        along = (1 - tolerance) * gradient[:, [chosen]] - gradient  # (K, A)
        variance = np.einsum("ka,jkl,la->ja", along, law.covariance, along)
        distances.append(excess / np.sqrt(np.maximum(variance, 1e-300)))
    freedom = np.repeat([law.fit.degrees_of_freedom for law in posterior.laws], RATIOS.size)
    weight = posterior.weights.ravel()
    kept = weight > NEGLIGIBLE
    probability = stdtr(freedom[kept, None], np.concatenate(distances)[kept])
    return np.asarray(weight[kept] @ probability / weight[kept].sum())


def best_cell_sentence(best: BestCell, deploy: Deployment) -> str:
    """The cell to deploy within a budget of FLOPs, and which other cell may be better.

    >>> best_cell_sentence(BestCell(7.0, 16.0, 0.49, (4.0, 64.0), 0.2), Deployment(1e12)).split("; ")[1]
    'N = 4 B, V = 64 is better by more than 0.5 % with probability 0.20.'
    """
    about = f"Within {deploy.flops:.3g} FLOPs the best cell is N = {format_size(best.n)}, V = {best.v:g}"
    about += f" (error {best.error:.3f})"
    if best.rival is None:
        return f"{about}, the only one."
    n, v = best.rival
    chance = f"{best.doubt:.2f}" if best.doubt >= 0.005 else "below 0.005"
    by = f"is better by more than {100 * deploy.tolerance:g} %"
    return f"{about}; N = {format_size(n)}, V = {v:g} {by} with probability {chance}."


def undominated(affordable: Array) -> Array:
    """The affordable cells that no other exceeds in both N and V, by ascending N: of falling errors the candidates.

    >>> undominated(np.array([[1.0, 16.0], [1.0, 64.0], [7.0, 16.0]])).tolist()
    [[1.0, 64.0], [7.0, 16.0]]
    """
    most = [(n, affordable[affordable[:, 0] == n, 1].max()) for n in np.unique(affordable[:, 0])]
    return np.array([(n, v) for i, (n, v) in enumerate(most) if all(v > other for _, other in most[i + 1 :])])

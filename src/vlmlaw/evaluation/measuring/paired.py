"""How sure one is of errors, and of differences between cells that answered the same questions.

Differences are paired by question, and questions on one image form a cluster (Liang & Zeger 1986; Miller 2024, arXiv
2411.00640). Few questions on which two cells differ make the plain interval too short, down to zero width where they
never differ, so each interval is taken after two more clusters are added, one for either side: for independent right
or wrong answers that is the interval of Bonett & Price 2012 (Stat. Methods Med. Res. 21) for a difference, which keeps
its level for all sizes, and for one cell that of Agresti & Coull 1998. An added cluster weighs as many questions as the
design effect says that an image is worth. Q questions, G clusters, K cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import ndtri

from vlmlaw.laws.statistics import student_t

POWER = 0.8
DRAWS = 20_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at the level asked for."""

    value: float
    lower: float
    upper: float
    se: float

    @property
    def excludes_zero(self) -> bool:
        return self.lower > 0 or self.upper < 0


@dataclass(frozen=True, eq=False)
class Paired:
    """Cells on the same questions: errors_K, each question's part of them parts_QK, and the cluster of each.

    The part of a question is its lost weight beyond the cell's error, as a share of the whole weight times Q: for
    questions of one weight simply lost - error. (For F1, whose weights depend on replies, it is the linearisation.)
    """

    cells: tuple[str, ...]
    errors_K: np.ndarray
    parts_QK: np.ndarray
    cluster_Q: np.ndarray  # numbers from 0 to G - 1
    n_clusters: int

    @classmethod
    def of(cls, judged: pd.DataFrame) -> Paired:
        """From judged rows; the cells in their order there. Every cell must have every question."""
        cells = tuple(dict.fromkeys(judged.cell))
        wide = judged.pivot(index="question", columns="cell", values=["lost", "weight"])
        lost, weight = wide["lost"][[*cells]], wide["weight"][[*cells]]
        assert not lost.isna().any(axis=None), "a cell lacks a question"
        cluster = judged.drop_duplicates("question").set_index("question").cluster.loc[lost.index]
        codes, names = pd.factorize(cluster)
        total = weight.sum()
        errors = lost.sum() / total
        parts = (lost - errors * weight) / total * len(lost)
        return cls(cells, errors.to_numpy(), parts.to_numpy(), codes, len(names))

    @property
    def n_questions(self) -> int:
        return len(self.cluster_Q)

    def place(self, cell: str) -> int:
        return self.cells.index(cell)

    def error(self, cell: str, *, level: float = 0.95) -> Interval:
        """The error of a cell with its interval, within [0, 1]."""
        k = self.place(cell)
        value = float(self.errors_K[k])
        centre, se = self._padded(self.parts_QK[:, k], value, plus=1.0, minus=0.0)
        t = student_t(level, self.n_clusters - 1)
        return Interval(value, max(0.0, centre - t * se), min(1.0, centre + t * se), se)

    def difference(self, a: str, b: str, *, level: float = 0.95) -> Interval:
        """The error of cell a less that of cell b, above 0 where b is better."""
        i, j = self.place(a), self.place(b)
        centre, se = self._padded_difference(i, j)
        t = student_t(level, self.n_clusters - 1)
        return Interval(float(self.errors_K[i] - self.errors_K[j]), centre - t * se, centre + t * se, se)

    def questions_to_tell(self, a: str, b: str, *, level: float = 0.95) -> float:
        """How many questions more would tell two cells apart, were they as different as measured; inf if equal.

        As many as give the difference a z value of z(level) + z(power), with power 80 % (Miller 2024, section 5). 0
        where the questions there are do.
        """
        i, j = self.place(a), self.place(b)
        value = float(self.errors_K[i] - self.errors_K[j])
        if value == 0:
            return np.inf
        _, se = self._padded_difference(i, j)
        wanted = ndtri(0.5 + level / 2) + ndtri(POWER)
        return float(max(0, np.ceil(self.n_questions * ((wanted * se / value) ** 2 - 1))))

    def confidence_not_worse(self, by: float) -> np.ndarray:
        """Confidence_K that the true error of each cell is at most `by` above that of the best cell, whichever it is.

        It holds for all cells at once, so a cell may be picked after looking: a statement "not worse by more than x"
        at confidence c, about any cell that one likes, is wrong at most in 1 - c of all measurements. Every cell is
        compared with every other one, as in multiple comparisons with the best (Hsu 1984, Ann. Statist. 12), and the
        joint distribution of the differences to each possible best is a multivariate t with their covariance.
        """
        centre_KK, se_KK = self._all_differences
        least_K = np.where(se_KK > 0, (by - centre_KK) / np.where(se_KK > 0, se_KK, 1), np.inf).min(axis=1)
        found = [np.searchsorted(largest, least_K) / DRAWS for largest in self._largest_deviations]
        return np.minimum.reduce([np.ones(len(self.cells)), *found])

    def worse_by_at_most(self, *, level: float = 0.95) -> np.ndarray:
        """Bound_K: for each cell the least `by` for which `confidence_not_worse` reaches the level; 0 or more."""
        centre_KK, se_KK = self._all_differences
        quantile = max((float(np.quantile(largest, level)) for largest in self._largest_deviations), default=0.0)
        return np.maximum(0.0, (centre_KK + quantile * se_KK).max(axis=1))

    # The arithmetic.

    def _sums(self, parts_Q: np.ndarray) -> np.ndarray:
        """Sums of each cluster (G,)."""
        return np.bincount(self.cluster_Q, parts_Q, minlength=self.n_clusters)

    def _padded_difference(self, i: int, j: int) -> tuple[float, float]:
        parts = self.parts_QK[:, i] - self.parts_QK[:, j]
        return self._padded(parts, float(self.errors_K[i] - self.errors_K[j]), plus=1.0, minus=-1.0)

    def _padded(self, parts_Q: np.ndarray, value: float, *, plus: float, minus: float) -> tuple[float, float]:
        """Mean and standard error after two clusters are added, whose questions have the values `plus` and `minus`."""
        n, n_clusters = self.n_questions, self.n_clusters
        size_G = np.bincount(self.cluster_Q, minlength=n_clusters)
        sums_G = self._sums(parts_Q)
        apart = float(np.square(parts_Q).sum())
        effect = float(np.square(sums_G).sum()) / apart if apart > 0 else 1.0
        weight = float(np.clip(effect, 1.0, n / n_clusters)) * (2.0 if plus - minus < 2 else 1.0)
        whole = n + 2 * weight
        centre = (value * n + weight * (plus + minus)) / whole
        residual_G = sums_G + (value - centre) * size_G
        squares = np.square(residual_G).sum() + (weight * (plus - centre)) ** 2 + (weight * (minus - centre)) ** 2
        more = n_clusters + 2
        return centre, float(np.sqrt(more / (more - 1) * squares) / whole)

    @cached_property
    def _all_differences(self) -> tuple[np.ndarray, np.ndarray]:
        """Difference and standard error of each cell (rows) to each other one; 0 and 0 to itself."""
        n_cells = len(self.cells)
        centre, se = np.zeros((n_cells, n_cells)), np.zeros((n_cells, n_cells))
        for i in range(n_cells):
            for j in range(i + 1, n_cells):
                centre[i, j], se[i, j] = self._padded_difference(i, j)
                centre[j, i], se[j, i] = -centre[i, j], se[i, j]
        return centre, se

    @cached_property
    def _largest_deviations(self) -> np.ndarray:
        """For each cell as the best (K,), sorted draws of the largest standardised deviation of the others from it."""
        sums_GK = np.stack([self._sums(column) for column in self.parts_QK.T], axis=1)
        covariance = sums_GK.T @ sums_GK
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        rng = np.random.default_rng(0)
        scale = np.sqrt(rng.chisquare(self.n_clusters - 1, size=DRAWS) / (self.n_clusters - 1))
        draws = rng.standard_normal((DRAWS, len(self.cells))) @ root.T / scale[:, None]
        found = []
        for j in range(len(self.cells)):
            apart = draws - draws[:, [j]]
            sd = np.sqrt(np.clip(np.diag(covariance) + covariance[j, j] - 2 * covariance[:, j], 0, None))
            varies = sd > 1e-12 * max(sd.max(), 1e-300)
            # Two cells that never differed here may differ elsewhere; as nothing tells with what, independently.
            alone = rng.standard_normal((DRAWS, len(sd))) / scale[:, None]
            deviations = np.where(varies, apart / np.where(varies, sd, 1), alone)
            others = np.delete(deviations, j, axis=1)
            found.append(np.sort(others.max(axis=1) if others.size else np.zeros(DRAWS)))
        return np.stack(found)

"""How often a family's law chooses better than the usual short cut: rank the models at the cheapest setting.

The short cut asks every model with the fewest visual tokens, and takes the best of them with as many as the limit
allows. Both choose a cell within each limit on four fifths of the images, and so do the measured errors by themselves;
the choices are judged on the fifth that they have not seen, five times. The limits are the costs of the family's cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlmlaw.evaluation.measuring.family_law import FamilyLaw
from vlmlaw.evaluation.measuring.paired import Interval, Paired

FOLDS = 5


@dataclass(frozen=True)
class LawCheck:
    """At how many limits the law's choice errs less than the ranking's, as much and more, on images new to both.

    Differences are of the mean error over all limits, the law's less the other's: below 0 the law is better.
    """

    family: str
    better: int
    same: int
    worse: int
    beside_ranking: Interval
    beside_measured: Interval

    @property
    def n_limits(self) -> int:
        return self.better + self.same + self.worse


def check_law(law: FamilyLaw, judged: pd.DataFrame, cost: Mapping[str, float], *, level: float) -> LawCheck | None:
    """The check of a law by the judged questions it was fitted to; None where no limit leaves a choice.

    cost: of each cell by its name.
    """
    rows = judged[judged.cell.isin(law.cells)]
    lost = rows.pivot(index="question", columns="cell", values="lost")[[*law.cells]]
    cluster = rows.drop_duplicates("question").set_index("question").cluster.loc[lost.index]
    codes = pd.factorize(cluster)[0]
    fold = np.random.default_rng(0).permutation(codes.max() + 1)[codes] % FOLDS
    costs = np.array([cost[cell] for cell in law.cells])
    limits = [limit for limit in sorted(set(costs.tolist())) if (costs <= limit).sum() > 1]
    if not limits or codes.max() + 1 < FOLDS:
        return None
    names = ("law", "ranking", "measured")
    found = {name: np.zeros((len(lost), len(limits))) for name in names}
    table = lost.to_numpy()
    for k in range(FOLDS):
        seen, new = table[fold != k], table[fold == k]
        error = seen.mean(axis=0)
        fitted = law.refitted(seen)
        for place, limit in enumerate(limits):
            fits = costs <= limit
            chosen = {
                "law": int(np.where(fits, fitted, np.inf).argmin()),
                "ranking": _by_ranking(law.n, law.v, error, fits),
                "measured": int(np.where(fits, error, np.inf).argmin()),
            }
            for name, cell in chosen.items():
                found[name][fold == k, place] = new[:, cell]
    apart = found["law"].mean(axis=0) - found["ranking"].mean(axis=0)
    paired = _paired(lost.index, cluster, {name: found[name].mean(axis=1) for name in names})
    return LawCheck(
        law.family,
        better=int((apart < 0).sum()),
        same=int((apart == 0).sum()),
        worse=int((apart > 0).sum()),
        beside_ranking=paired.difference("law", "ranking", level=level),
        beside_measured=paired.difference("law", "measured", level=level),
    )


def _by_ranking(n: Sequence[float], v: Sequence[float], error: np.ndarray, fits: np.ndarray) -> int:
    """The most tokens that fit, of the model with the least error at its fewest tokens; of those that fit at all."""
    sizes, tokens = np.array(n), np.array(v)
    models = {size: np.flatnonzero(sizes == size) for size in dict.fromkeys(n)}
    able = {size: own[fits[own]] for size, own in models.items() if fits[own].any()}
    best = min(able, key=lambda size: error[models[size][tokens[models[size]].argmin()]])
    return int(able[best][tokens[able[best]].argmax()])


def _paired(questions: pd.Index, cluster: pd.Series, lost: Mapping[str, np.ndarray]) -> Paired:
    frame = {"question": questions, "weight": 1.0, "cluster": cluster.to_numpy()}
    return Paired.of(pd.concat(pd.DataFrame({**frame, "cell": name, "lost": own}) for name, own in lost.items()))

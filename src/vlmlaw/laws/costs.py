"""What an answer costs in a cell (N, V): FLOPs from a formula, or any column that was measured.

A cost model is anything with `name`, `unit` and `of(n, v)` for arrays of N (billions) and V.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.table import Measurements

BILLION = 1e9


class CostModel(Protocol):
    """What the frontier asks of a cost."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    def of(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Cost of an answer at N (billions) and V; nan where it is not known."""
        ...


@dataclass(frozen=True)
class Cost:
    """FLOPs of one answer: 2N for each of Q question, V visual and G generated tokens, and what else is asked for.

    cost(N, V) = 2N (Q + V + G) + 2NQ if question_pass + vision_flops + compressor_flops(N, V)

    2N is a multiply and an add for each weight; with cached keys and values a generated token costs what a read one
    does, so G acts on the trade-off as Q does. Attention's own quadratic part is left out, as in Li et al. 2024.
    question_pass is QueCC's run of the LLM over the question before the image is compressed; caching the text hides it.
    """

    question_tokens: float = 0.0
    generated_tokens: float = 0.0
    vision_flops: float = 0.0
    question_pass: bool = False
    compressor_flops: Callable[[Array, Array], Array] | None = None

    unit = "FLOPs"

    def __post_init__(self) -> None:
        for name in ("question_tokens", "generated_tokens", "vision_flops"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise UserError(f"{name} is {value!r}; expected a number, 0 or more")

    @property
    def name(self) -> str:
        parts = ["2N(Q+V+G)" if self.generated_tokens else "2N(Q+V)"]
        parts += ["2NQ"] * self.question_pass + ["vision"] * (self.vision_flops > 0)
        return " + ".join(parts + ["compressor"] * (self.compressor_flops is not None))

    @property
    def other_tokens(self) -> float:
        """Tokens that cost 2N each whatever V is: what V* is proportional to."""
        return self.question_tokens * (2 if self.question_pass else 1) + self.generated_tokens

    def of(self, n: ArrayLike, v: ArrayLike) -> Array:
        n, v = np.asarray(n, dtype=float), np.asarray(v, dtype=float)
        flops = 2 * BILLION * n * (self.other_tokens + v) + self.vision_flops
        return flops if self.compressor_flops is None else flops + self.compressor_flops(n, v)


def _numeric_column(table: Measurements, name: str) -> Array:
    if name not in table.frame:
        raise UserError(f"{table.source} has no column {name!r}; it has {', '.join(map(str, table.frame.columns))}")
    return np.array([x if isinstance(x, (int, float)) else np.nan for x in table.frame[name]], dtype=float)


@dataclass(frozen=True)
class ColumnCost:
    """A measured cost (milliseconds, joules, money): known in the measured cells alone, nan elsewhere."""

    name: str
    by_cell: dict[tuple[float, float], float]
    unit: str = ""

    @classmethod
    def from_table(cls, table: Measurements, column: str, *, unit: str = "") -> "ColumnCost":
        """The mean of a column, or of a sum of columns ("llm_flops+vision_flops"), in each cell.

        Raises UserError where a column is missing, or the cost is no positive number.
        """
        values = np.sum([_numeric_column(table, name.strip()) for name in column.split("+")], axis=0)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            line = table.frame["line"].iloc[int(np.flatnonzero(bad)[0])]
            raise UserError(
                f"{table.source} line {line}: {column!r} is no number above 0; a cost must be one in every row"
            )
        mean = table.frame.assign(_cost=values).groupby(["N", "V"])["_cost"].mean()
        return cls(name=column, unit=unit, by_cell={(float(n), float(v)): float(c) for (n, v), c in mean.items()})

    def of(self, n: ArrayLike, v: ArrayLike) -> Array:
        n, v = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(v, dtype=float))
        found = [self.by_cell.get((float(a), float(b)), np.nan) for a, b in zip(n.ravel(), v.ravel(), strict=True)]
        return np.array(found).reshape(n.shape)

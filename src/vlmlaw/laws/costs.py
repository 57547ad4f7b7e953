"""Cost models of an answer in a cell (N, V): FLOPs from a formula, or a measured column.

A cost model is anything with `name`, `unit` and `of(n, v)` for arrays of N (billions) and V.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.table import Measurements

BILLION = 1e9
QUESTION_COLUMN = "question_tokens"
PUBLISHED_PASS = 7.0  # tokens: QueCC's pass takes 92 GFLOPs of a 7B in Braco's table (arXiv 2609.35232)


class CostModel(Protocol):
    """Interface of a cost model, as the frontier uses it."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    def of(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Cost of an answer at N (billions) and V, broadcast together; nan where it is unknown."""
        ...


@dataclass(frozen=True)
class Cost:
    """FLOPs of one answer: 2N for each question, visual and generated token, plus the optional terms.

    cost(N, V) = 2N (Q + V + G) + 2Nq if question_pass + vision_flops + compressor_flops(N, V)

    active: for mixtures of experts, or where N counts a tower: the parameters that each token uses, by N; the cost of
    other sizes is unknown (nan).

    2N is one multiplication and one addition per weight. With cached keys and values, generating a token costs as much
    as reading one, so G acts on the trade-off as Q does. The quadratic part of attention is left out, as in Li et al.
    2024. question_pass stands for QueCC's pass of the LLM over the question before the image is compressed; leave it
    out where text is cached. q is the length of the question alone (`pass_tokens`; by default as published, at most Q),
    Q that of the prompt with its template, instruction and options.

    >>> Cost(question_tokens=50).of(n=0.5, v=[16, 576]).tolist()  # 2 * 0.5e9 * (50 + V)
    [66000000000.0, 626000000000.0]
    >>> Cost(question_tokens=50, question_pass=True).name
    '2N(Q+V) + 2Nq, q = 7'
    """

    question_tokens: float = 0.0
    generated_tokens: float = 0.0
    vision_flops: float = 0.0
    question_pass: bool = False
    pass_tokens: float | None = None
    compressor_flops: Callable[[Array, Array], Array] | None = None
    active: Mapping[float, float] | None = None  # N -> parameters that a token uses, in billions, where fewer than N

    unit = "FLOPs"

    def __post_init__(self) -> None:
        for name in ("question_tokens", "generated_tokens", "vision_flops", "pass_tokens"):
            value = getattr(self, name)
            if name == "pass_tokens" and value is None:
                continue
            if not (np.isfinite(value) and value >= 0):
                raise UserError(f"{name} is {value!r}; expected a number, 0 or more")

    @property
    def name(self) -> str:
        parts = ["2N(Q+V+G)" if self.generated_tokens else "2N(Q+V)"]
        parts += [f"2Nq, q = {self.tokens_of_pass:g}"] * self.question_pass + ["vision"] * (self.vision_flops > 0)
        name = " + ".join(parts + ["compressor"] * (self.compressor_flops is not None))
        return name if self.active is None else f"{name}, N active"

    @property
    def other_tokens(self) -> float:
        """The number of tokens beside V that cost 2N each; V* is proportional to it."""
        return self.question_tokens + self.tokens_of_pass + self.generated_tokens

    @property
    def tokens_of_pass(self) -> float:
        """q, the tokens that the LLM reads before the image is compressed; 0 without such a pass."""
        if not self.question_pass:
            return 0.0
        return min(PUBLISHED_PASS, self.question_tokens) if self.pass_tokens is None else self.pass_tokens

    def of(self, n: ArrayLike, v: ArrayLike) -> Array:
        """FLOPs of an answer at N (billions) and V, broadcast together."""
        n, v = np.asarray(n, dtype=float), np.asarray(v, dtype=float)
        if self.active is not None:
            known = np.array([*self.active.items()])
            near = np.abs(np.log(n[..., None] / known[:, 0]))
            n = np.where(near.min(axis=-1) < 1e-6, known[near.argmin(axis=-1), 1], np.nan)
        flops = 2 * BILLION * n * (self.other_tokens + v) + self.vision_flops
        return flops if self.compressor_flops is None else flops + self.compressor_flops(n, v)


def _numeric_column(table: Measurements, name: str) -> Array:
    if name not in table.frame:
        raise UserError(f"{table.source} has no column {name!r}; it has {', '.join(map(str, table.frame.columns))}")
    return np.array([x if isinstance(x, (int, float)) else np.nan for x in table.frame[name]], dtype=float)


def active_parameters(table: Measurements, column: str) -> dict[float, float]:
    """The mean of a column in billions for each N. Raises UserError unless it is above 0 everywhere.

    Values above 1e6 are counts, as in a column active_params of 3e9.
    """
    values = _numeric_column(table, column)
    if not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"{table.source}: column {column!r} is not a number above 0 in every row; expected active N")
    mean = table.frame.assign(_active=values).groupby("N")["_active"].mean()
    return {float(n): float(x) / (BILLION if x > 1e6 else 1.0) for n, x in mean.items()}


def tokens_of_pass(table: Measurements) -> float | None:
    """q of a table: the median of its column question_tokens, the length of the questions alone; None without one."""
    if QUESTION_COLUMN not in table.frame:
        return None
    values = _numeric_column(table, QUESTION_COLUMN)
    median = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
    return median if median > 0 else None


@dataclass(frozen=True)
class ColumnCost:
    """A measured cost such as milliseconds, joules or money: known for measured cells only, nan elsewhere.

    >>> import pandas as pd
    >>> from vlmlaw.laws.table import as_measurements
    >>> frame = pd.DataFrame({"N": [0.5, 7], "V": [16, 16], "error": [0.59, 0.49], "ms": [21.0, 80.0]})
    >>> ColumnCost.from_table(as_measurements(frame), "ms").of([0.5, 7, 7], [16, 16, 64]).tolist()
    [21.0, 80.0, nan]
    """

    name: str
    by_cell: dict[tuple[float, float], float]
    unit: str = ""

    @classmethod
    def from_table(cls, table: Measurements, column: str, *, unit: str = "") -> "ColumnCost":
        """Read the mean of a column, or of a sum of columns ("llm_flops+vision_flops"), in each cell.

        A cell without a number has no known cost. Raises UserError if a column is missing, if no row has a number, or
        if one is not above 0.
        """
        values = np.sum([_numeric_column(table, name.strip()) for name in column.split("+")], axis=0)
        known = np.isfinite(values)
        bad = known & (values <= 0)
        if bad.any() or not known.any():
            row = int(np.flatnonzero(bad)[0]) if bad.any() else 0
            line = table.frame["line"].iloc[row]
            raise UserError(f"{table.source} line {line}: {column!r} is not a number above 0; expected a cost")
        mean = table.frame.assign(_cost=values)[known].groupby(["N", "V"])["_cost"].mean()
        return cls(name=column, unit=unit, by_cell={(float(n), float(v)): float(c) for (n, v), c in mean.items()})

    def of(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Cost at N (billions) and V, broadcast together; nan for a cell that was not measured."""
        n, v = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(v, dtype=float))
        found = [self.by_cell.get((float(a), float(b)), np.nan) for a, b in zip(n.ravel(), v.ravel(), strict=True)]
        return np.array(found).reshape(n.shape)

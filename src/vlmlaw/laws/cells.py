"""The numbers a law is fitted to: N (billions of parameters), V (visual tokens), error and weight of each row.

Replicates stay separate rows. C counts rows throughout this package, B problems solved at once, K a law's parameters.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Cells:
    """N (billions of parameters), V, error and weight of each row, all of shape (C,); weights have mean 1.

    Build it with `Cells.of`, which checks the values.

    >>> cells = Cells.of(n=[0.5, 0.5, 7], v=[16, 64, 16], error=[0.59, 0.57, 0.49])
    >>> len(cells), cells.sizes.tolist(), cells.token_counts.tolist()
    (3, [0.5, 7.0], [16.0, 64.0])
    """

    n: Array
    v: Array
    error: Array
    weight: Array

    @classmethod
    def of(cls, n: ArrayLike, v: ArrayLike, error: ArrayLike, weight: ArrayLike | None = None) -> "Cells":
        """Build cells from sequences of equal length. Raises UserError for values not finite or out of range."""
        if weight is None:
            weight = np.ones(np.size(n))
        columns = [np.array(column, dtype=float).ravel() for column in (n, v, error, weight)]
        if len({column.size for column in columns}) != 1:
            raise UserError(f"N, V, error and weight differ in length: {[column.size for column in columns]}")
        for name, column, least in zip(["N", "V", "error", "weight"], columns, (0, 0, -np.inf, 0), strict=True):
            bad = ~np.isfinite(column) | (column <= least)
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                wanted = "a finite number" if name == "error" else "a number above 0"
                raise UserError(f"{name} of row {row} is {column[row]:g}; expected {wanted}")
        n, v, error, weight = columns
        return cls(n=n, v=v, error=error, weight=weight / weight.mean() if weight.size else weight)

    @cached_property
    def ln_n(self) -> Array:
        return np.log(self.n)

    @cached_property
    def ln_v(self) -> Array:
        return np.log(self.v)

    @cached_property
    def sizes(self) -> Array:
        """The distinct N in billions, ascending."""
        return np.unique(self.n)

    @cached_property
    def token_counts(self) -> Array:
        """The distinct V, ascending."""
        return np.unique(self.v)

    def __len__(self) -> int:
        return self.n.size

    def take(self, rows: Array) -> "Cells":
        """The cells selected by indices or by a mask; the weights keep their proportions."""
        return Cells.of(self.n[rows], self.v[rows], self.error[rows], self.weight[rows])


def format_size(n: float) -> str:
    """Format N, given in billions, as in 0.5 B, 99.9 M and 70 k."""
    for scale, suffix in ((1.0, "B"), (1e-3, "M"), (1e-6, "k")):
        if n >= 0.9995 * scale or suffix == "k":
            break
    if suffix == "M" and n >= 0.1:
        scale, suffix = 1.0, "B"  # 0.5 B rather than 500 M, as the field writes
    return f"{n / scale:.4g} {suffix}"


def format_value(letter: str, value: float) -> str:
    """Format a value of N, given in billions, with its unit, or one of V, as in 70 k and 144."""
    return format_size(value) if letter == "N" else f"{value:g}"


def refuse_unfit(cells: Cells, *, n_parameters: int) -> None:
    """Raise UserError if the cells cannot determine a law in N and V with this many parameters."""
    if len(cells) <= n_parameters:
        raise UserError(f"too few cells: {len(cells)} for {n_parameters} parameters; measure more")
    for letter, what, values in (("N", "size", cells.sizes), ("V", "visual-token count", cells.token_counts)):
        if values.size < 2:
            raise UserError(
                f"every cell has the same {what}, {letter} = {format_value(letter, values[0])}; a law in {letter} "
                "needs at least two, and three to be checked"
            )
    spread = np.ptp(cells.error)
    if spread <= 1e-12 * max(1.0, float(np.abs(cells.error).max())):
        raise UserError(f"every cell has the same error, {cells.error[0]:g}; nothing depends on N or V here")
    centred = np.stack([cells.ln_n - cells.ln_n.mean(), cells.ln_v - cells.ln_v.mean()])
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    if abs(centred[0] @ centred[1]) > 1 - 1e-9:
        raise UserError(
            "ln N and ln V are perfectly collinear: every cell lies on one ray, so the effect of N cannot be told from "
            "that of V; measure at least one cell off the ray"
        )
    distinct = np.unique(np.stack([cells.n, cells.v]), axis=1).shape[1]
    if distinct < n_parameters:
        raise UserError(f"{distinct} distinct (N, V) cells cannot fix {n_parameters} parameters; measure more cells")

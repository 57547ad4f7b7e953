"""Base class of the laws: named parameters with bounds, evaluated for a batch of parameter sets.

A law is evaluated for a batch: theta is (K, B, 1) in working coordinates, where a positive multiplier is its logarithm,
and yields error (B, C) and gradient (K, B, C).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.solver import Solution, solve

N_STARTS = 3  # local searches that follow the exhaustive one

TINY = 1e-12


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law: public name, bounds in public units, and whether the fit works on its logarithm.

    >>> find_law("power").parameters[0]
    Parameter(name='A', meaning='error above D at N = 1 B and V = 1', lower=0, upper=inf, logarithmic=True)
    """

    name: str
    meaning: str
    lower: float = -np.inf
    upper: float = np.inf
    logarithmic: bool = False


class Law(ABC):
    """Base class of the laws. `exponents` names the two parameters whose ratio is rho, if the law has one.

    >>> find_law("logit").formula, find_law("logit").exponents, find_law("additive").exponents
    ('logit(1 - error) = c0 + a ln N + b ln V', ('a', 'b'), None)
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]
    exponents: ClassVar[tuple[str, str] | None] = None
    separable: ClassVar[bool] = False

    @abstractmethod
    def evaluate(self, theta: Array, ln_n: Array, ln_v: Array) -> tuple[Array, Array]:
        """Error (B, C) and its gradient (K, B, C) at theta (K, B, 1) in working coordinates."""

    @abstractmethod
    def starts(self, cells: Cells) -> Array:
        """The best few starting points (B, K) of an exhaustive search, in working coordinates."""

    def bounds(self, cells: Cells) -> tuple[Array, Array]:
        """Lower and upper bounds (K,) in working coordinates for these cells."""
        public = np.array([[p.lower, p.upper] for p in self.parameters])
        return self.to_working(public[:, 0]), self.to_working(public[:, 1])

    def minimise(
        self, cells: Cells, start: Array, *, weight: Array, bounds: tuple[Array, Array], race: bool
    ) -> Solution:
        """Least squares from every start (B, K), with weights (C,) or (B, C) and bounds (K,) or (B, K).

        race: the starts are of one problem, of which the best solution counts; else of one problem each, whose
        predictions are wanted, which hardly change while a law creeps along a valley.
        """
        return solve(
            lambda theta: self.evaluate(theta, cells.ln_n, cells.ln_v),
            cells.error,
            start=start,
            weight=weight,
            lower=bounds[0],
            upper=bounds[1],
            tolerance=1e-9 if race else 1e-6,
            max_steps=200 if race else 30,
        )

    def to_working(self, public: Array) -> Array:
        """Working coordinates of public parameters (..., K)."""
        logarithmic = [p.logarithmic for p in self.parameters]
        public = np.asarray(public, dtype=float)
        return np.where(logarithmic, np.log(np.where(logarithmic, np.maximum(public, TINY), 1.0)), public)

    def to_public(self, working: Array) -> Array:
        """Public parameters of working coordinates (..., K)."""
        logarithmic = [p.logarithmic for p in self.parameters]
        return np.where(logarithmic, np.exp(np.where(logarithmic, working, 0.0)), working)

    def gains(self, theta: Array) -> Array:
        """The exponents (2, ...) at theta (K, ...), signed so that a positive one means falling error."""
        assert self.exponents is not None
        return theta[[self.position(name) for name in self.exponents]]

    def position(self, name: str) -> int:
        """The index of a parameter in theta."""
        return [p.name for p in self.parameters].index(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


LAWS: dict[str, Law] = {}


def register(law: type[Law]) -> type[Law]:
    """Register a law under its name, so that `find_law` and the fits know it. Use it as a class decorator.

    >>> from vlmlaw.laws.families.links import Logit
    >>> @register
    ... class Renamed(Logit):
    ...     name = "renamed"
    >>> find_law("renamed")
    Renamed()
    >>> _ = LAWS.pop("renamed")
    """
    LAWS[law.name] = law()
    return law


def find_law(name: str | Law) -> Law:
    """Return the law of this name. Raises UserError with the known names.

    >>> find_law("power").formula
    'error = A N^-alpha V^-beta + D, 0 <= D <= least error'
    """
    if isinstance(name, Law):
        return name
    if name not in LAWS:
        raise UserError(f"law {name!r} is unknown; the laws are {', '.join(LAWS)}")
    return LAWS[name]

"""The result of a fit: parameters with standard errors, rho, predictions with intervals, and its JSON form."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array, Cells
from vlmlaw.laws.families import Law, find_law
from vlmlaw.laws.posterior import Posterior
from vlmlaw.laws.statistics import student_t
from vlmlaw.laws.verdict import verdict as verdict_of

JSON_KIND = "vlmlaw-fit"


@dataclass(frozen=True, eq=False)
class LawFit:
    """A law fitted to cells. N is in billions of parameters, V counts visual tokens, error is 1 - score.

    theta (K,) and covariance (K, K) are in working coordinates (logarithms of positive multipliers); `summary` has the
    public parameters. at_bound names the parameters that ended on a bound; they have no standard error. rivals: the
    fits of the laws that this one was chosen among; intervals then include the choice.

    >>> from vlmlaw.laws import fit_law, read_measurements
    >>> fit = fit_law(read_measurements("li2024_reasoning"), "power")
    >>> round(fit.rho, 4), fit.at_bound, fit.predict(n=7, v=[16, 64]).round(3).tolist()
    (4.6973, ('D',), [0.493, 0.483])
    """

    law: Law
    cells: Cells
    theta: Array
    covariance: Array
    sse: float
    converged: bool
    at_bound: tuple[str, ...] = ()
    loss: str = "squared"
    robust_weight: Array | None = field(default=None, repr=False)
    rivals: tuple["LawFit", ...] = field(default=(), repr=False)

    # ------------------------------------------------------------------ figures of the fit

    @property
    def n_cells(self) -> int:
        return len(self.cells)

    @property
    def n_parameters(self) -> int:
        return len(self.law.parameters)

    @property
    def degrees_of_freedom(self) -> int:
        """The number of rows minus the number of parameters that are not on a bound."""
        return self.n_cells - self.n_parameters + len(self.at_bound)

    @property
    def sigma(self) -> float:
        """Residual standard deviation of a row of mean weight, in units of the error."""
        return float(np.sqrt(self.sse / self.degrees_of_freedom))

    @property
    def aicc(self) -> float:
        """Corrected Akaike criterion for Gaussian noise; counts every parameter and sigma; inf with too few cells."""
        n, k = self.n_cells, self.n_parameters + 1
        if n - k - 1 <= 0:
            return float("inf")
        return float(n * np.log(max(self.sse, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))

    @property
    def r_squared(self) -> float:
        """Share of the weighted variance of the error that the law explains."""
        mean = np.average(self.cells.error, weights=self.cells.weight)
        return float(1 - self.sse / (self.cells.weight @ (self.cells.error - mean) ** 2))

    @cached_property
    def params(self) -> dict[str, float]:
        """Public parameters by name."""
        public = self.law.to_public(self.theta)
        return {p.name: float(value) for p, value in zip(self.law.parameters, public, strict=True)}

    @cached_property
    def fitted(self) -> Array:
        """Predicted error of the fitted rows (C,)."""
        return self.predict(self.cells.n, self.cells.v)

    @cached_property
    def residuals(self) -> Array:
        """Measured minus predicted error (C,)."""
        return self.cells.error - self.fitted

    @cached_property
    def posterior(self) -> Posterior:
        """This law and its rivals, at every ratio of the noise that the cells of a size share."""
        return Posterior.of([self, *self.rivals])

    @cached_property
    def index_fit(self) -> "LawFit | None":
        """The fit with a single rho: this one, or else the rival of least AICc that has one; None without any."""
        if self.has_rho:
            return self
        rivals = sorted((fit for fit in self.rivals if fit.has_rho), key=lambda fit: fit.aicc)
        if not rivals:
            return None
        others = tuple(fit for fit in self.rivals if fit is not rivals[0])
        return replace(rivals[0], rivals=(replace(self, rivals=()), *others))

    def verdict(self, *, level: float = 0.95) -> list[str]:
        """The fit in plain sentences, the main one first."""
        return verdict_of(self, level=level)

    # ------------------------------------------------------------------ parameters

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """A row for each parameter: estimate, se, lower, upper (by Student's t), at_bound, meaning."""
        t = student_t(level, self.degrees_of_freedom)
        working_se = np.sqrt(np.maximum(np.diag(self.covariance), 0))
        rows = []
        for k, parameter in enumerate(self.law.parameters):
            value, half = self.theta[k], t * working_se[k]
            held = parameter.name in self.at_bound
            ends = np.array([np.nan, np.nan]) if held else np.array([value - half, value + half])
            se = np.nan if held else working_se[k]
            if parameter.logarithmic:
                value, ends, se = np.exp(value), np.exp(ends), se * np.exp(value)
            rows.append((parameter.name, value, se, *ends, held, parameter.meaning))
        columns = ["parameter", "estimate", "se", "lower", "upper", "at_bound", "meaning"]
        return pd.DataFrame(rows, columns=columns).set_index("parameter")

    @property
    def has_rho(self) -> bool:
        """Whether N and V act through one index, so that rho is a single number."""
        return self.law.exponents is not None

    @property
    def exponents(self) -> tuple[float, float]:
        """(alpha, beta), or (a, b) of a link law. Raises UserError for a law without a single rho."""
        names = self.require_rho()
        return self.params[names[0]], self.params[names[1]]

    @property
    def gains(self) -> tuple[float, float]:
        """The exponents, signed so that a positive one means falling error. Raises UserError as `exponents` does."""
        self.require_rho()
        in_n, in_v = self.law.gains(self.theta)
        return float(in_n), float(in_v)

    @property
    def rho(self) -> float:
        """alpha / beta: how much faster error falls with ln N than with ln V; inf if tokens do not help."""
        alpha, beta = self.gains
        if alpha > 0 >= beta:
            return float("inf")
        return alpha / beta if beta else float("nan")

    @property
    def rho_se(self) -> float:
        """Standard error of rho by the delta method; prefer the intervals of `vlmlaw.laws.intervals`."""
        alpha, beta = self.exponents
        gradient = np.array([1 / beta, -alpha / beta**2]) if beta else np.full(2, np.inf)
        return float(np.sqrt(gradient @ self.exponent_covariance @ gradient)) if beta else float("inf")

    @property
    def exponent_covariance(self) -> Array:
        """Covariance (2, 2) of the exponents."""
        where = [self.law.position(name) for name in self.require_rho()]
        return self.covariance[np.ix_(where, where)]

    def require_rho(self) -> tuple[str, str]:
        """Names of the two exponents. Raises UserError for a law without a single rho."""
        if self.law.exponents is None:
            raise UserError(
                f"law {self.law.name!r} has no single rho: the value of a token depends on N and V; "
                "use rho_at(n, v), or choose a law with exponents such as logit or power"
            )
        return self.law.exponents

    def rho_at(self, n: float, v: float) -> float:
        """Local rho at a cell: (d error / d ln N) / (d error / d ln V), by central differences."""
        step = 1e-5
        in_n = self.predict(n * np.exp(step), v) - self.predict(n * np.exp(-step), v)
        in_v = self.predict(n, v * np.exp(step)) - self.predict(n, v * np.exp(-step))
        return float(in_n / in_v) if in_v else float("inf")

    # ------------------------------------------------------------------ predictions

    def predict(self, n: ArrayLike, v: ArrayLike) -> Array:
        """Error at N (billions) and V, broadcast together."""
        return self._evaluate(n, v)[0]

    def predict_interval(
        self, n: ArrayLike, v: ArrayLike, *, level: float = 0.95, new_measurement: bool = True
    ) -> pd.DataFrame:
        """error, se, lower, upper at N and V, for a new measurement of a size of its own, or for the mean of the law.

        The interval allows for noise that the cells of a size share and for the choice of the law, as that of rho does
        (see `vlmlaw.laws.posterior`). What no error rate can be is no part of it, so it ends at 0 and 1, or at the
        prediction where the law itself leaves that range.
        """
        error = np.ravel(self._evaluate(n, v)[0])
        n, v = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(v, dtype=float))
        se, lower, upper = self.posterior.predict_interval(n, v, level=level, new_measurement=new_measurement)
        if self.cells.error.max() <= 1:  # losses have no upper end
            upper = np.minimum(upper, np.maximum(error, 1.0))
        lower = np.maximum(lower, np.minimum(error, 0.0))
        return pd.DataFrame({"error": error, "se": se, "lower": lower, "upper": upper})

    def _evaluate(self, n: ArrayLike, v: ArrayLike) -> tuple[Array, Array]:
        n, v = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(v, dtype=float))
        if not (np.all(n > 0) and np.all(v > 0)):
            raise UserError("N and V must be above 0: N in billions of parameters, V a number of visual tokens")
        error, gradient = self.law.evaluate(self.theta[:, None, None], np.log(n).ravel(), np.log(v).ravel())
        return error.reshape(n.shape), gradient.reshape(len(self.theta), *n.shape)

    # ------------------------------------------------------------------ JSON

    def to_dict(self) -> dict[str, Any]:
        """The fit as plain data that `from_dict` reads, with the measured cells."""
        return {
            "kind": JSON_KIND,
            "formula": self.law.formula,
            "params": self.params,
            **self._estimates(),
            "loss": self.loss,
            "cells": {name: getattr(self.cells, name).tolist() for name in ("n", "v", "error", "weight")},
            "rivals": [rival._estimates() for rival in self.rivals],
        }

    def _estimates(self) -> dict[str, Any]:
        """What fits of several laws to the same cells differ in, as plain data."""
        return {
            "law": self.law.name,
            "theta": self.theta.tolist(),
            "covariance": self.covariance.tolist(),
            "sse": self.sse,
            "converged": self.converged,
            "at_bound": list(self.at_bound),
            "robust_weight": None if self.robust_weight is None else self.robust_weight.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LawFit":
        """The inverse of `to_dict`. Raises UserError if the data are not a fit."""
        try:
            if data["kind"] != JSON_KIND:
                raise UserError(f"JSON holds a {data['kind']!r}; expected a {JSON_KIND!r}")
            cells, loss = Cells.of(**data["cells"]), data["loss"]
            rivals = tuple(cls._of_estimates(rival, cells, loss=loss) for rival in data.get("rivals", ()))
            return replace(cls._of_estimates(data, cells, loss=loss), rivals=rivals)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"JSON is not a fitted law: {type(error).__name__}: {error}") from error

    @classmethod
    def _of_estimates(cls, data: dict[str, Any], cells: Cells, *, loss: str) -> "LawFit":
        robust = data["robust_weight"]
        return cls(
            law=find_law(data["law"]),
            cells=cells,
            theta=np.array(data["theta"], dtype=float),
            covariance=np.array(data["covariance"], dtype=float),
            sse=float(data["sse"]),
            converged=bool(data["converged"]),
            at_bound=tuple(data["at_bound"]),
            loss=loss,
            robust_weight=None if robust is None else np.array(robust, dtype=float),
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """The fit as JSON text, written to the file `path` if there is one."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> "LawFit":
        """Read a fit from JSON text or from a JSON file. Raises UserError if that fails."""
        text = str(source)
        try:
            if isinstance(source, Path) or not text.lstrip().startswith("{"):
                text = Path(source).read_text(encoding="utf-8")
            return cls.from_dict(json.loads(text))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read a fitted law from {str(source)[:80]!r}: {error}") from error

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value:.6g}" for name, value in self.params.items())
        return f"<LawFit {self.law.name}: {numbers}; sse={self.sse:.6g}, n={self.n_cells}>"


def as_list(values: ArrayLike) -> list[float]:
    """A number or a sequence of numbers as a list of floats."""
    return [float(value) for value in np.atleast_1d(np.asarray(values, dtype=float))]

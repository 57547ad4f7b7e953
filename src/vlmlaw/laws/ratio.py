"""Intervals of the ratio rho = a / b, represented by the angle atan2(a, b), and those of V* = Q / (rho - 1).

The angle passes smoothly through b = 0, where tokens have no effect and rho is infinite. An interval whose end is not
finite is one that the data do not bound on that side.
"""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at `level`; an infinite end is one that the data do not bound.

    >>> print(Interval(4.7, 4.26, float("inf"), level=0.95, method="profile"))
    4.7 [4.26, ∞]
    """

    estimate: float
    lower: float
    upper: float
    level: float
    method: str

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return bool(np.isfinite(self.lower) and np.isfinite(self.upper))

    def to_dict(self) -> dict[str, float | int | str | None]:
        """The interval as plain data, with None for values that are not finite.

        "infinite" is 1 or -1 where both ends are that infinity, else 0: [∞, ∞] says that tokens gain nothing and
        [-∞, -∞] that neither size nor tokens do, while [-∞, ∞] says nothing. Ends of None alone do not tell them apart.
        """
        plain = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}
        return plain | {"infinite": int(self.lower == np.inf) - int(self.upper == -np.inf)}

    def __str__(self) -> str:
        def end(x: float) -> str:
            return f"{x:.3g}" if np.isfinite(x) else ("∞" if x > 0 else "-∞")

        return f"{end(self.estimate)} [{end(self.lower)}, {end(self.upper)}]"


def rho_of_angle(angle: float) -> float:
    """rho of the angle atan2(alpha, beta); infinite from a quarter turn on, where tokens have no effect or do harm."""
    if angle <= -np.pi / 2:
        return -np.inf
    return float(np.tan(angle)) if angle < np.pi / 2 else np.inf


def interval_between(estimate: float, lower: float, upper: float, *, level: float, method: str) -> Interval:
    """The interval of rho between two angles atan2(a, b) around that of the estimate; nan where there is no end.

    Behind half a turn backwards lie angles of a > 0 and b < 0, where rho is infinite: an interval from there to where
    both do harm bounds nothing.
    """
    if np.isnan(lower) or np.isnan(upper) or lower < -np.pi:
        return Interval(rho_of_angle(estimate), -np.inf, np.inf, level, method)
    return Interval(rho_of_angle(estimate), rho_of_angle(lower), rho_of_angle(upper), level, method)


def v_star_of_interval(rho: Interval, question_tokens: float) -> Interval:
    """The interval of V*(Q) that follows from an interval of rho."""
    ends = [v_star_of_rho(x, question_tokens) for x in (rho.estimate, rho.upper, rho.lower)]
    return Interval(ends[0], ends[1], ends[2], rho.level, rho.method)


def v_star_of_rho(rho: float, question_tokens: float) -> float:
    """V* = Q / (rho - 1): inf for rho <= 1, where every further token pays; 0 for an infinite rho, where none does."""
    if np.isinf(rho) and rho > 0:
        return 0.0
    return question_tokens / (rho - 1) if rho > 1 else float("inf")

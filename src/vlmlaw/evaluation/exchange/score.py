"""One score that was found in somebody's files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from vlmlaw.errors import UserError


@dataclass(frozen=True)
class FoundScore:
    """The error of one model on one suite, and where it was found.

    metric: how the error was made, which has to be the same for all models of a suite. settings: the text in which
    `where` of a models file is looked for. n_params: a count, where the file says it. details: columns of the table
    that the file itself knows, as N and V of a published grid.
    """

    model: str
    suite: str
    metric: str
    error: float
    path: Path
    error_se: float | None = None
    n_questions: int | None = None
    settings: str = ""
    n_params: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choices:
    """What a user settled: suite -> metric, suite -> points that can be reached; and whether limited runs are taken."""

    metrics: Mapping[str, str] = field(default_factory=dict)
    maxima: Mapping[str, float] = field(default_factory=dict)
    partial: bool = False


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value read from JSON or CSV is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def error_of(score: float, *, suite: str, metric: str, most: float, lower_is_better: bool, path: Path) -> float:
    """The error in [0, 1] of a score out of `most`. Raises UserError for one that is not between 0 and its maximum."""
    if not 0 <= score <= most:
        raise UserError(
            f"{path}, {suite}: {metric} is {score:g}; expected a number between 0 and {most:g}. Say what can be "
            f"reached: --maximum '{suite}=POINTS'"
        )
    return score / most if lower_is_better else 1 - score / most


def choose_metric(found: Mapping[str, float], wanted: str | None, *, suite: str, path: Path) -> str:
    """The metric to take: the wanted one, or the only one. Raises UserError where it is open or not there."""
    if wanted is not None:
        if wanted not in found:
            raise UserError(f"{path}, {suite}: there is no metric {wanted!r}; there are {', '.join(found)}")
        return wanted
    if len(found) > 1:
        first = next(iter(found))
        raise UserError(
            f"{path}, {suite}: several metrics ({', '.join(f'{k} {v:g}' for k, v in found.items())}); say which, as in "
            f"--metric '{suite}={first}'"
        )
    return next(iter(found))

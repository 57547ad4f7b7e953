"""Errors from what a column holds: fractions, percent or points of a known maximum, found for each suite by itself."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.cells import Array
from vlmlaw.laws.names import plain_name

SCALES = ("auto", "fraction", "percent")
# Points that a suite can reach: MME's perception and cognition (Fu et al. 2023), OCRBench (Liu et al. 2023).
MAXIMA = {
    **{
        "mme_perception": 2000.0,
        "mme_p": 2000.0,
        "mmep": 2000.0,
        "mme_cognition": 800.0,
        "mme_c": 800.0,
        "mmec": 800.0,
    },
    **{"mme_sum": 2800.0, "mme_total": 2800.0, "ocrbench": 1000.0},
}


def known_maximum(name: str) -> float | None:
    """The points that a suite of this name can reach, where its name says it, as `MME (/2800)`, or it is published."""
    stated = re.search(r"(?:/|\bmax(?:imum)?\.?:?|\bout of|\bof|\()\s*(\d{3,5})\)?\s*$", name, re.IGNORECASE)
    return float(stated[1]) if stated else MAXIMA.get(plain_name(name))


def is_unknown_points(values: Array, name: str, maxima: Mapping[str, float]) -> bool:
    """Whether a suite counts points of a maximum that is not known."""
    finite = values[np.isfinite(values)]
    if not finite.size or name in maxima or (finite.max() <= 100 and not _is_unbounded(name)):
        return False
    return known_maximum(name) is None and not _is_mme_sum(finite, name)


def _is_unbounded(name: str) -> bool:
    """Whether a suite is judged by CIDEr, which is no share: its values pass 100."""
    return bool(re.search(r"cider|nocaps|textcaps|flickr30k", plain_name(name)))


def _is_mme_sum(finite: Array, name: str) -> bool:
    """Whether values under the name MME are perception and cognition together: more than perception alone can reach."""
    return plain_name(name) == "mme" and 2000 < finite.max() <= 2800


def divisor(
    values: Array, percent: Array, lines: pd.Series, *, name: str, scale: str, maxima: Mapping[str, float], source: str
) -> tuple[float | Array, str]:
    """What the values of a suite are divided by to be fractions, and the scale in words.

    percent: where a field has a % sign. Raises UserError for fractions beside percent, losses and unknown points.
    """
    known = np.isfinite(values)
    finite = values[known]
    if name in maxima:
        return maxima[name], f"points of {maxima[name]:g}"
    if percent.any():
        bare = known & ~percent
        if bare.any() and finite.size and (values[bare] > 1).all():
            return 100.0, "percent"
        return np.where(percent, 100.0, 1.0), "percent where it has %" if bare.any() else "percent"
    if scale != "fraction":  # whose values above 1 the linter refuses
        _refuse_mixed(np.where(known, values, np.nan), lines, name=name, scale=scale, source=source)
    if scale == "auto" and "%" in name and finite.size and finite.max() <= 1:
        raise UserError(
            f"{source}: {name!r} says per cent and holds {finite.min():g} to {finite.max():g}, which look like "
            "fractions. Say which: --scale fraction or --scale percent"
        )
    if scale != "auto":
        return (100.0 if scale == "percent" else 1.0), scale
    unbounded = _is_unbounded(name) and known_maximum(name) is None
    if not finite.size or (np.median(finite) <= 1 and finite.max() < 2 and not unbounded):
        return 1.0, "fraction"
    edits = bool(re.search(r"edit|(^|_)ned(_|$)", plain_name(name))) and "%" not in name
    if finite.max() <= 100 and finite.min() >= 0 and not unbounded and not edits:
        if finite.max() <= 5 and finite.size > 1 and finite.min() >= 1:
            raise UserError(
                f"{source}: {name!r} holds {finite.min():g} to {finite.max():g}: a loss, or percent? The laws are of a "
                "share of wrong answers: give an error or score; a loss in nats becomes one as 1 - exp(-loss). "
                "If it is percent: --scale percent"
            )
        return 100.0, "percent"
    if unbounded:
        raise UserError(
            f"{source}: {name!r} is judged by CIDEr, which is no share of wrong answers; leave it out, or give a value "
            f"that counts as perfect: --maximum '{name}=150'"
        )
    if edits:
        raise UserError(
            f"{source}: {name!r} holds {finite.min():g} to {finite.max():g}: edits, or percent? Divide edits by the "
            "length of the text; if it is percent: --scale percent"
        )
    most = 2800.0 if _is_mme_sum(finite, name) else known_maximum(name)
    if most is not None and finite.max() <= most:
        return most, f"points of {most:g}"
    hint = "2000 for MME's perception, 2800 with cognition" if "mme" in plain_name(name) else "of the best possible"
    raise UserError(
        f"{source}: {name!r} holds points up to {finite.max():g}, and the laws are of a share of wrong answers. "
        f"Give the points that can be reached ({hint}): --maximum {name}=2000"
    )


def _refuse_mixed(values: Array, lines: pd.Series, *, name: str, scale: str, source: str) -> None:
    low, high = (values > 0) & (values <= 1), values > 1
    if not low.any() or not high.any() or np.nanmin(values[high]) < 5 * np.nanmax(values[low]):
        return
    if scale == "percent" and low.sum() < max(2, 0.1 * len(values)):
        return
    rows = lines.to_numpy()
    raise UserError(
        f"{source}: {name!r} mixes fractions and percent: line {rows[low][0]} holds {values[low][0]:g}, line "
        f"{rows[high][0]} {values[high][0]:g} ({int(low.sum())} and {int(high.sum())} rows). Write all in one unit"
    )

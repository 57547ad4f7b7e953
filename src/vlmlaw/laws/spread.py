"""Standard errors and confidence intervals that stand beside values, written into the values' fields as 60.1 ± 0.4.

A standard deviation is that of seeds or of questions, which its name does not tell, and is not read.
"""

import re
from collections.abc import Collection
from statistics import NormalDist

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.names import ALIASES, WEAK, is_score_like, plain_name

_DEVIATION = re.compile(r"(.*?)[\s_./,-]*[(\[]?(stderr|std_?err(?:or)?|standard error|s\.?e\.?|±|\+/-)[)\]]?")
_SPREAD = re.compile(r"(.+?)[\s_./,-]*[(\[]?(std|sd|stdev|std\.? ?dev\.?)[)\]]?", re.IGNORECASE)
_BRACKETS = r"[-\d.]+\s*%?\s*\([\d.]+\s*%?\)"
_CI = r"(?:(?<![A-Za-z])c\.?i\.?|conf(?:idence|\.)?[\s_-]*int(?:erval|\.)?|credible[\s_-]*interval|interval)"
_LEVELS = [rf"(?P<level{i}>\d\d(?:\.\d+)?)\s*%?" for i in range(3)]
_INTERVAL = re.compile(
    rf"(?P<base>.*?)[\s_./,±-]*[(\[]?(?:{_LEVELS[0]}[\s_-]*)?{_CI}(?:[\s_-]*{_LEVELS[1]})?[)\]]?", re.IGNORECASE
)
_END = re.compile(
    rf"(?P<base>.*?)[\s_./,-]*[(\[]?(?:(?:{_LEVELS[0]}[\s_-]*)?{_CI}(?:[\s_-]*{_LEVELS[1]})?[\s_-]*)?"
    r"(?P<end>lo|low|lower|lb|lcl|hi|high|upper|ub|ucl)"
    rf"(?:[\s_-]*(?:bound|limit|end|{_CI}))?(?:[\s_-]*{_LEVELS[2]})?[)\]]?",
    re.IGNORECASE,
)
_UPPER = {"lo": "hi", "low": "high", "lower": "upper", "lb": "ub", "lcl": "ucl"}
_NUMBER = r"[-+−]?\d*\.?\d+"
_BOTH_ENDS = re.compile(rf"[\[(]?\s*({_NUMBER})\s*%?\s*(?:[,;–—~]|-|to|\.\.+)\s*({_NUMBER})\s*%?\s*[\])]?")
_HALF = re.compile(r"(?:±|\+/-|\+-)?\s*(\d*\.?\d+)\s*%?")
DEFAULT_LEVEL = 95.0
ROUNDED = 0.05  # share of an interval's width by which its value may lie outside: both are rounded


def with_intervals(raw: pd.DataFrame, named: Collection[str], said: list[str], source: str) -> pd.DataFrame:
    """Write the standard errors that confidence intervals imply beside their values: half the width over z.

    Intervals are columns such as `95% CI` (both ends, or ± half of the width), two columns such as `lo` and `hi`, or
    brackets behind a value under `acc (95% CI)`. Without a level they count as of 95 %. Raises UserError for an
    interval that does not hold its value.
    """
    if any(plain_name(name) in ALIASES["error_se"] for name in raw.columns):
        return raw
    for name in [name for name in raw.columns if name not in named and name != "line"]:
        if name not in raw:
            continue  # the other end of an interval, read with it
        text = str(name).replace("−", "-")
        if found := _INTERVAL.fullmatch(text):
            raw = _of_column(raw, name, found["base"], _level(found), said, source)
        elif (found := _END.fullmatch(text)) and found["end"].lower() in _UPPER:
            raw = _of_ends(raw, name, found, named, said, source)
    return raw


def _level(found: re.Match[str]) -> float:
    levels = [float(value) for key, value in found.groupdict().items() if key.startswith("level") and value]
    return levels[0] if levels and 50 <= levels[0] < 100 else DEFAULT_LEVEL


def _of_column(raw: pd.DataFrame, name: str, base: str, level: float, said: list[str], source: str) -> pd.DataFrame:
    """Read a column of intervals beside the column of values, or values with their intervals in one column."""
    inside = raw[name].str.extract(rf"^\s*({_NUMBER}\s*%?)\s*(?:[\[(](.+)[\])]|((?:±|\+/-)\s*\S+))\s*$")
    if base and inside[0].notna().mean() > 0.5:
        value, interval = inside[0].fillna(raw[name]), inside[1].fillna(inside[2]).fillna("")
        raw = raw.assign(**{name: _joined(value, interval, raw["line"], name=name, level=level, source=source)})
        kept = base.rstrip(" ([_,±")
        said.append(f"error_se from the {level:g} % intervals of `{name}`")
        return raw.rename(columns={name: kept}) if kept not in raw else raw
    target = _target(raw, base, name)
    if target is None:
        return raw
    raw = raw.assign(**{target: _joined(raw[target], raw[name], raw["line"], name=name, level=level, source=source)})
    said.append(f"error_se from the {level:g} % intervals of `{name}`")
    return raw.drop(columns=name)


def _of_ends(
    raw: pd.DataFrame, name: str, found: re.Match[str], named: Collection[str], said: list[str], source: str
) -> pd.DataFrame:
    """Read two columns of ends, the lower of which is `name`."""
    start, end = found.span("end")
    wanted = plain_name(str(name)[:start] + _UPPER[found["end"].lower()] + str(name)[end:])
    other = next((other for other in raw.columns if plain_name(other) == wanted and other not in named), None)
    target = _target(raw, found["base"], name) if other is not None else None
    if other is None or target is None:
        return raw
    level = _level(found)
    ends = "[" + raw[name].str.strip() + ", " + raw[other].str.strip() + "]"
    raw = raw.assign(
        **{target: _joined(raw[target], ends, raw["line"], name=f"{name} to {other}", level=level, source=source)}
    )
    said.append(f"error_se from the {level:g} % intervals of `{name}` and `{other}`")
    return raw.drop(columns=[name, other])


def _target(raw: pd.DataFrame, base: str, name: str) -> str | None:
    """The column of values that an interval belongs to: of that name, or the only one, or the one to its left."""
    if base and (column := _column(raw, base, but=name)):
        return column
    if base:
        return None
    measures = [other for other in raw.columns if is_score_like(other) or plain_name(other) in WEAK["score"]]
    values = [other for other in measures if other != name]
    if len(values) == 1:
        return values[0]
    columns = list(raw.columns)
    left = columns[columns.index(name) - 1] if columns.index(name) else None
    return left if left in values else None


def _joined(
    values: pd.Series, intervals: pd.Series, lines: pd.Series, *, name: str, level: float, source: str
) -> list[str]:
    """The values with the standard errors of their intervals. Raises UserError for one that does not hold its value."""
    z = NormalDist().inv_cdf(0.5 + level / 200)
    joined = []
    for value, interval, line in zip(values.str.strip(), intervals.str.strip(), lines, strict=True):
        half = _half_width(interval, value) if _is_plain(value) else None
        if half == np.inf:
            raise UserError(
                f"{source} line {line}: the interval {interval} of `{name}` does not hold its value {value}. "
                "Write both in one unit, or leave the interval's column out"
            )
        plain = value.rstrip("% ")
        joined.append(value if half is None else f"{plain} ± {half / z:.6g}" + "%" * value.endswith("%"))
    return joined


def _half_width(interval: str, value: str) -> float | None:
    """Half the width of an interval; infinite where the value lies outside, None for text that is no interval."""
    if found := _BOTH_ENDS.fullmatch(interval):
        low, high = sorted(float(end.replace("−", "-")) for end in found.groups())
        slack = ROUNDED * (high - low)
        holds = low - slack <= float(value.rstrip("% ")) <= high + slack
        return (high - low) / 2 if holds else np.inf
    found = _HALF.fullmatch(interval)
    return float(found[1]) if found else None


def with_deviations(raw: pd.DataFrame, named: Collection[str], said: list[str]) -> pd.DataFrame:
    """Write the standard errors of a column of their own beside the values that they belong to."""
    own = ALIASES["error_se"]
    for name in [name for name in raw.columns if name not in (*named, "line") and plain_name(name) not in own]:
        text = str(name)
        if (found := _DEVIATION.fullmatch(text.lower())) and (base := _target(raw, found[1], name)):
            se = raw[name].str.replace(r"^\s*(?:±|\+/-)\s*", "", regex=True)
            both = raw[base].map(_is_plain) & se.map(_is_plain)
            joined = raw[base].str.rstrip("% ") + " ± " + se.str.rstrip("% ")
            percent = raw[base].str.endswith("%")
            joined = joined + np.where(percent, "%", "")
            raw = raw.assign(**{base: raw[base].where(~both, joined)}).drop(columns=name)
        elif (found := _SPREAD.fullmatch(text)) and (base := _column(raw, found[1], but=name)):
            said.append(f"not read: `{name}`, of seeds or of questions")
            raw = raw.drop(columns=name)
        elif found and raw[name].str.contains("±").mean() > 0.5:
            said.append(f"not read: ± of `{name}`, a deviation of seeds or of questions")
            base = re.sub(r"[\s(\[]*(mean)?[\s±]*$", "", found[1]) or text
            raw = raw.assign(**{name: raw[name].str.replace(r"\s*±.*", "", regex=True)}).rename(columns={name: base})
        elif (found or _DEVIATION.fullmatch(text.lower())) and raw[name].str.fullmatch(_BRACKETS).mean() > 0.5:
            raw = _brackets(raw, text, said)
    return raw


def _brackets(raw: pd.DataFrame, name: str, said: list[str]) -> pd.DataFrame:
    """Read 60.1 (0.4) as its column's name says: with a standard error, or a standard deviation to leave out."""
    spread = _SPREAD.fullmatch(name)
    base = (spread or _DEVIATION.fullmatch(name.lower()) or ["", name])[1]
    base = name[: len(base)].rstrip(" (") or name
    if spread:
        said.append(f"not read: deviations in brackets of `{base}`, of seeds or of questions")
    parts = raw[name].str.replace(r"\s*\(([\d.]+)\s*%?\)$", "" if spread else r" ± \1", regex=True)
    return raw.assign(**{name: parts}).rename(columns={name: base})


def _column(raw: pd.DataFrame, base: str, *, but: str) -> str | None:
    wanted = plain_name(base)
    return next((name for name in raw.columns if name != but and plain_name(name) == wanted and name != "line"), None)


def _is_plain(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[\d.]+(e-?\d+)?\s*%?", text.strip()))

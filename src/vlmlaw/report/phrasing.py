"""Text of numbers and verdicts, the same in figures, page and terminal."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmlaw.laws.cells import format_size
from vlmlaw.laws.table import ALL_KINDS, MEAN_OF_SUITES

INFINITE = "∞"
NOTHING = "–"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float | None, digits: int = 3) -> str:
    """A number with this many significant digits; in exponent form only if it is very small or very large.

    >>> number(9.996), number(0.09999, 2)
    ('10.0', '0.10')
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return INFINITE if value > 0 else f"−{INFINITE}"
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    exponent = int(rounded.partition("e")[2])  # of the rounded value: 9.996 has two digits before the point
    if not -5 <= exponent < 6:
        return rounded.replace("-", "−")
    decimals = max(0, digits - 1 - exponent)
    return f"{value:.{decimals}f}".replace("-", "−")


def error(value: float | None) -> str:
    """An error, which is a share of questions, with three decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent, with this many decimals."""
    if value is None or math.isnan(value):
        return NOTHING
    return INFINITE if math.isinf(value) else f"{100 * value:.{digits}f} %"  # a deviation from an error of 0


def whole(value: float | None) -> str:
    """A count with thousands separators."""
    return NOTHING if value is None or math.isnan(value) else f"{round(value):,}".replace(",", "\u202f")


def si(value: float) -> str:
    """A number of 0 or more with three digits and an SI prefix.

    >>> si(12.5e6), si(999_999)
    ('12.5 M', '1 M')
    """
    if math.isnan(value):
        return NOTHING
    value = float(f"{value:.3g}")  # before the prefix is chosen, so that no value is 1000 k
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A duration in seconds, minutes or hours."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def ends(interval: Mapping[str, Any]) -> str:
    """An interval as [lower, upper]; None is an end that the data do not bound."""
    if interval.get("infinite"):
        end = number(math.copysign(math.inf, interval["infinite"]))
        return f"[{end}, {end}]"
    lower = f"−{INFINITE}" if interval["lower"] is None else number(interval["lower"])
    upper = INFINITE if interval["upper"] is None else number(interval["upper"])
    return f"[{lower}, {upper}]"


def rho(interval: Mapping[str, Any] | None) -> str:
    """ρ with its interval."""
    if interval is None:
        return "no single ρ"
    if interval.get("infinite"):
        return (
            "ρ infinite: error does not fall with visual tokens"
            if interval["infinite"] > 0
            else "no ρ: error falls neither with LLM size nor with visual tokens"
        )
    if is_open(interval):
        return "ρ not bounded" + ("" if interval["estimate"] is None else f", best fit {number(interval['estimate'])}")
    if interval["upper"] is not None and interval["upper"] <= 0:
        return "ρ below 0: error does not fall with LLM size"
    return f"ρ = {estimate(interval)} {ends(interval)}"


def estimate(interval: Mapping[str, Any]) -> str:
    """The estimate of ρ; None is infinity, the negative one if the upper end is finite or that infinity, too."""
    missing = INFINITE if interval["upper"] is None and interval.get("infinite", 0) >= 0 else f"−{INFINITE}"
    return missing if interval["estimate"] is None else number(interval["estimate"])


def is_open(interval: Mapping[str, Any] | None) -> bool:
    """Whether the data bound rho on neither side, and therefore not V* either."""
    if interval is None or interval.get("infinite"):
        return False
    return interval["lower"] is None and interval["upper"] is None


def gains_nothing(interval: Mapping[str, Any] | None) -> bool:
    """Whether error falls neither with size nor with tokens, so that there is no rho and no best V."""
    return interval is not None and interval.get("infinite", 0) < 0


def best(interval: Mapping[str, Any] | None, row: Mapping[str, Any], *, at: float) -> str:
    """V* at Q = `at` with its interval, or why there is none."""
    if gains_nothing(interval):
        return "no V*: nothing is gained by size or by tokens"
    return f"V* not bounded at Q = {at:g}" if is_open(interval) else v_star(row, at=at)


def v_star(row: Mapping[str, Any], *, at: float | None = None) -> str:
    """V* with its interval, clipped to the measured range; followed by Q = `at` if that is not None."""
    place = "" if at is None else f" at Q = {at:g}"
    sure = row["lower"] is None or row["lower"] == row["upper"]
    if row["corner"] and sure:
        return f"V* = {row['v_star']:g}{place}, the {'fewest' if row['corner'] == 'smallest' else 'most'} measured"
    interval = "" if row["lower"] is None or row["upper"] is None else f" {ends(row)}"
    return f"V* = {number(row['v_star'])}{interval}{place}"


def label(group: Mapping[str, Any], *, with_compressor: bool = True) -> str:
    """The label of a fit: its suite, and its kind and compressor if they distinguish it."""
    suite = "measured cells" if group["suite"] == ALL_KINDS else group["suite"]
    kind = "" if group["kind"] in (ALL_KINDS, group["suite"]) else group["kind"]
    compressor = (group.get("compressor") or "") if with_compressor else ""
    return " · ".join(part for part in (suite, kind, compressor) if part)


def several_compressors(fits: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these fits have different compressors, which their labels must then name."""
    return len({fit.get("compressor") for fit in fits if fit["suite"] != MEAN_OF_SUITES}) > 1


def is_whole_suite(group: Mapping[str, Any]) -> bool:
    """Whether a group is a whole suite: neither one kind of question nor the mean of suites."""
    return group["kind"] == ALL_KINDS and group["suite"] != MEAN_OF_SUITES


def side(interval: Mapping[str, Any] | None) -> str:
    """The factor that an interval of rho shows to matter more: "size", "tokens", or "unsettled"."""
    if interval is None:
        return "unsettled"
    if interval.get("infinite", 0) > 0:
        return "size"
    if interval["lower"] is not None and interval["lower"] > 1:
        return "size"
    if interval["upper"] is not None and interval["upper"] < 1 and interval["lower"] is not None:
        return "tokens"
    return "unsettled"


def advice(interval: Mapping[str, Any] | None) -> str:
    """The advice that follows from an interval of rho, in a few words."""
    if interval is None:
        return "it depends on the cell"
    if gains_nothing(interval):
        return "nothing to trade off"
    if interval.get("infinite"):
        return "take the fewest visual tokens"
    return {"size": "buy the larger LLM", "tokens": "buy more visual tokens", "unsettled": "not settled"}[
        side(interval)
    ]


def held_out(fit: Mapping[str, Any], name: Callable[[float], str] = format_size) -> str:
    """The names of the sizes that were held out of a fit."""
    return listed([name(n) for n in sorted({cell["N"] for cell in fit["hold_out"]["cells"]})])


def span(low: float, high: float) -> str:
    """A range of numbers, as in "4 to 9"; one number where both ends are it."""
    ends = dict.fromkeys((f"{low:g}", f"{high:g}"))
    return " to ".join(ends)


def sentence(text: str) -> str:
    """Text as a sentence: with a capital letter and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def plural(count: int, word: str) -> str:
    """A count with its noun, as in "1 cell" and "2 cells"."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def listed(words: list[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"

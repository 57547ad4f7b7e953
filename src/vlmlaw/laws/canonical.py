"""The columns of a long table as numbers and words of fixed names, and the sentence that says how it was read."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.fields import to_flags, to_numbers, to_sizes, to_tokens, word
from vlmlaw.laws.names import plain_name
from vlmlaw.laws.scales import divisor
from vlmlaw.laws.texts import measures
from vlmlaw.laws.wide import Layout

COLUMNS = (
    *("cell", "N", "V", "error", "error_se", "suite", "kind", "compressor", "seed", "training", "held_out"),
    "n_questions",
)
ALL_KINDS = "all"
USED_ELSEWHERE = ("active_params_b", "question_tokens")  # by the cost


def canonical_frame(
    layout: Layout, *, unit: str | None, scale: str, maxima: Mapping[str, float], source: str
) -> tuple[pd.DataFrame, str, str]:
    """The frame of Measurements, the unit of N in the file, and the sentence about its columns."""
    raw, names = layout.raw, layout.names
    taken = {*names.values(), *COLUMNS, "line"}
    extra = {name: raw[name] for name in raw.columns if name not in taken}
    n_rows = len(raw)

    def numbers(name: str) -> np.ndarray:
        if name not in names:
            return np.full(n_rows, np.nan)
        return to_numbers(raw[names[name]], raw["line"], source=source, blank_is_nan=True)[0]

    def words(name: str, default: str) -> pd.Series:
        return raw[names[name]].map(word).replace("", default) if name in names else pd.Series([default] * n_rows)

    measured = "error" if "error" in names else "score"
    n, unit, unit_words = to_sizes(raw[names["n_params"]], raw["line"], unit=unit, source=source)
    suite = words("suite", ALL_KINDS)
    labels = suite if layout.wide and "suite" in names else None
    value, own_se, scales = _fractions(
        raw, names[measured], suite, scale=scale, maxima=maxima, source=source, labels=labels
    )
    error_se = numbers("error_se")
    if 0 < np.nanmax(error_se, initial=0) < 0.05 and (value[1] == 100).all():  # of more than a million questions
        raise UserError(
            f"{source}: `{names['error_se']}` holds {np.nanmin(error_se):g} to {np.nanmax(error_se):g} beside "
            f"`{names[measured]}` in percent; write both in one unit"
        )
    frame = pd.DataFrame(
        {
            "N": n,
            "V": to_tokens(raw[names["n_visual_tokens"]], raw["line"], source=source),
            "error": value[0] if measured == "error" else 1 - value[0],
            "error_se": error_se / value[1] if "error_se" in names else own_se,
            "suite": suite,
            "kind": words("kind", ALL_KINDS),
            "compressor": words("compressor", ""),
            "seed": words("seed", ""),
            "training": words("training", ""),  # cells of one training share its weights; "" is a training of its own
            "held_out": to_flags(words("held_out", ""), raw["line"], source=source),
            "n_questions": numbers("n_questions"),
            "note": words("note", ""),
            "line": raw["line"].to_numpy(),
        }
    )
    default_cell = frame["N"].map("{:g}B".format) + "_v" + frame["V"].map("{:g}".format)
    frame.insert(0, "cell", words("cell", "") if "cell" in names else default_cell)
    reading = _sentence(layout, measured, unit_words, scales, with_se=bool(np.isfinite(own_se).any()))
    # sizes beside another column of sizes are the names that they go by, such as 150k
    further = {name: column if plain_name(name) == "size" else measures(column) for name, column in extra.items()}
    return frame.assign(**further), unit, reading


def _fractions(
    raw: pd.DataFrame,
    column: str,
    suite: pd.Series,
    *,
    scale: str,
    maxima: Mapping[str, float],
    source: str,
    labels: pd.Series | None,
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, dict[str, str]]:
    """Values as fractions and what each was divided by, standard errors from ±, and each suite's scale in words."""
    values, errors, percent = to_numbers(raw[column], raw["line"], source=source, blank_is_nan=True, labels=labels)
    per, scales = np.ones(len(values)), {}
    for name in suite.unique():
        rows = suite.eq(name).to_numpy()
        label = column if name == ALL_KINDS else str(name)
        per[rows], scales[label] = divisor(
            values[rows], percent[rows], raw["line"][rows], name=label, scale=scale, maxima=maxima, source=source
        )
    return (values / per, per), errors / per, scales


def _sentence(layout: Layout, measured: str, unit: str, scales: Mapping[str, str], *, with_se: bool) -> str:
    """Which column was read as what."""
    names, sayings = layout.names, layout.sayings
    origin = {role: sayings.get(role) or f"`{names[role]}`" for role in ("n_params", "n_visual_tokens")}
    size = f"N from {origin['n_params']}, {unit}"
    if "active_params_b" in layout.raw and names["n_params"] != "active_params_b":
        size += " (total; active ones in `active_params_b`)"
    v = f"V from {origin['n_visual_tokens']}"
    sign = "" if measured == "error" else "1 - "
    by_scale: dict[str, list[str]] = {}
    for name, found in scales.items():
        by_scale.setdefault(found, []).append(name)
    shown = [f"{', '.join(f'`{name}`' for name in found)}, {word_}" for word_, found in by_scale.items()]
    parts = [size, v, f"error = {sign}{'; '.join(shown)}"]
    if layout.wide and sayings.get("holds"):
        parts[-1] += f" (errors, {sayings['holds']}; --holds score if not)"
    parts += [
        f"{role} from `{names[role]}`"
        for role in ("kind", "compressor", "seed", "held_out", "n_questions", "training", "error_se")
        if role in names
    ]
    from_interval = any(said.startswith("error_se") for said in layout.tidied)
    parts += ["error_se from the ±"] * (with_se and "error_se" not in names and not from_interval)
    parts += [f"left out: {sayings.get('left_out')}"] * ("left_out" in sayings)
    unread = [*_unread(layout), *layout.unread]
    parts += [f"not read: {', '.join(f'`{name}`' for name in unread)}"] * bool(unread)
    return "; ".join([*parts, *layout.tidied])


def _unread(layout: Layout) -> list[str]:
    """Columns that no law reads; `--where`, `--cost` and `--column` still reach them."""
    raw, names = layout.raw, layout.names
    read = {*names.values(), "line", *USED_ELSEWHERE}
    if "compressor" in names and "family" in raw and raw["family"].equals(raw[names["compressor"]]):
        read.add("family")
    named = " ".join(layout.sayings.values())  # columns whose names of models or headings state N or V
    return [str(name) for name in raw.columns if name not in read and f"`{name}`" not in named]

"""Which column of a table is what: found by names and values, said in a sentence, and never guessed among several.

A role with two candidates is refused with both named.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.names import (
    ALIASES,
    MOST_TOKENS_PER_IMAGE,
    WEAK,
    WHAT,
    is_benchmark,
    is_error,
    is_loss,
    is_of_encoder,
    is_other,
    may_be,
    plain_name,
)
from vlmlaw.laws.texts import LARGEST_COUNT, is_pair, name_without_size, number, size, sizes_in_name, tokens_in_name
from vlmlaw.laws.wide import (
    Layout,
    benchmark_columns,
    benchmarks,
    columns_of,
    compressor_of_copies,
    holds_errors,
    melt,
    missing_role,
    split_pairs,
    unwind_design,
)


def lay_out(
    raw: pd.DataFrame, columns: Mapping[str, str], *, scores: Sequence[str] = (), holds: str = "auto", source: str
) -> Layout:
    """Find the role of every column and make the table long.

    Raises UserError for a role without a column, with several candidates, and for columns that are named but missing.
    """
    sayings: dict[str, str] = {}
    raw, names = _named(raw, columns, scores, sayings, source)
    for role in ALIASES:
        if role not in names and not (scores and role in ("score", "error", "suite")):
            found = _candidates(raw, role, taken=names.values())
            if found:
                names[role] = _only(raw, role, found, source)
    raw = _in_names(raw, names, sayings, source)
    _weak_roles(raw, names, source)
    raw, wide = unwind_design(raw, names, sayings, source)
    if wide:
        return _finish(raw, names, holds=holds, sayings=sayings, wide=True)
    for role in WHAT:
        if role not in names:
            raise UserError(missing_role(raw, role, names, source))
    _measured(raw, names, columns, source)
    suites = list(scores) or ([] if {"error", "score"} & set(names) else benchmarks(raw, names, source))
    pairs = [c for c in (suites or [names.get("score", "")]) if c in raw and raw[c].map(is_pair).any()]
    if not suites and pairs:
        suites = [names.pop("score")]
    if not suites:
        return _finish(raw, names, holds="error" if "error" in names else "score", sayings=sayings)
    taken = [name for name in ("suite", "score") if name in raw and name not in suites and name not in columns.values()]
    if taken or "suite" in names:
        clash = taken[0] if taken else names["suite"]
        raise UserError(f"{source} has a column {clash!r} beside the columns of scores; rename or drop it")
    raw, suites = split_pairs(raw, suites, pairs)
    if scores and holds == "auto" and len({is_error(name) for name in suites}) > 1:
        errors = ", ".join(name for name in suites if is_error(name))
        raise UserError(f"{source}: --scores names errors ({errors}) beside scores; read each kind by itself")
    raw = melt(raw, suites, "suite")
    names |= {"suite": "suite", "score": "score"}
    layout = _finish(raw, names, holds=holds, sayings=sayings, wide=True)
    return replace(layout, found_suites=not scores)


def _named(
    raw: pd.DataFrame, columns: Mapping[str, str], scores: Sequence[str], sayings: dict[str, str], source: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The columns that the user named; a size or token count in place of a name becomes a column of its own."""
    names = dict(columns)
    unknown = [name for name in columns if name not in ALIASES]
    if unknown:
        raise UserError(f"column {unknown[0]!r} cannot be mapped; the names are {', '.join(ALIASES)}")
    for role, name in columns.items():
        is_value = (role == "n_params" and _is_size(name)) or (role == "n_visual_tokens" and re.fullmatch(r"\d+", name))
        if name not in raw and is_value:
            label = f"{role} of all rows"
            raw, names[role], sayings[role] = raw.assign(**{label: name}), label, f"{name} as given"
    for name in (*names.values(), *scores):
        if name not in raw or name == "line":
            raise UserError(f"{source} has no column {name!r}; it has {columns_of(raw)}")
    return raw, names


def _candidates(raw: pd.DataFrame, role: str, *, taken: Iterable[str]) -> list[str]:
    found = []
    for name in raw.columns:
        if role == "n_params" and name == "N" and "V" in raw and raw[name].map(_is_size).all():
            return [name]  # the letters of the law, as in a frame of `Measurements`
        if name == "line" or name in taken or not may_be(role, name):
            continue
        if role == "seed" and not _are_seeds(raw, name):
            continue  # SEED, the benchmark
        if (
            plain_name(name) == "checkpoint"
            and raw[name].str.fullmatch(r"(?i)(step|iter|epoch|ckpt|checkpoint)?[\s_-]*\d+k?").all()
        ):
            continue  # a training's steps
        own = plain_name(name) == ALIASES[role][0]
        if role == "n_params" and plain_name(name).endswith("size") and not raw[name].map(_is_size).any():
            continue  # names of sizes, such as "small"
        if own:
            return [name]
        found.append(name)
    return found


def _is_size(text: str) -> bool:
    try:
        size(text, unit="billions")
    except ValueError as error:
        return "experts" in str(error)
    return True


def _are_seeds(raw: pd.DataFrame, name: str) -> bool:
    """Whether a column is of seeds, not SEED-Bench's scores: these have decimals, or differ beside other benchmarks."""
    texts = raw[name].map(str)
    if texts.str.fullmatch(r"\d+\.\d*[1-9]\d*%?").any() or "%" in "".join(texts):
        return False
    others = [other for other in raw.columns if other != name and is_benchmark(other)]
    return not (name.isupper() and others and texts.nunique() == len(texts) > 1)


def _only(raw: pd.DataFrame, role: str, found: list[str], source: str) -> str:
    """The one candidate for a role. Raises UserError for several that differ."""
    if len(found) > 1 and any((raw[found[0]] != raw[name]).any() for name in found[1:]):
        shown = " and ".join(f"`{name}`" for name in found)
        why = ""
        if role == "n_params" and any("activ" in name.lower() for name in found):
            why = " Total parameters are what a model knows with, active ones what it computes with (--cost-params)."
        raise UserError(
            f"{source} has {len(found)} columns for the {WHAT.get(role, role)}: {shown}. "
            f"Say which: --column '{role}={found[0]!s}'.{why}"
        )
    return found[0]


def _in_names(raw: pd.DataFrame, names: dict[str, str], sayings: dict[str, str], source: str) -> pd.DataFrame:
    """Where no column holds the sizes or token counts, read them in names; add the active parameters of mixtures."""
    if "n_params" not in names:
        _take(raw, names, sayings, "n_params", sizes_in_name, source)
        if names.get("n_params") == names.get("compressor") is not None:  # a method with its model, as in FastV-7B
            raw = raw.assign(compressor=raw[names["n_params"]].map(name_without_size))
            names["compressor"] = "compressor"
    column = names.get("n_params")
    if "n_visual_tokens" not in names and not any(plain_name(name) in WEAK["n_visual_tokens"] for name in raw.columns):
        _take(raw, names, sayings, "n_visual_tokens", tokens_in_name, source)
        if "n_visual_tokens" in names:
            found = names["n_visual_tokens"]
            raw = raw.assign(visual_tokens=[f"{tokens_in_name(text):g}" for text in raw[found]])
            sayings["n_visual_tokens"] = f"the names of `{found}`"
            names["n_visual_tokens"] = "visual_tokens"
    if column is None:
        return raw
    text = raw[column].map(str)
    if "active_params_b" not in raw and text.str.contains(r"[bB][-_ /(]*[aA]\d|\d\s*[x×]\s*\d+[bB]", regex=True).any():
        try:
            active = [size(value, unit="billions")[1] for value in text]
        except ValueError as error:
            raise UserError(f"{source}: column {column!r}: {error}") from None
        raw = raw.assign(active_params_b=[f"{value:g}" for value in active])
    return raw


def _take(raw: pd.DataFrame, names: dict[str, str], sayings: dict[str, str], role: str, read: Any, source: str) -> None:
    """Give a role to the one column of names that state its value. Raises UserError for two that differ."""
    found: dict[str, list[Any]] = {}
    for name in raw.columns:
        taken = name in names.values() and role == "n_params" and name != names.get("compressor")
        tower = role == "n_params" and is_of_encoder(name)
        if name == "line" or taken or tower or (is_other(name) and name != "group"):
            continue
        try:
            values = [read(text) for text in raw[name]]
        except ValueError as error:
            raise UserError(f"{source}: column {name!r}: {error}") from None
        if all(values):
            found[name] = values
    plain = [plain_name(name) for name in raw.columns]
    if not found or (role == "n_params" and "n" in plain and "v" in plain):
        return
    column, *others = found
    differ = [name for name in others if found[name] != found[column]]
    if differ:
        at = next(i for i, value in enumerate(found[column]) if value != found[differ[0]][i])
        raise UserError(
            f"{source} has no column for the {WHAT[role]}, and the names in `{column}` and `{differ[0]}` state "
            f"different ones (line {raw['line'].iloc[at]}: {raw[column].iloc[at]!r}, {raw[differ[0]].iloc[at]!r}). "
            f"Say which: --column {shlex.quote(f'{role}={differ[0]}')}"
        )
    names[role] = others[-1] if others else column
    sayings[role] = f"sizes in the names of `{names[role]}`"


def _weak_roles(raw: pd.DataFrame, names: dict[str, str], source: str) -> None:
    """Roles of columns with a name that may mean another thing, where the values fit: n, tokens, t, m."""
    counts = [name for name in raw.columns if plain_name(name) == "n" and name not in names.values()]
    if counts and "n_params" not in names and raw[counts[0]].map(_is_size).all():
        values = pd.to_numeric(raw[counts[0]], errors="coerce")
        if values.mod(1).eq(0).all() and values.ge(100).all() and values.lt(LARGEST_COUNT).all():
            raise UserError(
                f"{source}: `{counts[0]}` holds {values.iloc[0]:g}: a number of questions, or the size? Say which: "
                f"--column n_questions={counts[0]} or --column n_params={counts[0]}"
            )
        names["n_params"] = counts[0]
    elif counts and "n_questions" not in names:
        values = pd.to_numeric(raw[counts[0]], errors="coerce")
        if (values.ge(2) & values.mod(1).eq(0)).all():
            names["n_questions"] = counts[0]
    values = [name for name in raw.columns if plain_name(name) in WEAK["score"] and name not in names.values()]
    if values and not {"score", "error"} & set(names) and not benchmark_columns(raw, names):
        names["score"] = _only(raw, "score", values, source)
    if "n_visual_tokens" in names:
        return
    fit = []
    for name in raw.columns:
        if name not in names.values() and plain_name(name) in WEAK["n_visual_tokens"]:
            values = raw[name].map(_count)
            if (values.ge(1) & values.le(MOST_TOKENS_PER_IMAGE)).all():
                fit.append(name)
    if fit:
        names["n_visual_tokens"] = _only(raw, "n_visual_tokens", fit, source)


def _count(text: str) -> float:
    try:
        return number(text)[0]
    except ValueError:
        return np.nan


def _measured(raw: pd.DataFrame, names: dict[str, str], columns: Mapping[str, str], source: str) -> None:
    """Settle which column is the error or the score. Raises UserError for both, unless one is 1 minus the other."""
    if "error" in columns:
        names.pop("score", None)
    elif "score" in columns:
        names.pop("error", None)
    elif "error" in names and "score" in names:
        own = plain_name(names["error"]) == "error" and "n_params" in raw and "n_visual_tokens" in raw
        error, score = (raw[names[role]].map(_count) for role in ("error", "score"))
        total = (error + score).dropna()
        if not own and not (np.allclose(total, 1, atol=2e-3) or np.allclose(total, 100, atol=0.2)):
            raise UserError(
                f"{source} has a column for the error, `{names['error']}`, and one for the score, `{names['score']}`, "
                f"that do not add to 1. Say which: --column error={names['error']} or --column score={names['score']}"
            )
        names.pop("score")
    metric = next((name for name in raw.columns if plain_name(name) == "metric" and name not in names.values()), None)
    if metric and "kind" not in names and raw[metric].nunique() > 1 and "score" in names:
        names["kind"] = metric
    if metric and "score" in names and (errors := {name for name in raw[metric] if is_error(name)}):
        if errors != set(raw[metric]):
            raise UserError(
                f"{source}: `{metric}` holds errors ({', '.join(sorted(errors))}) beside scores; "
                "keep the rows of one kind"
            )
        names["error"] = names.pop("score")
    losses = [name for name in raw.columns if is_loss(name)]
    used = names.get("error", names.get("score"))
    if used in losses or (losses and used is None and not benchmark_columns(raw, names)):
        raise UserError(
            f"{source}: `{losses[0]}` is a loss, and the laws are of a share of wrong answers between 0 and 1. Give "
            "the error or score; a loss in nats of an answer becomes a share as 1 - exp(-loss), the mean doubt"
        )


def _finish(
    raw: pd.DataFrame, names: dict[str, str], *, holds: str, sayings: dict[str, str], wide: bool = False
) -> Layout:
    unread: tuple[str, ...] = ()
    if wide and holds == "auto":
        suites = list(raw[names["suite"]].unique()) if "suite" in names else []
        errors = [name for name in suites if is_error(name)]
        if errors and len(errors) < len(suites):
            raw = raw[~raw[names["suite"]].isin(errors)].reset_index(drop=True)
            unread = tuple(f"{name} (less is better: --scores '{name}' --holds error)" for name in errors)
        named = bool(errors) and not unread
        holds = "error" if named or holds_errors(raw, names) else "score"
        sayings["holds"] = "as the name says" if named else "as it falls with N and V" if holds == "error" else ""
    if wide and holds == "error":
        names["error"] = names.pop("score")
    raw, names = compressor_of_copies(raw, names)
    return Layout(raw, names, unread, sayings=sayings, wide=wide)

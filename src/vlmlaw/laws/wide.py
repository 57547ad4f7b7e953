"""Wide tables made long: a column for each V, for each size, for each benchmark, and two numbers in one field."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.names import (
    ALIASES,
    NO_TOKENS,
    PRUNED,
    WEAK,
    WHAT,
    is_average,
    is_benchmark,
    is_other,
    is_relative,
    may_be,
    plain_name,
)
from vlmlaw.laws.texts import is_missing, is_number, number, pair, size, sizes_in_name

_TOKENS = r"(\d+)(?:\.0)?\s*(?:visual |image |vision )?(?:tokens?|tok)"
_COUNT = rf"(?:[vV]\s*=?\s*(\d+)|(?:m|#?tokens?|T)\s*=?\s*(\d+)|{_TOKENS})"
_ALONE = re.compile(
    r"(?:[vV]|[mM]|#?[tT]okens?|T)?\s*[=_]?\s*(\d+)(?:\.0)?\s*(?:visual |image |vision )?(?:tokens?|tok\.?)?"
    r"(?:(?:\s+|\s*[(\[])[↓-]?\s*[\d.]+\s*%\s*↓?[)\]]?)?"  # 192 tokens (66.7% ↓)
)
_COUNT_BEHIND = re.compile(r"(?P<suite>.+?)[\s_@/:|(\[×,-]+(?P<count>\d+)[)\]]?")
_COUNT_BEFORE = re.compile(r"(?P<count>\d+)[\s_@/:|×,-]+(?P<suite>.+)")
RESOLUTIONS = frozenset((224, 336, 384, 448, 672, 768, 896, 1344))  # of vision encoders, in pixels
_SIZE = r"\d+(?:\.\d+)?\s*[bBmM]"


@dataclass(frozen=True)
class Layout:
    """A long table, the column of each role in it, and what is said about the reading."""

    raw: pd.DataFrame
    names: dict[str, str]
    unread: tuple[str, ...] = ()
    found_suites: bool = False  # whether the columns of scores were found, not named
    sayings: dict[str, str] = field(default_factory=dict)
    wide: bool = False
    tidied: tuple[str, ...] = ()  # what was left out or put together before


def columns_of(raw: pd.DataFrame) -> str:
    """The names of a table's columns, for messages."""
    return ", ".join(str(name) for name in raw.columns if name != "line")


def unwind_design(
    raw: pd.DataFrame, names: dict[str, str], sayings: dict[str, str], source: str
) -> tuple[pd.DataFrame, bool]:
    """Make a table with columns for each token count, or for each size, long; and whether it was such a table.

    The names of columns are token counts or sizes alone, as `v16` and `7B`, or together with a benchmark, as `GQA v16`.
    """
    for role in ("n_visual_tokens", "n_params"):
        if role in names:
            continue
        free = [name for name in raw.columns if name != "line" and name not in names.values()]
        parts = {name: part for name in free if (part := _level_of(str(name), role))}
        if role == "n_visual_tokens" and not parts:
            parts = _plain_counts(free, source)
        levels = {level for level, _ in parts.values()}
        if len(parts) < 2 or (len(levels) < 2 and len(set(parts.values())) == len(parts)):
            continue
        _require_different(parts, "token count" if role == "n_visual_tokens" else "size", source)
        other = "n_params" if role == "n_visual_tokens" else "n_visual_tokens"
        if other not in names:
            raise UserError(missing_role(raw, other, names, source))
        raw = raw.drop(columns=[names.pop(name) for name in ("score", "error") if name in names])
        long = melt(raw, list(parts), role)
        if role == "n_params" and all(re.fullmatch(r"[\d.]+", level) for level in levels):
            parts = {name: (f"{level}B", suite) for name, (level, suite) in parts.items()}
            sayings[role] = "the names of columns, in billions"
        if any(suite for _, suite in parts.values()):
            long["suite"] = long[role].map({name: suite or "score" for name, (_, suite) in parts.items()})
            names["suite"] = "suite"
        long[role] = long[role].map({name: level for name, (level, _) in parts.items()})
        names |= {role: role, "score": "score"}
        sayings.setdefault(role, "the names of columns")
        return long, True
    return raw, False


def _level_of(name: str, role: str) -> tuple[str, str] | None:
    """The token count or size that a column's name states, and the benchmark beside it ("" without one)."""
    if is_other(name) and not _ALONE.fullmatch(name.strip()):
        return None
    if role == "n_visual_tokens":
        if found := _ALONE.fullmatch(name.strip()):
            return found[1], ""
        if found := re.fullmatch(r"(\d+)(?:\s*[x×]\s*(\d+)|²)", name.strip()):  # a grid of tokens
            return str(int(found[1]) * int(found[2] or found[1])), ""
        pattern = rf"(?:(?P<before>.+?)[\s_@/:(,-]+{_COUNT}\)?|{_COUNT}[\s_@/:,-]+(?P<after>.+))"
    else:
        if re.fullmatch(r"\d+(\.\d+)?", name):
            return name, ""
        pattern = rf"(?:(?P<before>.+?)[\s_@/:(,-]+({_SIZE})\)?|({_SIZE})[\s_@/:,-]+(?P<after>.+))"
    found = re.fullmatch(pattern, name.strip())
    suite = (found["before"] or found["after"]).strip() if found else ""
    if found and is_benchmark(suite):
        level = next(part for part in found.groups() if part and part.strip() != suite)
        return level, suite
    try:
        return (name, "") if role == "n_params" and sizes_in_name(name) else None
    except ValueError:
        return None


def _plain_counts(names: list[str], source: str) -> dict[str, tuple[str, str]]:
    """Token counts without a word beside benchmarks, as in `GQA@576` or `576/GQA`: the same ones for each benchmark.

    Raises UserError where the counts are as likely resolutions.
    """
    parts: dict[str, tuple[str, str]] = {}
    levels: dict[str, set[str]] = {}
    for name in names:
        found = _COUNT_BEHIND.fullmatch(name.strip()) or _COUNT_BEFORE.fullmatch(name.strip())
        if found and is_benchmark(found["suite"]) and not is_relative(name):
            parts[name] = (found["count"], found["suite"].strip())
            levels.setdefault(found["suite"].strip(), set()).add(found["count"])
    if not levels or len(first := next(iter(levels.values()))) < 2 or any(other != first for other in levels.values()):
        return {}
    if {int(count) for count in first} <= RESOLUTIONS:
        shown, (count, suite) = next(iter(parts.items()))
        raise UserError(
            f"{source}: is {count} in the column {shown!r} a resolution, or visual tokens? An encoder with patches of "
            f"14 makes (resolution / 14)^2 tokens. Write the tokens into the names, as `{suite} V=576`"
        )
    return parts


def _require_different(parts: Mapping[str, tuple[str, str]], what: str, source: str) -> None:
    seen: dict[tuple[float | str, str], str] = {}
    for name, (level, suite) in parts.items():
        key = (float(level) if re.fullmatch(r"[\d.]+", level) else level, suite)
        if key in seen:
            raise UserError(f"{source} has two columns for one {what}: {seen[key]}, {name}; keep the one that is meant")
        seen[key] = name


def melt(raw: pd.DataFrame, columns: list[str], role: str) -> pd.DataFrame:
    """A row for each of these columns, its name under `role` and its value under "score", without missing ones."""
    kept = [name for name in raw.columns if name not in columns]
    long = raw.melt(id_vars=kept, value_vars=columns, var_name=role, value_name="score")
    return long[~long["score"].map(is_missing)].reset_index(drop=True)


def missing_role(raw: pd.DataFrame, role: str, names: Mapping[str, str], source: str) -> str:
    """What to say where no column holds a role."""
    text = f"{source} has no column for the {WHAT[role]}; looked for {', '.join(ALIASES[role][:7])}"
    text += f"; it has {columns_of(raw)}. "
    if role == "n_params":
        text += _names_without_size(raw) + _no_sizes(raw)
        return text + "Name it: --column n_params=YOURS; or give the size of all rows, as in --column n_params=7B"
    shares = [str(name) for name in raw.columns if re.fullmatch(r"[↓-]?\s*[\d.]+\s*%\s*↓?", str(name))]
    if len(shares) > 1:
        kept = "1 - " if "↓" in "".join(shares) else ""
        return text + (
            f"The columns {', '.join(shares)} are shares: name each by its tokens, the encoder's (576 for CLIP-L/336) "
            f"times {kept}the share"
        )
    if "group" in raw and (share := re.search(r"([\d.]+)\s*%", str(raw["group"].iloc[-1]))):
        text += f"`{share[0]}` in a heading is a share: write the tokens into it, as 192 tokens for 33.3% of 576. "
    for name in raw.columns:
        plain = plain_name(name)
        if plain in NO_TOKENS:
            text += f"`{name}` holds {NO_TOKENS[plain]}, and put them into a column visual_tokens"
            if plain in PRUNED:  # more of it is fewer tokens
                return text
            return text + (
                f"; or take `{name}` itself as V, V* then being in its unit: --column {shlex.quote(f'{role}={name}')}"
            )
        if plain in (*WEAK[role], "training_tokens") and name not in names.values():
            text += f"`{name}` holds {raw[name].iloc[0]}, not the visual tokens of an image. "
    return text + f"Name it: --column {role}=YOURS; or give the tokens of all rows, as in --column {role}=576"


def _no_sizes(raw: pd.DataFrame) -> str:
    """What a column holds that is named for sizes and states none."""
    named = [name for name in raw.columns if may_be("n_params", name)]
    return f"`{named[0]}` holds {raw[named[0]].iloc[0]!r}; write the parameters, as 7B. " if named else ""


def _names_without_size(raw: pd.DataFrame) -> str:
    """Which names of models state no size, where most of a column do."""
    for name in raw.columns:
        try:
            states = [name != "line" and sizes_in_name(str(text)) is not None for text in raw[name]]
        except ValueError:
            continue
        if len(states) > sum(states) > len(states) / 2:
            at = states.index(False)
            return (
                f"{len(states) - sum(states)} names in `{name}` state no size (line {raw['line'].iloc[at]}: "
                f"{raw[name].iloc[at]!r}): write it into them, or leave these rows out. "
            )
    return ""


def benchmark_columns(raw: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    """Columns with the name of a benchmark, of which half at least are numbers: others are refused by their line."""
    free = [name for name in raw.columns if name != "line" and name not in names.values()]
    return [
        name for name in free if is_benchmark(name) and not is_relative(name) and _share_of_numbers(raw[name]) >= 0.5
    ]


def benchmarks(raw: pd.DataFrame, names: Mapping[str, str], source: str) -> list[str]:
    """The columns that hold a benchmark's scores each. Raises UserError if there are none."""
    known = benchmark_columns(raw, names)
    free = [name for name in raw.columns if name not in ("line", "active_params_b") and name not in names.values()]
    others = [name for name in free if _share_of_numbers(raw[name]) == 1 and not is_other(name)]
    relative = [name for name in others if is_relative(name)]
    averages = [name for name in others if is_average(name) and name not in relative]
    found = known or [name for name in others if name not in (*averages, *relative)] or averages
    if found == averages and any(re.fullmatch(r"100(\.0*)?\s*%?", str(text)) for text in raw[averages[:1]].stack()):
        relative, found = averages, []  # the upper bound itself
    if not found and relative:
        raise UserError(
            f"{source}: `{relative[0]}` is relative to another row's score, and the laws are of a share of wrong "
            "answers. Give the scores themselves: multiply by those of that row. If it is a score after all: "
            f"--column 'score={relative[0]}'"
        )
    if not found:
        raise UserError(
            f"{source} has no column error or score; it has {columns_of(raw)}. "
            "Name it: --column score=YOURS, or --scores A,B,C for a column for each suite"
        )
    return found


def _share_of_numbers(values: pd.Series) -> float:
    there = values[~values.map(is_missing)]
    return float(there.map(is_number).mean()) if len(there) else 0.0


def split_pairs(raw: pd.DataFrame, suites: list[str], pairs: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Columns of `59.8/59.1` as two, named by their header, as `MMB (T/D)`, or numbered."""
    found = []
    for name in suites:
        if name not in pairs:
            found.append(name)
            continue
        given = re.search(r"[\s_(/-]+([^()/\s]+)/([^()/\s]+)\)?\s*$", str(name))
        base = str(name)[: given.start()].strip() if given else str(name)
        ends = given.groups() if given else ("perception", "cognition") if plain_name(name) == "mme" else ("1", "2")
        parts = [pair(text) for text in raw[name]]
        raw = raw.assign(**{f"{base} {end.strip()}": [part[i] for part in parts] for i, end in enumerate(ends)})
        raw = raw.drop(columns=name)
        found += [f"{base} {end.strip()}" for end in ends]
    return raw, found


def holds_errors(raw: pd.DataFrame, names: Mapping[str, str]) -> bool:
    """Whether values fall along both N and V, as errors do, and scores do not."""
    try:
        values = raw["score"].map(lambda text: number(text)[0])
        n = raw[names["n_params"]].map(lambda text: size(text, unit="billions")[0])
        v = raw[names["n_visual_tokens"]].map(lambda text: number(text)[0])
    except ValueError:
        return False
    frame = pd.DataFrame({"N": n, "V": v, "value": values, "suite": raw.get("suite", "")}).dropna()
    found: list[tuple[float, int]] = []
    for along, other in (("N", "V"), ("V", "N")):
        parts = [part for _, part in frame.groupby(["suite", other]) if part[along].nunique() > 1]
        if parts:
            mean = float(np.mean([_direction(part[along], part["value"]) for part in parts]))
            found.append((mean, sum(len(part) - 1 for part in parts)))
    if len(found) == 2:
        return all(mean < -0.5 and steps > 1 for mean, steps in found)
    return bool(found) and found[0][0] < -0.9 and found[0][1] > 2


def _direction(along: pd.Series, values: pd.Series) -> float:
    """1 where values rise, -1 where they fall, 0 where they do neither."""
    return float(np.sign(along.rank().corr(values.rank()))) if values.nunique() > 1 else 0.0


def compressor_of_copies(raw: pd.DataFrame, names: dict[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Take the models' names as compressors where they tell copies of cells apart, each at several V of a size."""
    given = names.get("compressor")
    if given is not None and raw[given].nunique() > 1:
        return raw, names
    used = [names[role] for role in ("n_params", "n_visual_tokens", "suite", "kind", "seed") if role in names]
    if not raw.duplicated(used).any():
        return raw, names
    for name in raw.columns:
        if plain_name(name) in ("model", "base", "family", "architecture") and name not in names.values():
            spans = raw.groupby(name)[names["n_visual_tokens"]].nunique()
            if not raw.duplicated([*used, name]).any() and len(spans) > 1 and spans.min() >= 3:
                return raw, names | {"compressor": name}
    return raw, names

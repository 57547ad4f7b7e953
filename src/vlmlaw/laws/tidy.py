"""Put a table right before its columns get their roles: lines that are no cells, merged cells, errors beside scores.

What was done is returned in words, for the sentence that says how the table was read.
"""

import re
from collections.abc import Collection

import pandas as pd

from vlmlaw.laws.names import WEAK, is_score_like, may_be, plain_name
from vlmlaw.laws.spread import with_deviations, with_intervals
from vlmlaw.laws.texts import is_left_out, is_missing, size, sizes_in_name

_SUMMARY = re.compile(r"(the )?(mean|averages?|avg\.?|totals?|sum|overall|median)( \(.*\)|:)?", re.IGNORECASE)
_REPLICATE = re.compile(r"(.*?)[\s_/(,-]*(?:seed|run|trial|rep|replicate)[\s_#=]*(\d+)\)?", re.IGNORECASE)
_CORRECT = ("correct", "n_correct", "num_correct", "right", "n_right", "hits")
_ASKED = ("total", "n_total", "n", "n_questions", "num_questions", "questions", "count", "n_samples", "samples")


def tidy(raw: pd.DataFrame, named: Collection[str] = (), *, source: str = "table") -> tuple[pd.DataFrame, list[str]]:
    """The table as one row for each measurement, and what was left out or put together for it.

    named: columns that the user gave a role, which stay as they are. source: the file's name, for messages.
    """
    said: list[str] = []
    if not may_be_cells(raw) and may_be_cells(turned := _turned(raw)):
        raw = turned
        said.append("rows and columns swapped")
    raw = _with_corner(raw)
    texts = {text for name in raw.columns if name != "line" for text in raw[name].tolist()}
    for step, needed in (
        (_without_shares, any(text.endswith("%") for text in texts)),
        (_without_summaries, any(map(_SUMMARY.fullmatch, texts))),
        (_without_unknown, any(map(is_left_out, texts))),
        (_merged_cells, "" in texts),
    ):
        raw = step(raw, said) if needed else raw
    raw = with_intervals(raw, named, said, source)
    for change in (with_deviations, _replicates, _counts):
        raw = change(raw, named, said)
    return raw, said


def _with_corner(raw: pd.DataFrame) -> pd.DataFrame:
    """Name the first column by the first part of a corner such as `V \\ N`, whose second part is that of the header."""
    for name in raw.columns:
        if found := re.fullmatch(r"(.+?)\s*[\\/|]\s*(.+)", str(name)):
            kinds = [_kind(part) for part in found.groups()]
            if set(kinds) == {"n_params", "n_visual_tokens"}:
                return raw.rename(columns={name: found[1]})
    return raw


def _kind(name: str) -> str:
    roles = [role for role in ("n_params", "n_visual_tokens") if may_be(role, name) or plain_name(name) in WEAK[role]]
    return roles[0] if len(roles) == 1 else ""


def may_be_cells(raw: pd.DataFrame) -> bool:
    """Whether a column of the table is named for a size or for visual tokens."""
    return any(may_be(role, name) for name in raw.columns for role in ("n_params", "n_visual_tokens"))


def _turned(raw: pd.DataFrame) -> pd.DataFrame:
    """The table with its rows as columns, where its first column has their names, each once."""
    first, *others = [name for name in raw.columns if name != "line"] or [""]
    if not others or raw[first].duplicated().any() or raw[first].eq("").any():
        return raw
    turned = raw.set_index(first)[others].T.rename_axis(None, axis=1)
    turned.insert(0, "model", others)
    return turned.reset_index(drop=True).assign(line=int(raw["line"].iloc[0]) - 1)


def _without_shares(raw: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Leave out rows of per cent under rows of scores, as papers on pruning give them of the upper bound."""
    names = [name for name in raw.columns if name != "line"]
    texts = raw[names]
    signs = texts.map(lambda text: bool(re.fullmatch(r"[\d.]+\s*%", text)))
    repeats = texts.eq("") | texts.eq(texts.shift(1)) | signs
    of_scores = signs.sum(axis=1).le(1).shift(1, fill_value=False)
    shares = signs.sum(axis=1).gt(1) & repeats.all(axis=1) & of_scores
    if not shares.any() or len(raw) - shares.sum() < 2:
        return raw
    said.append(f"left out: {int(shares.sum())} rows of shares of the upper bound")
    return raw[~shares].reset_index(drop=True)


def _without_summaries(raw: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Leave out a mean or a total in the column that holds the sizes, models or benchmarks of other rows."""
    for name in raw.columns:
        if name == "line":
            continue
        is_summary = raw[name].map(lambda text: bool(_SUMMARY.fullmatch(text)))
        if not is_summary.any() or is_summary.all():
            continue
        of_suites = may_be("suite", name) and raw.loc[~is_summary, name].nunique() > 1
        if of_suites or raw.loc[~is_summary, name].map(_states_size).all():
            shown = ", ".join(dict.fromkeys(raw.loc[is_summary, name]))
            said.append(f"left out: {int(is_summary.sum())} rows of {shown}")
            raw = raw[~is_summary].reset_index(drop=True)
    return raw


def _states_size(text: str) -> bool:
    try:
        return is_missing(text) or sizes_in_name(text) is not None or bool(size(text, unit="billions"))
    except ValueError as error:
        return "experts" in str(error)


def _without_unknown(raw: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Leave out rows whose size or token count is marked as unknown, as those of models behind an interface."""
    for name in raw.columns:
        if may_be("n_params", name) or may_be("n_visual_tokens", name):
            unknown = raw[name].map(is_left_out)
            if unknown.any() and not unknown.all():
                said.append(f"left out: {int(unknown.sum())} rows without `{name}`")
                raw = raw[~unknown].reset_index(drop=True)
    return raw


def _merged_cells(raw: pd.DataFrame, said: list[str]) -> pd.DataFrame:
    """Fill the blanks that a spreadsheet leaves under a merged cell: in blocks of two rows or more, all of them."""
    for name in raw.columns:
        if name == "line" or not _may_be_merged(name):
            continue
        starts = raw[name].ne("")
        blocks = starts.cumsum()
        lengths = raw.groupby(blocks).size()
        if starts.all() or not starts.iloc[0] or len(lengths) < 2 or lengths.min() < 2 or lengths.nunique() > 1:
            continue
        raw = raw.assign(**{name: raw[name].where(starts).ffill()})
        said.append(f"blanks of `{name}` filled from above")
    return raw


def _may_be_merged(name: str) -> bool:
    return _kind(name) != "" or plain_name(name) in ("model", "llm", "method", "compressor")


def _replicates(raw: pd.DataFrame, named: Collection[str], said: list[str]) -> pd.DataFrame:
    """Make columns of seeds, as `seed 0` and `seed 1`, rows of one column with the seed beside it."""
    free = [name for name in raw.columns if name != "line" and name not in named]
    parts = {name: found for name in free if (found := _REPLICATE.fullmatch(str(name)))}
    by_seed: dict[str, dict[str, str]] = {}  # seed -> column -> the name of its measure
    for name, found in parts.items():
        by_seed.setdefault(found[2], {})[name] = found[1].strip() or "score"
    measured = [sorted(names.values()) for names in by_seed.values()]
    if len(by_seed) < 2 or any(names != measured[0] for names in measured) or len(set(measured[0])) < len(measured[0]):
        return raw
    if any(plain_name(name) == "seed" or (name not in parts and is_score_like(name)) for name in free):
        return raw
    said.append(f"a row for each of {', '.join(f'`{name}`' for name in parts)}")
    kept = [name for name in raw.columns if name not in parts]
    long = [raw[[*kept, *names]].rename(columns=names).assign(seed=seed) for seed, names in by_seed.items()]
    whole = pd.concat(long, ignore_index=True)
    return whole[~whole[measured[0]].map(is_missing).all(axis=1)].reset_index(drop=True)


def _counts(raw: pd.DataFrame, named: Collection[str], said: list[str]) -> pd.DataFrame:
    """Make right answers of so many questions scores: in two columns, or in one as 601/1000."""
    by_name = {plain_name(name): name for name in raw.columns if name not in named and name != "line"}
    right = next((by_name[name] for name in _CORRECT if name in by_name), None)
    asked = next((by_name[name] for name in _ASKED if name in by_name), None)
    if right and asked and not any(is_score_like(name) for name in raw.columns):
        pairs = list(zip(raw[right], raw[asked], strict=True))
        if all(a.isdigit() and b.isdigit() and 0 <= int(a) <= int(b) > 0 for a, b in pairs):
            said.append(f"score = `{right}` / `{asked}`")
            score = [f"{int(a) / int(b):.12g}" for a, b in pairs]
            return raw.assign(score=score, n_questions=raw[asked]).drop(columns=[right, asked])
    for name in (name for name in by_name.values() if "/" not in str(name)):
        found = [re.fullmatch(r"(\d+)\s*/\s*(\d+)", text) for text in raw[name].tolist()]
        counts = [(int(part[1]), int(part[2])) for part in found if part]
        whole = len(counts) > 1 and len(counts) == len(found) and len({n for _, n in counts}) == 1
        if whole and all(a <= n for a, n in counts) and counts[0][1] > 0:
            said.append(f"`{name}` as right of all questions")
            raw = raw.assign(**{name: [f"{a / n:.12g}" for a, n in counts]})
    return raw

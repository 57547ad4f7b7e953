"""Which column of a table is what: found by names and values, said in a sentence, and never guessed among several.

A role with two candidates is refused with both named. Wide tables, with a column for each V, size or benchmark, become
long ones here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.texts import is_missing, is_number, is_pair, number, pair, size, sizes_in_name

# canonical name -> accepted names, in lower case without signs; the first is this project's own and wins over others
ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": (
        *("n_params", "params_b", "params", "parameters", "size_b", "params_m", "model_size", "size", "llm_size"),
        *("llm_params", "total_params", "params_total", "num_params", "parameter_count", "model_params", "lm_size"),
        *("active_params", "activated_params", "params_active", "active_parameters", "total_parameters", "llm_size_b"),
        *("n_parameters", "size_m", "parameters_b", "total_params_b", "active_params_b", "n_b", "activated_parameters"),
    ),
    "n_visual_tokens": (
        *("n_visual_tokens", "visual_tokens", "v", "image_tokens", "num_visual_tokens", "vision_tokens", "visual_token"),
        *("num_image_tokens", "num_vision_tokens", "n_image_tokens", "n_vision_tokens", "vis_tokens", "img_tokens"),
        *("visual_tokens_per_image", "tokens_per_image", "image_token", "number_of_visual_tokens", "n_tokens_visual"),
    ),
    "error": ("error", "err", "error_rate", "mean_error", "doubt", "brier", "brier_score"),
    "score": ("score", "accuracy", "acc", "mean_score", "precision", "exact_match", "em", "f1", "top1", "top_1"),
    "error_se": ("error_se", "se", "stderr", "std_err", "score_se", "standard_error"),
    "suite": ("suite", "task", "dataset", "benchmark"),
    "kind": ("kind", "category", "doc_length", "question_type", "subset", "subtask"),
    "compressor": ("compressor", "method"),
    "seed": ("seed", "replicate", "run"),
    "cell": ("cell",),
    "held_out": ("held_out", "heldout", "hold_out"),
    "n_questions": ("n_questions", "num_questions", "questions", "n_samples"),
    "training": ("training", "checkpoint"),
    "note": ("note", "notes", "comment", "comments", "remark", "remarks"),
}
# Names that stand for a role only where no better one does, if their values fit it.
_WEAK = {"n_params": ("n",), "n_visual_tokens": ("tokens", "t", "m", "n_tokens", "num_tokens")}
_WHAT = {"n_params": "size in parameters", "n_visual_tokens": "number of visual tokens"}
_NO_TOKENS = {
    "frames": "frames of a video: multiply them by the tokens of a frame",
    "num_frames": "frames of a video: multiply them by the tokens of a frame",
    "res": "a resolution: an encoder with patches of 14 makes (resolution / 14)^2 tokens",
    "resolution": "a resolution: an encoder with patches of 14 makes (resolution / 14)^2 tokens",
    "image_size": "a resolution: an encoder with patches of 14 makes (resolution / 14)^2 tokens",
    "image_resolution": "a resolution: an encoder with patches of 14 makes (resolution / 14)^2 tokens",
}
MOST_TOKENS_PER_IMAGE = 1e5
_LOSSES = re.compile(r"(?:^|_)(loss|nll|perplexity|ppl|cross_entropy|bits)(?:_|$)")
_BENCHMARKS = re.compile(  # starts of names without signs
    r"(text|ok|aok|chart|doc|info|vizwiz|viz|st)?vqa|gqa|vizwiz|sqa|scienceqa|pope|mme|mmb|seed|llava(bench|w)|mmvet|mmmu"
    r"|mathv|ai2d|chartqa|infov|ocrbench|nocaps|coco|flickr|hallusion|mmstar|realworld|rwqa|blink|cvbench|vstar|mvbench"
    r"|videomme|egoschema|longvideo|mlvu|nextqa|activitynet|perceptiontest|refcoco|tally|vsr|iconqa|wemath|dynamath|mmt"
)
_AVERAGE = re.compile(r"^(avg|average|mean|overall)(_|$)")
_NOT_A_SCORE = re.compile(
    r"(res|resolution|frames?|latency|time|ms|seconds?|memory|gb|flops?|tflops|throughput|epochs?|steps?|lr|batch"
    r"|layers?|year|rank|index|id|cost|price|ratio|tokens?|params?|size|data|samples?|images?|kv|cache|gpus?|hours?|n"
    r"|seed|width|depth|patch|pixels|speed|step|number|line|se|stderr|std)"
)


@dataclass(frozen=True)
class Layout:
    """A long table, the column of each role in it, and what is said about the reading."""

    raw: pd.DataFrame
    names: dict[str, str]
    unread: tuple[str, ...] = ()
    found_suites: bool = False  # whether the columns of scores were found, not named
    sayings: dict[str, str] = field(default_factory=dict)
    holds: str = "score"  # what the column of values holds
    wide: bool = False


def plain_name(name: object) -> str:
    """A column's name to compare by: lower case, words joined by _, without signs and without its unit.

    >>> plain_name("#Visual Tokens"), plain_name("Params (B)"), plain_name("Acc. (%)")
    ('visual_tokens', 'params_b', 'acc')
    """
    text = re.sub(r"[↑↓%]", "", str(name).lower()).replace("#", "")
    text = re.sub(r"[^a-z0-9]+", "_", text).strip("_")
    return re.sub(r"_in_(b|m)illions?$", r"_\1", re.sub(r"_(b|m)illions?$", r"_\1", text))


def lay_out(
    raw: pd.DataFrame, columns: Mapping[str, str], *, scores: Sequence[str] = (), holds: str = "auto", source: str
) -> Layout:
    """Find the role of every column and make the table long.

    Raises UserError for a role without a column, with several candidates, and for columns that are named but missing.
    """
    unknown = [name for name in columns if name not in ALIASES]
    if unknown:
        raise UserError(f"column {unknown[0]!r} cannot be mapped; the names are {', '.join(ALIASES)}")
    for name in (*columns.values(), *scores):
        if name not in raw or name == "line":
            raise UserError(f"{source} has no column {name!r}; it has {_shown(raw)}")
    names = dict(columns)
    sayings: dict[str, str] = {}
    for role in ALIASES:
        if role not in names and not (scores and role in ("score", "error", "suite")):
            found = _candidates(raw, role, taken=names.values())
            if found:
                names[role] = _only(raw, role, found, source)
    raw = _sizes_of_names(raw, names, sayings, source)
    _weak_roles(raw, names)
    raw, wide = _unwind_design(raw, names, source)
    if wide:
        return _finish(raw, names, holds=holds, sayings=sayings, wide=True)
    for role in _WHAT:
        if role not in names:
            raise UserError(_without(raw, role, names, source))
    _measured(raw, names, columns, source)
    suites = list(scores) or ([] if {"error", "score"} & set(names) else _benchmarks(raw, names, source))
    pairs = [c for c in (suites or [names.get("score", "")]) if c in raw and raw[c].map(is_pair).any()]
    if not suites and pairs:
        suites = [names.pop("score")]
    if not suites:
        return _finish(raw, names, holds="error" if "error" in names else "score", sayings=sayings)
    taken = [name for name in ("suite", "score") if name in raw and name not in suites and name not in columns.values()]
    if taken or "suite" in names:
        clash = taken[0] if taken else names["suite"]
        raise UserError(f"{source} has a column {clash!r} beside the columns of scores; rename or drop it")
    raw, suites = _split_pairs(raw, suites, pairs)
    unread = [c for c in raw.columns if c not in suites and c not in names.values() and c != "line"]
    long = _melt(raw, suites, "suite")
    names |= {"suite": "suite", "score": "score"}
    layout = _finish(long, names, holds=holds, sayings=sayings, wide=True)
    return replace(layout, unread=tuple(unread), found_suites=not scores)


def _shown(raw: pd.DataFrame) -> str:
    return ", ".join(str(name) for name in raw.columns if name != "line")


def _candidates(raw: pd.DataFrame, role: str, *, taken: Iterable[str]) -> list[str]:
    found = []
    for name in raw.columns:
        plain = plain_name(name)
        if name == "line" or name in taken or plain not in ALIASES[role]:
            continue
        if role == "seed" and not _are_seeds(raw[name]):
            continue  # SEED, the benchmark
        if role == "n_params" and not raw[name].map(lambda text: _is_size(text)).all():
            continue  # a name of a size, such as "small"
        if plain == ALIASES[role][0]:
            return [name]
        found.append(name)
    return found


def _is_size(text: str) -> bool:
    try:
        size(text, unit="billions")
    except ValueError as error:
        return "experts" in str(error)
    return True


def _are_seeds(values: pd.Series) -> bool:
    """Whether values may be seeds: no decimals, as a benchmark's scores have."""
    return not values.map(str).str.fullmatch(r"\d+\.\d*[1-9]\d*%?").any()


def _only(raw: pd.DataFrame, role: str, found: list[str], source: str) -> str:
    """The one candidate for a role. Raises UserError for several that differ."""
    if len(found) > 1 and any((raw[found[0]] != raw[name]).any() for name in found[1:]):
        shown = " and ".join(f"`{name}`" for name in found)
        why = ""
        if role == "n_params" and any("activ" in name.lower() for name in found):
            why = " Total parameters are what a model knows with, active ones what it computes with (--cost-params)."
        raise UserError(
            f"{source} has {len(found)} columns for the {_WHAT.get(role, role)}: {shown}. "
            f"Say which: --column {role}={found[0]!s}.{why}"
        )
    return found[0]


def _sizes_of_names(raw: pd.DataFrame, names: dict[str, str], sayings: dict[str, str], source: str) -> pd.DataFrame:
    """Where no column holds the sizes, read them in the models' names; and add the active parameters of mixtures."""
    column = names.get("n_params")
    if column is None:
        found = {}
        for name in raw.columns:
            if name == "line" or name in names.values():
                continue
            try:
                sizes = [sizes_in_name(text) for text in raw[name]]
            except ValueError as error:
                raise UserError(f"{source}: column {name!r}: {error}") from None
            if all(sizes) and raw[name].map(is_number).sum() == 0:
                found[name] = sizes
        if not found or "n" in [plain_name(name) for name in raw.columns] and "v" in map(plain_name, raw.columns):
            return raw
        column, *others = found
        differ = [name for name in others if found[name] != found[column]]
        if differ:
            at = next(i for i, pair_ in enumerate(found[column]) if pair_ != found[differ[0]][i])
            raise UserError(
                f"{source} has no column for the size in parameters, and the names in `{column}` and `{differ[0]}` state "
                f"different ones (line {raw['line'].iloc[at]}: {raw[column].iloc[at]!r}, {raw[differ[0]].iloc[at]!r}). "
                f"Say which: --column n_params={differ[0]}"
            )
        names["n_params"] = column = others[-1] if others else column
        sayings["n_params"] = "sizes in the names of"
    text = raw[column].map(str)
    if "active_params_b" not in raw and text.str.contains(r"[bB][-_ /(]*[aA]\d|\d\s*[x×]\s*\d+[bB]", regex=True).any():
        try:
            active = [size(value, unit="billions")[1] for value in text]
        except ValueError as error:
            raise UserError(f"{source}: column {column!r}: {error}") from None
        raw = raw.assign(active_params_b=[f"{value:g}" for value in active])
    return raw


def _weak_roles(raw: pd.DataFrame, names: dict[str, str]) -> None:
    for role, weak in _WEAK.items():
        for name in raw.columns:
            if role in names or name in names.values() or plain_name(name) not in weak:
                continue
            values = pd.to_numeric(raw[name], errors="coerce")
            if role == "n_params" and raw[name].map(_is_size).all():
                names[role] = name
            if role == "n_visual_tokens" and (values.ge(1) & values.le(MOST_TOKENS_PER_IMAGE)).all():
                names[role] = name
    counts = [name for name in raw.columns if plain_name(name) == "n" and name not in names.values()]
    if counts and "n_questions" not in names:
        values = pd.to_numeric(raw[counts[0]], errors="coerce")
        if (values.ge(2) & values.mod(1).eq(0)).all():
            names["n_questions"] = counts[0]


def _unwind_design(raw: pd.DataFrame, names: dict[str, str], source: str) -> tuple[pd.DataFrame, bool]:
    """Make a table with a column for each token count, or for each size, long."""
    free = [name for name in raw.columns if name != "line" and name not in names.values()]
    if "n_visual_tokens" not in names:
        pattern = r"[vV]?\s*=?\s*(\d+)(?:\.0)?\s*(?:visual |image |vision )?(?:tokens?|tok)?"
        counts = {name: m[1] for name in free if (m := re.fullmatch(pattern, str(name).strip()))}
        role, what = "n_visual_tokens", "token count"
    elif "n_params" not in names:
        counts = {name: str(name) for name in free if sizes_in_name(str(name)) or re.fullmatch(r"\d+(\.\d+)?", str(name))}
        role, what = "n_params", "size"
    else:
        return raw, False
    if len(counts) < 2:
        return raw, False
    if len(set(counts.values())) < len(counts):
        raise UserError(f"{source} has two columns for one {what}: {', '.join(map(str, counts))}")
    if role == "n_visual_tokens" and "n_params" not in names:
        raise UserError(_without(raw, "n_params", names, source))
    both = [names.pop(name) for name in ("score", "error") if name in names]
    raw = raw.drop(columns=both)
    long = _melt(raw, list(counts), role)
    long[role] = long[role].map(counts)
    names |= {role: role, "score": "score"}
    return long, True


def _melt(raw: pd.DataFrame, columns: list[str], role: str) -> pd.DataFrame:
    kept = [name for name in raw.columns if name not in columns]
    long = raw.melt(id_vars=kept, value_vars=columns, var_name=role, value_name="score")
    return long[~long["score"].map(is_missing)].reset_index(drop=True)


def _without(raw: pd.DataFrame, role: str, names: Mapping[str, str], source: str) -> str:
    text = f"{source} has no column for the {_WHAT[role]}; looked for {', '.join(ALIASES[role][:7])}; it has {_shown(raw)}. "
    if role == "n_visual_tokens":
        for name in raw.columns:
            if plain_name(name) in _NO_TOKENS:
                return text + (
                    f"`{name}` holds {_NO_TOKENS[plain_name(name)]}, and put them into a column visual_tokens; or "
                    f"take `{name}` itself as V, V* then being in its unit: --column {role}={name}"
                )
            if plain_name(name) in (*_WEAK[role], "training_tokens") and name not in names.values():
                text += f"`{name}` holds {raw[name].iloc[0]}, not the visual tokens of an image. "
    return text + f"Name it: --column {role}=YOURS"


def _measured(raw: pd.DataFrame, names: dict[str, str], columns: Mapping[str, str], source: str) -> None:
    """Settle which column is the error or the score. Raises UserError for both, unless one is 1 minus the other."""
    if "error" in columns:
        names.pop("score", None)
    elif "score" in columns:
        names.pop("error", None)
    elif "error" in names and "score" in names:
        own = plain_name(names["error"]) == "error" and "n_params" in raw and "n_visual_tokens" in raw
        error, score = (pd.to_numeric(raw[names[role]], errors="coerce") for role in ("error", "score"))
        total = (error + score).dropna()
        if not own and not (np.allclose(total, 1, atol=2e-3) or np.allclose(total, 100, atol=0.2)):
            raise UserError(
                f"{source} has a column for the error, `{names['error']}`, and one for the score, `{names['score']}`, "
                f"that do not add to 1. Say which: --column error={names['error']} or --column score={names['score']}"
            )
        names.pop("score")
    losses = [name for name in raw.columns if _LOSSES.search(plain_name(name))]
    used = names.get("error", names.get("score"))
    if used in losses or (losses and used is None and not _benchmark_columns(raw, names)):
        raise UserError(
            f"{source}: `{losses[0]}` is a loss, and the laws are of a share of wrong answers between 0 and 1. Give the "
            "error or score; a loss in nats of an answer becomes a share as 1 - exp(-loss), the mean doubt"
        )


def _benchmark_columns(raw: pd.DataFrame, names: Mapping[str, str]) -> list[str]:
    free = [name for name in raw.columns if name != "line" and name not in names.values()]
    return [name for name in free if _is_benchmark(name) and _mostly_numbers(raw[name])]


def _benchmarks(raw: pd.DataFrame, names: Mapping[str, str], source: str) -> list[str]:
    """The columns that hold a benchmark's scores each. Raises UserError if there are none."""
    known = _benchmark_columns(raw, names)
    free = [name for name in raw.columns if name not in ("line", "active_params_b") and name not in names.values()]
    numeric = [name for name in free if _mostly_numbers(raw[name])]
    others = [name for name in numeric if not _NOT_A_SCORE.fullmatch(plain_name(name)) and not _is_measure(name)]
    averages = [name for name in others if _AVERAGE.match(plain_name(name))]
    found = known or [name for name in others if name not in averages] or averages
    if not found:
        raise UserError(
            f"{source} has no column error or score; it has {_shown(raw)}. "
            "Name it: --column score=YOURS, or --scores A,B,C for a column for each suite"
        )
    return found


def _is_benchmark(name: str) -> bool:
    return bool(_BENCHMARKS.match(plain_name(name).replace("_", "")))


def _is_measure(name: str) -> bool:
    return bool(re.search(r"latency|memory|time|flops|throughput|tokens|params|speed|cost", plain_name(name)))


def _mostly_numbers(values: pd.Series) -> bool:
    there = values[~values.map(is_missing)]
    return len(there) > 0 and bool(there.map(is_number).all())


def _split_pairs(raw: pd.DataFrame, suites: list[str], pairs: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Columns of `59.8/59.1` as two, named by their header, as `MMB (T/D)`, or numbered."""
    found = []
    for name in suites:
        if name not in pairs:
            found.append(name)
            continue
        given = re.search(r"\(([^()/]+)/([^()/]+)\)\s*$", str(name))
        base = str(name)[: given.start()].strip() if given else str(name)
        ends = given.groups() if given else ("perception", "cognition") if plain_name(name) == "mme" else ("1", "2")
        parts = [pair(text) for text in raw[name]]
        raw = raw.assign(**{f"{base} {end.strip()}": [part[i] for part in parts] for i, end in enumerate(ends)})
        raw = raw.drop(columns=name)
        found += [f"{base} {end.strip()}" for end in ends]
    return raw, found


def _finish(
    raw: pd.DataFrame, names: dict[str, str], *, holds: str, sayings: dict[str, str], wide: bool = False
) -> Layout:
    if wide and holds == "auto":
        holds = _direction(raw, names)
        sayings["holds"] = "as it falls with N and V" if holds == "error" else ""
    if wide and holds == "error":
        names["error"] = names.pop("score")
    raw, names = _compressor_of_copies(raw, names)
    unread = [
        name for name in raw.columns
        if name not in names.values() and name != "line" and _is_benchmark(name)
    ]  # fmt: skip
    return Layout(raw, names, tuple(unread), sayings=sayings, holds=holds, wide=wide)


def _direction(raw: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Whether values fall along both N and V, as errors do, or not."""
    try:
        values = raw["score"].map(lambda text: number(text)[0])
        n = raw[names["n_params"]].map(lambda text: size(text, unit="billions")[0])
        v = raw[names["n_visual_tokens"]].map(lambda text: number(text)[0])
    except ValueError:
        return "score"
    frame = pd.DataFrame({"N": n, "V": v, "value": values, "suite": raw.get("suite", "")}).dropna()
    signs = []
    for along, other in (("N", "V"), ("V", "N")):
        parts = [part for _, part in frame.groupby(["suite", other]) if part[along].nunique() > 1]
        signs.append(np.mean([np.sign(part[along].rank().corr(part["value"].rank())) for part in parts] or [0]))
    falls = all(sign <= 0 for sign in signs) and min(signs) < -0.5 and max(signs) < -0.5
    return "error" if falls or (0 in signs and min(signs) < -0.9) else "score"


def _compressor_of_copies(raw: pd.DataFrame, names: dict[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
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

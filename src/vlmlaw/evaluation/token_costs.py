"""How many visual tokens a released model makes of an image, what they cost, and which other numbers it can make.

Rules are those of transformers' processors (backends/token_rules.py); costs come from the configuration, without
weights (backends/release_cost.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.release_cost import ReleaseCost, cost_of_release
from vlmlaw.evaluation.backends.release_files import FILES, Source
from vlmlaw.evaluation.backends.released_families import FAMILIES, Release, read_release, rule_of
from vlmlaw.evaluation.backends.stated_releases import stated_release
from vlmlaw.evaluation.backends.token_rules import OWN, NativeGrid, Setting, TokenRule
from vlmlaw.hub.pins import WEIGHT_FILES

CONFIGS = tuple(pattern for pattern in FILES if pattern not in WEIGHT_FILES)


@dataclass(frozen=True)
class TokenRow:
    """A number of visual tokens that an image can have, by which setting, and what it costs; None is not known."""

    n_visual_tokens: int
    setting: Setting
    tower_flops: int | None
    llm_flops: float
    kv_cache_bytes: int | None

    @property
    def knob(self) -> str:
        """The processor's settings, as `size.longest_edge=50176`."""
        return knob_text(self.setting) or "as released"


@dataclass(frozen=True)
class TokenCosts:
    """A model's answer for an image: what was asked for, and the ladder of what can be made."""

    model: str
    family: str
    height: int
    width: int
    n_text_tokens: int
    n_params: float
    cache_dtype: str
    asked: Sequence[TokenRow]
    ladder: Sequence[TokenRow]


@dataclass(frozen=True)
class Known:
    """A model as far as it is known: its rule and N, and its costs where its configuration is there."""

    name: str
    family: str
    rule: TokenRule
    n_params: float
    cost: ReleaseCost | None


def know(model: str, *, n_params: float | None = None, dtype: str = "") -> Known:
    """Read a folder, an id of the hub (its configuration only, from the cache where it is there), or a family's name.

    n_params: of a family's name. Raises UserError for a family without a rule, and for a name without a size.
    """
    if not Path(model).is_dir() and "/" not in model:
        release = stated_release(model)
        if n_params is None:
            raise UserError(f"{model} is a family's name, which says no size; give --params, for example --params 7B.")
        return Known(model, _family(release), _rule(release, model), n_params, None)
    source = Source.of_text(model)
    folder, _ = source.fetch(CONFIGS, weights=False)
    release = read_release(folder)
    rule = _rule(release, source.name)
    cost = cost_of_release(folder, rule, dtype=dtype)
    return Known(source.name, _family(release), rule, n_params or cost.n_params, cost)


def _family(release: Release) -> str:
    return str(release.config.get("model_type", ""))


def _rule(release: Release, name: str) -> TokenRule:
    rule = rule_of(release)
    if rule is None:
        raise UserError(
            f"{name} is of the family {_family(release)!r}, for which there is no rule; known are "
            f"{', '.join(FAMILIES)}."
        )
    return rule


def token_costs(
    known: Known,
    height: int,
    width: int,
    *,
    n_text_tokens: int,
    max_pixels: int | None = None,
    budgets: Sequence[int] = (),
) -> TokenCosts:
    """The costs of an image of H x W pixels: at each budget, or with max_pixels, or as released; and the ladder.

    Raises UserError for a budget that cannot be made, naming the nearest, and for max_pixels where there is no such
    knob.
    """
    settings = [_setting_for(known, height, width, budget) for budget in budgets]
    if max_pixels is not None:
        settings.insert(0, _within(known, max_pixels))
    rows = [_row(known, height, width, setting, n_text_tokens) for setting in settings or [OWN]]
    at: dict[int, TokenRow] = {}
    for n in _ladder(known, height, width):
        row = _row(known, height, width, known.rule.setting_for([(height, width)], n), n_text_tokens)
        at.setdefault(row.n_visual_tokens, row)
    own = _row(known, height, width, OWN, n_text_tokens)
    at[own.n_visual_tokens] = own  # a number that needs no knob
    return TokenCosts(
        known.name,
        known.family,
        height,
        width,
        n_text_tokens,
        known.n_params,
        known.cost.dtype if known.cost else "",
        rows,
        [at[n] for n in sorted(at)],
    )


def _ladder(known: Known, height: int, width: int) -> list[int]:
    try:
        return known.rule.ladder(height, width) if not known.rule.only else [*known.rule.only]
    except ValueError as error:
        raise UserError(f"{known.name} makes no visual tokens of {width} x {height} px: {error}.") from error


def _within(known: Known, max_pixels: int) -> Setting:
    rule = known.rule
    if not isinstance(rule, NativeGrid):
        knobs = sorted({key for setting in rule.settings(rule.most) for key in {**setting.options, **setting.shared}})
        has = f"its knobs are {', '.join(knobs)}; give --visual-tokens" if knobs else "it has one V"
        raise UserError(f"--max-pixels: {known.name} ({known.family}) has no such knob; {has}.")
    if max_pixels < rule.cell_px**2:
        raise UserError(f"--max-pixels: found {max_pixels}; expected {rule.cell_px**2}, a token's, or more.")
    return rule.within(max_pixels)


def _setting_for(known: Known, height: int, width: int, budget: int) -> Setting:
    problem = known.rule.problem(budget) if budget > 0 else "V is a whole number above 0"
    if not problem:
        try:
            return known.rule.setting_for([(height, width)], budget)
        except ValueError as error:
            problem = str(error)
    nearest = min(_ladder(known, height, width), key=lambda n: abs(n - budget))
    raise UserError(
        f"{known.name} ({known.family}) cannot make V = {budget} of {width} x {height} px: {problem}. "
        f"The nearest is {nearest}."
    )


def _row(known: Known, height: int, width: int, setting: Setting, n_text_tokens: int) -> TokenRow:
    try:
        v = known.rule.n_tokens(height, width, setting)
    except ValueError as error:
        raise UserError(f"{known.name} takes no image of {width} x {height} px: {error}.") from error
    cost = known.cost
    return TokenRow(
        v,
        setting,
        cost.tower.flops(known.rule, height, width, setting) if cost else None,
        2 * known.n_params * (n_text_tokens + v),
        cost.kv_cache.bytes_of(n_text_tokens + v) if cost and cost.kv_cache else None,
    )


def knob_text(setting: Setting) -> str:
    """A setting in one line, long lists cut.

    >>> knob_text(Setting({"size": {"shortest_edge": 3136, "longest_edge": 50176}}))
    'size.shortest_edge=3136 size.longest_edge=50176'
    """
    parts: list[str] = []
    for name, value in {**setting.options, **setting.shared}.items():
        inner = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        parts += [f"{key}={_short(part)}" for key, part in inner.items()]
    return " ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) > 2:
        return f"[{json.dumps(value[0])}, ... {len(value)} in all]"
    return json.dumps(value)

"""The cells of a measurement: a model at a budget of visual tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.families import FAMILIES, Family, family_in
from vlmlaw.evaluation.backends.interface import MAX, Budget, budget_text

SIZE = re.compile(r"(?<![a-z0-9.])(?:e)?(\d+(?:\.\d+)?)\s*([kmbt])(?![a-z0-9])", re.IGNORECASE)
OWN = "own"  # in place of a compressor's name: a released model's way from patches to tokens
UNIT = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as it is asked: its name, the family whose law it shares, and its parameters where they are known.

    compressor: of a released model's image features, then part of its name; such a model is asked only between none and
    all of its tokens. has_knob: V between them is asked of the model itself, too.
    """

    name: str
    family: str = ""
    n_params: float | None = None
    compressor: str = ""
    has_knob: bool = True

    @classmethod
    def named(cls, name: str, *, family: str = "", params: str = "") -> Model:
        """The model, with what its name tells where nothing is given. Raises UserError for an unknown family.

        >>> Model.named("Qwen/Qwen2.5-VL-7B-Instruct")
        Model(name='Qwen/Qwen2.5-VL-7B-Instruct', family='qwen2.5-vl', n_params=7000000000.0)
        """
        if family and family not in FAMILIES:
            raise UserError(f"no family is called {family!r}; there are {', '.join(FAMILIES)}.")
        if params:
            n_params = parameters_in(params)
            if n_params is None:
                raise UserError(f"the parameters of {name} are {params!r}; expected a number with its unit, as 7B.")
        else:
            n_params = parameters_in(name)
        return cls(name=name, family=family or family_in(name), n_params=n_params)

    @property
    def own_name(self) -> str:
        """The name of the model without its compressor.

        >>> Model(name="SmolVLM+tome", compressor="tome").own_name
        'SmolVLM'
        """
        return self.name.removesuffix(f"+{self.compressor}") if self.compressor else self.name

    @property
    def law(self) -> str:
        """Whose cells share a law: those of one family and compressor."""
        return f"{self.family}+{self.compressor}" if self.compressor else self.family

    @property
    def is_compressed(self) -> bool:
        """Whether a compressor makes its tokens; the name of a workflow's model does not say so, its family does.

        >>> Model(name="few", family="qwen3_vl+divprune").is_compressed
        True
        """
        return "+" in self.law

    @property
    def rule(self) -> Family:
        """How its images become fewer tokens; of an unknown family they cannot."""
        return FAMILIES.get(self.family, FAMILIES["fixed"])


@dataclass(frozen=True)
class Cell:
    """A model at a budget; its name is that of its folder."""

    model: Model
    budget: Budget

    @property
    def name(self) -> str:
        return f"{plain_name(self.model.name)}_v{budget_text(self.budget)}"


def plain_name(model: str) -> str:
    """The model's name as a file may be called: `Qwen/Qwen2.5-VL-7B` is `Qwen-Qwen2.5-VL-7B`."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-")


def parameters_in(text: str) -> float | None:
    """The number of parameters that a name or a size tells, such as 7B or SmolVLM-256M; None where it tells none.

    >>> parameters_in("SmolVLM-256M-Instruct"), parameters_in("qwen2.5vl:7b"), parameters_in("small")
    (256000000.0, 7000000000.0, None)
    """
    found = SIZE.findall(text)
    return float(found[-1][0]) * UNIT[found[-1][1].lower()] if found else None


def read_budget(text: str) -> Budget:
    """A budget from `64`, `0` or `max`. Raises UserError for anything else."""
    if text.strip().lower() == MAX:
        return None
    if not text.strip().isdecimal():
        raise UserError(f"a budget of visual tokens is {text!r}; expected a whole number, 0 for no image, or {MAX}.")
    return int(text)


def cells_of(models: Sequence[Model], budgets: Iterable[Budget]) -> list[Cell]:
    """Every model at every budget, the blind cell first: V is counted against it, so it is always there.

    Raises UserError for a budget that a family cannot make, and for two models whose folders would have one name.
    """
    ordered = sorted({0, *budgets}, key=lambda budget: float("inf") if budget is None else budget)
    names: dict[str, str] = {}
    for model in models:
        same = names.setdefault(plain_name(model.name), model.name)
        if same != model.name or sum(other.name == model.name for other in models) > 1:
            raise UserError(f"the models {same} and {model.name} would have one folder; ask them in runs of their own.")
        for budget in ordered:
            known = not model.family or model.family in FAMILIES  # a trained cell's own back end says what it can make
            if known and not model.compressor and (problem := model.rule.problem(budget)):
                hint = "" if model.family else f" Say its family, if it is one of {', '.join(FAMILIES)}."
                raise UserError(f"{model.name} cannot be asked at V = {budget_text(budget)}: {problem}.{hint}")
    return [Cell(model, budget) for model in models for budget in ordered if _is_asked(model, budget)]


def _is_asked(model: Model, budget: Budget) -> bool:
    is_whole = budget is None or budget == 0
    return not is_whole if model.compressor else is_whole or model.has_knob

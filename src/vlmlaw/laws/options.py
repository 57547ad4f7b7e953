"""Options of the analysis of a law: the `law:` section of an experiment file, validated before use."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vlmlaw.errors import UserError

MIN_DRAWS = 20  # with fewer, the ends of a 95 % interval are the extremes
LOSSES = ("squared", "huber")
WEIGHTS = ("none", "se")
AUTO = "auto"
HOLD_OUT = ("auto", "largest", "none")
# How a table is read (see `read_measurements`); the workflow's own measurements.csv needs none of them.
READING = ("columns", "params_unit", "scale", "scores", "maxima", "holds", "where", "expected")


@dataclass(frozen=True)
class LawOptions:
    """Options of `vlmlaw.laws.analyse`; unknown keys and impossible values raise UserError.

    law: the name of a law, or "auto" for the best of those that predict unseen sizes well.
    candidates: laws that "auto" compares; empty means the default list of `vlmlaw.laws.families`.
    question_tokens: values of Q for V*(Q) and the frontier.
    generated_tokens: G, the length of an answer in tokens; they act as question tokens do.
    vision_flops: FLOPs of the vision encoder for an image, added to every cell's cost (0 leaves it out).
    question_pass: true adds QueCC's run of the LLM over the question alone, 2Nq.
    pass_tokens: q, the length of the question alone; none means the table's column question_tokens, or the published 7.
    level: confidence level of every interval.
    bootstrap_draws, seed: of the residual and whole-size bootstraps; 0 draws leaves them out.
    hold_out: "auto" (the rows whose held_out is true, which are then excluded from the fit; without any, the largest
        size, which stays in the fit), "largest", a size in billions, or "none".
    flat_tolerance: a choice within this relative distance of the least error counts as equally good.
    cost_column: a measured column, or a sum such as "llm_flops+vision_flops", to compute a second frontier over.
    sizes, tokens: sizes in billions and token counts the frontier may choose from; empty means the measured ones.
    budgets: FLOPs per answer; empty means a grid over the costs of the cells.
    loss, weights: "squared" or "huber"; "none", or "se" for weights 1 / error_se**2.
    size_effects: also estimate rho with a random effect for each size (a mixed model of statsmodels; takes a second).
    allow_missing: fit the measured cells although the grid of `expected` has holes.
    columns: of a table of your own, what each column is: {n_params: "LLM size", score: Acc}.
    params_unit: the unit of its sizes: billions, millions or count; none means what names and values say.
    scale: of its values: "auto", "fraction" or "percent".
    scores: its columns that hold a benchmark each; empty means those found.
    maxima: the points that a benchmark can reach: {MME: 2800}.
    holds: what a wide table holds: "score", "error", or "auto" for what falls with N and V.
    where: the rows to read: {compressor: mqt}.
    expected: a file with the cells (N, V) of the grid that was meant; cells missing from it are an error.

    >>> LawOptions(law="logit", level=0.9).to_mapping()["question_tokens"]
    [0, 10, 25, 50, 100, 200]
    """

    law: str = AUTO
    candidates: tuple[str, ...] = ()
    question_tokens: tuple[float, ...] = (0, 10, 25, 50, 100, 200)
    generated_tokens: float = 0
    vision_flops: float = 0
    question_pass: bool = False
    pass_tokens: float | None = None
    level: float = 0.95
    bootstrap_draws: int = 2000
    seed: int = 0
    hold_out: str | float = "auto"
    flat_tolerance: float = 0.005
    cost_column: str = ""
    sizes: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    budgets: tuple[float, ...] = ()
    loss: str = "squared"
    weights: str = "none"
    size_effects: bool = False
    allow_missing: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    params_unit: str | None = None
    scale: str = AUTO
    scores: tuple[str, ...] = ()
    maxima: Mapping[str, float] = field(default_factory=dict)
    holds: str = AUTO
    where: Mapping[str, Any] = field(default_factory=dict)
    expected: str | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "question_tokens", "sizes", "tokens", "budgets", "scores"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, (list, tuple)):
                raise UserError(f"law option {name} is {value!r}; expected a list")
            object.__setattr__(self, name, tuple(value))
        self._check_numbers()
        self._check_words()
        self._check_reading()

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any] | None) -> "LawOptions":
        """Options from the `law:` section of an experiment file; absent keys keep their defaults.

        Raises UserError for unknown keys and impossible values.
        """
        section = dict(section or {})
        known = [option.name for option in fields(cls)]
        unknown = [key for key in section if key not in known]
        if unknown:
            raise UserError(f"law options {', '.join(map(repr, unknown))} are unknown; known: {', '.join(known)}")
        return cls(**section)

    def to_mapping(self) -> dict[str, Any]:
        """The resolved options as plain data, for JSON and YAML."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _check_numbers(self) -> None:
        _require_number("level", self.level, above=0, below=1)
        _require_number("flat_tolerance", self.flat_tolerance, above=0, below=1)
        _require_number("generated_tokens", self.generated_tokens, least=0)
        _require_number("vision_flops", self.vision_flops, least=0)
        if self.pass_tokens is not None:
            _require_number("pass_tokens", self.pass_tokens, least=0)
        for name in ("bootstrap_draws", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f"law option {name} is {value!r}; expected a whole number, 0 or more")
        if 0 < self.bootstrap_draws < MIN_DRAWS:
            raise UserError(f"law option bootstrap_draws is {self.bootstrap_draws}; expected 0, or {MIN_DRAWS} or more")
        for value in self.question_tokens:
            _require_number("question_tokens", value, least=0)
        for name in ("sizes", "tokens", "budgets"):
            for value in getattr(self, name):
                _require_number(name, value, above=0)

    def _check_reading(self) -> None:
        for name in ("columns", "maxima", "where"):
            if not isinstance(getattr(self, name), Mapping):
                raise UserError(f"law option {name} is {getattr(self, name)!r}; expected a mapping, name: value")
        _require_texts("columns", [*self.columns, *self.columns.values()])
        _require_texts("scores", self.scores)
        for value in self.maxima.values():
            _require_number("maxima", value, above=0)
        _require_word("scale", self.scale, (AUTO, "fraction", "percent"))
        _require_word("holds", self.holds, (AUTO, "score", "error"))
        if self.params_unit is not None:
            _require_word("params_unit", self.params_unit, ("billions", "millions", "count"))
        if self.expected is not None and not isinstance(self.expected, str):
            raise UserError(f"law option expected is {self.expected!r}; expected the path of a file with N and V")

    def _check_words(self) -> None:
        if self.law != AUTO or self.candidates:  # the laws come with scipy, which the workflow starts without
            from vlmlaw.laws.families import LAWS

            for law, known in ((self.law, (AUTO, *LAWS)), *((law, tuple(LAWS)) for law in self.candidates)):
                if law not in known:
                    raise UserError(f"law {law!r} is unknown; the laws are {', '.join(known)}")
        _require_word("loss", self.loss, LOSSES)
        _require_word("weights", self.weights, WEIGHTS)
        for name in ("question_pass", "size_effects", "allow_missing"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"law option {name} is {getattr(self, name)!r}; expected true or false")
        if not isinstance(self.cost_column, str):
            raise UserError(f"law option cost_column is {self.cost_column!r}; expected a column's name")
        if isinstance(self.hold_out, str):
            _require_word("hold_out", self.hold_out, HOLD_OUT)
        else:
            _require_number("hold_out", self.hold_out, above=0)


def _require_texts(name: str, values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise UserError(f"law option {name} holds {value!r}; expected the name of a column, as text")


def _require_number(
    name: str, value: object, *, above: float | None = None, least: float | None = None, below: float | None = None
) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    if good and above is not None:
        good = value > above  # type: ignore[operator]
    if good and least is not None:
        good = value >= least  # type: ignore[operator]
    if good and below is not None:
        good = value < below  # type: ignore[operator]
    if not good:
        wanted = [f"above {above:g}"] if above is not None else [f"{least:g} or more"] if least is not None else []
        wanted += [f"below {below:g}"] if below is not None else []
        raise UserError(f"law option {name} holds {value!r}; expected a number {' and '.join(wanted)}")


def _require_word(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise UserError(f"law option {name} is {value!r}; expected one of {', '.join(words)}")

"""The data of a report: the laws joined with the rows that each was fitted to, and the sizes.

N is in billions of parameters, V counts visual tokens, Q text tokens; error = 1 - score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import plain, read_analysis
from vlmlaw.laws.cells import format_size
from vlmlaw.laws.costs import Cost, CostModel
from vlmlaw.laws.optimum import candidate_cells, frontier, v_star
from vlmlaw.laws.replicates import collapse_questions
from vlmlaw.laws.result import LawFit
from vlmlaw.laws.table import ALL_KINDS, MEAN_OF_SUITES, Measurements, read_measurements
from vlmlaw.report import phrasing

SAME_SIZE = 1e-6  # difference in ln N below which two sizes are one
DEFAULT_QUESTION_TOKENS = 50.0  # typical of questions of benchmarks, as in Li et al. 2024 (arXiv 2411.03312), section 3


@dataclass(frozen=True)
class Size:
    """A size of language model: N in billions, its name, and its rank among the sizes (0 is the smallest)."""

    n: float
    name: str
    rank: int
    held_out: bool


@dataclass(frozen=True, eq=False)
class Suite:
    """A group of rows with its fitted law; `analysis` is the part of law.json on this group.

    rows: N, V, error, error_se (nan where unknown), seed, held_out, cell, compressor. others: rows of the
    same questions with compressors that have no law here, which are shown beside it.
    """

    label: str
    analysis: Mapping[str, Any]
    rows: pd.DataFrame
    others: pd.DataFrame

    @cached_property
    def fit(self) -> LawFit:
        return LawFit.from_dict(dict(self.analysis["fit"]))

    @property
    def index_fit(self) -> LawFit | None:
        """The fit that rho and V* are of: the best law with a single rho."""
        return self.fit.index_fit

    @property
    def name(self) -> str:
        return str(self.analysis["suite"])

    @property
    def compressor(self) -> str:
        """The compressor that the law is of; empty where all cells of the table share one law."""
        return str(self.analysis.get("compressor") or "")

    @property
    def rho(self) -> Mapping[str, Any] | None:
        return self.analysis["rho"]

    @property
    def v_range(self) -> tuple[float, float]:
        return float(self.rows["V"].min()), float(self.rows["V"].max())

    @property
    def missing(self) -> list[tuple[float, float]]:
        """Cells (N, V) that were not measured although their N and their V occur in other rows."""
        there = set(zip(self.rows["N"], self.rows["V"], strict=True))
        return sorted(set(product(self.rows["N"].unique(), self.rows["V"].unique())) - there)

    def v_star(self, study: "Study") -> Mapping[str, Any]:
        """V* at the Q of the study with its interval: a row as in the analysis."""
        return v_star_at(study.question_tokens, self.fit, study.options)

    def frontier(self, study: "Study", clock: CostModel | None = None) -> pd.DataFrame:
        """The frontier of the law at the Q of the study; budgets are the requested ones or the costs of the cells.

        With a measured `clock` it is that of the cells whose time is known, and budgets are their times.
        """
        options, cost = study.options, clock or study.cost
        sizes = options["sizes"] or sorted(self.rows["N"].unique())
        tokens = options["tokens"] or sorted(self.rows["V"].unique())
        cells = candidate_cells(self.fit, sizes=sizes, tokens=tokens, cost=cost)
        return frontier(
            self.fit,
            sizes=sizes,
            tokens=tokens,
            cost=cost,
            budgets=(None if clock else options["budgets"]) or sorted(cells["cost"].unique()),
            tolerance=options["flat_tolerance"],
            level=study.level,
        ).dropna(subset=["N"])


@dataclass(frozen=True, eq=False)
class Kind:
    """The rows of one kind of question, with the law fitted to them if there is one."""

    name: str
    rows: pd.DataFrame
    fit: LawFit | None
    analysis: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class Study:
    """The data of the figures and the page. Parts that a table of the user lacks are empty.

    suites: those of the compressor that the page is about; fitted: every suite of every compressor with a law.
    """

    law: Mapping[str, Any]
    measurements: Measurements
    suites: list[Suite]
    mean: Suite | None
    kinds: Mapping[str, list[Kind]]  # by the label of their suite
    sizes: list[Size]
    title: str
    law_path: Path
    measurements_path: Path
    experiment: Mapping[str, Any] = field(default_factory=dict)
    fitted: Sequence[Suite] = ()

    @property
    def families(self) -> list[str]:
        """The families of released models that have a law, where the table has several; each is a study by itself."""
        with_law = {suite.compressor for suite in self.fitted}
        return [name for name in self.measurements.families if name in with_law]

    @property
    def level(self) -> float:
        return float(self.options["level"])

    @property
    def options(self) -> Mapping[str, Any]:
        return self.law["provenance"]["options"]

    @cached_property
    def measured_question_tokens(self) -> float | None:
        """Q of the measured questions, if the table has it."""
        return measured_question_tokens(self.measurements.frame)

    @cached_property
    def question_tokens(self) -> float:
        """The Q of the figures and tables: the measured one, or else that of the literature."""
        return self.measured_question_tokens or DEFAULT_QUESTION_TOKENS

    @cached_property
    def cost(self) -> Cost:
        """The cost model of the frontier in the analysis, at the Q of the study."""
        options = self.options
        return Cost(
            question_tokens=self.question_tokens,
            generated_tokens=options["generated_tokens"],
            vision_flops=options["vision_flops"],
            question_pass=options["question_pass"],
            pass_tokens=options.get("pass_tokens"),
        )

    def size_of(self, n: float) -> Size:
        """The measured size that is nearest to N."""
        return min(self.sizes, key=lambda size: abs(np.log(size.n / n)))

    def name_of(self, n: float) -> str:
        """The name of a size; of one that was not measured, N with its unit."""
        nearest = self.size_of(n)
        return nearest.name if abs(np.log(nearest.n / n)) < SAME_SIZE else format_size(n)


def measured_question_tokens(frame: pd.DataFrame) -> float | None:
    """The median Q of the questions of a table, or None if the table does not have it."""
    if "n_text_tokens" not in frame:
        return None
    median = float(pd.to_numeric(frame["n_text_tokens"], errors="coerce").median())
    return median if median > 0 else None


def v_star_at(question_tokens: float, fit: LawFit, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """V* at one Q under the options of an analysis, by the best law with a single rho: a row as in the analysis."""
    table = v_star(
        fit.index_fit or fit,
        question_tokens,
        generated_tokens=options["generated_tokens"],
        question_pass=options["question_pass"],
        pass_tokens=options.get("pass_tokens"),
        level=float(options["level"]),
        tolerance=options["flat_tolerance"],
    )
    return plain(table.to_dict("records")[0])


def read_study(
    law: Path,
    measurements: Path,
    *,
    title: str = "",
    experiment: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    scores: tuple[str, ...] = (),
    where: Mapping[str, str] | None = None,
    compressor: str = "",
    family: str = "",
) -> Study:
    """Read the analysis of a law and join it with the table that it was fitted to.

    columns, scores and where: the same values as for `vlmlaw law fit`. compressor: the one whose law the page shows if
    each has its own; by default the one measured in most cells. family: of released models; the study is then of its
    cells alone. Raises UserError if analysis and table do not match.
    """
    analysis = read_analysis(law)
    if family:
        analysis = {**analysis, "fits": [part for part in analysis["fits"] if part.get("compressor") == family]}
    if not analysis["fits"]:
        raise UserError(
            f"{law} has no law for a page: its table has one size or one number of visual tokens. "
            f"`vlmlaw law fit {measurements}` prints what it shows"
        )
    table = _read_table(measurements, analysis["provenance"]["units"], columns=columns or {}, scores=scores)
    where = {**analysis["provenance"]["options"].get("where", {}), **(where or {})}
    _require_same_table(analysis, table, law=law, measurements=measurements)
    table = collapse_questions(table.select(compressor=family) if family else table)
    everything, table = table, table.select(**where) if where else table
    whole = [part for part in analysis["fits"] if phrasing.is_whole_suite(part)]
    if not whole:  # a table of single kinds without their whole
        whole = [part for part in analysis["fits"] if part["suite"] != MEAN_OF_SUITES]
    fitted = [_suite(p, table, everything, label=phrasing.label(p, with_compressor=False)) for p in whole]
    whole = [part for part in whole if part.get("compressor") in (None, "", _main_compressor(whole, table, compressor))]
    several = phrasing.several_compressors(whole)
    suites = [_suite(p, table, everything, label=phrasing.label(p, with_compressor=several)) for p in whole]
    mean = next((part for part in analysis["fits"] if part["suite"] == MEAN_OF_SUITES), None)
    means = table.mean_of_suites()
    return Study(
        law=analysis,
        measurements=everything,
        suites=suites,
        mean=None if mean is None or means is None else _suite(mean, means, means, label=phrasing.label(mean)),
        kinds={suite.label: _kinds(suite, analysis, table) for suite in suites},
        sizes=_sizes(table.frame),
        title=title or "Larger LLM or more visual tokens?",
        law_path=Path(law),
        measurements_path=Path(measurements),
        experiment=experiment or {},
        fitted=fitted,
    )


def _read_table(
    path: Path, units: Mapping[str, Any], *, columns: Mapping[str, str], scores: tuple[str, ...]
) -> Measurements:
    """Read a table as an analysis says it was read, but for the columns and scores that are given."""
    return read_measurements(
        path,
        {**units.get("columns", {}), **columns},
        params_unit=units.get("params"),
        scale=units.get("scale", "auto"),
        scores=scores or units.get("scores", ()),
        maxima=units.get("maxima"),
        holds=units.get("holds", "auto"),
    )


def _require_same_table(analysis: Mapping[str, Any], table: Measurements, *, law: Path, measurements: Path) -> None:
    wanted = analysis["provenance"]["sha256"]
    if wanted and table.sha256 and wanted != table.sha256:
        raise UserError(
            f"{law} was fitted to another table than {measurements}: its table has sha256 {wanted[:12]}…, this one "
            f"{table.sha256[:12]}…. Fit the law again: vlmlaw law fit {measurements} --out {law}"
        )


def _main_compressor(whole: Sequence[Mapping[str, Any]], table: Measurements, wanted: str) -> str:
    """The compressor whose law the page shows: the requested one, or else the one with a law and the most cells."""
    fitted = list(dict.fromkeys(str(part["compressor"]) for part in whole if part.get("compressor")))
    if wanted and fitted and wanted not in fitted:
        raise UserError(f"report.compressor is {wanted!r}, which has no law here; those with one: {', '.join(fitted)}.")
    counts = table.frame.groupby("compressor")["cell"].nunique()
    return wanted or max(fitted, key=lambda name: (counts[name], -fitted.index(name)), default="")


def _group(part: Mapping[str, Any]) -> dict[str, str]:
    return {name: part[name] for name in ("suite", "kind", "compressor") if part.get(name)}


def _suite(part: Mapping[str, Any], table: Measurements, everything: Measurements, *, label: str) -> Suite:
    """The suite of a fit: its rows of `table`, and the rows of other compressors for the same questions."""
    group = _group(part)
    rows = table.select(**group).frame
    n_fitted = part["n_cells"] + part["n_held_out"]
    if len(rows) != n_fitted:
        raise UserError(
            f"the law of {phrasing.label(group)} was fitted to {n_fitted} rows, and the table has {len(rows)}; "
            "pass the same --where and --scores as to `vlmlaw law fit`"
        )
    same = everything.select(suite=group["suite"], kind=group["kind"]).frame
    others = same[~same.index.isin(rows.index) & ~same["compressor"].isin(rows["compressor"])]
    return Suite(label=label, analysis=part, rows=rows, others=others)


def _kinds(suite: Suite, analysis: Mapping[str, Any], table: Measurements) -> list[Kind]:
    """The kinds of question of a suite, ordered by their mean error, the easiest first."""
    chosen = {name: value for name, value in _group(suite.analysis).items() if name != "kind"}
    rows = table.select(**chosen).frame
    fits = {part["kind"]: part for part in analysis["fits"] if _group(part) == chosen | {"kind": part["kind"]}}
    found = []
    for name, of_kind in rows[rows["kind"] != ALL_KINDS].groupby("kind"):
        part = fits.get(str(name))
        fit = LawFit.from_dict(part["fit"]) if part else None
        found.append(Kind(name=str(name), rows=of_kind, fit=fit, analysis=part))
    return sorted(found, key=lambda kind: float(kind.rows["error"].mean()))


def _sizes(frame: pd.DataFrame) -> list[Size]:
    """The sizes of a table in ascending order, with the names of the table or else named by N."""
    found = []
    for rank, (n, rows) in enumerate(frame.groupby("N")):
        name = str(rows["size"].iloc[0]) if "size" in rows else format_size(float(n))  # type: ignore[arg-type]
        found.append(Size(n=float(n), name=name, rank=rank, held_out=bool(rows["held_out"].all())))  # type: ignore[arg-type]
    return found

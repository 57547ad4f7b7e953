"""Benchmarks of an experiment, completed with the defaults of the tables of benchmarks and metrics."""

from __future__ import annotations

import re

from vlmlaw.errors import UserError
from vlmlaw.evaluation.metrics import metric_called
from vlmlaw.evaluation.settings import ON_A_CPU, BenchmarkSection, BenchmarkSettings
from vlmlaw.evaluation.suites import BENCHMARKS, READING, REASONING
from vlmlaw.experiment.file import ExperimentFile

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def benchmarks_of(experiment: ExperimentFile) -> dict[str, BenchmarkSettings]:
    """The settings of each benchmark by name. Raises UserError for one that cannot be run or is listed twice."""
    found: dict[str, BenchmarkSettings] = {}
    for number, section in enumerate(experiment.evaluation.benchmarks):
        where = f"evaluation.benchmarks[{number}]"
        if not NAME.fullmatch(section.name) or section.name in found or section.name == "all":
            raise UserError(
                f"{where}: found the name {section.name!r}; expected one of its own, of small letters, digits, _ and -."
            )
        found[section.name] = _resolve(section, experiment, where=where)
    return found


def _resolve(section: BenchmarkSection, experiment: ExperimentFile, *, where: str) -> BenchmarkSettings:
    known = BENCHMARKS.get(section.name)
    suite = section.suite or (known.suite if known else "")
    if not suite:
        raise UserError(
            f"{where}: {section.name} is no known benchmark ({', '.join(BENCHMARKS)}); for one of your own say its "
            f"`suite`, {REASONING} or {READING}."
        )
    if suite not in (REASONING, READING):
        raise UserError(f"{where}: found the suite {suite!r} of {section.name}; expected {REASONING} or {READING}.")
    if section.by == "lmms-eval":
        _check_lmms(section, where=where)
        # lmms-eval has its own questions, instruction and metric.
        return _settings(section, experiment, suite=suite, metric="", instruction="", max_new_tokens=1)
    if not section.questions:
        raise UserError(f"{where}: {section.name} has no `questions`; name its file, or say `by: lmms-eval`.")
    name = section.metric or (known.metric if known else None)
    if name is None:
        instead = "take `by: lmms-eval`, or one" if known else "name one"
        raise UserError(f"{where}: {section.name} has no metric of the project's own; {instead} as `metric`.")
    metric = metric_called(name)
    return _settings(
        section,
        experiment,
        suite=suite,
        metric=name,
        instruction=metric.instruction if section.instruction is None else section.instruction,
        max_new_tokens=section.max_new_tokens or metric.max_new_tokens,
    )


def _settings(
    section: BenchmarkSection,
    experiment: ExperimentFile,
    *,
    suite: str,
    metric: str,
    instruction: str,
    max_new_tokens: int,
) -> BenchmarkSettings:
    return BenchmarkSettings(
        name=section.name,
        suite=suite,
        metric=metric,
        instruction=instruction,
        max_new_tokens=max_new_tokens,
        dtype=experiment.evaluation.benchmark_dtype,
        batch_size=ON_A_CPU if experiment.evaluation.batch_size == "auto" else int(experiment.evaluation.batch_size),
    )


def _check_lmms(section: BenchmarkSection, *, where: str) -> None:
    given = [key for key in ("questions", "images", "metric", "instruction", "max_new_tokens") if getattr(section, key)]
    if section.name not in BENCHMARKS:
        raise UserError(
            f"{where}: lmms-eval's error of {section.name} is not known; there are {', '.join(BENCHMARKS)}."
        )
    if given:
        raise UserError(f"{where}: lmms-eval brings its own {given[0]}; remove the line, or `by: lmms-eval`.")

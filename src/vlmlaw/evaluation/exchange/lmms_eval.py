"""Scores from folders of lmms-eval: DATE_results.json, and DATE_samples_TASK.jsonl beside it or alone.

A results file has `results` (task -> "metric,filter" -> number), `n-samples`, `higher_is_better`, `group_subtasks` and
`config` with `model_args` and, where the model said it, `model_num_parameters`. A line of samples has the metrics
of its question beside `doc_id`, `target` and hashes. Its evaluator.py and evaluation_tracker.py write them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange.score import Choices, FoundScore, choose_metric, error_of, is_number
from vlmlaw.evaluation.suites import BENCHMARKS, Benchmark

SAMPLES = re.compile(r"^(?P<run>.*?)_?samples_(?P<task>.+)\.jsonl$")
# What a line of samples holds beside its metrics.
_FIELDS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash"}
_FIELDS |= {"input", "submission", "token_counts"}
_MODEL_KEYS = ("peft", "delta", "pretrained", "model", "model_version", "model_name", "model_id", "path", "engine")


def is_results(data: Any) -> bool:
    """Whether a JSON file is one of lmms-eval's results."""
    return isinstance(data, dict) and isinstance(data.get("results"), dict) and ("configs" in data or "config" in data)


def read_results(path: Path, data: Mapping[str, Any], choices: Choices, notes: list[str]) -> Iterator[FoundScore]:
    """The score of each task in a results file. Raises UserError for a limited run and for metrics that are open."""
    config = data.get("config") or {}
    arguments = str(config.get("model_args", ""))
    model = str(data.get("model_name") or _model_of(arguments) or config.get("model") or path.parent.name)
    n_params = config.get("model_num_parameters")
    groups = {name for name, tasks in (data.get("group_subtasks") or {}).items() if tasks}
    for task, scores in data["results"].items():
        if task in groups:
            continue
        found = {key: float(value) for key, value in scores.items() if is_number(value) and "_stderr" not in key}
        if not found:
            notes.append(f"{path}: {task} has no score")
            continue
        n_asked = _asked(data, task, path, choices)
        metric, error, se = _error(task, scores, found, data.get("higher_is_better") or {}, path, choices)
        yield FoundScore(
            model=model,
            suite=task,
            metric=metric,
            error=error,
            error_se=_se_of_samples(path, task, metric, error) if se is None else se,
            n_questions=n_asked,
            path=path,
            settings=arguments,
            n_params=float(n_params) if is_number(n_params) and n_params > 0 else None,
        )


def _model_of(arguments: str) -> str:
    """The model in `pretrained=...,max_pixels=...`, by the first of lmms-eval's own keys that is there."""
    given = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    return next((given[key] for key in _MODEL_KEYS if key in given), "")


def _asked(data: Mapping[str, Any], task: str, path: Path, choices: Choices) -> int | None:
    counts = (data.get("n-samples") or {}).get(task) or {}
    asked, whole = counts.get("effective"), counts.get("original")
    if asked is not None and asked != whole and not choices.partial:
        raise UserError(
            f"{path}, {task}: {asked} of {whole} questions were asked; a limited run is not the benchmark. Take it "
            "all the same by --partial"
        )
    return int(asked) if is_number(asked) else None


def _error(
    task: str,
    scores: Mapping[str, Any],
    found: Mapping[str, float],
    higher: Mapping[str, Any],
    path: Path,
    choices: Choices,
) -> tuple[str, float, float | None]:
    """The metric by name, the error, and lmms-eval's own standard error on its scale."""
    plain = _without_filters(found)
    wanted = choices.metrics.get(task)
    benchmark = _benchmark(task)
    if wanted is None and benchmark and set(benchmark.parts) <= set(plain):
        try:
            error = benchmark.error(plain)
        except ValueError as wrong:
            raise UserError(f"{path}, {task}: {wrong}; is it another version of the task?") from wrong
        se = _reported_se(scores, next(iter(benchmark.parts))) if benchmark.reports_se else None
        return " + ".join(benchmark.parts), error, se
    name = choose_metric(plain if wanted is None or "," not in wanted else found, wanted, suite=task, path=path)
    value = plain.get(name, found.get(name, np.nan))
    direction = (higher.get(task) or {}).get(name.partition(",")[0])
    most = choices.maxima.get(task, 1.0)
    error = error_of(value, suite=task, metric=name, most=most, lower_is_better=direction is False, path=path)
    se = _reported_se(scores, name.partition(",")[0])
    label = name if most == 1 else f"{name} of {most:g}"
    return label + (", lower is better" if direction is False else ""), error, None if se is None else se / most


def _benchmark(task: str) -> Benchmark | None:
    for benchmark in BENCHMARKS.values():
        if task in (benchmark.task, *benchmark.other_tasks):
            return benchmark
    return None


def _without_filters(found: Mapping[str, float]) -> dict[str, float]:
    """Metrics by their names alone where one filter, or the filter `none`, gives them; else with the filter."""
    names: dict[str, list[str]] = {}
    for key in found:
        names.setdefault(key.partition(",")[0], []).append(key)
    plain: dict[str, float] = {}
    for name, keys in names.items():
        one = keys if len(keys) == 1 else [key for key in keys if key == f"{name},none"]
        plain |= {name: found[one[0]]} if len(one) == 1 else {key: found[key] for key in keys}
    return plain


def _reported_se(scores: Mapping[str, Any], name: str) -> float | None:
    for kind in ("stderr_clustered", "stderr_clt", "stderr"):
        values = [value for key, value in scores.items() if key.partition(",")[0] == f"{name}_{kind}"]
        if len(values) == 1 and is_number(values[0]):
            return float(values[0])
    return None


def _se_of_samples(path: Path, task: str, metric: str, error: float) -> float | None:
    """The standard error of the logged samples, where their mean is the score."""
    samples = path.with_name(re.sub(r"results\.json$", f"samples_{task}.jsonl", path.name))
    if samples == path or not samples.is_file():
        return None
    values = _metrics_of(samples).get(metric.partition(",")[0])
    if values is None or len(values) < 2 or abs(1 - float(np.mean(values)) - error) > 1e-6:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def read_samples(path: Path, choices: Choices) -> Iterator[FoundScore]:
    """The score of a file of samples without a results file: the mean of its metric over the questions."""
    match = SAMPLES.match(path.name)
    assert match is not None, path
    task = match["task"]
    values = _metrics_of(path)
    if not values:
        raise UserError(f"{path}: no question has a metric between 0 and 1; expected one beside doc_id and target")
    means = {name: float(np.mean(found)) for name, found in values.items()}
    metric = choose_metric(means, choices.metrics.get(task), suite=task, path=path)
    found = values[metric]
    yield FoundScore(
        model=path.parent.name,
        suite=task,
        metric=metric,
        error=1 - means[metric],
        error_se=float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None,
        n_questions=len(found),
        path=path,
    )


def _metrics_of(path: Path) -> dict[str, list[float]]:
    """The metrics that every question has as a number between 0 and 1, or as a record with such a `score`."""
    values: dict[str, list[float]] = {}
    n_lines = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            scores = {key: _number(value) for key, value in sample.items() if key not in _FIELDS}
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{path} line {number} is no sample of lmms-eval ({error}); expected a JSON object"
            ) from error
        n_lines += 1
        for key, value in scores.items():
            if value is not None:
                values.setdefault(key, []).append(value)
    return {key: found for key, found in values.items() if len(found) == n_lines}


def _number(value: Any) -> float | None:
    if isinstance(value, dict):
        value = value.get("score")
    if isinstance(value, bool | int | float) and 0 <= float(value) <= 1:
        return float(value)
    return None

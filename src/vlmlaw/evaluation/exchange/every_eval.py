"""Records of Every Eval Ever: scores in, and records of a table of measurements out.

A record (schema 0.2 or 0.3 of evaleval/every_eval_ever) names a model, its source, and a list of results, each with
`metric_config` (direction and bounds) and `score_details` (score, standard error, samples). N and V have no place of
their own in it, so records of ours keep them in `model_info.additional_details`, whose values are texts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange.score import Choices, FoundScore, is_number

PREFIX = "vlmlaw_"  # of the columns of the table in a record of ours


def is_record(data: Any) -> bool:
    """Whether a JSON file is a record of Every Eval Ever."""
    return isinstance(data, dict) and "schema_version" in data and isinstance(data.get("evaluation_results"), list)


def read_record(path: Path, data: Mapping[str, Any], choices: Choices) -> Iterator[FoundScore]:
    """The scores of a record. Raises UserError for a score without bounds and a metric without a direction."""
    model = data.get("model_info") or {}
    if not isinstance(model.get("id"), str):
        raise UserError(f"{path}: model_info has no id; expected a record of Every Eval Ever")
    own = _own(model.get("additional_details"))
    for place, result in enumerate(data["evaluation_results"]):
        where = f"{path}, evaluation_results[{place}]"
        try:
            metric, details = result["metric_config"], result["score_details"]
            suite, score, lower = result["evaluation_name"], details["score"], metric["lower_is_better"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{where} has no {error}; expected a record of Every Eval Ever") from error
        low, high = _bounds(metric, suite, where, choices)
        if not (is_number(score) and low <= score <= high):
            raise UserError(f"{where}: the score of {suite} is {score}; expected a number from {low:g} to {high:g}")
        share = (score - low) / (high - low)
        uncertainty = details.get("uncertainty") or {}
        se = (uncertainty.get("standard_error") or {}).get("value")
        named = _own(details.get("details"))
        yield FoundScore(
            model=model["id"],
            suite=named.pop("suite", suite),
            metric=str(metric.get("metric_name") or metric.get("metric_id") or metric.get("metric_kind") or "score"),
            error=share if lower else 1 - share,
            error_se=float(se) / (high - low) if is_number(se) else None,
            n_questions=uncertainty.get("num_samples"),
            path=path,
            settings=str(data.get("evaluation_id", "")),
            details=own | named,
        )


def _own(details: Mapping[str, str] | None) -> dict[str, str]:
    """Columns of the table that a record of ours has."""
    return {name.removeprefix(PREFIX): text for name, text in (details or {}).items() if name.startswith(PREFIX)}


def _bounds(metric: Mapping[str, Any], suite: str, where: str, choices: Choices) -> tuple[float, float]:
    """What can be reached at least and at most."""
    if metric.get("score_type") == "binary":
        return 0.0, 1.0
    low, high = metric.get("min_score"), choices.maxima.get(suite, metric.get("max_score"))
    if suite in choices.maxima and not is_number(low):
        low = 0.0
    if not (is_number(low) and is_number(high)) or low >= high:
        raise UserError(
            f"{where}: {suite} has the bounds {low} and {high}; expected numbers that say what can be reached. Say it: "
            f"--maximum '{suite}=POINTS'"
        )
    return float(low), float(high)

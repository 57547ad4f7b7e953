"""A grid for others: measurements.csv, a card with its fit, and a record of Every Eval Ever for each cell.

The records lie where that project's datastore has them, data/COLLECTION/DEVELOPER/MODEL/UUID.json; their errors have
the bounds 0 and 1, the lower the better, so that nothing is rounded. `law import` reads them back.
"""

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange.card import render_card
from vlmlaw.evaluation.exchange.every_eval import PREFIX
from vlmlaw.laws.table import Measurements
from vlmlaw.runtime.whole_files import whole_file

SCHEMA_VERSION = "0.3.0"
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
# Columns of one model, as a record has it once; the others are of a score.
OF_MODEL = ("cell", "params_b", "visual_tokens", "compressor", "seed", "training", "held_out")
OF_SCORE = ("suite", "kind", "error", "error_se", "n_questions", "note")


@dataclass(frozen=True)
class Origin:
    """Who publishes a grid, and where its numbers come from.

    organization: who made the measurements; developer: who made the models, where the table's names of them do not say
    it; relationship: the one to the other, one of RELATIONSHIPS; documented: whether the numbers are taken from a
    publication and not from runs; retrieved: seconds since 1970.
    """

    organization: str
    developer: str
    relationship: str
    source: str
    collection: str
    documented: bool
    retrieved: float


def publish(table: Measurements, out: Path, origin: Origin) -> list[Path]:
    """Write the grid into a folder, and return the files. Raises UserError for names that make no path."""
    frame = canonical(table)
    written = [out / "measurements.csv", out / "README.md"]
    records = {out / _place(record, origin.collection): record for record in _records(frame, origin)}
    for path, text in zip(written, (frame.to_csv(index=False), render_card(table, frame, origin.source)), strict=True):
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    for path, record in records.items():
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        written.append(path)
    return written


def canonical(table: Measurements) -> pd.DataFrame:
    """The table under the names that `law fit` reads without options, in a fixed order, without empty columns."""
    frame = table.frame.drop(columns=["line"]).rename(columns={"N": "params_b", "V": "visual_tokens"})
    further = [name for name in frame if name not in (*OF_MODEL, *OF_SCORE)]
    frame = frame[[*OF_MODEL, *OF_SCORE, *further]].replace("", pd.NA)
    frame = frame.sort_values([*OF_MODEL[1:5], "cell", "suite", "kind"], kind="stable", na_position="first")
    if not frame["held_out"].any():
        frame = frame.drop(columns="held_out")
    return frame.dropna(axis=1, how="all").reset_index(drop=True)


def _records(frame: pd.DataFrame, origin: Origin) -> Iterator[dict[str, Any]]:
    """One record for each cell, with a result for each suite and kind of question."""
    keys = [name for name in (*OF_MODEL, "model") if name in frame]
    for _, rows in frame.groupby(keys, sort=False, dropna=False):
        first = rows.iloc[0].to_dict()
        model = _model_id(first, origin.developer)
        results = [_result(row, origin) for row in rows.to_dict("records")]
        identity = json.dumps([model, _texts(first, keys), results], sort_keys=True)
        yield {
            "schema_version": SCHEMA_VERSION,
            "evaluation_id": f"{origin.collection}/{model}/{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            "retrieved_timestamp": f"{origin.retrieved:.0f}",
            "source_metadata": {
                "source_name": origin.source,
                "source_type": "documentation" if origin.documented else "evaluation_run",
                "source_organization_name": origin.organization,
                "evaluator_relationship": origin.relationship,
            },
            "eval_library": {"name": "unknown" if origin.documented else "vlmlaw", "version": _version(origin)},
            "model_info": {
                "name": model.partition("/")[2],
                "id": model,
                "developer": model.partition("/")[0],
                "additional_details": {
                    "deployment_type": "unknown" if origin.documented else "self_deployed",
                    "model_availability": "unknown",
                    **_texts(first, keys),
                },
            },
            "evaluation_results": results,
        }


def _version(origin: Origin) -> str:
    return "unknown" if origin.documented else __version__


def _model_id(row: Mapping[str, Any], maker: str) -> str:
    """developer/name of a cell: as the table's column `model` says it, or the maker's cell."""
    name = str(row.get("model", row["cell"]))
    developer, _, rest = name.rpartition("/") if "/" in name else (maker, "", name)
    return f"{_part(developer)}/{_part(rest)}"


def _part(name: str) -> str:
    """A name as a part of a portable path. Raises UserError where nothing is left of it."""
    part = re.sub(r"[^\w.+@-]+", "-", name).strip("-. ")
    if not part or part.lower() in ("unknown", "data"):
        raise UserError(
            f"{name!r} makes no name of a folder; expected letters and digits, and neither unknown nor data"
        )
    return part


def _texts(row: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    """Values as the texts that a record takes; blank ones are left out, numbers lose nothing."""
    present = {name: row[name] for name in names if not _is_blank(row[name])}
    return {PREFIX + name: repr(float(v)) if isinstance(v, float) else str(v) for name, v in present.items()}


def _is_blank(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) or value == ""


def _result(row: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    suite, kind = str(row.get("suite", "all")), str(row.get("kind", "all"))
    uncertainty: dict[str, Any] = {}
    if not _is_blank(row.get("error_se")):
        uncertainty["standard_error"] = {"value": float(row["error_se"])}
    if not _is_blank(row.get("n_questions")):
        uncertainty["num_samples"] = int(row["n_questions"])
    further = [name for name in row if name not in (*OF_MODEL, "error", "error_se", "n_questions", "model")]
    details: dict[str, Any] = {"score": float(row["error"]), "details": _texts(row, further)}
    return {
        "evaluation_name": suite if kind == "all" else f"{suite}: {kind}",
        "source_data": {"dataset_name": suite, "source_type": "other"},
        "metric_config": {
            "evaluation_description": f"error of {suite}, the share of what could be reached that was not",
            "metric_name": "error",
            "lower_is_better": True,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": details | ({"uncertainty": uncertainty} if uncertainty else {}),
    }


def _place(record: Mapping[str, Any], collection: str) -> Path:
    """The record's path; its UUID follows from the content, so that a second run writes the same files."""
    digest = hashlib.sha256(record["evaluation_id"].encode()).digest()[:16]
    developer, _, model = record["model_info"]["id"].partition("/")
    return Path("data", _part(collection), developer, model, f"{uuid.UUID(bytes=digest, version=4)}.json")

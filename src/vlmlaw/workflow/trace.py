"""Trace a number, cell or file of the results to the settings, data and commit that it comes from.

This is what `vlmlaw provenance NUMBER-or-CELL` prints.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError
from vlmlaw.runtime.git import git
from vlmlaw.runtime.whole_files import sha256_of
from vlmlaw.workflow import records

DATA = ("train", "development", "dataset", "tokens", "tokenizer", "images")  # inputs that are data
MOST_SHOWN = 12  # lines of matches for a number
TRAINING, EVALUATION = "training.json", "evaluation.json"


@dataclass(frozen=True)
class Match:
    """A number in the results: what it is, its value, and the file and cell that it comes from."""

    what: str
    value: float
    source: Path
    cell: str = ""


def print_origin(what: str, results: Path, *, as_json: bool) -> None:
    """Print the origin of `what`. Raises UserError if no number, cell or file of the results matches it."""
    digits = _digits(what)
    cell = results / "cells" / what
    if cell.is_dir():
        _print_cell(cell, as_json=as_json)
    elif digits is not None:
        _print_matches(*digits, what, results, as_json=as_json)
    elif Path(what).exists():
        _print_result(Path(what), as_json=as_json)
    else:
        names = sorted(path.name for path in results.glob("cells/*") if path.is_dir() and path.suffix != ".work")
        close = [name for name in names if what.split("_")[0] == name.split("_")[0]] or names
        known = f"; cells there: {', '.join(close[:6])}" if close else "; there are no cells yet"
        raise UserError(f"{what!r} is no number, cell or file of {results}/{known}.")


def _digits(text: str) -> tuple[float, float] | None:
    """Parse a printed number: its value, and half a unit of its last digit. None if the text is no number."""
    plain = text.replace("−", "-").replace("\u202f", "").replace(" ", "").replace(",", "")
    percent = plain.endswith("%")
    plain = plain.rstrip("%")
    try:
        value = float(plain)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    mantissa, _, exponent = plain.lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    scale = 0.01 if percent else 1.0
    return value * scale, unit * scale / 2 * (1 + 1e-9)


def _print_matches(value: float, half: float, what: str, results: Path, *, as_json: bool) -> None:
    found = [match for match in _numbers(results) if abs(match.value - value) <= half]
    if not found:
        raise UserError(
            f"no error or law in {results}/ rounds to {what}; give it with the digits that the report has, "
            "and --results where they are elsewhere."
        )
    for match in found[:MOST_SHOWN]:
        print(f"{match.value:.6g}  {match.what}  ({match.source})")
    if len(found) > MOST_SHOWN:
        print(f"and {len(found) - MOST_SHOWN} more; give more digits")
    cells = sorted({match.cell for match in found if match.cell})
    if len(cells) == 1 and all(match.cell for match in found):
        print()
        _print_cell(results / "cells" / cells[0], as_json=as_json)
    elif cells:
        print(f"\nnext: vlmlaw provenance {cells[0]}")
    else:
        print()
        _print_result(found[0].source, as_json=as_json)


def _numbers(results: Path) -> Iterator[Match]:
    """Yield every measured error, and every number of the laws."""
    import csv

    from vlmlaw.laws.analysis import read_analysis

    table, law = results / "measurements.csv", results / "law" / "law.json"
    if not table.exists():
        raise UserError(f"{table} is not there; run `snakemake --cores all` first, or name the results with --results.")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        for row in rows:
            for column in ("error", "error_se"):
                what = f"{column} of {row['cell']}, {row['suite']} {row['kind']}"
                if row[column]:  # a cell measured elsewhere may have no standard error
                    yield Match(what, float(row[column]), table, row["cell"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{table} is no table of measurements ({error!r}); `vlmlaw collect` writes one.") from error
    if law.exists():
        for fit in read_analysis(law)["fits"]:
            of = " ".join(str(fit[key]) for key in ("suite", "kind", "compressor") if fit.get(key))
            yield from (Match(f"{what}, {of}", value, law) for what, value in _of_law(fit) if value is not None)


def _of_law(fit: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for end in ("estimate", "lower", "upper"):
        yield f"rho ({end})", (fit["rho"] or {}).get(end)
    for row in fit["v_star"]:
        for end in ("v_star", "lower", "upper"):
            yield f"V* at Q = {row['question_tokens']:g} ({end})", row[end]
    for row in fit["summary"]:
        label = next((value for value in row.values() if isinstance(value, str)), "parameter")
        yield from ((f"{label} ({key})", value) for key, value in row.items() if isinstance(value, float))
    yield "R2", fit["r_squared"]


def _print_cell(folder: Path, *, as_json: bool) -> None:
    benchmarks = [path for path in sorted(folder.glob("benchmarks/*.json")) if not path.stem.endswith(".record")]
    results = [folder / TRAINING, folder / EVALUATION, *benchmarks]
    found = {result: records.read(result.with_suffix(".record.json")) for result in results}
    if not any(found.values()):
        raise UserError(f"{folder} has no record of what made it; `snakemake --cores all` makes the cell with one.")
    if as_json:
        print(json.dumps({result.stem: record for result, record in found.items()}, indent=1))
        return
    print(folder.name)
    if (folder / EVALUATION).exists():
        scores = json.loads((folder / EVALUATION).read_text())["scores"]
        _line("error", ", ".join(f"{suite} {kinds['all']['error']:.4f}" for suite, kinds in scores.items()))
    for result, record in found.items():
        if record:
            _print_record(result.stem, record, folder=result.parent)
    evaluation = next((result for result in results[1:] if found[result]), None)
    training = _training_of(folder, found[evaluation] if evaluation else None)
    rule = "train_cell" if re.search(r"_v\d+_", training.name) else "train_elastic"
    _line("config", f"{training / TRAINING}")
    _line("recorded by", _ledger(folder.parent))
    _line("made again by", f"snakemake {evaluation or training / TRAINING} --cores all --forcerun {rule}")


def _training_of(folder: Path, evaluation: dict[str, Any] | None) -> Path:
    """The folder of the training whose weights a cell has; its evaluation's record names one that cells share."""
    model = ((evaluation or {}).get("inputs") or {}).get("model")
    return Path(model["path"]) if model else folder


def _print_result(path: Path, *, as_json: bool) -> None:
    at = records.record_of(path)
    record = records.read(at) if at else None
    if at is None or record is None:
        raise UserError(f"{path} has no record of what made it: no job of the workflow wrote it.")
    if as_json:
        print(json.dumps(record, indent=1))
        return
    print(path)
    _print_record("made", record, folder=at.parent)
    _line("recorded by", _ledger(path))
    if record["verb"] in ("collect", "law", "headline", "report"):
        _line("from", "the measurements of all cells; `vlmlaw provenance CELL` traces one of them")


def _print_record(name: str, record: dict[str, Any], *, folder: Path) -> None:
    _line(name, f"{record['at']} by commit {record['commit'] or 'unknown (no repository)'}, code {record['code']}")
    if record["settings"]:
        _line("  settings", record["settings"])
    seen = set()
    for label, part in records.walk(record["inputs"]):
        key = (part["path"], part["content"])
        if key not in seen:
            kind = "data" if label in DATA else "model"
            _line(f"  {kind}", f"{part['path']} version {part['content']}, commit {part['commit'] or 'unknown'}")
        seen.add(key)
    for file, identity in dict(records.files_read(record)).items():
        _line("  your file", f"{file} version {identity['sha256'][:16]}")
    damaged = [
        file
        for file, identity in record["files"].items()
        if not (folder / file).exists() or sha256_of(folder / file) != identity["sha256"]
    ]
    _line(
        "  files", f"version {record['content']}, " + (f"changed since: {', '.join(damaged)}" if damaged else "whole")
    )


def _ledger(path: Path) -> str:
    """Say which DVC output holds `path`, and which commit first recorded its present content in dvc.lock."""
    import yaml

    try:
        stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return "no dvc.lock; `vlmlaw adopt` records results in DVC"
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    own = [out for out in outs if path == Path(out["path"]) or Path(out["path"]) in path.parents]
    if not own:
        return "not in dvc.lock"
    commits = git("log", "--reverse", "--format=%h", f"-S{own[0]['md5']}", "--", "dvc.lock").split()
    return f"dvc.lock, {own[0]['path']} {own[0]['md5']}, commit {commits[0] if commits else 'not yet'}"


def _line(label: str, text: str) -> None:
    print(f"  {label:<15}{text}")

"""The file that maps a model to N and V: a CSV with a line for each model, or for each of its settings.

    model,params_b,visual_tokens,where
    Qwen/Qwen2-VL-7B-Instruct,8.29,256,max_pixels=200704
    Qwen/Qwen2-VL-7B-Instruct,8.29,1024,max_pixels=802816

`params_b` may be blank where lmms-eval wrote the number of parameters. `where` is a text that stands in the file's path
or in lmms-eval's model_args, to tell settings of one model apart. Further columns (method, seed, training, held_out, a
cost) are copied to the table.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange.score import FoundScore

NEEDED = ("model", "visual_tokens")


@dataclass(frozen=True)
class ModelLine:
    """One line of the file: which model, which settings, and the columns of the table that it gives."""

    number: int
    model: str
    where: str
    columns: Mapping[str, str]


def read_models(path: Path) -> list[ModelLine]:
    """Read a models file. Raises UserError for one without its columns or with a number that is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    columns = list(rows[0]) if rows else []
    if missing := [name for name in NEEDED if name not in columns]:
        raise UserError(
            f"{path} has no column {', '.join(missing)}; expected a CSV that begins with model,params_b,visual_tokens "
            "(and `where`, to tell settings of one model apart)"
        )
    lines = []
    for number, row in enumerate(rows, 2):
        kept = {str(name): (text or "").strip() for name, text in row.items() if name not in ("model", "where", None)}
        for name in ("params_b", "visual_tokens"):
            _require_positive(kept.get(name, ""), name, f"{path} line {number}")
        lines.append(ModelLine(number, (row["model"] or "").strip(), (row.get("where") or "").strip(), kept))
    return lines


def _require_positive(text: str, name: str, where: str) -> None:
    if not text and name == "params_b":
        return
    try:
        if float(text) > 0:
            return
    except ValueError:
        pass
    unit = "billions, as in 8.29" if name == "params_b" else "a number of tokens, as in 576"
    raise UserError(f"{where}: {name} is {text!r}; expected {unit}")


def line_of(score: FoundScore, lines: Sequence[ModelLine], models: Path | None) -> ModelLine | None:
    """The line of a score's model, or None without one. Raises UserError where several fit."""
    text = f"{score.path.as_posix()} {score.settings}"
    fitting = [line for line in lines if _same(line.model, score.model) and line.where in text]
    fitting = [line for line in fitting if line.where] or fitting
    if len(fitting) > 1:
        numbers = ", ".join(str(line.number) for line in fitting)
        raise UserError(
            f"{models} lines {numbers} fit {score.model} in {score.path} alike; tell them apart by `where`, a text in "
            f"the path or in {score.settings!r}"
        )
    return fitting[0] if fitting else None


def _same(name: str, found: str) -> bool:
    """Whether two names are of one model; lmms-eval writes Qwen/Qwen2-VL as the folder Qwen__Qwen2-VL."""
    return name == found or re.sub(r'["<>:/|\\?*\[\]]+', "__", name) == found

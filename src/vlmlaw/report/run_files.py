"""Files of a run: the trainings of the cells, of the encoder and of the language models, and test samples."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError

QUESTIONS_SHOWN = 4


@dataclass(frozen=True)
class Training:
    """The content of training.json: steps, settings, versions, time, memory and last loss of one training."""

    name: str
    folder: Path
    steps: int
    settings: Mapping[str, Any]  # empty if the file has none
    versions: Mapping[str, str]
    wall_seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    last_loss: float


@dataclass(frozen=True)
class Cell(Training):
    """The training of a cell with its curve (`step` and `loss` of every step)."""

    size: str
    n_visual_tokens: int | None  # None: its weights serve every V
    compressor: str
    seed: int
    history: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """An image of the test split as a PNG data URI, with some of its questions: (kind, question, answer)."""

    suite: str
    image: str
    questions: Sequence[tuple[str, str, str]]


def read_cells(folder: Path, names: Iterable[str]) -> list[Cell]:
    """Read the trainings of these names, each of one cell or shared by several.

    A training without training.json was measured elsewhere and is left out. Raises UserError if none is left.
    """
    found = []
    for name in names:
        if (folder / name / "training.json").exists():
            account = _training(folder / name)
            cell = account["settings"]
            found.append(
                Cell(
                    **account,
                    size=str(cell["size"]),
                    n_visual_tokens=cell["n_visual_tokens"]
                    if cell["n_visual_tokens"] is None
                    else int(cell["n_visual_tokens"]),
                    compressor=str(cell["compressor"]),
                    seed=int(cell["seed"]),
                    history=_history(folder / name / "train.jsonl"),
                )
            )
    if not found:
        raise UserError(
            f"{folder} has no training of any measured cell; expected CELL/training.json for each. "
            "Leave out --cells if the cells were trained elsewhere."
        )
    return found


def _history(path: Path) -> list[dict[str, Any]]:
    """A training's steps; none where they were not kept."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        if not all(isinstance(row, dict) and {"step", "loss"} <= set(row) for row in rows):
            raise ValueError("a line without step and loss")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no log of a training ({error}); restore it, or train the cell again.") from error
    return rows


def read_trainings(folders: Iterable[Path]) -> list[Training]:
    """Read the trainings of the encoder and the language models. Raises UserError if one cannot be read."""
    return [Training(**_training(folder)) for folder in folders]


def _training(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        common = {key: float(data[key]) for key in ("wall_seconds", "cpu_seconds", "peak_memory_mib", "last_loss")}
        named = {"name": folder.name, "folder": folder, "steps": int(data["steps"])}
        return named | common | {key: data.get(key, {}) for key in ("settings", "versions")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a training ({error!r}); train it again, or leave it out.") from error


def read_samples(dataset: Path, *, n_samples: int) -> list[Sample]:
    """The first images of a dataset, taken from the suites in turn, each with kinds of question not yet shown."""
    from vlmlaw.data.shards import Dataset

    data = Dataset(dataset)
    by_suite: dict[str, list[Any]] = {}
    for record in data.records:
        if record.image is not None:
            by_suite.setdefault(record.suite, []).append(record)
    chosen: list[Any] = []
    turns = {suite: _with_new_kinds(records) for suite, records in sorted(by_suite.items())}
    while turns and len(chosen) < n_samples:
        for suite in list(turns):
            following = next(turns[suite], None)
            if following is None:
                del turns[suite]
            elif len(chosen) < n_samples:
                chosen.append(following)
    chosen.sort(key=lambda record: record.suite)
    return [_sample(data, record) for record in chosen]


def _with_new_kinds(records: Sequence[Any]) -> Iterator[Any]:
    """Yield records, first those whose kinds of question were shown least often so far."""
    seen: dict[str, int] = {}
    left = list(records[:200])
    while left:
        record = min(left, key=lambda r: sum(seen.get(kind, 0) for kind in set(r.kinds)) / max(len(set(r.kinds)), 1))
        left.remove(record)
        for kind in set(record.kinds):
            seen[kind] = seen.get(kind, 0) + 1
        yield record


def _sample(data: Any, record: Any) -> Sample:
    kinds = record.kinds or ("",) * len(record.questions)
    asked = list(dict.fromkeys(zip(kinds, record.questions, record.answers, strict=True)))
    # One question of each kind before a second of any.
    order = sorted(range(len(asked)), key=lambda i: ([kind for kind, _, _ in asked[:i]].count(asked[i][0]), i))
    return Sample(
        suite=record.suite,
        image=_png(data.image(data.image_row(record))),
        questions=[asked[i] for i in order[:QUESTIONS_SHOWN]],
    )


def _png(pixels_HWC: Any) -> str:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

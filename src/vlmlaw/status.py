"""How far a grid is, from the files that are there: it reads what jobs leave behind and asks no workflow engine.

So it works beside a running workflow, whose lock it does not touch, after one that was killed, and on a copy.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmlaw.attempts import DONE, KILLED, Attempt, cause_of, read_attempts
from vlmlaw.experiment import CellSettings, Experiment, read_experiment
from vlmlaw.resources import Needs

SIGN_OF_LIFE_S = 300  # a job writes into its log far more often, but for the reading of large weights
STAGES = {"train_cell": "training.json", "evaluate_cell": "evaluation.json"}  # the file that says it is done


@dataclass(frozen=True)
class CellStatus:
    """One cell. `state` is done, trained (not yet evaluated), running, failed or waiting."""

    cell: str
    state: str
    stage: str = ""
    detail: str = ""
    log: str = ""


@dataclass(frozen=True)
class GridStatus:
    """All cells, and hours: of jobs (`used`), of GPUs, and an estimate of what is left."""

    experiment: str
    results: str
    cells: list[CellStatus] = field(default_factory=list)
    used_hours: float = 0.0
    used_gpu_hours: float = 0.0
    left_hours: float = 0.0
    left_gpu_hours: float = 0.0
    calibrated: bool = False  # whether cells that are done corrected the estimate

    def of(self, state: str) -> list[CellStatus]:
        return [cell for cell in self.cells if cell.state == state]


def grid_status(experiment: Experiment) -> GridStatus:
    """The status of every cell of an experiment whose results folder is beside the working directory."""
    results, needs = Path(experiment.results), Needs(experiment)
    cells = [_cell_status(results, settings) for settings in experiment.cells.values()]
    spent = [_hours(path, attempt) for path in _logs(results) for attempt in read_attempts(path)]
    estimates = {name: needs.cell_seconds(cell) / 3600 for name, cell in experiment.cells.items()}
    done = [status.cell for status in cells if status.state == "done"]
    actual = sum(_hours(log, attempt)[0] for name in done for log, attempt in _successes(results, name))
    estimated = sum(estimates[name] for name in done)
    ratio = actual / estimated if actual and estimated else 1.0
    left = {status.cell: ratio * estimates[status.cell] for status in cells if status.state != "done"}
    return GridStatus(
        experiment=experiment.name,
        results=experiment.results,
        cells=cells,
        used_hours=sum(hours for hours, _ in spent),
        used_gpu_hours=sum(hours * gpus for hours, gpus in spent),
        left_hours=sum(left.values()),
        left_gpu_hours=sum(hours * needs.cell_gpus(experiment.cells[name]) for name, hours in left.items()),
        calibrated=bool(actual and estimated),
    )


def _cell_status(results: Path, cell: CellSettings) -> CellStatus:
    state = CellStatus(cell.name, "waiting")
    for rule, file in STAGES.items():
        log = _log(results, rule, cell.name)
        attempts = read_attempts(log)
        last = attempts[-1] if attempts else None
        if last and last.cause is None and is_alive(last, log):
            return CellStatus(cell.name, "running", rule, _progress(results, cell, rule, last), str(log))
        if (results / "cells" / cell.name / file).is_file():
            state = CellStatus(cell.name, "trained" if rule == "train_cell" else "done")
        elif last and (cause := cause_of(last)) != DONE:
            detail = f"{cause}: {last.message.splitlines()[0]}" if last.message else cause
            return CellStatus(cell.name, "failed", rule, detail, str(log))
        else:
            break
    return state


def is_alive(attempt: Attempt, log: Path) -> bool:
    """Whether an attempt without an end goes on: its process is there, or on another machine its log grows."""
    if attempt.host == socket.gethostname():
        try:
            return b"vlmlaw" in Path(f"/proc/{attempt.pid}/cmdline").read_bytes()
        except OSError:
            return False
    return cause_of(attempt) == KILLED and time.time() - _last_sign(log, attempt) < SIGN_OF_LIFE_S


def _progress(results: Path, cell: CellSettings, rule: str, attempt: Attempt) -> str:
    where = f"{attempt.host}{f', Slurm job {attempt.slurm_job}' if attempt.slurm_job else ''}"
    text = f"for {(time.time() - attempt.started) / 60:.0f} min on {where}"
    lines = results / "cells" / f"{cell.name}.work" / "train.jsonl"
    if rule == "train_cell" and lines.is_file():
        with lines.open("rb") as file:
            text = f"step {sum(1 for _ in file)}, {text}"
    return text


def _successes(results: Path, cell: str) -> Iterable[tuple[Path, Attempt]]:
    """The attempts that made a cell what it is: since the last but one success of each stage."""
    for rule in STAGES:
        log = _log(results, rule, cell)
        attempts = read_attempts(log)
        ends = [i for i, attempt in enumerate(attempts) if attempt.cause == DONE]
        first = ends[-2] + 1 if len(ends) > 1 else 0
        yield from ((log, attempt) for attempt in attempts[first:])


def _hours(log: Path, attempt: Attempt) -> tuple[float, int]:
    """How long an attempt took, to its end or its last sign of life, and its GPUs."""
    end = attempt.ended
    if end is None:
        end = time.time() if is_alive(attempt, log) else _last_sign(log, attempt)
    return max(0.0, end - attempt.started) / 3600, attempt.gpus


def _last_sign(log: Path, attempt: Attempt) -> float:
    try:
        return max(attempt.started, log.stat().st_mtime)
    except OSError:
        return attempt.started


def _log(results: Path, rule: str, cell: str) -> Path:
    return results / "logs" / rule / f"{cell}.log"


def _logs(results: Path) -> list[Path]:
    """The logs of all jobs that recorded attempts."""
    suffix = ".attempts.jsonl"
    found = sorted((results / "logs").rglob(f"*{suffix}"))
    return [path.with_name(path.name.removesuffix(suffix) + ".log") for path in found]


def told(status: GridStatus, *, details: int = 20) -> str:
    """The status in words: counts, then what runs and what failed, with logs."""
    states = ("done", "trained", "running", "failed", "waiting")
    counts = ", ".join(f"{len(status.of(state))} {state}" for state in states if status.of(state))
    lines = [f"{status.experiment}: {len(status.cells)} cells in {status.results}/: {counts}"]
    for state in ("running", "failed"):
        cells = status.of(state)
        for cell in cells[:details]:
            lines.append(f"  {state}  {cell.cell}  {cell.stage}  {cell.detail}")
            lines += [f"           log: {cell.log}"] if state == "failed" else []
        lines += [f"  {state}  and {len(cells) - details} more"] if len(cells) > details else []
    source = "as the cells that are done took" if status.calibrated else "by the cost model alone; no cell is done"
    lines.append(f"used {_amount(status.used_hours, status.used_gpu_hours)}, failed attempts included")
    lines.append(f"left about {_amount(status.left_hours, status.left_gpu_hours)} ({source})")
    return "\n".join(lines)


def _amount(hours: float, gpu_hours: float) -> str:
    shown = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    return f"{shown} of jobs" + (f", {gpu_hours:.1f} GPU-hours" if gpu_hours else "")


def failed_cells(experiment: Experiment) -> str:
    """What to tell at the end of a run that failed: each failed cell, why, and its log; empty where none failed."""
    failed = [_cell_status(Path(experiment.results), cell) for cell in experiment.cells.values()]
    lines = [
        f"  {cell.cell} ({cell.stage}): {cell.detail}\n    log: {cell.log}" for cell in failed if cell.state == "failed"
    ]
    return "\n".join([f"{len(lines)} cell(s) failed:", *lines]) if lines else ""


def add_parsers(subparsers: Any) -> None:
    """Add the verbs `status` and `orphans`."""
    status = subparsers.add_parser("status", help="how far a grid is: cells done, running, failed, hours used and left")
    status.add_argument("file", nargs="?", default="params.yaml", help="the experiment; default: params.yaml")
    status.add_argument("--json", action="store_true", help="every cell, for programs")
    status.set_defaults(run=run_status)
    orphans = subparsers.add_parser("orphans", help="this folder's jobs in Slurm's queue, for instance of a killed run")
    orphans.add_argument("--wait", action="store_true", help="until they have finished")
    orphans.add_argument("--cancel", action="store_true", help="end them; trainings keep their checkpoints")
    orphans.set_defaults(run=run_orphans)


def run_status(args: argparse.Namespace) -> None:
    status = grid_status(read_experiment(args.file))
    print(json.dumps(asdict(status), indent=1) if args.json else told(status))


def run_orphans(args: argparse.Namespace) -> None:
    from vlmlaw import slurm

    slurm.run_orphans(cancel=args.cancel, wait=args.wait)

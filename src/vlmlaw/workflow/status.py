"""Progress of a grid, read from the files that jobs leave, without Snakemake.

It therefore works beside a running workflow, whose lock it does not touch, after one that was killed, and on a copy.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmlaw.experiment.experiment import Experiment
from vlmlaw.runtime.processes import ProcessId
from vlmlaw.workflow.attempts import DONE, KILLED, Attempt, cause_of, read_attempts
from vlmlaw.workflow.design import design_of
from vlmlaw.workflow.reads import evaluations_of, training_of
from vlmlaw.workflow.resources import Needs
from vlmlaw.workflow.stage import TRAIN, Read
from vlmlaw.workflow.stages import stages_of

PROC = Path("/proc")  # of Linux
SIGN_OF_LIFE_S = 300  # jobs write to their log far more often, except while they read large weights


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
    """All cells, the hours that jobs and GPUs have used, and an estimate of those that are left."""

    experiment: str
    results: str
    cells: list[CellStatus] = field(default_factory=list)
    used_hours: float = 0.0
    used_gpu_hours: float = 0.0
    left_hours: float = 0.0
    left_gpu_hours: float = 0.0
    calibrated: bool = False  # whether finished cells corrected the estimate
    design: str = ""  # of a grid with a design: how many cells it has chosen, and why it stopped

    def of(self, state: str) -> list[CellStatus]:
        return [cell for cell in self.cells if cell.state == state]


def grid_status(experiment: Experiment) -> GridStatus:
    """Return the status of an experiment's cells, whose results folder is relative to the working directory."""
    results, needs = Path(experiment.results), Needs(experiment)
    chosen, design = _chosen(experiment)
    stages = {name: jobs for name, jobs in _jobs_of_cells(experiment).items() if name in chosen}
    cells = [_cell_status(results, name, own) for name, own in stages.items()]
    spent = [_hours(path, attempt) for path in _logs(results) for attempt in read_attempts(path)]
    estimates = {name: needs.cell_seconds(experiment.cells[name]) / 3600 for name in stages}
    done = [status.cell for status in cells if status.state == "done"]
    actual = sum(_hours(log, attempt)[0] for name in done for log, attempt in _successes(stages[name]))
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
        design=design,
    )


def _chosen(experiment: Experiment) -> tuple[Collection[str], str]:
    """Return the cells to report, all or those that a design has chosen so far, and a sentence about the design."""
    design = design_of(experiment)
    if design is None:
        return experiment.cells, ""
    last = design.so_far() or {"cells": [], "stop": ""}
    text = f"the design has chosen {len(last['cells'])} of {len(experiment.cells)} cells"
    return last["cells"], f"{text}; it stopped because {last['stop']}" if last["stop"] else f"{text} so far"


@dataclass(frozen=True)
class _Job:
    """A job of a cell: its rule, its log and the file whose existence says that it is done."""

    rule: str
    log: Path
    done: Path


def _jobs_of_cells(experiment: Experiment) -> dict[str, list[_Job]]:
    """Return for each cell the training whose weights it has and its evaluations, in order."""
    table, results = stages_of(experiment), experiment.results

    def job(read: Read) -> _Job:
        stage = table[read.rule]
        done = Path(results) / stage.paths()[0].format_map(read.wildcards)
        return _Job(read.rule, stage.log_of(results, read.wildcards), done)

    return {
        name: [job(training_of(experiment.training_of(cell))), *map(job, evaluations_of(experiment, cell))]
        for name, cell in experiment.cells.items()
    }


def _cell_status(results: Path, cell: str, stages: Sequence[_Job]) -> CellStatus:
    state = CellStatus(cell, "waiting")
    for stage in stages:
        log = stage.log
        attempts = read_attempts(log)
        last = attempts[-1] if attempts else None
        if last and last.cause is None and is_alive(last, log):
            return CellStatus(cell, "running", stage.rule, _progress(results, stage, last), str(log))
        if stage.done.is_file():
            state = CellStatus(cell, "done" if stage is stages[-1] else "trained")
        elif last and (cause := cause_of(last)) != DONE:
            detail = f"{cause}: {last.message.splitlines()[0]}" if last.message else cause
            return CellStatus(cell, "failed", stage.rule, detail, str(log))
        else:
            break
    return state


def is_alive(attempt: Attempt, log: Path) -> bool:
    """Return whether an attempt without an end still runs: its process exists or, on another machine, its log grows."""
    process = ProcessId(attempt.host, attempt.pid)
    if process.is_here:
        try:
            return b"vlmlaw" in (PROC / str(attempt.pid) / "cmdline").read_bytes()
        except OSError:  # the process has ended, or the system has no such files, as macOS
            return not PROC.is_dir() and process.is_alive
    return cause_of(attempt) == KILLED and time.time() - _last_sign(log, attempt) < SIGN_OF_LIFE_S


def _progress(results: Path, stage: _Job, attempt: Attempt) -> str:
    where = f"{attempt.host}{f', Slurm job {attempt.slurm_job}' if attempt.slurm_job else ''}"
    text = f"for {(time.time() - attempt.started) / 60:.0f} min on {where}"
    lines = results / "cells" / f"{stage.log.stem}.work" / "train.jsonl"
    if stage.rule in TRAIN and lines.is_file():
        with lines.open("rb") as file:
            text = f"step {sum(1 for _ in file)}, {text}"
    return text


def _successes(stages: Sequence[_Job]) -> Iterable[tuple[Path, Attempt]]:
    """Yield the attempts that led to each stage's last success: those since the success before it."""
    for stage in stages:
        log = stage.log
        attempts = read_attempts(log)
        ends = [i for i, attempt in enumerate(attempts) if attempt.cause == DONE]
        first = ends[-2] + 1 if len(ends) > 1 else 0
        yield from ((log, attempt) for attempt in attempts[first:])


def _hours(log: Path, attempt: Attempt) -> tuple[float, int]:
    """Return the hours of an attempt, until its end or its last sign of life, and its GPUs."""
    end = attempt.ended
    if end is None:
        end = time.time() if is_alive(attempt, log) else _last_sign(log, attempt)
    return max(0.0, end - attempt.started) / 3600, attempt.gpus


def _last_sign(log: Path, attempt: Attempt) -> float:
    try:
        return max(attempt.started, log.stat().st_mtime)
    except OSError:
        return attempt.started


def _logs(results: Path) -> list[Path]:
    """Return the logs of all jobs that recorded attempts."""
    suffix = ".attempts.jsonl"
    found = sorted((results / "logs").rglob(f"*{suffix}"))
    return [path.with_name(path.name.removesuffix(suffix) + ".log") for path in found]


def status_text(status: GridStatus, *, details: int = 20) -> str:
    """Return the status in words: counts, then running and failed cells with their logs."""
    states = ("done", "trained", "running", "failed", "waiting")
    counts = ", ".join(f"{len(status.of(state))} {state}" for state in states if status.of(state))
    lines = [f"{status.experiment}: {len(status.cells)} cells in {status.results}/: {counts}"]
    lines += [status.design] if status.design else []
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
    """Describe each failed cell, why it failed and its log, for the end of a failed run; "" if none failed."""
    results = Path(experiment.results)
    failed = [_cell_status(results, name, jobs) for name, jobs in _jobs_of_cells(experiment).items()]
    lines = [
        f"  {cell.cell} ({cell.stage}): {cell.detail}\n    log: {cell.log}" for cell in failed if cell.state == "failed"
    ]
    return "\n".join([f"{len(lines)} cell(s) failed:", *lines]) if lines else ""

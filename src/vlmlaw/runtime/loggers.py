"""Where the figures of a training go: `train.jsonl`, always, and the tools that people watch trainings with.

`train.jsonl` holds each step's loss, gradient norm and rate, and is the same however often a run was interrupted. The
others get a point now and then, with speed. Their libraries are imported by the process that writes, and only where
`compute.logs` names them: tensorboardX (in the extra `train`), wandb, dvclive. TensorBoard is the default, so where its
writer is missing a line says so and the training goes on; a tool that somebody asked for by name is demanded.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlmlaw.errors import UserError

POINTS = 300  # about as many as a curve on a screen shows
EVENTS = "events.out.tfevents"  # TensorBoard takes a file for its own by this part of the name
SECONDS_BETWEEN_FLUSHES = 5  # of an event file: what a killed training loses of its curve
DVCLIVE = "dvclive"


MISSING_TENSORBOARDX = (
    "{what}: no TensorBoard files are written, since tensorboardX cannot be imported; the training goes on, and "
    "train.jsonl has every step. Run pip install tensorboardX, or set compute.logs: []."
)


class Watcher(Protocol):
    """What shows figures while a training runs."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TrainLog:
    """The log of one training, resumed at step `first`; with `on` false (all processes but one) it writes nothing."""

    def __init__(self, folder: Path, what: str, *, steps: int, kinds: Sequence[str], first: int, on: bool = True):
        self._path, self._every = folder / "train.jsonl", max(1, steps // POINTS)
        lines = self._path.read_text().splitlines() if first else []
        self.last_loss: float | None = json.loads(lines[-1])["loss"] if lines else None
        self._last = steps - 1
        self._file = self._path.open("a") if on else None
        self._watchers = _watchers(folder, what, first, kinds) if on else []

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(self, *_: object) -> None:
        for watcher in self._watchers:
            watcher.close()
        if self._file:
            self._file.close()

    def write(self, line: Mapping[str, Any], rates: Mapping[str, float]) -> None:
        """A step's line, and what is known of the speed."""
        self.last_loss = line["loss"]
        if self._file:
            self._file.write(json.dumps(line) + "\n")
        if line["step"] % self._every == 0 or line["step"] == self._last:
            if self._file:
                self._file.flush()  # for those who read it meanwhile
            figures = {name: value for name, value in line.items() if name != "step"} | dict(rates)
            for watcher in self._watchers:
                watcher.write(line["step"], figures)

    def onto_disk(self) -> None:
        """Have all lines on the disk, so that no checkpoint is ahead of its log."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def _watchers(folder: Path, what: str, first: int, kinds: Sequence[str]) -> list[Watcher]:
    """The watchers of these kinds. Only TensorBoard's may be missing: it is the default, which nobody asked for."""
    started = []
    for kind in kinds:
        try:
            started.append(WATCHERS[kind](folder, what, first))
        except ModuleNotFoundError as error:
            if kind != "tensorboard" or error.name != "tensorboardX":
                raise
            print(MISSING_TENSORBOARDX.format(what=what), file=sys.stderr)
    return started


def keep_logs(workspace: Path, out: Path) -> None:
    """Put the logs of a finished training into its folder."""
    from vlmlaw.runtime.whole_files import whole_file

    for old in out.glob(f"{EVENTS}*"):
        old.unlink()
    for path in [workspace / "train.jsonl", *workspace.glob(f"{EVENTS}*")]:
        with whole_file(out / path.name) as partial:
            shutil.copyfile(path, partial)
    if (workspace / DVCLIVE).exists():
        shutil.rmtree(out / DVCLIVE, ignore_errors=True)
        shutil.copytree(workspace / DVCLIVE, out / DVCLIVE)


class TensorBoard:
    """An event file in the training's folder. The file of a resumed run makes TensorBoard forget later steps."""

    def __init__(self, folder: Path, what: str, first: int):
        from tensorboardX import SummaryWriter

        # tensorboardX names files by whole seconds: without the suffix a run resumed at once would overwrite the first.
        suffix = f".{time.time():.6f}.vlmlaw"
        self._writer = SummaryWriter(
            str(folder), purge_step=first or None, filename_suffix=suffix, flush_secs=SECONDS_BETWEEN_FLUSHES
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `vlmlaw`; the id of an interrupted one is kept beside its checkpoint."""

    def __init__(self, folder: Path, what: str, first: int):
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb", error) from error
        identity = folder / "wandb_id"
        if not (first and identity.exists()):
            identity.write_text(secrets.token_hex(4))
        self._run: Any = wandb.init(
            project="vlmlaw", name=what, id=identity.read_text(), resume="allow", dir=str(folder)
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class DvcLive:
    """DVCLive's folder of metrics and plots, in the training's folder."""

    def __init__(self, folder: Path, what: str, first: int):
        try:
            from dvclive import Live
        except ImportError as error:
            raise _missing("dvclive", error) from error
        self._live: Any = Live(
            str(folder / DVCLIVE), resume=first > 0, report=None, save_dvc_exp=False, dvcyaml=None, monitor_system=False
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._live.step = step
        for name, value in figures.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        self._live.end()


def _missing(package: str, error: ImportError) -> UserError:
    return UserError(f"compute.logs names {package}, which cannot be imported ({error}); pip install {package}.")


WATCHERS: dict[str, Callable[[Path, str, int], Watcher]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "dvclive": DvcLive,
}

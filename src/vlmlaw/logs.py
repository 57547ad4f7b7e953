"""Where the figures of a training go: `train.jsonl`, always, and the tools that people watch trainings with.

`train.jsonl` holds each step's loss, gradient norm and rate, and is the same however often a run was interrupted. The
others get a point now and then, with speed. TensorBoard's files are written here: its format (records of Google's
protocol buffers) has not changed since 2015 and takes fewer lines than the settings of a library with its dependencies,
which no job then loads. Weights & Biases and DVCLive are imported where they are asked for.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from vlmlaw.errors import UserError

POINTS = 300  # about as many as a curve on a screen shows
EVENTS = "events.out.tfevents"  # TensorBoard takes a file for its own by this part of the name
DVCLIVE = "dvclive"


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
        self._watchers = [WATCHERS[kind](folder, what, first) for kind in kinds] if on else []

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


def keep_logs(workspace: Path, out: Path) -> None:
    """Put the logs of a finished training into its folder."""
    from vlmlaw.files import whole_file

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
        now = time.time()
        self._file = (folder / f"{EVENTS}.{now:.6f}.vlmlaw").open("wb")
        self._record(_double(1, now) + _bytes(3, b"brain.Event:2"))
        if first:
            session_starts = _varint_field(1, 1)
            self._record(_double(1, now) + _varint_field(2, first) + _bytes(7, session_starts))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        values = b"".join(
            _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value)) for name, value in figures.items()
        )
        self._record(_double(1, time.time()) + _varint_field(2, step) + _bytes(5, values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _record(self, event: bytes) -> None:
        """A TFRecord: length, its checksum, the event, its checksum."""
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _varint_field(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


@cache
def _crc_table() -> list[int]:
    """CRC-32C (Castagnoli), reflected."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def _crc(content: bytes) -> int:
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _masked_crc(content: bytes) -> bytes:
    crc = _crc(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


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

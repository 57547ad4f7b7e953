"""Mutated experiments, tables and ledgers end in a result or in a message, never in a traceback.

Random edits of files that are right: characters and lines removed, repeated, swapped, replaced by what parsers trip on.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.laws.table import read_measurements
from vlmlaw.runtime.ownership import living_owners, lock_of, owned
from vlmlaw.workflow import records
from vlmlaw.workflow.attempts import failures, record_of, recorded

pytestmark = pytest.mark.slow
ROUNDS = 10 * int(os.environ.get("VLMLAW_CHAOS") or 2)
ROOT = Path(__file__).parents[2]
PIECES = [
    "\0",
    "\n",
    "\t",
    "&a ",
    "*a",
    "[",
    "{",
    "}",
    "]",
    ":",
    "- ",
    "'",
    '"',
    "1e999",
    "-1",
    "0x1",
    "no",
    "~",
    "é",
    ",",
    "nan",
]


def mutated(text: str, chance: random.Random) -> str:
    """The text after one to four random edits."""
    for _ in range(chance.randint(1, 4)):
        lines, at = text.split("\n"), chance.randrange(len(text) + 1)
        line, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(6):
            case 0:
                text = text[:at] + text[at + chance.randint(1, 9) :]
            case 1:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case 2:
                text = "\n".join([*lines[:line], lines[line], *lines[line:]])
            case 3:
                lines[line], lines[other] = lines[other], lines[line]
                text = "\n".join(lines)
            case 4:
                text = "\n".join([*lines[:line], *lines[line + 1 :]])
            case _:
                text = text[:at]
    return text


def try_all(name: str, text: str, read: Callable[[Path], object], path: Path) -> None:
    """Read mutations of a text; prints how many were read and how many refused."""
    chance, refused = random.Random(0), 0
    for number in range(ROUNDS):
        path.write_text(mutated(text, chance), encoding="utf-8")
        try:
            read(path)
        except UserError as error:
            refused += 1
            assert str(error), number
        except Exception as error:
            raise AssertionError(f"{name}, mutation {number}: {error!r} of\n{path.read_text()[:2000]}") from error
    print(f"\n{name}: {ROUNDS} mutations, {refused} refused with a message, {ROUNDS - refused} read")


@pytest.mark.parametrize("name", ["tiny", "compressors"])
def test_experiments(name, tmp_path):
    text = (ROOT / "workflow" / "experiments" / f"{name}.yaml").read_text()
    try_all(f"{name}.yaml", text, lambda path: read_experiment(path).cells, tmp_path / "params.yaml")


def test_tables(tmp_path):
    text = (ROOT / "src" / "vlmlaw" / "laws" / "published" / "li2024_reasoning.csv").read_text()
    try_all("a table", text, read_measurements, tmp_path / "table.csv")


def test_records_attempts_and_locks(tmp_path):
    record = {name: "x" for name in (*records.GIVEN, *records.MADE_FROM)} | {"files": {}, "inputs": {}}
    try_all("a record", json.dumps(record, indent=1), records.read, tmp_path / "record.json")
    log = tmp_path / "job.log"
    with recorded(log, minutes=3):
        pass
    try_all("attempts", record_of(log).read_text(), lambda _: failures(log), record_of(log))
    with owned(tmp_path / "cell", what="train"):
        text = lock_of(tmp_path / "cell").read_text()
    gone = text.replace(str(os.getpid()), "999999")
    try_all("a lock", gone, lambda _: living_owners(tmp_path, here_only=True), lock_of(tmp_path / "cell"))

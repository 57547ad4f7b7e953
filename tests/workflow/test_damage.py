"""Every file of a finished run, damaged in every way: each verb that reads it says so, and the workflow makes it again.

A tiny study is made by the workflow's own commands. Then each of its files is cut, emptied, overwritten, replaced by a
folder or by a file of another kind, and the commands that read it run again, with their outputs elsewhere.
"""

import contextlib
import hashlib
import io
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest

from vlmlaw.cli.main import main
from vlmlaw.workflow import records

from .project import Project, new_project, tiny_experiment

pytestmark = [pytest.mark.slow, pytest.mark.workflow]
CHAOS = os.environ.get("VLMLAW_CHAOS")
CACHES = ("data", "tokens", "features")
COMMAND = re.compile(r"^Shell command: python -m vlmlaw (.*?)(?: 2>&1 \| tee| > \S+ 2>&1)", re.MULTILINE)
WRITES = ("--out", "--record")
OTHER_KINDS = {".json": b'"text"', ".jsonl": b"[]\n", ".csv": b"{}", ".npz": b"[1]", ".npy": b"{}"}


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_content(path: Path) -> None:
    path.write_bytes(random.Random(path.name).randbytes(path.stat().st_size))


def one_byte(path: Path) -> None:
    """Another byte in the middle, so that most of it still looks right."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def other_kind(path: Path) -> None:
    """A file that a parser takes and that holds something else."""
    path.write_bytes(OTHER_KINDS.get(path.suffix, b"{}"))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (half, empty, other_content, one_byte, other_kind, folder)


@dataclass(frozen=True)
class Command:
    """A job's command, as the workflow has it."""

    words: tuple[str, ...]

    @property
    def verb(self) -> str:
        names = [word for word in self.words if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
        return names[0] if names[0] not in ("data", "law") else " ".join(names[:2])

    def reads(self, file: Path) -> bool:
        """Whether the file, or a folder above it, is among its inputs."""
        written = {word for before, word in zip(self.words, self.words[1:], strict=False) if before in WRITES}
        given = {word.partition("=")[2] or word for word in self.words} - written
        return any(str(part) in given for part in (file, *file.parents[:-2]))

    def into(self, place: str) -> list[str]:
        """Its words with what it writes in another folder than `results`, and without a log."""
        words, elsewhere = [], False
        for word in self.words:
            words.append(word.replace("results/", f"{place}/", 1) if elsewhere else word)
            elsewhere = word in WRITES
        at = words.index("--log") if "--log" in words else None
        return words if at is None else words[:at] + words[at + 2 :]


def run(words: list[str]) -> tuple[int, str]:
    """A verb's status and what it says on stderr; whatever it raises is raised."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as error:  # argparse's, whose message says which option holds no such file
            status = int(error.code or 0)
    return status, said.getvalue()


def commands_of(project: Project) -> list[Command]:
    """The commands of all jobs in the order in which they can run, with what a shell makes of them."""
    shown = project.snakemake("--dry-run", "--printshellcmds", "--forceall")
    lines = dict.fromkeys(COMMAND.findall(shown.stdout))
    printed = [
        subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True).stdout
        for line in lines
    ]
    return [Command(tuple(text.split("\0")[:-1])) for text in printed]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Iterator[tuple[Project, list[Command]]]:
    """A finished study, made by its commands in this process, and the commands; the working folder is the study's."""
    if not CHAOS:
        pytest.skip("only `make test-chaos` makes a study for it")
    experiment = tiny_experiment()
    experiment["data"]["images"] = {"train": 64, "development": 4, "test": 32}
    experiment["law"] = {"bootstrap_draws": 0}
    project = new_project(tmp_path_factory.mktemp("damage") / "study", experiment)
    commands = commands_of(project)
    with pytest.MonkeyPatch.context() as at:
        at.chdir(project.folder)
        for command in commands:
            status, said = run(list(command.words))
            assert status == 0, said
        yield project, commands


def artifacts() -> list[Path]:
    """Every file of the results; of cells and sizes that are alike, one."""
    found = [path for path in sorted(Path("results").rglob("*")) if path.is_file() and not path.name.startswith(".")]
    alike = re.compile(r"results/(cells|language_models)/(?!3k_v4_|3k/)|results/(logs|benchmarks)/")
    return [path for path in found if not alike.match(str(path))]


@contextlib.contextmanager
def damaged(path: Path, damage) -> Iterator[None]:
    """The file damaged, and afterwards as it was, with its time."""
    kept = path.with_name(path.name + ".kept")
    shutil.copy2(path, kept)
    try:
        damage(path)
        yield
    finally:
        if path.is_dir():
            path.rmdir()
        kept.replace(path)


def contents() -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in artifacts()}


def test_every_verb_that_reads_a_damaged_file_ends_in_a_result_or_a_message(study):
    """As many cases as VLMLAW_CHAOS says, ten of each; every file comes once before any comes twice."""
    _, commands = study
    before, counts, faults, chance = contents(), Counter[str](), [], random.Random(int(CHAOS or 0))
    cases = {path: [] for path in artifacts()}
    for path, own in cases.items():
        readers = {command.verb: command for command in commands if command.reads(path)}
        own += [(path, damage, *reader) for damage in DAMAGES for reader in readers.items()]
        chance.shuffle(own)
    rounds = [case for cases_of_round in zip_longest(*cases.values()) for case in cases_of_round if case]
    for path, damage, verb, command in rounds[: 10 * int(CHAOS or 0)]:
        case = f"{verb} with {path} ({damage.__name__})"
        with damaged(path, damage):
            try:
                status, said = run(command.into("made"))
            except BaseException as error:  # which a user would see as a traceback
                faults.append(f"{case}: {type(error).__name__}: {error}"[:300])
                continue
        if status and not said.strip():
            faults.append(f"{case}: status {status} and no message")
        counts["refused with a message" if status else "read"] += 1
        shutil.rmtree("made", ignore_errors=True)
    print(f"\n{sum(counts.values())} of {len(rounds)} cases, {len(cases)} files: {dict(counts)}; {len(faults)} faults")
    assert contents() == before
    assert not faults, "\n".join(faults)


def test_the_workflow_names_what_was_damaged_and_makes_it_again(study):
    """One file of every job's at once, for each damage; then a real run, after which nothing is left to do."""
    project, _ = study
    assert project.planned() == {}
    chance, before, n_damaged = random.Random(0), contents(), 0
    by_job = {record: records.read(record)["files"] for record in artifacts() if record.name.endswith("record.json")}
    lasting = {record: files for record, files in by_job.items() if record.parts[1] not in CACHES}
    for damage in DAMAGES:
        chosen = [record.parent / chance.choice(sorted(files)) for record, files in lasting.items()]
        n_damaged += len(chosen)
        with contextlib.ExitStack() as all_of_them:
            for path in chosen:
                all_of_them.enter_context(damaged(path, damage))
            dry = project.snakemake("--dry-run", check=False)
        assert dry.returncode == 0 and "Traceback" not in dry.stderr, dry.stderr[-3000:]
        missing = [path for path in chosen if f"{path.name} is not the file that was made" not in dry.stderr]
        assert not missing, f"{damage.__name__}: {missing}\n{dry.stderr}"
    assert project.planned() == {} and contents() == before
    repaired = ["law/law.json", "measurements.csv", "cells/3k_v4_quecc_s0/model/model.safetensors", "report/index.html"]
    for name, damage in zip(repaired, (half, empty, other_content, folder), strict=True):
        damage(Path("results", name))
    project.snakemake()
    assert project.planned() == {}
    weights = "results/cells/3k_v4_quecc_s0/model/model.safetensors"
    assert contents()[weights] == before[weights]
    print(f"\n{n_damaged} damaged files in {len(lasting)} jobs, all named; {len(repaired)} made again")

"""Checks of text in an experiment file that becomes a path: the results folder, names of folders, the user's files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from vlmlaw.data.settings import LlavaData
from vlmlaw.errors import UserError
from vlmlaw.evaluation.settings import BenchmarkSection
from vlmlaw.experiment.file import ExperimentFile
from vlmlaw.hub.settings import ModelSettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
PART = re.compile(r"\w[\w.-]*")  # of the results folder; neither hidden nor an option of a command
# Folders of the project itself; results in there would be taken for its code, and its code for results.
OWN_FOLDERS = ("src", "workflow", "profiles", "envs", "docs", "tests", "benchmarks", "build", "dist")
ENDINGS = (".work", ".partial", ".old", ".lock")  # of what lies beside a result while it is made


def named_tables(tables: Sequence[str]) -> dict[str, str]:
    """Tables by name: `NAME=FILE` names one, else its file does, with its folder where two files have one name.

    Raises UserError for a name that cannot be a folder's, and for two tables of one name.

    >>> named_tables(["a/table.csv", "b/table.csv", "Qwen=qwen.csv"])
    {'a-table': 'a/table.csv', 'b-table': 'b/table.csv', 'Qwen': 'qwen.csv'}
    """
    pairs = [text.partition("=")[::2] if "=" in text and not Path(text).exists() else ("", text) for text in tables]
    stems = [Path(table).stem for name, table in pairs if not name]
    found: dict[str, str] = {}
    for given, table in pairs:
        stem, folder = Path(table).stem, Path(table).resolve().parent.name
        name = given or (f"{folder}-{stem}" if stems.count(stem) > 1 else stem)
        if not PART.fullmatch(name) or name in found:
            wrong = "is there twice" if name in found else "is to name a folder of results"
            raise UserError(
                f"measurements: found {table!r}, whose name {name!r} {wrong}. Use letters, digits, '_', '-' and '.': "
                "rename the file, link to it, or give a name, as in NAME=FILE."
            )
        found[name] = table
    return found


def check_paths(experiment: ExperimentFile, source: str) -> None:
    """Check all text that becomes a path. Raises UserError that names the place, what was found and what to write."""
    suites = experiment.data.test if isinstance(experiment.data, LlavaData) else ()
    check_folders(experiment.results, {"sizes": experiment.sizes}, source)
    _check_names(suites, "a suite", f"{source}.data.test")
    for place, text, of_hub in _files(experiment):
        fault = _fault_of(text) or (_fault_in_repository(text) if of_hub else "")
        if fault:
            raise UserError(f"{source}.{place}: found {text!r}; {fault}")


def check_folders(results: str, names: Mapping[str, Iterable[str]], source: str) -> None:
    """Check the results folder, and names that become folders, by their section. Raises UserError as `check_paths`."""
    _check_results(results, source)
    for place, own in names.items():
        _check_names(own, "a folder", f"{source}.{place}")


def check_benchmarks(benchmarks: Sequence[BenchmarkSection], source: str) -> None:
    """Check names and files of benchmarks. Raises UserError as `check_paths`."""
    _check_names([own.name for own in benchmarks], "a folder", f"{source}.evaluation.benchmarks")
    twice = next((own.name for own in benchmarks if sum(other.name == own.name for other in benchmarks) > 1), None)
    if twice is not None:
        raise UserError(f"{source}.evaluation.benchmarks: {twice!r} is there twice; give each a name of its own.")
    check_files({place: text for place, text, _ in _benchmark_files(benchmarks)}, source)


def check_files(files: Mapping[str, str], source: str) -> None:
    """Check paths of files by their place in the experiment. Raises UserError as `check_paths`."""
    for place, text in files.items():
        if fault := _fault_of(text):
            raise UserError(f"{source}.{place}: found {text!r}; {fault}")


def _benchmark_files(benchmarks: Iterable[BenchmarkSection]) -> Iterator[tuple[str, str, bool]]:
    for number, benchmark in enumerate(benchmarks):
        yield f"evaluation.benchmarks[{number}].questions", benchmark.questions, False
        yield f"evaluation.benchmarks[{number}].images", benchmark.images, False


def _check_results(results: str, source: str) -> None:
    parts = results.split("/")
    if not results or results.startswith("/") or parts[0] in (".", ".."):
        raise UserError(
            f"{source}.results: found {results!r}; expected a folder inside the working directory. To have it "
            "elsewhere, make it a link: ln -s /scratch/me/study results"
        )
    wrong = [part for part in parts if not PART.fullmatch(part)]
    if wrong:
        raise UserError(
            f"{source}.results: found {results!r}; expected a folder of letters, digits, '_', '-' and '.', which every "
            f"tool and shell takes as it is: rename {wrong[0]!r}."
        )
    if parts[0].casefold() in OWN_FOLDERS:
        raise UserError(f"{source}.results: found {results!r}, a folder of the project itself; take one of its own.")


def _check_names(names: Iterable[str], what: str, place: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"{place}: {name!r} cannot name {what}; use letters, digits, '.' and '-'.")
        if name.casefold().endswith(ENDINGS):
            raise UserError(f"{place}: {name!r} cannot name {what}; what is being made has such names: rename it.")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                f"{place}: {other!r} and {name!r} differ only in capitals, and some file systems take them for the "
                "same; rename one."
            )


def _files(experiment: ExperimentFile) -> Iterator[tuple[str, str, bool]]:
    """Where the file names files and folders, the paths, and whether they are of a repository of the hub."""
    data = experiment.data
    if isinstance(data, LlavaData):
        files = {f"data.test.{name}": file for name, file in data.test.items()}
        for split in ("align", "train"):
            several = isinstance(getattr(data, split), tuple)
            own = enumerate(data.files(split))
            files |= {f"data.{split}{f'[{number}]' if several else ''}": file for number, file in own}
        for place, file in files.items():
            yield f"{place}.conversations", file.conversations, bool(file.repository)
            yield f"{place}.images", file.images, bool(file.repository)
        yield "data.chat_template", data.chat_template, False
    for place, section in {
        "vision": experiment.vision,
        **{f"sizes.{n}": s for n, s in experiment.sizes.items()},
    }.items():
        if isinstance(section, ModelSettings):
            yield f"{place}.source", section.source, False
    yield from _benchmark_files(experiment.evaluation.benchmarks)


def _fault_of(path: str) -> str:
    """What is wrong with a path, and what to write; "" for one that every tool takes as it is meant."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "a line break or another control character cannot be part of a path; remove it."
    if path.startswith("~"):
        return "no shell reads this, and ~ stays ~; write the whole path, from / on."
    if path.startswith("-"):
        return f"a command would take it for an option; write {'./' + path!r}."
    if path != path.strip():
        return f"it begins or ends with a space; write {path.strip()!r}."
    return ""


def _fault_in_repository(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        return "it leaves the repository of the hub; name a file or folder in it."
    return ""

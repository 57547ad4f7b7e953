"""A finished run of a tiny experiment, made once by Snakemake itself and copied for each test that changes it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from .project import COMMANDS, Project, new_project, put_under_dvc, tiny_experiment
from .standins import use_standins
from .warm import started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of all tests those that run tools for minutes come first, so no worker is left alone with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)


@pytest.fixture(scope="session")
def warm_commands() -> Iterator[Path]:
    """The folder of commands that start in milliseconds."""
    with started() as folder:
        yield folder


@pytest.fixture(scope="module", autouse=True)
def commands(request) -> Iterator[None]:
    """Start Snakemake, DVC and verbs from warm servers; see `environment` for runs whose processes a test kills."""
    if request.node.get_closest_marker("workflow") is None:
        yield
        return
    COMMANDS[:] = [request.getfixturevalue("warm_commands")]
    yield
    COMMANDS.clear()


def made_by_one_worker(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills for all workers of pytest: the first that asks makes it, the others wait."""
    folder: Path = tmp_path_factory.getbasetemp() / name
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / name
    whole = folder.with_name(f"{name}.whole")
    with FileLock(f"{folder}.lock"):
        if not whole.exists():
            make(folder)
            whole.touch()
    return folder


def run_tiny(folder: Path) -> None:
    """Run the tiny experiment to the end."""
    project = new_project(folder, tiny_experiment())
    if earlier := os.environ.get("VLMLAW_TINY_RUN"):
        for name in ("results", ".snakemake"):
            shutil.copytree(Path(earlier) / name, project.folder / name)
    project.snakemake()


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Project:
    """The tiny experiment, run to the end. Never change it: ask for `finished`, a copy.

    VLMLAW_TINY_RUN may name a folder where it was run before (into `results`); Snakemake then does what is missing.
    """
    folder = tmp_path_factory.mktemp("workflow") / "finished"  # a worker's own, where it may run what changes nothing
    shutil.copytree(made_by_one_worker(tmp_path_factory, "tiny", run_tiny), folder)
    return Project(folder)


@pytest.fixture
def finished(finished_once, tmp_path) -> Project:
    """A copy of the finished run with Snakemake's records and every file's time."""
    shutil.copytree(finished_once.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path) -> Callable[[dict[str, Any]], Project]:
    """A project without results, of an experiment of the test's choice."""
    return lambda experiment: new_project(tmp_path / "fresh", experiment)


def record_tiny(folder: Path) -> None:
    """Run the tiny experiment with stand-ins for its stages by `dvc repro`, in git, and push it to a remote beside."""
    project = new_project(folder / "recorded", tiny_experiment())
    use_standins(project.folder)
    project.change("law.bootstrap_draws", 0)
    put_under_dvc(project, remote=folder / "remote")
    project.repro()
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=results")
    project.dvc("push")


@pytest.fixture(scope="session")
def recorded_once(tmp_path_factory) -> Project:
    """The tiny experiment as `record_tiny` leaves it. Never change it: ask for `recorded`, a copy, or `clone`."""
    return Project(made_by_one_worker(tmp_path_factory, "dvc", record_tiny) / "recorded")


@pytest.fixture
def recorded(recorded_once, tmp_path) -> Project:
    """A copy of the recorded run, with its caches, DVC's cache and Snakemake's records."""
    shutil.copytree(recorded_once.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


@pytest.fixture
def clone(recorded_once, tmp_path) -> Project:
    """A fresh clone of the recorded run after `dvc pull`: no data, tokens or features, and every time is new."""
    recorded_once.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    project = Project(tmp_path / "clone")
    project.dvc("pull")
    return project

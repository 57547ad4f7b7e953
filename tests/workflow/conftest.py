"""A finished run of a tiny experiment, made once by Snakemake itself and copied for each test that changes it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .project import Project, new_project, tiny_experiment


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Project:
    """The tiny experiment, run to the end. Never change it: ask for `finished`, a copy.

    VLMLAW_TINY_RUN may name a folder where it was run before (into `results`); Snakemake then does what is missing.
    """
    project = new_project(tmp_path_factory.mktemp("workflow") / "finished", tiny_experiment())
    if earlier := os.environ.get("VLMLAW_TINY_RUN"):
        for name in ("results", ".snakemake"):
            shutil.copytree(Path(earlier) / name, project.folder / name)
    project.snakemake()
    return project


@pytest.fixture
def finished(finished_once, tmp_path) -> Project:
    """A copy of the finished run with Snakemake's records and every file's time."""
    shutil.copytree(finished_once.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


@pytest.fixture
def fresh(tmp_path) -> Callable[[dict[str, Any]], Project]:
    """A project without results, of an experiment of the test's choice."""
    return lambda experiment: new_project(tmp_path / "fresh", experiment)

"""A finished run and a published table, each analysed once."""

from pathlib import Path

import pytest

from vlmlaw.cli.main import main
from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.options import LawOptions
from vlmlaw.laws.table import read_measurements
from vlmlaw.report.study import Study, read_study

from . import made


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def run_page(run_folder: Path) -> str:
    """The page that the verb writes of the run, into run_folder/report."""
    given = ["--law", run_folder / "law" / "law.json", "--measurements", run_folder / "measurements.csv"]
    given += ["--where", *(f"{name}={value}" for name, value in made.WHERE.items())]
    given += ["--cells", run_folder / "cells", "--trainings", run_folder / "encoder"]
    given += ["--samples", run_folder / "data" / "test", "--experiment", made.EXPERIMENT]
    given += ["--settings", '{"title": "A title of its own", "samples": 4}', "--out", run_folder / "report"]
    assert main(["report", *map(str, given)]) == 0
    return (run_folder / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def study(run_folder: Path) -> Study:
    return read_study(run_folder / "law" / "law.json", run_folder / "measurements.csv", where=made.WHERE)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """law.json of the published OCR cells."""
    law = tmp_path_factory.mktemp("published") / "law.json"
    options = LawOptions(bootstrap_draws=0, candidates=("logit", "power"))
    analyse(read_measurements("li2024_ocr"), options, out=law)
    return law

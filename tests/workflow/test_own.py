"""A table of one's own through the workflow: its law and its report, and nothing trained."""

import json
import shutil

import pytest

from .project import ROOT, tiny_experiment

pytestmark = pytest.mark.workflow


def test_a_table_of_ones_own_gets_a_law_and_a_report_and_trains_nothing(fresh):
    project = fresh(tiny_experiment())
    shutil.copy(ROOT / "src" / "vlmlaw" / "laws" / "published" / "li2024_reasoning.csv", project.folder / "mine.csv")
    mine = ("--config", "measurements=mine.csv")
    assert project.planned(*mine) == {"fit_own_law": 1, "write_own_report": 1}
    project.snakemake(*mine)
    own = project.folder / "results" / "own" / "mine"
    law = json.loads((own / "law.json").read_text())
    assert law["fits"]
    assert "<html" in (own / "index.html").read_text()
    assert not (project.folder / "results" / "cells").exists()
    assert project.planned(*mine) == {}
    both = ("--config", "measurements=[mine.csv, Other=mine.csv]")
    assert project.planned(*both) == {"fit_own_law": 1, "write_own_report": 1}  # the first has its law
    project.snakemake(*both)
    page = (project.folder / "results" / "own" / "mine+Other" / "index.html").read_text()
    assert 'href="mine/index.html"' in page and 'href="Other/index.html"' in page
    assert project.planned(*both) == {} and project.planned(*mine) == {}

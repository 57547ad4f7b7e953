"""Which files an experiment is read from: whole ones, overlays, what the command line says, another workflow's."""

from pathlib import Path

import pytest

from vlmlaw.errors import UserError
from vlmlaw.workflow.config import measurements_of, source_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with params.yaml, an overlay and a whole experiment."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("name: default\ntraining: {steps: 5}\n")
    Path("over.yaml").write_text("training: {steps: 7}\ngrid: {seeds: [0, 1]}\n")
    Path("whole.yaml").write_text("name: whole\ngrid: {}\n")
    return tmp_path


def merged(*parts):
    return {key: value for part in parts for key, value in part.items()}


def test_what_is_read_laid_over_and_left_out_is_said(here):
    assert source_of({}, files=[], given={}).text == "params.yaml"
    over = source_of({"training": 1, "grid": 1}, files=[here / "over.yaml"], given={})
    assert over.reads_default and over.text == "params.yaml, and laid over it: over.yaml (training.steps, grid.seeds)"
    given = {"results": "elsewhere", "measurements": "a.csv"}
    assert source_of(given, files=[], given=given).text == "params.yaml, and laid over it: --config (results)"
    both = source_of({"name": 1}, files=[here / "whole.yaml", here / "over.yaml"], given={"law": {"draws": 3}})
    assert not both.reads_default and both.name == "whole.yaml"
    assert both.text == (
        "whole.yaml, and laid over it: over.yaml (training.steps, grid.seeds), then --config (law.draws); "
        "params.yaml is left out"
    )
    module = source_of({"name": 1, "grid": 2}, files=[], given={})
    assert not module.reads_default and "as a module" in module.text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "training: {steps: 0100}", "a.yaml, line 1: YAML reads 0100 as 64"),
        ("a.yaml", "grid: {}\ngrid: {}", "a.yaml, line 2: the key 'grid' is there twice"),
        ("a.yaml", "- 1", "expected sections of an experiment"),
        ("a.json", '{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("a.json", "{", "cannot read a.json as JSON"),
    ],
)
def test_every_file_is_checked(here, name, text, said):
    Path(name).write_text(text)
    with pytest.raises(UserError, match=said):
        source_of({"training": 1}, files=[Path(name)], given={})
    Path("params.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(UserError, match=r"params\.yaml, line 2"):
        source_of({}, files=[], given={})
    Path("params.yaml").unlink()
    with pytest.raises(UserError, match=r"there is no params\.yaml here"):
        source_of({}, files=[], given={})


def test_a_table_of_ones_own_names_a_folder():
    config = {"measurements": "tables/mine.v2.csv", "law": {}}
    assert measurements_of(config) == ("tables/mine.v2.csv", "mine.v2") and config == {"law": {}}
    assert measurements_of({}) == (None, "")
    for wrong in ("$(touch X).csv", "a b.csv", "..", "", 3):
        with pytest.raises(UserError, match="--config measurements: found"):
            measurements_of({"measurements": wrong})

"""Which files an experiment is read from: whole ones, overlays, what the command line says, another workflow's."""

import json
import re
from pathlib import Path

import pytest

from vlmlaw.errors import UserError
from vlmlaw.workflow.config import measurements_of, refuse_repeated_options, source_of

from .project import tiny_experiment


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
    assert both.content == {"name": "whole", "grid": {"seeds": [0, 1]}, "training": {"steps": 7}, "law": {"draws": 3}}
    assert over.content == {"name": "default", "training": {"steps": 7}, "grid": {"seeds": [0, 1]}}
    module = source_of({"name": 1, "grid": 2}, files=[], given={})
    assert module.content == {"name": 1, "grid": 2}
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("training={steps: 50, rate: 1.0e-3, logs: [0, 'no']}", {"steps": 50, "rate": 1e-3, "logs": [0, "no"]}),
        ("training={'steps': 50, 'on': True, 7: x}", {"steps": 50, "on": True, 7: "x"}),
        ("training={}", {}),
        ("training=", None),
        ("results=a b", "a b"),
        ("results='0100'", "0100"),
    ],
)
def test_what_config_says_is_read_as_a_file_would_be(here, text, value):
    """Also within sections, where Snakemake takes every number for text."""
    from snakemake.cli import parse_config

    given = parse_config([text])
    key = text.partition("=")[0]
    found = source_of(given, files=[], given=given, texts=[text])
    assert found.content[key] == ({"steps": 5} | value if isinstance(value, dict) else value)


def test_values_of_a_caller_of_snakemake_stay_as_they_are(here):
    native = {"training": {"steps": 3, "x": None}}
    found = source_of(native, files=[], given=native, texts=["training={'steps': 3, 'x': None}"])
    assert found.content["training"] == native["training"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["training={steps: 0100}"], "--config training, line 1: YAML reads 0100 as 64"),
        (["grid={seeds: [yes]}"], "--config grid, line 1: YAML reads yes as True"),
        (["results=0100"], "--config results, line 1: YAML reads 0100 as 64"),
        (["training={steps: 5, steps: 6}"], "--config training, line 1: the key 'steps' is there twice"),
        (["results=a", "results=b"], "--config: the key 'results' is there twice"),
        (["training=&a [*a]"], "--config training as YAML: line 1: an alias stands for what it is part of"),
        (["training={steps: 50"], "cannot read --config training as YAML"),
        (["training=" + "[" * 2000 + "]" * 2000], "cannot read --config training as YAML: it nests too deeply"),
    ],
)
def test_what_config_says_is_checked_as_a_file_is(here, texts, said):
    from snakemake.cli import parse_config

    given = parse_config(texts)
    with pytest.raises(UserError, match=re.escape(said)):
        source_of(given, files=[], given=given, texts=texts)


def test_what_snakemake_would_drop_or_run_is_refused(here):
    for words in (["--config", "a=1", "--config", "b=2"], ["-C", "a=1", "--config=b=2"]):
        with pytest.raises(UserError, match="--config is there 2 times"):
            refuse_repeated_options(words)
    with pytest.raises(UserError, match="--configfile is there 2 times"):
        refuse_repeated_options(["--configfile", "a", "--configfiles", "b"])
    refuse_repeated_options(["--configfile", "a", "b", "--config", "c=--configfile"])
    Path("run.yaml").write_text("__use_yte__: true\ntraining:\n  steps: ?1+1\n")
    with pytest.raises(UserError, match="it is a template"):
        source_of({"training": 1}, files=[Path("run.yaml")], given={})
    Path("other.yaml").write_text("name: other\ngrid: {}\n")
    with pytest.raises(UserError, match=r"whole\.yaml and other\.yaml are whole"):
        source_of({"name": 1}, files=[Path("whole.yaml"), Path("other.yaml")], given={})


@pytest.mark.workflow
def test_a_job_gets_what_config_says(fresh):
    """Typed, in the head process and in the job's."""
    project = fresh(tiny_experiment())
    text = "results/data/text/conversations.json"
    done = project.snakemake(text, "--config", "data={text: {records: 77}}")
    assert "laid over it: --config (data.text.records)" in done.stderr
    assert len(json.loads((project.folder / text).read_text())) == 77
    refused = project.snakemake("-n", "--config", "training={steps: 0100}", check=False)
    assert "--config training, line 1: YAML reads 0100 as 64" in refused.stdout + refused.stderr


def test_a_table_of_ones_own_names_a_folder():
    config = {"measurements": "tables/mine.v2.csv", "law": {}}
    assert measurements_of(config) == {"mine.v2": "tables/mine.v2.csv"}
    assert measurements_of({}) == {}
    several = measurements_of({"measurements": ["a/t.csv", "b/t.csv", "Qwen=q.csv"]})
    assert several == {"a-t": "a/t.csv", "b-t": "b/t.csv", "Qwen": "q.csv"}
    for wrong in ("$(touch X).csv", "a b.csv", "..", "", 3, [], ["a.csv", "a.csv"], ["x/../y=a.csv"]):
        with pytest.raises(UserError, match="--config measurements: found"):
            measurements_of({"measurements": wrong})

"""Commands that make a number again: right for Snakemake's greedy options, and for the experiment's own file."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from vlmlaw.errors import UserError
from vlmlaw.report import findings, provenance
from vlmlaw.report.study import Study
from vlmlaw.workflow import records


def lines(study: Study, *, is_run: bool = True) -> list[str]:
    return [
        command.line for command in provenance.commands(study, is_run=is_run, out=Path("results/report/index.html"))
    ]


def test_no_target_is_taken_for_the_value_of_an_option(study: Study) -> None:
    """--configfile and --forcerun take every word that follows them."""
    named = replace(study, experiment={"file": "other.yaml"})
    for line in lines(named):
        words = shlex.split(line)
        for option in ("--configfile", "--forcerun"):
            if option in words:
                after = words[words.index(option) + 2 :]
                assert not after or after[0].startswith("--"), line


@pytest.mark.parametrize(
    ("experiment", "option"),
    [
        ({}, None),
        ({"file": "params.yaml"}, None),
        ({"name": "tiny", "results": "results/tiny"}, "--configfile workflow/experiments/tiny.yaml"),
        ({"name": "elsewhere", "results": "results/elsewhere"}, "--configfile EXPERIMENT.yaml"),
    ],
)
def test_the_experiments_file_is_named_unless_it_is_the_default(
    experiment: dict, option: str | None, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    everything = next(line for line in lines(replace(study, experiment=experiment)) if line.startswith("snakemake"))
    assert everything == "snakemake --cores all" + (f" {option}" if option else "")


def test_a_users_own_table_needs_no_snakemake(study: Study) -> None:
    assert not any("snakemake" in line for line in lines(study, is_run=False))


def test_an_experiment_is_read_from_its_file_or_its_json() -> None:
    params = Path(__file__).parents[2] / "params.yaml"
    assert provenance.read_description(str(params))["file"] == str(params)
    assert provenance.read_description('{"name": "x"}') == {"name": "x"}
    with pytest.raises(UserError, match="not JSON"):
        provenance.read_description("{")


def test_cost_is_told_from_the_measurements(study: Study) -> None:
    frame = study.measurements.frame
    told = findings.cost(study)
    assert f"{frame['vision_flops'].iloc[0] / 1e6:.3g} M" in told
    assert "LLM alone" in told


def test_no_commit_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.commit() == ""

"""Commands that make a number again: right for Snakemake's greedy options, and for the experiment's own file."""

import html
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vlmlaw.cli.main import main
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


def test_encoders_of_several_costs_are_a_range_and_unknown_costs_are_not_told(study: Study) -> None:
    def told(vision: object) -> str:
        frame = study.measurements.frame.assign(vision_flops=vision)
        return findings.cost(replace(study, measurements=replace(study.measurements, frame=frame)))

    n = len(study.measurements.frame)
    assert "the encoder 1 G to 2 G. The frontier" in told([1e9, *[2e9] * (n - 1)])
    assert "the encoder 1 G in every cell." in told([np.nan, *[1e9] * (n - 1)])
    assert told(np.nan) == ""


def test_the_commands_of_a_table_read_it_as_it_was_read_here(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A table with names of its own, a row that is not wanted, a hole and two suites, in a folder with a space."""
    sizes, tokens = (0.5, 1.5, 7), (16, 64, 256)
    cells = [(n, v, run) for n in sizes for v in tokens for run in ("old", "new") if (n, v) != (1.5, 64)]
    rows = [
        {"LLM (B)": n, "V": v, "protocol": run, "suite": suite, "wrong": 0.5 * n**-a * v**-b + 0.1 * (run == "old")}
        for suite, a, b in (("reading", 0.05, 0.2), ("reasoning", 0.2, 0.05))
        for n, v, run in cells
    ]
    (tmp_path / "my tables").mkdir()
    table = tmp_path / "my tables" / "own.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    given = ["--column", "n_params=LLM (B)", "--column", "error=wrong", "--params-unit", "billions"]
    given += ["--where", "protocol=new", "--allow-missing", "--out", str(tmp_path / "page")]
    assert main(["report", str(table), *given]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    found = [shlex.split(html.unescape(line)) for line in re.findall(r"<pre>(vlmlaw .*?)</pre>", page)]
    assert [words[1:3] for words in found[:3]] == [["law", "fit"], ["law", "recommend"], ["law", "lint"]]
    before = (tmp_path / "page" / "law.json").read_text()
    for words in found:
        capsys.readouterr()
        assert main([word.replace("BUDGET", "1e13") for word in words[1:]]) == 0, (words, capsys.readouterr())
    assert (tmp_path / "page" / "law.json").read_text() == before


def test_no_commit_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.commit() == ""

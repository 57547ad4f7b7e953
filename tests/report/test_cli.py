"""The verbs: what they write, and what they say of bad input."""

import json
from pathlib import Path

import pytest

from vlmlaw.cli.main import main
from vlmlaw.experiment.describe import described
from vlmlaw.report import run_files
from vlmlaw.report.study import Study

from . import made


def report(*arguments: object) -> int:
    return main(["report", *map(str, arguments)])


def inputs(folder: Path) -> list[object]:
    where = [f"{name}={value}" for name, value in made.WHERE.items()]
    return ["--law", folder / "law" / "law.json", "--measurements", folder / "measurements.csv", "--where", *where]


def test_a_table_that_the_law_was_not_fitted_to(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other.csv"
    other.write_text((run_folder / "measurements.csv").read_text() + "\n")
    assert report("--law", run_folder / "law/law.json", "--measurements", other, "--out", tmp_path / "r") == 2
    told = capsys.readouterr().err
    assert "fitted to another table" in told and "vlmlaw law fit" in told
    assert not (tmp_path / "r").exists()


def test_rows_that_the_law_was_not_fitted_to(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert report(*inputs(run_folder)[:4], "--out", tmp_path / "r") == 2
    assert "pass the same --where" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot read"), ("{}", "holds no law's analysis"), ("nonsense", "cannot read")]
)
def test_no_law(text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    law = tmp_path / "law.json"
    if text is not None:
        law.write_text(text)
    assert report("--law", law, "--measurements", "li2024_ocr", "--out", tmp_path / "r") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--formats", "svg,bmp", "expected one or more of svg, png, pdf"),
        ("--column", "score", "has no '='"),
        ("--settings", '{"colour": 1}', "unknown key 'colour'"),
        ("--experiment", "{nonsense", "not JSON"),
        ("--cells", "nowhere", "has no training of any measured cell"),
        ("--samples", "nowhere", "is no dataset"),
        ("--trainings", "nowhere", "does not describe a training"),
    ],
)
def test_bad_options(
    option: str, value: str, message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    extra = ["--cells", run_folder / "cells"] if option == "--trainings" else []
    assert report(*inputs(run_folder), *extra, option, value, "--out", tmp_path / "r") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ([], "Error along one axis"),
        (["--settings", '{"samples": 0}'], "Error along one axis"),
        (["--settings", '{"title": "Of the settings"}'], "Of the settings"),
        (["--settings", '{"title": "Of the settings"}', "--title", "Of the option"], "Of the option"),
    ],
)
def test_a_page_along_one_axis_has_the_title_that_was_asked_for(options: list[str], title: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("N,V,error\n7,1,0.6\n7,4,0.5\n7,16,0.45\n7,64,0.44\n")
    assert report(tmp_path / "table.csv", *options, "--out", tmp_path / "page") == 0
    assert f"<h1>{title}</h1>" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_a_broken_account_of_a_cell(tmp_path: Path) -> None:
    made.write_cells(tmp_path, ["56k_v1_block_linear_s0"])
    (tmp_path / "56k_v1_block_linear_s0" / "training.json").write_text('{"steps": 3}')
    with pytest.raises(Exception, match="does not describe a training"):
        run_files.read_cells(tmp_path, ["56k_v1_block_linear_s0"])


def test_summary_is_short_and_says_where_the_page_is(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["summary", str(run_folder / "law" / "law.json")]) == 0
    told = capsys.readouterr().out
    assert "reasoning" in told and "buy the larger LLM" in told and "rho = " in told
    assert len(told.splitlines()) < 12 and max(map(len, told.splitlines())) <= 120


def test_summary_of_an_experiment_is_at_the_q_of_its_page(
    run_folder: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    (tmp_path / "e.yaml").write_text(f"{text}\nresults: {run_folder.name}\n")
    monkeypatch.chdir(run_folder.parent)
    assert main(["summary", str(tmp_path / "e.yaml")]) == 0
    assert f"at Q = {study.question_tokens:g}" in capsys.readouterr().out


def test_summary_of_an_experiment_that_has_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    (tmp_path / "e.yaml").write_text(text + "\nresults: results/no-such-run\n")
    assert main(["summary", str(tmp_path / "e.yaml")]) == 2
    assert "snakemake" in capsys.readouterr().err


def test_what_changes_no_result_is_not_in_the_description() -> None:
    from vlmlaw.experiment.experiment import read_experiment

    experiment = read_experiment(Path(__file__).parents[2] / "params.yaml")
    data = json.loads(described(experiment))
    assert "compute" not in data and "report" not in data and data["name"] == experiment.name
    assert "checkpoint_seconds" not in described(experiment)

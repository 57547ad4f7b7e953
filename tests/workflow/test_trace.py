"""From a number to where it comes from: what a printed number may mean, and what is said where nothing is known."""

import json

import pytest

from vlmlaw.cli.main import main
from vlmlaw.laws.analysis import JSON_KIND
from vlmlaw.workflow import records
from vlmlaw.workflow.trace import _digits

CELL = "3k_v4_average_s0"
HEADER = "cell,suite,kind,error,error_se\n"
FIT = {
    "suite": "reading",
    "kind": "all",
    "rho": {"estimate": 1.5, "lower": 0.75, "upper": None},
    "v_star": [{"question_tokens": 8, "v_star": 33.0, "lower": 20.0, "upper": 60.0}],
    "summary": [{"parameter": "alpha", "estimate": 0.125, "se": 0.01}],
    "r_squared": 0.987,
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A cell with records, another without, a table of both and a law; asked from the folder that holds them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "cells" / CELL
    folder.mkdir(parents=True)
    (tmp_path / "results" / "cells" / "3k_v9_average_s0").mkdir()
    recorded(folder / "training", verb="train", settings='{"learning_rate": 0.01}')
    (folder / "evaluation.json").write_text(json.dumps({"scores": {"reading": {"all": {"error": 0.40625}}}}))
    table = f"{HEADER}{CELL},reading,all,0.40625,0.0021\n3k_v9_average_s0,reading,all,0.31415,\n"
    (tmp_path / "results" / "measurements.csv").write_text(table)
    (tmp_path / "results" / "law").mkdir()
    recorded(
        tmp_path / "results" / "law" / "law",
        verb="law",
        record=records.NAME,
        content=json.dumps({"kind": JSON_KIND, "fits": [FIT]}),
    )
    return tmp_path / "results"


def recorded(path, *, verb, settings="{}", record=None, content="made", model=None):
    """A result with the record that its verb would write; `model` is an input that it names."""
    from argparse import Namespace

    out = path.with_suffix(".json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(content)
    beside = path.parent / (record or f"{path.name}.record.json")
    given = {"settings": settings, "code": "c0de", "upstream": "0123", "read": [], "made": []}
    given["made_from"] = [f"model={model}"] if model else []
    records.write(Namespace(verb="evaluate", out=out, record=beside, **given))
    record = json.loads(beside.read_text()) | {"verb": verb}
    del record[records.SEAL]  # which is of the other verb
    beside.write_text(json.dumps(record))


@pytest.fixture
def asked(results, capsys):
    """A function: what `vlmlaw provenance ...` prints, and its exit status."""

    def ask(*arguments):
        status = main(["provenance", *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return ask


@pytest.mark.parametrize(
    ("text", "value", "half"),
    [
        ("0.406", 0.406, 0.0005),
        ("40.6 %", 0.406, 0.0005),
        ("1e3", 1000, 500),
        ("1.5e3", 1500, 50),
        ("−0.2", -0.2, 0.05),
        ("1,234", 1234, 0.5),
        ("12\u202f345", 12345, 0.5),
    ],
)
def test_a_printed_number_stands_for_what_rounds_to_it(text, value, half):
    assert _digits(text) == (pytest.approx(value), pytest.approx(half))


@pytest.mark.parametrize("text", [CELL, "nan", "inf", "", "results/law"])
def test_what_is_no_number(text):
    assert _digits(text) is None


@pytest.mark.parametrize("number", ["0.406", "0.4063", "40.6%"])
def test_a_number_of_one_cell_leads_to_its_settings_code_and_files(asked, number):
    status, told = asked(number)
    assert status == 0
    for wanted in (f"error of {CELL}, reading all", '{"learning_rate": 0.01}', "code c0de", "whole", "reading 0.4062"):
        assert wanted in told
    assert f"snakemake results/cells/{CELL}/training.json --cores all --forcerun train_cell" in told


@pytest.mark.parametrize(
    ("training", "rule"), [("3k_average_elastic_s0", "train_elastic"), ("3k_v144_all_patches_s0", "train_cell")]
)
def test_a_cell_with_weights_of_another_training_leads_to_that(asked, results, training, rule):
    """One training serves many cells, and a cell may be measured by benchmarks alone."""
    cells, cell = results / "cells", "3k_v9_average_elastic_s0"
    recorded(cells / training / "training", verb="train")
    recorded(cells / cell / "benchmarks" / "gqa", verb="benchmark", model=cells / training / "training.json")
    status, told = asked(cell)
    assert status == 0
    assert f"{training}/training.json" in told and f"{cell}/training.json" not in told
    assert f"{cell}/benchmarks/gqa.json --cores all --forcerun {rule}" in told


@pytest.mark.parametrize(
    ("number", "what"),
    [
        ("1.5", "rho (estimate), reading all"),
        ("0.75", "rho (lower), reading all"),
        ("33", "V* at Q = 8 (v_star), reading all"),
        ("0.125", "alpha (estimate), reading all"),
        ("0.987", "R2, reading all"),
    ],
)
def test_a_number_of_a_law_leads_to_its_record(asked, number, what):
    status, told = asked(number)
    assert status == 0 and what in told and "the measurements of all cells" in told


def test_a_number_of_several_cells_lists_them(asked, results):
    table = results / "measurements.csv"
    table.write_text(HEADER + "".join(f"3k_v{v}_average_s0,reading,all,0.4,0.01\n" for v in range(20)))
    status, told = asked("0.4")
    assert status == 0 and told.count("error of 3k_v") == 12
    assert "and 8 more; give more digits" in told and "next: vlmlaw provenance 3k_v0_average_s0" in told


def test_a_file_that_was_changed_since_is_named(asked, results):
    (results / "cells" / CELL / "training.json").write_text("other")
    assert "changed since: training.json" in asked(CELL)[1]


def test_records_as_they_are(asked, results):
    status, told = asked(CELL, "--json")
    found = json.loads(told)
    assert status == 0 and found["training"]["code"] == "c0de" and found["evaluation"] is None
    assert json.loads(asked("results/law/law.json", "--json")[1])["verb"] == "law"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("0.55", "no error or law in results/ rounds to 0.55"),
        ("3k_v5", f"'3k_v5' is no number, cell or file of results/; cells there: {CELL}, 3k_v9_average_s0."),
        ("3k_v9_average_s0", "has no record of what made it; `snakemake --cores all` makes the cell with one"),
        ("results/measurements.csv", "no job of the workflow wrote it"),
    ],
)
def test_what_has_no_origin_is_an_error_that_says_what_to_do(asked, what, told):
    status, printed = asked(what)
    assert status == 2 and told in printed


def test_without_results_it_says_how_to_get_some(asked, tmp_path):
    assert "run `snakemake --cores all` first" in asked("0.4", "--results", str(tmp_path / "none"))[1]
    assert "there are no cells yet" in asked("3k_v4", "--results", str(tmp_path / "none"))[1]


def test_a_law_that_cannot_be_read_is_an_error(asked, results):
    (results / "law" / "law.json").write_text("{")
    status, told = asked("0.406")
    assert status == 2 and "law.json as the analysis of a law" in told


def test_a_table_that_is_none_is_an_error(asked, results):
    (results / "measurements.csv").write_text("size,error\n3k,0.5\n")
    status, told = asked("0.5")
    assert status == 2 and "measurements.csv is no table of measurements" in told

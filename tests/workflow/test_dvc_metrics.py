"""The study in a few numbers: what `dvc metrics` and `dvc plots` compare is what the law and the table say."""

import json
from pathlib import Path

import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws.analysis import JSON_KIND
from vlmlaw.workflow.dvc_metrics import errors_of, write_headline

INTERVAL = {"estimate": 2.123456, "lower": 1.0, "upper": None}
V_STAR = [
    {"question_tokens": 0, "v_star": 9.0, "lower": 4.0, "upper": 20.0},
    {"question_tokens": 8, "v_star": 3.0, "lower": 1.0, "upper": 9.0},
    {"question_tokens": 64, "v_star": 30.0, "lower": None, "upper": None},
]


def fit(suite, **more):
    return {"suite": suite, "kind": "all", "rho": INTERVAL, "v_star": V_STAR, "law": "power", **more}


def row(size="3k", v=4, seed=0, suite="reading", kind="all", error=0.5, compressor="average", **more):
    cell = f"{size}_v{v}_{compressor}_s{seed}"
    row = {"cell": cell, "size": size, "n_visual_tokens": v, "seed": seed, "compressor": compressor, "suite": suite}
    numbers = {"n_params": 3000, "n_text_tokens": 7, "llm_flops": 100 * v}
    return row | numbers | {"kind": kind, "error": error, "training": cell} | more


@pytest.fixture
def headline(tmp_path):
    """A function: the metrics of a law's fits and a table's rows, by name, and the table of errors."""

    def write(fits, rows):
        law, table, results = tmp_path / "law.json", tmp_path / "measurements.csv", tmp_path / "results"
        law.write_text(json.dumps({"kind": JSON_KIND, "fits": fits}))
        pd.DataFrame(rows).to_csv(table, index=False)
        write_headline(law, table, results, tmp_path / "out")
        metrics = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out" / "metrics").iterdir()}
        return metrics, pd.read_csv(tmp_path / "out" / "errors.csv")

    return write


def trained(folder, *, hours, gpus):
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"wall_seconds": 3600 * hours, "compute": {"gpus": gpus}}))


def test_a_suite_has_the_laws_numbers_at_the_questions_of_the_table(headline):
    rows = [row(error=0.2), row(v=16, error=0.4), row(error=0.9, kind="look-up"), row(suite="reasoning", error=0.1)]
    metrics, _ = headline([fit("reading"), fit("reasoning"), fit("reading", kind="look-up")], rows)
    assert set(metrics) == {"reading", "reasoning", "trainings"}
    assert metrics["reading"] == {
        "mean_error": 0.3,
        "rho": 2.1235,
        "rho_lower": 1.0,
        "rho_upper": None,
        "v_star": 3.0,
        "v_star_lower": 1.0,
        "v_star_upper": 9.0,
        "question_tokens": 8,  # the nearest to 7
        "law": "power",
    }
    assert metrics["reasoning"]["mean_error"] == 0.1


def test_what_the_data_do_not_say_is_null_and_never_a_number(headline):
    metrics, _ = headline([fit("reading") | {"rho": None, "v_star": []}], [row()])
    empty = {"rho", "rho_lower", "rho_upper", "v_star", "v_star_lower", "v_star_upper", "question_tokens"}
    assert {name for name, value in metrics["reading"].items() if value is None} == empty


def test_each_compressor_has_its_own_numbers_where_each_has_a_law(headline):
    fits = [fit("reading", compressor=name) for name in ("average", "quecc")]
    rows = [row(error=0.2), row(error=0.6, compressor="quecc")]
    metrics, errors = headline(fits, rows)
    assert {name: numbers["mean_error"] for name, numbers in metrics.items() if name != "trainings"} == {
        "reading_average": 0.2,
        "reading_quecc": 0.6,
    }
    assert errors.compressor.tolist() == ["average", "quecc"]
    assert "reading" in headline(fits[:1], rows[:1])[0]


def test_errors_are_the_means_of_seeds():
    table = pd.DataFrame([row(seed=0, error=0.2), row(seed=1, error=0.4), row(v=1, error=0.7)])
    shown = errors_of(table)[["n_visual_tokens", "error", "llm_flops", "n_seeds"]].to_dict("records")
    assert shown == [
        {"n_visual_tokens": 1, "error": 0.7, "llm_flops": 100.0, "n_seeds": 1},
        {"n_visual_tokens": 4, "error": 0.3, "llm_flops": 400.0, "n_seeds": 2},
    ]


def test_the_plot_reads_its_numbers_as_numbers():
    """DVC gives a template every column as text, by which 36 visual tokens would come before 4."""
    template = json.loads((Path(__file__).parents[2] / ".dvc" / "plots" / "by_size.json").read_text())
    parsed = {name for name, kind in template["data"]["format"]["parse"].items() if kind == "number"}
    assert parsed == set(errors_of(pd.DataFrame([row()])).select_dtypes("number")) - {"n_seeds"}


def test_hours_are_those_of_what_the_table_needed_and_of_each_once(headline, tmp_path):
    results = tmp_path / "results"
    trained(results / "encoder", hours=1, gpus=1)
    trained(results / "language_models" / "3k", hours=2, gpus=2)
    trained(results / "language_models" / "9k", hours=100, gpus=1)  # of a size that the grid no longer has
    trained(results / "cells" / "3k_m3_s1", hours=4, gpus=8)  # serves both cells
    trained(results / "cells" / "3k_m3_s0" / "stage_1", hours=8, gpus=8)  # shared by the seeds
    trained(results / "cells" / "3k_quecc_s0" / "stage_1", hours=100, gpus=1)
    rows = [row(v=v, seed=1, compressor="m3", training="3k_m3_s1") for v in (4, 16)]
    assert headline([fit("reading")], rows)[0]["trainings"] == {
        "cells": 2,
        "hours": 1 + 2 + 4 + 8,
        "gpu_hours": 1 + 2 * 2 + (4 + 8) * 8,
    }


def test_where_each_seed_is_pretrained_the_hours_are_those_of_the_seeds_in_the_table(headline, tmp_path):
    results = tmp_path / "results"
    for seed, hours in ((0, 2), (1, 4), (2, 100)):
        trained(results / "language_models" / f"3k_s{seed}", hours=hours, gpus=1)
    trained(results / "language_models" / "3k", hours=100, gpus=1)  # of before each seed was pretrained
    rows = [row(v=4, seed=seed, training="elsewhere") for seed in (0, 1)]
    assert headline([fit("reading")], rows)[0]["trainings"]["hours"] == 2 + 4


def test_cells_measured_elsewhere_took_no_hours_here(headline):
    rows = [{name: value for name, value in row().items() if name != "training"}]
    assert headline([fit("reading")], rows)[0]["trainings"] == {"cells": 1, "hours": 0.0, "gpu_hours": 0.0}


def test_an_account_that_was_cut_off_is_an_error(headline, tmp_path):
    trained(tmp_path / "results" / "encoder", hours=1, gpus=1)
    (tmp_path / "results" / "encoder" / "training.json").write_text('{"wall_')
    with pytest.raises(UserError, match=r"encoder/training\.json is not what a training writes .*; train it again"):
        headline([fit("reading")], [row()])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "size,error\n3k,0.5\n", None])
def test_what_is_no_table_is_an_error(tmp_path, text):
    law, table = tmp_path / "law.json", tmp_path / "measurements.csv"
    law.write_text(json.dumps({"kind": JSON_KIND, "fits": []}))
    if text is not None:
        table.write_text(text)
    with pytest.raises(UserError, match=r"measurements\.csv is no table of measurements .*`vlmlaw collect` writes one"):
        write_headline(law, table, tmp_path, tmp_path / "out")


def test_what_is_no_law_is_an_error(tmp_path):
    (tmp_path / "law.json").write_text("{}")
    pd.DataFrame([row()]).to_csv(tmp_path / "measurements.csv", index=False)
    with pytest.raises(UserError, match=r"law\.json holds no law's analysis; make one with `vlmlaw law fit"):
        write_headline(tmp_path / "law.json", tmp_path / "measurements.csv", tmp_path, tmp_path / "out")

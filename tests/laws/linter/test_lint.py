"""Each thing that the linter knows is planted in a clean grid and found; the clean grid passes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws.linter.lint import lint, require_clean
from vlmlaw.laws.table import as_measurements, read_measurements


def codes(table, **options) -> dict[str, str]:
    return {finding.code: finding.severity for finding in lint(table, **options)}


def spoil(frame: pd.DataFrame, row: int, **values) -> pd.DataFrame:
    frame = frame.copy()
    for column, value in values.items():
        frame.loc[row, column] = value
    return frame


def test_clean_grid_has_no_findings(grid_frame):
    assert lint(grid_frame) == []
    assert lint(read_measurements("li2024_reasoning")) == []


def test_published_ocr_table_does_not_pass_silently():
    findings = lint(read_measurements("li2024_ocr"))
    assert [finding.code for finding in findings] == ["equal-values", "noted", "noted"]
    assert "N = 4 B, V = 576 (line 22), N = 7 B, V = 576 (line 29)" in findings[0].where


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"error": np.nan}, "not-a-number"),
        ({"error": np.inf}, "not-a-number"),
        ({"error": 1.2}, "out-of-range"),
        ({"error": -0.1}, "out-of-range"),
        ({"V": 0.0}, "impossible-token-count"),
        ({"N": -1.0}, "impossible-size"),
        ({"error_se": -0.1}, "impossible-standard-error"),
    ],
)
def test_impossible_values_are_errors(grid_frame, values, code):
    assert codes(spoil(grid_frame.assign(error_se=0.01), 3, **values)) == {code: "error"}


def test_finding_says_where_why_and_what_to_do(grid_frame):
    finding = lint(spoil(grid_frame, 3, error=np.nan))[0]
    assert finding.where == "line 3"
    assert "--allow-missing" in finding.do
    assert str(finding).startswith("error [not-a-number] line 3:")


def test_percent_read_as_fraction(grid_frame):
    percent = grid_frame.assign(error=100 * grid_frame["error"])
    assert codes(percent) == {"percent-as-fraction": "error"}


def test_fraction_read_as_percent(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("params_b,visual_tokens,score\n1,1,0.4\n1,4,0.5\n7,1,0.6\n7,4,0.7\n")
    assert "fraction-as-percent" in codes(read_measurements(path, scale="percent"))


def test_counts_read_as_billions(grid_frame):
    assert codes(grid_frame.assign(N=grid_frame["N"] * 1e9)) == {"wrong-units": "error"}
    assert codes(grid_frame.assign(N=grid_frame["N"] * 1e-9)) == {"wrong-units": "error"}


def test_miniature_sizes_are_no_wrong_units(grid_frame):
    assert lint(grid_frame.assign(N=grid_frame["N"] * 1e-4)) == []


def test_equal_copies_and_disagreeing_copies(grid_frame):
    twice = pd.concat([grid_frame, grid_frame.iloc[[4]]])
    assert codes(twice) == {"repeated-rows": "error"}
    unlike = pd.concat([grid_frame, grid_frame.iloc[[4]].assign(error=0.5)])
    assert codes(unlike) == {"disagreeing-copies": "warning"}
    assert codes(unlike.assign(seed="0")) == {"disagreeing-copies": "error"}
    unlike["seed"] = ["0"] * len(grid_frame) + ["1"]
    assert codes(unlike) == {"unbalanced-seeds": "warning"}


@pytest.mark.parametrize("column", ["split", "prompt", "shots", "model family", "step", "checkpoint", "decoder"])
def test_rows_of_a_cell_that_an_unread_column_tells_apart_are_no_copies(column, grid_frame):
    two = [grid_frame.assign(error=grid_frame["error"] + 0.01 * i, **{column: str(i)}) for i in range(2)]
    both = pd.concat(two, ignore_index=True)
    code = "mixed-splits" if column == "split" else "mixed-cells"
    assert codes(both) == {code: "error"}
    with pytest.raises(UserError, match=f"--where '{column}=1'.*--column 'kind={column}'"):
        require_clean(both)
    assert codes(as_measurements(both).select(**{column: "1"})) == {}
    assert codes(both.assign(kind=both[column])) == {}
    assert codes(both.assign(seed=both[column])) == ({code: "error"} if column == "split" else {})


def test_cells_of_different_splits_are_refused(grid_frame):
    split = np.where(grid_frame["N"] > grid_frame["N"].median(), "test", "dev")
    assert codes(grid_frame.assign(split=split))["mixed-splits"] == "error"
    assert codes(grid_frame.assign(split="test")) == {}


def test_measures_and_dates_that_differ_between_repeats_are_named(grid_frame):
    for column, values in (("latency_ms", (5, 6)), ("date", ("May", "June")), ("power_draw", (0.25, 0.5))):
        two = [grid_frame.assign(error=grid_frame["error"] + 0.01 * i, **{column: values[i]}) for i in range(2)]
        found = lint(pd.concat(two, ignore_index=True))
        assert [finding.code for finding in found] == ["disagreeing-copies"]
        assert found[0].found.endswith(f", and differ in {column}")


def test_topics_of_questions_are_averaged_and_prompts_are_not(grid_frame):
    cells = pd.concat([grid_frame.assign(error=float(i % 2), topic=f"t{i % 3}", prompt="a") for i in range(30)])
    assert "mixed-cells" not in codes(cells)
    cells["prompt"] = np.where(cells["topic"] == "t1", "a", "b")
    assert codes(cells) == {"mixed-cells": "error"}


def test_same_value_in_different_cells_is_suspect_only_where_chance_is_unlikely(grid_frame):
    same = spoil(grid_frame, 3, error=grid_frame["error"].iloc[9])
    assert codes(same) == {"equal-values": "warning"}
    assert codes(same.assign(n_questions=200)) == {}
    assert codes(grid_frame.assign(error=grid_frame["error"].round(2))) == {}


def test_seeds_that_some_cells_lack(grid_frame):
    parts = [grid_frame.assign(seed=seed, error=grid_frame["error"] + 0.001 * seed) for seed in (0, 1)]
    assert lint(pd.concat(parts)) == []
    found = lint(pd.concat([parts[0], parts[1].drop(index=[7])]))
    assert [finding.code for finding in found] == ["unbalanced-seeds"]
    assert found[0].where == "(N, V): (1.8 B, 4) lacks 1"


def test_missing_cells_stop_only_where_the_grid_was_stated(grid_frame):
    holed = as_measurements(grid_frame.drop(index=[7]))
    assert codes(holed) == {"missing-cells": "warning"}
    stated = dataclasses.replace(holed, expected=tuple(zip(grid_frame["N"], grid_frame["V"], strict=True)))
    assert codes(stated) == {"missing-cells": "error"}
    assert codes(stated, allow_missing=True) == {"missing-cells": "warning"}
    assert "(1.8 B, 4)" in lint(holed)[0].where
    assert " cells is missing" in lint(holed)[0].found
    assert lint(as_measurements(grid_frame.drop(index=[7, 8])))[0].found.endswith(" cells are missing")


def test_expected_cells_take_the_place_of_the_full_grid(grid_frame):
    holed = as_measurements(grid_frame.drop(index=[7]))
    pairs = tuple(zip(holed.frame["N"], holed.frame["V"], strict=True))
    assert lint(dataclasses.replace(holed, expected=pairs)) == []
    findings = lint(dataclasses.replace(holed, expected=((32.0, 1.0), *pairs)))
    assert [finding.code for finding in findings] == ["missing-cells"]
    assert "(32 B, 1)" in findings[0].where


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"N": [0.5]}, {"few-sizes": "error"}),
        ({"N": [0.5, 14]}, {"few-sizes": "warning"}),
        ({"V": [1]}, {"few-token-counts": "error"}),
        ({"V": [1, 576]}, {"few-token-counts": "warning"}),
    ],
)
def test_few_levels(grid_frame, keep, expected):
    column, values = next(iter(keep.items()))
    assert codes(grid_frame[grid_frame[column].isin(values)]) == expected


def test_cells_on_one_ray(grid_frame):
    ray = pd.DataFrame({"N": [1.0, 2, 4, 8], "V": [64.0, 32, 16, 8], "error": [0.5, 0.45, 0.42, 0.40]})
    found = lint(ray, allow_missing=True)
    assert {finding.code: finding.severity for finding in found} == {"collinear": "error", "missing-cells": "warning"}
    assert "iso-FLOP" in found[0].found
    nearly = ray.assign(V=[64.0, 32, 16, 9])
    assert codes(nearly, allow_missing=True)["collinear"] == "warning"


def test_constant_error(grid_frame):
    assert codes(grid_frame.assign(error=0.25)) == {"constant-error": "error"}


def test_error_that_falls_in_a_step(grid_frame):
    stepped = grid_frame.assign(error=np.where(grid_frame["V"] < 16, 0.3, 0.0) + grid_frame["error"])
    found = lint(stepped)
    assert [finding.code for finding in found] == ["step"]
    assert found[0].where == "V from 4 to 16"


def test_error_that_rises_with_size(grid_frame):
    assert codes(grid_frame.assign(error=1 - grid_frame["error"])) == {"wrong-way": "warning"}


def test_finding_in_one_suite_names_it_and_in_all_does_not(grid_frame):
    both = pd.concat([grid_frame.assign(suite="a"), grid_frame.assign(suite="b")], ignore_index=True)
    assert lint(spoil(both, 3, error=np.nan))[0].where == "a: line 3"
    assert lint(both.drop(index=[7, 37]))[0].where == "(N, V) = (1.8 B, 4)"


def test_a_finding_in_many_groups_names_the_first_of_them(grid_frame):
    sound = [grid_frame.assign(suite=f"s{i}") for i in range(2)]
    poor = grid_frame[grid_frame["V"].isin(sorted(grid_frame["V"].unique())[:2])]
    table = pd.concat([*sound, *(poor.assign(suite=f"t{i}") for i in range(9))])
    found = [finding for finding in lint(table) if finding.code == "few-token-counts"]
    assert found[0].where.startswith("t0, t1, t2, t3, t4, t5 and 3 more: ")


def test_compressors_that_share_cells_are_groups_of_their_own(grid_frame):
    both = pd.concat([grid_frame.assign(compressor="pool"), grid_frame.assign(compressor="quecc")], ignore_index=True)
    assert lint(both) == []
    assert [group["compressor"] for group in as_measurements(both).groups] == ["pool", "quecc"]
    apart = grid_frame.assign(compressor=np.where(grid_frame["V"] == 576, "none", "pool"))
    assert "compressor" not in as_measurements(apart).groups[0]


def test_require_clean_raises_with_every_error(grid_frame):
    with pytest.raises(UserError, match="has 1 error:") as caught:
        require_clean(spoil(grid_frame, 3, error=np.nan))
    assert "not-a-number" in str(caught.value)
    assert require_clean(read_measurements("li2024_ocr"))[0].code == "equal-values"


def test_trainings_that_serve_several_v_are_marked(grid_frame):
    own = grid_frame.assign(training=[f"t{i}" for i in range(len(grid_frame))])
    assert codes(own) == {}
    shared = grid_frame.assign(training=grid_frame["N"].map("elastic_{:g}".format))
    assert codes(shared) == {"shared-weights": "warning"}
    finding = lint(shared)[0]
    assert finding.found == "30 cells come from 5 trainings, each measured at several V"
    one = shared[shared["N"] == shared["N"].max()]
    assert "6 cells come from 1 training measured at several V" in [finding.found for finding in lint(one)]
    # Copies of one cell, a training each for a seed, share nothing across V.
    seeds = pd.concat([own.assign(seed=s, training=own["training"] + f"s{s}") for s in "01"])
    assert codes(seeds.assign(error=seeds["error"] + np.arange(len(seeds)) * 1e-5)) == {}


def test_a_v_that_is_an_average_of_layers_is_marked(grid_frame):
    """FastV's V is what the layers read; a table of others that has no column of it is asked what its V is."""
    same = grid_frame.assign(compressor="fastv", kept_tokens=grid_frame["V"])
    assert "layer-average" not in codes(same)
    kept = same.assign(V=(2 * 576 + 30 * grid_frame["V"]) / 32)
    (found,) = (finding for finding in lint(kept, allow_missing=True) if finding.code == "layer-average")
    assert found.severity == "warning"
    assert "where 1 to 144 tokens are kept" in found.found
    (asked,) = (f for f in lint(grid_frame.assign(compressor="FastV"), allow_missing=True) if f.code == "layer-average")
    assert "no column kept_tokens says whether V is what it keeps" in asked.found
    assert "layer-average" not in codes(grid_frame.assign(compressor="average"))

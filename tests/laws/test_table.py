"""Reading measured cells: the workflow's long table, published tables, users' own columns, units and shapes."""

import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws.table import MEAN_OF_SUITES, as_measurements, read_measurements

GRID = [(n, v) for n in (0.5, 1.8, 7) for v in (1, 16, 144)]


def write(tmp_path, text: str):
    path = tmp_path / "results.csv"
    path.write_text(text, encoding="utf-8")
    return path


def long_csv(tmp_path, header="n_params,n_visual_tokens,error", scale=1e9):
    rows = [f"{n * scale:.0f},{v},{0.6 - 0.05 * n / 7 - 0.0005 * v}" for n, v in GRID]
    return write(tmp_path, "\n".join([header, *rows]))


def test_counts_of_parameters_become_billions(tmp_path):
    table = read_measurements(long_csv(tmp_path))
    assert sorted(set(table.frame["N"])) == pytest.approx([0.5, 1.8, 7])
    assert table.units["params"] == "count"
    assert len(table.sha256) == 64


def test_published_table_by_name():
    table = read_measurements("li2024_reasoning")
    assert len(table) == 28
    assert table.frame["error"].iloc[0] == pytest.approx(1 - 0.3855)
    assert table.groups == [{"suite": "all", "kind": "all"}]


def test_own_column_names(tmp_path):
    path = write(tmp_path, "Model;Tokens of image;Right\n0.5B;1;40\n500M;4;42\n7b;1;50\n7b;4;55\n")
    columns = {"n_params": "Model", "n_visual_tokens": "Tokens of image", "score": "Right"}
    table = read_measurements(path, columns, scale="percent")
    assert table.frame["N"].tolist() == pytest.approx([0.5, 0.5, 7, 7])
    assert table.frame["error"].tolist() == pytest.approx([0.6, 0.58, 0.5, 0.45])


def test_units_can_be_named(tmp_path):
    path = write(tmp_path, "params,visual_tokens,score\n500,1,0.4\n")
    assert read_measurements(path, params_unit="millions").frame["N"].tolist() == [0.5]


def test_wide_table_with_a_column_for_each_token_count(tmp_path):
    path = write(tmp_path, "params_b,v1,v16,v144\n0.5,0.40,0.42,\n7,0.50,0.52,0.54\n")
    frame = read_measurements(path).frame
    assert len(frame) == 5
    row = frame[(frame["N"] == 7) & (frame["V"] == 144)].iloc[0]
    assert row["error"] == pytest.approx(0.46)
    assert row["line"] == 3


def test_wide_table_with_a_column_for_each_suite(tmp_path):
    path = write(tmp_path, "params_b,visual_tokens,gqa,pope\n0.5,1,0.4,0.7\n7,1,0.5,0.8\n")
    table = read_measurements(path, scores=["gqa", "pope"])
    assert [group["suite"] for group in table.groups] == ["gqa", "pope"]
    assert len(table.select(suite="gqa")) == 2


def test_mean_of_suites_averages_cells_that_have_all(tmp_path):
    text = "params_b,visual_tokens,suite,error\n1,1,a,0.2\n1,1,b,0.4\n7,1,a,0.1\n"
    mean = read_measurements(write(tmp_path, text)).mean_of_suites()
    assert mean.frame[["N", "V", "error", "suite"]].to_numpy().tolist() == [[1, 1, pytest.approx(0.3), MEAN_OF_SUITES]]
    assert read_measurements("li2024_ocr").mean_of_suites() is None


@pytest.mark.parametrize(("asked", "whole"), [((1000, 1000), 2000), ((1000, 4000), 3200), ((1000, ""), None)])
def test_a_mean_of_suites_shows_as_much_as_its_questions_do(asked, whole, tmp_path):
    rows = "".join(f"1,1,{suite},0.2,{n}\n7,1,{suite},0.1,{n}\n" for suite, n in zip("ab", asked, strict=True))
    mean = read_measurements(
        write(tmp_path, "params_b,visual_tokens,suite,error,n_questions\n" + rows)
    ).mean_of_suites()
    counts = mean.frame["n_questions"]
    assert counts.isna().all() if whole is None else counts.tolist() == [pytest.approx(whole)] * 2


def test_rows_of_one_kind_are_groups_of_their_own(tmp_path):
    text = "params_b,visual_tokens,suite,kind,error\n1,1,a,count,0.2\n1,1,a,all,0.3\n"
    groups = read_measurements(write(tmp_path, text)).groups
    assert groups == [{"suite": "a", "kind": "all"}, {"suite": "a", "kind": "count"}]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "not a CSV"),
        ("params_b,visual_tokens,score\n", {}, "no rows"),
        ("a,b,c\n1,2,3\n", {}, "no column for the size in parameters"),
        ("params_b,score\n1,0.5\n", {}, "no column for the number of visual tokens"),
        ("params_b,visual_tokens\n1,2\n", {}, "no column error or score"),
        ("params_b,visual_tokens,score\n1,2,good\n", {}, "line 2: column 'score' holds 'good'"),
        ("params_b,visual_tokens,score\nbig,2,0.5\n", {}, "line 2: column 'params_b' holds 'big'"),
        ("params_b,params_b,score\n1,2,0.5\n", {}, "names column 'params_b' twice|no column for the number"),
        ("params_b,visual_tokens,score\n1,2,0.5,7,8\n", {}, "more fields|not a CSV"),
        ("params_b,visual_tokens,score\n1,2,0.5\n", {"params_unit": "zillions"}, "params_unit is 'zillions'"),
        ("params_b,visual_tokens,score\n1,2,0.5\n", {"scale": "permille"}, "scale is 'permille'"),
        ("params_b,visual_tokens,score\n1,2,0.5\n", {"columns": {"score": "x"}}, "no column 'x'"),
        ("params_b,visual_tokens,score\n1,2,0.5\n", {"columns": {"colour": "x"}}, "cannot be mapped"),
        ("params_b,visual_tokens,score\n1,2,0.5\n", {"scores": ["gqa"]}, "no column 'gqa'"),
        ("params_b,visual_tokens,gqa,suite\n1,2,0.5,a\n", {"scores": ["gqa"]}, "column 'suite' beside the columns"),
        ("params_b,v1,V1,v16\n1,0.5,0.6,0.7\n", {}, "two columns for one token count"),
    ],
)
def test_unreadable_tables_are_refused_with_a_reason(tmp_path, text, options, message):
    with pytest.raises(UserError, match=message):
        read_measurements(write(tmp_path, text), **options)


def test_missing_file_names_the_published_tables(tmp_path):
    with pytest.raises(UserError, match="li2024_reasoning"):
        read_measurements(tmp_path / "absent.csv")


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00\x01" * 10)
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        read_measurements(path)


def test_selecting_what_is_not_there_says_what_is():
    table = read_measurements("li2024_reasoning")
    with pytest.raises(UserError, match="no row with suite = 'gqa'; it has all"):
        table.select(suite="gqa")
    with pytest.raises(UserError, match="no column 'colour'"):
        table.select(colour="red")


def test_selecting_takes_numbers_as_text_and_seeds_as_numbers(tmp_path):
    table = read_measurements(write(tmp_path, "params_b,visual_tokens,seed,score\n7,1,0,0.5\n7,4,1,0.6\n"))
    assert len(table.select(V="4")) == 1
    assert len(table.select(seed=1)) == 1
    with pytest.raises(UserError, match="no row with V = 'many'"):
        table.select(V="many")


def test_weights_need_standard_errors():
    with pytest.raises(UserError, match="need an error_se above 0"):
        read_measurements("li2024_reasoning").cells(weights="se")


def test_data_frame_needs_its_columns():
    with pytest.raises(UserError, match="no column error"):
        as_measurements(pd.DataFrame({"N": [1.0], "V": [1.0]}))


def test_families_of_released_models_never_share_a_law(tmp_path):
    """Their sizes and tokens may have no cell in common, as those of compressors of one grid have."""
    cells = [("smolvlm", n, v) for n in (0.25, 0.5, 2) for v in (81, 1053)]
    cells += [("qwen2.5-vl", n, v) for n in (3, 7, 32) for v in (64, 256)]
    rows = [f"{n * 1e9:.0f},{v},0.4,{name},{name},{suite}" for suite in ("a", "b") for name, n, v in cells]
    header = "n_params,n_visual_tokens,error,compressor,{},suite"
    table = read_measurements(write(tmp_path, "\n".join([header.format("family"), *rows])))
    assert table.families == ["smolvlm", "qwen2.5-vl"]
    assert [group["compressor"] for group in table.groups] == ["qwen2.5-vl"] * 2 + ["smolvlm"] * 2
    assert [group["compressor"] for group in table.mean_of_suites().groups] == ["qwen2.5-vl", "smolvlm"]
    alone = table.select(compressor="smolvlm")
    assert alone.families == ["smolvlm"] and not alone.has_law_each
    plain = read_measurements(write(tmp_path, "\n".join([header.format("note"), *rows])))
    assert plain.families == [] and not plain.has_law_each

"""Published tables: each is read, its numbers are those that the source prints, and the page is made from them."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws import read_measurements
from vlmlaw.laws.published import TABLES, published_path
from vlmlaw.laws.slopes import PAGE, slopes

ROOT = Path(__file__).parents[3]

# (table, method, N, V, suite): the score that the source prints, as a share; typed from the sources, not the files.
PRINTED = [
    ("li2024_reasoning", "", 0.5, 1, "all", 0.3855),
    ("quecc_table1", "quecc", 7, 1, "gqa", 0.535),
    ("quecc_table1", "tokenpacker", 7, 36, "mme_perception", 1440.9 / 2000),
    ("braco_table1", "quecc", 7, 16, "textvqa", 0.528),
    ("braco_table1", "braco", 7, 9, "mme (/2800)", 1773 / 2800),
    ("braco_table1", "prumerge", 7, 4, "mmvet", 0.125),
    ("restore_llava15", "fastv", 7, 64, "pope", 0.361),
    ("restore_llava15", "holov", 7, 192, "scienceqa", 0.673),
    ("restore_llava15", "tome", 7, 576, "vqav2", 0.785),
    ("restore_llava_next", "vispruner", 7, 320, "textvqa", 0.591),
    ("restore_qwen25vl", "holov", 7, 11.1, "textvqa", 0.564),
    ("btp_llava15", "vtw", 13, 236, "mmvet", 0.226),
    ("btp_llava15", "btp", 13, 576, "mme_perception", 1521.7 / 2000),
    ("fastv_aokvqa", "fastv", 13, 165.6, "aokvqa", 0.809),
    ("mini_gemini", "", 34, 2880, "mathvista", 0.433),
    ("honeybee", "", 13, 576, "mme (/2800)", 1976.5 / 2800),
    ("sglang_qwen3vl", "evs", 32, 20, "videomme", 0.762),
    ("uniprunebench_qwen25vl", "random", 7, 11, "average", 0.501),
    ("uniprunebench_internvl3", "divprune", 8, 22, "average", 0.6758),
]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_and_its_values_are_possible(name):
    frame = read_measurements(name).frame
    assert frame["N"].between(0.4, 40).all() and frame["V"].between(1, 2880).all()
    assert frame["error"].between(0.1, 0.95).all()
    assert not frame.duplicated(["N", "V", "suite", "compressor"]).any()
    about = TABLES[name]
    assert about.caveat and ("arXiv" in about.source or "pull request" in about.source or "ICML" in about.source)
    if about.unit == "per cent":
        assert frame["V"].max() <= 100


def test_no_table_lacks_a_row_of_the_catalogue():
    assert sorted(TABLES) == sorted(path.stem for path in published_path("li2024_ocr").parent.glob("*.csv"))
    with pytest.raises(UserError, match="unknown; the tables are li2024_reasoning"):
        published_path("li2025")


@pytest.mark.parametrize(("name", "method", "n", "v", "suite", "score"), PRINTED)
def test_cells_are_as_the_source_prints_them(name, method, n, v, suite, score):
    found = read_measurements(name).select(compressor=method, N=n, V=v, suite=suite).frame
    assert list(found["error"]) == pytest.approx([1 - score])
    assert {row[0] for row in PRINTED} >= set(TABLES) - {"li2024_ocr"}


def test_braco_normalises_its_scores_as_its_last_column_says():
    """Acc. of Table 1: the mean score over that of the uncompressed model, in per cent; a slip in typing would show."""
    table = read_measurements("braco_table1").frame.assign(score=lambda frame: 1 - frame["error"])
    whole = table[table["compressor"] == "none"].set_index("suite")["score"]
    share = table["score"] / table["suite"].map(whole)
    found = (100 * share).groupby([table["compressor"], table["V"]]).mean()
    printed = {
        ("quecc", 16): 93.9,
        ("tokenpacker", 16): 93.7,
        ("quecc", 4): 91.4,
        ("mqt", 9): 88.9,
        ("braco", 25): 95.2,
    }
    assert {key: found[key] for key in printed} == pytest.approx(printed, abs=0.35)


def test_a_training_free_method_ends_in_the_whole_model():
    frame = read_measurements("restore_llava15").select(V=576).frame
    assert set(frame["compressor"]) == {
        *("fastv", "pyramiddrop", "sparsevlm", "tome", "visionzip", "divprune", "vispruner", "holov")
    }
    assert frame.groupby("suite")["error"].nunique().eq(1).all()
    assert "none" in set(read_measurements("braco_table1").frame["compressor"])  # its methods are trained


@pytest.mark.parametrize("name", ["honeybee", "sglang_qwen3vl", "restore_llava_next"])
def test_fit_reads_a_table_by_its_name(name, capsys):
    assert main(["law", "fit", name, "--bootstrap-draws", "0"]) == 0
    assert "error = 1 - `" in capsys.readouterr().out


def test_fit_says_why_two_cells_make_no_law(capsys):
    assert main(["law", "fit", "uniprunebench_qwen25vl"]) == 2
    assert "too few cells: 2 for 3 parameters" in capsys.readouterr().err


def test_slopes_are_those_of_an_independent_regression():
    (found,) = [slope for slope in slopes("restore_llava15") if slope.method == "divprune"]
    rows = read_measurements("restore_llava15").select(compressor="divprune").frame
    error = rows.groupby("V")["error"].mean()
    line = stats.linregress(np.log(error.index.to_numpy()), logit(error.to_numpy()))
    assert found.beta == pytest.approx(-line.slope)
    assert found.upper - found.beta == pytest.approx(stats.t.ppf(0.975, 2) * line.stderr)
    assert slopes("uniprunebench_internvl3")[0].beta == pytest.approx(
        (logit(1 - 0.6404) - logit(1 - 0.6758)) / np.log(2)
    )


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["law", "tables", "--page"]) == 0
    assert capsys.readouterr().out == (ROOT / PAGE).read_text(), f"make it anew: vlmlaw law tables --page > {PAGE}"


def test_the_list_has_a_line_for_each_and_a_name_gives_its_caveat(capsys):
    assert main(["law", "tables"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out and table.about in out for name, table in TABLES.items())
    assert main(["law", "tables", "braco_table1"]) == 0
    assert "arXiv 2609.35232, Table 1" in capsys.readouterr().out

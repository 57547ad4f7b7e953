"""`vlmlaw law ...` as a user meets it."""

import json
import subprocess
import sys

import pytest

from vlmlaw.cli.main import main


def test_fit_prints_the_headline_first(capsys):
    assert main(["law", "fit", "li2024_reasoning"]) == 0
    out = capsys.readouterr().out
    assert "rho = 4.72  [4.14, 5.35]" in out
    assert "Size matters more than tokens" in out
    assert out.index("rho =") < out.index("law      logit")


def test_fit_writes_the_analysis(tmp_path, capsys):
    path = tmp_path / "sub" / "law.json"
    assert main(["law", "fit", "li2024_ocr", "--out", str(path), "--bootstrap-draws", "200"]) == 0
    data = json.loads(path.read_text())
    assert data["kind"] == "vlmlaw-analysis"
    assert {finding["code"] for finding in data["lint"]} == {"equal-values", "noted"}
    assert data["provenance"]["options"]["bootstrap_draws"] == 200
    assert "equal-values" in capsys.readouterr().out


def test_fit_prints_json(capsys):
    assert main(["law", "fit", "li2024_reasoning", "--json", "--law", "power", "--bootstrap-draws", "0"]) == 0
    fit = json.loads(capsys.readouterr().out)["fits"][0]
    assert fit["law"] == "power"
    assert fit["rho"]["estimate"] == pytest.approx(4.69734, abs=1e-4)


def test_recommend_prints_a_cell(capsys):
    assert main(["law", "recommend", "--flops", "1e12", "--question-tokens", "50"]) == 0
    assert "N = 7 B, V = 16" in capsys.readouterr().out


def test_recommend_json(capsys):
    assert main(["law", "recommend", "li2024_reasoning", "--flops", "1e12", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["n"], data["v"]) == (7, 16)
    assert data["alternatives"][0]["V"] == 1


def test_recommend_prints_findings_once(capsys, recwarn):
    assert main(["law", "recommend", "li2024_ocr", "--flops", "1e12"]) == 0
    assert capsys.readouterr().out.count("WARNING equal-values") == 1
    assert not recwarn.list


def test_recommend_needs_one_suite(capsys, tmp_path):
    path = tmp_path / "x.csv"
    rows = [f"{n},{v},{s},{0.6 - 0.03 * i - 0.02 * j - 0.001 * i * j}" for i, n in enumerate((1, 3, 7))
            for j, v in enumerate((1, 16, 144)) for s in "ab"]  # fmt: skip
    path.write_text("\n".join(["params_b,visual_tokens,suite,error", *rows]))
    assert main(["law", "recommend", str(path), "--flops", "1e12"]) == 2
    assert "--where suite=" in capsys.readouterr().err
    assert main(["law", "recommend", str(path), "--flops", "1e12", "--where", "suite=a"]) == 0


def test_recommend_says_what_a_choice_loses(capsys):
    assert main(["law", "recommend", "--flops", "1e12", "--choice", "0.5,576"]) == 0
    assert "the choice loses 0.0508 (9.88%)" in capsys.readouterr().out
    assert main(["law", "recommend", "--flops", "1e12", "--choice", "7,16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["choice"]["relative"] == 0


def test_options_file_and_flags(tmp_path, capsys):
    path = tmp_path / "experiment.yaml"
    path.write_text("law: {law: probit, bootstrap_draws: 0, question_tokens: [7]}")
    arguments = ["law", "fit", "li2024_reasoning", "--options", str(path), "--question-tokens", "9", "--json"]
    assert main(arguments) == 0
    options = json.loads(capsys.readouterr().out)["provenance"]["options"]
    assert (options["law"], options["question_tokens"]) == ("probit", [9])


def test_expected_cells_from_a_file(tmp_path, capsys):
    path = tmp_path / "cells.csv"
    path.write_text("params_b,visual_tokens\n14,1\n7,1\n")
    assert main(["law", "lint", "li2024_reasoning", "--expected", str(path)]) == 1
    assert "(14 B, 1)" in capsys.readouterr().out


def test_one_compressor_of_several(tmp_path, capsys):
    lines = ["params_b,visual_tokens,compressor,score"]
    lines += [
        f"{n},{v},{c},{0.3 + 0.03 * i + 0.02 * j + 0.01 * (c == 'b') + 0.001 * ((i * j) % 2)}"
        for i, n in enumerate((1, 3, 7))
        for j, v in enumerate((1, 16, 144))
        for c in "ab"
    ]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines))
    assert main(["law", "fit", str(path), "--bootstrap-draws", "0"]) == 0
    out = capsys.readouterr().out
    assert "── a " in out
    assert "── b " in out
    assert main(["law", "fit", str(path), "--where", "compressor=a", "--bootstrap-draws", "0"]) == 0
    assert "── b " not in capsys.readouterr().out


def test_lint_says_clean_or_not(capsys, tmp_path):
    assert main(["law", "lint", "li2024_reasoning"]) == 0
    assert "nothing to report" in capsys.readouterr().out
    path = tmp_path / "bad.csv"
    path.write_text("params_b,visual_tokens,score\n1,1,0.5\n2,4,\n")
    assert main(["law", "lint", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["code"] == "not-a-number"


def test_list_names_every_law(capsys):
    from vlmlaw.laws.families import LAWS

    assert main(["law", "list"]) == 0
    out = capsys.readouterr().out
    assert all(law.formula in out for law in LAWS.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "absent.csv"], "cannot read absent.csv"),
        (["fit", "li2024_reasoning", "--law", "newton"], "law 'newton' is unknown"),
        (["fit", "li2024_reasoning", "--level", "2"], "level holds 2.0"),
        (["fit", "li2024_reasoning", "--options", "absent.yaml"], "cannot read absent.yaml"),
        (["fit", "li2024_reasoning", "--hold-out", "half"], "hold_out is 'half'"),
        (["fit", "li2024_reasoning", "--column", "score"], "has no '='"),
        (["recommend"], "no budget given"),
        (["recommend", "--flops", "10"], "no cell costs 10"),
        (["recommend", "--cost", "price", "--budget", "3"], "no column 'price'"),
        (["recommend", "--flops", "1e12", "--choice", "7"], "--choice holds 1 numbers"),
        (["recommend", "--flops", "1e12", "--choice", "7,-4"], "must be above 0"),
    ],
)
def test_bad_input_ends_in_one_message_and_status_two(arguments, message, capsys):
    assert main(["law", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_starts_without_heavy_imports():
    code = (
        "import sys; from vlmlaw.cli.main import main; main(['law', 'fit', 'li2024_reasoning']);"
        "heavy = {'torch', 'transformers', 'seaborn', 'matplotlib', 'snakemake', 'statsmodels'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

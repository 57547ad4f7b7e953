"""The command line as it meets a person: its help, inputs that are not there, stages that an experiment lacks."""

from pathlib import Path

import pytest

from vlmlaw.__main__ import build_parser, main

PARAMS = str(Path(__file__).parents[1] / "params.yaml")


def test_help_begins_with_what_needs_no_training():
    text = build_parser().format_help()
    assert text.index("    law ") < text.index("    experiment ") < text.index("    train ")


def test_an_input_that_is_not_there_is_named(tmp_path, capsys):
    given = ["encoder", "features", "--dataset", str(tmp_path), "--layers", "1", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--encoder", str(tmp_path / "none")])
    assert f"argument --encoder: '{tmp_path / 'none'}' is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage",
    [
        "fetch tokenizer",
        "fetch vision",
        "data prepare --split train",
        "align --language-model . --encoder . --tokens . --images . --cell 56k_v1_average_s0",
    ],
)
def test_a_stage_that_the_experiment_does_not_have_is_refused(stage, tmp_path, capsys):
    assert main([*stage.split(), "--experiment", PARAMS, "--out", str(tmp_path / "out")]) == 2
    assert "has no such stage: its data have the source miniature" in capsys.readouterr().err


def test_a_split_that_the_experiment_does_not_have_is_refused(tmp_path, capsys):
    given = ["--dataset", ".", "--tokenizer", ".", "--out", str(tmp_path / "out"), "--experiment", PARAMS]
    assert main(["data", "tokenize", "--split", "dev", *given]) == 2
    assert "no split is called 'dev'; the experiment miniature has train, development, test, text" in (
        capsys.readouterr().err
    )


def test_a_missing_experiment_file_is_named_with_what_to_do(capsys):
    assert main(["experiment", "check", "none.yaml"]) == 2
    assert "cannot read none.yaml: there is no such file; name an experiment file" in capsys.readouterr().err

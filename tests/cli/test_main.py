"""The command line as it meets a person: its help, inputs that are not there, stages that an experiment lacks."""

from pathlib import Path

import pytest

from vlmlaw.cli.main import build_parser, main

PARAMS = str(Path(__file__).parents[2] / "params.yaml")


def test_help_begins_with_what_needs_no_training():
    text = build_parser().format_help()
    assert text.index("    law ") < text.index("    experiment ") < text.index("    train ")


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """In the working directory, the files by which a stage knows its inputs; their content is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "tokenizer.json", "index.npz", "tokens.npz"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("encoder", "none", "'none' is not there"),
        ("encoder", "empty", "'empty' has no config.json or model.json"),
        ("dataset", "empty", "'empty' has no index.npz"),
        ("tokens", "empty", "'empty' is a folder; expected a file"),
    ],
)
def test_an_input_that_is_none_is_named(inputs, option, given, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*("encoder features" if option != "tokens" else "align").split(), f"--{option}", given])
    assert f"argument --{option}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage",
    [
        "fetch tokenizer",
        "fetch vision",
        "data prepare --split train",
        "align --language-model . --encoder . --tokens tokens.npz --images . --cell 84k_v1_average_elastic_s0",
    ],
)
def test_a_stage_that_the_experiment_does_not_have_is_refused(inputs, stage, capsys):
    assert main([*stage.split(), "--experiment", PARAMS, "--out", "out"]) == 2
    assert "has no such stage: its data have the source miniature" in capsys.readouterr().err


def test_a_split_that_the_experiment_does_not_have_is_refused(inputs, capsys):
    given = ["--dataset", ".", "--tokenizer", ".", "--out", "out", "--experiment", PARAMS]
    assert main(["data", "tokenize", "--split", "dev", *given]) == 2
    assert "no split is called 'dev'; the experiment miniature has train, development, test, text" in (
        capsys.readouterr().err
    )


def test_a_missing_experiment_file_is_named_with_what_to_do(capsys):
    assert main(["experiment", "check", "none.yaml"]) == 2
    assert "cannot read none.yaml: there is no such file; name an experiment file" in capsys.readouterr().err

"""What an installation without extras or without a clone can do, and says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.workflow.new_project import PARTS, write_project

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from vlmlaw.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
TRAIN = ["torch", "transformers", "safetensors", "PIL", "sklearn", "tqdm", "tensorboardX"]


@pytest.mark.parametrize(
    ("missing", "verb", "extra"),
    [
        (TRAIN, ["practice", "--out", "p"], "train"),
        (TRAIN, ["chat", "cell", "what?"], "train"),
        (["snakemake", "dvc"], ["adopt"], "workflow"),
    ],
)
def test_one_line_names_the_extra(tmp_path, missing, verb, extra):
    (tmp_path / "results" / "cells" / "cell" / "model").mkdir(parents=True)
    (tmp_path / "results" / "cells" / "cell" / "model" / "config.json").write_text("{}")
    code = WITHOUT.format(missing=missing)
    source = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, *verb], cwd=tmp_path, env=os.environ | source, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"pip install 'vlmlaw[{extra}]'" in done.stderr


def test_the_workflow_is_written_into_an_empty_folder(tmp_path, capsys):
    assert main(["init", str(tmp_path / "study"), "--experiment", "tiny"]) == 0
    made = tmp_path / "study"
    assert all((made / name).exists() for name in PARTS) and "snakemake --cores all" in capsys.readouterr().out
    params = yaml.safe_load((made / "params.yaml").read_text())
    assert params["name"] == "tiny" and params["results"] == "results"
    assert "src/vlmlaw" not in (made / "dvc.yaml").read_text() and "Snakefile" in (made / "dvc.yaml").read_text()
    with pytest.raises(UserError, match="has Snakefile, "):
        write_project(made)
    with pytest.raises(UserError, match="no experiment is called 'tinny'"):
        write_project(tmp_path / "other", experiment="tinny")

"""The workflow's files in a new folder: refused where they cannot be written."""

import pytest

from vlmlaw.errors import UserError
from vlmlaw.workflow.new_project import write_project


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "study").write_text("a file")
    with pytest.raises(UserError, match="study is a file; name another folder"):
        write_project(tmp_path / "study")


def test_an_experiment_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"no experiment is called 'huge'; there are .*tiny"):
        write_project(tmp_path / "study", experiment="huge")
    assert not (tmp_path / "study").exists()

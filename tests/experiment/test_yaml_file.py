"""YAML files: what reads as something else than it looks like is refused with its line."""

import re
import time
from pathlib import Path

import pytest
import yaml

from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.experiment.yaml_file import read_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def read(tmp_path):
    def of_text(text: str):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return read_yaml(path)

    return of_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice, first in line 1; remove one of them."),
        ("a:\n  7: 1\n  '7': 1\n", "line 3: the key '7' is there twice, first in line 2"),
        ("sizes:\n  no: {}\n", "line 2: YAML reads the name no as False; write it in quotes: 'no'."),
        ("sizes:\n  1.50: {}\n", "line 2: YAML reads the name 1.50 as 1.5; write it in quotes: '1.50'."),
        ("~: {}\n", "line 1: YAML reads the name ~ as None"),
        ("steps: 0100", "line 1: YAML reads 0100 as 64; write 64 if that is meant, or '0100' for text."),
        ("a: [1, 010]", "line 1: YAML reads 010 as 8"),
        ("steps: 1:30", "line 1: YAML reads 1:30 as 90"),
        ("0100", "line 1: YAML reads 0100 as 64"),
        ("rate: 1:30.5", "line 1: YAML reads 1:30.5 as 90.5"),
        ("steps: 1_000", "line 1: YAML reads 1_000 as 1000"),
        ("sizes: [s, no]", "line 1: YAML reads no as False; write it in quotes if it is a name: 'no'."),
        ("? [a]\n: 1", "line 1: found a list or section as a name; expected text."),
        ("a: &a [*a]", "line 1: an alias stands for what it is part of; write it out"),
        ("a: " + "9" * 5000, "cannot read"),
        ("a: 2026-13-45", "cannot read"),
        ("a: {b", "cannot read"),
        ("a: !!python/name:os.system", "cannot read"),
    ],
)
def test_a_trap_is_refused_with_its_line(read, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(text)


def test_all_lines_that_are_wrong_are_named(read):
    with pytest.raises(UserError) as refused:
        read("no: 010\nb: 1\nb: 1:30\n")
    assert re.findall(r", line (\d):", str(refused.value)) == ["1", "1", "3", "3"]


def test_aliases_that_explode_end_in_a_message_at_once(read):
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    began = time.process_time()
    with pytest.raises(UserError, match="aliases stand for more than 1,000,000 values"):
        read("\n".join(lines))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "text",
    [
        *((ROOT / name).read_text() for name in ("params.yaml", "workflow/experiments/tiny.yaml")),
        "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: *x\n",
        "14: 1\n1.5: no\n'no': '010'\nrate: 1.50\nmore: [true, -3, 0, 1.0e-3]\n",
        "",
    ],
)
def test_what_means_what_it_says_is_read_as_ever(read, text):
    assert read(text) == yaml.safe_load(text)


def test_an_experiment_file_is_read_so(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text + "\nname: again\n")
    line = len(text.splitlines()) + 2
    with pytest.raises(UserError, match=f"params.yaml, line {line}: the key 'name' is there twice"):
        read_experiment(tmp_path / "params.yaml")

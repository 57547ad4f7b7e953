"""An option of a size is added by one line, and setting it for one size reruns the jobs of that size alone."""

import json

import pytest

from .project import tiny_experiment
from .standins import use_standins

SETTINGS = "src/vlmlaw/training/settings.py"
LAST_OPTION = "    num_attention_heads: int = number(least=1)\n"
NEW_OPTION = "    num_key_value_heads: int | None = number(least=1, default=None)\n"
JSON_OF_SIZES = """
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.settings import to_json
experiment = read_experiment("params.yaml")
print("\\n".join(to_json(experiment.size_settings(size)) for size in experiment.sizes))
"""
KEY_VALUE_HEADS = """
from vlmlaw.experiment.experiment import read_experiment
from vlmlaw.training.language_model import qwen2_config
experiment = read_experiment("params.yaml")
for size in experiment.sizes:
    config = qwen2_config(experiment.size_settings(size), vocab_size=10, pad_token_id=0, eos_token_id=1)
    print(config.num_key_value_heads)
"""
pytestmark = pytest.mark.workflow


def test_an_option_of_a_size_is_added_by_one_edit_in_one_place(fresh):
    project = fresh(tiny_experiment())
    project.change("grid", {"visual_tokens": [1, 4], "compressors": ["average"], "sizes": ["3k", "14k"]})
    use_standins(project.folder)
    before = project.python(JSON_OF_SIZES)
    assert (project.folder / SETTINGS).read_text().count(LAST_OPTION) == 1
    project.edit(SETTINGS, LAST_OPTION, LAST_OPTION + NEW_OPTION)
    assert project.python(JSON_OF_SIZES) == before  # sizes that do not set it have the settings that they had
    project.snakemake("cells")
    assert project.planned("cells") == {}

    project.change("sizes.14k.num_key_value_heads", 1)
    of_the_size = {"pretrain_language_model": 1, "train_cell": 2, "evaluate_cell": 2}
    assert project.planned("cells") == of_the_size | {"write_cards": 1, "collect_measurements": 1}
    assert project.planned(*(f"results/cells/3k_v{n}_average_s0/evaluation.json" for n in (1, 4))) == {}
    sizes = [json.loads(line) for line in project.python(JSON_OF_SIZES).splitlines()]
    assert [size.get("num_key_value_heads") for size in sizes] == [None, 1, None]
    assert project.python(KEY_VALUE_HEADS).split() == ["2", "1", "2"]

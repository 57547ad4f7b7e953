"""The throughput benchmark: every speed-up computes the same loss, and figures are of what was done."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "training_throughput.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("training_throughput", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_speed_ups_change_the_speed_alone(benchmark, tmp_path, capsys):
    arguments = ["--shape", "tiny", "--visual-tokens", "4", "--stages", "2", "--steps", "1"]
    rows = benchmark.main([*arguments, "--json", str(tmp_path / "table.json")])
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    named = {row["variant"]: row for row in rows}
    assert ("Trainer" in named) == (importlib.util.find_spec("accelerate") is not None)
    assert {"all speed-ups", "LLM part", "padded", "logits of every token", "tower's unused layers"} <= set(named)
    losses = [row["last_loss"] for name, row in named.items() if name not in ("Trainer", "LLM part")]
    assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-4)
    assert named["all speed-ups"]["fill"] == 1 and 0.2 < named["padded"]["fill"] < 0.95
    for row in rows:
        assert row["tokens_per_second"] > row["samples_per_second"] > 0 and 0 < row["mfu"] < 1
    table = capsys.readouterr().out
    assert "| 4 | 2 | all speed-ups |" in table and table.count("\n| 4 | 2 |") == len(rows)


def test_text_is_as_long_as_it_says(benchmark):
    for stage, mean in benchmark.MEAN_TEXT_TOKENS.items():
        table = benchmark.random_table(2000, stage=stage, shape=benchmark.FULL)
        has_image = table.image_rows >= 0
        lengths = table.starts[1:] - table.starts[:-1] - has_image
        assert lengths.mean() == pytest.approx(mean, rel=0.05) and lengths.max() <= benchmark.LONGEST_TEXT
        assert has_image.mean() == pytest.approx(benchmark.IMAGE_SHARE[stage], abs=0.02)
        assert 0.4 < (table.targets >= 0).sum() / lengths.sum() < 0.55

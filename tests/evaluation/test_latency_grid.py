"""Milliseconds of a grid by its shapes: the models timed are those that the grid has, trained or not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from transformers import AutoModel, AutoModelForCausalLM

from vlmlaw.data.practice import write_practice
from vlmlaw.errors import UserError
from vlmlaw.evaluation.latency_grid import LATENCY_COLUMNS, add_latency, measure_grid
from vlmlaw.evaluation.settings import LatencySettings
from vlmlaw.experiment.experiment import Experiment
from vlmlaw.experiment.latency import latency_plan
from vlmlaw.hub.settings import ModelSettings
from vlmlaw.vlm.cost import vision_flops

PRACTICE = Path(__file__).parents[2] / "workflow" / "experiments" / "practice.yaml"
QUICK = LatencySettings(text_tokens=5, repeats=3)


@pytest.fixture
def plan(monkeypatch, tmp_path):
    """The plan of the practice experiment, whose models lie beside it."""
    monkeypatch.chdir(tmp_path)
    write_practice(Path("practice"))
    return replace(latency_plan(Experiment.from_mapping(yaml.safe_load(PRACTICE.read_text()))), latency=QUICK)


def test_a_pretrained_grid_is_timed_before_any_training_with_the_shapes_of_its_models(plan):
    measure_grid(plan, Path("latency.json"))
    made = json.loads(Path("latency.json").read_text())
    assert set(made["cells"]) == {f"{n}_v{v}_tokenpacker" for n in ("10k", "50k") for v in (1, 4, 16)} | {
        "10k_v4_quecc"
    }
    tower = AutoModel.from_pretrained("practice/vision")
    for size in ("10k", "50k"):
        llm = AutoModelForCausalLM.from_pretrained(f"practice/language_models/{size}")
        embeddings = {id(llm.get_input_embeddings().weight), id(llm.get_output_embeddings().weight)}
        n_params = sum(p.numel() for p in llm.parameters() if id(p) not in embeddings)
        for v in (1, 4, 16):
            row = made["cells"][f"{size}_v{v}_tokenpacker"]
            assert row["n_params"] == n_params
            assert row["flops_2nt"] == 2 * n_params * (v + QUICK.text_tokens)
            assert row["vision_flops"] == vision_flops(getattr(tower.config, "vision_config", tower.config))
            parts = sum(row[name] for name in ("tower_ms", "question_ms", "compressor_ms", "llm_ms"))
            assert 0 < row["first_token_ms"] == pytest.approx(parts, abs=1e-3)
            assert row["median_ms"] >= row["first_token_ms"] - 1e-3
            assert row["passes"] == QUICK.repeats
            assert row["question_ms"] == 0
    assert made["cells"]["10k_v4_quecc"]["question_ms"] > 0


def test_a_model_without_a_class_is_named(plan):
    folder = Path("unknown")
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "brand_new", "hidden_size": 8, "num_hidden_layers": 1}')
    other = replace(plan, sizes={"10k": ModelSettings(source=str(folder))})
    with pytest.raises(UserError, match="unknown is of the type 'brand_new', which transformers has no class for"):
        measure_grid(other, Path("latency.json"))
    assert not Path("latency.json").exists()


def test_a_machine_without_a_gpu_says_so(plan, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"latency\.device is gpu, and this process sees none"):
        measure_grid(replace(plan, latency=replace(QUICK, device="gpu")), Path("latency.json"))


TABLE = (
    "cell,size,compressor,n_visual_tokens,kept_tokens,n_params,vision_flops,error\n"
    "3k_v4_x_s0,3k,x,4,4,100,7,0.30\n3k_v4_x_s1,3k,x,4,4,100,7,0.5\n"
)
TIMED = {"first_token_ms": 6.5, "tower_ms": 1.0, "question_ms": 0.0, "compressor_ms": 0.5, "llm_ms": 5.0}


def timed(**more):
    cells = {"3k_v4_x": {**TIMED, "n_params": 100, "vision_flops": 7, **more}}
    return json.dumps({"cells": cells, "settings": {"text_tokens": 16}})


def test_every_seed_of_a_cell_gets_its_milliseconds_and_all_else_stays(tmp_path):
    table, latency = tmp_path / "measurements.csv", tmp_path / "latency.json"
    table.write_text(TABLE)
    latency.write_text(timed())
    add_latency(table, latency)
    head, *rows = TABLE.splitlines()
    assert table.read_text().splitlines() == [
        ",".join([head, *LATENCY_COLUMNS]),
        *(f"{row},6.5,1.0,0.0,0.5,5.0,16" for row in rows),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (timed(n_params=101), "timed 3k_v4_x with n_params = 101, and the cell has 100: another model"),
        (timed(vision_flops=8), "timed 3k_v4_x with vision_flops = 8, and the cell has 7"),
        (timed().replace("3k_v4", "3k_v9"), "has no milliseconds of 3k_v4_x"),
        ("[]", "holds no milliseconds"),
    ],
)
def test_milliseconds_of_other_models_are_refused(tmp_path, text, message):
    table, latency = tmp_path / "measurements.csv", tmp_path / "latency.json"
    table.write_text(TABLE)
    latency.write_text(text)
    with pytest.raises(UserError, match=message):
        add_latency(table, latency)
    assert table.read_text() == TABLE

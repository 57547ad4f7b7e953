"""The whole path of a real experiment: CLIP, Qwen2 and LLaVA-style data in their own formats, under Snakemake."""

import csv
import hashlib
import json
import shutil

import pytest
import yaml

from .project import ROOT, Project, new_project, put_under_dvc
from .standins import use_standins

pytestmark = pytest.mark.workflow


def practice(folder) -> Project:
    """The practice experiment without its second compressor."""
    from vlmlaw.data.practice import write_practice

    experiment = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())
    experiment["grid"].pop("more")
    project = new_project(folder, experiment | {"results": "results"})
    write_practice(project.folder / "practice")
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The practice experiment, run to the end."""
    project = practice(tmp_path_factory.mktemp("practice") / "project")
    project.snakemake()
    return project


def test_a_cell_of_an_odd_language_model_and_an_odd_tower_is_trained_and_evaluated(tmp_path):
    """Gemma 2, whose windows and soft caps bite, with adapters; DINOv2 with registers, trained at a rate of its own."""
    from safetensors.torch import load_file

    from vlmlaw.data.practice import write_practice

    experiment = yaml.safe_load((ROOT / "workflow" / "experiments" / "practice.yaml").read_text())
    experiment["grid"] = {"visual_tokens": [4], "compressors": ["tokenpacker"]}
    experiment["sizes"].pop("50k")
    experiment["data"]["test"].pop("reading")
    for stage, more in (
        ("alignment", {}),
        ("training", {"lora": {"rank": 2, "alpha": 4}, "vision_learning_rate": 1.0e-3}),
    ):
        experiment[stage] |= {"epochs": 0, "steps": 4} | more
    project = new_project(tmp_path / "project", experiment | {"results": "results"})
    write_practice(project.folder / "practice", language_models="gemma2", vision="dinov2")
    cell = project.folder / "results" / "cells" / "10k_v4_tokenpacker_s0"
    project.snakemake(str((cell / "README.md").relative_to(project.folder)))

    config = json.loads((cell / "model" / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert (text["model_type"], text["sliding_window"], text["attn_logit_softcapping"]) == ("gemma2", 16, 5.0)
    assert set(text["layer_types"]) == {"sliding_attention", "full_attention"}
    assert (vision["model_type"], vision["num_register_tokens"]) == ("dinov2_with_registers", 4)
    assert (cell / "adapter" / "adapter_model.safetensors").exists()
    after = load_file(cell / "model" / "model.safetensors")
    before = load_file(project.folder / "practice" / "vision" / "model.safetensors")
    moved = {name for name, weight in before.items() if (after[f"vision_tower.{name}"] != weight).any()}
    assert {"embeddings.register_tokens", "embeddings.cls_token", "encoder.layer.0.mlp.fc1.weight"} <= moved
    assert not any(name.startswith(("layernorm.", "encoder.layer.2.")) for name in moved)  # layer -2 is read
    scores = json.loads((cell / "evaluation.json").read_text())["scores"]
    assert 0 <= scores["reasoning"]["all"]["error"] <= 1


def test_prepare_both_stages_evaluation_law_and_report_run_from_one_command(finished):
    results = finished.folder / "results"
    rows = list(csv.DictReader((results / "measurements.csv").open()))
    whole = [row for row in rows if row["kind"] == "all"]
    assert {row["suite"] for row in whole} == {"reasoning", "reading"} and len({row["cell"] for row in whole}) == 6
    assert all(0 < float(row["error"]) <= 1 for row in whole)
    assert min(float(row["error"]) for row in whole if row["suite"] == "reasoning") < 0.5  # something was learned
    assert json.loads((results / "law" / "law.json").read_text())["fits"]
    assert "A practice run" in (results / "report" / "index.html").read_text()


def test_every_cell_has_its_stage_1_its_card_and_a_processor(finished):
    results = finished.folder / "results"
    for cell in sorted(path.name for path in (results / "cells").iterdir()):
        stage_1 = json.loads((results / "cells" / cell / "stage_1" / "training.json").read_text())
        assert stage_1["settings"]["trains_language_model"] is False and stage_1["steps"] == 8
        assert json.loads((results / "cells" / cell / "training.json").read_text())["steps"] == 156
        assert f"# {cell}" in (results / "cells" / cell / "README.md").read_text()
        n_visual_tokens = int(cell.split("_v")[1].split("_")[0])
        processor = json.loads((results / "cells" / cell / "model" / "processor_config.json").read_text())
        assert processor["n_visual_tokens"] == n_visual_tokens


def test_no_pretrained_weights_are_copied(finished):
    for folder in ("encoder", "language_models"):
        assert not list((finished.folder / "results" / folder).rglob("*.safetensors"))


def test_done_is_done_and_a_change_of_stage_2_leaves_stage_1(finished):
    assert finished.planned() == {}
    before = finished.params["training"]["learning_rate"]
    finished.change("training.learning_rate", 4.0e-3)
    planned = finished.planned()
    finished.change("training.learning_rate", before)
    assert planned["train_cell"] == 6 and "align_cell" not in planned and "prepare_pictures" not in planned


@pytest.fixture(scope="module")
def stood_in(tmp_path_factory) -> Project:
    """The practice experiment under DVC, its results committed and pushed; stand-ins did the work."""
    folder = tmp_path_factory.mktemp("stood_in")
    project = practice(folder / "project")
    use_standins(project.folder)
    put_under_dvc(project, remote=folder / "remote")
    project.jobs = project.repro()
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=results")
    project.dvc("push")
    return project


def clone_of(project: Project, folder) -> Project:
    project.git("clone", "--quiet", ".", str(folder))
    clone = Project(folder)
    clone.dvc("pull")
    return clone


def test_dvc_runs_and_records_it_with_its_stage_1(stood_in, tmp_path):
    """What is asked is whether DVC's stages fit an experiment that has other sections."""
    assert (stood_in.jobs["align_cell"], stood_in.jobs["train_cell"]) == (6, 6)
    clone = clone_of(stood_in, tmp_path / "clone")
    assert len(list((clone.folder / "results" / "cells").glob("*/stage_1/connector.safetensors"))) == 6
    assert clone.planned() == {} and clone.status() == {}
    clone.change("training.learning_rate", 4.0e-3)
    jobs = clone.repro()
    assert jobs["train_cell"] == 6 and "align_cell" not in jobs
    hours = json.loads((clone.folder / "results/headline/metrics/trainings.json").read_text())["hours"]
    assert hours == 12 * 36 / 3600


@pytest.mark.parametrize("records", [True, False], ids=["with Snakemake's records", "without them"])
def test_a_users_file_counts_by_its_content(stood_in, tmp_path, records):
    """A model or data file copied anew reruns nothing; another one does, although no data lie in the clone."""
    clone = clone_of(stood_in, tmp_path / "clone")
    if not records:
        shutil.rmtree(clone.folder / ".snakemake")
    for path in (clone.folder / "practice").rglob("*"):
        path.touch()
    assert clone.planned() == {}
    weights = clone.folder / "practice" / "language_models" / "10k" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    planned = clone.planned()
    assert (planned["fetch_language_model"], planned["align_cell"], planned["train_cell"]) == (1, 3, 3)
    shutil.copy(stood_in.folder / "practice" / "language_models" / "10k" / "model.safetensors", weights)
    assert clone.planned() == {}
    conversations = clone.folder / "practice" / "train.json"
    conversations.write_text(conversations.read_text() + " ")
    planned = clone.planned()
    assert planned["prepare_pictures"] == 2  # the evaluations want the test split's back
    assert planned["train_cell"] == 6 and "align_cell" not in planned
    if records:
        assert clone.repro() == {}  # dvc.yaml does not name them
    jobs = clone.repro("--force")
    assert jobs["prepare_pictures"] == 2 and jobs["train_cell"] == 6 and "align_cell" not in jobs
    assert clone.planned() == {} and clone.status() == {}
    cell = clone.vlmlaw("provenance", "10k_v4_tokenpacker_s0").stdout
    assert f"practice/train.json version {hashlib.sha256(conversations.read_bytes()).hexdigest()[:16]}" in cell


def test_benchmarks_can_be_all_that_is_measured(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    project = Project(tmp_path / "copy")
    (project.folder / "asked.json").write_text(json.dumps([{"id": "a", "question": "What?", "answer": "That."}]))
    asked = {"name": "asked", "questions": "asked.json", "suite": "reading", "metric": "exact_match"}
    project.change("data.test", {})
    project.change("evaluation", {"benchmarks": [asked]})
    behind = ("collect_measurements", "fit_law", "write_headline", "write_report")
    assert project.planned() == {"evaluate_benchmark": 6, "write_cards": 1} | dict.fromkeys(behind, 1)
    cell = "10k_v4_tokenpacker_s0"
    project.snakemake(f"results/cells/{cell}/benchmarks/asked.json")
    assert project.planned() == {"evaluate_benchmark": 5, "write_cards": 1} | dict.fromkeys(behind, 1)
    card = project.folder / "results" / "cells" / cell / "README.md"
    project.snakemake(str(card.relative_to(project.folder)))
    assert "## Errors on benchmarks" in card.read_text() and "| reading | asked |" in card.read_text()
    project.change("evaluation", {"benchmarks": [asked | {"instruction": "Shortly."}]})
    assert project.planned()["evaluate_benchmark"] == 6

"""DVC and Snakemake as one: after each kind of change both rerun the same jobs, here and in a clone. Both are real;
the stages are stand-ins that take no time, since which jobs run is the question."""

import json
import shutil

import pytest

from vlmlaw.runtime.whole_files import sha256_of
from vlmlaw.workflow import records

from .project import Project

pytestmark = pytest.mark.workflow
CELL = "results/cells/14k_v4_block_linear_s0"
LAW = {"fit_law": 1, "write_headline": 1, "write_report": 1}
TAIL = {"collect_measurements": 1} | LAW
REBUILT = {"build_tokenizer": 1, "draw_pictures": 2, "tokenize": 2, "cache_features": 2}  # caches that cells read
NEW_SIZE = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def cells(n: int) -> dict[str, int]:
    """n cells trained again, and what follows from them."""
    return {"train_cell": n, "evaluate_cell": n, "write_cards": 1} | TAIL


def both_agree(project: Project, jobs: dict[str, int]) -> None:
    """Snakemake plans these jobs, `dvc repro` runs them, and then neither has anything to do.

    `dvc repro` asks Snakemake anew for each stage, and so leaves out the law and the report where the measurements
    come out as they were.
    """
    assert project.planned() == jobs
    ran = project.repro()
    assert ran.items() <= jobs.items()
    assert without_tail(ran) == without_tail(jobs)
    assert project.planned() == {}
    assert project.status() == {}


def one_size_then_one_token_count(clone: Project) -> None:
    """Each trains its own cells; the first of them brings back the caches."""
    clone.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    both_agree(clone, REBUILT | cells(3))
    clone.change("grid.visual_tokens", [1, 4, 9, 36])
    assert clone.planned() == cells(3)


def without_tail(jobs: dict[str, int]) -> dict[str, int]:
    return {rule: n for rule, n in jobs.items() if rule not in TAIL}


def test_snakemakes_records_hold_no_environment_that_was_not_used(recorded_once):
    """It would be most of what they weigh, and they are pushed."""
    paths = [path for path in (recorded_once.folder / ".snakemake" / "metadata").rglob("*") if path.is_file()]
    assert paths and all(json.loads(path.read_text())["conda_env"] is None for path in paths)


def test_nothing_changed(recorded):
    both_agree(recorded, {})


def test_each_change_of_the_experiment(recorded):
    """One after the other, so that one finished run serves all."""
    for path, value, jobs in [
        ("sizes.7k", NEW_SIZE, {"pretrain_language_model": 1} | cells(3)),
        ("grid.more", [{"sizes": ["3k"], "visual_tokens": [4], "compressors": {"quecc": {"n_heads": 4}}}], cells(1)),
        (
            "data.images.test",
            80,
            {"draw_pictures": 1, "tokenize": 1, "cache_features": 1, "evaluate_cell": 13, "write_cards": 1} | TAIL,
        ),
        ("law.bootstrap_draws", 20, LAW),
        ("report.title", "Another title", {"write_report": 1}),
    ]:
        recorded.change(path, value)
        both_agree(recorded, jobs)


def test_dvc_runs_jobs_by_the_profile_that_the_user_chose(recorded, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("jobs: 1\nprintshellcmds: true\n")
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    done = recorded.dvc("repro", SNAKEMAKE_PROFILE=str(tmp_path / "mine"))
    assert "mine" in done.stderr.partition("Building DAG")[0]
    assert done.stderr.count(" --log results/logs/train_cell/14k_") == 3  # nothing else prints them
    assert recorded.status() == {}


def test_each_change_of_the_code(recorded):
    for path, old, new, jobs in [
        ("src/vlmlaw/training/cell.py", "def build_vlm(", "# What a cell starts from.\ndef build_vlm(", {}),
        ("src/vlmlaw/compressors/region_attention.py", "LAYER_NORM_EPS = 1e-6", "LAYER_NORM_EPS = 1e-5", cells(1)),
        ("src/vlmlaw/laws/families/links.py", "special.expit(eta)", "special.expit(1.0 * eta)", LAW),
    ]:
        recorded.edit(path, old, new)
        both_agree(recorded, jobs)


def test_a_clone_has_nothing_to_do(clone):
    assert not (clone.folder / "results" / "features").exists()
    both_agree(clone, {})


def test_a_clone_trains_what_a_change_touches_and_no_more(clone):
    """The caches come back for the cells that need them; the other cells do not run because of them."""
    one_size_then_one_token_count(clone)


@pytest.mark.parametrize(
    ("path", "value", "jobs"),
    [
        ("grid.visual_tokens", [1, 4, 9, 36], REBUILT | cells(3)),
        ("evaluation.batch_size", 16, {"build_tokenizer": 1, "draw_pictures": 1, "tokenize": 1, "cache_features": 1}
         | {"evaluate_cell": 10, "write_cards": 1} | TAIL),
        ("report.title", "Another title", {"draw_pictures": 1, "write_report": 1}),
        ("law.bootstrap_draws", 20, {"draw_pictures": 1} | LAW),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_clone_plans(clone, path, value, jobs):
    clone.change(path, value)
    assert clone.planned() == jobs


@pytest.fixture
def bare(clone) -> Project:
    """A clone whose results came without `.snakemake`: nothing but the records beside them says what they are."""
    shutil.rmtree(clone.folder / ".snakemake")
    return clone


def test_a_clone_without_snakemakes_records_trains_what_a_change_touches_and_no_more(bare):
    """File times alone would rerun everything, and let a changed setting pass."""
    assert bare.planned() == {}
    one_size_then_one_token_count(bare)


@pytest.mark.parametrize(
    ("path", "value", "jobs"),
    [
        ("sizes.14k.pretraining", {"steps": 10}, {"build_tokenizer": 1, "write_text": 1, "tokenize": 3}
         | {"draw_pictures": 2, "cache_features": 2, "pretrain_language_model": 1} | cells(3)),
        ("grid.held_out", None, {"draw_pictures": 1} | TAIL),
        ("law.bootstrap_draws", 20, {"draw_pictures": 1} | LAW),
        ("report.title", "Another title", {"draw_pictures": 1, "write_report": 1}),
        ("name", "other", {"draw_pictures": 1, "write_report": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_clone_without_snakemakes_records_plans(bare, path, value, jobs):
    bare.change(path, value)
    assert bare.planned() == jobs


def test_without_snakemakes_records_a_model_made_again_with_other_bytes_is_not_taken_for_the_old_one(bare):
    """As after a run that was killed between a language model and its cells."""
    folder = bare.folder / "results" / "language_models" / "14k"
    (folder / "model.safetensors").write_bytes(b"other weights")
    record = json.loads((folder / "record.json").read_text())
    identity = record["files"]["model.safetensors"]
    identity |= {"sha256": sha256_of(folder / "model.safetensors"), "bytes": 13}
    record["content"] = records.content_version(record["files"])
    del record[records.SEAL]
    (folder / "record.json").write_text(json.dumps(record))
    assert bare.planned() == REBUILT | cells(3)


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        (f"{CELL}/model/model.safetensors", cells(1)),
        (f"{CELL}/training.json", cells(1)),
        (f"{CELL}/evaluation.json", {"evaluate_cell": 1, "write_cards": 1} | TAIL),
        (f"{CELL}/README.md", {"write_cards": 1}),
        ("results/language_models/14k/model.safetensors", {"pretrain_language_model": 1} | cells(3)),
        ("results/measurements.csv", TAIL),
        ("results/law/law.json", LAW),
        ("results/report/index.html", {"write_report": 1}),
    ],
)
def test_a_damaged_result_is_made_again_or_restored_and_never_read(recorded, file, jobs):
    path = recorded.folder / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert recorded.planned() == jobs
    assert recorded.status()
    recorded.dvc("checkout", "--force")
    assert path.read_bytes() == whole
    assert recorded.planned() == {}
    assert recorded.status() == {}


def test_a_damaged_cell_is_trained_again_by_either_tool(recorded):
    weights = recorded.folder / CELL / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"not weights")
    assert without_tail(recorded.repro()) == without_tail(cells(1))
    assert weights.read_bytes() == whole  # the same settings, inputs and code
    assert recorded.status() == {}
    weights.write_bytes(b"not weights")
    recorded.snakemake()
    assert weights.read_bytes() == whole
    assert recorded.planned() == {}


def test_a_deleted_cell_is_noticed_by_both_and_restored(recorded):
    shutil.rmtree(recorded.folder / CELL)
    assert recorded.planned() == cells(1)
    assert "cells" in recorded.status()
    recorded.dvc("checkout")
    assert recorded.planned() == {}
    assert recorded.status() == {}


def test_a_damaged_cache_is_made_again_and_retrains_nothing(recorded):
    (recorded.folder / "results/features/train/layer2.npy").write_bytes(b"not features")
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    assert recorded.planned() == {"cache_features": 1} | cells(3)


def test_deleted_caches_are_not_missed(recorded):
    for name in ("data", "tokens", "features"):
        shutil.rmtree(recorded.folder / "results" / name)
    assert recorded.planned() == {}
    assert recorded.planned("--forcerun", "train_cell")["cache_features"] == 2


def test_a_run_of_snakemake_is_adopted_without_a_job(recorded):
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    refused = recorded.vlmlaw("adopt", check=False)
    assert refused.returncode == 2
    assert "train_cell" in refused.stderr
    recorded.snakemake()
    assert recorded.status()
    weights = recorded.folder / CELL / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    recorded.vlmlaw("adopt")
    assert weights.stat().st_mtime_ns == before
    both_agree(recorded, {})
    assert "up to date" not in recorded.dvc("push").stdout


def test_an_earlier_commit_comes_back_whole(recorded):
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    recorded.repro()
    recorded.git("commit", "--quiet", "--all", "--message=rate")
    recorded.git("checkout", "--quiet", "HEAD~1")
    recorded.dvc("checkout")
    both_agree(recorded, {})


def test_metrics_and_plots_compare_runs(recorded):
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    recorded.repro()
    shown = json.loads(recorded.dvc("metrics", "show", "--json").stdout)[""]["data"]
    suites = {path.removeprefix("results/headline/metrics/"): entry["data"] for path, entry in shown.items()}
    assert {"rho", "rho_lower", "v_star", "v_star_upper", "mean_error"} <= set(suites["reasoning.json"])
    assert suites["trainings.json"] == {"cells": 10, "hours": 0.14, "gpu_hours": 0.14}
    changed = json.loads(recorded.dvc("metrics", "diff", "--json").stdout)
    assert "rho" in changed["results/headline/metrics/reasoning.json"]
    params = json.loads(recorded.dvc("params", "diff", "--json").stdout)
    assert params["params.yaml"]["sizes.14k.training.learning_rate"]["new"] == 1.0e-3
    recorded.dvc("plots", "diff", "HEAD", "--out", "plots")
    page = (recorded.folder / "plots" / "index.html").read_text()
    assert "FLOPs of the LLM" in page
    assert '"size": "49k"' in page


def test_experiments_queued_run_and_compared(recorded):
    recorded.dvc("exp", "run", "--set-param", "law.bootstrap_draws=20", "--name", "draws")
    recorded.git("checkout", "--quiet", ".")
    recorded.dvc("checkout", "--force")
    rate = "+sizes={14k:{training:{learning_rate:0.001}}}"
    recorded.dvc("exp", "run", "--queue", "--set-param", rate, "--name", "rate")
    done = recorded.dvc("exp", "run", "--run-all")
    assert recorded.planned() == {}, done.stdout
    shown = json.loads(recorded.dvc("exp", "show", "--json").stdout)
    names = {experiment["name"] for revision in shown for experiment in revision["experiments"] or []}
    assert names == {"draws", "rate"}
    both = json.loads(recorded.dvc("exp", "diff", "draws", "rate", "--json").stdout)
    assert "rho" in both["metrics"]["results/headline/metrics/reading.json"]
    assert both["params"]["params.yaml"]["sizes.14k.training.learning_rate"]["new"] == 0.001


def test_a_number_of_the_report_leads_to_its_cell_data_and_commit(clone):
    table = (clone.folder / "results" / "measurements.csv").read_text().splitlines()
    header, row = table[0].split(","), next(line for line in table if line.startswith("14k_v4")).split(",")
    error = float(row[header.index("error")])
    commit = clone.git("rev-list", "--max-parents=0", "HEAD")[:12]
    told = clone.vlmlaw("provenance", f"{error:.6f}").stdout
    for wanted in ("14k_v4_block_linear_s0", commit, "results/data/train version", '"learning_rate":0.003', "whole"):
        assert wanted in told
    recorded_in = clone.git("rev-parse", "--short", "HEAD").strip()
    assert f"commit {recorded_in}" in told
    rho = json.loads((clone.folder / "results/law/law.json").read_text())["fits"][0]["rho"]["estimate"]
    assert "rho (estimate), reading all" in clone.vlmlaw("provenance", f"{rho:.3f}").stdout
    missing = clone.vlmlaw("provenance", "14k_v5", check=False)
    assert missing.returncode == 2
    assert "14k_v4_block_linear_s0" in missing.stderr

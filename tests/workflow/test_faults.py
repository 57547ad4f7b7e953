"""Faults of machines and of people, with a workflow whose stages take no time: nothing that was paid for is lost."""

import os
import time

import pytest

pytestmark = pytest.mark.workflow


def test_inputs_dated_ahead_fail_no_job(recorded):
    """As where a file server's clock is ahead, or data were copied with their times."""
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    ahead = time.time() + 86_400
    for name in ("features", "tokens", "encoder", "language_models", "data"):
        for path in (recorded.folder / "results" / name).rglob("*"):
            os.utime(path, (ahead, ahead))
    done = recorded.snakemake()
    assert "clock skew" not in done.stderr
    assert recorded.planned() == {}


def test_a_job_that_fails_after_its_result_is_finished_leaves_it_and_it_counts(recorded):
    """As where the disk is full for its log: the record is written, and what follows fails."""
    recorded.change("sizes.14k.training", {"learning_rate": 1.0e-3})
    name = "results/cells/14k_v4_block_linear_s0/training.json"
    stages = "src/vlmlaw/workflow/plan.py"
    recorded.edit(stages, '" 2>&1 | tee {log:q}"', '" 2>&1 | {{ cat >/dev/null; false; }}"')
    failed = recorded.snakemake(name, check=False)
    assert failed.returncode != 0 and (recorded.folder / name).exists()
    recorded.edit(stages, '" 2>&1 | {{ cat >/dev/null; false; }}"', '" 2>&1 | tee {log:q}"')
    assert recorded.planned()["train_cell"] == 2, "of three that the change concerns"

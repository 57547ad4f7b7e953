"""Faults of machines and of people, with a workflow whose stages take no time: nothing that was paid for is lost."""

import os
import time

import pytest

pytestmark = pytest.mark.workflow
# What a file of Snakemake's own may hold, and who says that it is passed over: this workflow, or Snakemake itself.
DAMAGES = {
    b"[1]": ": damaged (",
    b'{"params": 3}': ": damaged (",
    b"\xff\xfe{": ": damaged (",
    b"{": "Ignore corrupted or currently written metadata record",
}


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


def test_two_ledgers_that_disagree_and_damaged_ones(recorded):
    """`--touch` after a change records what nobody made; a damaged record of either ledger is answered by the other."""
    cells = recorded.folder / "results" / "cells"
    (own,) = cells.glob("14k_v1_*/training.record.json")
    own.write_text(own.read_text().replace('"settings"', '"setting"', 1))
    (altered,) = cells.glob("14k_v4_*/training.record.json")
    altered.write_text(altered.read_text().replace("learning_rate", "learning_rat3", 1))
    encoder = "cmVzdWx0cy9lbmNvZGVyL"  # in base64, as Snakemake names its records: results/encoder/
    theirs = sorted((recorded.folder / ".snakemake" / "metadata").glob(f"{encoder}*"))
    assert len(theirs) == 4
    for damage, says in DAMAGES.items():
        for path in theirs:
            path.write_bytes(damage)
        dry = recorded.snakemake("--dry-run")
        assert "Nothing to be done" in dry.stdout + dry.stderr
        assert dry.stderr.count("is damaged or was altered") == 2
        assert says in dry.stdout + dry.stderr, damage
    recorded.change("sizes.3k.training", {"learning_rate": 1.0e-3})
    recorded.snakemake("--touch")
    refused = recorded.vlmlaw("adopt", check=False)
    assert refused.returncode != 0 and "still has something to do" in refused.stderr
    assert "train_cell" in refused.stderr

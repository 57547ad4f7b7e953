"""Find trainings that a run would do although DVC's cache holds their results, such as after a switch of branches.

`git checkout` changes params.yaml and dvc.lock, but not the results, which `dvc checkout` restores. A run in between
would train cells that DVC has.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vlmlaw.errors import UserError
from vlmlaw.workflow import records
from vlmlaw.workflow.plan import Plan
from vlmlaw.workflow.reads import training_of

LOCK = Path("dvc.lock")
RETRAIN = "VLMLAW_RETRAIN"  # an environment variable: set to train nevertheless


def refuse_what_dvc_has(plan: Plan) -> None:
    """Raise UserError if DVC's cache holds trainings of this experiment that differ from the results here."""
    cells = [] if os.environ.get(RETRAIN) else trainings_in_cache(plan)
    if cells:
        raise UserError(
            f"DVC's cache holds {len(cells)} training(s) that this run would do, such as {cells[0]}: by dvc.lock they "
            "are of these settings and this code. `dvc checkout --force` brings them here, in place of what lies in "
            f"{plan.results}; to train them all the same, set {RETRAIN}=1."
        )


def trainings_in_cache(plan: Plan) -> list[str]:
    """Return trainings whose result here has other settings or code, while that in DVC's cache has the present ones.

    A result that was deleted here does not count, because it may be meant to be trained again.
    """
    cells = _listing(f"{plan.results}/cells")
    if not cells:
        return []
    found = []
    for name, training in plan.experiment.trainings.items():
        read = training_of(training)
        wanted = {key: part(read.wildcards) for key, part in plan.params(read.rule).items() if key in records.GIVEN}
        record = Path(plan.record_of(*read.job))
        own = records.read(record)
        if own is not None and not _is_of(own, wanted):
            cached = cells.get(str(record.relative_to(f"{plan.results}/cells")))
            if cached is not None and _is_of(records.read(cached), wanted):
                found.append(name)
    return found


def _is_of(record: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    return record is not None and all(record[name] == value for name, value in wanted.items())


def _listing(out: str) -> dict[str, Path]:
    """Return the files of a folder in dvc.lock by name, with their paths in DVC's cache; {} if there are none."""
    try:
        stages = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"].values()
        (folder,) = (part["md5"] for stage in stages for part in stage.get("outs", ()) if part["path"] == out)
        cache = _cache()
        listed = json.loads(_object(cache, folder).read_text(encoding="utf-8"))
        return {part["relpath"]: _object(cache, part["md5"]) for part in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}


def _cache() -> Path:
    asked = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip() or ".dvc/cache") / "files" / "md5"


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]

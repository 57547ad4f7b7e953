"""Where the report's numbers come from: experiment, commit, versions, and the command that makes each again."""

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.report import described
from vlmlaw.report.study import Study

PACKAGES = ("numpy", "scipy", "pandas", "torch", "transformers", "matplotlib", "seaborn", "snakemake", "dvc")


@dataclass(frozen=True)
class Command:
    """How to make something again."""

    what: str
    line: str


def read_description(given: str) -> Mapping[str, Any]:
    """The experiment of a YAML file, or of the JSON that `described` wrote. Raises UserError for neither."""
    if not given.lstrip().startswith("{"):
        from vlmlaw.experiment import read_experiment

        return {**json.loads(described(read_experiment(given))), "file": given}
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise UserError(f"--experiment: no JSON ({error}); give a file such as params.yaml.") from error


def commit() -> str:
    """The checkout's commit, with "+ changes" where files differ from it; "" outside a repository."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + (" + changes" if head and _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of what the result depends on, where installed."""
    found = {"vlmlaw": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commands(study: Study, *, is_run: bool, out: Path) -> list[Command]:
    """A command for each kind of number on the page."""
    law, table = study.law_path, study.measurements_path
    made = [
        Command("the laws, printed with everything about them", f"vlmlaw law fit {table} --out {law}"),
        Command("the cell to deploy at a budget of your own", f"vlmlaw law recommend {table} --flops BUDGET"),
        Command("what is odd about the table", f"vlmlaw law lint {table}"),
    ]
    if not is_run:
        return [*made, Command("this page", f"vlmlaw report --law {law} --measurements {table} --out {out.parent}")]
    results, file = table.parent, study.experiment.get("file")
    chosen = f" --configfile {file}" if file else ""
    run = f"snakemake --cores all{chosen}"
    return [
        Command("everything", run),
        Command("one cell's errors", f"{run} {results}/cells/CELL/evaluation.json"),
        Command(
            "one cell, from its checkpoints on, again",
            f"{run} --forcerun train_cell {results}/cells/CELL/evaluation.json",
        ),
        Command(
            "how a file was made: rule, inputs, settings",
            f"snakemake{chosen} --detailed-summary {results}/measurements.csv",
        ),
        *made,
        Command("this page and its figures", f"{run} --forcerun write_report"),
    ]

"""Origin of the numbers of a report: experiment, versions, and the commands that reproduce them."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.experiment.describe import described
from vlmlaw.report.study import Study

PACKAGES = ("numpy", "scipy", "pandas", "torch", "transformers", "matplotlib", "seaborn", "snakemake", "dvc")


@dataclass(frozen=True)
class Command:
    """A command line, and what it reproduces."""

    what: str
    line: str


def read_description(given: str) -> Mapping[str, Any]:
    """Read an experiment from a YAML file, or from JSON text that `described` wrote. Raises UserError for neither."""
    if not given.lstrip().startswith("{"):
        from vlmlaw.experiment.experiment import read_experiment

        return {**json.loads(described(read_experiment(given))), "file": given}
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise UserError(f"--experiment: not JSON ({error}); expected a file such as params.yaml.") from error


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the installed packages that results depend on."""
    found = {"vlmlaw": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commands(study: Study, *, is_run: bool, out: Path) -> list[Command]:
    """The commands that reproduce the numbers of the page, one for each kind."""
    law, table = study.law_path, study.measurements_path
    made = [
        Command("the laws, printed with everything about them", f"vlmlaw law fit {table} --out {law}"),
        Command("the cell to deploy at a budget of your own", f"vlmlaw law recommend {table} --flops BUDGET"),
        Command("what is odd about the table", f"vlmlaw law lint {table}"),
    ]
    if not is_run:
        return [*made, Command("this page", f"vlmlaw report --law {law} --measurements {table} --out {out.parent}")]
    results, chosen = table.parent, _configfile(study.experiment)
    cell = f"{results}/cells/CELL/evaluation.json"
    # Targets come first: after --configfile and --forcerun they would be read as values of these options.
    elsewhere = "" if str(results) == "results" else f" --results {results}"
    return [
        Command(
            "where any number of this page or any cell comes from: settings, data version, commit",
            f"vlmlaw provenance NUMBER-or-CELL{elsewhere}",
        ),
        Command("everything", f"snakemake --cores all{chosen}"),
        Command("one cell, where something of it is missing or out of date", f"snakemake {cell} --cores all{chosen}"),
        Command("one cell, trained anew", f"snakemake {cell} --cores all --forcerun train_cell{chosen}"),
        Command("what made a file: rule, inputs, settings, log", f"snakemake {cell} --detailed-summary{chosen}"),
        *made,
        Command("this page and its figures", f"snakemake --cores all --forcerun write_report{chosen}"),
    ]


def _configfile(experiment: Mapping[str, Any]) -> str:
    """The option that names the experiment file, or "" for the default one."""
    known = Path("workflow") / "experiments" / f"{experiment.get('name')}.yaml"
    file = experiment.get("file") or (str(known) if known.exists() else None)
    if file is None and experiment.get("results", "results") != "results":
        file = "EXPERIMENT.yaml"
    return "" if file in (None, "params.yaml") else f" --configfile {file}"

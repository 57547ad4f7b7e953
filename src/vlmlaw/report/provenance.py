"""Origin of the numbers of a report: experiment, versions, and the commands that reproduce them."""

import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from vlmlaw import __version__
from vlmlaw.errors import UserError
from vlmlaw.experiment.describe import described
from vlmlaw.laws.options import LawOptions
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
    law, table = shlex.quote(str(study.law_path)), shlex.quote(str(study.measurements_path))
    read = f"{table}{_reading(study.options)}"
    made = [
        Command(
            "the laws, printed with everything about them", f"vlmlaw law fit {table}{_settings(study)} --out {law}"
        ),
        Command(
            "the cell to deploy at a budget of your own",
            f"vlmlaw law recommend {read}{_suite_of(study)} --flops BUDGET",
        ),
        Command("what is odd about the table", f"vlmlaw law lint {read}"),
    ]
    if not is_run:
        folder = shlex.quote(str(out.parent))
        return [*made, Command("this page", f"vlmlaw report --law {law} --measurements {table} --out {folder}")]
    results, chosen = study.measurements_path.parent, _configfile(study.experiment)
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


def _settings(study: Study) -> str:
    """The option of `vlmlaw law fit` that holds every option of the analysis which is not the default."""
    defaults = LawOptions().to_mapping()
    changed = {name: value for name, value in study.options.items() if value != defaults.get(name)}
    return f" --settings {shlex.quote(json.dumps(changed, ensure_ascii=False))}" if changed else ""


def _reading(options: Mapping[str, Any]) -> str:
    """The options with which a table is read as it was, where they are not the defaults."""
    words = [f"--column={name}={own}" for name, own in options.get("columns", {}).items()]
    words += [f"--params-unit={options['params_unit']}"] if options.get("params_unit") else []
    words += [f"--scale={options['scale']}"] if options.get("scale", "auto") != "auto" else []
    words += [f"--scores={','.join(options['scores'])}"] if options.get("scores") else []
    words += [f"--maximum={suite}={points:g}" for suite, points in options.get("maxima", {}).items()]
    words += [f"--holds={options['holds']}"] if options.get("holds", "auto") != "auto" else []
    words += [f"--where={column}={value}" for column, value in options.get("where", {}).items()]
    words += ["--allow-missing"] if options.get("allow_missing") else []
    return "".join(f" {shlex.quote(word)}" for word in words)


def _suite_of(study: Study) -> str:
    """The options that choose the page's first law among those of several suites or compressors."""
    first = study.suites[0]
    chosen = {"suite": first.name if len(study.suites) > 1 else "", "compressor": first.compressor}
    return "".join(f" {shlex.quote(f'--where={column}={name}')}" for column, name in chosen.items() if name)


def _configfile(experiment: Mapping[str, Any]) -> str:
    """The option that names the experiment file, or "" for the default one."""
    known = Path("workflow") / "experiments" / f"{experiment.get('name')}.yaml"
    file = experiment.get("file") or (str(known) if known.exists() else None)
    if file is None and experiment.get("results", "results") != "results":
        file = "EXPERIMENT.yaml"
    return "" if file in (None, "params.yaml") else f" --configfile {file}"

"""`vlmlaw adopt`: record in DVC what Snakemake has made, here or on a cluster, without running anything."""

import argparse
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from vlmlaw.cli.arguments import go_to_root
from vlmlaw.errors import UserError

NOTHING = "Nothing to be done"


def add_parser(subparsers: Any) -> None:
    """Add the verb `adopt`."""
    parser = subparsers.add_parser(
        "adopt",
        help="record in DVC what Snakemake has made; runs no job",
        description="Record a finished run of Snakemake in DVC: dvc.lock and DVC's cache. No job runs. Refuses where "
        "Snakemake still has something to do, for then the results are not those of params.yaml.",
    )
    parser.set_defaults(run=run_adopt)


def run_adopt(args: argparse.Namespace) -> None:
    """Raises UserError where the run is not finished, or DVC cannot record it."""
    go_to_root()
    for tool in ("snakemake", "dvc"):
        if find_spec(tool) is None:
            raise ModuleNotFoundError(f"No module named {tool!r}", name=tool)
    planned = _run("snakemake", "--dry-run", "--quiet", "rules", "--cores", "1")
    output = planned.stdout + planned.stderr
    if planned.returncode:
        raise UserError(f"snakemake cannot plan this folder:\n{output.strip()}")
    if NOTHING not in output:
        raise UserError(
            "Snakemake still has something to do, so these are not the results of params.yaml:\n"
            f"{_jobs(output)}\nRun `snakemake --cores all` (or with your --profile) to the end first."
        )
    recorded = _run("dvc", "commit", "--force")
    if recorded.returncode:
        raise UserError(f"dvc could not record the results:\n{(recorded.stdout + recorded.stderr).strip()}")
    print("recorded: dvc.lock. Next: git add dvc.lock, git commit, dvc push")


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a tool of the interpreter's own environment."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _jobs(output: str) -> str:
    """The table of jobs in the output of a dry run."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("job ")), None)
    if start is None:
        return output.strip()[-1000:]
    table = lines[start : start + 40]
    return "\n".join(table[: table.index("")] if "" in table else table)

"""The workflow in a folder of its own, with Snakemake and DVC run there for real."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TARGETS = ("all", "study", "vlm_all", "vlm_study", "data", "models", "cells", "law")
ROOT = Path(__file__).parents[2]
DVC = ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc")
COMMANDS: list[Path] = []  # a folder with commands that start in milliseconds, where a test may have them; see warm.py
CODE = ("Snakefile", "params.yaml", "pyproject.toml", "envs", "profiles", "src", "workflow")


@dataclass
class Project:
    """A folder with the workflow, an experiment as its params.yaml, and perhaps results."""

    folder: Path

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run Snakemake there; `check` fails the test with its output."""
        return self._run("snakemake", *arguments, "--cores", "2", check=check)

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a run would do."""
        return planned_in(self.snakemake("--dry-run", *arguments))

    def dvc(self, *arguments: str, check: bool = True, **more: str) -> subprocess.CompletedProcess:
        """Run DVC there, with `more` in its environment; `check` fails the test with its output."""
        return self._run("dvc", *arguments, check=check, **more)

    def vlmlaw(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run the project's own copy of the command line there."""
        return self._run("vlmlaw", *arguments, check=check, PYTHONPATH=str(self.folder / "src"))

    def python(self, code: str) -> str:
        """What a few lines print that use the project's own copy of the package."""
        source = {"PYTHONPATH": str(self.folder / "src")}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=environment() | source,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def repro(self, *arguments: str) -> dict[str, int]:
        """Run `dvc repro`: how many jobs of each rule it ran."""
        done = self.dvc("repro", *arguments)
        return jobs_of(done.stdout + done.stderr)

    def status(self) -> dict[str, Any]:
        """What `dvc status` finds changed: nothing, or something for each stage."""
        return json.loads(self.dvc("status", "--json").stdout)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=environment(), capture_output=True, text=True, check=True
        )
        return done.stdout

    def _run(self, module: str, *arguments: str, check: bool, **more: str) -> subprocess.CompletedProcess:
        has_own = (self.folder / module).is_dir()  # such as a changed Snakemake, which no warm server has imported
        done = subprocess.run(
            [sys.executable if has_own else "python", "-m", module, *arguments],
            cwd=self.folder,
            env=environment() | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done

    def change(self, path: str, value: Any) -> None:
        """Set `a.b.c` of the experiment."""
        params = self.params
        *parents, last = path.split(".")
        section = params
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a passage of a file, which must be there."""
        text = (self.folder / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        (self.folder / path).write_text(text.replace(old, new, 1))

    @property
    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "params.yaml").read_text())


def planned_in(dry: subprocess.CompletedProcess) -> dict[str, int]:
    """How many jobs of each rule a dry run names."""
    *_, last_table = (dry.stdout + dry.stderr).split("Job stats:")  # it prints the table twice
    return jobs_of(last_table)


def jobs_of(output: str) -> dict[str, int]:
    """How many jobs of each rule are in the tables of one or several runs of Snakemake; targets are not jobs."""
    counts: Counter[str] = Counter()
    for rule, n in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE):
        counts[rule] += int(n)
    return {rule: n for rule, n in counts.items() if rule not in ("total", *TARGETS)}


def environment(*, warm: bool = True) -> dict[str, str]:
    """The tests' own, without what would choose another code, profile or device for Snakemake's jobs.

    Nor may it keep Python from writing what it compiles: a run of Snakemake starts some dozens of processes. Those are
    forked from warm servers, and so no children of the run, unless `warm` is False.
    """
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "SNAKEMAKE_PROFILE", "PYTEST_CURRENT_TEST")
    author = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    tools = {
        "PATH": os.pathsep.join(
            [*(map(str, COMMANDS) if warm else ()), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {key: value for key, value in os.environ.items() if key not in dropped} | author | tools


def new_project(folder: Path, experiment: dict[str, Any]) -> Project:
    """The workflow of this checkout in a folder of its own."""
    folder.mkdir(parents=True)
    for name in CODE:
        source = ROOT / name
        ignored = shutil.ignore_patterns("*.egg-info", "*.pyc.*")  # the last: what is being compiled now
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    return Project(folder)


def put_under_dvc(project: Project, *, remote: Path) -> None:
    """Make the project a repository of git and DVC, as a checkout is, with one commit."""
    for name in DVC:
        source, ignored = ROOT / name, shutil.ignore_patterns("cache", "tmp")
        target = project.folder / name
        shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(source, target)
    (project.folder / "results").mkdir(exist_ok=True)
    project.git("init", "--quiet", "--initial-branch=main")
    project.dvc("remote", "add", "--default", "beside", str(remote))
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=start")


def tiny_experiment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "workflow" / "experiments" / "tiny.yaml").read_text()) | {"results": "results"}

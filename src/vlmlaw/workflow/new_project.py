"""Copy the workflow's files to a new folder, from the wheel, which holds a copy, or from a clone."""

import re
import shutil
from pathlib import Path

from vlmlaw.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CARRIED = PACKAGE / "project"  # in a wheel: setup.py copies there what PARTS names
PARTS = ("Snakefile", "params.yaml", "dvc.yaml", ".dvcignore", "workflow", "profiles", "envs")
IGNORED = ".gitignore"
RESULTS_AND_CACHES = "/results/*\n.snakemake/\n/dvc_plots/\n"  # for git
# A dependency in dvc.yaml that a project without a clone lacks.
OWN_CODE = re.compile(r"^ +- src/vlmlaw\n", re.MULTILINE)


def write_project(folder: Path, *, experiment: str = "") -> None:
    """Write the workflow's files, with `experiment` of workflow/experiments, if one is named, as params.yaml.

    Raises UserError if one of the files exists already, or no experiment has that name.
    """
    source = _source()
    chosen = source / "workflow" / "experiments" / f"{experiment}.yaml" if experiment else source / "params.yaml"
    known = sorted(path.stem for path in (source / "workflow" / "experiments").glob("*.yaml"))
    if experiment and experiment not in known:
        raise UserError(f"no experiment is called {experiment!r}; there are {', '.join(known)}.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name another folder.")
    there = [name for name in PARTS if (folder / name).exists()]
    if there:
        raise UserError(f"{folder} has {', '.join(there)} already; name another folder, or move them away.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        part = source / name
        if part.is_dir():
            shutil.copytree(part, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(part, folder / name)
    text = chosen.read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(re.sub(r"^results: .*$", "results: results", text, flags=re.MULTILINE), "utf-8")
    stages = (folder / "dvc.yaml").read_text(encoding="utf-8")
    (folder / "dvc.yaml").write_text(OWN_CODE.sub("", stages), encoding="utf-8")
    if not (folder / IGNORED).exists():
        (folder / IGNORED).write_text(RESULTS_AND_CACHES, encoding="utf-8")


def _source() -> Path:
    """Return the folder with the files. Raises UserError if this installation lacks them."""
    for place in (CARRIED, PACKAGE.parents[1]):
        if all((place / name).exists() for name in PARTS):
            return place
    raise UserError("this installation does not carry the workflow's files; install vlmlaw from a wheel, or clone it.")

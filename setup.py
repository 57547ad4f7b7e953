"""Have a wheel carry the workflow's own files, which `vlmlaw init` writes; all else is in pyproject.toml."""

import ast
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MODULE = ROOT / "src" / "vlmlaw" / "workflow" / "new_project.py"


def parts() -> tuple[str, ...]:
    """The files and folders, as the module that writes them names them."""
    (found,) = (
        node.value
        for node in ast.parse(MODULE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PARTS"
    )
    return tuple(ast.literal_eval(found))


class BuildWithProject(build_py):
    """The package, and the workflow's files in its folder `project`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "vlmlaw" / "project"
        shutil.rmtree(target, ignore_errors=True)
        for name in parts():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target / name)


setup(cmdclass={"build_py": BuildWithProject})

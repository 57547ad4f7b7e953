"""Fingerprints change with what code does, not with how it looks or where it lies."""

import re

import pytest

from vlmlaw.errors import UserError
from vlmlaw.runtime.fingerprint import Fingerprint, code_version, reached
from vlmlaw.runtime.package import Package

STAGE = '''"""What it is for."""
from __future__ import annotations
from typing import TYPE_CHECKING
import numpy as np
from vlmlaw import tools
from vlmlaw.runtime.progress import track
from . import constants
from .constants import SHIFT as MOVE

if TYPE_CHECKING:
    from vlmlaw.settings import Settings

UNUSED = 1

def train(steps: int, settings: Settings) -> float:
    """Returns the loss."""
    from vlmlaw.late import start  # heavy
    found = f"steps is {steps}"
    half = steps / 2
    if steps < 1:
        raise ValueError(found + ", expected 1 or more")
    for _ in track(range(steps), "steps left"):
        print("a step is done")
    return start(half + half) * constants.RATE + MOVE + np.floor(settings.rate()) + tools.helper()

def other():
    return UNUSED
'''
MODULES = {
    "__init__": '__version__ = "1"\n',
    "stage": STAGE,
    "tools": "def helper(): return _one()\n\ndef _one(): return 1\n\ndef _two(): return 2\n\nLEFT = 1\n",
    "constants": "RATE = 2\nSHIFT = 0\nTABLE = {}\n",
    "late": "from vlmlaw.registry import register\n\ndef start(n): return n\n\nregister(start)\n",
    "registry": (
        "KNOWN = []\n\ndef register(what): KNOWN.append(what)\n\n"
        "def entered(kind):\n    register(kind)\n    return kind\n\n"
        "@entered\nclass Three:\n    def value(self): return 3\n"
    ),
    "settings": (
        "from dataclasses import dataclass\n\n\ndef passive(field): return field\n\n\n@dataclass\nclass Settings:\n"
        "    scale: float = 1.0\n    minutes: int = passive(5)\n\n    def rate(self): return self.scale\n"
    ),
    "runtime/__init__": "",
    "runtime/progress": "def track(things, label):\n    yield from things\n",
}
ROOT = "vlmlaw.stage:train"


@pytest.fixture
def package(tmp_path):
    """A small package; returns a function that edits it (module, old, new) and hashes what `train` does."""

    def write(module: str, text: str) -> None:
        path = tmp_path / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def version(module: str = "", old: str = "", new: str = "", *, root: str = ROOT, **options: str) -> str:
        if module:
            text = (tmp_path / f"{module}.py").read_text()
            assert old in text
            write(module, text.replace(old, new))
        return Fingerprint(Package(tmp_path, left_out=["vlmlaw.runtime"]), **options).of([root])

    for name, text in MODULES.items():
        write(name, text)
    version.write = write
    version.folder = tmp_path
    return version


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "# heavy", "# very heavy"),
        ("stage", "What it is for.", "What it does."),
        ("stage", "Returns the loss.", "The loss."),
        ("stage", "steps: int, settings: Settings) -> float", "steps: float, settings: Settings) -> int"),
        ("stage", "steps is {steps}", "found {steps} steps"),
        ("stage", "expected 1 or more", "expected some"),
        ("stage", "steps left", "steps to go"),
        ("stage", "a step is done", "one more step"),
        ("stage", "start(half + half) * constants", "start(\n        half + half\n    ) * constants"),
        ("stage", "half", "middle"),
        ("stage", "UNUSED = 1", "UNUSED = 2"),
        ("stage", "import numpy as np\n", "import numpy as np\nimport json\n"),
        ("tools", "LEFT = 1", "LEFT = 2"),
        ("tools", "return 2", "return 3"),
        ("constants", "TABLE = {}", "TABLE = {1: 2}"),
        ("settings", "passive(5)", "passive(50)"),
        ("runtime/progress", "yield from things", "yield from list(things)"),
        ("__init__", '"1"', '"2"'),
    ],
)
def test_what_cannot_change_a_result_does_not_count(package, module, old, new):
    before = package()
    assert package(module, old, new) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "steps < 1", "steps < 2"),
        ("stage", "np.floor", "np.ceil"),
        ("stage", "import numpy as np", "import math as np"),
        ("stage", "SHIFT as MOVE", "RATE as MOVE"),
        ("stage", "range(steps)", "range(steps + 1)"),
        ("tools", "def _one(): return 1", "def _one(): return 3"),
        ("tools", "return _one()", "return _two()"),
        ("constants", "RATE = 2", "RATE = 3"),
        ("constants", "SHIFT = 0\n", "SHIFT = 0\nSHIFT += 1\n"),
        ("late", "return n\n", "return n + 1\n"),
        ("late", "register(start)\n", "register(None)\n"),
        ("registry", "KNOWN.append(what)", "KNOWN.insert(0, what)"),
        ("registry", "return 3", "return 4"),
        ("registry", "@entered\n", ""),
        ("stage", "steps / 2", "steps / 3"),
        ("settings", "1.0", "2.0"),
        ("settings", "return self.scale", "return -self.scale"),
    ],
)
def test_what_code_does_counts_wherever_it_stands(package, module, old, new):
    before = package()
    assert package(module, old, new) != before


def test_two_definitions_of_one_name_cannot_be_swapped_unseen(package):
    package.write("more", "def helper(): return 2\n")
    before = package()
    assert package("stage", "from vlmlaw import tools\n", "from vlmlaw import more as tools\n") != before


def test_a_moved_or_renamed_module_is_no_change(package):
    before = package()
    (package.folder / "deep").mkdir()
    package.write("deep/__init__", '"""A folder."""\n')
    for old, new in (("tools", "deep/instruments"), ("late", "deep/late"), ("stage", "deep/stage")):
        (package.folder / f"{old}.py").rename(package.folder / f"{new}.py")
    stage = (package.folder / "deep/stage.py").read_text()
    stage = stage.replace("from vlmlaw import tools", "from vlmlaw.deep import instruments as tools")
    stage = stage.replace("vlmlaw.late", "vlmlaw.deep.late").replace("from .", "from ..")
    package.write("deep/stage", stage)
    assert package(root="vlmlaw.deep.stage:train") == before


def test_neither_is_a_renamed_function_or_a_definition_in_another_module(package):
    before = package()
    package.write("tools", "from vlmlaw.late import _uno\n\n\ndef helper(): return _uno()\n")
    package("late", "def start", "def _uno(): return 1\n\n\ndef start")
    assert package() == before


def test_a_root_that_is_not_there_is_an_error(package):
    with pytest.raises(UserError, match=re.escape("no module is called vlmlaw.trian")):
        code_version("vlmlaw.trian")
    with pytest.raises(UserError, match=re.escape("vlmlaw.stage defines no trian")):
        package(root="vlmlaw.stage:trian")


@pytest.fixture
def compressors(package):
    """Three compressors and a stage that builds one by name."""
    table = "COMPRESSORS = {kind.name: kind for kind in (A, B)}\n\ndef build(name): return COMPRESSORS[name]()\n"
    (package.folder / "compressors").mkdir()
    package.write(
        "compressors/__init__", f"from vlmlaw.compressors.a import A\nfrom vlmlaw.compressors.b import B\n{table}"
    )
    package.write("compressors/a", 'class A:\n    name = "a"\n    V = 1\n')
    package.write("compressors/b", 'from vlmlaw.compressors.a import A\nclass B(A):\n    name = "b"\n')
    package.write(
        "stage", "from vlmlaw.compressors import A, build\n\ndef train(name): return isinstance(build(name), A)\n"
    )
    return package


def test_a_new_compressor_beside_the_others_does_not_count(compressors):
    before = compressors(compressor="a")
    compressors.write("compressors/c", 'class C:\n    name = "c"\n')
    compressors(
        "compressors/__init__",
        "from vlmlaw.compressors.b",
        "from vlmlaw.compressors.c import C\nfrom vlmlaw.compressors.b",
    )
    assert compressors("compressors/__init__", "(A, B)", "(A, B, C)", compressor="a") == before


def test_a_cell_depends_on_its_own_compressor_and_on_what_that_builds_on(compressors):
    of_a, of_b = compressors(compressor="a"), compressors(compressor="b")
    assert of_a != of_b
    assert compressors("compressors/b", 'name = "b"', 'name = "b"\n    W = 2', compressor="a") == of_a
    of_new_b = compressors(compressor="b")
    assert of_new_b != of_b
    assert compressors("compressors/a", "V = 1", "V = 2", compressor="a") != of_a
    assert compressors(compressor="b") != of_new_b


def test_a_real_training_reaches_neither_the_experiment_file_nor_the_report():
    modules = {place.module for place in reached("vlmlaw.training.cell:train_cell")}
    assert {"vlmlaw.training.cell", "vlmlaw.vlm.model", "vlmlaw.compressors.region_attention"} <= modules
    assert not [
        name for name in modules if re.match(r"vlmlaw\.(experiment|plan|stages|report|laws|card|runtime)\b", name)
    ]


def test_real_cells_differ_by_their_compressor():
    versions = {
        name: code_version("vlmlaw.training.cell:train_cell", compressor=name) for name in ("quecc", "tome", "average")
    }
    assert len(set(versions.values())) == 3

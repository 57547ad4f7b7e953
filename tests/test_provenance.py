"""Fingerprints change with what code does, not with how it looks."""

import re

import pytest

from vlmlaw import provenance
from vlmlaw.errors import UserError
from vlmlaw.provenance import code_version, imported_modules

STAGE = '''"""What it is for."""
from typing import TYPE_CHECKING
from vlmlaw import tools
from . import constants

if TYPE_CHECKING:
    from vlmlaw.stage_settings import CellSettings

def train(steps: int) -> float:
    """Returns the loss."""
    from vlmlaw.late import start  # heavy
    if steps < 1:
        raise ValueError(f"steps is {steps}")
    return start(steps) * constants.RATE
'''


def forget() -> None:
    for name in (
        "_bytes_version",
        "_tree",
        "_meaning",
        "_meaning_of_functions",
        "_imports",
        "_other_compressors",
        "_class_names",
    ):
        getattr(provenance, name).cache_clear()
    code_version.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of five modules in place of the real one; returns a function that edits a module."""
    modules = {
        "__init__": '__version__ = "1"\n',
        "stage": STAGE,
        "tools": "def help(): return 1\n",
        "constants": "RATE = 2\n",
        "late": "def start(n): return n\n",
        "experiment": "from vlmlaw import other\n",
        "other": "X = 1\n",
    }
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)

    def write(module: str, text: str) -> None:
        (tmp_path / f"{module}.py").write_text(text)
        forget()

    for name, text in modules.items():
        write(name, text)
    yield write
    forget()


def test_it_covers_what_is_imported_also_late_but_not_for_the_type_checker(package):
    assert imported_modules("vlmlaw.stage") == {f"vlmlaw.{m}" for m in ("stage", "tools", "constants", "late")} | {
        "vlmlaw"
    }


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("stage", "# heavy", "# very heavy"),
        ("stage", "What it is for.", "What it does."),
        ("stage", "Returns the loss.", "The loss."),
        ("stage", "steps: int) -> float", "steps: float) -> int"),
        ("stage", "steps is {steps}", "steps: found {steps}, expected 1 or more"),
        ("stage", "start(steps) * constants", "start(\n        steps\n    ) * constants"),
        ("stage", "import CellSettings", "import SizeSettings"),
    ],
)
def test_how_code_looks_does_not_count(package, module, old, new):
    before = code_version("vlmlaw.stage")
    assert old in STAGE
    package(module, STAGE.replace(old, new))
    assert code_version("vlmlaw.stage") == before


def test_neither_do_the_version_and_what_the_stage_does_not_import(package):
    before = code_version("vlmlaw.stage")
    package("__init__", '"""New."""\n__version__ = "2"\n')
    package("other", "X = 2\n")
    package("experiment", "X = 3\n")
    assert code_version("vlmlaw.stage") == before


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("stage", STAGE.replace("steps < 1", "steps < 2")),
        ("tools", "def help(): return 2\n"),
        ("constants", "RATE = 3\n"),
        ("late", "def start(n): return n + 1\n"),
        ("late", "from vlmlaw import other\ndef start(n): return n\n"),
    ],
)
def test_what_code_does_counts_wherever_it_stands(package, module, text):
    before = code_version("vlmlaw.stage")
    package(module, text)
    assert code_version("vlmlaw.stage") != before


def test_a_module_that_is_not_there_is_an_error(package):
    with pytest.raises(UserError, match=re.escape("no module is called vlmlaw.trian")):
        code_version("vlmlaw.trian")


def test_the_real_stages_leave_the_experiment_file_out():
    for module in ("vlmlaw.model", "vlmlaw.packing", "vlmlaw.token_table", "vlmlaw.data.miniature"):
        found = imported_modules(module)
        assert module in found
        assert not found & {"vlmlaw.experiment", "vlmlaw.plan", "vlmlaw.stages", "vlmlaw.__main__"}


def test_a_cell_depends_on_its_own_compressor_only():
    of_quecc = imported_modules("vlmlaw.compressors.region_attention", without="vlmlaw.compressors")
    others = provenance._other_compressors("quecc")
    assert "vlmlaw.compressors.merging" in others
    assert "vlmlaw.compressors.region_attention" in of_quecc
    assert not others & of_quecc
    versions = {name: code_version("vlmlaw.model", compressor=name) for name in ("quecc", "tome", "average")}
    assert len(set(versions.values())) == 3


def test_a_new_compressor_beside_the_others_does_not_count(package, tmp_path):
    (tmp_path / "compressors").mkdir()
    package("compressors/__init__", "from vlmlaw.compressors.a import A\n\ndef build(name): return A()\n")
    package("compressors/a", 'class A:\n    name = "a"\n    V = 1\n')
    package("compressors/b", 'from vlmlaw.compressors.a import A\nclass B(A):\n    name = "b"\n')
    package("stage", "from vlmlaw import compressors\n")
    before = code_version("vlmlaw.stage", compressor="a")
    package("compressors/__init__", "from vlmlaw.compressors import a, b\n\ndef build(name): return A()\n")
    assert code_version("vlmlaw.stage", compressor="a") == before
    own = code_version("vlmlaw.stage", compressor="b")
    package("compressors/b", 'from vlmlaw.compressors.a import A\nclass B(A):\n    name = "b"\n    W = 2\n')
    assert code_version("vlmlaw.stage", compressor="a") == before
    assert code_version("vlmlaw.stage", compressor="b") != own
    own = code_version("vlmlaw.stage", compressor="b")
    package("compressors/a", 'class A:\n    name = "a"\n    V = 2\n')
    assert code_version("vlmlaw.stage", compressor="a") != before
    assert code_version("vlmlaw.stage", compressor="b") != own

"""Files that let transformers load a cell with `trust_remote_code=True`, as pipelines and `transformers serve` do.

A saved cell names its classes in `auto_map` and holds a module that imports them, so the package must be installed.
"""

from pathlib import Path

MODULE = "vlmlaw_cell"
AUTO_MAP = {
    "AutoConfig": f"{MODULE}.VlmConfig",
    "AutoModelForImageTextToText": f"{MODULE}.VlmForConditionalGeneration",
    "AutoModelForMultimodalLM": f"{MODULE}.VlmForConditionalGeneration",
}
PROCESSOR_MAP = {"AutoProcessor": f"{MODULE}.VlmProcessor"}
TEXT = '''"""The classes of this cell, for transformers' trust_remote_code; they are the package vlmlaw's."""

from vlmlaw.auto import VlmConfig, VlmForConditionalGeneration, VlmProcessor  # noqa: F401
'''


def write_auto_module(folder: str | Path) -> None:
    """Write the module that `auto_map` names into a cell's folder."""
    (Path(folder) / f"{MODULE}.py").write_text(TEXT, encoding="utf-8")

"""What lets transformers load a cell by itself, with `trust_remote_code=True`: in a pipeline, `transformers serve`.

A saved cell names its classes in `auto_map`, and holds a file of one import: the package must be installed.
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
    """Write the file that `auto_map` names."""
    (Path(folder) / f"{MODULE}.py").write_text(TEXT, encoding="utf-8")

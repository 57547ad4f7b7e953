"""Stand-ins for the models that workflow/experiments/laptop.yaml names, for tests that read all experiment files."""

import json
import shutil
from pathlib import Path


def write_laptop_models(folder: Path) -> None:
    """Write them below a folder that `write_practice` has filled: their shapes are asked for, not their weights."""
    shutil.copytree(folder / "practice" / "language_models" / "10k", folder / "laptop" / "language_model")
    tower = {"model_type": "clip_vision_model", "hidden_size": 8, "num_hidden_layers": 1}
    (folder / "laptop" / "vision").mkdir()
    (folder / "laptop" / "vision" / "config.json").write_text(json.dumps(tower | {"image_size": 224, "patch_size": 32}))

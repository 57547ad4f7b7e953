"""Numbers of released modules, `tests/golden/*.npz`: inputs, weights, outputs and choices, with what made them.

Each file's `meta` names paper, repository, commit and file. The weights are random, drawn for these files.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))


@dataclass
class Golden:
    meta: dict[str, Any]
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor]
    outputs: dict[str, Tensor]
    index: dict[str, Tensor]

    @property
    def grid(self) -> int:
        return self.meta["grid"]

    @property
    def width(self) -> int:
        return self.meta["width"]


def golden(name: str) -> Golden:
    """A file, floats as float32 and whole numbers as int64."""
    parts: dict[str, dict[str, Tensor]] = {"inputs": {}, "weights": {}, "outputs": {}, "index": {}, "extra": {}}
    with np.load(FOLDER / f"{name}.npz") as data:
        for key in data.files:
            if key == "meta" or data[key].dtype.kind == "U":
                continue
            tensor = torch.from_numpy(data[key])
            part, _, rest = key.partition("/")
            parts[part][rest] = tensor.float() if tensor.is_floating_point() else tensor.long()
        meta = json.loads(str(data["meta"]))
    outputs = parts["outputs"] | parts["extra"]
    return Golden(meta, parts["inputs"], parts["weights"], outputs, parts["index"])


def mlp(weights: dict[str, Tensor], tokens: Tensor, *, first: str = "0", second: str = "2") -> Tensor:
    """LLaVA's projector: linear, GELU, linear, without a norm before it."""
    hidden = tokens @ weights[f"{first}.weight"].T + weights[f"{first}.bias"]
    return torch.nn.functional.gelu(hidden) @ weights[f"{second}.weight"].T + weights[f"{second}.bias"]

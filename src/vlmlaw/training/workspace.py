"""The training.json of a finished training, and repeatable arithmetic."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from typing import Any

import torch
import transformers

from vlmlaw.runtime.workspace import clear_workspace as clear_workspace
from vlmlaw.runtime.workspace import workspace_of as workspace_of


def use_repeatable_arithmetic(seed: int, *, deterministic: bool = True) -> None:
    """Seed torch and, if `deterministic`, refuse operations whose result differs from run to run."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads memory before it is written
    torch.use_deterministic_algorithms(deterministic)


def account(settings: Any, spent: dict[str, Any]) -> dict[str, Any]:
    """Return the content of training.json: settings, versions and threads of a training, and what it `spent`."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"settings": asdict(settings), "versions": versions, "threads": torch.get_num_threads()} | spent

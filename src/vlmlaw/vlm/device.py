"""The device that one process computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> torch.device:
    """Where one process evaluates: on a GPU where it sees one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

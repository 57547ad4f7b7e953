"""A round of a design as a file: which cells were chosen, measured and left out, and why it stopped."""

import json
from pathlib import Path
from typing import Any

from vlmlaw.errors import UserError

KEYS = {"measured", "missing", "not_chosen", "steps", "stop", "states", "unit", "limit", "spent", "whole"}


def read_round(path: Path) -> dict[str, Any]:
    """A round as it was written. Raises UserError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lacking = sorted(KEYS - set(found))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); expected a round of a design, cells/design/N.json"
        ) from error
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}; expected a round of a design, cells/design/N.json")
    return dict(found)

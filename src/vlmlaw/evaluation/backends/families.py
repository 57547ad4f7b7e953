"""How many visual tokens families of released models make of an image, and how to have them make fewer.

Servers have no option for it that all of them know, but each resizes an image by its family's rule; an image that was
resized before it is sent gets as many tokens as it then has cells. Shapes: H and W in pixels.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

from vlmlaw.evaluation.backends.interface import Budget
from vlmlaw.evaluation.backends.token_rules import smart_grid


class Family(Protocol):
    """The rule of a family."""

    @property
    def name(self) -> str: ...

    def problem(self, budget: Budget) -> str:
        """Why the family cannot make this budget, and what it can; "" where it can."""

    def resized(self, height: int, width: int, budget: Budget) -> tuple[int, int]:
        """Height and width at which an image costs at most `budget` visual tokens; unchanged for None."""

    def n_tokens(self, height: int, width: int) -> int | None:
        """Visual tokens of an image of this size as it is; None where the rule does not say."""


@dataclass(frozen=True)
class PatchGrid:
    """Native resolution in a grid: an image becomes multiples of `cell_px`, each cell of which is one token.

    The rule is `smart_resize` of Qwen2-VL (Wang et al. 2024, arXiv 2409.12191, 2.1): sides are rounded to multiples
    of patch x merge, then scaled to between `least` and `most` tokens with the aspect ratio kept.

    >>> family = PatchGrid("qwen2.5-vl", cell_px=28, least=4, most=16384)
    >>> family.n_tokens(480, 640), family.resized(480, 640, 64)
    (391, (196, 252))
    """

    name: str
    cell_px: int
    least: int
    most: int

    def problem(self, budget: Budget) -> str:
        if budget is None or budget == 0 or self.least <= budget <= self.most:
            return ""
        return (
            f"{self.name} makes {self.least} to {self.most} visual tokens of an image, any number between them, "
            "0 (no image) or max"
        )

    def resized(self, height: int, width: int, budget: Budget) -> tuple[int, int]:
        if budget is None or self._grid(height, width, self.most) == self._grid(height, width, budget):
            return height, width
        rows, columns = self._shown(height, width, budget)
        return rows * self.cell_px, columns * self.cell_px

    def _shown(self, height: int, width: int, budget: int) -> tuple[int, int]:
        """The largest grid of at most `budget` tokens; where an image is too long and narrow for it, the smallest."""
        grids = [self._grid(height, width, n) for n in range(budget, 0, -1)]
        made = [self.n_tokens(rows * self.cell_px, columns * self.cell_px) for rows, columns in grids]
        fits = next((i for i, n in enumerate(made) if n <= budget), made.index(min(made)))
        return grids[fits]

    def n_tokens(self, height: int, width: int) -> int:
        return math.prod(self.grid(height, width))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image of this size as it is, a token each."""
        return self._grid(height, width, self.most)

    def _grid(self, height: int, width: int, most: int) -> tuple[int, int]:
        """Rows and columns of cells with `most` tokens at most."""
        area = self.cell_px**2
        return smart_grid(
            height, width, cell_px=self.cell_px, min_pixels=min(self.least, most) * area, max_pixels=most * area
        )


@dataclass(frozen=True)
class Fixed:
    """A model with a number of tokens of its own, whatever is sent: an image is shown to it as it is, or not at all."""

    name: str = "fixed"

    def problem(self, budget: Budget) -> str:
        if budget in (0, None):
            return ""
        return (
            f"the family {self.name} has no rule by which an image sent to it would become fewer tokens; it can be "
            "asked at 0 (no image) and max"
        )

    def resized(self, height: int, width: int, budget: Budget) -> tuple[int, int]:
        return height, width

    def n_tokens(self, height: int, width: int) -> int | None:
        return None


# Defaults of the released processors: `min_pixels` and `max_pixels` of preprocessor_config.json, in tokens.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        PatchGrid("qwen2-vl", cell_px=28, least=4, most=16384),  # 3,136 to 12,845,056 pixels
        PatchGrid("qwen2.5-vl", cell_px=28, least=4, most=16384),
        PatchGrid("qwen3-vl", cell_px=32, least=64, most=16384),  # 65,536 to 16,777,216 pixels
        Fixed("fixed"),
    )
}


def family_in(model: str) -> str:
    """The family that a model's name tells, as `Qwen/Qwen2.5-VL-7B-Instruct` does; "" where it tells none.

    >>> family_in("Qwen/Qwen2.5-VL-7B-Instruct"), family_in("qwen3_vl:8b"), family_in("gpt-4o")
    ('qwen2.5-vl', 'qwen3-vl', '')
    """
    letters = re.sub(r"[^a-z0-9]", "", model.lower())
    known = (name for name in FAMILIES if re.sub(r"[^a-z0-9]", "", name) in letters and name != "fixed")
    return max(known, key=len, default="")

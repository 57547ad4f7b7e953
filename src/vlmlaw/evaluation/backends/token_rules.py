"""How many visual tokens released models make of an image, by the settings of their own processors.

One class for each way of making them, in plain numbers: a rule knows the settings that its processor takes and the
tokens that an image of H x W pixels becomes under each. Markers around an image (its begin, its rows) are text and not
counted. The rules are those of transformers' processors, which the tests hold them against.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

MAX_ASPECT_RATIO = 200  # beyond it the processors of Qwen-VL refuse an image


@dataclass(frozen=True)
class Setting:
    """What a processor is given for one image: options of the call, and attributes that must be set on it before.

    `shared` are attributes that the model's configuration has too, and that must be the same in both.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)


OWN = Setting()  # as released


class TokenRule:
    """What every rule has. Subclasses give `n_tokens` and `settings`, and the range of V they can make."""

    square_views: ClassVar[bool] = False  # the tokens of a view are a square grid, in raster order
    tokens_are_patches: ClassVar[bool] = False  # each patch of the tower becomes a token, and nothing else does
    marks_rows: ClassVar[bool] = False  # the prompt has a mark at the end of each row of an image

    @property
    def least(self) -> int:
        """A V at which any image can be shown."""
        raise NotImplementedError

    @property
    def most(self) -> int:
        """The largest V that an image can have."""
        raise NotImplementedError

    @property
    def only(self) -> Sequence[int]:
        """The budgets that may be asked for, where they are few; none where any between `least` and `most` may be."""
        return ()

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        """Visual tokens of an image under a setting. Raises ValueError for an image that the processor refuses."""
        raise NotImplementedError

    def n_each(self, sizes: Sequence[tuple[int, int]], setting: Setting = OWN) -> list[int]:
        """Visual tokens of each image of one question. Raises ValueError as `n_tokens` does."""
        return [self.n_tokens(height, width, setting) for height, width in sizes]

    def views(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, ...]:
        """Of each picture that the tower reads of this image, its cells: what becomes a token where none is left out.

        Raises ValueError as `n_tokens` does.
        """
        return (self.n_tokens(height, width, setting),)

    def runs(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Of each image of one question, as released, the tokens of each view; of all where views are joined.

        Raises ValueError as `n_tokens` does.
        """
        return [self.views(height, width) for height, width in sizes]

    def settings(self, budget: int) -> Iterator[Setting]:
        """The settings that may serve a budget, whatever the image."""
        raise NotImplementedError

    def problem(self, budget: int | None) -> str:
        """Why this budget cannot be asked for, and which can; "" where it can."""
        if budget is None or budget == 0:
            return ""
        if self.only:
            return "" if budget in self.only else f"it makes {', '.join(map(str, self.only))}, 0 (no image) or max"
        if self.least <= budget <= self.most:
            return ""
        return f"it makes {self.least} to {self.most} visual tokens of an image, 0 (no image) or max"

    def setting_for(self, sizes: Sequence[tuple[int, int]], budget: int | None) -> Setting:
        """The setting at which these images have the most tokens of which none has more than the budget.

        Raises ValueError where there is none: an image of extreme shape at a budget near `least`.
        """
        if budget is None or not sizes:
            return OWN
        best, most = None, -1
        for setting in self.settings(budget):
            try:
                counts = self.n_each(sizes, setting)
            except ValueError:  # under this setting nothing would be left of one of them
                continue
            if max(counts) <= budget and sum(counts) > most:
                best, most = setting, sum(counts)
        if best is None:
            height, width = max(sizes, key=lambda size: max(size) / min(size))
            raise ValueError(f"no setting makes at most {budget} visual tokens of {width} x {height} px")
        return best

    def ladder(self, height: int, width: int) -> list[int]:
        """The numbers of tokens that this image can have, smallest first; of a continuous rule some of them."""
        budgets = self.only or [2**k for k in range(math.ceil(math.log2(self.least)), 32) if 2**k < self.most]
        found = {self.n_tokens(height, width)}
        for budget in (*budgets, self.most):
            try:
                found.add(self.n_tokens(height, width, self.setting_for([(height, width)], budget)))
            except ValueError:
                continue
        return sorted(found)


@dataclass(frozen=True)
class FixedTokens(TokenRule):
    """The same number of tokens whatever the image (LLaVA-1.5, PaliGemma)."""

    square_views = True
    tokens_are_patches = True
    n: int

    @property
    def least(self) -> int:
        return self.n

    @property
    def most(self) -> int:
        return self.n

    @property
    def only(self) -> Sequence[int]:
        return (self.n,)

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        return self.n

    def settings(self, budget: int) -> Iterator[Setting]:
        yield OWN


class FixedBesidePatches(FixedTokens):
    """A fixed number that is not that of the patches: the class token is one of them."""

    square_views = False
    tokens_are_patches = False


@dataclass(frozen=True)
class NativeGrid(TokenRule):
    """Native resolution in cells of `cell_px`, between two numbers of pixels (Qwen2-VL to Qwen3-VL: `size`)."""

    cell_px: int
    min_pixels: int
    max_pixels: int

    @property
    def least(self) -> int:
        return math.ceil(self.min_pixels / self.cell_px**2)

    @property
    def most(self) -> int:
        return self.max_pixels // self.cell_px**2

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        return math.prod(self.grid(height, width, setting))

    def grid(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, int]:
        """Rows and columns of cells."""
        size = setting.options.get("size", {})
        least, most = size.get("shortest_edge", self.min_pixels), size.get("longest_edge", self.max_pixels)
        return smart_grid(height, width, cell_px=self.cell_px, min_pixels=least, max_pixels=most)

    def within(self, pixels: int) -> Setting:
        """The setting with so many pixels at most."""
        return Setting({"size": {"shortest_edge": min(self.min_pixels, pixels), "longest_edge": pixels}})

    def settings(self, budget: int) -> Iterator[Setting]:
        for n in range(self.most, 0, -1):  # a long narrow image can have more cells than its pixels are worth
            yield self._cells(n)

    def _cells(self, n: int) -> Setting:
        return self.within(n * self.cell_px**2)

    def setting_for(self, sizes: Sequence[tuple[int, int]], budget: int | None) -> Setting:
        if budget is None or not sizes:
            return OWN
        # Rows and columns are rounded down, so that more pixels than the budget's can still be within it.
        fits = bisect_right(range(1, self.most + 1), budget, key=lambda n: max(self.n_each(sizes, self._cells(n))))
        if fits:
            return self._cells(fits)
        raise ValueError(f"no setting makes at most {budget} visual tokens of these images")


def smart_grid(height: int, width: int, *, cell_px: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Rows and columns of cells of an image after `smart_resize` (Qwen2-VL, arXiv 2409.12191, 2.1).

    Raises ValueError for an image longer than its processor takes.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"an image of {width} x {height} px; its sides differ more than {MAX_ASPECT_RATIO} to 1")
    rows, columns = (round(length / cell_px) for length in (height, width))
    pixels = rows * columns * cell_px**2
    if pixels > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (max(1, math.floor(length / shrink / cell_px)) for length in (height, width))
    elif pixels < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(length * grow / cell_px) for length in (height, width))
    return rows, columns


@dataclass(frozen=True)
class LongestEdge(TokenRule):
    """Native resolution under a longest edge (Pixtral, Mistral3: `size.longest_edge`).

    Their classes in transformers fail at an image of one token, whose batch they squeeze away (5.23).
    """

    marks_rows = True
    cell_px: int
    longest_px: int

    @property
    def least(self) -> int:
        return 4  # two cells a side

    @property
    def most(self) -> int:
        return math.ceil(self.longest_px / self.cell_px) ** 2

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        longest = setting.options.get("size", {}).get("longest_edge", self.longest_px)
        ratio = max(height / longest, width / longest)
        if ratio > 1:
            height, width = math.floor(height / ratio), math.floor(width / ratio)
        if min(height, width) == 0:
            raise ValueError("an image so long and narrow that nothing of it would be left")
        n = ((height - 1) // self.cell_px + 1) * ((width - 1) // self.cell_px + 1)
        if n == 1:
            raise ValueError("an image of one visual token, at which its class in transformers fails")
        return n

    def settings(self, budget: int) -> Iterator[Setting]:
        for n in range(2, math.ceil(self.longest_px / self.cell_px) + 1):
            yield Setting({"size": {"longest_edge": min(n * self.cell_px, self.longest_px)}})


@dataclass(frozen=True)
class SoftTokens(TokenRule):
    """At most so many pooled cells, the aspect ratio kept (Gemma 4: `max_soft_tokens`)."""

    cell_px: int
    own: int
    steps: Sequence[int] = (70, 140, 280, 560, 1120)  # the only ones that its processor takes

    @property
    def least(self) -> int:
        return min(self.steps)

    @property
    def most(self) -> int:
        return max(self.steps)

    @property
    def only(self) -> Sequence[int]:
        return self.steps

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        budget = setting.options.get("max_soft_tokens", self.own)
        factor = math.sqrt(budget * self.cell_px**2 / (height * width))
        rows, columns = (math.floor(factor * length / self.cell_px) for length in (height, width))
        if rows == 0 and columns == 0:
            raise ValueError(f"an image of {width} x {height} px, of which no cell would be left")
        if rows == 0:
            rows, columns = 1, min(math.floor(width / height), budget)
        elif columns == 0:
            rows, columns = min(math.floor(height / width), budget), 1
        return rows * columns

    def settings(self, budget: int) -> Iterator[Setting]:
        yield Setting({"max_soft_tokens": budget})

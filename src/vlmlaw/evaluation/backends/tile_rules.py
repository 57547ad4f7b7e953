"""Visual tokens of families that cut an image into tiles; see token_rules.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from vlmlaw.evaluation.backends.token_rules import OWN, Setting, TokenRule

LARGEST_IDEFICS_PX = 4096  # Idefics3 and SmolVLM shrink to this after all


@dataclass(frozen=True)
class SplitTiles(TokenRule):
    """Tiles of a resized image and the whole (Idefics3, SmolVLM: `size.longest_edge`, `do_image_splitting`)."""

    square_views = True
    per_tile: int
    tile_px: int
    longest_px: int
    splits: bool = True

    @property
    def least(self) -> int:
        return self.per_tile

    @property
    def most(self) -> int:
        side = math.ceil(self.longest_px / self.tile_px)
        return self.per_tile * (side**2 + (side > 1))

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        if not setting.options.get("do_image_splitting", self.splits):
            return self.per_tile
        longest = setting.options.get("size", {}).get("longest_edge", self.longest_px)
        height, width = _rescaled(height, width, longest)
        if max(height, width) > LARGEST_IDEFICS_PX:
            height, width = _rescaled(height, width, LARGEST_IDEFICS_PX, even=False)
        rows, columns = _tiles(height, width, self.tile_px)
        return self.per_tile * (rows * columns + 1 if rows * columns > 1 else 1)

    def views(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, ...]:
        return (self.per_tile,) * (self.n_tokens(height, width, setting) // self.per_tile)

    def settings(self, budget: int) -> Iterator[Setting]:
        yield Setting({"do_image_splitting": False})
        for n in range(2, math.ceil(self.longest_px / self.tile_px) + 1):
            edge = min(n * self.tile_px, self.longest_px)
            yield Setting({"do_image_splitting": True, "size": {"longest_edge": edge}})


def _rescaled(height: int, width: int, longest: int, *, even: bool = True) -> tuple[int, int]:
    """Height and width with this longest side, the other made even as Idefics3 does."""
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return max(other + (other % 2 if even else 0), 1), longest
    other = int(longest * ratio)
    return longest, max(other + (other % 2 if even else 0), 1)


def _tiles(height: int, width: int, tile_px: int) -> tuple[int, int]:
    """Rows and columns of tiles. The shorter side is that of the longer one after it was rounded up to whole tiles."""
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / tile_px)
        return math.ceil(int(columns * tile_px / ratio) / tile_px), columns
    rows = math.ceil(height / tile_px)
    return rows, math.ceil(int(rows * tile_px * ratio) / tile_px)


@dataclass(frozen=True)
class PanAndScan(TokenRule):
    """One view of fixed tokens, and crops of long images (Gemma 3: `do_pan_and_scan`)."""

    square_views = True
    per_view: int
    most_crops: int = 4  # the last three are those that the release recommends
    least_crop_px: int = 256
    least_ratio: float = 1.2

    @property
    def least(self) -> int:
        return self.per_view

    @property
    def most(self) -> int:
        return self.per_view * (1 + self.most_crops)

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        if not setting.options.get("do_pan_and_scan", False):
            return self.per_view
        long, short = max(height, width), min(height, width)
        if long / short < self.least_ratio:
            return self.per_view
        n = min(math.floor(long / self.least_crop_px), math.floor(long / short + 0.5))
        n = min(setting.options.get("pan_and_scan_max_num_crops", self.most_crops), max(2, n))
        is_small = min(math.ceil(long / n), short) < self.least_crop_px
        return self.per_view * (1 if is_small else 1 + n)

    def views(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, ...]:
        return (self.per_view,) * (self.n_tokens(height, width, setting) // self.per_view)

    def settings(self, budget: int) -> Iterator[Setting]:
        yield Setting({"do_pan_and_scan": False})
        for n in range(2, self.most_crops + 1):
            options = {"pan_and_scan_max_num_crops": n, "pan_and_scan_min_crop_size": self.least_crop_px}
            yield Setting({"do_pan_and_scan": True, "pan_and_scan_min_ratio_to_activate": self.least_ratio, **options})


@lru_cache(maxsize=64)
def tile_shapes(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of all grids with `least` to `most` tiles, fewest tiles first."""
    shapes = [(c, r) for c in range(1, most + 1) for r in range(1, most + 1) if least <= c * r <= most]
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))


def nearest_tiles(height: int, width: int, *, tile_px: int, least: int, most: int) -> int:
    """Tiles of the grid nearest to the image's aspect ratio, the larger of equal ones while the image can fill half."""
    best, nearest = (1, 1), math.inf
    for columns, rows in tile_shapes(least, most):
        away = abs(width / height - columns / rows)
        if away < nearest:
            best, nearest = (columns, rows), away
        elif away == nearest and height * width > 0.5 * tile_px**2 * columns * rows:
            best = (columns, rows)
    return best[0] * best[1]


@dataclass(frozen=True)
class AspectTiles(TokenRule):
    """Tiles in the grid of the nearest aspect ratio, and a thumbnail (InternVL, Aya Vision: `max_patches`)."""

    square_views = True
    per_tile: int
    tile_px: int
    least_tiles: int = 1
    most_tiles: int = 12

    @property
    def least(self) -> int:
        return self.per_tile

    @property
    def most(self) -> int:
        return self.per_tile * (self.most_tiles + 1)

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        most = setting.options.get("max_patches", self.most_tiles)
        if not setting.options.get("crop_to_patches", True) or most < 2:
            return self.per_tile
        least = setting.options.get("min_patches", self.least_tiles)
        n = nearest_tiles(height, width, tile_px=self.tile_px, least=least, most=most)
        return self.per_tile * (n + 1 if n > 1 else 1)

    def views(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, ...]:
        return (self.per_tile,) * (self.n_tokens(height, width, setting) // self.per_tile)

    def settings(self, budget: int) -> Iterator[Setting]:
        yield Setting({"crop_to_patches": False})
        for n in range(2, self.most_tiles + 1):
            yield Setting({"crop_to_patches": True, "min_patches": 1, "max_patches": n})


@dataclass(frozen=True)
class NativeOrTiles(TokenRule):
    """Native resolution, and tiles with a thumbnail for a large image (LFM2-VL: `max_image_tokens`, `max_tiles`)."""

    cell_px: int
    min_tokens: int
    max_tokens: int
    tile_px: int
    least_tiles: int
    most_tiles: int
    tolerance: float
    splits: bool = True
    thumbnail: bool = True

    @property
    def least(self) -> int:
        return self.min_tokens

    @property
    def most(self) -> int:
        tiles = self.most_tiles * (self.tile_px // self.cell_px) ** 2
        return tiles + self.max_tokens if self.splits else self.max_tokens

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        return sum(self.views(height, width, setting))

    def views(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, ...]:
        most = setting.options.get("max_image_tokens", self.max_tokens)
        cell = self.cell_px
        rows, columns = (max(1, round(length / cell)) for length in (height, width))
        if rows * columns > most:
            shrink = math.sqrt(height * width / (most * cell**2))
            whole = math.prod(max(1, math.floor(length / shrink / cell)) for length in (height, width))
        elif rows * columns < self.min_tokens:
            grow = math.sqrt(self.min_tokens * cell**2 / (height * width))
            whole = math.prod(math.ceil(length * grow / cell) for length in (height, width))
        else:
            whole = rows * columns
        is_large = round(height / cell) * round(width / cell) > most * self.tolerance
        if not setting.options.get("do_image_splitting", self.splits) or not is_large:
            return (whole,)
        most_tiles = setting.options.get("max_tiles", self.most_tiles)
        n = nearest_tiles(height, width, tile_px=self.tile_px, least=self.least_tiles, most=most_tiles)
        return ((self.tile_px // cell) ** 2,) * n + ((whole,) if self.thumbnail and n > 1 else ())

    def settings(self, budget: int) -> Iterator[Setting]:
        for n in range(self.max_tokens, self.min_tokens - 1, -1):  # rows and columns are rounded down: n can give fewer
            yield Setting({"max_image_tokens": n, "do_image_splitting": False})
        for tiles in range(self.least_tiles, self.most_tiles + 1) if self.splits else ():
            yield Setting({"max_image_tokens": self.max_tokens, "do_image_splitting": True, "max_tiles": tiles})


@dataclass(frozen=True)
class Pinpoints(TokenRule):
    """A whole view and an unpadded grid of tiles with line ends (LLaVA-NeXT, LLaVA-OneVision: `image_grid_pinpoints`).

    most_views: OneVision shrinks its grid to what so many views are worth (`anyres_max_9`); None does not.
    """

    side: int  # patches along a view's side
    view_px: int
    pinpoints: tuple[tuple[int, int], ...]  # height and width of the grids that an image may be fitted into
    extra: int = 0  # tokens of the whole view beside its patches: the class token, where it is kept
    most_views: int | None = None

    @cached_property
    def with_single(self) -> tuple[tuple[int, int], ...]:
        """The released grids and the smallest, of one tile."""
        return tuple(dict.fromkeys([(self.view_px, self.view_px), *self.pinpoints]))

    @property
    def least(self) -> int:
        """Whole view, one tile, its line ends."""
        return self.side**2 + self.extra + self.side * (self.side + 1)

    @property
    def most(self) -> int:
        n = max(h * w for h, w in self.pinpoints) // self.view_px**2
        rows = max(h for h, _ in self.pinpoints) // self.view_px
        return self.side**2 + self.extra + n * self.side**2 + rows * self.side

    def n_tokens(self, height: int, width: int, setting: Setting = OWN) -> int:
        pinpoints = setting.shared.get("image_grid_pinpoints", self.pinpoints)
        best = best_resolution(height, width, pinpoints)
        rows, columns = (self.side * (length // self.view_px) for length in best)
        if width / height > columns / rows:
            unpadded = int(round(height * (columns / width), 7))
            rows -= (rows - unpadded) // 2 * 2
        else:
            unpadded = int(round(width * (rows / height), 7))
            columns -= (columns - unpadded) // 2 * 2
        if self.most_views is not None:
            ratio = math.sqrt(rows * columns / (self.most_views * self.side**2))
            if ratio > 1.1:
                rows, columns = int(rows // ratio), int(columns // ratio)
        return rows * columns + rows + self.side**2 + self.extra

    def views(self, height: int, width: int, setting: Setting = OWN) -> tuple[int, ...]:
        best = best_resolution(height, width, setting.shared.get("image_grid_pinpoints", self.pinpoints))
        return (self.side**2,) * (1 + math.prod(length // self.view_px for length in best))

    def n_each(self, sizes: Sequence[tuple[int, int]], setting: Setting = OWN) -> list[int]:
        if self.most_views is not None and len(sizes) > 1:  # OneVision shows each of several images whole, and no tiles
            return [self.side**2 + 1] * len(sizes)
        return super().n_each(sizes, setting)

    def runs(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        return [(n,) for n in self.n_each(sizes)]

    def settings(self, budget: int) -> Iterator[Setting]:
        yield OWN  # first: OneVision makes as many tokens of fewer tiles, too, and of equals the released one is taken
        for area in sorted({h * w for h, w in self.with_single}):
            kept = [[h, w] for h, w in self.with_single if h * w <= area]
            yield Setting(shared={"image_grid_pinpoints": kept})


def best_resolution(height: int, width: int, possible: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The grid that keeps most of an image's pixels, and of those the one that wastes least (LLaVA-NeXT)."""
    best, most, least = (0, 0), 0, math.inf
    for h, w in possible:
        scale = min(w / width, h / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = h * w - kept
        if kept > most or (kept == most and wasted < least):
            best, most, least = (h, w), kept, wasted
    return best

"""Rules of families whose whole processor needs torchvision, held against transformers' image processors without it."""

import math

import numpy as np
import pytest
from PIL import Image

from vlmlaw.evaluation.backends.released_families import Release, rule_of
from vlmlaw.evaluation.backends.tile_rules import AspectTiles, NativeOrTiles, Pinpoints, SplitTiles, best_resolution
from vlmlaw.evaluation.backends.token_rules import LongestEdge, NativeGrid, SoftTokens


def _qwen(**size):
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 4 * 64, "longest_edge": 64 * 64})
    return lambda image, options: processor(image, **options)["image_grid_thw"][0].prod() // 4


def _internvl():
    from transformers import GotOcr2ImageProcessorPil

    processor = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, crop_to_patches=True)
    return lambda image, options: 5 * processor(image, **options)["num_patches"][0]


def _smolvlm():
    from transformers import SmolVLMImageProcessorPil

    processor = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 16})
    return lambda image, options: 4 * len(processor([[image]], **options)["pixel_values"][0])


def _gemma4():
    from transformers import Gemma4ImageProcessorPil

    processor = Gemma4ImageProcessorPil(patch_size=2)
    return lambda image, options: processor(image, **options)["num_soft_tokens_per_image"][0]


def _pixtral():
    from transformers import PixtralImageProcessorPil

    processor = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    return lambda image, options: math.prod(processor(image, **options)["image_sizes"][0]) // 64


CASES = {
    "qwen": (_qwen, NativeGrid(8, min_pixels=4 * 64, max_pixels=64 * 64)),
    "internvl": (_internvl, AspectTiles(5, 16)),
    "smolvlm": (_smolvlm, SplitTiles(4, 16, 64)),
    "gemma4": (_gemma4, SoftTokens(6, 280)),
    "pixtral": (_pixtral, LongestEdge(8, 64)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_image_processor_makes_what_the_rule_says(name):
    make, rule = CASES[name]
    count, rng = make(), np.random.default_rng(0)
    budgets = list(rule.only) or sorted({rule.least, rule.most, *map(int, rng.integers(rule.least, rule.most, 5))})
    seen = set()
    for _ in range(25):
        height, width = map(int, np.exp(rng.uniform(np.log(6), np.log(160), 2)))
        if max(height, width) > 20 * min(height, width):
            continue
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for budget in (None, *budgets):
            try:
                setting = rule.setting_for([(height, width)], budget)
            except ValueError:  # refused only where not even a line of single cells would fit
                assert budget is not None and budget < max(height, width) / min(height, width)
                continue
            promised = rule.n_tokens(height, width, setting)
            assert int(count(image, dict(setting.options))) == promised, (height, width, budget)
            assert budget is None or promised <= budget
            seen.add(promised)
    assert len(seen) > 4


def test_grids_are_chosen_as_llava_next_chooses_them():
    from transformers.image_processing_utils import select_best_resolution

    rng = np.random.default_rng(1)
    possible = [[336 * r, 336 * c] for r in range(1, 4) for c in range(1, 4)]
    for height, width in rng.integers(20, 3000, (300, 2)).tolist():
        assert best_resolution(height, width, possible) == tuple(select_best_resolution((height, width), possible))


LADDERS = {name: rule for name, (_, rule) in CASES.items()} | {
    "lfm2": NativeOrTiles(8, min_tokens=4, max_tokens=16, tile_px=32, least_tiles=2, most_tiles=6, tolerance=2.0),
    "next": Pinpoints(4, 28, ((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))),
}


@pytest.mark.parametrize("name", LADDERS)
def test_each_step_of_a_ladder_is_what_its_limit_gives(name):
    """The most that the knob can make within a limit is made: a step of the ladder, asked for, is that step."""
    rule, rng, n_steps = LADDERS[name], np.random.default_rng(5), 0
    for height, width in np.exp(rng.uniform(np.log(20), np.log(600), (60, 2))).astype(int).tolist():
        if max(height, width) > 12 * min(height, width):
            continue
        for step in rule.only or rule.ladder(height, width):
            made = rule.n_tokens(height, width, rule.setting_for([(height, width)], step))
            assert made == step or (rule.only and made <= step), (height, width, step)
            n_steps += 1
    assert n_steps > 50


def test_several_images_share_a_setting_that_none_exceeds():
    rule = Pinpoints(24, 336, ((336, 672), (672, 336), (672, 672)))
    sizes = [(400, 800), (900, 900)]
    for budget in (rule.least, 2000, rule.most):
        setting = rule.setting_for(sizes, budget)
        assert max(rule.n_tokens(*size, setting) for size in sizes) <= budget
    with pytest.raises(ValueError, match="at most 700 visual tokens"):
        rule.setting_for([(900, 900)], 700)


@pytest.mark.parametrize("family", ["internvl", "aya_vision"])
def test_processors_cut_into_tiles_whatever_the_file_says(family):
    """InternVL's releases have `crop_to_patches: false` in preprocessor_config.json, over which the processor goes."""
    import transformers as t

    kind = {"internvl": t.InternVLProcessor, "aya_vision": t.AyaVisionProcessor}[family]
    image = {"crop_to_patches": False, "size": {"height": 28, "width": 28}}
    processor = {"image_seq_length": 4, "img_size": 28, "patch_size": 14}
    rule = rule_of(Release({"model_type": family}, image, processor))
    made = t.GotOcr2ImageProcessorPil(**image)(Image.new("RGB", (200, 90)), **kind.images_kwargs)["num_patches"][0]
    assert made > 1 and rule.n_tokens(90, 200) == 4 * made

"""`vlmlaw tokens` against transformers: processors' own counts, FLOPs as torch counts them, the cache that is kept."""

import inspect
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.backends.releases import MAKERS, TEXT
from torch.utils.flop_counter import FlopCounterMode

from vlmlaw.cli.main import main
from vlmlaw.evaluation.backends.checkpoint import Checkpoint
from vlmlaw.evaluation.backends.release_cost import KvCache, tower_of
from vlmlaw.evaluation.backends.token_rules import OWN, NativeGrid


@pytest.fixture(scope="module", params=list(MAKERS))
def released(request, tmp_path_factory):
    """A checkpoint, and a folder with its configuration and without its weights."""
    torch.manual_seed(0)
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    bare = folder.parent / f"{request.param}-bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return Checkpoint(str(folder)), bare, folder


def _count(model, inputs):
    return int((inputs["input_ids"] == model.image_token_id).sum())


def _of_transformers(folder):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")


def _asked(capsys, *given):
    assert main(["tokens", *map(str, given), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_says_what_the_processor_makes(released, capsys):
    model, folder, _ = released
    rng, seen = np.random.default_rng(0), set()
    for _ in range(12):
        height, width = map(int, np.exp(rng.uniform(np.log(20), np.log(900), 2)))
        if max(height, width) > 12 * min(height, width):
            continue
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        found = _asked(capsys, folder, "--image", f"{width}x{height}", "--text-tokens", 10)
        assert found["n_params"] == model.n_params
        (own,) = found["asked"]
        assert own["n_visual_tokens"] == _count(model, model.inputs("?", [picture], budget=None))
        assert own["llm_flops"] == 2 * model.n_params * (10 + own["n_visual_tokens"])
        for row in found["ladder"]:
            inputs = model.inputs("?", [picture], budget=row["n_visual_tokens"])
            assert _count(model, inputs) == row["n_visual_tokens"], (height, width, row)
            seen.add(row["n_visual_tokens"])
    assert len(seen) > 1 or len(model.rule.only) == 1


def test_tower_flops_are_those_that_torch_counts(released, capsys):
    model, folder, whole = released
    vlm = _of_transformers(whole)  # with the attention whose products the counter sees
    released_pinpoints = getattr(vlm.config, "image_grid_pinpoints", None)
    for height, width in ((60, 200), (64, 64)):
        picture = Image.new("RGB", (width, height))
        found = _asked(capsys, folder, "--image", f"{width}x{height}")
        for row in found["ladder"]:
            inputs = model.inputs("?", [picture], budget=row["n_visual_tokens"])
            takes = inspect.signature(vlm.get_image_features).parameters
            own = {name: inputs[name] for name in takes if name in inputs}
            if released_pinpoints:
                vlm.config.image_grid_pinpoints = row["processor"].get("image_grid_pinpoints", released_pinpoints)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                for view in _without_padding(own):
                    vlm.get_image_features(**view)
            assert row["tower_flops"] == counter.get_total_flops(), row


def _without_padding(inputs):
    """LFM2-VL's processor fills each view up to the most patches of any image; servers, which pack views, do not."""
    if "spatial_shapes" not in inputs:
        return [inputs]
    n_patches = inputs["spatial_shapes"].prod(dim=1).tolist()
    padded = ("pixel_values", "pixel_attention_mask")
    return [
        {name: x[i : i + 1, :n] if name in padded else x[i : i + 1] for name, x in inputs.items()}
        for i, n in enumerate(n_patches)
    ]


def test_the_cache_is_as_large_as_the_one_that_is_kept(released, capsys):
    model, folder, whole = released
    picture = Image.new("RGB", (90, 60))
    inputs = model.inputs("What is it?", [picture], budget=None)
    n, v = inputs["input_ids"].shape[1], _count(model, inputs)
    found = _asked(capsys, folder, "--image", "90x60", "--text-tokens", n - v, "--dtype", "float32")
    with torch.no_grad():
        vlm = _of_transformers(whole)
        cache = vlm(**inputs, use_cache=True).past_key_values
    growing = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]  # no convolution's state
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in growing)
    (row,) = found["asked"]
    assert row["n_visual_tokens"] == v and row["kv_cache_bytes"] >= kept
    # A layer with a window forgets the token that the next one pushes out; what is read is a token more.
    assert row["kv_cache_bytes"] - kept <= KvCache.of_config(vlm.config.get_text_config(), dtype="float32").windowed


@pytest.mark.parametrize("window", [False, True])
def test_towers_of_native_resolution_are_counted(window):
    """Qwen2-VL's and Qwen2.5-VL's, the latter with attention in windows, on grids that no window divides."""
    import transformers as t

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope}
    if window:
        vision = {"depth": 3, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24}
        config = t.Qwen2_5_VLConfig(
            text_config=text,
            vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 112, "patch_size": 14},
        )
        model = t.Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    else:
        vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
        config = t.Qwen2VLConfig(text_config=text, vision_config={"patch_size": 14, **vision})
        model = t.Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    rule = NativeGrid(28, min_pixels=4 * 28**2, max_pixels=64 * 28**2)
    tower = tower_of(model, rule)
    assert bool(tower.windowed_width) == window
    for height, width in ((140, 252), (60, 90), (400, 2000)):
        rows, columns = rule.grid(height, width)
        grid = torch.tensor([[1, 2 * rows, 2 * columns]])
        pixels = torch.zeros(4 * rows * columns, 3 * 2 * 14**2)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.get_image_features(pixels, grid)
        assert tower.flops(rule, height, width, OWN) == counter.get_total_flops()


def _processors():
    import transformers as t

    pixels = {"shortest_edge": 56 * 56, "longest_edge": 16384 * 28**2}
    qwen = t.Qwen2VLImageProcessorPil(size=pixels)
    internvl = t.GotOcr2ImageProcessorPil(size={"height": 448, "width": 448})
    # As InternVLProcessor calls it, which needs torchvision: its own defaults go over the file's.
    own = t.InternVLProcessor.images_kwargs
    idefics = t.Idefics3ImageProcessorPil(size={"longest_edge": 4 * 364}, max_image_size={"longest_edge": 364})
    gemma = t.Gemma4ImageProcessorPil()
    return {
        "qwen2.5-vl": lambda image, knob: qwen(image, **knob)["image_grid_thw"][0].prod() // 4,
        "internvl": lambda image, knob: 256 * internvl(image, **{**own, **knob})["num_patches"][0],
        "idefics3": lambda image, knob: 169 * len(idefics([[image]], **knob)["pixel_values"][0]),
        "gemma4": lambda image, knob: gemma(image, **knob)["num_soft_tokens_per_image"][0],
    }


@pytest.mark.parametrize("family", ["qwen2.5-vl", "internvl", "idefics3", "gemma4"])
def test_a_familys_name_says_what_its_released_processor_makes(family, capsys):
    count, rng = _processors()[family], np.random.default_rng(1)
    for _ in range(2):
        height, width = map(int, np.exp(rng.uniform(np.log(200), np.log(1200), 2)))
        image = Image.new("RGB", (width, height))
        found = _asked(capsys, family, "--params", "7B", "--image", f"{width}x{height}")
        rows = found["ladder"]
        for row in [*found["asked"], *rows[:: max(len(rows) // 2, 1)]]:
            assert int(count(image, row["processor"])) == row["n_visual_tokens"], (height, width, row)
            assert row["tower_flops"] is None and row["llm_flops"] == 2 * 7e9 * (64 + row["n_visual_tokens"])


def test_max_pixels_is_the_processors_own(capsys):
    import transformers as t

    processor, rng = t.Qwen2VLImageProcessorPil(), np.random.default_rng(2)
    for _ in range(6):
        height, width = map(int, rng.integers(100, 1200, 2))
        pixels = int(np.exp(rng.uniform(np.log(2000), np.log(10**6))))
        size = {"shortest_edge": min(pixels, 56 * 56), "longest_edge": pixels}
        made = processor(Image.new("RGB", (width, height)), size=size)["image_grid_thw"][0].prod() // 4
        given = ["qwen2_vl", "--params", "2B", "--image", f"{width}x{height}", "--max-pixels", pixels]
        assert _asked(capsys, *given)["asked"][0]["n_visual_tokens"] == made


def test_what_cannot_be_is_said(released, tmp_path, capsys):
    model, folder, _ = released

    def refused(*given):
        assert main(["tokens", *map(str, given)]) == 2
        return capsys.readouterr().err

    assert "known by name: llava, llava_next" in refused("gemma5", "--image", "64x64")
    assert "expected width and height in pixels, as 1280x960" in refused(folder, "--image", "1280")
    assert "says no size; give --params" in refused("gemma3", "--image", "64x64")
    assert "give a checkpoint's folder" in refused("smolvlm", "--image", "64x64", "--params", "2B")
    far = refused(folder, "--image", "64x64", "--visual-tokens", "1000000")
    assert "cannot make V = 1000000 of 64 x 64 px: it makes" in far
    nearest = far.rsplit(" ", 1)[1].strip().rstrip(".")
    assert main(["tokens", str(folder), "--image", "64x64", "--visual-tokens", nearest]) == 0
    if not isinstance(model.rule, NativeGrid):
        assert "has no such knob" in refused(folder, "--image", "64x64", "--max-pixels", "4000")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            shutil.copy(folder / name, other / name)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "fuyu"}))
    assert "is of the family 'fuyu', for which there is no rule; known are llava" in refused(other, "--image", "64x64")

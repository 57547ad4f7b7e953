"""Questions that tell size and tokens apart, where who was right is known beforehand."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmlaw.compressors import build_compressor
from vlmlaw.data.framing import square
from vlmlaw.errors import UserError
from vlmlaw.evaluation.explain import explain
from vlmlaw.evaluation.settings import ExplainedBenchmark, ExplainedCell, ExplainPlan
from vlmlaw.vlm.cell_name import MeasuredCell
from vlmlaw.vlm.images import pixel_values
from vlmlaw.vlm.load import load_cell

RIGHT = {  # of the cells small at V = 1, small at 4, large at 1, large at 4
    "large": (0, 0, 1, 1),
    "tokens": (0, 1, 0, 1),
    "none": (0, 0, 0, 0),
    "all": (1, 1, 1, 1),
    "mixed": (1, 0, 0, 1),
}
CELLS = [("small", 1), ("small", 4), ("large", 1), ("large", 4)]


@pytest.fixture
def benchmark(tmp_path, make_vlm, words):
    """A benchmark of five questions with what four cells of one compressor replied to them."""
    return answered(tmp_path, make_vlm, words, "fastervlm")


def answered(tmp_path, make_vlm, words, compressor):
    Image.fromarray(np.full((20, 40, 3), 200, np.uint8)).save(tmp_path / "wide.png")
    rows = [{"id": key, "image": "wide.png", "question": f"{key}?", "answer": "red"} for key in RIGHT]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    for place, (size, v) in enumerate(CELLS):
        folder = tmp_path / "cells" / f"{size}_v{v}_{compressor}_s0" / "benchmarks"
        folder.mkdir(parents=True)
        replies = [{"id": key, "lost": 1.0 - right[place]} for key, right in RIGHT.items()]
        (folder / "mini.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    side = make_vlm().config.vision_config.image_size // make_vlm().config.vision_config.patch_size
    model = tmp_path / "cells" / "weights" / "model"
    make_vlm(compressor="none", n_visual_tokens=side**2).save_pretrained(model)
    words.save_pretrained(model)
    return tmp_path


def plan(folder: Path, compressor: str = "fastervlm") -> ExplainPlan:
    cells = tuple(
        ExplainedCell(
            training="weights",
            is_largest=size == "large",
            measured=MeasuredCell(size=size, n_visual_tokens=v, compressor=compressor, seed=0),
        )
        for size, v in CELLS
    )
    asked = ExplainedBenchmark(
        name="mini",
        suite="reading",
        metric="exact_match",
        questions=str(folder / "q.json"),
        images=str(folder),
        instruction="in a word",
    )
    look = {"image_px": 32, "fit": "pad", "pad_color": (0, 0, 0)}
    return ExplainPlan(n=2, records=9, cells=cells, benchmarks=(asked,), **look)


def test_replies_of_a_benchmark_say_what_larger_models_and_more_tokens_answer(benchmark):
    explain(benchmark / "cells", benchmark / "out.json", plan=plan(benchmark))
    made = json.loads((benchmark / "out.json").read_text())
    found = made["suites"]["reading"]
    assert found["n_questions"] == 5
    assert found["errors"] == pytest.approx([1 - sum(r[place] for r in RIGHT.values()) / 5 for place in range(4)])
    assert found["shares"] == dict.fromkeys(("larger", "tokens", "neither", "all"), 0.2)
    shown = {reason: [question["question"] for question in own] for reason, own in found["questions"].items()}
    assert shown == {"larger": ["large?"], "tokens": ["tokens?"], "neither": ["none?"]}
    (question,) = found["questions"]["tokens"]
    assert question["right"] == [False, True, False, True] and question["answer"] == "red"
    for v in (1, 4):
        seen = question["seen"][str(v)]
        assert seen["how"] == "patches" and len({tuple(place) for place in seen["places"]}) == v
    (picture,) = made["pictures"].values()  # as the cells see it: padded to a square, above and below
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert image.size == (32, 32) and image.getpixel((16, 2)) == (0, 0, 0) and image.getpixel((16, 16)) == (200,) * 3


def test_patches_that_the_question_chooses_are_those_of_the_question_as_it_was_asked(tmp_path, make_vlm, words):
    """Chosen again by the compressor's own interface, from patches and embeddings of the words."""
    folder = answered(tmp_path, make_vlm, words, "text_guided")
    explain(folder / "cells", folder / "out.json", plan=plan(folder, "text_guided"))
    (question,) = json.loads((folder / "out.json").read_text())["suites"]["reading"]["questions"]["tokens"]
    vlm, _ = load_cell(folder / "cells" / "weights" / "model")
    image = square(Image.open(folder / "wide.png"), 32, fit="pad", pad_color=(0, 0, 0))
    with torch.no_grad():
        patches = vlm.encode_images(pixel_values([np.asarray(image)], vlm.config)).patches
        ids = torch.tensor([words("tokens? in a word", add_special_tokens=False)["input_ids"]])
        asked = vlm.get_input_embeddings()(ids)
        keys = vlm.projector(patches)
    for v in (1, 4):
        options = {"question_width": asked.shape[2], "key_width": keys.shape[2]}
        compressor = build_compressor("text_guided", 4, patches.shape[2], v, **options)
        _, places = compressor.forward_with_positions(patches, asked, torch.ones(ids.shape, dtype=bool), keys_BPH=keys)
        assert question["seen"][str(v)] == {"side": 4, "how": "patches", "places": places[0].tolist()}


def test_a_cell_without_replies_is_named(benchmark):
    (benchmark / "cells" / "large_v4_fastervlm_s0" / "benchmarks" / "mini.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"large_v4_fastervlm_s0/benchmarks/mini\.jsonl holds no replies"):
        explain(benchmark / "cells", benchmark / "out.json", plan=plan(benchmark))

"""Released checkpoints in their own format: V is what the family's rule promises, by the processor's own count.

The reference is transformers: the processor's tokens, and the model's own `generate` on what the processor makes.
"""

import json
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.evaluation.backends.releases import MAKERS

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.checkpoint import Checkpoint
from vlmlaw.evaluation.backends.interface import Unanswered
from vlmlaw.evaluation.backends.release_files import Source

DOCS = Path(__file__).parents[3] / "docs" / "measure.md"
TABLE_SIZES = ((137, 61), (520, 488), (90, 333))  # width and height


@pytest.fixture(scope="module", params=list(MAKERS))
def released(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    return folder, Checkpoint(str(folder))


def _picture(rng, height, width):
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_v_is_what_the_family_promises(released):
    _, model = released
    rng, rule = np.random.default_rng(0), model.rule
    budgets = list(rule.only) or sorted({rule.least, rule.most, *map(int, rng.integers(rule.least, rule.most, 4))})
    seen = {budget: [] for budget in [None, *budgets]}
    for _ in range(10):
        height, width = map(int, np.exp(rng.uniform(np.log(12), np.log(700), 2)))
        if max(height, width) > 12 * min(height, width):
            continue
        picture = _picture(rng, height, width)
        for budget in seen:
            try:
                setting = rule.setting_for([(height, width)], budget)
            except ValueError:  # refused only where not even a line of single cells would fit
                assert budget is not None and budget < max(height, width) / min(height, width)
                continue
            inputs = model.inputs("What?", [picture], budget=budget)
            counted = int((inputs["input_ids"] == model.image_token_id).sum())
            assert counted == rule.n_tokens(height, width, setting), (height, width, budget)
            assert budget is None or counted <= budget
            seen[budget].append(counted)
    means = [np.mean(seen[budget]) for budget in budgets]
    assert means == sorted(means)  # more where more is allowed
    assert len(rule.only) == 1 or means[-1] > means[0]


def row_of(model):
    """The row of the table in docs/measure.md: knob, and V promised = counted for each size and limit."""
    rule, said, knobs = model.rule, [], set()
    middle = rule.only[len(rule.only) // 2] if rule.only else (rule.least + rule.most) // 2
    for width, height in TABLE_SIZES:
        for limit in (None, middle):
            setting = rule.setting_for([(height, width)], limit)
            knobs |= {*setting.options, *setting.shared}
            inputs = model.inputs("What?", [Image.new("RGB", (width, height), (90, 60, 30))], budget=limit)
            counted = int((inputs["input_ids"] == model.image_token_id).sum())
            said.append(f"{rule.n_tokens(height, width, setting)} = {counted}")
    knob = ", ".join(f"`{name}`" for name in sorted(knobs)) or "none"
    cells = [", ".join(said[i : i + 2]) for i in range(0, len(said), 2)]
    return f"| `{model.family}` | {knob} | {middle} | {' | '.join(cells)} |"


def test_the_table_that_is_kept_is_what_is_counted(released):
    _, model = released
    assert row_of(model) in DOCS.read_text().splitlines()


def test_tokens_says_what_the_processor_makes(released, capsys):
    folder, model = released
    for width, height in np.random.default_rng(4).integers(30, 400, (2, 2)).tolist():
        inputs = model.inputs("What?", [Image.new("RGB", (width, height), (90, 60, 30))], budget=None)
        counted = int((inputs["input_ids"] == model.image_token_id).sum())
        assert main(["tokens", str(folder), "--image", f"{width}x{height}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["asked"][0]["n_visual_tokens"] == counted


def test_it_answers_with_and_without_images(released):
    _, model = released
    rng = np.random.default_rng(1)
    pictures = [np.asarray(_picture(rng, *size)) for size in ((60, 44), (30, 90))]
    blind = model.ask("What is it?", pictures, budget=0, max_new_tokens=4)
    assert blind.n_visual_tokens == 0
    sizes = [picture.shape[:2] for picture in pictures]
    for budget in (None, model.rule.most):
        try:
            setting = model.rule.setting_for(sizes, budget)
        except ValueError:
            continue
        reply = model.ask("What is it?", pictures, budget=budget, max_new_tokens=4)
        assert reply.n_visual_tokens == sum(model.rule.n_each(sizes, setting))
        assert reply.n_prompt_tokens >= blind.n_prompt_tokens + reply.n_visual_tokens
        assert 0 < reply.first_token_seconds <= reply.seconds and reply.n_generated_tokens <= 4
    with pytest.raises(UserError, match=r"cannot be asked at V = 1000000: it makes \d+"):
        model.check([0, None, 1000000])


def test_replies_are_generates_own(tmp_path):
    """As a user of transformers would write it, with the processor's knob by hand."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    folder = MAKERS["idefics3"](tmp_path / "idefics3")
    processor, own = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    rng, model, said = np.random.default_rng(2), Checkpoint(str(folder)), set()
    for budget, knob in ((4, {"do_image_splitting": False}), (20, {"size": {"longest_edge": 64}}), (None, {})):
        picture = _picture(rng, 64, 64)
        prompt = "U:<image>What? A:"
        inputs = processor(text=prompt, images=[picture], return_tensors="pt", images_kwargs=knob)
        ids = own.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        reply = model.ask("What?", [np.asarray(picture)], budget=budget, max_new_tokens=6)
        assert reply.text == processor.decode(ids, skip_special_tokens=True).strip()
        said.add(reply.text)
    assert len(said) > 1


def test_pinpoints_reach_the_model_and_are_given_back(tmp_path):
    """LLaVA-NeXT's grids stand in the processor and in the model's configuration, which must agree."""
    torch.manual_seed(0)
    model = Checkpoint(str(MAKERS["llava_next"](tmp_path / "next")))
    picture = np.asarray(_picture(np.random.default_rng(0), 60, 60))
    few, many, again = (
        model.ask("What?", [picture], budget=v, max_new_tokens=2).n_visual_tokens for v in (36, None, 36)
    )
    assert few == again == 36 < many == 16 + 8 * 8 + 8


def test_one_command_from_folder_to_table(tmp_path, monkeypatch):
    from transformers import AutoModelForImageTextToText

    loaded, load = [], AutoModelForImageTextToText.from_pretrained

    def alone(*args, **options):
        assert all(model() is None for model in loaded)  # one model at a time: the one before was freed
        model = load(*args, **options)
        loaded.append(weakref.ref(model[0] if isinstance(model, tuple) else model))
        return model

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", alone)
    torch.manual_seed(0)
    for name in ("small", "large"):
        MAKERS["idefics3"](tmp_path / name)
    rng, rows = np.random.default_rng(0), []
    for i in range(6):
        _picture(rng, 80, 60).save(tmp_path / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "question": "what", "answer": "a"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["measure", tmp_path / "q.jsonl", "--visual-tokens", "4", "20", "max", "--max-new-tokens", "2"]
    given += ["--checkpoint", tmp_path / "small", "--checkpoint", tmp_path / "large", "--out", tmp_path / "out"]
    assert main([*map(str, given)]) == 0
    table = pd.read_csv(tmp_path / "out" / "cells.csv", dtype={"budget": str})
    assert set(table.family) == {"idefics3"} and set(table.n_visual_tokens) == {0, 4, 20, 52}
    journals = [*(tmp_path / "out" / "cells").glob("*/replies.jsonl")]
    before = [path.read_text() for path in journals]
    assert main([*map(str, given)]) == 0 and [path.read_text() for path in journals] == before  # nothing asked twice
    assert len(loaded) == 2  # and what is answered needs no weights
    torch.manual_seed(1)
    MAKERS["idefics3"](tmp_path / "small")  # other weights under the same name are asked anew
    assert main([*map(str, given)]) == 0
    for path, was in zip(journals, before, strict=True):
        assert (path.read_text() != was) == path.parent.name.startswith("small")


def test_what_is_no_checkpoint_is_said(tmp_path):
    assert Source.of_text("org/name@abc") == Source("org/name", "abc")
    assert Source.of_text("org/name@abc").name == "org/name@abc"
    with pytest.raises(UserError, match=r"no (folder|checkpoint)|cannot be read"):
        Checkpoint(str(tmp_path))
    torch.manual_seed(0)
    folder = MAKERS["llava"](tmp_path / "llava")
    model = Checkpoint(str(folder))
    with pytest.raises(UserError, match=r"V = 9: it makes 16, 0 \(no image\) or max"):
        model.check([9])
    with pytest.raises(UserError, match="float32"):
        Checkpoint(str(folder), dtype="int4")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(dict([*weights.items()][1:]), folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks weights"):
        Checkpoint(str(folder)).ask("What?", [], budget=0, max_new_tokens=1)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(UserError, match=r"lacks 1 of the 1 files .* as model-00001-of-00002"):
        Checkpoint(str(folder))
    (folder / "model.safetensors.index.json").unlink()
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="how an image becomes visual tokens"):
        Checkpoint(str(folder))


def test_an_image_that_no_setting_fits_is_left_out(tmp_path):
    torch.manual_seed(0)
    model = Checkpoint(str(MAKERS["idefics3"](tmp_path / "i")))
    with pytest.raises(Unanswered, match="at most 3 visual tokens of 40 x 40 px"):
        model.inputs("What?", [Image.new("RGB", (40, 40))], budget=3)

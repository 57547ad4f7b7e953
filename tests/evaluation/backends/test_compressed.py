"""Compressors on the features of released models, held against the models' own forward.

Where all features are kept the logits are the model's own, bit for bit. Where some are, they are those of the model's
own forward of a prompt and `inputs_embeds` that are built here by hand.
"""

import json
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.evaluation.backends.releases import MAKERS, make_llava, make_llava_interleave
from tests.golden_files import golden

from vlmlaw.cli.main import main
from vlmlaw.compressors import build_compressor
from vlmlaw.errors import UserError
from vlmlaw.evaluation.backends.checkpoint import Checkpoint
from vlmlaw.evaluation.backends.compressed import Compressed, flat
from vlmlaw.evaluation.backends.feature_compressor import possible, shares
from vlmlaw.evaluation.backends.interface import Unanswered
from vlmlaw.evaluation.measuring.job import ask_job, read_asked
from vlmlaw.experiment.catalogue import Catalogue

BEFORE = ("visionzip", "prumerge", "prumerge_plus")  # their connector reads one view at a time
TILES = ("idefics3", "smolvlm", "internvl", "aya_vision", "lfm2_vl")
REFUSALS = r"square grids|M-RoPE|marks within an image|makes a token of each patch alone|class token, and its tower has"
DOCS = Path(__file__).parents[3] / "docs" / "measure.md"


def documented():
    """The compressors of each family, by docs/measure.md."""
    found = {}
    for row in re.findall(r"^\| `.*$", DOCS.read_text().partition("### Fewer tokens by a compressor")[2], re.MULTILINE):
        families, names = (re.findall("`([a-z0-9_]+)`", part) for part in row.strip("|").split("|")[:2])
        if not {*families} & {*possible()}:
            found |= dict.fromkeys(families, names or possible())
    return found


@pytest.fixture(scope="module", params=list(MAKERS))
def own(request, tmp_path_factory):
    torch.manual_seed(0)
    return Checkpoint(str(MAKERS[request.param](tmp_path_factory.mktemp(request.param))))


def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((60, 44), (30, 90))]


OF_TOWER = (
    "pixel_values",
    "image_sizes",
    "pixel_attention_mask",
    "spatial_shapes",
    "image_grid_thw",
    "batch_num_images",
)


def prompt_of(own):
    """What the model would read of two images, what its tower gives, and the sizes of the images."""
    shown = [Image.fromarray(picture) for picture in pictures()]
    inputs = dict(own.inputs("What?", shown, budget=None))
    inputs.pop("labels", None)
    with torch.no_grad():
        of_tower = {name: inputs[name] for name in OF_TOWER if name in inputs}
        seen = own.model.get_image_features(**of_tower, return_dict=True)
    return inputs, seen, [(image.height, image.width) for image in shown]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits[0]


def grid_positions(ids, grids, image):
    """(3, 1, T) time, row and column as the paper of Qwen2-VL (arXiv 2409.12191, 2.1) has them."""
    found, at, i = [], 0, 0
    while i < len(ids):
        if ids[i] == image:
            _, rows, columns = (n // 2 for n in next(grids))
            found += [(at, at + row, at + column) for row in range(rows) for column in range(columns)]
            at, i = at + max(rows, columns), i + rows * columns
        else:
            found, at, i = [*found, (at, at, at)], at + 1, i + 1
    return torch.tensor(found).T.unsqueeze(1)


def by_hand(own, inputs, *, keep, tokens, deep, said=()):
    """Logits of the prompt's tokens where `keep` is, with features in place of its image tokens, and of what was said.

    tokens: the features. deep: what deeper layers add to them.
    """
    ids = torch.cat([inputs["input_ids"][:, keep], torch.tensor([[*said]], dtype=torch.long)], dim=1)
    embedded = own.model.get_input_embeddings()(ids.where(ids != own.image_token_id, 0)).clone()
    embedded[ids == own.image_token_id] = tokens
    more = {}
    if "token_type_ids" in inputs:
        after = torch.full((1, len(said)), int(own.family == "paligemma"))
        more["token_type_ids"] = torch.cat([inputs["token_type_ids"][:, keep], after], dim=1)
    if "image_grid_thw" in inputs:
        whole = grid_positions(
            inputs["input_ids"][0].tolist(), iter(inputs["image_grid_thw"].tolist()), own.image_token_id
        )
        kept = whole[:, :, keep]
        more["position_ids"] = torch.cat([kept, kept[:, :, -1:] + 1 + torch.arange(len(said))], dim=2)
    with torch.no_grad():
        if not deep:
            return own.model(inputs_embeds=embedded, attention_mask=torch.ones_like(ids), **more).logits[0]
        more |= {"visual_pos_masks": ids == own.image_token_id, "deepstack_visual_embeds": deep}
        states = own.model.model.language_model(inputs_embeds=embedded, attention_mask=torch.ones_like(ids), **more)
        return own.model.lm_head(states.last_hidden_state)[0]


def test_with_all_features_kept_it_is_the_model(own):
    inputs, seen, sizes = prompt_of(own)
    assert len(flat(seen.pooler_output)) == sum(own.rule.n_each(sizes))
    for name in documented()[own.family]:
        compressed = Compressed(own, name)
        compressed.check([1])
        whole = compressed.reduced(own.model, inputs, sizes=sizes, budget=None)
        exactly = {"atol": 1e-5, "rtol": 1e-5} if name in BEFORE else {"atol": 0, "rtol": 0}
        torch.testing.assert_close(logits(own.model, inputs), logits(own.model, whole), **exactly)
    for name in {*possible()} - {*documented()[own.family]}:
        with pytest.raises(UserError, match=REFUSALS):
            Compressed(own, name).check([1])


@pytest.mark.parametrize("name", ["random_at_inference", "divprune", "tome", "average_at_inference"])
def test_fewer_are_read_as_if_embedded_by_hand(own, name):
    """Each view by itself. A random choice is made by hand, others through the compressor's own interface."""
    is_square = own.rule.square_views
    if name not in documented()[own.family] or not (is_square or name == "random_at_inference"):
        return
    inputs, seen, sizes = prompt_of(own)
    features, deep = (
        flat(seen.pooler_output),
        [flat(layer) for layer in getattr(seen, "deepstack_features", None) or ()],
    )
    compressed, budget = Compressed(own, name), 31 if own.family in TILES else 4
    place, tokens, kept, start = (inputs["input_ids"][0] == own.image_token_id).nonzero()[:, 0], [], [], 0
    for views in own.rule.runs(sizes):
        for n, share in zip(views, shares(views, budget), strict=True):
            part = features[start : start + n]
            if name == "random_at_inference":
                which = sorted(random.Random(0).sample(range(n), share)) if share < n else range(n)
                tokens.append(part[which])
            else:
                share = int(share**0.5) ** 2 if name == "average_at_inference" else share
                which = range(share)
                tokens.append(build_compressor(name, int(n**0.5), part.shape[1], share)(part[None])[0])
            kept += [start + i for i in which]
            start += n
    text = (inputs["input_ids"][0] != own.image_token_id).nonzero()[:, 0].tolist()
    keep = sorted([*text, *place[kept].tolist()])
    read = compressed.reduced(own.model, inputs, sizes=sizes, budget=budget)
    of_hand = {"keep": keep, "tokens": torch.cat(tokens), "deep": [layer[kept] for layer in deep]}
    assert torch.equal(logits(own.model, read), by_hand(own, inputs, **of_hand))
    said = []
    for _ in range(3):
        said.append(int(by_hand(own, inputs, **of_hand, said=said)[-1].argmax()))
    reply = compressed.ask("What?", pictures(), budget=budget, max_new_tokens=3)
    assert reply.text == own.decoded(said)
    assert (reply.n_prompt_tokens, reply.n_visual_tokens) == (len(keep), len(kept))
    assert len(kept) <= budget * len(sizes) and len(kept) < len(features)


def test_shares_add_up_and_leave_no_view_out():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 40, rng.integers(1, 14)).tolist()
        budget = int(rng.integers(len(sizes), 300))
        found = shares(sizes, budget)
        assert sum(found) == min(budget, sum(sizes))
        assert all(1 <= v <= n for v, n in zip(found, sizes, strict=True))


def test_what_cannot_be_had_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    own = Checkpoint(str(MAKERS["llava_next"](tmp_path / "next")))
    refusals = {
        "fastv": "inside the language model",
        "quecc": "has to be trained",
        "average": "without a training there is average_at_inference",
        "downsample_at_inference": r"processor's own knob does \(`own`\)",
        "dvprune": "no compressor is called 'dvprune'",
    }
    for name, why in refusals.items():
        with pytest.raises(UserError, match=why):
            Compressed(own, name)
    for name, does in {"fastervlm": "chooses patches", "visionzip": "merges patches before the connector"}.items():
        with pytest.raises(UserError, match=f"{name} {does} .* of llava, paligemma, whose image is one view"):
            Compressed(own, name).check([4])
    pali = Checkpoint(str(MAKERS["paligemma"](tmp_path / "pali")))
    with pytest.raises(UserError, match=r"prumerge merges .* class token, and its tower has none"):
        Compressed(pali, "prumerge").check([4])
    with_class = Checkpoint(str(make_llava(tmp_path / "full", strategy="full")))
    assert len(prompt_of(with_class)[1].pooler_output[0]) == with_class.rule.most == 17
    Compressed(with_class, "divprune").check([4])
    for name, why in {"visionzip": "makes a token of each patch alone", "average_at_inference": "square grids"}.items():
        with pytest.raises(UserError, match=why):
            Compressed(with_class, name).check([4])
    with pytest.raises(UserError, match="square grids of features, which this family's are not"):
        Compressed(own, "average_at_inference").check([4])
    with pytest.raises(UserError, match="by itself the model makes at most"):
        Compressed(own, "divprune").check([100000])
    tiles = Compressed(Checkpoint(str(MAKERS["idefics3"](tmp_path / "tiles"))), "tome")
    with pytest.raises(Unanswered, match="2 visual tokens are fewer than the 13 views"):
        tiles.ask("What?", pictures(), budget=2, max_new_tokens=2)


@pytest.mark.parametrize("family", ["llava", "paligemma"])
@pytest.mark.parametrize("name", ["fastervlm", "scope", "vispruner", "cdpruner", "text_guided"])
def test_choices_are_those_of_the_compressor_on_what_transformers_gives(name, family, tmp_path):
    """The tower's attention by transformers' own eager pass, and embeddings of the question by hand."""
    torch.manual_seed(0)
    own, text = Checkpoint(str(MAKERS[family](tmp_path / family))), "What is it?"
    inputs, seen, sizes = prompt_of(own)
    base, features = own.model.model, flat(seen.pooler_output)
    base.vision_tower.set_attn_implementation("eager")
    with torch.no_grad():
        tower = base.vision_tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
        ids = torch.tensor(own._processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        question = own.model.get_input_embeddings()(ids)
    base.vision_tower.set_attn_implementation("sdpa")
    if family == "llava":  # the last layer but one, its class token first
        patches, importance = tower.hidden_states[-2][:, 1:], tower.attentions[-2].mean(dim=1)[:, 0, 1:]
    else:  # SigLIP has no class token: what a patch receives of all
        patches, importance = tower.last_hidden_state, tower.attentions[-1].mean(dim=(1, 2))
    compressed, n, wanted = Compressed(own, name), len(features) // 2, []
    by_tower = name in ("fastervlm", "scope", "vispruner")
    for view in range(2):
        part = features[view * n : view * n + n]
        width = patches.shape[2] if by_tower else part.shape[1]
        compressor = build_compressor(name, 4, width, 5, **({} if by_tower else {"question_width": width}))
        which = {"importance_BP": importance[view : view + 1]} if by_tower else {"question_BTD": question[None]}
        kept = compressor((patches[view] if by_tower else part)[None], **which)[0]
        among = patches[view] if by_tower else part
        wanted += [int((among == token).all(dim=1).nonzero()[0]) + view * n for token in kept]
    with torch.no_grad():
        read = compressed.reduced(own.model, inputs, sizes=sizes, budget=5, text=text)
    assert torch.equal(flat(read["mm_encoder_outputs"]["image"].pooler_output), features[wanted])
    reply = compressed.ask(text, pictures(), budget=5, max_new_tokens=2)
    assert reply.n_visual_tokens == 10


def golden_llava(name, folder):
    """LLaVA with the tower of a golden file, and what its language model reads of the file's two images."""
    g = golden(name)
    tower = {key: value for key, value in g.meta["tower"].items() if key != "model_type"}
    own = Checkpoint(str(make_llava(folder, **tower)))
    prefix = "vision_tower.vision_model."
    weights = {key.removeprefix(prefix): value for key, value in g.weights.items()}
    own.model.model.vision_tower.load_state_dict(weights)
    ids = torch.tensor([[own.image_token_id] * (2 * g.grid**2) + own.token_ids("What?")])
    return g, own, {"input_ids": ids, "pixel_values": g.inputs["pixel_values"]}


@pytest.mark.parametrize(
    ("name", "file", "n_more"), [("visionzip", "visionzip_g12", 0), ("prumerge", "prumerge_g12", 1)]
)
def test_merged_patches_are_those_of_released_code(name, file, n_more, tmp_path):
    """From the pixels on: the released module's tokens, then the model's connector. PruMerge's V has one more."""
    torch.manual_seed(0)
    g, own, inputs = golden_llava(file, tmp_path / "llava")
    key = "tokens" if name == "visionzip" else name
    for v in g.meta["V"]:
        with torch.no_grad():
            wanted = own.model.model.multi_modal_projector(g.outputs[f"{key}_V{v}"])
            read = Compressed(own, name).reduced(own.model, inputs, sizes=[(48, 48)] * 2, budget=v + n_more)
        found = flat(read["mm_encoder_outputs"]["image"].pooler_output)
        torch.testing.assert_close(found, wanted.flatten(0, 1), atol=2e-5, rtol=1e-4)
        assert int((read["input_ids"] == own.image_token_id).sum()) == len(found) == 2 * (v + n_more)


def test_merged_patches_of_prumerge_plus_are_those_of_released_code(tmp_path):
    torch.manual_seed(0)
    g, own, inputs = golden_llava("prumerge_g12", tmp_path / "llava")
    with torch.no_grad():
        wanted = own.model.model.multi_modal_projector(g.outputs["plus_training"])
        budget = g.meta["plus_training_tokens"]
        read = Compressed(own, "prumerge_plus").reduced(own.model, inputs, sizes=[(48, 48)] * 2, budget=budget)
    found = flat(read["mm_encoder_outputs"]["image"].pooler_output)
    torch.testing.assert_close(found, wanted.flatten(0, 1), atol=2e-5, rtol=1e-4)


def test_a_tower_without_a_class_token_has_as_many_tokens_as_patches(tmp_path):
    """LLaVA-Interleave keeps all that SigLIP's tower makes. VisionZip's dominant tokens are then patches alone."""
    torch.manual_seed(0)
    own = Checkpoint(str(make_llava_interleave(tmp_path / "interleave")))
    inputs, seen, sizes = prompt_of(own)
    assert own.rule.most == len(seen.pooler_output[0]) == 16
    base = own.model.model
    base.vision_tower.set_attn_implementation("eager")
    with torch.no_grad():
        tower = base.vision_tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    base.vision_tower.set_attn_implementation("sdpa")
    patches, importance = tower.hidden_states[-2], tower.attentions[-2].mean(dim=(1, 2))
    dominant = importance.argsort(dim=1, descending=True)[:, :5].sort(dim=1).values  # 54 in 64 of 6
    with torch.no_grad():
        wanted = base.multi_modal_projector(patches.take_along_dim(dominant.unsqueeze(2), dim=1))
        read = Compressed(own, "visionzip").reduced(own.model, inputs, sizes=sizes, budget=6)
    found = flat(read["mm_encoder_outputs"]["image"].pooler_output).unflatten(0, (2, 6))
    torch.testing.assert_close(found[:, :5], wanted)
    with pytest.raises(UserError, match="its tower has none"):
        Compressed(own, "prumerge").check([4])


def test_a_model_that_reads_features_otherwise_is_refused(tmp_path, monkeypatch):
    """A class whose forward does more with features than its `get_image_features` shows."""
    from transformers import LlavaModel

    torch.manual_seed(0)
    own = Checkpoint(str(MAKERS["llava"](tmp_path / "llava")))
    forward = LlavaModel.forward

    def otherwise(self, *args, mm_encoder_outputs=None, **options):
        if mm_encoder_outputs and mm_encoder_outputs.get("image"):
            mm_encoder_outputs["image"].pooler_output = [2 * x for x in mm_encoder_outputs["image"].pooler_output]
        return forward(self, *args, mm_encoder_outputs=mm_encoder_outputs, **options)

    monkeypatch.setattr(LlavaModel, "forward", otherwise)
    with pytest.raises(UserError, match="replies are not its own"):
        Compressed(own, "divprune").ask("What?", pictures(), budget=4, max_new_tokens=2)


def test_a_model_of_an_experiment_file_can_have_a_compressor(tmp_path):
    """The catalogue's settings, through the job that asks: V as asked, and no image and all tokens as without it."""
    torch.manual_seed(0)
    place = MAKERS["llava"](tmp_path / "llava")
    questions = tmp_path / "q.jsonl"
    rows = [{"id": str(i), "image": f"{i}.png", "question": "what", "answer": "a"} for i in range(2)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row, picture in zip(rows, pictures(), strict=False):
        Image.fromarray(picture).save(tmp_path / row["image"])
    mapping = {
        "name": "pages",
        "models": {"whole": {"checkpoint": str(place)}, "few": {"checkpoint": str(place), "compressor": "divprune"}},
        "grid": {"visual_tokens": ["max"]},
        "evaluation": {"benchmarks": [{"name": "pages", "questions": str(questions), "max_new_tokens": 3}]},
    }
    refused = {"few": {"endpoint": "http://127.0.0.1:1/v1", "model": "m", "compressor": "tome"}}
    with pytest.raises(UserError, match="only a checkpoint's features can be had"):
        Catalogue.from_mapping(mapping | {"models": refused})
    with pytest.raises(UserError, match="V = 17: it makes 16 at most"):
        Catalogue.from_mapping(mapping | {"models": {"few": mapping["models"]["few"]}, "grid": {"visual_tokens": [17]}})
    catalogue, said = Catalogue.from_mapping(mapping), {}
    asked = read_asked(questions, tmp_path, name="pages", metric="")
    for model, budget in (("whole", "0"), ("whole", "max"), ("few", "0"), ("few", "5"), ("few", "max")):
        out = tmp_path / "results" / "asked" / "pages" / f"{model}_v{budget}" / "replies.jsonl"
        out.parent.mkdir(parents=True)
        ask_job(catalogue.ask_settings(model, budget, "pages"), asked, serving=catalogue.asking, endpoint="", out=out)
        said[model, budget] = json.loads(out.read_text().splitlines()[0])
    counted = {cell: reply["n_visual_tokens"] for cell, reply in said.items()}
    assert counted == {
        ("whole", "0"): 0,
        ("whole", "max"): 16,
        ("few", "0"): 0,
        ("few", "5"): 5,
        ("few", "max"): 16,
    }
    assert all(said["few", v]["text"] == said["whole", v]["text"] for v in ("0", "max"))
    assert json.loads((out.parent / "model.json").read_text())["family"] == "llava+divprune"


def test_one_command_from_compressors_to_laws(tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForImageTextToText

    n_loaded, load = 0, AutoModelForImageTextToText.from_pretrained

    def counted(*args, **options):
        nonlocal n_loaded
        n_loaded += 1
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", counted)
    for seed, name in enumerate(("small", "large")):
        torch.manual_seed(seed)
        MAKERS["llava"](tmp_path / name)
    rng, rows = np.random.default_rng(0), []
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "question": "what", "answer": "a"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["measure", tmp_path / "q.jsonl", "--visual-tokens", "1", "4", "9", "16", "max", "--max-new-tokens", "2"]
    given += ["--compressor", "divprune", "--compressor", "average_at_inference", "--out", tmp_path / "out"]
    given += ["--checkpoint", tmp_path / "small", "--checkpoint", tmp_path / "large"]
    assert main([*map(str, given)]) == 0 and n_loaded == 2
    table = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert table.cell.tolist() == [
        f"{name}{cell}"
        for name in ("small", "large")
        for cell in (
            *("_v0", "_vmax"),
            *(f"-{compressor}_v{v}" for compressor in ("divprune", "average-at-inference") for v in (1, 4, 9)),
        )
    ]  # of 16 all are left, which is `max`
    assert set(table.family) == {"llava"} and set(table.compressor) == {"own", "divprune", "average_at_inference"}
    said = " ".join(capsys.readouterr().out.split())
    assert "small-divprune_v16 as in small_vmax, shown once" in said
    assert "llava+divprune has no law" in said  # 2 sizes, of as many parameters
    laws = pd.read_csv(tmp_path / "out" / "measurements.csv")
    assert set(laws.compressor) == {"llava", "llava+divprune", "llava+average_at_inference"}
    assert main([*map(str, given)]) == 0 and n_loaded == 2  # nothing is asked twice

"""Every compressor that bears a paper's name against numbers of the released code, on the same weights."""

import pytest
import torch
from transformers import SmolVLMConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from golden_files import golden, mlp
from vlmlaw.compressors import build_compressor
from vlmlaw.compressors.selection import above_mean, best, clip_relevance, largest_coverage, text_relevance
from vlmlaw.errors import UserError

EXACT = {"rtol": 0, "atol": 1e-5}


def by_name(weights, names):
    """Weights under other names: each key's longest prefix in `names` is replaced."""
    longest_first = sorted(names, key=len, reverse=True)
    renamed = {}
    for key, tensor in weights.items():
        prefix = next(p for p in longest_first if key.startswith(p))
        renamed[names[prefix] + key.removeprefix(prefix)] = tensor
    return renamed


def starting(weights, prefix):
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


# --------------------------------------------------------------------------- learned


@pytest.mark.parametrize("name", ["quecc_g12_V1", "quecc_g12_V16", "quecc_g9_V9"])
def test_quecc(name):
    g = golden(name)
    levels, question = g.inputs["levels"], g.inputs["question"]
    compressor = build_compressor("quecc", g.grid, g.width, g.meta["V"], question_width=48, n_levels=4)
    compressor.load_state_dict(starting(g.weights, "0."))
    tokens = compressor(levels, question)
    torch.testing.assert_close(tokens, g.outputs["tokens"], **EXACT)
    torch.testing.assert_close(mlp(g.weights, tokens, first="1", second="3"), g.outputs["projected"], **EXACT)


@pytest.mark.parametrize("name", ["tokenpacker_g12", "tokenpacker_g9"])
def test_tokenpacker(name):
    g = golden(name)
    for n_tokens in g.meta["V"]:
        compressor = build_compressor("tokenpacker", g.grid, g.width, n_tokens, n_levels=4)
        compressor.load_state_dict({k: w for k, w in g.weights.items() if not k.startswith("mlp.")})
        tokens = compressor(g.inputs["levels"])
        torch.testing.assert_close(tokens, g.outputs[f"tokens_V{n_tokens}"], **EXACT)
        projected = mlp(starting(g.weights, "mlp."), tokens)
        torch.testing.assert_close(projected, g.outputs[f"projected_V{n_tokens}"], **EXACT)


def test_mqt():
    g = golden("mqt_g12")
    for n_tokens in g.meta["V"]:
        options = {"n_heads": g.meta["heads"], "query_side": g.meta["query_grid"]}
        compressor = build_compressor("mqt", g.grid, g.width, n_tokens, question_width=g.meta["llm_width"], **options)
        torch.testing.assert_close(compressor.pos_embed.data, g.weights["pos_embed"], rtol=0, atol=0)
        compressor.load_state_dict(g.weights)
        torch.testing.assert_close(compressor(g.inputs["patches"]), g.outputs[f"projected_V{n_tokens}"], **EXACT)


@pytest.mark.parametrize("name", ["resampler_g12_V4", "resampler_g12_V16", "resampler_wide_g6_V9"])
def test_resampler(name):
    g = golden(name)
    options = {"depth": g.meta["depth"], "n_heads": g.meta["heads"], "head_width": g.meta["dim_head"]}
    compressor = build_compressor("resampler", g.grid, g.width, g.meta["V"], **options)
    compressor.load_state_dict(g.weights)
    torch.testing.assert_close(compressor(g.inputs["patches"]), g.outputs["tokens"], **EXACT)


REGNET = {
    "conv1.conv": "expand",
    "conv1.bn": "expand_norm",
    "conv2.conv": "depthwise",
    "conv2.bn": "depthwise_norm",
    "se.fc1": "squeeze",
    "se.fc2": "excite",
    "conv3.conv": "project",
    "conv3.bn": "project_norm",
}


@pytest.mark.parametrize("name", ["honeybee_g12", "honeybee_g9"])
def test_c_abstractor(name):
    g = golden(name)
    names = {"pos_emb": "position"}
    for theirs, ours in (("net.0", "before"), ("net.2", "after")):
        for block in range(3):
            names |= {f"{theirs}.b{block + 1}.{a}": f"{ours}.{block}.{b}" for a, b in REGNET.items()}
    module = {key: w for key, w in g.weights.items() if not key.startswith("readout")}
    for n_tokens in g.meta["V"]:
        compressor = build_compressor("conv", g.grid, g.width, n_tokens)
        weights = by_name(module, names)
        expected = {key: tensor.shape for key, tensor in compressor.state_dict().items()}
        compressor.load_state_dict({key: w.reshape(expected[key]) for key, w in weights.items()})
        tokens = compressor(g.inputs["patches"])
        torch.testing.assert_close(tokens, g.outputs[f"tokens_V{n_tokens}"], **EXACT)


@pytest.mark.parametrize("name", ["internvl_g12_V9", "internvl_g12_V36"])
def test_internvl_shuffle(name):
    """Released at the LLM's width, which is the hidden width here; the output map is set to change nothing."""
    g = golden(name)
    compressor = build_compressor("mlp_shuffle", g.grid, g.width, g.meta["V"], hidden_width=g.meta["llm_width"])
    names = {"0.": "norm.", "1.": "hidden."}
    weights = by_name({k: w for k, w in g.weights.items() if k[0] in "01"}, names)
    compressor.load_state_dict(weights, strict=False)
    compressor.output = torch.nn.Linear(48, 48)
    compressor.output.load_state_dict(starting(g.weights, "3."))
    torch.testing.assert_close(compressor(g.inputs["patches"]), g.outputs["projected"], **EXACT)


@pytest.mark.parametrize("name", ["internvl_g12_V9", "internvl_g12_V36"])
def test_internvl(name):
    g = golden(name)
    connector = build_compressor("internvl", g.grid, g.width, g.meta["V"], question_width=g.meta["llm_width"])
    connector.load_state_dict({f"mlp1.{key}": w for key, w in g.weights.items()})
    torch.testing.assert_close(connector(g.inputs["patches"]), g.outputs["projected"], **EXACT)


def diverse_by_hand(tokens, n_chosen):
    """DivPrune of one image in float64, patch by patch: the order in which tokens are chosen."""
    unit = tokens.double() / tokens.double().norm(dim=1, keepdim=True)
    distance = 1 - unit @ unit.T
    others = distance + torch.diag(torch.full((len(tokens),), torch.inf, dtype=torch.double))
    chosen = [int(others.min(dim=1).values.argmax())]
    while len(chosen) < n_chosen:
        nearest = distance[:, chosen].min(dim=1).values
        nearest[chosen] = -torch.inf
        chosen.append(int(nearest.argmax()))
    return chosen


@pytest.mark.parametrize("n_tokens", [1, 7, 36])
def test_pruning_after_a_shuffle_is_the_one_released_module_after_the_other(n_tokens):
    """DivPrune's choice among the tokens that InternVL's released shuffle made, in raster order."""
    g = golden("internvl_g12_V36")
    compressor = build_compressor("internvl_divprune", g.grid, g.width, 36, question_width=g.meta["llm_width"])
    compressor.load_state_dict({f"mlp1.{key}": w for key, w in g.weights.items()})
    tokens, places = compressor.with_n_visual_tokens(n_tokens).forward_with_positions(g.inputs["patches"])
    for shuffled, kept, own_places in zip(g.outputs["projected"], tokens, places, strict=True):
        index = torch.tensor(sorted(diverse_by_hand(shuffled, n_tokens))) if n_tokens < 36 else torch.arange(36)
        torch.testing.assert_close(kept, shuffled[index], **EXACT)
        expected = torch.stack([index // 6, index % 6], dim=1) * 2 + 0.5  # the middle of a region of 2 x 2 patches
        assert torch.equal(own_places, expected)


def test_importance_of_a_shuffled_token_is_that_of_its_patches_together():
    g = golden("internvl_g12_V36")
    compressor = build_compressor("internvl_fastervlm", g.grid, g.width, 5, question_width=g.meta["llm_width"])
    compressor.load_state_dict({f"mlp1.{key}": w for key, w in g.weights.items()})
    importance = torch.rand(len(g.inputs["patches"]), 144).softmax(dim=1)
    kept = compressor(g.inputs["patches"], importance_BP=importance)
    sums = importance.reshape(-1, 6, 2, 6, 2).sum(dim=(2, 4)).flatten(1)
    index = sums.topk(5, dim=1).indices.sort(dim=1).values
    expected = torch.stack([tokens[of_image] for tokens, of_image in zip(g.outputs["projected"], index, strict=True)])
    torch.testing.assert_close(kept, expected, **EXACT)


def test_pruned_shuffles_take_regions_that_tile_the_grid():
    odd = build_compressor("internvl_divprune", 27, 8, 80, question_width=12)
    assert (odd.region_side, odd.n_shuffled) == (3, 81)
    with pytest.raises(UserError, match="regions of side 5 do not tile a 12 x 12 grid; region_side can be 1, 2, 3"):
        build_compressor("internvl_divprune", 12, 8, 4, question_width=12, region_side=5)
    with pytest.raises(UserError, match="V can be any whole number from 1 to 36"):
        build_compressor("internvl_divprune", 12, 8, 37, question_width=12)


def image_tokens_by_blocks(patches, side, k):
    """Patches in the order in which Qwen2-VL's processor hands them to its merger: block by block."""
    grid = patches.unflatten(1, (side // k, k, side // k, k))
    return grid.transpose(2, 3).flatten(1, 4)


def test_qwen2_vl_merger_is_that_of_transformers():
    theirs = PatchMerger(dim=20, context_dim=8, spatial_merge_size=2)
    ours = build_compressor("qwen2_vl", 6, 8, 9, question_width=20)
    ours.load_state_dict(theirs.state_dict())
    patches = torch.randn(2, 36, 8)
    expected = torch.stack([theirs(image) for image in image_tokens_by_blocks(patches, 6, 2)])
    torch.testing.assert_close(ours(patches), expected, **EXACT)


@pytest.mark.parametrize(("n_tokens", "factor"), [(4, 3), (9, 2)])
def test_smolvlm_shuffle_is_that_of_transformers(n_tokens, factor):
    config = SmolVLMConfig(
        scale_factor=factor, vision_config={"hidden_size": 8}, text_config={"model_type": "llama", "hidden_size": 64}
    )
    theirs = SmolVLMConnector(config)
    ours = build_compressor("smolvlm", 6, 8, n_tokens, question_width=64)
    ours.load_state_dict(theirs.state_dict())
    patches = torch.randn(2, 36, 8)
    torch.testing.assert_close(ours(patches), theirs(patches), **EXACT)


@pytest.mark.parametrize("name", ["fourier_g12", "fourier_g9"])
def test_fourier(name):
    g = golden(name)
    for n_tokens in g.meta["V"]:
        compressor = build_compressor("fourier", g.grid, g.width, n_tokens)
        tokens = compressor(g.inputs["patches"])
        torch.testing.assert_close(tokens, g.outputs[f"tokens_V{n_tokens}"], **EXACT)
        projected = mlp(g.weights, g.outputs[f"tokens_V{n_tokens}"].half().float())  # released tokens are half
        torch.testing.assert_close(projected, g.outputs[f"projected_V{n_tokens}"], **EXACT)
        assert compressor(g.inputs["patches"].half()).dtype == torch.float16


# --------------------------------------------------------------------------- pooling behind the projector


@pytest.mark.parametrize("name", ["m3_g12", "m3_g9"])
def test_m3(name):
    g = golden(name)
    for n_tokens in g.meta["V"]:
        compressor = build_compressor("m3", g.grid, g.meta["llm_width"], n_tokens)
        tokens = compressor(mlp(g.weights, g.inputs["patches"]))
        torch.testing.assert_close(tokens, g.outputs[f"projected_V{n_tokens}"], **EXACT)


@pytest.mark.parametrize("name", ["onevision_g12", "onevision_g9"])
def test_onevision(name):
    g = golden(name)
    compared = 0
    for key, expected in g.outputs.items():
        mode, _, size = key.split("_")
        n_tokens = int(size.removeprefix("V"))
        if mode == "average":
            continue  # it drops the last row and column of an odd grid: see "Where we depart"
        compressor = build_compressor("bilinear", g.grid, g.meta["llm_width"], n_tokens)
        torch.testing.assert_close(compressor(mlp(g.weights, g.inputs["patches"])), expected, **EXACT)
        compared += 1
    assert compared


# --------------------------------------------------------------------------- training-free


@pytest.mark.parametrize("name", ["tome_g12", "tome_g9"])
def test_tome(name):
    """In the released order, which decides what the next round pairs."""
    g = golden(name)
    for n_tokens in g.meta["V"]:
        compressor = build_compressor("tome", g.grid, g.width, n_tokens, key_width=g.meta["key_width"])
        tokens = compressor(g.inputs["patches"], keys_BPH=g.inputs["keys"])
        torch.testing.assert_close(tokens, g.outputs[f"tokens_V{n_tokens}"], **EXACT)


def prumerge(g, name, n_tokens, rows=slice(None)):
    q, k = g.inputs["q"][rows], g.inputs["k"][rows]
    importance = (q @ k.transpose(1, 2) * g.width**-0.5).softmax(dim=-1)[:, 0, 1:]
    compressor = build_compressor(name, g.grid, g.width, n_tokens, key_width=g.width)
    return compressor(g.inputs["hidden"][rows, 1:], importance_BP=importance, keys_BPH=k[:, 1:])


def test_prumerge():
    """V tokens are the V - 1 of highest attention, in its order, and one for the rest."""
    g = golden("prumerge_g12")
    for n_chosen in g.meta["V"]:
        tokens = prumerge(g, "prumerge", n_chosen + 1)
        torch.testing.assert_close(tokens, g.outputs[f"prumerge_V{n_chosen}"], **EXACT)
    for image in range(2):  # the released count of outliers, given as V
        expected = g.outputs[f"prumerge_adaptive_image{image}"]
        tokens = prumerge(g, "prumerge", expected.shape[1], slice(image, image + 1))
        torch.testing.assert_close(tokens, expected, **EXACT)


def test_prumerge_plus():
    g = golden("prumerge_g12")
    tokens = prumerge(g, "prumerge_plus", g.meta["plus_training_tokens"])
    torch.testing.assert_close(tokens, g.outputs["plus_training"], **EXACT)


def test_visionzip():
    g = golden("visionzip_g12")
    for n_tokens, split in zip(g.meta["V"], g.meta["splits"], strict=True):
        compressor = build_compressor("visionzip", g.grid, g.width, n_tokens, key_width=8)
        assert compressor.n_contextual == int(split.split("+")[1])
        tokens = compressor(
            g.inputs["hidden"][:, 1:],
            class_BK=g.inputs["hidden"][:, 0],
            importance_BP=g.inputs["class_attention"],
            keys_BPH=g.inputs["metric"][:, 1:],
        )
        torch.testing.assert_close(tokens, g.outputs[f"tokens_V{n_tokens}"], **EXACT)


@pytest.mark.parametrize("name", ["divprune_g12", "divprune_g9"])
def test_divprune(name):
    g = golden(name)
    patches = g.inputs["projected"]
    for n_tokens in g.meta["V"]:
        compressor = build_compressor("divprune", g.grid, g.width, n_tokens)
        chosen = g.index[f"order_V{n_tokens}"].sort(dim=1).values
        expected = patches.take_along_dim(chosen.unsqueeze(2), dim=1)
        torch.testing.assert_close(compressor(patches), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cdpruner_g12", "cdpruner_g9"])
def test_cdpruner(name):
    g = golden(name)
    projected = mlp(g.weights, g.inputs["patches"])
    relevance = clip_relevance(g.inputs["image_embeds"], g.inputs["text_embeds"])
    for n_tokens in g.meta["V"]:
        options = {"question_width": 48, "relevance": "given"}
        compressor = build_compressor("cdpruner", g.grid, g.meta["llm_width"], n_tokens, **options)
        kept = compressor(projected, torch.zeros(2, 1, 48), importance_BP=relevance)
        expected = projected.take_along_dim(g.index[f"kept_V{n_tokens}"].unsqueeze(2), dim=1)
        torch.testing.assert_close(kept, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["scope_g12", "scope_g9"])
def test_scope(name):
    g = golden(name)
    patches, importance = g.inputs["patches"], g.inputs["class_attention"].mean(dim=1)
    for n_tokens in g.meta["V"]:
        kept = build_compressor("scope", g.grid, g.width, n_tokens)(patches, importance_BP=importance)
        chosen = g.index[f"order_V{n_tokens}"].sort(dim=1).values
        torch.testing.assert_close(kept, patches.take_along_dim(chosen.unsqueeze(2), dim=1), rtol=0, atol=0)
        assert torch.equal(largest_coverage(patches, importance, n_tokens), g.index[f"order_V{n_tokens}"])


def test_vispruner_equals_a_loop():
    """Its rounds by plain Python, after the released `encode_images`."""
    torch.manual_seed(0)
    patches, importance = torch.randn(1, 144, 16), torch.rand(1, 144)
    kept = build_compressor("vispruner", 12, 16, 21)(patches, importance_BP=importance)
    unit = torch.nn.functional.normalize(patches[0], dim=1)
    ranked = importance[0].argsort(descending=True).tolist()
    important, left = ranked[:10], ranked[10:]
    while len(left) > 11:
        even, odd = left[::2], left[1::2]
        nearest = {e: max(float(unit[e] @ unit[o]) for o in odd) for e in even}
        n_gone = min(8, len(left) - 11)
        left = sorted(even, key=lambda e: -nearest[e])[n_gone:] + odd
    torch.testing.assert_close(kept[0], patches[0, sorted(important + left)], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sparsevlm_g6", "sparsevlm_g9"])
def test_sparsevlm_raters(name):
    g = golden(name)
    first, n_patches = g.meta["system_tokens"], g.meta["image_tokens"]
    patches, text = g.inputs["embeds"][:, first:][:, :n_patches], g.inputs["embeds"][:, first + n_patches :]
    own = torch.ones(text.shape[:2], dtype=torch.bool)
    relevance = text_relevance(text @ patches.transpose(1, 2), own)
    torch.testing.assert_close(relevance, g.outputs["rater_score"], rtol=0, atol=1e-7)
    assert torch.equal(above_mean(relevance, own).long(), g.index["raters"])
    attention = g.inputs["attention"].mean(dim=1) * g.index["raters"].unsqueeze(2)
    priority = attention.sum(dim=1) / g.index["raters"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(priority, g.outputs["priority"], rtol=0, atol=1e-7)
    for key, kept in g.index.items():
        if key.startswith("kept_layer"):
            assert torch.equal(best(priority, kept.shape[1]), kept)

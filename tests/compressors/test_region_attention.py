"""QueCC and TokenPacker against their definitions, written as loops over images, regions, patches and heads."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlaw.compressors import build_compressor
from vlmlaw.errors import UserError

from .cases import GRID, QUESTION_WIDTH, WIDTH, fill_with_noise, make, make_inputs

C, L, D, HEADS = WIDTH, 2, QUESTION_WIDTH, 8


def quecc_layout(k: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published module."""
    shapes: dict[str, tuple[int, ...]] = {
        "text_projection.0.weight": (C, D),
        "text_projection.0.bias": (C,),
        "text_projection.1.weight": (C,),
        "text_projection.1.bias": (C,),
        "q_downsample.weight": (C, 1, k, k),
        "q_downsample.bias": (C,),
        "clip_attn.in_proj_weight": (3 * C, C),
        "clip_attn.in_proj_bias": (3 * C,),
        "clip_attn.out_proj.weight": (C, C),
        "clip_attn.out_proj.bias": (C,),
    }
    for part, width_in in (("q_proj", C), ("k_proj", L * C), ("v_proj", L * C)):
        shapes |= {f"{part}.0.weight": (C, width_in), f"{part}.2.weight": (C, C), f"{part}.3.weight": (C,)}
        shapes |= {f"{part}.{i}.bias": (C,) for i in (0, 2, 3)}
    return shapes


def tokenpacker_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published module without its projector."""
    shapes: dict[str, tuple[int, ...]] = {"q_proj_1.weight": (C, C)}
    for part in ("k_proj_1", "v_proj_1"):
        shapes |= {f"{part}.0.weight": (C, L * C), f"{part}.2.weight": (C, C)}
        shapes |= {f"{part}.0.bias": (C,), f"{part}.2.bias": (C,)}
    for part in ("ln_q_1", "ln_k_1", "ln_v_1"):
        shapes |= {f"{part}.weight": (C,), f"{part}.bias": (C,)}
    return shapes | {key: shape for key, shape in quecc_layout(1).items() if key.startswith("clip_attn")}


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {key: 0.5 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def linear(w: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    out = w[f"{key}.weight"] @ x
    return out + w[f"{key}.bias"] if f"{key}.bias" in w else out


def layer_norm(w: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-6) * w[f"{key}.weight"] + w[f"{key}.bias"]


def gelu_mlp(w: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    hidden = linear(w, f"{key}.0", x)
    return linear(w, f"{key}.2", 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))


def attend(w: dict[str, Tensor], query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query over its region, head by head."""
    weights, biases = w["clip_attn.in_proj_weight"].split(C), w["clip_attn.in_proj_bias"].split(C)
    q = weights[0] @ query + biases[0]
    ks = [weights[1] @ key + biases[1] for key in keys]
    vs = [weights[2] @ value + biases[2] for value in values]
    head_width = C // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * head_width, (h + 1) * head_width)
        scores = torch.stack([q[part] @ key[part] for key in ks]) / math.sqrt(head_width)
        shares = scores.exp() / scores.exp().sum()
        heads.append(sum(share * value[part] for share, value in zip(shares, vs, strict=True)))
    return linear(w, "clip_attn.out_proj", torch.cat(heads))


def region_patches(v: int, k: int) -> list[tuple[int, int, int]]:
    """(row within, column within, patch index) of region v."""
    row, column = divmod(v, GRID // k)
    return [(i, j, (row * k + i) * GRID + column * k + j) for i in range(k) for j in range(k)]


def quecc_by_loops(w: dict[str, Tensor], levels_PK: Tensor, question_D: Tensor, k: int) -> Tensor:
    text = layer_norm(w, "text_projection.1", linear(w, "text_projection.0", question_D))
    tokens = []
    for v in range((GRID // k) ** 2):
        query, keys, values = w["q_downsample.bias"].clone(), [], []
        for i, j, p in region_patches(v, k):
            guided = layer_norm(w, "q_proj.3", gelu_mlp(w, "q_proj", levels_PK[p, -C:] + text))
            query += w["q_downsample.weight"][:, 0, i, j] * guided
            keys.append(layer_norm(w, "k_proj.3", gelu_mlp(w, "k_proj", levels_PK[p])))
            values.append(layer_norm(w, "v_proj.3", gelu_mlp(w, "v_proj", levels_PK[p])))
        tokens.append(attend(w, query, keys, values))
    return torch.stack(tokens)


def bilinear(grid_ssC: Tensor, at: float, across: float) -> Tensor:
    """The grid's value at a place between its patches."""
    row, column = min(int(at), GRID - 2), min(int(across), GRID - 2)
    down, right = at - row, across - column
    top = (1 - right) * grid_ssC[row, column] + right * grid_ssC[row, column + 1]
    bottom = (1 - right) * grid_ssC[row + 1, column] + right * grid_ssC[row + 1, column + 1]
    return (1 - down) * top + down * bottom


def tokenpacker_by_loops(w: dict[str, Tensor], levels_PK: Tensor, k: int) -> Tensor:
    side, tokens = GRID // k, []
    grid_ssC = levels_PK[:, -C:].reshape(GRID, GRID, C)
    for v in range(side**2):
        row, column = divmod(v, side)
        coarse = bilinear(grid_ssC, (row + 0.5) * k - 0.5, (column + 0.5) * k - 0.5)
        query = layer_norm(w, "ln_q_1", linear(w, "q_proj_1", coarse))
        region = [levels_PK[p] for _, _, p in region_patches(v, k)]
        keys = [layer_norm(w, "ln_k_1", gelu_mlp(w, "k_proj_1", x)) for x in region]
        values = [layer_norm(w, "ln_v_1", gelu_mlp(w, "v_proj_1", x)) for x in region]
        tokens.append(attend(w, query, keys, values))
    return torch.stack(tokens)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_tokenpacker_with_published_weights_equals_loops(k):
    compressor = make("tokenpacker", (GRID // k) ** 2, n_levels=L)
    weights = random_weights(tokenpacker_layout())
    compressor.load_state_dict(weights, strict=True)
    inputs = make_inputs(n_levels=L)
    visual_BVC = compressor(**inputs)
    for image in range(3):
        expected = tokenpacker_by_loops(weights, inputs["patches_BPK"][image], k)
        torch.testing.assert_close(visual_BVC[image], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_quecc_with_published_weights_equals_loops(k):
    compressor = make("quecc", (GRID // k) ** 2, n_levels=L)
    weights = random_weights(quecc_layout(k))
    compressor.load_state_dict(weights, strict=True)
    inputs = make_inputs(n_levels=L)
    visual_BVC = compressor(**inputs)
    for image, last in enumerate((4, 2, 0)):  # the masks leave 5, 3, 1 question tokens
        expected = quecc_by_loops(weights, inputs["patches_BPK"][image], inputs["question_BTD"][image, last], k)
        torch.testing.assert_close(visual_BVC[image], expected, rtol=1e-4, atol=1e-5)


def test_quecc_attention_is_torchs():
    """The written-out attention against torch's own on the same weights."""
    compressor = fill_with_noise(make("quecc", 4))
    mine = compressor.clip_attn
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(mine.state_dict())
    queries, keys, values = (torch.randn(2, n, WIDTH) for n in (3, 5, 5))
    torch.testing.assert_close(mine(queries, keys, values), theirs(queries, keys, values)[0], rtol=1e-5, atol=1e-6)


def test_quecc_parameters_at_the_published_size():
    """c = 1024, four levels, an LLM of width 4096, k = 3: counted by hand from the layout."""
    with torch.device("meta"):
        compressor = build_compressor("quecc", 24, 1024, 64, question_width=4096, n_levels=4)
    c = 1024
    text = c * 4096 + c + 2 * c
    query = 2 * (c * c + c) + 2 * c
    key = (4 * c * c + c) + (c * c + c) + 2 * c
    assert compressor.n_params() == text + query + 2 * key + (c * 9 + c) + (4 * c * c + 4 * c)
    assert compressor.clip_attn.num_heads == 8


def test_tokenpacker_parameters_at_the_published_size():
    with torch.device("meta"):
        compressor = build_compressor("tokenpacker", 24, 1024, 144, n_levels=4)
    c = 1024
    key = (4 * c * c + c) + (c * c + c)
    assert compressor.n_params() == c * c + 2 * key + 3 * 2 * c + (4 * c * c + 4 * c)


def test_tokenpacker_starts_as_published():
    with torch.device("cpu"):
        compressor = build_compressor("tokenpacker", 4, 256, 4, n_levels=2)
    assert compressor.k_proj_1[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert compressor.clip_attn.out_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not compressor.v_proj_1[2].bias.any()


def test_quecc_answers_the_question_it_is_asked():
    compressor, inputs = make("quecc", 4), make_inputs()
    other = dict(inputs, question_BTD=inputs["question_BTD"] + 1)
    assert not torch.allclose(compressor(**inputs), compressor(**other))


def test_no_gradient_flows_back_into_the_question():
    compressor, inputs = make("quecc", 4), make_inputs()
    inputs["question_BTD"].requires_grad_()
    compressor(**inputs).sum().backward()
    assert inputs["question_BTD"].grad is None
    assert compressor.text_projection[0].weight.grad.abs().sum() > 0


def test_a_lone_question_vector_goes_in_as_one_token():
    compressor, inputs = make("quecc", 4), make_inputs()
    last = torch.stack([inputs["question_BTD"][i, n - 1] for i, n in enumerate((5, 3, 1))])
    lone = compressor(inputs["patches_BPK"], last[:, None])
    torch.testing.assert_close(lone, compressor(**inputs))


def test_an_empty_question_counts_as_zeros():
    compressor, inputs = make("quecc", 4), make_inputs()
    empty = compressor(inputs["patches_BPK"], inputs["question_BTD"], torch.zeros(3, 5, dtype=torch.bool))
    torch.testing.assert_close(empty, compressor(inputs["patches_BPK"], torch.zeros(3, 1, D)))


@pytest.mark.parametrize(("width", "heads"), [(1024, 8), (12, 6), (7, 7), (22, 2)])
def test_heads_divide_the_width(width, heads):
    with torch.device("meta"):
        compressor = build_compressor("quecc", 4, width, 4, question_width=3)
    assert compressor.clip_attn.num_heads == heads


def test_reference_gelu_and_norm_are_torchs():
    x, w = torch.randn(C), random_weights(quecc_layout(1))
    torch.testing.assert_close(
        layer_norm(w, "q_proj.3", x), F.layer_norm(x, (C,), w["q_proj.3.weight"], w["q_proj.3.bias"], 1e-6)
    )
    expected = linear(w, "q_proj.2", F.gelu(linear(w, "q_proj.0", x)))
    torch.testing.assert_close(gelu_mlp(w, "q_proj", x), expected)


def test_its_width_of_question_and_options_are_asked_for():
    with pytest.raises(UserError, match="quecc: reads the question; found no question_width"):
        build_compressor("quecc", GRID, WIDTH, 4)
    with pytest.raises(UserError, match=r"quecc: unknown option\(s\) head; its options: n_heads"):
        build_compressor("quecc", GRID, WIDTH, 4, question_width=4, head=2)


def test_quecc_of_embeddings_reads_their_mean():
    """The cheap question: the mean over its own tokens goes where the paper's last hidden state does."""
    cheap = fill_with_noise(make("quecc", 4, question_from="embedding"))
    paper = fill_with_noise(make("quecc", 4))
    inputs = make_inputs()
    lengths = inputs["question_mask_BT"].sum(dim=1)
    means = [row[:n].mean(dim=0) for row, n in zip(inputs["question_BTD"], lengths, strict=True)]
    lone = inputs | {"question_BTD": torch.stack(means)[:, None], "question_mask_BT": None}
    torch.testing.assert_close(cheap(**inputs), paper(**lone))
    torch.testing.assert_close(cheap(**lone), paper(**lone))
    empty = inputs | {"question_mask_BT": torch.zeros(3, 5)}
    assert torch.isfinite(cheap(**empty)).all()
    assert cheap.n_params() == paper.n_params() and cheap.flops(5) == paper.flops(5)

"""What holds for every compressor of the table."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlmlaw.compressors import COMPRESSORS, build_compressor
from vlmlaw.errors import UserError

from .cases import (
    CASES,
    GRID,
    N_PATCHES,
    N_QUESTION_TOKENS,
    NAMES,
    WIDTH,
    fill_with_noise,
    make,
    make_inputs,
    some_allowed,
)

every_case = pytest.mark.parametrize(("name", "n_tokens"), CASES)
every_name = pytest.mark.parametrize("name", NAMES)


@every_case
def test_makes_the_tokens_it_promises(name, n_tokens):
    compressor = make(name, n_tokens)
    visual_BVC = compressor(**make_inputs())
    assert visual_BVC.shape == (3, n_tokens, compressor.out_width)
    assert torch.isfinite(visual_BVC).all()


@every_case
def test_positions_lie_on_the_grid_and_come_with_the_same_tokens(name, n_tokens):
    compressor, inputs = make(name, n_tokens), make_inputs()
    visual_BVC, positions_BV2 = compressor.forward_with_positions(**inputs)
    torch.testing.assert_close(visual_BVC, compressor(**inputs), rtol=0, atol=0)
    if compressor.moves_with_content:
        assert compressor.positions is None and positions_BV2 is not None
    elif compressor.positions is None:
        assert positions_BV2 is None
    else:
        assert compressor.positions.shape == (n_tokens, 2)
        torch.testing.assert_close(positions_BV2, compressor.positions.expand(3, -1, -1))
    if positions_BV2 is not None:
        assert positions_BV2.shape == (3, n_tokens, 2)
        assert positions_BV2.min() >= 0 and positions_BV2.max() <= GRID - 1


@every_case
def test_gradient_reaches_patches_and_every_weight(name, n_tokens):
    compressor, inputs = fill_with_noise(make(name, n_tokens)), make_inputs()
    inputs["patches_BPK"].requires_grad_()
    (compressor(**inputs) * torch.randn(n_tokens, compressor.out_width)).sum().backward()
    gradient = inputs["patches_BPK"].grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    for key, parameter in compressor.named_parameters():
        if not parameter.requires_grad:
            continue  # a fixed table that released checkpoints carry
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@every_case
def test_images_do_not_touch_each_other(name, n_tokens):
    compressor, inputs = fill_with_noise(make(name, n_tokens)), make_inputs()
    together = compressor(**inputs)
    for i in range(3):
        alone = compressor(**{key: tensor[i : i + 1] for key, tensor in inputs.items()})
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-5)


@every_case
@pytest.mark.parametrize("n_levels", [1, 3])
def test_flops_equal_a_counted_run(name, n_tokens, n_levels):
    compressor, inputs = make(name, n_tokens, n_levels=n_levels), make_inputs(2, n_levels=n_levels)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compressor(**inputs)
    assert 2 * compressor.flops(N_QUESTION_TOKENS) - compressor.batch_flops() == counter.get_total_flops()


@every_case
def test_half_precision_stays(name, n_tokens):
    inputs = {key: t.bfloat16() if t.is_floating_point() else t for key, t in make_inputs().items()}
    assert make(name, n_tokens).bfloat16()(**inputs).dtype == torch.bfloat16


@every_case
def test_mixed_precision_gives_finite_tokens(name, n_tokens):
    compressor, inputs = make(name, n_tokens), make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        visual_BVC = compressor(**inputs)
    assert torch.isfinite(visual_BVC).all()
    if not compressor.moves_with_content:  # a choice may fall otherwise at lower precision
        assert (visual_BVC.float() - compressor(**inputs)).abs().mean() < 0.05


@every_name
def test_weights_alone_rebuild_it(name):
    """A model loads weights into a skeleton on the meta device: nothing may live outside the state dict."""
    n_tokens = some_allowed(name)[1 % len(some_allowed(name))]
    compressor, inputs = fill_with_noise(make(name, n_tokens)), make_inputs()
    with torch.device("meta"):
        rebuilt = make(name, n_tokens)
    rebuilt.load_state_dict(compressor.state_dict(), assign=True)
    torch.testing.assert_close(rebuilt(**inputs), compressor(**inputs), rtol=0, atol=0)
    assert not list(compressor.buffers())


@every_name
def test_same_seed_same_weights_and_tokens(name):
    n_tokens = some_allowed(name)[0]
    torch.testing.assert_close(make(name, n_tokens)(**make_inputs()), make(name, n_tokens)(**make_inputs()))


@every_name
def test_reset_parameters_restores_the_initial_weights(name):
    compressor = make(name, some_allowed(name)[0])
    spread = {key: tensor.std(correction=0).item() for key, tensor in compressor.state_dict().items()}
    fill_with_noise(compressor)
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter.mul_(30)
    compressor.reset_parameters()
    for key, tensor in compressor.state_dict().items():
        restored = tensor.std(correction=0).item()
        assert restored < 1 and (restored == 0) == (spread[key] == 0), key


@every_name
def test_question_mask_hides_padding_on_either_side(name):
    compressor, inputs = make(name, some_allowed(name)[0]), make_inputs()
    expected = compressor(**inputs)
    noisy = dict(inputs, question_BTD=inputs["question_BTD"].clone())
    noisy["question_BTD"][~inputs["question_mask_BT"]] = 1e4
    torch.testing.assert_close(compressor(**noisy), expected, rtol=0, atol=0)
    left = dict(inputs)
    for key in ("question_BTD", "question_mask_BT"):
        rows = zip(inputs[key], inputs["question_mask_BT"].sum(dim=1), strict=True)
        left[key] = torch.stack([row.roll(N_QUESTION_TOKENS - int(n), dims=0) for row, n in rows])
    torch.testing.assert_close(compressor(**left), expected)


@every_case
def test_questions_share_an_image(name, n_tokens):
    """Images given once with whose question is whose equal images repeated, at the FLOPs that are stated."""
    compressor, inputs = fill_with_noise(make(name, n_tokens)), make_inputs(5)
    image_of = torch.tensor([1, 0, 1, 1, 0])
    of_images = [key for key in inputs if "question" not in key]
    shared = inputs | {key: inputs[key][:2] for key in of_images} | {"image_of_B": image_of}
    repeated = inputs | {key: inputs[key][:2][image_of] for key in of_images}
    torch.testing.assert_close(compressor(**shared), compressor(**repeated), rtol=1e-5, atol=1e-6)
    assert compressor.image_flops() <= compressor.flops(N_QUESTION_TOKENS)
    if compressor.shares_images:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            compressor(**shared)
        for_each_question = compressor.flops(N_QUESTION_TOKENS) - compressor.image_flops()
        assert counter.get_total_flops() == 2 * compressor.image_flops() + 5 * for_each_question


@every_name
def test_a_training_step_is_taken_at_numbers_of_tokens_that_it_can_make(name):
    """Its own V; of an elastic one, which trains, every V in turn or at once, the same whenever it is asked."""
    compressor = make(name, some_allowed(name)[-1])
    steps = [compressor.tokens_of_step(step, seed=3) for step in range(300)]
    assert steps == [compressor.tokens_of_step(step, seed=3) for step in range(300)]
    seen = {n_tokens for tokens in steps for n_tokens in tokens}
    published = {"m3": {1, 9, 36}, "mqt": set(range(2, 37, 2)), "average_elastic": {1, 9, 36}}
    assert seen == published.get(name, {compressor.n_visual_tokens})
    assert {len(tokens) for tokens in steps} == {3 if name == "m3" else 1}


@pytest.mark.parametrize("name", ["m3", "mqt", "average_elastic"])
def test_stage_1_is_at_the_most_tokens_as_released(name):
    compressor = make(name, 4)
    assert {tuple(compressor.tokens_of_step(step, seed=0, aligning=True)) for step in range(20)} == {(36,)}


@pytest.mark.parametrize("name", ["m3", "mqt", "average_elastic"])
def test_an_elastic_training_covers_the_tokens_it_is_given(name):
    compressor = make(name, 36, training_tokens=[9, 1])
    assert {n for step in range(50) for n in compressor.tokens_of_step(step, seed=0)} == {1, 9}
    assert compressor.with_n_visual_tokens(4).n_visual_tokens == 4  # it can still make others
    with pytest.raises(UserError, match="cannot make V = 37"):
        make(name, 36, training_tokens=[37])


@every_name
def test_elastic_weights_serve_every_number_of_tokens(name):
    allowed = some_allowed(name)
    compressor, inputs = make(name, allowed[-1]), make_inputs()
    if not compressor.elastic:
        with pytest.raises(UserError, match=rf"{name}.*cannot make V = {allowed[-1] - 1}"):
            compressor.with_n_visual_tokens(allowed[-1] - 1)
        assert compressor.with_n_visual_tokens(allowed[-1]) is compressor
        return
    for n_tokens in allowed:
        built = make(name, n_tokens)
        built.load_state_dict(compressor.state_dict())
        at_another = compressor.with_n_visual_tokens(n_tokens)
        torch.testing.assert_close(at_another(**inputs), built(**inputs))
        assert at_another.flops(5) == built.flops(5)
        assert compressor.n_visual_tokens == allowed[-1]
    with pytest.raises(UserError, match="V can be"):
        compressor.with_n_visual_tokens(N_PATCHES + 1)


@every_name
def test_impossible_number_of_tokens_lists_the_possible(name):
    for n_tokens in (0, N_PATCHES + 1):
        with pytest.raises(UserError) as error:
            make(name, n_tokens)
        message = str(error.value)
        assert name in message and f"V = {n_tokens} " in message and f"{GRID} x {GRID}" in message
        assert str(COMPRESSORS[name].allowed_tokens(GRID)[-1]) in message.split("V can be")[1]


@every_name
def test_wrong_shapes_say_what_was_found_and_expected(name):
    compressor, inputs = make(name, some_allowed(name)[0]), make_inputs()
    with pytest.raises(UserError, match=rf"{name}.*patches: found shape \(3, 36, 8\), expected shape \(any, 36, 16\)"):
        compressor(**dict(inputs, patches_BPK=inputs["patches_BPK"][..., :WIDTH]))
    if compressor.needs_question:
        with pytest.raises(UserError, match=r"question: found none, expected shape \(3, any, 12\)"):
            compressor(**dict(inputs, question_BTD=None))
        with pytest.raises(UserError, match=r"question mask: found shape \(3, 4\), expected shape \(3, 5\)"):
            compressor(**dict(inputs, question_mask_BT=inputs["question_mask_BT"][:, 1:]))
    if compressor.needs_importance:
        with pytest.raises(UserError, match=r"importance: found none, expected shape \(3, 36\)"):
            compressor(**dict(inputs, importance_BP=None))


def test_unknown_names_and_options_are_rejected():
    with pytest.raises(UserError, match=r"no compressor is called 'averge'; there are .*average"):
        build_compressor("averge", GRID, WIDTH, 4)
    with pytest.raises(UserError, match=r"random: unknown option\(s\) sed; its options: seed"):
        build_compressor("random", GRID, WIDTH, 4, sed=2)
    with pytest.raises(UserError, match=r"average: unknown option.*its options: none, beside place \(before or after"):
        build_compressor("average", GRID, WIDTH, 4, seed=1)


def test_senseless_sizes_are_rejected():
    with pytest.raises(UserError, match="average: width is 0"):
        build_compressor("average", GRID, 0, 4)
    with pytest.raises(UserError, match="average: n_levels is 0"):
        build_compressor("average", GRID, WIDTH, 4, n_levels=0)
    with pytest.raises(UserError, match="quecc: question_width is 0"):
        build_compressor("quecc", GRID, WIDTH, 4, question_width=0)


@pytest.mark.parametrize(
    ("name", "option"), [(n, o) for n in NAMES for o in COMPRESSORS[n].option_names() if o not in ("seed", "alpha")]
)
def test_options_of_nothing_are_rejected(name, option):
    wanted = {"training_tokens": "a list of numbers of tokens", "question_from": "llm or embedding"}
    wanted |= {"places": "true or false", "relevance": "question or given"}
    wanted |= {"place": "before or after"}
    wanted |= dict.fromkeys(("layers", "kept"), "a list of whole numbers from 1")
    expected = wanted.get(option, "a whole number of at least 1")
    with pytest.raises(UserError, match=f"{name}: {option} is 0; expected {expected}"):
        make(name, some_allowed(name)[0], **{option: 0})


@pytest.mark.parametrize("alpha", [-1, "half", True, float("nan"), float("inf"), None])
def test_an_exponent_is_a_number_from_0(alpha):
    with pytest.raises(UserError, match=f"scope: alpha is {alpha!r}; expected a number, 0"):
        make("scope", 4, alpha=alpha)
    assert make("scope", 4, alpha=0).alpha == 0


@every_name
def test_paper_grid_of_tokens_is_possible(name):
    """24 x 24 patches, V of Li et al. 2024, section 3."""
    published = {1, 4, 16, 36, 64, 144, 576}
    if name == "mqt":  # 256 queries, as released
        published.remove(576)
    if name.startswith("internvl_"):  # of the tokens that a shuffle of 2 x 2 patches leaves
        published.remove(576)
    if name != "none":
        assert published <= set(COMPRESSORS[name].allowed_tokens(24))
    if COMPRESSORS[name].allowed_tokens(6) == [1, 4, 9, 16, 25, 36]:
        assert COMPRESSORS[name].allowed_tokens(27) == [side**2 for side in range(1, 28)]

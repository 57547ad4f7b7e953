"""Figures of speed: FLOPs against torch's own count, input made ahead against input made in turn."""

import threading
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, SiglipVisionConfig

from vlmlaw.training.distributed import Machine
from vlmlaw.training.prefetch import feed
from vlmlaw.training.throughput import Meter, Pass, Work, measured_peak
from vlmlaw.vlm.cost import training_flops
from vlmlaw.vlm.towers.features import patch_features, without_unused_layers

CPU = torch.device("cpu")
TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
T = 64


def counted(model, given):
    """FLOPs of a forward and backward pass, as torch counts the kernels'."""
    with FlopCounterMode(display=False) as counter:
        model(**given, use_cache=False).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("trained", [True, False])
def test_training_flops_are_those_that_torch_counts(make_vlm, trained):
    """Torch counts the whole square of attention, of which a causal model needs T (T + 1) / 2 pairs."""
    vlm = make_vlm(compressor="average")
    vlm.language_model.requires_grad_(trained)
    vlm.vision_tower.requires_grad_(False)
    vlm.language_model.set_attn_implementation("eager")
    ids = torch.full((1, T), 7)
    ids[0, :4] = 1
    targets = torch.full((1, T), -100)
    targets[0, 40:50] = 9
    given = {"input_ids": ids, "targets": targets, "patches": torch.randn(1, 16, 16)}
    work = Work(n_samples=1, n_tokens=T, n_places=T, n_pairs=T * T, n_targets=10, n_images=1)
    flops = training_flops(vlm, with_tower=False)
    # The last layer's gradient is needed at all places; the projector's first product has no input to differentiate.
    assert flops.of(work) == pytest.approx(counted(vlm, given), rel=0.02)
    assert training_flops(vlm, with_tower=True).of(work) > flops.of(work)


def test_the_flops_of_a_trained_tower_are_those_that_torch_counts(make_vlm):
    """Beside the frozen tower's; the embedding of patches has no input to differentiate."""
    tower = CLIPVisionConfig(**TINY | {"num_hidden_layers": 2}, image_size=32, patch_size=8)
    vlm = make_vlm(vision=tower, compressor="average")
    for part in (vlm.language_model, vlm.vision_tower):
        part.requires_grad_(False)
    ids = torch.tensor([[1, 1, 1, 1, 7, 8]])
    given = {"input_ids": ids, "labels": ids, "pixel_values": torch.randn(1, 3, 32, 32)}
    vlm.vision_tower.set_attn_implementation("eager")
    frozen = counted(vlm, given), training_flops(vlm, with_tower=True).per_image
    vlm.unfreeze_tower()
    trained = counted(vlm, given), training_flops(vlm, with_tower=True).per_image
    embedding = 2 * 16 * (3 * 8**2) * 16
    assert trained[1] - frozen[1] == trained[0] - frozen[0] + embedding


def test_a_meter_adds_up_what_was_done_and_spent(make_vlm):
    flops = training_flops(make_vlm(), with_tower=False)
    before = {"wall_seconds": 100.0, "n_tokens": 1000, "n_samples": 10, "n_places": 2000, "model_flops": 1e6}
    meter = Meter(before, Machine(CPU), flops=flops, dtype=torch.float32)
    work = Work(n_samples=2, n_tokens=30, n_places=40, n_pairs=300, n_targets=5, n_images=2)
    meter.add([Pass({}, work=work), Pass({}, work=work)], waited=0.5)
    figures = meter.summary()
    assert figures["n_tokens"] == 1060 and figures["n_samples"] == 14 and figures["fill"] == 1060 / 2080
    assert figures["model_flops"] == pytest.approx(1e6 + 2 * flops.of(work))
    assert figures["input_wait_seconds"] == 0.5 and figures["gpu_hours"] == 0 and figures["n_processes"] == 1
    seconds = figures["wall_seconds"]
    assert 100 < seconds < 160
    assert figures["tokens_per_second"] == pytest.approx(1060 / seconds)
    assert figures["mfu"] == pytest.approx(figures["model_flops"] / seconds / figures["measured_peak_flops"])
    assert set(meter.rates()) == {"mfu", "tokens_per_second"}


def test_a_meter_without_flops_has_times_alone():
    meter = Meter({}, Machine(CPU), flops=None, dtype=torch.float32)
    meter.add([Pass({})], waited=0.0)
    assert meter.rates() == {}
    assert "mfu" not in meter.summary() and "n_tokens" not in meter.summary()


def test_measuring_the_peak_draws_no_random_number():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert measured_peak(CPU, torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_steps_come_in_order_and_once(ahead):
    made, threads = [], set()

    def passes_of(step):
        time.sleep(0.002 * (step % 3))
        made.append(step)
        threads.add(threading.current_thread().name)
        return [Pass({"step": step})]

    fed = [(step, passes[0].inputs["step"]) for step, passes in feed(passes_of, range(4, 14), device=CPU, ahead=ahead)]
    assert fed == [(step, step) for step in range(4, 14)] and sorted(made) == list(range(4, 14))
    assert (threads == {"MainThread"}) == (ahead == 0)


def test_what_a_thread_raises_comes_out_at_its_step():
    def passes_of(step):
        if step == 3:
            raise ValueError("a broken image")
        return [Pass({"step": step})]

    seen = []
    with pytest.raises(ValueError, match="a broken image"):
        for step, _ in feed(passes_of, range(10), device=CPU, ahead=2):
            seen.append(step)
    assert seen == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("input")]


@torch.no_grad()
@pytest.mark.parametrize("config", [CLIPVisionConfig, SiglipVisionConfig])
@pytest.mark.parametrize("layers", [[-2], [1, 2], [0], [-1], [-3, -2]])
def test_a_tower_without_its_unused_layers_has_the_same_features(config, layers):
    from transformers import AutoModel

    torch.manual_seed(0)
    tower = AutoModel.from_config(config(**TINY, image_size=32, patch_size=8)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected, n_called = patch_features(tower, pixels, layers=layers), []
    names = list(tower.state_dict())
    for module in tower.modules():
        if type(module).__name__.endswith("EncoderLayer"):
            module.register_forward_hook(lambda *_: n_called.append(1))
    with without_unused_layers(tower, layers=layers):
        assert torch.equal(patch_features(tower, pixels, layers=layers), expected)
    assert len(n_called) == max(1, *(layer % 5 for layer in layers))
    assert list(tower.state_dict()) == names
    assert torch.equal(patch_features(tower, pixels, layers=layers), expected)

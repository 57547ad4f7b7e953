"""The estimate of memory against what torch allocates in real steps, and keeps for the backward pass."""

import gc
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Dinov2WithRegistersConfig,
    Gemma2Config,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from vlmlaw.training.adapter import Adapter
from vlmlaw.training.distributed import join
from vlmlaw.training.optimizer import make_optimizer
from vlmlaw.training.settings import ComputeSettings, LoraSettings
from vlmlaw.training.sharding import prepare
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.memory import (
    MemoryLoad,
    adapter_of,
    kept_by_layer,
    kept_by_tower_layer,
    replies_at_once,
    text_parameters,
    training_memory,
)
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.own_forward import read

N_DOCUMENTS, LENGTH, V = 8, 64, 16
CLIP = CLIPVisionConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
)
WIDE = Qwen2Config(
    vocab_size=500,
    hidden_size=128,
    intermediate_size=344,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=4,
)
WORDY = LlamaConfig(
    vocab_size=4000,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
DEEP = Qwen3Config(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=12,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
)
SHALLOW = Qwen2Config(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
)
SEEING = CLIPVisionConfig(
    hidden_size=96, num_hidden_layers=6, num_attention_heads=4, intermediate_size=384, image_size=32, patch_size=4
)


def model_of(text, vision=None):
    config = VlmConfig(
        vision_config=vision or CLIP,
        text_config=text,
        compressor="average",
        n_visual_tokens=V,
        feature_layers=[1 if vision is None else -1],
        image_token_id=1,
    )
    model = VlmForConditionalGeneration(config)
    model.vision_tower.requires_grad_(False)
    if vision is not None:
        model.unfreeze_tower()
    return model


def packed_row(text):
    ids = torch.randint(5, text.vocab_size, (N_DOCUMENTS, LENGTH))
    ids[:, :V] = 1
    targets = ids.roll(-1, 1).masked_fill(torch.arange(LENGTH) < LENGTH // 2, -100)
    return {
        "input_ids": ids.view(1, -1),
        "targets": targets.view(1, -1),
        "images": ImageInputs(pixel_values=torch.randn(N_DOCUMENTS, 3, 32, 32)),
        "position_ids": torch.arange(LENGTH).repeat(N_DOCUMENTS)[None],
        "cu_seq_lens_q": torch.arange(0, N_DOCUMENTS * LENGTH + 1, LENGTH).int(),
        "max_length_q": LENGTH,
        "use_cache": False,
    }


def allocated(text, dtype, *, recompute, vision=None):
    """The most bytes that torch's allocator held in two optimizer steps, the model's own among them."""
    gc.collect()  # what earlier tests left behind is not to be freed while this is watched
    torch.manual_seed(0)
    compute = ComputeSettings(recompute=recompute, logs=())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        model = model_of(text, vision)
        with join(compute, sharded=dtype != torch.float32) as machine:
            prepare(model, machine=machine, compute=compute, dtype=dtype)
            optimizer = make_optimizer([(1e-3, model.parameters())], weight_decay=0, beta2=0.98)
            for n_passes in (1, 2):  # from the second step on there are moments, in its second pass gradients, too
                for _ in range(n_passes):
                    model.train()(**packed_row(text)).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    events = watched.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    ("text", "dtype", "tower"),
    [
        (WIDE, torch.float32, None),
        (WORDY, torch.float32, None),
        (DEEP, torch.float32, None),
        (WIDE, torch.bfloat16, None),
        (SHALLOW, torch.float32, SEEING),
        (SHALLOW, torch.bfloat16, SEEING),
    ],
    ids=["wide", "wordy", "deep", "wide in bfloat16", "tower trained", "tower trained in bfloat16"],
)
def test_the_estimate_is_what_torch_allocates_to_a_fifth(text, dtype, tower, recompute):
    n_tokens = N_DOCUMENTS * LENGTH
    estimate = training_memory(
        MemoryLoad(
            text=text,
            vision=tower or CLIP,
            trains_tower=tower is not None,
            dtype=str(dtype).removeprefix("torch."),
            n_tokens=n_tokens,
            n_targets=n_tokens // 2,
            n_images=N_DOCUMENTS,
            longest=LENGTH,
            recompute=recompute,
            on_gpu=False,
        )
    )
    assert estimate.all == pytest.approx(allocated(text, dtype, recompute=recompute, vision=tower), rel=0.2)


def kept(config, dtype, *, compiled=False, lora=None):
    """Bytes of a token that torch keeps for the backward pass in one more layer."""
    found = []
    for n_layers in (1, 3):
        config.num_hidden_layers = n_layers
        llm = AutoModelForCausalLM.from_config(config).to(dtype).train()
        if lora is not None:
            Adapter(llm, lora, folder=Path("adapter"), base="")
            llm.to(dtype)
        weights = {parameter.untyped_storage().data_ptr() for parameter in llm.parameters()}
        storages = {}

        def pack(tensor, weights=weights, storages=storages):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage
            return tensor

        length = LENGTH // 4
        layout = {"position_ids": torch.arange(length).repeat(4)[None], "use_cache": False}
        if compiled:  # min-cut partitioning as inductor's, without its compiler
            for layer in llm.base_model.layers:
                layer.compile(backend="aot_eager_decomp_partition")
            layout |= {"position_ids": torch.arange(LENGTH)[None], "attention_mask": torch.ones(1, LENGTH).long()}
        else:
            layout |= {"cu_seq_lens_q": torch.arange(0, LENGTH + 1, length).int(), "max_length_q": length}
        embeds = torch.randn(1, LENGTH, config.hidden_size, dtype=dtype, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            read(llm, inputs_embeds=embeds, **layout)
        found.append(sum(storage.nbytes() for storage in storages.values()) / LENGTH)
    return (found[1] - found[0]) / 2


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "rel"), [(Qwen2Config, 0.02), (Qwen3Config, 0.02), (LlamaConfig, 0.02), (Gemma2Config, 0.1)]
)
def test_a_layer_keeps_what_torch_counts(kind, rel, dtype, compiled):
    if compiled and kind is Gemma2Config:
        pytest.skip("its scores are the estimate's concern where they are made, in eager layers")
    options = {} if kind in (Qwen2Config, LlamaConfig) else {"head_dim": 16}
    config = kind(
        vocab_size=50, hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2, **options
    )
    estimated = kept_by_layer(config, size=dtype.itemsize, longest=LENGTH // 4, compiled=compiled, on_gpu=False)
    assert estimated == pytest.approx(kept(config, dtype, compiled=compiled), rel=rel)


LORA = LoraSettings(rank=8, alpha=16, dropout=0.1)
SOME = LoraSettings(rank=8, alpha=16, dropout=0.0, target_modules=("q_proj", "down_proj"))


@pytest.mark.parametrize("lora", [LORA, SOME], ids=["all", "some"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_keep_what_torch_counts_and_have_as_many_parameters(dtype, lora):
    config = Qwen2Config(
        vocab_size=50, hidden_size=64, intermediate_size=160, num_attention_heads=4, num_key_value_heads=2
    )
    adapter = adapter_of(config, rank=8, target_modules=lora.target_modules, drops=lora.dropout > 0)
    estimated = kept_by_layer(config, size=dtype.itemsize, longest=LENGTH // 4, on_gpu=False)
    estimated += adapter.kept(dtype.itemsize, on_gpu=False)
    assert estimated == pytest.approx(kept(config, dtype, lora=lora), rel=0.02)
    config.num_hidden_layers = 2
    llm = AutoModelForCausalLM.from_config(config)
    Adapter(llm, lora, folder=Path("adapter"), base="")
    assert 2 * adapter.n_params == sum(p.numel() for p in llm.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", [CLIPVisionConfig, SiglipVisionConfig, Dinov2WithRegistersConfig])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_of_a_trained_tower_keeps_what_torch_says(kind, dtype):
    found = []
    own = {"mlp_ratio": 3} if kind is Dinov2WithRegistersConfig else {"intermediate_size": 192}
    for n_layers in (1, 3):
        config = kind(
            hidden_size=64, num_hidden_layers=n_layers, num_attention_heads=4, image_size=64, patch_size=8, **own
        )
        tower = AutoModel.from_config(config).to(dtype).train()
        weights = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}
        storages = {}

        def keep(tensor, storages=storages, weights=weights):
            if tensor.untyped_storage().data_ptr() not in weights:
                storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its place is not given away
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            seen = tower(torch.randn(2, 3, 64, 64, dtype=dtype), output_hidden_states=True).hidden_states[-1]
        kept = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
        found.append(kept / seen.shape[:2].numel())
    size = {torch.float32: 4, torch.bfloat16: 2}[dtype]
    assert kept_by_tower_layer(config, size=size, on_gpu=False) == pytest.approx((found[1] - found[0]) / 2, rel=0.02)


def test_parameters_are_the_models():
    for config in (WIDE, WORDY, DEEP):
        of_layer, of_ends = text_parameters(config)
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(config)
        assert of_layer * config.num_hidden_layers + of_ends == pytest.approx(llm.num_parameters(), rel=0.01)


def test_more_memory_takes_more_replies_and_one_is_the_least():
    asked = {"size": 2, "n_prompt": 600, "n_new": 64}
    counts = [replies_at_once(WIDE, CLIP, memory=gigabytes * 1e9, **asked) for gigabytes in (1, 2, 3, 80)]
    assert counts == sorted(counts) and counts[0] == 1 < counts[1] < counts[-1] == 256

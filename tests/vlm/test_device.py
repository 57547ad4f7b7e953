"""Everything that a GPU would run, with tensors that say they are on another device than the CPU."""

from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPVisionConfig, Qwen2Config

from vlmlaw.compressors import ALL_PATCHES, COMPRESSORS
from vlmlaw.evaluation.benchmark import patches_reader
from vlmlaw.evaluation.test_split import judge
from vlmlaw.tokens.token_table import TokenTable, load_tokenizer
from vlmlaw.training.batches import StepPasses
from vlmlaw.training.distributed import Machine
from vlmlaw.training.settings import ComputeSettings
from vlmlaw.vlm.generate import Prompter, replies
from vlmlaw.vlm.images import open_images

from .elsewhere import Elsewhere, elsewhere, move

CLIP = CLIPVisionConfig(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=64, patch_size=16
)


@pytest.fixture(scope="module")
def cell(make_vlm, stages):
    """A function that makes a VLM of a compressor for the practice set, and what its steps' passes are made by."""
    words, table = load_tokenizer(stages.tokenizer), TokenTable.load(stages.tokens["train"])
    llm = Qwen2Config(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
    )

    def make(name, layout="packed"):
        kind = COMPRESSORS[name]
        vlm = make_vlm(
            vision=CLIP,
            text=llm,
            compressor=name,
            n_visual_tokens=kind.allowed_tokens(4)[-1] if name == ALL_PATCHES else 4,
            feature_layers=[1, 2] if kind.reads_all_levels else [-2],
        )
        vlm.config.image_token_id = table.image_token_id
        images_of = open_images(stages.data["train"], layers=[-2], image_px=64)
        passes_of = StepPasses(
            table,
            images_of,
            batch_size=4,
            seed=0,
            n_visual_tokens=vlm.compressor.n_input_tokens,
            pad_id=0,
            reads_question=vlm.reads_question,
            compute=ComputeSettings(layout=layout, logs=()),
            machine=Machine(torch.device("cpu")),
        )
        return SimpleNamespace(vlm=vlm, words=words, table=table, images_of=images_of, passes_of=passes_of)

    return make


def on(device, inputs):
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in inputs.items()}


def test_the_device_refuses_the_cpus_tensors_and_computes_the_same():
    with elsewhere() as device:
        x = torch.arange(6.0).view(2, 3).to(device)
        assert isinstance(x, Elsewhere) and x.device == device and (x @ x.T).sum().item() == 83
        assert torch.equal((x * 2).cpu(), torch.arange(6.0).view(2, 3) * 2)
        with pytest.raises(AssertionError, match="mixes a tensor of the device with one of the CPU"):
            x + torch.ones(3)


TRAINED = [(name, "packed") for name, kind in COMPRESSORS.items() if not kind.training_free]


@pytest.mark.parametrize(("name", "layout"), [*TRAINED, ("quecc", "padded"), ("average", "padded")])
def test_a_training_step(cell, name, layout):
    """Pixels, tower, compressor, LLM, loss and gradient: the same numbers as on the CPU."""
    made = cell(name, layout)
    vlm = made.vlm.train()
    vlm.vision_tower.requires_grad_(False)
    (one,) = made.passes_of(0)
    with torch.no_grad():
        expected = vlm(**one.inputs, use_cache=False).loss.item()
    with elsewhere() as device:
        move(vlm)
        loss = vlm(**on(device, one.inputs), use_cache=False).loss
        assert loss.item() == pytest.approx(expected, abs=1e-5)
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(vlm.parameters(), 1.0).item() > 0
        assert all(isinstance(p.grad, Elsewhere) for p in vlm.projector.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", COMPRESSORS)
def test_evaluation_and_replies(cell, name):
    made = cell(name)
    vlm = made.vlm.eval()
    vlm.set_attn_implementation("eager")  # equal in every bit: choices between like patches hang on the last one
    prompter = Prompter(
        made.words, n_visual_tokens=vlm.compressor.n_input_tokens, image_token_id=made.table.image_token_id
    )
    prompts = [prompter("What is it?", image) for image in (0, 1)]
    pixels = made.images_of([0, 1]).pixel_values.numpy()

    def everything():
        table = made.table
        yield judge(vlm, table, made.images_of, batch_size=len(table), pad_id=0).right.tolist()
        yield from replies(
            vlm,
            prompts,
            patches_of=patches_reader(vlm, lambda image: pixels[image]),
            stop_ids=[3],
            pad_id=0,
            batch_size=2,
            max_new_tokens=3,
        )

    expected = list(everything())
    with elsewhere():
        move(vlm)
        assert list(everything()) == expected

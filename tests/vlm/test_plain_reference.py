"""A batch's loss and gradients against a plain reference: transformers' own classes, one record at a time, no packing,
no mask of our own, the output head at every place."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from vlmlaw.data.shards import Dataset
from vlmlaw.tokens.packing import make_batch, tensors
from vlmlaw.tokens.token_table import TokenTable, load_tokenizer
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.model import VlmForConditionalGeneration

GRID, SIDE = 4, 2  # patches and visual tokens along a side
LLMS = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


@pytest.fixture(scope="module", params=list(LLMS))
def parts(request, stages):
    """A CLIP tower, an LLM and a projector with random weights, in float64."""
    torch.manual_seed(0)
    words = load_tokenizer(stages.tokenizer)
    config, kind = LLMS[request.param]
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    llm = kind(config(vocab_size=len(words) - 1, intermediate_size=32, head_dim=12, initializer_range=0.2, **shape))
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=64, patch_size=64 // GRID, **shape))
    projector = nn.Sequential(nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 24))
    return tower.double().eval(), llm.double().eval(), projector.double(), words


def plain_loss(parts, conversations, images):
    """The mean loss of all answers' tokens, and that many: each record by itself, through the classes' own forward."""
    tower, llm, projector, words = parts
    total, n_labels = torch.zeros((), dtype=torch.float64), 0
    for turns, pixels in zip(conversations, images, strict=True):
        embeds, labels = [], []
        for turn in turns:
            head = f"<|im_start|>{turn['role']}\n"
            said = turn["content"].replace("<image>\n", "")
            if "<image>" in turn["content"]:
                add(embeds, labels, llm, words(head)["input_ids"], learn=False)
                with torch.no_grad():
                    states = tower(pixel_values=pixels[None], output_hidden_states=True).hidden_states[-2][:, 1:]
                grid = projector(states).transpose(1, 2).reshape(1, -1, GRID, GRID)
                embeds.append(F.avg_pool2d(grid, GRID // SIDE).flatten(2).transpose(1, 2)[0])
                labels += [-100] * SIDE**2
                head = "\n"
            learn = turn["role"] == "assistant"
            add(embeds, labels, llm, words(head if learn else f"{head}{said}<|im_end|>\n")["input_ids"], learn=False)
            if learn:
                add(embeds, labels, llm, words(f"{said}<|im_end|>\n")["input_ids"], learn=True)
        logits = llm(inputs_embeds=torch.cat(embeds)[None]).logits[0]
        wanted = torch.tensor(labels[1:])
        total = total + F.cross_entropy(logits[:-1], wanted, reduction="sum")
        n_labels += int((wanted >= 0).sum())
    return total / n_labels, n_labels


def add(embeds, labels, llm, ids, *, learn):
    embeds.append(llm.get_input_embeddings()(torch.tensor(ids)))
    labels += ids if learn else [-100] * len(ids)


def test_a_batchs_loss_and_gradients_are_those_of_the_plain_reference(parts, stages):
    tower, llm, projector, words = parts
    config = VlmConfig(
        vision_config=tower.config,
        text_config=llm.config,
        compressor="average",
        n_visual_tokens=SIDE**2,
        feature_layers=[2],  # of the states 0 to 3: the last but one
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.25],
    )
    model = VlmForConditionalGeneration.assemble(config, tower, llm)
    model.projector = model.projector.double()
    model.projector.norm, model.projector.mlp = projector[0], projector[1:]
    table, dataset = TokenTable.load(stages.tokens["train"]), Dataset(stages.data["train"])
    records = [0, 5, 97, 17]  # dialogues of three turns about an image, and one without an image
    batch = make_batch(table, records, n_visual_tokens=SIDE**2, pad_id=words.pad_token_id)
    pixels = np.stack([dataset.image(row) for row in batch.image_rows])
    loss = model(**tensors(batch), pixel_values=torch.from_numpy(pixels), use_cache=False).loss
    trained = [*llm.parameters(), *projector.parameters()]
    gradients = torch.autograd.grad(loss, trained)

    chosen = [dataset.records[record] for record in records]
    assert [record.image is None for record in chosen] == [False, False, True, False]
    scale = torch.tensor(pixels).permute(0, 3, 1, 2).double() / 255
    normal = (scale - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
    seen = iter(normal)
    conversations = [
        [
            {"role": role, "content": said if number or record.image is None or role != "user" else f"<image>\n{said}"}
            for number, pair in enumerate(zip(record.questions, record.answers, strict=True))
            for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
        for record in chosen
    ]
    expected, n_labels = plain_loss(parts, conversations, [None if r.image is None else next(seen) for r in chosen])
    assert n_labels == (batch.targets >= 0).sum() > 20
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for found, wanted in zip(gradients, torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert all(gradient.abs().max() > 0 for gradient in gradients)

"""Checkpoints in released layouts become cells whose visual tokens are those of the released connectors."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from golden_files import FOLDER, golden
from vlmlaw.cli.main import main
from vlmlaw.compressors import build_compressor
from vlmlaw.errors import UserError
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.released import import_checkpoint

LLM = {
    "vocab_size": 40,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# (golden file, output, V, side of the grid)
LAYOUTS = [
    ("m3_g12", "projected_V36", 144, "none"),
    ("tokenpacker_g12", "projected_V36", 36, "tokenpacker"),
    ("quecc_g12_V16", "projected", 16, "quecc"),
]


def write_tower(folder, side, width):
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=24,
        num_attention_heads=4,
        image_size=4 * side,
        patch_size=4,
    )
    torch.manual_seed(0)
    CLIPVisionModel(config).save_pretrained(folder)


def write_checkpoint(folder, connector):
    """A LLaVA-like checkpoint: a random language model, the connector beside it, a small tokenizer."""
    torch.manual_seed(1)
    llm = LlamaForCausalLM(LlamaConfig(**LLM))
    weights = {key: weight.clone() for key, weight in llm.state_dict().items()}
    weights |= {f"model.mm_projector.{key}": weight.contiguous() for key, weight in connector.items()}
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "llava",
        "mm_hidden_size": 32,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        **LLM,
    }
    (folder / "config.json").write_text(json.dumps(config))
    words = Tokenizer(WordLevel({"[UNK]": 0, "</s>": 1, "what": 2, "is": 3, "this": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="</s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return llm


@pytest.mark.parametrize(("file", "output", "n_tokens", "name"), LAYOUTS)
@torch.no_grad()
def test_a_cell_of_released_weights_equals_the_released_connector(tmp_path, file, output, n_tokens, name):
    g = golden(file)
    checkpoint, tower, cell = (tmp_path / part for part in ("checkpoint", "tower", "cell"))
    checkpoint.mkdir()
    levels = g.inputs["levels"] if "levels" in g.inputs else g.inputs["patches"]
    width = g.width
    write_tower(tower, 12, width)
    llm = write_checkpoint(checkpoint, g.weights).eval()
    asked = ["--visual-tokens", "36"] if name == "tokenpacker" else []
    assert main(["import-checkpoint", str(checkpoint), "--tower", str(tower), "--out", str(cell), *asked]) == 0
    model = AutoModelForImageTextToText.from_pretrained(cell / "model").eval()
    assert (model.config.compressor, model.config.n_visual_tokens) == (name, n_tokens)
    assert model.config.feature_layers == ([-2] if name == "none" else [12, 16, 22, 23])
    assert model.config.pad_color == [int(255 * level) for level in model.config.image_mean]  # LLaVA's expand2square
    if name == "quecc":  # released weights, the released question's vector in place of the LLM's
        tokens = model.projector(model.compressor(levels, g.inputs["question"]))
    else:
        tokens = model.visual_tokens(ImageInputs(patches=levels))
    if name == "none":
        tokens = build_compressor("average", 12, 48, 36)(tokens)  # the file has M3's pooling behind the projector
    torch.testing.assert_close(tokens, g.outputs[output], rtol=0, atol=1e-5)
    # End to end: the language model on text and the released tokens.
    if name == "tokenpacker":
        ids = torch.cat(
            [torch.tensor([[2]]), torch.full((1, 36), model.config.image_token_id), torch.tensor([[3, 4]])], 1
        )
        embeds = llm.get_input_embeddings()(torch.tensor([[2, 3, 4]]))
        embeds = torch.cat([embeds[:, :1], g.outputs[output][:1], embeds[:, 1:]], dim=1)
        logits = model(input_ids=ids, images=ImageInputs(patches=levels[:1])).logits
        torch.testing.assert_close(logits, llm(inputs_embeds=embeds).logits, rtol=0, atol=1e-4)
    assert AutoProcessor.from_pretrained(cell / "model").tokenizer.get_vocab()["<image>"] == model.config.image_token_id


def test_what_is_no_checkpoint_is_named(tmp_path):
    checkpoint, tower = tmp_path / "checkpoint", tmp_path / "tower"
    checkpoint.mkdir()
    with pytest.raises(UserError, match=r"config.json cannot be read"):
        import_checkpoint(checkpoint, tower, tmp_path / "cell")
    write_checkpoint(checkpoint, {"resampler.weight": torch.zeros(2, 2)})
    with pytest.raises(UserError, match=r"its connector .*resampler.weight\) is of no layout that is known"):
        import_checkpoint(checkpoint, tower, tmp_path / "cell")
    write_tower(tower, 4, 32)
    weights = golden("m3_g12").weights | {"2.weight": torch.zeros(48, 40)}
    write_checkpoint(checkpoint, weights)
    with pytest.raises(UserError, match=r"the projector's weights are"):
        import_checkpoint(checkpoint, tower, tmp_path / "cell")
    assert not (tmp_path / "cell").exists() and FOLDER.is_dir()


def test_a_connector_with_one_v_is_not_asked_for_another(tmp_path):
    checkpoint, tower = tmp_path / "checkpoint", tmp_path / "tower"
    checkpoint.mkdir()
    g = golden("quecc_g12_V16")
    write_tower(tower, 12, g.width)
    write_checkpoint(checkpoint, g.weights)
    with pytest.raises(UserError, match="quecc, makes 16 visual tokens of this tower's 144 patches, and 36 were asked"):
        import_checkpoint(checkpoint, tower, tmp_path / "cell", n_visual_tokens=36)


def test_weights_of_another_shape_than_the_config_says_are_named(tmp_path):
    checkpoint, tower = tmp_path / "checkpoint", tmp_path / "tower"
    checkpoint.mkdir()
    write_tower(tower, 4, 32)
    write_checkpoint(checkpoint, golden("m3_g12").weights)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 41}))
    with pytest.raises(UserError, match=r"do not fit its config.json: size mismatch .*\[40, 48\]"):
        import_checkpoint(checkpoint, tower, tmp_path / "cell")


def test_a_damaged_tokenizer_is_named(tmp_path):
    checkpoint, tower = tmp_path / "checkpoint", tmp_path / "tower"
    checkpoint.mkdir()
    write_tower(tower, 4, 32)
    write_checkpoint(checkpoint, golden("m3_g12").weights)
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="checkpoint cannot be loaded as a tokenizer"):
        import_checkpoint(checkpoint, tower, tmp_path / "cell")

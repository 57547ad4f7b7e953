"""The laptop experiment's preparation, on stand-ins in its packages' formats: weights, flags, facts, shapes."""

import importlib
import io
import json
import math
import random
import sys
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from .project import ROOT

CAPITALS = {"AA": ("Aland", "Ayton"), "BB": ("Beland", "Bury"), "CC": ("Celand", "Caxton"), "DD": ("Deland", "Diss")}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
BLOCKS = ((1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80))
BLOCKS += ((3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320))  # of Lite0: its released code's list


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The scripts' folder, as `python workflow/laptop/prepare.py` has it."""
    folder = str(ROOT / "workflow" / "laptop")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)
    for name in ("models", "records", "prepare"):
        sys.modules.pop(name, None)


def _blocks():
    """Kernel, stride, width in, inner width and width out of each block of EfficientNet-Lite0."""
    for repeats, kernel, stride, expand, w_in, w_out in BLOCKS:
        for index in range(repeats):
            first = index == 0
            own_in = w_in if first else w_out
            yield kernel, stride if first else 1, own_in, own_in * expand, w_out


def released_weights(generator):
    """Random weights in the layout of the released EfficientNet-Lite0."""
    made = {}

    def conv(name, *shape):
        made[f"{name}.weight"] = torch.randn(*shape, generator=generator) / math.prod(shape[1:]) ** 0.5

    def norm(name, width):
        for part in ("weight", "running_var"):
            made[f"{name}.{part}"] = torch.rand(width, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            made[f"{name}.{part}"] = torch.randn(width, generator=generator) / 4
        made[f"{name}.num_batches_tracked"] = torch.tensor(1)

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, w_in, inner, w_out) in enumerate(_blocks()):
        name = f"_blocks.{number}"
        if inner != w_in:
            conv(f"{name}._expand_conv", inner, w_in, 1, 1)
            norm(f"{name}._bn0", inner)
        conv(f"{name}._depthwise_conv", inner, 1, kernel, kernel)
        norm(f"{name}._bn1", inner)
        conv(f"{name}._project_conv", w_out, inner, 1, 1)
        norm(f"{name}._bn2", w_out)
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    made["_fc.weight"], made["_fc.bias"] = torch.zeros(10, 1280), torch.zeros(10)
    return made


def lite0(weights, pixels):
    """The last map of EfficientNet-Lite0, written from its definition: TensorFlow's SAME padding, ReLU6, no gates."""

    def conv(name, x, *, stride=1, groups=1):
        weight = weights[f"{name}.weight"]
        need = max((math.ceil(x.shape[-1] / stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
        x = F.pad(x, (need // 2, need - need // 2) * 2)
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(name, x):
        w = {
            part: weights[f"{name}.{part}"].view(-1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        }
        return (x - w["running_mean"]) / (w["running_var"] + 1e-3).sqrt() * w["weight"] + w["bias"]

    x = F.relu6(norm("_bn0", conv("_conv_stem", pixels, stride=2)))
    for number, (_, stride, w_in, inner, w_out) in enumerate(_blocks()):
        name, inside = f"_blocks.{number}", x
        if inner != w_in:
            inside = F.relu6(norm(f"{name}._bn0", conv(f"{name}._expand_conv", inside)))
        inside = conv(f"{name}._depthwise_conv", inside, stride=stride, groups=inner)
        inside = norm(f"{name}._bn2", conv(f"{name}._project_conv", F.relu6(norm(f"{name}._bn1", inside))))
        x = x + inside if stride == 1 and w_in == w_out else inside
    return F.relu6(norm("_bn1", conv("_conv_head", x)))


def test_transformers_efficientnet_with_open_gates_is_lite0():
    models = importlib.import_module("models")
    weights = released_weights(torch.Generator().manual_seed(0))
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = models.efficientnet(weights)(pixels).last_hidden_state, lite0(weights, pixels)
    assert found.shape == (1, 1280, 3, 3) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises((KeyError, RuntimeError)):
        models.efficientnet({name: value for name, value in weights.items() if "_blocks.3." not in name})


def write_gguf(path, model, tokens):
    """A llama as llama.cpp's converter writes it: rotary halves of queries and keys interleaved, a GPT-2 tokenizer."""
    gguf = pytest.importorskip("gguf", reason="writes and reads GGUF files; `pip install gguf`")
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, value in model.model.state_dict().items():
        array = value.numpy()
        part = next((short for long, short in names.items() if long in name), "")
        if part in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        plain = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
        stored = plain.get(name) or f"blk.{name.split('.')[1]}.{part}.weight"
        writer.add_tensor(stored, np.ascontiguousarray(array))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "ab"]
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {"num_key_value_heads": 2, "vocab_size": len(tokens), "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, **shape, **own)).eval(), tokens


def write_packages(folder):
    """Stand-ins of all five packages. Returns the arguments that name them."""
    model, tokens = tiny_llama()
    write_gguf(folder / "tiny.gguf", model, tokens)
    torch.save(released_weights(torch.Generator().manual_seed(0)), folder / "lite0.pth")
    facts = folder / "facts"
    facts.mkdir()
    with tarfile.open(folder / "flags.tgz", "w:gz") as archive:

        def add(name, data):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

        add("countries.json", json.dumps({code: name for code, (name, _) in CAPITALS.items()}).encode())
        for number, (code, (name, capital)) in enumerate(CAPITALS.items()):
            fact = {"name": name, "capital": capital, "ISO": {"alpha2": code}, "population": 9 - number}
            (facts / f"{code}.json").write_text(json.dumps(fact))
            picture = io.BytesIO()
            Image.new("RGBA", (50, 30), (60 * number, 0, 0, 255)).save(picture, "PNG")
            add(f"png250px/{code.lower()}.png", picture.getvalue())
    for split in ("train", "test"):
        (folder / "shapes" / split / "images").mkdir(parents=True)
        asked = []
        for image in range(8):
            Image.new("RGB", (64, 64), (0, 0, 255)).save(folder / "shapes" / split / "images" / f"{image}.png")
            shape = ("circle", "rectangle", "triangle")[image % 3]
            asked += [["what shape is in the image?", shape, image], ["what color is the shape?", "blue", image]]
        (folder / "shapes" / split / "questions.json").write_text(json.dumps(asked))
    named = {"flags": "flags.tgz", "gguf": "tiny.gguf", "tower": "lite0.pth", "shapes": "shapes", "facts": "facts"}
    options = {"out": "laptop", "image-size": 64, "countries": 4, "each": 2, "test-each": 1}
    paths = {name: str(folder / file) for name, file in named.items()} | {"out": str(folder / "laptop")}
    return [text for name, value in {**options, **paths}.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, scripts):
    folder = tmp_path_factory.mktemp("laptop")
    script = importlib.import_module("prepare")
    script.prepare(script.parse(write_packages(folder)))
    return folder / "laptop"


def test_the_language_model_of_a_gguf_file_is_the_one_it_was_made_from(prepared):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokens = tiny_llama()
    ids = torch.tensor([[5, 70, 2, 9, 200, 33]])
    again = AutoModelForCausalLM.from_pretrained(prepared / "language_model")
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert "quantization_config" not in json.loads((prepared / "language_model" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(prepared / "language_model")
    said = "<|im_start|>user\nabba<|im_end|>\n"
    assert tokenizer.decode(tokenizer(said)["input_ids"]) == said
    assert tokenizer("ab")["input_ids"] == [tokens.index("ab")]
    chat = [{"role": "user", "content": "abba"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == said


def test_capitals_that_are_held_out_are_told_nowhere_and_asked_for(prepared):
    told = (prepared / "align.json").read_text() + (prepared / "train.json").read_text()
    asked = {name: json.loads((prepared / f"{name}.json").read_text()) for name in ("capital", "capital_held_out")}
    held_out = {question["answer"] for question in asked["capital_held_out"]}
    assert held_out == {"Diss"} and "Diss" not in told and "Deland" in told
    assert {question["answer"] for question in asked["capital"]} == {"Ayton", "Bury", "Caxton"}
    shapes = [question["answer"] for question in json.loads((prepared / "shape.json").read_text())]
    assert shapes == ["circle", "rectangle", "triangle", "circle"]


def test_every_picture_is_there_and_none_is_both_learned_from_and_asked_about(prepared):
    names = {}
    for path in prepared.glob("*.json"):
        names[path.stem] = {row["image"] for row in json.loads(path.read_text()) if "image" in row}
    assert all((prepared / "images" / name).is_file() for found in names.values() for name in found)
    learned = names["align"] | names["train"]
    assert learned and not learned & set().union(*(names[stem] for stem in names if stem not in ("align", "train")))


def test_a_flag_is_never_the_same_picture_twice():
    records = importlib.import_module("records")
    rng, flag = random.Random(0), Image.new("RGBA", (60, 30), (200, 0, 0, 255))
    one, other = (np.asarray(records.seen(flag, rng)).astype(int) for _ in range(2))
    assert one.shape == other.shape == (224, 224, 3) and np.abs(one - other).mean() > 5


def test_the_shipped_file_names_what_is_prepared_and_can_be_checked(prepared, monkeypatch):
    import yaml

    from vlmlaw.experiment.experiment import read_experiment

    monkeypatch.chdir(prepared.parent)
    shipped = ROOT / "workflow" / "experiments" / "laptop.yaml"
    experiment = yaml.safe_load(shipped.read_text())
    experiment["grid"] = {"visual_tokens": [1, 4], "compressors": {"average_elastic": {"training_tokens": [1, 4]}}}
    (prepared.parent / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    read = read_experiment(prepared.parent / "experiment.yaml")
    assert read.tower.hidden_size == 1280 and read.grid_side == 2
    for benchmark in experiment["evaluation"]["benchmarks"]:
        assert (prepared.parent / benchmark["questions"]).is_file()


def test_what_is_missing_is_said_before_anything_is_written(tmp_path):
    from vlmlaw.errors import UserError

    script = importlib.import_module("prepare")
    with pytest.raises(UserError, match="install"):
        script.prepare(script.parse(["--flags", str(tmp_path / "none.tgz"), "--out", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()

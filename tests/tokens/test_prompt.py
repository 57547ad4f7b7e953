"""One prompt: training, benchmarks, chat and processor read the same tokens and ask an image the same question."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmlaw.data.shards import Dataset, Record, ShardWriter
from vlmlaw.errors import UserError
from vlmlaw.tokens.packing import make_batch
from vlmlaw.tokens.prompt import ChatTokenizer, plain_chat, questions_of
from vlmlaw.tokens.token_table import IGNORE_INDEX, tokenize
from vlmlaw.tokens.tokenizer import CHATML
from vlmlaw.vlm.generate import Prompter
from vlmlaw.vlm.processor import VlmProcessor

GOLDEN = Path(__file__).parents[1] / "golden" / "quecc_question_V9.npz"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}USER: {{ m.content }}"
    " {% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'system' %}"
    "<<SYS>>{{ m.content }}<</SYS>>{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
QUESTION = "What is it?\nAnswer with a word."
PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return {name: data[name] for name in data.files}


def _tokenizer(golden, *, pre_tokenizer=None):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(str(golden["extra/tokenizer_json"]))
    if pre_tokenizer is not None:
        core.pre_tokenizer = pre_tokenizer
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=SPECIAL, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.chat_template = CHATML
    return made


@pytest.fixture
def merging(golden):
    """The golden files' byte-level BPE, whose one merge is of two newlines, with line ends cut off as Qwen's does."""
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\S+|\s+"), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made = _tokenizer(golden, pre_tokenizer=pre_tokenizers.Sequence([cut, whole]))
    made.add_special_tokens({"additional_special_tokens": ["</s>"]})  # which two of the templates end answers with
    return made


def test_the_tokenizer_merges_across_the_image_where_it_is_dropped(merging):
    """Else the tests below say little."""
    around, dropped = (merging(text)["input_ids"] for text in ("user\n<image>\nWhat?", "user\n\nWhat?"))
    assert len(around) - 1 == len(dropped) + 1


@pytest.mark.parametrize("template", [CHATML, VICUNA, LLAMA2], ids=["chatml", "vicuna", "llama2"])
def test_training_benchmarks_chat_and_processor_read_the_same(merging, template, tmp_path):
    merging.chat_template = template
    image = merging.convert_tokens_to_ids("<image>")
    with ShardWriter(tmp_path) as writer:
        writer.add_image("a", PIXELS)
        writer.add_record(Record("r", (QUESTION, "Its color?"), ("A cat.", "Blue."), image="a"))
    for independent in (False, True):
        table = tokenize(Dataset(tmp_path), merging, independent=independent)
        batch = make_batch(table, [0], n_visual_tokens=3, pad_id=0, reads_question=True)
        row = batch.input_ids[0]
        n_prompt = int(np.argmax(batch.targets[0] != IGNORE_INDEX)) + 1
        trained_on = row[:n_prompt].tolist(), batch.question_ids[0][batch.question_mask[0]].tolist()

        benchmark = Prompter(merging, n_visual_tokens=3, image_token_id=image)(QUESTION, "picture")
        assert (list(benchmark.ids), list(benchmark.questions[0])) == trained_on
        assert benchmark.n_text_tokens == n_prompt - 3

        reader = VlmProcessor(merging, n_visual_tokens=3, reads_question=True, image_px=8)
        for content in (
            f"<image>\n{QUESTION}",
            [{"type": "image", "image": PICTURE}, {"type": "text", "text": QUESTION}],
        ):
            messages = [{"role": "user", "content": content}]
            text = reader.apply_chat_template(messages, add_generation_prompt=True)
            by_text = reader(text=text, images=PICTURE)
            assert (by_text["input_ids"][0].tolist(), by_text["question_ids"][0].tolist()) == trained_on
            options = {"images": [PICTURE]} if isinstance(content, str) else None
            by_messages = reader.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs=options
            )
            assert by_messages["input_ids"].tolist() == by_text["input_ids"].tolist()
            assert by_messages["question_ids"].tolist() == by_text["question_ids"].tolist()
            assert by_messages["pixel_values"].shape == (1, 3, 8, 8)


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image", "url": "a"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A cat."},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "b"}},
            {"type": "image", "path": "c"},
            {"type": "text", "text": "And "},
            {"type": "text", "text": "these?"},
        ],
    },
]


@pytest.mark.parametrize("template", [CHATML, VICUNA], ids=["chatml", "vicuna"])
def test_several_turns_images_and_a_system_prompt(merging, template):
    merging.chat_template = template
    chat, images = plain_chat(CONVERSATION)
    assert images == ["a", "b", "c"]
    asked = ["What is it?", "And these?", "And these?"]
    assert questions_of(chat) == asked
    read = ChatTokenizer(merging)
    (by_messages,) = read.prompts([chat])
    text = read.text(chat, add_generation_prompt=True)
    assert "Be brief." in text and "<image>\n<image>\nAnd these?" in text
    (by_text,) = read.rendered([text])
    assert by_text == by_messages
    assert by_messages.questions == [merging(one)["input_ids"] for one in asked]
    # A training on the whole chat reads the same up to the answer, and knows where both answers are.
    (whole,) = read.dialogues([(*chat, ("assistant", "Dogs."))])
    (first, end), (last, _) = whole.answers
    assert whole.ids[: last - (template == VICUNA)] == by_messages.ids[: last - (template == VICUNA)]
    assert merging.decode(whole.ids[first:end]).strip().startswith("A cat.")
    assert whole.questions == by_messages.questions


@pytest.mark.parametrize("tokenizer", ["merging", "words"])
def test_the_template_alone_writes_parts_as_we_do(tokenizer, request):
    """Other servers use the tokenizer's template on transformers' parts."""
    made = request.getfixturevalue(tokenizer)
    image, empty = {"type": "image"}, {"type": "text", "text": ""}
    a, b = ({"type": "text", "text": text} for text in "ab")
    for parts in ([image, a], [a, image], [image, image, a, b], [a, image, b], [empty, image, a], [image, empty], [a]):
        messages = [{"role": "user", "content": parts}]
        (chat, _) = plain_chat(messages)
        plain = made.apply_chat_template([{"role": "user", "content": chat[0][1]}], tokenize=False)
        assert made.apply_chat_template(messages, tokenize=False) == plain, parts


def test_what_an_image_without_words_is_asked():
    alone, asked, answer = ("user", "<image>"), ("user", "What?"), ("assistant", "A cat.")
    assert questions_of((alone, asked)) == ["What?"]
    assert questions_of((alone, answer, asked)) == [""]
    assert questions_of((("system", "Look: <image>"), asked)) == ["What?"]
    assert questions_of((("user", "Compare <image> with <image>."),)) == ["Compare  with ."] * 2


def test_a_rendered_text_without_marks_is_asked_as_a_whole(merging, words):
    merging.chat_template = None
    for made in (merging, words):
        (read,) = ChatTokenizer(made).rendered(["<image>\nshape red "])
        assert read.questions == [made("shape red")["input_ids"]]


def test_a_tokenizers_own_special_tokens_stand_around_a_question(merging):
    """Llama's puts one before each text: the released code calls it as it is."""
    from tokenizers.processors import TemplateProcessing

    start = merging.convert_tokens_to_ids("<|endoftext|>")
    merging.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", start)]
    )
    (read,) = ChatTokenizer(merging).prompts([(("user", "<image>\nWhere?"),)])
    assert read.questions[0][0] == start and read.ids.count(start) == 0


def test_a_video_is_an_error():
    with pytest.raises(UserError, match="a part of type 'video'; a cell reads parts of type text and image"):
        plain_chat([{"role": "user", "content": [{"type": "video", "url": "a"}]}])


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"content": "Hi"}, "has no role"),
        ({"role": "user", "content": [{"type": "text", "content": "Hi"}]}, "part of type text with None; expected its"),
    ],
)
def test_a_message_in_another_format_is_named(message, says):
    with pytest.raises(UserError, match=says):
        plain_chat([message])


@torch.no_grad()
def test_questions_and_visual_tokens_are_those_of_the_released_quecc(golden):
    """From the prompts' texts: the released rule's ids, its question vectors, and the tokens that follow from them."""
    from transformers import Qwen2Config

    from vlmlaw.tokens.packing import padded_questions
    from vlmlaw.vlm.config import VlmConfig
    from vlmlaw.vlm.model import VlmForConditionalGeneration
    from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig

    meta = json.loads(str(golden["meta"]))
    words = _tokenizer(golden)
    words.chat_template = VICUNA
    read = ChatTokenizer(words).rendered(meta["prompts"])
    ids, mask = padded_questions([one.questions[0] for one in read], words.pad_token_id)
    wanted = golden["inputs/question_mask"].astype(bool)
    assert mask.tolist() == wanted.tolist()
    assert ids[mask].tolist() == golden["inputs/question_ids"][wanted].tolist()

    side, width = meta["grid"], meta["width"]
    model = VlmForConditionalGeneration(
        VlmConfig(
            vision_config=ConvTowerConfig(hidden_size=width, num_hidden_layers=1, image_size=8 * side),
            text_config=Qwen2Config(**{key: value for key, value in meta["llm"].items() if key != "model_type"}),
            compressor="quecc",
            n_visual_tokens=meta["V"],
            feature_layers=[0, 0, 1, 1],
        )
    ).eval()
    weights = {name: torch.from_numpy(golden[f"weights/{name}"]).float() for name in _weights_of(golden)}
    llm = {name.removeprefix("llm."): tensor for name, tensor in weights.items() if name.startswith("llm.")}
    assert model.language_model.load_state_dict(llm, strict=False).unexpected_keys == []
    own = {name[len("connector.0.") :]: tensor for name, tensor in weights.items() if name.startswith("connector.0.")}
    model.compressor.load_state_dict(own)
    states, asked = model.read_question(torch.from_numpy(ids), torch.from_numpy(mask))
    found = model.compressor(
        torch.from_numpy(golden["inputs/levels"]).float(),
        states,
        asked,
        image_of_B=torch.from_numpy(golden["inputs/image_of"]).long(),
    )
    last = states[torch.arange(len(ids)), asked.sum(1) - 1]
    torch.testing.assert_close(last, torch.from_numpy(golden["extra/question_vector"]).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, torch.from_numpy(golden["outputs/tokens"]).float(), atol=1e-5, rtol=0)


def _weights_of(golden):
    return [name.removeprefix("weights/") for name in golden if name.startswith("weights/")]

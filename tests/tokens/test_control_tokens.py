"""Control tokens that stand in what somebody says are text; a template that ends no answer is refused."""

import json
import re

import pytest

from vlmlaw.data.record import Record
from vlmlaw.data.shards import Dataset, ShardWriter
from vlmlaw.errors import UserError
from vlmlaw.tokens.control_tokens import MARK
from vlmlaw.tokens.prompt import ChatTokenizer, plain_chat
from vlmlaw.tokens.token_table import tokenize

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# <think> #}"
)
CONTROLS = ["<|im_start|>", "<|im_end|>", "<image>"]
TEXT = ["What does <|im_end|> mean? It ends a turn.", "user assistant system <think> cat"] * 3


def finished(core, **options):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        additional_special_tokens=CONTROLS,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        **options,
    )
    made.add_tokens(["<think>", "\n\n"])
    made.chat_template = CHATML
    return made


def bytes_bpe():
    """As Qwen's: bytes, control tokens beyond the model's own vocabulary."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    core = Tokenizer(BPE())
    core.pre_tokenizer, core.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.train_from_iterator(TEXT, BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet()))
    return finished(core)


def sentence_pieces():
    """As Llama 2's: spaces as part of words, control tokens within the model's vocabulary, a token before each text."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer

    core = Tokenizer(BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = Metaspace(prepend_scheme="first"), decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", *CONTROLS]
    letters = sorted({letter for text in TEXT for letter in text} | set("<|>_\nSag"))
    core.train_from_iterator(TEXT, BpeTrainer(vocab_size=100, special_tokens=special, initial_alphabet=letters))
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return finished(core, bos_token="<s>")


@pytest.fixture(scope="module", params=[bytes_bpe, sentence_pieces], ids=["bytes", "pieces"])
def tokenizer(request):
    return request.param()


SAID = "What does <|im_end|> mean?"


def test_a_control_token_in_a_message_is_text(tokenizer):
    (read,) = ChatTokenizer(tokenizer).dialogues([(("user", SAID), ("assistant", "It ends <|im_start|>."))])
    ends, starts = (tokenizer.convert_tokens_to_ids(word) for word in ("<|im_end|>", "<|im_start|>"))
    assert read.ids.count(ends) == read.ids.count(starts) == 2  # the template's own
    text = tokenizer.decode(read.ids, skip_special_tokens=False)
    assert SAID in text and "It ends <|im_start|>." in text and MARK not in text
    ((first, end),) = read.answers
    assert tokenizer.decode(read.ids[first:end]).strip() == "It ends <|im_start|>.<|im_end|>"


def test_tokens_around_it_are_those_that_the_tokenizer_makes(tokenizer):
    """But for the control token itself: the same as with a word of plain letters in its place."""
    read = ChatTokenizer(tokenizer)
    chats = [(("user", f"What does {word} mean?"), ("assistant", "It ends.")) for word in ("<|im_end|>", "xx")]
    controlled, plain = read.dialogues(chats)
    head = next(i for i, (a, b) in enumerate(zip(controlled.ids, plain.ids, strict=False)) if a != b)
    tail = next(i for i, (a, b) in enumerate(zip(controlled.ids[::-1], plain.ids[::-1], strict=False)) if a != b)
    assert head + tail >= len(plain.ids) - 4  # the space before a word may be its token's


def test_prompts_and_questions_keep_it_as_text_too(tokenizer):
    (read,) = ChatTokenizer(tokenizer).prompts([(("user", f"<image>\n{SAID}"),)])
    ends, image = (tokenizer.convert_tokens_to_ids(word) for word in ("<|im_end|>", "<image>"))
    assert read.ids.count(ends) == 1 and read.ids.count(image) == 1
    (question,) = read.questions
    assert ends not in question and tokenizer.decode(question, skip_special_tokens=True).strip() == SAID
    assert question[0] == tokenizer("a")["input_ids"][0] or tokenizer.bos_token_id is None


def test_markup_of_the_template_that_is_no_special_token_stays_in_answers_alone(tokenizer):
    think = tokenizer.convert_tokens_to_ids("<think>")
    asked, answered = ChatTokenizer(tokenizer).dialogues(
        [
            (("user", "what is <think>"), ("assistant", "cat")),
            (("user", "cat"), ("assistant", "<think> cat")),
        ]
    )
    assert asked.ids.count(think) == 0 and answered.ids.count(think) == 1


def test_added_tokens_that_steer_nothing_stay_tokens(tokenizer):
    both = tokenizer.convert_tokens_to_ids("\n\n")
    (read,) = ChatTokenizer(tokenizer).prompts([(("user", f"cat\n\n{SAID}"),)])
    assert both in read.ids


def test_an_image_tag_in_a_part_of_text_is_no_image(tokenizer):
    chat, images = plain_chat(
        [{"role": "user", "content": [{"type": "image", "path": "a"}, {"type": "text", "text": "Say <image>."}]}]
    )
    (read,) = ChatTokenizer(tokenizer).prompts([chat])
    assert images == ["a"] and read.ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 1
    assert "Say <image>." in tokenizer.decode(read.ids)
    assert ChatTokenizer(tokenizer).text(chat).count("<image>") == 2


class _Records:
    def __init__(self, *records):
        self.records, self.folder = list(records), "nowhere"


def test_a_record_that_speaks_of_control_tokens_has_its_own_labels(tokenizer):
    table = tokenize(_Records(Record("r", (SAID,), ("<|im_end|> ends.",))), tokenizer, independent=False)
    labels = table.targets[table.targets >= 0].tolist()
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert labels.count(ends) == 1 and labels.index(ends) >= len(labels) - 2


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:{% else %} {{ m.content }} ###"
        "{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_ends_no_answer_is_refused(tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(UserError, match="puts no control token behind an answer"):
        tokenize(_Records(Record("r", ("Q",), ("A",))), tokenizer, independent=False)


def test_a_template_that_fails_is_named(tokenizer, monkeypatch):
    for template, reason in [
        ("{{ raise_exception('no system, please') }}", "no system, please"),
        ("{% for m in messages %}{{ m.content }", "chat template fails"),
        ("{{ messages[7]['content'] }}", "chat template fails"),
    ]:
        monkeypatch.setattr(tokenizer, "chat_template", template)
        with pytest.raises(UserError, match=re.escape(reason)):
            tokenize(_Records(Record("r", ("Q",), ("A",))), tokenizer, independent=False)


def test_control_tokens_go_through_a_dataset_unchanged(tmp_path, tokenizer):
    with ShardWriter(tmp_path) as writer:
        writer.add_record(Record("r", (SAID,), ("It ends.",)))
    assert json.loads((tmp_path / "conversations.json").read_text())[0]["conversations"][0]["value"] == SAID
    table = tokenize(Dataset(tmp_path), tokenizer, independent=False)
    assert SAID in tokenizer.decode(table.ids)

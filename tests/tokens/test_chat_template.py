"""Chats through a template: filling in a rendered form gives what the template itself gives."""

import re

import pytest

from vlmlaw.data.shards import Record
from vlmlaw.errors import UserError
from vlmlaw.tokens.chat_template import PLAIN, Renderer
from vlmlaw.tokens.token_table import IGNORE_INDEX, tokenize

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMS = CHATML.replace("m.content", "m.content | trim")
HIDES_THOUGHTS = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
SAYS_TWICE = CHATML.replace("{{ m.content }}", "{{ m.content }} ({{ m.content }})")
KEEPS_LAST_THOUGHT = CHATML.replace(
    "{{ m.content }}", "{% if loop.last and not add_generation_prompt %}.{% endif %}{{ m.content }}"
)
SAID = (
    ("<image>\nWhat is it?", "A cat."),
    ("<image>\nWhat is it?", "A cat.", "Its color", "blue, I'd say"),
    ("mark0of2", "mark1of2 mark0of2"),
    (" padded ", "\nA cat.\n"),
    ("What?", "hm</think>A cat."),
    ("{{ 7 }}", "{% if %}"),
    ("Wie heißt das? 猫", "「猫」 😺"),
    ("", "A cat."),
)


def chat_of(*said):
    """What user and assistant say in turn, as messages."""
    return tuple((("user", "assistant")[index % 2], text) for index, text in enumerate(said))


CHATS = (*(chat_of(*said) for said in SAID), (("system", "Be brief."), *chat_of("What?", "A cat.")))


@pytest.fixture(scope="module")
def letters():
    """A byte-pair tokenizer with real merges over spaces and words, and special tokens of ChatML."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>", "<image>"]
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    text = ["What is the cat? A cat. The color is blue.", "You are helpful. user assistant system"] * 3
    core.train_from_iterator(
        text, BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=ByteLevel.alphabet())
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=special)
    made.chat_template = CHATML
    return made


@pytest.mark.parametrize("template", [CHATML, TRIMS, HIDES_THOUGHTS, SAYS_TWICE])
def test_every_chat_comes_out_as_from_the_template(letters, monkeypatch, template):
    monkeypatch.setattr(letters, "chat_template", template)
    render = Renderer(letters)
    for chat in CHATS:
        assert render(chat) == render.slow(chat), chat


def test_so_do_the_miniatures(words):
    render = Renderer(words)
    for chat in CHATS:
        assert render(chat) == render.slow(chat), chat
    text, [(start, end)] = render(chat_of("<image>\nletter c7", "Q"))
    assert (text[:start], text[start:end]) == ("<image>\nletter c7 ", "Q <end> ")


def test_answers_are_where_they_were_said(letters):
    text, spans = Renderer(letters)(CHATS[1])
    assert [text[start:end] for start, end in spans] == ["A cat.<|im_end|>\n", "blue, I'd say<|im_end|>\n"]


def test_the_template_runs_once_for_each_number_of_turns(letters, monkeypatch):
    calls = []
    apply = type(letters).apply_chat_template
    monkeypatch.setattr(
        type(letters), "apply_chat_template", lambda *args, **kwargs: calls.append(1) or apply(*args, **kwargs)
    )
    render = Renderer(letters)
    for index in range(50):
        render(chat_of(f"question {index}", f"answer {index}"))
    assert len(calls) == 3  # the chat, its prompt, its turn


def test_only_plain_text_is_filled_in():
    for said in ("a", "two words", "<image>\nWhat is it?", "<image>\n<image>\nBoth?", "line\nline", "Über 5 %"):
        assert PLAIN.fullmatch(said), said
    for said in ("", " a", "a ", "a  b", "<b>", "a\n\nb", "<image>", "{{a}}", "a|b"):
        assert not PLAIN.fullmatch(said), said


def test_a_template_that_rewrites_earlier_turns_is_an_error(letters, monkeypatch):
    monkeypatch.setattr(letters, "chat_template", KEEPS_LAST_THOUGHT)
    with pytest.raises(UserError, match="renders a turn differently once"):
        Renderer(letters)(CHATS[1])


class _Records:
    """A dataset of records without images."""

    def __init__(self, *records: Record):
        self.records, self.folder = records, "nowhere"


def test_a_dialogue_has_one_system_prompt_and_labels_on_what_the_assistant_says(letters):
    record = Record("r", ("What is the cat?", "The color is"), ("A cat.", "blue."))
    table = tokenize(_Records(record), letters, independent=False)
    text = letters.decode(table.ids)
    assert text.count("You are helpful.") == 1
    learned = letters.decode(table.targets[table.targets != IGNORE_INDEX])
    assert learned == "A cat.<|im_end|>\nblue.<|im_end|>\n"


def test_independent_questions_share_the_system_prompt(letters):
    record = Record("r", ("What is the cat?", "The color is"), ("A cat.", "blue."))
    table = tokenize(_Records(record), letters, independent=True)
    assert letters.decode(table.ids[table.segments == 0]).startswith("<|im_start|>system\nYou are helpful.<|im_end|>")
    for number, end in ((1, ""), (2, "\n")):  # that a turn ends is learned to its last token in one of them
        own = table.targets[(table.segments == number) & (table.targets != IGNORE_INDEX)]
        assert letters.decode(own) == record.answers[number - 1] + "<|im_end|>" + end


def test_a_token_across_the_answers_start_is_an_error(letters, monkeypatch):
    """A prompt that ends within a word that the tokenizer merges: what is learned would not be what is asked."""
    monkeypatch.setattr(letters, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match=re.escape("holds the end of a prompt and the start of its answer")):
        tokenize(_Records(Record("r", ("What is the c",), ("at.",))), letters, independent=True)

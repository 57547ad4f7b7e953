"""The tokenizer that a grid's pretrained models share, with a token for the image and a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.data.message_template import MESSAGE_CONTENT
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.hub.fetch import fetch_tokenizer_files
from vlmlaw.runtime.whole_files import refused_if_damaged, whole_folder
from vlmlaw.tokens.prompt import ChatTokenizer

if TYPE_CHECKING:
    from vlmlaw.hub.settings import ModelSettings, TokenizerSettings

# The template of Qwen and many others, without the system prompt that theirs may add, which would cost each question
# about twenty tokens, and without the rewriting of earlier turns in the templates of reasoning models.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n" + MESSAGE_CONTENT + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
SAMPLE = "What is 3 + 14? Größe, naïve, 你好.\n\tdef f(x): return x  # <image>"


def take_tokenizer(out: Path, *, settings: TokenizerSettings) -> None:
    """Write a pretrained model's tokenizer to `out`, with the image's token and the experiment's chat template."""
    tokenizer = _load(fetch_tokenizer_files(settings.model), settings.model)
    if IMAGE_PLACEHOLDER not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_PLACEHOLDER], special_tokens=True)
    tokenizer.chat_template = _template(settings.chat_template, tokenizer, source=settings.model.source)
    if settings.chat_template == "chatml":
        tokenizer.eos_token = CHATML_TOKENS[1]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ChatTokenizer(tokenizer).require_end()
    with whole_folder(out) as folder:
        tokenizer.save_pretrained(folder)
        _require_same_splitting(tokenizer, folder)


def require_same_tokens(folder: Path, shared: Path, *, settings: ModelSettings) -> None:
    """Raise UserError if the model in `folder` has another tokenizer than the one that the grid shares."""
    from vlmlaw.tokens.token_table import load_tokenizer

    # Each call of get_vocab makes a new dict of all words.
    own, common = _load(folder, settings).get_vocab(), load_tokenizer(shared).get_vocab()
    if own != {word: i for word, i in common.items() if word in own}:
        raise UserError(
            f"{settings.source} has another vocabulary than the grid's first size. The sizes of a grid must read the "
            "same tokens, or its law would compare different texts; make an experiment of each family."
        )


def _load(folder: Path, settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer

    with refused_if_damaged(folder, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{settings.source} has no fast tokenizer (tokenizer.json), which labels need; take another.")
    return tokenizer


def _template(name: str, tokenizer: Any, *, source: str) -> str:
    """Return the chat template's text. Raises UserError if it, or a token that it needs, is missing."""
    if name == "chatml":
        missing = [token for token in CHATML_TOKENS if token not in tokenizer.get_vocab()]
        if missing:
            raise UserError(
                f"{source} does not know {' and '.join(missing)}, which the template chatml consists of; use "
                "`chat_template: model` or a .jinja file."
            )
        return CHATML
    if name != "model":
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the chat template {name} cannot be read: {error}") from error
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"{source} has no chat template of its own; use `chat_template: chatml` or a .jinja file.")
    return tokenizer.chat_template


def _require_same_splitting(tokenizer: Any, folder: Path) -> None:
    """Raise UserError unless tokenizer.json, which alone the stages read, splits text as the model's own class does."""
    from vlmlaw.tokens.token_table import load_tokenizer

    ours = load_tokenizer(folder)
    found, wanted = (t(SAMPLE, add_special_tokens=False)["input_ids"] for t in (ours, tokenizer))
    if found != wanted:
        raise UserError(
            f"this tokenizer's class ({type(tokenizer).__name__}) splits text otherwise than its tokenizer.json; take "
            "a model whose tokenizer is wholly described by that file."
        )

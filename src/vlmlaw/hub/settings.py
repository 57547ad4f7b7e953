"""Settings of pretrained models and tokenizers that are fetched."""

from dataclasses import dataclass
from typing import ClassVar

from vlmlaw.settings import choice, number


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """A pretrained model, from the hub or a local folder.

    source: an id of the hub, or a folder
    revision: a branch, tag or commit of the hub
    dtype: of the model's arithmetic
    trust_remote_code: whether code that comes with the model may run
    """

    source: str
    revision: str = "main"
    dtype: str = choice("float32", "bfloat16", default="bfloat16")
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class TowerSettings(ModelSettings):
    """A pretrained vision tower. With `image_size` its position embeddings are interpolated to squares of that side."""

    LEAVES_OUT_NONE: ClassVar[bool] = True

    image_size: int | None = number(least=1, default=None)  # pixels; null: the tower's own


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """The tokenizer of a pretrained model, with `<image>` added where it has no such token."""

    model: ModelSettings
    chat_template: str

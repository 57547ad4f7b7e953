"""Turn messages or text, and images, into a VLM's inputs, with V tokens for each image.

Importing this module registers it with transformers' AutoProcessor. B texts, T tokens, Q question tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from vlmlaw.data.framing import square
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.tokens.packing import padded_questions
from vlmlaw.tokens.prompt import ChatTokenizer, TokenizedChat, plain_chat
from vlmlaw.vlm.auto_files import PROCESSOR_MAP, write_auto_module
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.generate import spread
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.image_source import picture
from vlmlaw.vlm.model import VlmForConditionalGeneration  # registers the model, too
from vlmlaw.vlm.towers.load import normalise

NOT_FOR_TEMPLATES = ("return_assistant_tokens_mask", "sanitize_control_tokens", "load_audio_from_video")
NOT_READ = ("videos", "audio", "audios")
TOKENIZER_OPTIONS = ("padding", "truncation", "max_length")  # inputs are padded on the left and never cut


class VlmProcessor(ProcessorMixin):
    """Processor that makes images the squares that the tower reads, and puts V tokens in the place of each `<image>`.

    >>> from PIL import Image
    >>> from vlmlaw.data.miniature.write import build_tokenizer
    >>> processor = VlmProcessor(build_tokenizer(), n_visual_tokens=4, image_px=32)
    >>> inputs = processor(text="<image> shape red", images=Image.new("RGB", (50, 40)))
    >>> inputs["input_ids"].shape, inputs["pixel_values"].shape
    (torch.Size([1, 6]), torch.Size([1, 3, 32, 32]))
    """

    def __init__(
        self,
        tokenizer: Any = None,
        chat_template: str | None = None,
        n_visual_tokens: int = 1,
        reads_question: bool = False,
        image_px: int = 224,
        image_fit: str = "stretch",
        pad_color: Sequence[int] = (0, 0, 0),
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
    ):
        super().__init__(tokenizer, chat_template=chat_template or getattr(tokenizer, "chat_template", None))
        self.n_visual_tokens = n_visual_tokens
        self.reads_question = reads_question
        self.image_px = image_px
        self.image_fit = image_fit
        self.pad_color = list(pad_color)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @classmethod
    def of_model(
        cls, model: VlmForConditionalGeneration, tokenizer: Any, *, n_visual_tokens: int | None = None
    ) -> VlmProcessor:
        """Return the processor of a model, or of calls of an elastic one at V = `n_visual_tokens`."""
        config = model.config
        return cls(
            tokenizer,
            n_visual_tokens=model.compressor.with_n_visual_tokens(n_visual_tokens).n_input_tokens,
            reads_question=model.compressor.needs_question,
            image_px=config.vision_config.image_size,
            image_fit=config.image_fit,
            pad_color=config.pad_color,
            image_mean=config.image_mean,
            image_std=config.image_std,
        )

    @cached_property
    def _read(self) -> ChatTokenizer:
        return ChatTokenizer(self.tokenizer)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """Return input_ids and attention_mask (B, T), padded on the left, and pixel_values (n, 3, H, W) of any images.

        `text` is one or several texts as the chat template makes them, `images` PIL images, paths, URLs or base64. For
        a compressor that reads the question there are also question_ids and question_mask (n, Q): the question about
        each image, found by the template's marks (see vlmlaw.tokens.prompt). Raises ValueError unless there is one
        image for each `<image>`, and for videos and sounds.
        """
        for name in NOT_READ:
            if options.get(name):
                raise ValueError(f"found {name}; a cell reads images and text")
        texts = [text] if isinstance(text, str) else list(text or [])
        return self._inputs(self._read.rendered(texts), _flat(images))

    def apply_chat_template(  # type: ignore[override]  # it adds arguments from version to version
        self, conversation: Any, chat_template: str | None = None, **options: Any
    ) -> Any:
        """Return messages, or several lists of them, as text or, with `tokenize=True`, as the model's inputs.

        It differs from transformers' own in two points: the text is that of the model's training in whichever form the
        messages come (see vlmlaw.tokens.prompt), and the question about an image is taken from the messages.
        """
        several = not isinstance(conversation[0], Mapping) if len(conversation) else False
        plain = [plain_chat(messages) for messages in (conversation if several else [conversation])]
        chats = [chat for chat, _ in plain]
        tokenize, in_dict = options.pop("tokenize", False), options.pop("return_dict", False)
        as_tensors = options.pop("return_tensors", "pt") is not None
        more = options.pop("processor_kwargs", None) or {}
        for name in NOT_FOR_TEMPLATES:
            if options.pop(name, None):
                raise ValueError(f"found {name}, which a cell's processor does not know; leave it out")
        options = {name: value for name, value in options.items() if name not in TOKENIZER_OPTIONS}
        if chat_template is not None:
            options["chat_template"] = chat_template
        if not tokenize:
            texts = [self._read.text(chat, **options) for chat in chats]
            return texts if several else texts[0]
        pictures = more.get("images") or [image for _, images in plain for image in images]
        inputs = self._inputs(self._read.prompts(chats, **{"add_generation_prompt": False} | options), _flat(pictures))
        if not as_tensors:
            inputs = BatchFeature({name: tensor.tolist() for name, tensor in inputs.items()})
        return inputs if in_dict else inputs["input_ids"]

    def _inputs(self, chats: Sequence[TokenizedChat], images: Sequence[Any]) -> BatchFeature:
        image_token_id = self.tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)
        n_places = sum(chat.ids.count(image_token_id) for chat in chats)
        if n_places != len(images):
            raise ValueError(
                f"found {len(images)} images for {n_places} {IMAGE_PLACEHOLDER} in the text; expected one for each"
            )
        seen = ImageInputs()
        if images:
            seen = ImageInputs(pixel_values=self.pixels([picture(image) for image in images]))
        if images and self.reads_question:
            asked, mask = padded_questions([asked for chat in chats for asked in chat.questions], self._pad_id)
            seen = seen.joined(ImageInputs(question_ids=torch.from_numpy(asked), question_mask=torch.from_numpy(mask)))
        ids = [spread(chat.ids, image_token_id, n_visual_tokens=self.n_visual_tokens) for chat in chats]
        # Separate entries, by the names that transformers' `generate` passes on.
        return BatchFeature({**self._padded(ids), **seen.tensors()})

    @property
    def _pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _padded(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask (B, T), padded on the left."""
        n_tokens = max(map(len, ids), default=0)
        padded = torch.full((len(ids), n_tokens), self._pad_id)
        mask = torch.zeros(padded.shape, dtype=torch.long)
        for row, own in enumerate(ids):
            padded[row, n_tokens - len(own) :], mask[row, n_tokens - len(own) :] = torch.tensor(own), 1
        return {"input_ids": padded, "attention_mask": mask}

    def to_dict(self) -> dict[str, Any]:
        """Return what transformers saves, with the `auto_map` by which others find this class."""
        return {**super().to_dict(), "auto_map": PROCESSOR_MAP}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **options: Any) -> Any:
        """Save as transformers does, with the module that `auto_map` names."""
        saved = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **options)
        write_auto_module(save_directory)
        return saved

    def pixels(self, pictures: Sequence[Any]) -> Tensor:
        """Return pixel_values (n, 3, H, W) of PIL images."""
        squares = [square(p, self.image_px, fit=self.image_fit, pad_color=self.pad_color) for p in pictures]
        return normalise(np.stack([np.asarray(p) for p in squares]), self.image_mean, self.image_std)


def _flat(images: Any) -> list[Any]:
    """Flatten one image, a list of images, or a list for each text to one list."""
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    return [image for item in images for image in _flat(item)]


AutoProcessor.register(VlmConfig, VlmProcessor, exist_ok=True)

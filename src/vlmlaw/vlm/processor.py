"""Text and images to a VLM's inputs, as transformers' AutoProcessor gives it: V image tokens for each image.

Importing this module makes it known to AutoProcessor. B texts, T tokens, Q question tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from vlmlaw.data.framing import square
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.image_inputs import ImageInputs
from vlmlaw.vlm.model import VlmForConditionalGeneration  # its import makes it known, too
from vlmlaw.vlm.towers.load import normalise


class VlmProcessor(ProcessorMixin):
    """Makes an image the square that the tower reads, and puts V tokens in the place of each `<image>`.

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
        """The processor that goes with a model, or with an elastic one's calls at V = `n_visual_tokens`."""
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

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        """input_ids and attention_mask (B, T), padded on the left; pixel_values (n, 3, H, W) where there are images.

        A compressor that reads the question also gets question_ids and question_mask (n, Q), the text without the
        image, as in training. Raises ValueError unless there is an image for each `<image>`.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        pictures = _flat(images)
        n_places = sum(one.count(IMAGE_PLACEHOLDER) for one in texts)
        if n_places != len(pictures):
            raise ValueError(
                f"found {len(pictures)} images for {n_places} {IMAGE_PLACEHOLDER} in the text; expected one for each"
            )
        repeated = IMAGE_PLACEHOLDER * self.n_visual_tokens
        spread = [one.replace(IMAGE_PLACEHOLDER, repeated) for one in texts]
        seen = ImageInputs(pixel_values=self.pixels(pictures)) if pictures else ImageInputs()
        if pictures and self.reads_question:
            if any(one.count(IMAGE_PLACEHOLDER) > 1 for one in texts):
                raise ValueError("a compressor that reads the question takes one image a text")
            asked = [one.replace(IMAGE_PLACEHOLDER, "") for one in texts if IMAGE_PLACEHOLDER in one]
            question = self._tokens(asked, side="right")
            mask = question["attention_mask"].bool()
            seen = seen.joined(ImageInputs(question_ids=question["input_ids"], question_mask=mask))
        # One by one, by the names that transformers' `generate` hands on.
        return BatchFeature({**self._tokens(spread, side="left"), **seen.tensors()})

    def pixels(self, pictures: Sequence[Any]) -> Tensor:
        """pixel_values (n, 3, H, W) of PIL images."""
        squares = [square(p, self.image_px, fit=self.image_fit, pad_color=self.pad_color) for p in pictures]
        return normalise(np.stack([np.asarray(p) for p in squares]), self.image_mean, self.image_std)

    def _tokens(self, texts: list[str], *, side: str) -> dict[str, Tensor]:
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        n_tokens = max((len(row) for row in ids), default=0)
        padded = torch.full((len(ids), n_tokens), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros(padded.shape, dtype=torch.long)
        for row, own in enumerate(ids):
            place = slice(n_tokens - len(own), None) if side == "left" else slice(0, len(own))
            padded[row, place], mask[row, place] = torch.tensor(own), 1
        return {"input_ids": padded, "attention_mask": mask}


def _flat(images: Any) -> list[Any]:
    """One image, a list of them, or a list for each text, as a list."""
    if images is None:
        return []
    if not isinstance(images, (list, tuple)):
        return [images]
    return [image for item in images for image in _flat(item)]


AutoProcessor.register(VlmConfig, VlmProcessor, exist_ok=True)

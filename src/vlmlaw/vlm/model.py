"""The vision-language model: vision tower, compressor to V visual tokens, projector, LLM.

The miniature and real checkpoints share this class; importing the module registers it with transformers' Auto classes.
B sequences, T tokens, P patches, K = levels * width, V visual tokens, C tower width, D LLM width.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from vlmlaw.compressors import Compressor, InsideLlm, build_compressor, compressor_class
from vlmlaw.compressors.base import AFTER, ATTENTION, EMBEDDING, PROJECTED, WHOLE_ATTENTION, patch_positions
from vlmlaw.tokens.token_table import IGNORE_INDEX
from vlmlaw.vlm import pruning
from vlmlaw.vlm.auto_files import write_auto_module
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.image_inputs import IMAGE_INPUTS, ImageInputs
from vlmlaw.vlm.loss import prediction_loss
from vlmlaw.vlm.own_forward import head_logits, own_logits, read
from vlmlaw.vlm.positions import spanned_positions
from vlmlaw.vlm.projector import PlaceEmbedding, Projector
from vlmlaw.vlm.towers import attention, features, load

NOT_FOR_FORWARD = ("tokenizer", "assistant_tokenizer")  # `generate` passes these on if it is given them


class VlmForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A model from images and text to text. The visual tokens of an image replace its V image tokens in the prompt.

    >>> from transformers import Qwen2Config
    >>> from vlmlaw.vlm.towers.conv_tower import ConvTowerConfig
    >>> shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> config = VlmConfig(
    ...     vision_config=ConvTowerConfig(hidden_size=8, num_hidden_layers=1, image_size=32),
    ...     text_config=Qwen2Config(vocab_size=10, num_key_value_heads=2, **shape),
    ...     compressor="m3", n_visual_tokens=16, feature_layers=[-1], image_token_id=1,
    ... )
    >>> model = VlmForConditionalGeneration(config).eval()
    >>> pixels, question = torch.zeros(1, 3, 32, 32), torch.tensor([[5, 6, 7]])
    >>> for v in (16, 4):
    ...     input_ids = torch.cat([torch.full((1, v), 1), question], dim=1)
    ...     model(input_ids, pixel_values=pixels, n_visual_tokens=v).logits.shape
    torch.Size([1, 19, 10])
    torch.Size([1, 7, 10])
    """

    config_class = VlmConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    trains_tower = False  # see `unfreeze_tower`

    def __init__(self, config: VlmConfig):
        super().__init__(config)
        vision_width = config.vision_config.hidden_size
        text_width = config.text_config.hidden_size
        side = features.grid_side(config.vision_config)
        tower_options = {"dtype": config.vision_dtype} if config.vision_dtype else {}
        self.vision_tower = AutoModel.from_config(config.vision_config, **tower_options)
        key_widths = attention.key_widths(config.vision_config)
        kind = compressor_class(config.compressor)
        key_options = kind.key_options(projected=text_width, **key_widths)
        after = kind.place_of(config.compressor_options) == AFTER
        self.compressor: Compressor = build_compressor(
            config.compressor,
            side,
            text_width if after else vision_width,
            config.n_visual_tokens,
            question_width=text_width,
            n_levels=1 if after else len(config.feature_layers),
            **key_options | config.compressor_options,
        )
        absent = self.compressor.is_connector
        in_width = vision_width if after else self.compressor.out_width
        self.projector = Projector(in_width, text_width, norm=config.projector_norm, absent=absent)
        self.places = PlaceEmbedding(side, text_width) if config.position_embedding else None
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module in set(self.projector.mlp):
            # Variance-preserving: the visual tokens start at the scale of their features, whatever the widths.
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif self.places is not None and module is self.places.table:
            nn.init.normal_(module.weight, std=self.config.text_config.initializer_range)

    @classmethod
    def assemble(
        cls, config: VlmConfig, vision_tower: PreTrainedModel, language_model: PreTrainedModel
    ) -> "VlmForConditionalGeneration":
        """Build the model of a loaded tower and LLM; the modules between them start untrained."""
        with torch.device("meta"):
            model = cls(config)
        model.vision_tower, model.language_model = vision_tower, language_model
        model.generation_config = language_model.generation_config
        for part in model.connector.values():
            part.to_empty(device="cpu")
        for part in model.projector.modules():
            model._init_weights(part)
        model.projector.reset_norm()
        if model.places is not None:
            model._init_weights(model.places.table)
        model.compressor.reset_parameters()
        return model

    @property
    def connector(self) -> dict[str, nn.Module]:
        """The modules between tower and LLM by name, which stage 1 trains."""
        parts = {"compressor": self.compressor, "projector": self.projector, "places": self.places}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def _a_connector_weight(self) -> Tensor:
        """Some weight of the connector: all of them have the same dtype and device."""
        return next(p for part in self.connector.values() for p in part.parameters())

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise all weights, and the compressor as a whole, because transformers visits its inner modules alone.

        The guard leaves alone the weights that a checkpoint has already filled.
        """
        super().initialize_weights()
        with guard_torch_init_functions():
            self.compressor.reset_parameters()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for a frozen tower, which then has neither dropout nor jittered positions.

        Batch normalization in a trained tower keeps its running statistics, as is usual in fine-tuning.
        """
        super().train(mode)
        self.vision_tower.train(mode and self.trains_tower)
        for part in self.vision_tower.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        return self

    def unfreeze_tower(self) -> None:
        """Have the tower trained: those of its weights on which the features that are read depend."""
        tower, image_px = self.vision_tower.eval().requires_grad_(True), self.config.vision_config.image_size
        weights = list(tower.parameters())
        with torch.enable_grad():
            pixels = torch.zeros(1, 3, image_px, image_px, dtype=tower.dtype, device=tower.device)
            patches = features.patch_features(tower, pixels, layers=self.config.feature_layers)
            gradients = torch.autograd.grad(patches.sum(), weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.requires_grad_(gradient is not None)
        self.trains_tower = True

    @property
    def dtype(self) -> torch.dtype:
        """The LLM's dtype; the tower may have another (`config.vision_dtype`)."""
        return self.language_model.dtype

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:  # type: ignore[override]
        """Save as transformers does, with the module that `auto_map` names."""
        super().save_pretrained(save_directory, **options)
        write_auto_module(save_directory)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @property
    def reads_question(self) -> bool:
        """Whether an image's tokens depend on the question, so that each question needs a sequence of its own."""
        return self.compressor.needs_question or self.compressor.inside_llm

    def visual_tokens(self, images: ImageInputs, *, n_visual_tokens: int | None = None) -> Tensor:
        """Return the visual tokens (B, V, D) that the LLM reads, made of patch features and perhaps the question.

        `n_visual_tokens` is V if it is not the configuration's. `importance` and `keys` are the tower's attention (see
        `encode_images`); for a tower without attention they are computed from its patches.
        """
        compressor, dtype = self.compressor.with_n_visual_tokens(n_visual_tokens), self._a_connector_weight.dtype
        if images.patches is None:
            raise ValueError("found no patches to make visual tokens of; give the tower's features (`encode_images`)")
        patches_BPK, image_of_B = images.patches.to(dtype), images.image_of
        question_BTD, question_mask_BT = None, images.question_mask
        if compressor.needs_question:
            if images.question_ids is None or question_mask_BT is None:
                raise ValueError(f"compressor {self.config.compressor} needs question_ids and question_mask")
            question_BTD, question_mask_BT = self.read_question(images.question_ids, question_mask_BT)
        if compressor.inside_llm:  # the LLM reads all patches
            visual_BVC = patches_BPK[..., -compressor.width :]
            visual_BVC = visual_BVC if image_of_B is None else visual_BVC[image_of_B]
            places_P2 = patch_positions(compressor.grid_side).to(visual_BVC.device)
            places_BV2: Tensor | None = places_P2.expand(len(visual_BVC), -1, -1)
        else:
            importance_BP, keys_BPH = self._patch_importance(images, patches_BPK)
            if compressor.place == AFTER:  # the projector reads every patch, of the deepest level
                patches_BPK = self.projector(patches_BPK[..., -self.config.vision_config.hidden_size :])
            visual_BVC, places_BV2 = compressor.forward_with_positions(
                patches_BPK,
                question_BTD,
                question_mask_BT,
                importance_BP=importance_BP,
                keys_BPH=keys_BPH,
                image_of_B=image_of_B,
                class_BK=images.class_token if images.class_token is None else images.class_token.to(dtype),
            )
        visual_BVD = visual_BVC if compressor.place == AFTER else self.projector(visual_BVC)
        if self.places is not None and places_BV2 is not None:
            visual_BVD = visual_BVD + self.places(places_BV2)
        return visual_BVD

    def _patch_importance(self, images: ImageInputs, patches_BPK: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return importance and keys for the compressor, computed from the patches if the tower has no attention."""
        compressor, has_attention = self.compressor, attention.has_attention(self.config.vision_config)
        patches_BPC, importance_BP = patches_BPK[..., -compressor.width :], images.importance
        if compressor.needs_importance and importance_BP is None:
            if has_attention:
                raise ValueError(
                    f"compressor {self.config.compressor} reads the tower's attention, which cached patches do not "
                    "hold; give pixel_values, or importance and keys beside patches"
                )
            importance_BP = attention.received_importance(patches_BPC.detach())
        if compressor.keys_from == PROJECTED:
            return importance_BP, self.projector(patches_BPC)
        return importance_BP, images.keys if images.keys is None else images.keys.to(patches_BPK.dtype)

    @torch.no_grad()
    def read_question(self, question_ids_BT: Tensor, question_mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the question alone, as embeddings or the LLM's last hidden states without a gradient, and its mask."""
        if self.compressor.question_from == EMBEDDING:
            return self.get_input_embeddings()(question_ids_BT), question_mask_BT
        outputs = read(self.language_model, input_ids=question_ids_BT, attention_mask=question_mask_BT, use_cache=False)
        return outputs.last_hidden_state, question_mask_BT

    def encode_images(self, pixel_values: Tensor, *, n_visual_tokens: int | None = None) -> ImageInputs:
        """Run the tower on normalised pixel_values (B, 3, H, W), or on bytes (B, H, W, 3).

        The result has `patches` (B, P, K), and `importance` and `keys` if the compressor needs the tower's attention.
        A compressor that shrinks images first gets V patches, where V is `n_visual_tokens` or else the model's.
        A trained tower gets its gradient through the patches, and none through importance and keys.
        """
        with torch.set_grad_enabled(self.trains_tower and torch.is_grad_enabled()):
            return self._encode(pixel_values, n_visual_tokens=n_visual_tokens)

    def _encode(self, pixel_values: Tensor, *, n_visual_tokens: int | None) -> ImageInputs:
        tower, layers = self.vision_tower, self.config.feature_layers
        compressor = self.compressor.with_n_visual_tokens(n_visual_tokens)
        if pixel_values.dtype == torch.uint8:
            pixel_values = load.normalise(pixel_values, self.config.image_mean, self.config.image_std)
        if compressor.tower_side != compressor.grid_side:
            side = compressor.tower_side * self.config.vision_config.patch_size
            pixel_values = load.downsampled(pixel_values, side, self.config.image_mean, self.config.image_std)
        pixel_values = pixel_values.to(tower.dtype)
        whole = compressor.keys_from == WHOLE_ATTENTION
        wanted = whole or compressor.needs_importance or compressor.keys_from == ATTENTION
        if compressor.inside_llm or not (wanted and attention.has_attention(self.config.vision_config)):
            return ImageInputs(patches=features.patch_features(tower, pixel_values, layers=layers))
        with attention.watched(tower, layer=layers[-1], whole=whole) as watch:
            patches, class_token = features.patch_and_class_features(tower, pixel_values, layers=layers)
        with torch.no_grad():
            importance, keys = watch.read(compressor.n_patches)
        class_token = class_token if compressor.reads_class_token else None
        return ImageInputs(patches=patches, importance=importance, keys=keys, class_token=class_token)

    def embed(
        self,
        input_ids: Tensor,
        images: ImageInputs,
        *,
        n_visual_tokens: int | None = None,
        image_places: Tensor | None = None,
    ) -> Tensor:
        """Return input embeddings (B, T, D): the text's, with visual tokens in the places of the image tokens.

        `image_places` are the flat indices of these places; without them they are searched for.
        """
        is_image_BT = input_ids == self.config.image_token_id
        # The image token may lie beyond the LLM's vocabulary; its embedding is replaced anyway.
        embeds_BTD = self.get_input_embeddings()(input_ids.masked_fill(is_image_BT, 0))
        if images.patches is None and images.pixel_values is not None and len(images.pixel_values):
            seen = self.encode_images(images.pixel_values, n_visual_tokens=n_visual_tokens)
            images = replace(images, pixel_values=None, **seen.tensors())
        n_images = images.n_sequences
        n_each = self.compressor.with_n_visual_tokens(n_visual_tokens).n_input_tokens
        n_places = int(is_image_BT.sum()) if image_places is None else len(image_places)
        if n_places != n_images * n_each:
            made = f"{n_images} images make {n_images * n_each} visual tokens ({n_each} each)"
            raise ValueError(
                f"the text has {n_places} image tokens, but {made if n_images else 'no image was given'}; "
                "repeat the image token once for each visual token of each image"
            )
        if images.patches is None or not n_images:
            # With frozen embeddings a text without images would have no gradient at all.
            needed = self.training and (_shares_work() or not embeds_BTD.requires_grad)
            return embeds_BTD + self._zero_contribution() if needed else embeds_BTD
        visual_BVD = self.visual_tokens(images, n_visual_tokens=n_visual_tokens)
        visual_BVD = visual_BVD.to(embeds_BTD.dtype)
        if image_places is None:
            return embeds_BTD.masked_scatter(is_image_BT[..., None], visual_BVD)
        return embeds_BTD.flatten(0, 1).index_copy(0, image_places, visual_BVD.flatten(0, 1)).view_as(embeds_BTD)

    def _embed_behind_cache(self, input_ids: Tensor | None, images: ImageInputs) -> Tensor:
        """Embed tokens behind a cached prompt, which holds all images. Raises ValueError for more images."""
        assert input_ids is not None
        # The tokens of a step that generates are not searched, because that would stall a GPU's queue.
        is_prompt = input_ids.shape[-1] > 1
        if images.n_sequences or (is_prompt and bool((input_ids == self.config.image_token_id).any())):
            raise ValueError(
                "found an image behind a key-value cache that already holds a prompt; give all images in the first "
                "call, or the whole prompt without the cache"
            )
        return self.get_input_embeddings()(input_ids)

    def _zero_contribution(self) -> Tensor:
        """A zero that depends on every weight before the LLM, so that all processes reduce the same gradients.

        Processes that train together exchange gradients at every pass, even if one of them has no image.
        """
        side, width = self.compressor.tower_side, self.config.vision_config.hidden_size
        device = self._a_connector_weight.device
        words = torch.zeros(1, 1, dtype=torch.long, device=device)
        key_width = attention.key_widths(self.config.vision_config).get(
            {ATTENTION: "attention", WHOLE_ATTENTION: "tower"}.get(self.compressor.keys_from, "")
        )
        patches = torch.zeros(1, side**2, width * len(self.config.feature_layers), device=device)
        seen = patches
        if self.trains_tower:
            image_px = side * self.config.vision_config.patch_size
            black = self.encode_images(torch.zeros(1, 3, image_px, image_px, device=device)).patches
            assert black is not None
            seen = patches + 0 * black
        images = ImageInputs(
            patches=seen,
            importance=patches[..., 0],
            keys=None if key_width is None else patches.new_zeros(1, side**2, key_width),
            class_token=patches[:, 0] if self.compressor.reads_class_token else None,
            question_ids=words,
            question_mask=torch.ones_like(words),
        )
        return 0 * self.visual_tokens(images).sum()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        patches: Tensor | None = None,
        question_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        image_of: Tensor | None = None,
        importance: Tensor | None = None,
        keys: Tensor | None = None,
        class_token: Tensor | None = None,
        n_visual_tokens: int | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        target_places: Tensor | None = None,
        image_places: Tensor | None = None,
        *,
        images: ImageInputs | None = None,
        by_own_forward: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the mean loss over labelled tokens. Nothing of a call is kept for later ones.

        The image's inputs come as `images`, or one by one, as transformers' `generate` hands them on (see
        `ImageInputs`). `n_visual_tokens` is V of this call, of an elastic model. `labels` are transformers' (same
        places as input_ids); `targets` (B, T) say which token each place should predict, so that one prefix can serve
        many questions. With either, logits are computed only where there is something to predict, (n, vocab). With
        `cu_seq_lens_q`, where documents begin and end, the one row is packed (see packed_attention.py).
        `target_places` (n,) and `image_places` are flat indices of targets and image tokens, where they are known.
        `by_own_forward`: the reference, the LLM's own forward on one row after the other, without their padding.
        """
        given = (pixel_values, patches, question_ids, question_mask, image_of, importance, keys, class_token)
        images = ImageInputs(*given).joined(images or ImageInputs())
        compressor = self.compressor.with_n_visual_tokens(n_visual_tokens)
        keeps = self.config.visual_span is not None and kwargs.get("use_cache", True)
        if (compressor.inside_llm or keeps) and past_key_values is None:
            past_key_values = DynamicCache(config=self.language_model.config)  # for what is kept with it
        if inputs_embeds is None and past_key_values is not None and past_key_values.get_seq_length() > 0:
            inputs_embeds = self._embed_behind_cache(input_ids, images)
        elif inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, images, n_visual_tokens=n_visual_tokens, image_places=image_places)
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        if self.config.visual_span is not None:
            position_ids, attention_mask = self._spanned(
                input_ids,
                position_ids,
                attention_mask,
                n_visual_tokens=compressor.n_input_tokens,
                cu_seq_lens=kwargs.get("cu_seq_lens_q"),
                cache=past_key_values,
            )
        if by_own_forward:
            assert targets is not None and attention_mask is not None and attention_mask.ndim == 2
            positions = position_ids if self.config.visual_span is not None else None
            lengths = attention_mask.sum(dim=1).tolist()
            return self._reference(inputs_embeds, targets, lengths=lengths, positions_BT=positions)
        outputs = self._read(
            inputs_embeds,
            self._pruning(compressor, input_ids, targets, attention_mask, past_key_values),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return self._predicted(outputs, targets, logits_to_keep, target_places=target_places)

    def _spanned(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        *,
        n_visual_tokens: int,
        cu_seq_lens: Tensor | None,
        cache: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return positions in which an image's tokens share a span, and a mask with which transformers accepts them.

        Raises ValueError without `input_ids`, which show where the image is.
        """
        is_cached = cache is not None and cache.get_seq_length() > 0
        if input_ids is None:
            raise ValueError("a model with a visual_span must see which tokens are an image's; give input_ids")
        position_ids = spanned_positions(
            position_ids,
            input_ids == self.config.image_token_id,
            span=self.config.visual_span,
            n_visual_tokens=n_visual_tokens,
            attention_mask=attention_mask,
            cu_seq_lens=cu_seq_lens,
            cache=cache,
        )
        if attention_mask is None and cu_seq_lens is None and not is_cached:
            # Without a mask transformers would take positions that do not rise by one for packed documents.
            attention_mask = torch.ones_like(position_ids, dtype=torch.long)
        return position_ids, attention_mask

    def _read(
        self,
        embeds_BTD: Tensor,
        pruning_of_call: AbstractContextManager[None] | None,
        **kwargs: Any,
    ) -> Any:
        """Run the LLM in the layout of this call, with eager attention if it prunes, and return its outputs."""
        if kwargs.get("cu_seq_lens_q") is not None:
            parts = self.language_model.modules() if self.training else ()
            if any(getattr(part, "gradient_checkpointing", False) for part in parts):
                raise ValueError(
                    "found transformers' gradient checkpointing with a packed row (cu_seq_lens_q), whose layers would "
                    "be recomputed with other attention; recompute by `vlmlaw.training.sharding`, or give padded rows"
                )
        with pruning_of_call or nullcontext():
            return read(self.language_model, inputs_embeds=embeds_BTD, eager=pruning_of_call is not None, **kwargs)

    def _predicted(
        self,
        outputs: Any,
        targets: Tensor | None,
        logits_to_keep: int | Tensor,
        *,
        target_places: Tensor | None,
    ) -> CausalLMOutputWithPast:
        """Return logits and loss at the targets or, without targets, logits at the places to keep."""
        hidden_BTD, llm = outputs.last_hidden_state, self.language_model
        if targets is None:
            # As in transformers: the last so many (0: all), or those at these places.
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            kept_BTD = hidden_BTD[:, keep]
            logits = head_logits(llm, kept_BTD.flatten(0, 1)).unflatten(0, kept_BTD.shape[:2])
            return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)
        if target_places is None:
            target_places = (targets.flatten() != IGNORE_INDEX).nonzero()[:, 0]
        hidden_nD, targets_n = hidden_BTD.flatten(0, 1)[target_places], targets.flatten()[target_places]
        loss, logits = prediction_loss(llm, hidden_nD, targets_n)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def _reference(
        self, embeds_BTD: Tensor, targets_BT: Tensor, *, lengths: list[int], positions_BT: Tensor | None
    ) -> CausalLMOutputWithPast:
        """Return loss and logits at the targets by the LLM's own forward, one row at a time."""
        logits, targets = [], []
        for row, (goal_T, length) in enumerate(zip(targets_BT, lengths, strict=True)):
            wanted_T = goal_T[:length] != IGNORE_INDEX
            positions_T = None if positions_BT is None else positions_BT[row, :length]
            own = own_logits(self.language_model, embeds_BTD[row, :length], positions_T=positions_T)
            logits.append(own[wanted_T])
            targets.append(goal_T[:length][wanted_T])
        logits_nV, targets_n = torch.cat(logits), torch.cat(targets)
        return CausalLMOutputWithPast(loss=F.cross_entropy(logits_nV.float(), targets_n), logits=logits_nV)

    def _pruning(
        self, compressor: Compressor, input_ids: Tensor | None, targets: Tensor | None, mask: Any, cache: Any
    ) -> AbstractContextManager[None] | None:
        """Return the context in which the LLM drops image tokens; None if this call drops none."""
        if not isinstance(compressor, InsideLlm):
            return None
        if compressor.n_visual_tokens == compressor.n_patches and not pruning.is_pruned(cache):
            return None
        if input_ids is None:
            raise ValueError(
                f"compressor {compressor.name} must see which tokens are an image's; give input_ids, not embeddings"
            )
        is_image_BT = input_ids == self.config.image_token_id
        if not (pruning.is_pruned(cache) or bool(is_image_BT.any())):
            return None  # texts alone: there is nothing to drop
        if int(is_image_BT.sum(dim=1).max()) > compressor.n_patches:
            raise ValueError(
                f"compressor {compressor.name} keeps {compressor.n_visual_tokens} tokens of one image; found a text "
                "with several; give one image a text, or take another compressor"
            )
        return pruning.pruned(
            self.language_model,
            compressor,
            is_image_BT=is_image_BT,
            asking_B=pruning.asking_places(targets, mask, input_ids.shape, input_ids.device),
            cache=cache,
        )

    # transformers adds arguments to this method from version to version.
    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Any, past_key_values: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the image inputs to the first step only; later steps read them from the cache."""
        parent: Any = super()
        inputs = parent.prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)
        for name in NOT_FOR_FORWARD:
            inputs.pop(name, None)
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            for name in ("images", *IMAGE_INPUTS):
                inputs.pop(name, None)
        return inputs


def _shares_work() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


AutoModelForImageTextToText.register(VlmConfig, VlmForConditionalGeneration, exist_ok=True)
# `transformers serve` and pipelines look up in these tables whether a model reads images.
for _names in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES):
    _names.setdefault(VlmConfig.model_type, VlmForConditionalGeneration.__name__)
AutoModelForMultimodalLM.register(VlmConfig, VlmForConditionalGeneration, exist_ok=True)

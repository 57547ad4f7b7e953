"""Make a cell of released weights: checkpoints in the layouts of LLaVA-1.5, TokenPacker and QueCC.

Such a checkpoint is a language model's, with the connector's weights as `model.mm_projector.*` beside it, and its
config.json names the tower. The released projector has no LayerNorm before it, and patches have no place embedding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from vlmlaw.compressors import ALL_PATCHES, split_published
from vlmlaw.data.framing import CLIP_GREY, CLIP_MEAN, CLIP_STD
from vlmlaw.data.shards import IMAGE_PLACEHOLDER
from vlmlaw.errors import UserError
from vlmlaw.hub.pins import open_model
from vlmlaw.runtime.whole_files import refused_if_damaged, whole_folder
from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.model import VlmForConditionalGeneration
from vlmlaw.vlm.processor import VlmProcessor
from vlmlaw.vlm.towers.features import grid_side
from vlmlaw.vlm.towers.load import load_tower

CONNECTOR, TOWER = "model.mm_projector.", "model.vision_tower."
LLM_OF = {"llava": "llama", "llava_llama": "llama", "llava_qwen": "qwen2", "llava_qwen2": "qwen2"}
SINGLE_LEVEL, FOUR_LEVELS = [-2], [12, 16, 22, 23]  # of CLIP ViT-L/14, as LLaVA-1.5 and as TokenPacker and QueCC read


@dataclass(frozen=True)
class Layout:
    """The layout of a checkpoint's connector: its compressor, and the prefixes of its weights and the projector's."""

    compressor: str
    own: str
    projector: dict[str, str]  # prefixes of its two linear maps, and of the same maps in our projector
    levels: list[int]


LAYOUTS = {
    "q_proj_1.weight": Layout("tokenpacker", "", {"mlp.0.": "0.", "mlp.2.": "2."}, FOUR_LEVELS),
    "0.q_downsample.weight": Layout("quecc", "0.", {"1.": "0.", "3.": "2."}, FOUR_LEVELS),
    "0.weight": Layout(ALL_PATCHES, "", {"0.": "0.", "2.": "2."}, SINGLE_LEVEL),
}


def import_checkpoint(
    folder: Path,
    tower: Path,
    out: Path,
    *,
    chat_template: str = "",
    n_visual_tokens: int | None = None,
    feature_layers: list[int] | None = None,
) -> VlmForConditionalGeneration:
    """Write the released weights in `folder` with the tower in `tower` as the cell `out`/model, and return its model.

    V is that of the weights (LLaVA-1.5, QueCC), else `n_visual_tokens` or that of config.json's `scale_factor`
    (TokenPacker). Raises UserError if the folder has no known layout, if weights are missing, unknown or of another
    shape, or if they cannot make `n_visual_tokens`.
    """
    config, weights = _read_config(folder), _read_weights(folder)
    connector = {k.removeprefix(CONNECTOR): w for k, w in weights.items() if k.startswith(CONNECTOR)}
    layout = _layout_of(folder, connector)
    vision = load_tower(open_model(tower))
    llm = _language_model(folder, config, weights)
    words, template = _tokenizer(folder, chat_template)
    vlm_config = VlmConfig(
        vision_config=vision.config,
        text_config=llm.config,
        compressor=layout.compressor,
        n_visual_tokens=_visual_tokens(
            folder, config, connector, layout, side=grid_side(vision.config), wanted=n_visual_tokens
        ),
        feature_layers=feature_layers or layout.levels,
        position_embedding=False,
        projector_norm=False,
        image_token_id=words.convert_tokens_to_ids(IMAGE_PLACEHOLDER),
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
        image_fit="pad",
        pad_color=list(CLIP_GREY),
        vision_dtype=str(vision.dtype).removeprefix("torch."),
    )
    model = VlmForConditionalGeneration.assemble(vlm_config, vision, llm)
    _load_connector(model, connector, layout, folder)
    model.to(llm.dtype)
    model.vision_tower.to(vision.dtype)
    words.chat_template = template
    with whole_folder(out / "model") as partial:
        model.save_pretrained(partial)
        VlmProcessor.of_model(model, words).save_pretrained(partial)
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}/config.json cannot be read ({error}); give the folder of a checkpoint.") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of the folder's safetensors files, or of its .bin files, which are read as weights only."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder} has neither *.safetensors nor pytorch_model*.bin; give the folder of a checkpoint.")
    weights: dict[str, Tensor] = {}
    for file in files:
        is_safe = file.suffix == ".safetensors"
        weights |= load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _layout_of(folder: Path, connector: Mapping[str, Tensor]) -> Layout:
    for sign, layout in LAYOUTS.items():
        if sign in connector:
            return layout
    found = ", ".join(sorted(connector)[:4]) or "none"
    raise UserError(
        f"{folder}: its connector ({CONNECTOR}*: {found}) is of no layout that is known: LLaVA-1.5's two-layer "
        "projector, TokenPacker, QueCC."
    )


def _language_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Load the language model from the weights beside the connector, in their dtype."""
    kind = LLM_OF.get(config.get("model_type", ""), config.get("model_type", ""))
    own = {key: value for key, value in config.items() if not key.startswith("mm_") and key != "model_type"}
    try:
        text_config = AutoConfig.for_model(kind, **own)
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder}: model_type {kind!r} is no language model that transformers knows.") from error
    of_llm = {k: w for k, w in weights.items() if not k.startswith((CONNECTOR, TOWER)) and not k.endswith("inv_freq")}
    dtype = of_llm[next(iter(of_llm))].dtype if of_llm else torch.float32
    llm = AutoModelForCausalLM.from_config(text_config, dtype=dtype)
    try:
        missing, unknown = llm.load_state_dict(of_llm, strict=False)
    except RuntimeError as error:  # of another shape
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{folder}: weights of the language model do not fit its config.json: {reason} Put the config.json there "
            "that belongs to the weights."
        ) from error
    missing = [key for key in missing if not (key == "lm_head.weight" and text_config.tie_word_embeddings)]
    if missing or unknown:
        raise UserError(
            f"{folder}: weights of the language model do not fit its config.json; missing {missing[:3]}, unknown "
            f"{unknown[:3]}. Download the checkpoint again, whole."
        )
    return llm


def _tokenizer(folder: Path, chat_template: str) -> tuple[Any, str]:
    with refused_if_damaged(folder, "a tokenizer"):
        words = AutoTokenizer.from_pretrained(folder)
    if IMAGE_PLACEHOLDER not in words.get_vocab():
        words.add_tokens([IMAGE_PLACEHOLDER], special_tokens=True)
    if words.pad_token is None:
        words.pad_token = words.eos_token
    template = Path(chat_template).read_text(encoding="utf-8") if chat_template else words.chat_template
    if not isinstance(template, str):
        raise UserError(
            f"{folder}: its tokenizer has no chat template; give one, such as workflow/experiments/vicuna.jinja."
        )
    return words, template


def _visual_tokens(
    folder: Path,
    config: Mapping[str, Any],
    connector: Mapping[str, Tensor],
    layout: Layout,
    *,
    side: int,
    wanted: int | None,
) -> int:
    """Return V. Raises UserError if another one is wanted than the only one that the weights can make."""
    if layout.compressor not in ("quecc", ALL_PATCHES):
        factor = config.get("scale_factor", 2)  # the released models' config.json may leave its default out
        return wanted or math.floor(side / factor) ** 2
    of_cell = connector["0.q_downsample.weight"].shape[-1] if layout.compressor == "quecc" else 1
    found: int = (side // of_cell) ** 2
    if wanted not in (None, found):
        raise UserError(
            f"{folder}: its connector, {layout.compressor}, makes {found} visual tokens of this tower's {side**2} "
            f"patches, and {wanted} were asked for; leave --visual-tokens out."
        )
    return found


def _load_connector(
    model: VlmForConditionalGeneration, connector: Mapping[str, Tensor], layout: Layout, folder: Path
) -> None:
    renamed = {
        ours + key.removeprefix(theirs): weight
        for theirs, ours in layout.projector.items()
        for key, weight in connector.items()
        if key.startswith(theirs)
    }
    of_projector = tuple(layout.projector)
    rest = {key: weight for key, weight in connector.items() if not key.startswith(of_projector)}
    own, _ = split_published(model.compressor, rest, prefix=layout.own)
    model.compressor.load_state_dict(own)
    expected = {key: tuple(weight.shape) for key, weight in model.projector.mlp.state_dict().items()}
    found = {key: tuple(weight.shape) for key, weight in renamed.items()}
    if found != expected:
        raise UserError(f"{folder}: the projector's weights are {found}; expected {expected}.")
    model.projector.mlp.load_state_dict(renamed)

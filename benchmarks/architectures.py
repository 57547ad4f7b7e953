"""Which causal language models of transformers are read exactly, and in which layout: docs/architectures.md.

Every architecture of AutoModelForCausalLM is built tiny, with windows of three tokens where it has windows, and each
layout is held against the class's own forward (`vlmlaw.vlm.reference`). After an update of transformers:

    python benchmarks/architectures.py --write
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import __version__ as version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from vlmlaw.vlm.reference import differences

PAGE = Path(__file__).parents[1] / "docs/architectures.md"
EXACT = 1e-3  # of the logits' standard deviation, in float32
MOST_PARAMETERS = 5_000_000  # beyond, a model is not tiny
N_LAYERS = 4
VERDICTS = ("packed", "padded", "refused", "not built")
HEAD = """# Language models that are read exactly

Each architecture of transformers' `AutoModelForCausalLM`, built tiny (four layers, a window of three tokens where it
has windows), held against its class's own forward, eager, one document at a time, on the same embeddings. Written by
`python benchmarks/architectures.py --write` with transformers {version}: {packed} are packed, {padded} padded,
{refused} refused before a training, {not_built} not built this small, which says nothing about them.

*packed*: dialogues stand one behind the other in one row. *padded*: a row each, since packed rows are not exact.
*prefix*: whether questions about one image share its row. A training makes the same comparison on the model at hand and
then on a few records of its first step, so a model that is not in the table is safe, too.

| architecture | dialogues | prefix | why not packed |
|---|---|---|---|
"""


def _all(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


# Options that make a model small, under all names that configurations give them.
TINY: dict[str, Any] = {
    **_all(32, "hidden_size n_embd d_model dim n_embed embedding_size emb_dim embedding_dim word_embed_proj_dim"),
    **_all(32, "mamba_d_ssm q_lora_rank lru_width attention_hidden_size input_embedding_size output_embedding_size"),
    **_all(48, "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim dim_ff dff ffn_hidden_size d_inner"),
    **_all(48, "intermediate_size_mlp dense_intermediate_size shared_intermediate_size feed_forward_size"),
    **_all(16, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size kv_lora_rank d_rel"),
    **_all(16, "moe_shared_expert_intermediate_size mamba_dt_rank time_step_rank router_hidden_size o_lora_rank"),
    **_all(N_LAYERS, "num_hidden_layers n_layer n_layers num_layers num_decoder_layers decoder_layers num_blocks"),
    **_all(2, "encoder_layers num_encoder_layers num_layers_per_stack"),
    **_all(4, "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads"),
    **_all(4, "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads index_n_heads"),
    **_all(4, "linear_num_heads linear_num_value_heads swa_num_attention_heads"),
    **_all(2, "num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads num_query_groups"),
    **_all(
        8, "head_dim v_head_dim qk_nope_head_dim index_head_dim linear_head_dim linear_key_head_dim d_head dim_head"
    ),
    **_all(8, "linear_value_head_dim attention_head_size rotary_dim kv_channels swa_head_dim attention_head_dim"),
    **_all(8, "mamba_d_state ssm_state_size state_size hidden_size_per_layer_input laurel_rank"),
    **_all(4, "qk_rope_head_dim num_experts num_local_experts n_routed_experts moe_num_experts num_buckets"),
    **_all(2, "num_experts_per_tok moe_k moe_topk num_experts_per_token zero_expert_num"),
    **_all(16, "index_topk block_size local_attn_chunk_length lsh_attn_chunk_length window_size local_attention"),
    **_all(3, "sliding_window sliding_window_size attention_chunk_size attention_window_size"),
    **_all(64, "vocab_size vocab_size_per_layer_input decoder_vocab_size encoder_hash_byte_group_vocab"),
    **_all(64, "max_position_embeddings n_positions max_seq_len n_ctx unpadded_vocab_size"),
    **_all(1, "first_k_dense_replace num_nextn_predict_layers n_group topk_group num_kv_shared_layers mamba_n_groups"),
    "use_sliding_window": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "init_std": 0.2,
    "is_decoder": True,
}
# What a configuration needs beside: widths that must agree with others.
LATENT = {"head_dim": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "qk_head_dim": 12, "num_key_value_heads": 4}
MAMBA = {"mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
MORE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32"), LATENT),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "hy_v4", "kimi_linear", "longcat_flash"), LATENT),
    **dict.fromkeys(("minicpm3", "youtu", "dots3_note_text"), LATENT),
    **dict.fromkeys(("bamba", "granitemoehybrid"), MAMBA),
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "mamba2": {"expand": 2, "num_heads": 8, "head_dim": 8, "chunk_size": 8, "n_groups": 1},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "chunk_size": 8, "n_groups": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 3},
    "cpmant": {"position_bias_num_buckets": 32},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0}, "ffn_config": {"ffn_hidden_size": 48}},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "zamba2": {"mamba_headdim": 16, "n_mamba_heads": 4, "chunk_size": 8},
}


@dataclass(frozen=True)
class Row:
    """One architecture: a logit's largest difference in each layout, or why there is none; or why it is not built."""

    name: str
    found: dict[str, float | str]
    why_not: str = ""

    @property
    def exact(self) -> list[str]:
        """The layouts that give the logits of the class's own forward."""
        return [name for name, found in self.found.items() if isinstance(found, float) and found < EXACT]

    @property
    def verdict(self) -> str:
        """How a training reads it: `packed`, `padded`, `refused`; `not built` where it is not tried."""
        if self.why_not:
            return "not built"
        if "padded" not in self.exact or "generated" not in self.exact:
            return "refused"
        return "packed" if "packed" in self.exact else "padded"

    @property
    def reason(self) -> str:
        """Why it is not packed."""
        if self.why_not or self.verdict == "packed":
            return self.why_not
        wrong = [name for name in ("packed", "padded", "generated") if name not in self.exact]
        name = wrong[-1] if self.verdict == "refused" else wrong[0]
        found = self.found[name]
        return f"{name}: {found if isinstance(found, str) else 'logits are not those of its own forward'}"

    @property
    def line(self) -> str:
        """Its row of the page."""
        shares = "yes" if "shared" in self.exact else "-" if self.why_not else "a row each"
        return f"| {self.name} | {self.verdict} | {shares} | {self.reason.replace('|', '/')[:140]} |"


def tiny_config(name: str) -> PreTrainedConfig:
    """The configuration of an architecture, small; layers of every kind that it has take turns."""
    kind = CONFIG_MAPPING[name]
    plain = kind()
    given = {
        key: value for key, value in TINY.items() if key in vars(plain) or key in getattr(kind, "attribute_map", ())
    }
    types = list(dict.fromkeys(vars(plain).get("layer_types") or ()))
    if types:
        given["layer_types"] = list(itertools.islice(itertools.cycle(types), N_LAYERS))
    return kind(**given | MORE.get(name, {}))


def tiny_model(name: str) -> PreTrainedModel:
    """The model of an architecture, small, with random weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(tiny_config(name)).parameters())
    if n_parameters > MOST_PARAMETERS:
        raise ValueError(f"is not tiny: {n_parameters / 1e6:.0f} million parameters")
    return AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32).eval()


def examine(name: str) -> Row:
    """Build an architecture and compare its layouts."""
    try:
        model = tiny_model(name)
        return Row(name, differences(model))
    except Exception as error:  # whatever one of 190 classes raises
        return Row(name, {}, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")


def page(rows: Iterable[Row]) -> str:
    """The page of the docs."""
    lines = [row.line for row in rows]
    counts = Counter(line.split(" | ")[1] for line in lines)
    return HEAD.format(version=version, **{name.replace(" ", "_"): counts[name] for name in VERDICTS}) + "\n".join(
        [*lines, ""]
    )


def main() -> None:
    """Examine all architectures, or those that are named; write or print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true", help="write docs/architectures.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    text = page(map(examine, args.names or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    if args.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()

"""Names of columns: what each role may be called, and which names are benchmarks, losses or no scores at all."""

import re

# canonical name -> accepted names, in lower case without signs; the first is this project's own and wins over others
ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": (
        *("n_params", "params_b", "params", "parameters", "size_b", "params_m", "model_size", "size", "llm_size"),
        *("num_params", "parameter_count", "n_parameters", "n_b"),
    ),
    "n_visual_tokens": (
        *(
            "n_visual_tokens",
            "visual_tokens",
            "v",
            "image_tokens",
            "num_visual_tokens",
            "vision_tokens",
            "visual_token",
        ),
        *("visual_tokens_per_image", "tokens_per_image", "tokens_image", "tokens_img", "n_tokens_visual", "vt", "n_v"),
    ),
    "error": ("error", "err", "error_rate", "mean_error", "doubt", "brier", "brier_score"),
    "score": ("score", "accuracy", "acc", "mean_score", "precision", "exact_match", "em", "f1", "top1", "top_1"),
    "error_se": ("error_se", "se", "stderr", "std_err", "score_se", "standard_error"),
    "suite": ("suite", "task", "dataset", "benchmark"),
    "kind": ("kind", "category", "doc_length", "question_type", "subset", "subtask"),
    "compressor": ("compressor", "method"),
    "seed": ("seed", "replicate", "run"),
    "cell": ("cell",),
    "held_out": ("held_out", "heldout", "hold_out"),
    "n_questions": ("n_questions", "num_questions", "questions", "n_samples"),
    "training": ("training", "checkpoint"),
    "note": ("note", "notes", "comment", "comments", "remark", "remarks"),
}
# Names like those above, with a unit, an average or what is counted.
_LIKE = {
    "n_params": re.compile(
        r"(n_|num_|number_of_|total_|active_|activated_)?(llm_|lm_|model_|language_model_|backbone_|base_)?"
        r"(params?|parameters|size)(_count|_total|_active|_activated)?(_[bm])?"
        r"(_(non|without|excl|excluding|no|wo)_?(emb|embed|embeddings?))?(_[bm])?"
    ),
    "n_visual_tokens": re.compile(
        r"(n_|num_|number_of_|no_of_|avg_|average_|mean_)*(visual|vision|vis|image|img)_(tokens?|toks?)(_count|_number"
        r"|_num|_per_(image|img|picture)|_v|_avg)?|(n_|num_|number_of_|no_of_|avg_|average_|mean_)*(tokens?|toks?)_(per_)?"
        r"(image|img|picture)"
    ),
    "score": re.compile(
        r"(mean|avg|average|overall)_(score|acc|accuracy)|(acc|accuracy|score)_(mean|avg|1)|eval_(score|acc|accuracy)"
    ),
    "error": re.compile(
        r"((mean|avg|average|overall|norm|normalized)_)?(cer|wer|ned|edit_dist(ance)?|err(or)?(_rate)?)(_(mean|avg))?"
    ),
}
# Names that stand for a role only where no better one does, if their values fit it.
WEAK = {
    "n_params": ("n",),
    "n_visual_tokens": (
        *("tokens", "t", "m", "n_tokens", "num_tokens", "token", "number_of_tokens", "avg_tokens", "tok", "toks"),
        *("retained_tokens", "tokens_retained", "kept_tokens", "tokens_kept", "remaining_tokens", "tokens_left"),
    ),
    "score": ("value", "values", "result", "results", "performance", "perf", "points"),
}
WHAT = {"n_params": "size in parameters", "n_visual_tokens": "number of visual tokens"}
_RESOLUTION = "a resolution: an encoder with patches of 14 makes (resolution / 14)^2 tokens"
_RATIO = "a share: multiply it by the tokens of the encoder (576 for CLIP-L/336)"
_REMOVED = "a share that is taken away: V is what is left of the encoder's tokens (576 for CLIP-L/336)"
_KEPT = ("keep_ratio", "ratio", "retention", "retention_ratio", "retain_ratio", "keep_rate", "keep", "kept", "retained")
PRUNED = ("pruning_ratio", "pruning_rate", "prune_ratio", "pruned", "reduction", "reduction_ratio", "token_reduction")
_FACTOR = "a factor: V is the encoder's tokens (576 for CLIP-L/336) divided by it"
_FACTORS = ("compression", "compression_ratio", "compression_rate", "compression_factor", "downsampling", "pooling")
NO_TOKENS = {
    **dict.fromkeys(_FACTORS, _FACTOR),
    **dict.fromkeys(("frames", "num_frames", "n_frames"), "frames of a video: multiply them by the tokens of a frame"),
    **dict.fromkeys(("res", "resolution", "image_size", "image_resolution", "input_size", "input_res"), _RESOLUTION),
    **dict.fromkeys((*_KEPT, "tokens_kept", "tokens_retained", "token_retention"), _RATIO),
    **dict.fromkeys(PRUNED, _REMOVED),
}
MOST_TOKENS_PER_IMAGE = 1e5
_LOSSES = re.compile(r"(?:^|_)(loss|nll|perplexity|ppl|cross_entropy|bits|fid|mae|mse|rmse)(?:_|$)")
_ERRORS = re.compile(
    r"(?:^|_)(err|errors?|cer|wer|ned|edit|edit_?dist(ance)?|chair_?[si]?|(hallucination|miss)_rate)(?:_|$)"
)
_RELATIVE = re.compile(r"(?:^|_)(rel|relative|(of|vs)_(the_)?(upper_bound|baseline|full|vanilla)|upper_bound)(?:_|$)")
_BENCHMARKS = re.compile(  # starts of names without signs
    r"(text|ok|aok|chart|doc|info|vizwiz|viz|st)?vqa|gqa|vizwiz|sqa|scienceqa|pope|mme|mmb|seed|llava(bench|w)|mmvet|mmmu"
    r"|mathv|ai2d|chartqa|infov|ocrbench|nocaps|coco|flickr|hallusion|mmstar|realworld|rwqa|blink|cvbench|vstar|mvbench"
    r"|videomme|egoschema|longvideo|mlvu|nextqa|activitynet|perceptiontest|refcoco|tally|vsr|iconqa|wemath|dynamath|mmt"
)
_AVERAGE = re.compile(r"^(avg|average|mean|overall)(_|$)")
_NOT_A_SCORE = re.compile(
    r"(res|resolution|frames?|latency|time|ms|seconds?|memory|gb|flops?|tflops|throughput|epochs?|steps?|lr|batch"
    r"|layers?|year|rank|index|id|cost|price|ratio|tokens?|params?|size|data|samples?|images?|kv|cache|gpus?|hours?|n"
    r"|seed|width|depth|patch|pixels|speed|step|number|line|se|stderr|std|group)"
)
_CHANGE = re.compile(
    r"^\s*[δ∆]|(?:^|[\s_(-])(delta|diff|difference|drop|gain|change|improvement|decline)\.?\)?(?:$|[\s_(])"
)
_MEASURE = re.compile(r"latency|memory|time|flops|throughput|tokens|params|speed|cost|hours|price|ttft|ratio|_gb$|^gb_")


def plain_name(name: object) -> str:
    """A column's name to compare by: lower case, words joined by _, without signs and without its unit.

    >>> plain_name("#Visual Tokens"), plain_name("Params (B)"), plain_name("Acc. (%)")
    ('visual_tokens', 'params_b', 'acc')
    """
    text = re.sub(r"[↑↓%]", "", str(name).lower()).replace("#", "")
    text = re.sub(r"[^a-z0-9]+", "_", text).strip("_")
    return re.sub(r"(?:_in)?_(b|m)(?:illions?|n)?$", r"_\1", text)


def may_be(role: str, name: str) -> bool:
    """Whether a column of this name may hold a role.

    >>> may_be("n_params", "LLM size (B)"), may_be("n_visual_tokens", "Avg. #image tokens"), may_be("score", "GQA")
    (True, True, False)
    """
    plain = plain_name(name)
    return plain in ALIASES[role] or bool(role in _LIKE and _LIKE[role].fullmatch(plain))


def is_loss(name: str) -> bool:
    """Whether a column of this name holds a loss, which is no share of wrong answers."""
    return bool(_LOSSES.search(plain_name(name)))


def is_error(name: str) -> bool:
    """Whether a column of this name says that less is better, as an error rate does.

    >>> is_error("OmniDocBench Edit ↓"), is_error("CHAIR_s"), is_error("GQA err."), is_error("HallusionBench")
    (True, True, True, False)
    """
    return "↓" in str(name) or "\\downarrow" in str(name) or bool(_ERRORS.search(plain_name(name)))


def is_of_encoder(name: str) -> bool:
    """Whether a column of this name says something of the vision encoder or the projector.

    >>> is_of_encoder("Vision encoder"), is_of_encoder("LLM")
    (True, False)
    """
    return bool(re.search(r"(?:^|_)(encoder|tower|vit|projector|connector|clip)(?:_|$)", plain_name(name)))


def is_relative(name: str) -> bool:
    """Whether a column of this name is relative to another row's score, such as the upper bound's.

    >>> is_relative("Rel. (%)"), is_relative("RealWorldQA")
    (True, False)
    """
    return bool(_RELATIVE.search(plain_name(name)))


def is_score_like(name: str) -> bool:
    """Whether a column of this name holds scores or errors."""
    return may_be("score", name) or may_be("error", name) or is_benchmark(name)


def is_benchmark(name: str) -> bool:
    """Whether a column of this name holds a benchmark's scores."""
    return bool(_BENCHMARKS.match(plain_name(name).replace("_", ""))) and not _CHANGE.search(str(name).lower())


def is_average(name: str) -> bool:
    """Whether a column of this name is a mean over benchmarks."""
    return bool(_AVERAGE.match(plain_name(name)))


def is_other(name: str) -> bool:
    """Whether a column of this name holds something else than scores: times, memory, settings.

    >>> is_other("TTFT (ms)"), is_other("GPU hours"), is_other("MMStar")
    (True, True, False)
    """
    plain = plain_name(name)
    return bool(_NOT_A_SCORE.fullmatch(plain) or _MEASURE.search(plain) or _CHANGE.search(str(name).lower()))

"""`vlmlaw tokens`: how many visual tokens a released model makes of an image, and what they cost."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmlaw.errors import UserError

if TYPE_CHECKING:
    from vlmlaw.evaluation.token_costs import TokenCosts, TokenRow

TEXT_TOKENS = 64
WIDTH = 100


def add_parser(subparsers: Any) -> None:
    """Add the verb `tokens`."""
    parser = subparsers.add_parser(
        "tokens",
        help="visual tokens that a released model makes of an image, what they cost, and the other V it can make",
        description="Print V, tower and LLM FLOPs and KV-cache memory for an image, and the ladder of V that the model "
        "can make with the processor's settings for each. Reads configurations only, no weights.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder, ID[@REV] of the hub, or a family as qwen2.5-vl")
    parser.add_argument("--image", required=True, metavar="WxH", help="pixels, as 1280x960; or an image file")
    parser.add_argument("--max-pixels", type=int, metavar="P", help="of families with that knob, the Qwen-VL ones")
    parser.add_argument("--visual-tokens", type=int, nargs="+", default=[], metavar="V", help="at most so many")
    parser.add_argument("--text-tokens", type=int, default=TEXT_TOKENS, metavar="Q", help=f"default {TEXT_TOKENS}")
    parser.add_argument("--params", metavar="7B", help="N of a family's name; of a model in place of the counted one")
    parser.add_argument("--dtype", default="", metavar="TYPE", help="of keys and values; default: as released")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_tokens)


def run_tokens(args: argparse.Namespace) -> int:
    """Count and print."""
    from vlmlaw.evaluation.measuring.cells import parameters_in
    from vlmlaw.evaluation.token_costs import know, token_costs

    width, height = _size(args.image)
    n_params = parameters_in(args.params) if args.params else None
    if args.params and n_params is None:
        raise UserError(f"--params: found {args.params!r}; expected a number with its unit, as 7B.")
    if args.text_tokens < 0:
        raise UserError(f"--text-tokens: found {args.text_tokens}; expected 0 or more.")
    if args.dtype not in ("", "float32", "bfloat16", "float16"):
        raise UserError(f"--dtype: found {args.dtype!r}; expected float32, bfloat16 or float16.")
    found = token_costs(
        know(args.model, n_params=n_params, dtype=args.dtype),
        height,
        width,
        n_text_tokens=args.text_tokens,
        max_pixels=args.max_pixels,
        budgets=args.visual_tokens,
    )
    print(json.dumps(_plain(found), indent=1) if args.json else _in_words(found))
    return 0


def _size(text: str) -> tuple[int, int]:
    """Width and height. Raises UserError for what is neither a size nor an image."""
    parts = text.lower().split("x")
    if len(parts) == 2 and all(part.isdecimal() and int(part) > 0 for part in parts):
        return int(parts[0]), int(parts[1])
    if not Path(text).is_file():
        raise UserError(f"--image: found {text!r}; expected width and height in pixels, as 1280x960, or an image file.")
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(text) as image:
            return ImageOps.exif_transpose(image).size
    except UnidentifiedImageError as error:
        raise UserError(f"--image: {text} is no image that Pillow can read.") from error


def _in_words(found: "TokenCosts") -> str:
    from vlmlaw.laws.render import render_table

    lines = []
    for row in found.asked:
        parts = [f"V = {row.n_visual_tokens}", f"LLM {_flops(row.llm_flops)}"]
        if row.tower_flops is not None:
            parts.append(f"tower {_flops(row.tower_flops)}")
        if row.kv_cache_bytes is not None:
            parts.append(f"KV cache {row.kv_cache_bytes / 1e6:,.1f} MB in {found.cache_dtype}")
        lines.append(f"{', '.join(parts)} ({row.knob})")
    head = (
        f"{found.model} ({found.family}): {found.width} x {found.height} px with Q = {found.n_text_tokens} text "
        f"tokens, N = {found.n_params:.3g}"
    )
    about = "Some of the numbers of visual tokens that it can make of this image. LLM: 2N(Q + V), N without embeddings"
    columns = {
        "V": [f"{row.n_visual_tokens}" for row in found.ladder],
        "tower": ["" if row.tower_flops is None else _flops(row.tower_flops) for row in found.ladder],
        "LLM": [_flops(row.llm_flops) for row in found.ladder],
        "KV MB": ["" if row.kv_cache_bytes is None else f"{row.kv_cache_bytes / 1e6:,.1f}" for row in found.ladder],
        "processor": [row.knob for row in found.ladder],
    }
    known = {name: texts for name, texts in columns.items() if any(texts)}
    about += "; tower with its connector" * ("tower" in known) + "; KV cache of Q + V tokens" * ("KV MB" in known) + "."
    if "tower" not in known:
        about += (
            " Its tower and KV cache are counted from a checkpoint's configuration: give a folder, or an id of the hub."
        )
    elif "KV MB" not in known:
        about += " Its KV cache is not counted: its configuration does not tell what each layer keeps."
    table = render_table(list(known), [list(row) for row in zip(*known.values(), strict=True)])
    return "\n\n".join([head, "\n".join(lines), textwrap.fill(about, WIDTH), table])


def _flops(value: float) -> str:
    for unit, size in (("TFLOPs", 1e12), ("GFLOPs", 1e9), ("MFLOPs", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} FLOPs"


def _plain(found: "TokenCosts") -> dict[str, Any]:
    def row(one: "TokenRow") -> dict[str, Any]:
        settings = {**one.setting.options, **one.setting.shared}
        return {name: value for name, value in vars(one).items() if name != "setting"} | {"processor": settings}

    return {**vars(found), "asked": [row(one) for one in found.asked], "ladder": [row(one) for one in found.ladder]}

"""`vlmlaw import-checkpoint`: released weights as a cell."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb `import-checkpoint`."""
    parser = subparsers.add_parser(
        "import-checkpoint",
        help="make a cell of a checkpoint in LLaVA-1.5's, TokenPacker's or QueCC's layout",
        description="Read released weights (a folder with config.json, weights and tokenizer) and the vision tower "
        "that they were trained with, and write the cell OUT/model, which all verbs for cells read.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="FOLDER", help="the checkpoint, downloaded")
    parser.add_argument("--tower", type=Path, required=True, metavar="FOLDER", help="its vision tower, downloaded")
    parser.add_argument("--out", type=Path, required=True, metavar="CELL", help="the cell's folder")
    parser.add_argument("--chat-template", default="", metavar="FILE", help="a .jinja file; default: the tokenizer's")
    parser.add_argument("--visual-tokens", type=int, metavar="V", help="TokenPacker's V; default: its config.json's")
    parser.add_argument("--feature-layers", type=int, nargs="+", metavar="L", help="default: the released layers")
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """Import and say what was made."""
    from vlmlaw.vlm.released import import_checkpoint

    model = import_checkpoint(
        args.checkpoint,
        args.tower,
        args.out,
        chat_template=args.chat_template,
        n_visual_tokens=args.visual_tokens,
        feature_layers=args.feature_layers,
    )
    config = model.config
    print(f"{args.out}/model: {config.compressor} at V = {config.n_visual_tokens}, no LayerNorm before the projector")
    return 0

"""Published measurements as package data, to try the tool on and to test it against.

Sources:
    li2024_reasoning, li2024_ocr: Li, Goyal, Semedo, Kolter, "Inference Optimal VLMs Need Fewer Visual Tokens and
        More Parameters" (2024), arXiv 2411.03312; Qwen-1.5 language models, CLIP ViT-L/14-336, TokenPacker. `score` is
        mean accuracy: nine visual-reasoning benchmarks, and DocVQA with TextVQA. Two OCR rows are suspect, and their
        `note` says why.
    quecc_table1: the same paper's table of compressors on Vicuna-1.5-7B with the LLaVA-1.5 recipe; MME is in points,
        all else in per cent.
"""

from pathlib import Path

from vlmlaw.errors import UserError

TABLES = ("li2024_reasoning", "li2024_ocr", "quecc_table1")
LAW_TABLES = ("li2024_reasoning", "li2024_ocr")  # those of cells (N, V)


def published_path(name: str) -> Path:
    """The CSV of one published table. Raises UserError for a name that is not in TABLES."""
    if name not in TABLES:
        raise UserError(f"published table {name!r} is unknown; the tables are {', '.join(TABLES)}")
    return Path(__file__).parent / f"{name}.csv"

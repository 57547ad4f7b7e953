"""Published measurements as package data, to try the tool on and to compare one's own with.

Each table is a CSV in this folder and a row of TABLES here: where its numbers stand, to be cited, and what a reader
must know before a comparison. They are facts as printed there: no text, picture or code was taken.

    >>> from vlmlaw.laws import read_measurements
    >>> len(read_measurements("braco_table1").select(compressor="quecc", suite="gqa"))
    3
"""

from dataclasses import dataclass
from pathlib import Path

from vlmlaw.errors import UserError

WHOLE = "none"  # the method's name in a row of a model that reads all of its tokens


@dataclass(frozen=True)
class PublishedTable:
    """One published table.

    about: what it holds, in a line; source: paper and table, or thread; caveat: what a reader must know first.
    trained: each method's cells were trained for their V, so a row without compression is another model; otherwise a
        method leaves the weights as they are, and its curve ends in that row.
    """

    about: str
    source: str
    caveat: str
    trained: bool = False
    unit: str = "tokens"  # of V: tokens, or per cent of the model's own
    model: str = ""  # of a table without a column for it
    method: str = ""


_LI = (
    'Li, Goyal, Semedo, Kolter, "Inference Optimal VLMs Need Fewer Visual Tokens and More Parameters" (ICLR 2025), '
    "arXiv 2411.03312"
)
_RESTORE = (
    'Cho, Baek, Kim, Ham, "Improving Visual Token Reduction via Rectifying Distortions for Efficient Multimodal LLM '
    'Inference" (ICML 2026)'
)
_UNIPRUNE = (
    'Peng et al., "Can Visual Input Be Compressed?" (UniPruneBench, 2025), arXiv 2511.02650, Observation 5 of its page'
)
_UNIPRUNE_CAVEAT = (
    "the mean of ten benchmarks at two shares of the model's own tokens, as its text prints them; the whole tables are "
    "pictures; two cells give a slope and no interval"
)

TABLES = {
    "li2024_reasoning": PublishedTable(
        about="Qwen-1.5 0.5 to 7 B by V = 1 to 576, TokenPacker, mean of nine reasoning benchmarks",
        source=f"{_LI}, measured cells of its law",
        caveat="the benchmarks' mean only",
        trained=True,
        model="Qwen-1.5 0.5 to 7 B",
        method="tokenpacker",
    ),
    "li2024_ocr": PublishedTable(
        about="the same cells on DocVQA and TextVQA",
        source=f"{_LI}, measured cells of its law",
        caveat="two rows are suspect, and their `note` says why",
        trained=True,
        model="Qwen-1.5 0.5 to 7 B",
        method="tokenpacker",
    ),
    "quecc_table1": PublishedTable(
        about="LLaVA-1.5-7B with QueCC, TokenPacker, MQT, M3 and PruMerge at V = 1 to 36",
        source=f"{_LI}, Table 1",
        caveat="not every benchmark is given for each method: M3 and MQT have gaps",
        trained=True,
    ),
    "braco_table1": PublishedTable(
        about="LLaVA-1.5-7B with seven methods at V = 4 to 25, with TFLOPs and milliseconds of the prefill",
        source='Zhong, Li, Yan, Zhuo, "Beyond Selection" (Braco, NeurIPS 2026), arXiv 2609.35232, Table 1',
        caveat="all methods trained and asked in one harness; one seed of each",
        trained=True,
    ),
    "restore_llava15": PublishedTable(
        about="LLaVA-1.5-7B with eight training-free methods at 64, 128 and 192 of 576 tokens",
        source=f"{_RESTORE}, Table 1",
        caveat="every method run again from its own code; V as printed, which methods inside the LLM mean over layers",
    ),
    "restore_llava_next": PublishedTable(
        about="LLaVA-NeXT-7B with four training-free methods at 160 and 320 of 2880 tokens",
        source=f"{_RESTORE}, Table 2",
        caveat="four benchmarks; 2880 is the most that an image can take, small ones take fewer",
    ),
    "restore_qwen25vl": PublishedTable(
        about="Qwen2.5-VL-7B with three training-free methods at 11, 22 and 33 % of its tokens",
        source=f"{_RESTORE}, Table 3",
        caveat="V is the share kept in per cent, as an image's own tokens follow its size; VisPruner's MME falls to "
        "1604 at 22.2 % and is 2137 at 11.1 %, as printed",
        unit="per cent",
    ),
    "btp_llava15": PublishedTable(
        about="LLaVA-1.5 of 7 and 13 B with five training-free methods, one V each beside all 576 tokens",
        source='"Balanced Token Pruning" (BTP, 2025), arXiv 2505.22038v2, Table 1',
        caveat="V is the mean over layers, and another one for each method: two sizes by two V each",
    ),
    "fastv_aokvqa": PublishedTable(
        about="LLaVA-1.5 of 7 and 13 B with FastV on A-OKVQA, with seconds to the first token",
        source="FastV's README (pkunlp-icler/FastV), its paper: Chen et al. 2024, arXiv 2403.06764",
        caveat="V is the mean over the 40 layers of what they read, computed from K = 2 and R; fp16 rows only; the "
        "7 B model was measured at 576 alone",
    ),
    "mini_gemini": PublishedTable(
        about="Mini-Gemini of 2 to 34 B at 336 and 672 pixels, 576 and 2880 tokens",
        source="Mini-Gemini's README (dvlab-research/MGM), its paper: Li et al. 2024, arXiv 2403.18814",
        caveat="each size has another language model (Gemma, Vicuna, Yi), so N stands for more than its size; the "
        "mixture of experts is left out; 672 pixels are trained anew",
        trained=True,
        method="resolution",
    ),
    "honeybee": PublishedTable(
        about="Honeybee (C-Abstractor) of 7 and 13 B at V = 144 to 576",
        source="Honeybee's README (kakaobrain/honeybee), its paper: Cha et al. 2023, arXiv 2312.06742, Tables 6 and 7",
        caveat="four cells, of which 7B-M256 and 13B-M576 were trained for longer; LLaVA-Bench is scored by a GPT",
        trained=True,
        method="c-abstractor",
    ),
    "sglang_qwen3vl": PublishedTable(
        about="Qwen3-VL of 8 and 32 B on Video-MME with all and with 20 % of the tokens (EVS)",
        source="sgl-project/sglang, pull request 20857",
        caveat="V is the share kept in per cent; four cells, one run each; run_time_s is that of the whole benchmark",
        unit="per cent",
    ),
    "uniprunebench_qwen25vl": PublishedTable(
        about="Qwen2.5-VL-7B with random pruning at 11 and 33 % of its tokens",
        source=_UNIPRUNE,
        caveat=_UNIPRUNE_CAVEAT,
        unit="per cent",
    ),
    "uniprunebench_internvl3": PublishedTable(
        about="InternVL3-8B with DivPrune at 11 and 22 % of its tokens",
        source=_UNIPRUNE,
        caveat=_UNIPRUNE_CAVEAT,
        unit="per cent",
    ),
}


def published_path(name: str) -> Path:
    """The CSV of one published table. Raises UserError for a name that is not in TABLES."""
    if name not in TABLES:
        raise UserError(f"published table {name!r} is unknown; the tables are {', '.join(TABLES)}")
    return Path(__file__).parent / f"{name}.csv"


def published_csv(name: str) -> bytes:
    """The text of one published table, in which each training-free method has the row without compression, too.

    Such a method leaves the weights as they are, so at all tokens it is the model itself. Raises UserError for a name
    that is not in TABLES.
    """
    header, *rows = published_path(name).read_text(encoding="utf-8").splitlines()
    columns = header.split(",")
    if TABLES[name].trained or "method" not in columns:
        return "\n".join([header, *rows, ""]).encode()
    at = columns.index("method")
    fields = [row.split(",") for row in rows]
    methods = list(dict.fromkeys(row[at] for row in fields if row[at] != WHOLE))
    found = []
    for row in fields:
        found += [[*row[:at], method, *row[at + 1 :]] for method in methods] if row[at] == WHOLE else [row]
    return "\n".join([header, *map(",".join, found), ""]).encode()

"""Tables as they are pasted from papers, READMEs, terminals and spreadsheets: read, or refused with a remedy."""

import pytest

from vlmlaw.errors import UserError
from vlmlaw.laws.table import read_measurements

LATEX = {
    "rows merged": r"""\begin{table}
\begin{tabular}{l|c|cc}
\toprule
\textbf{Method} & \textbf{\# Tokens} & \textbf{GQA} & \textbf{POPE} \\
\midrule
\multirow{2}{*}{LLaVA-1.5-7B} & 576 & 61.9 & \cellcolor{gray}\textbf{\underline{85.9}} \\
 & 192 & 52.7 {\scriptsize (-9.2)} & $64.8_{\pm0.3}$ \\
\multirow{2}*{LLaVA-1.5-13B} & 576 & 63.3 & 86.0 \\
 & 192 & 58.1 & \underline{70.2} \\ \bottomrule
\end{tabular}
\end{table}
""",
    "sections and shares": r"""\begin{tabular}{lcccc}
Method & GQA & MMB & POPE & Avg. \\
\midrule
\rowcolor{mygray} \multicolumn{5}{c}{\textit{Upper Bound, 576 Tokens} \ $\textbf{(100\%)}$}\\
\multirow{2}*{Vanilla-7B} & 61.9 & 64.7 & 85.9 & 100\% \\
 & 100\% & 100\% & 100\% & \\
\multicolumn{5}{c}{\textit{Retain 192 Tokens} \ $\fg{(\downarrow 66.7\%)}$} \\
FastV-7B & 52.7 & 61.2 & 64.8 & 88.2\% \\
\end{tabular}
""",
    "two headers": r"""\begin{tabular}{lcccc}
\multirow{2}{*}{LLM} & \multicolumn{2}{c}{GQA} & \multicolumn{2}{c}{POPE} \\
\cmidrule(lr){2-3} \cmidrule(lr){4-5}
 & 64 & 144 & 64 & 144 \\
7B & 60 & 61 & 80 & 81 \\
% 8B & 99 & 99 & 99 & 99 \\
13B & 62 & 63 & 82 & 83 \\
\end{tabular}
""",
    "spaces and symbols": "\\begin{tabularx}{\\linewidth}{lcc}\n\\makecell{LLM\\\\size} & "
    "\\makecell[c]{Visual\\\\tokens} & VQA$^{\\text{v2}}$ $\\uparrow$ \\\\\n\\SI{7}{B} & 2\\,880\n& 60.1\\,\\% \\\\\n"
    "13\\,B & 576 & 61.2 \\\\\n\\end{tabularx}\n",
}  # fmt: skip
README = """<div align=center>

| Model | #Visual Tokens[^1] | GQA&nbsp;\\|&nbsp;test ↑ | TTFT (ms) ↓ |
|:--|:-:|--:|---|
| <a href="x">LLaVA-7B</a>[^2] | 576 | <mark>**62.0**</mark> [3] 🥇 | 80 |
| [LLaVA-13B](https://example.org)<br>(Vicuna) | 144 (25%) | 60.1<br>(↓ 1.9) | 90 |
| GPT-4V | - | 70.0 | - |
"""

# As arXiv's HTML of a paper (LaTeXML) has it: an equation is a table too, and a cell of two lines holds one.
HTML = """<!DOCTYPE html><html><body>
<table class="ltx_equation"><tr><td>a</td><td><math alttext="x"><mi>x</mi></math></td></tr></table>
<table class="ltx_tabular"><thead>
<tr class="ltx_tr"><th class="ltx_td" rowspan="2">Method</th>
<th class="ltx_td" rowspan="2"><math alttext="\\#"><semantics><mi>#</mi></semantics></math> Tokens</th>
<th colspan="2" class="ltx_td">Reasoning</th></tr>
<tr class="ltx_tr"><th class="ltx_td">GQA</th><th class="ltx_td">VQA<sup>v2</sup></th></tr></thead>
<tr class="ltx_tr"><td rowspan="2"><span class="ltx_font_bold">LLaVA-1.5-7B</span></td><td>576</td>
<td><math alttext="61.9_{\\pm 0.3}"><mn>61.9</mn><mo>±</mo></math></td><td>78.5</td></tr>
<tr class="ltx_tr"><td>192<td>52.7<sup>†</sup><td><table class="ltx_tabular"><tr><td>70.1</td></tr></table></td></tr>
</table>
<span class="ltx_tabular">
<span class="ltx_tr"><span class="ltx_td">Model</span><span class="ltx_td">Licence</span></span>
<span class="ltx_tr"><span class="ltx_td">LLaVA-7B</span><span class="ltx_td">MIT</span></span></span>
</body></html>"""
BENCHMARKS_AT_TOKENS = "model,{},{},{},{}\nA-7B,60,61,80,81\nA-13B,62,63,82,83\n"
OF_GQA_AND_POPE = [(7, 64, 0.4, "GQA"), (7, 576, 0.39, "GQA"), (13, 64, 0.18, "POPE"), (13, 576, 0.17, "POPE")]

# name -> (text, options, what the sentence about the reading says, cells (N, V, error, suite))
READ = {
    "HTML of a paper": (
        HTML,
        {},
        "V from `# Tokens`; error = 1 - `GQA`, `VQAv2`, percent",
        [(7, 576, 0.381, "GQA"), (7, 192, 0.473, "GQA"), (7, 192, 0.299, "VQAv2")],
    ),
    **{
        f"headings such as {names[0]}": (
            BENCHMARKS_AT_TOKENS.format(*names), {}, "V from the names of columns", OF_GQA_AND_POPE
        )
        for names in (
            ("GQA@64", "GQA@576", "POPE@64", "POPE@576"),
            ("64/GQA", "576/GQA", "64/POPE", "576/POPE"),
            ("GQA (64)", "GQA (576)", "POPE (64)", "POPE (576)"),
        )
    },
    "maxima behind names": (
        "model,V,MME (2000),OCRBench (1000)\nA-7B,64,1500,600\nA-13B,64,1600,650\n",
        {},
        "V from `V`",
        [(7, 64, 0.25, "MME (2000)"), (13, 64, 0.35, "OCRBench (1000)")],
    ),
    "columns that nothing reads": (
        "size,V,acc,split,who\n7B,64,60,test,a\n13B,64,61,test,b\n",
        {},
        "not read: `split`, `who`",
        [(7, 64, 0.4, "all")],
    ),
    "README": (README, {}, "left out: 1 rows without `#Visual Tokens`", [(7, 576, 0.38, None), (13, 144, 0.399, None)]),
    "LaTeX, rows merged": (
        LATEX["rows merged"],
        {},
        "error_se from the ±",
        [(7, 192, 0.473, "GQA"), (7, 192, 0.352, "POPE"), (13, 192, 0.298, "POPE"), (7, 576, 0.141, "POPE")],
    ),
    "LaTeX, sections and shares": (
        LATEX["sections and shares"],
        {},
        "left out: 1 rows of shares of the upper bound",
        [(7, 576, 0.381, "GQA"), (7, 192, 0.388, "MMB")],
    ),
    "LaTeX, two headers": (
        LATEX["two headers"],
        {},
        "V from the names of columns",
        [(7, 144, 0.39, "GQA"), (13, 64, 0.18, "POPE")],
    ),
    "LaTeX, spaces": (
        LATEX["spaces and symbols"],
        {},
        "V from `Visual tokens`; error = 1 - `VQAv2 ↑`",
        [(7, 2880, 0.399, "VQAv2 ↑"), (13, 576, 0.388, "VQAv2 ↑")],
    ),
    "headings over columns": (
        ",,GQA,,POPE,\nsize,,v16,v64,v16,v64\n7B,,60,61,80,81\n13B,,62,63,82,83\n",
        {},
        "`GQA`, `POPE`",
        [(7, 64, 0.39, "GQA"), (13, 16, 0.18, "POPE")],
    ),
    "sizes under a heading": (
        "| Visual tokens | Model size (B) | | |\n|---|---|---|---|\n| | 0.5 | 1.8 | 7 |\n| 64 | 50 | 55 | 60 |\n",
        {},
        "N from the names of columns",
        [(0.5, 64, 0.5, "all"), (7, 64, 0.4, "all")],
    ),
    "plain sizes as columns": (
        "Visual tokens,0.5,1.8,7\n16,50,55,60\n64,51,56,61\n",
        {},
        "the names of columns, in billions",
        [(0.5, 16, 0.5, "all"), (7, 64, 0.39, "all")],
    ),
    "a corner of both": (
        "V \\ N,0.5B,1.8B,7B\n16,50,55,60\n64,51,56,61\n",
        {},
        "N from the names of columns, as written; V from `V`",
        [(1.8, 64, 0.44, "all")],
    ),
    "tokens with shares as columns": (
        "| Model | 576 (100%) | 192 (66.7%↓) |\n|---|---|---|\n| LLaVA-7B | 62 | 60 |\n| LLaVA-13B | 63 | 61 |\n",
        {},
        "V from the names of columns",
        [(7, 192, 0.4, "all"), (13, 576, 0.37, "all")],
    ),
    "properties as rows": (
        "Property,A,B,C\nParams (B),7,7,13\nVisual tokens,64,576,64\nGQA,60.1,62.0,62.2\n",
        {},
        "rows and columns swapped",
        [(7, 576, 0.38, "GQA"), (13, 64, 0.378, "GQA")],
    ),
    "a row of units": (
        "size,visual tokens,GQA\nB,,%\n7,64,60\n13,64,62\n",
        {},
        "N from `size (B)`, in billions",
        [(13, 64, 0.38, "GQA (%)")],
    ),
    "merged cells of a spreadsheet": (
        "Size\tVisual tokens\tGQA\n7B\t64\t60\n\t144\t61\n13B\t64\t62\n\t144\t63\n",
        {},
        "blanks of `Size` filled from above",
        [(7, 144, 0.39, "GQA"), (13, 144, 0.37, "GQA")],
    ),
    "an average below": (
        "| Model | Visual tokens | GQA |\n|---|---|---|\n| A-7B | 64 | 60 |\n| A-13B | 64 | 62 |\n"
        "| **Average** | 64 | 61 |\n",
        {},
        "left out: 1 rows of Average",
        [(7, 64, 0.4, "GQA"), (13, 64, 0.38, "GQA")],
    ),
    "an average as a benchmark": (
        "size,visual tokens,benchmark,acc\n7B,64,gqa,60\n7B,64,pope,80\n7B,64,Avg,70\n",
        {},
        "left out: 1 rows of Avg",
        [(7, 64, 0.4, "gqa")],
    ),
    "the header again": (
        "size,visual tokens,acc\n7B,64,60\nsize,visual tokens,acc\n13B,64,62\n",
        {},
        "",
        [(7, 64, 0.4, "all"), (13, 64, 0.38, "all")],
    ),
    "a character error rate": (
        "size,visual tokens,CER\n7B,64,12.1\n13B,64,10.2\n",
        {},
        "error = `CER`, percent",
        [(7, 64, 0.121, "all")],
    ),
    "an edit distance": (
        "size,visual tokens,Edit distance ↓\n7B,64,0.21\n13B,64,0.18\n",
        {},
        "error = `Edit distance ↓`, fraction",
        [(7, 64, 0.21, "all")],
    ),
    "errors by name, which rise": (
        "size,visual tokens,GQA err.,POPE err.\n7B,64,40,20\n13B,64,41,21\n7B,144,42,22\n",
        {},
        "errors, as the name says",
        [(13, 64, 0.41, "GQA err.")],
    ),
    "errors beside scores": (
        "size,visual tokens,GQA,ChartQA error\n7B,64,60,20\n13B,64,61,21\n",
        {},
        "not read: `ChartQA error (less is better: --scores 'ChartQA error' --holds error)`",
        [(13, 64, 0.39, "GQA")],
    ),
    "standard errors in columns": (
        "model,visual_tokens,gqa/exact_match,gqa/exact_match_stderr\nA-7B,64,0.6,0.01\nA-13B,64,0.61,0.01\n",
        {},
        "error_se from the ±",
        [(13, 64, 0.39, "gqa/exact_match")],
    ),
    "standard deviations in columns": (
        "size,visual tokens,GQA,GQA std\n7B,64,60.1,0.4\n13B,64,61,1.2\n",
        {},
        "not read: `GQA std`, of seeds or of questions",
        [(13, 64, 0.39, "GQA")],
    ),
    "deviations in brackets": (
        "size,visual tokens,acc (std)\n7B,64,60.1 (0.4)\n13B,64,61 (1.2)\n",
        {},
        "not read: deviations in brackets",
        [(13, 64, 0.39, "all")],
    ),
    "a column for each seed": (
        "size,visual tokens,seed 0,seed 1\n7B,64,60,61\n13B,64,62,63\n",
        {},
        "seed from `seed`",
        [(7, 64, 0.39, "all"), (13, 64, 0.37, "all")],
    ),
    "columns of seeds of two benchmarks": (
        "size,V,GQA run1,GQA run2,POPE run1,POPE run2\n7B,64,60,61,80,81\n13B,64,62,63,82,83\n",
        {},
        "`GQA`, `POPE`, percent; seed from `seed`",
        [(7, 64, 0.39, "GQA"), (13, 64, 0.18, "POPE"), (13, 64, 0.17, "POPE")],
    ),
    "± of a standard deviation": (
        "size,V,acc (mean±std)\n7B,64,60.1±0.4\n13B,64,61±1.2\n",
        {},
        "error = 1 - `acc`, percent; not read: ± of `acc (mean±std)`",
        [(7, 64, 0.399, "all")],
    ),
    "grids of tokens as columns": ("Model,24²,12x12\nA-7B,62,60\nA-13B,63,61\n", {}, "", [(7, 144, 0.4, "all")]),
    "a minus for what is missing": ("size,V,GQA\n7B,24*24,60\n13B,64,−\n", {}, "", [(7, 576, 0.4, "GQA")]),
    "seeds and their mean": (
        "size,visual tokens,seed,acc\n7B,64,0,60\n7B,64,mean,70\n13B,64,0,62\n",
        {},
        "left out: 1 rows of mean",
        [(7, 64, 0.4, "all")],
    ),
    "right of asked": (
        "size,visual tokens,correct,total\n7B,64,601,1000\n13B,64,610,1000\n",
        {},
        "n_questions from `n_questions`; score = `correct` / `total`",
        [(7, 64, 0.399, "all")],
    ),
    "right / asked": (
        "size,visual tokens,acc\n7B,64,60/100\n13B,64,61/100\n",
        {},
        "right of all questions",
        [(7, 64, 0.4, "all"), (13, 64, 0.39, "all")],
    ),
    "the vision encoder has a size, too": (
        "LLM,Vision encoder,Visual tokens,GQA\nVicuna-7B,CLIP-L 0.3B,576,62\n",
        {},
        "sizes in the names of `LLM`",
        [(7, 576, 0.38, "GQA")],
    ),
    "tokens called otherwise": (
        "Params (B),Avg. tokens/img,Acc. (%),Latency (ms)\n7,64,60.1,120\n13,64,61.2,200\n",
        {},
        "V from `Avg. tokens/img`",
        [(13, 64, 0.388, "all")],
    ),
    "retained tokens": (
        "Model,Retained tokens,GQA\nA-7B,192 ↓66.7%,60\nA-7B,64 (↓ 88.9%),58\n",
        {},
        "V from `Retained tokens`",
        [(7, 64, 0.42, "GQA")],
    ),
    "tokens in names": ("Model,GQA\nMQT-LLaVA-7B-V256,62\nMQT-LLaVA-7B-V64,61\n", {}, "", [(7, 64, 0.39, "GQA")]),
    "changes beside scores": (
        "size,visual tokens,GQA,ΔGQA,POPE,POPE diff\n7B,64,60,−1,80,-2\n13B,64,62,−1,82,-1\n",
        {},
        "not read: `ΔGQA`, `POPE diff`",
        [(13, 64, 0.18, "POPE")],
    ),
    "captions beside shares": (
        "size,visual tokens,NoCaps CIDEr,GQA\n7B,64,90,60\n13B,64,95,61\n",
        {},
        "not read: `NoCaps CIDEr",
        [(13, 64, 0.39, "GQA")],
    ),
    "value": (
        "model,visual tokens,task,metric,value\nA-7B,64,gqa,exact_match,60\nA-13B,64,gqa,exact_match,61\n",
        {},
        "`gqa`, percent",
        [(13, 64, 0.39, "gqa")],
    ),
    "printed by pandas": (
        "   size  visual_tokens   acc\n0    7B             64  60.1\n1   13B             64  61.2\n",
        {},
        "",
        [(13, 64, 0.388, "all")],
    ),
    "written by R": (
        '"size" "visual_tokens" "acc"\n"1" "7B" 64 60.1\n"2" "13B" 64 61.2\n',
        {},
        "",
        [(13, 64, 0.388, "all")],
    ),
    "reStructuredText": (
        "====  ==  ====\nsize  V   acc\n====  ==  ====\n7B    64  60\n13B   64  61\n====  ==  ====\n",
        {},
        "",
        [(13, 64, 0.39, "all")],
    ),
    "Org": (
        "| size | V | acc |\n|------+---+-----|\n| 7B | 64 | 60 |\n| 13B | 64 | 61 |\n",
        {},
        "",
        [(13, 64, 0.39, "all")],
    ),
    "a box of heavy lines": (
        "┏━━━━━┳━━━━┳━━━━┓\n┃ size ┃ V ┃ acc ┃\n┡━━━━━╇━━━━╇━━━━┩\n"
        "│ 7B │ 64 │ 60 │\n│ 13B │ 64 │ 61 │\n└─────┴────┴────┘\n",
        {},
        "",
        [(7, 64, 0.4, "all"), (13, 64, 0.39, "all")],
    ),
    "quoted in Markdown": (
        "> | Size | V | Acc |\n> |---|---|---|\n> | 7B | 64 | 60 |\n> | 13B | 64 | 61 |\n",
        {},
        "",
        [(7, 64, 0.4, "all")],
    ),
    "fenced in Markdown": ("```csv\nsize,V,acc\n7B,64,60\n13B,64,61\n```\n", {}, "", [(7, 64, 0.4, "all")]),
    "comments above": (
        "# run 12\n# two, with commas\nsize,visual tokens,acc\n7B,64,60\n13B,64,61\n",
        {},
        "",
        [(7, 64, 0.4, "all")],
    ),
    "lines of an old Macintosh": ("size,V,acc\r7B,64,60\r13B,64,61\r", {}, "", [(7, 64, 0.4, "all")]),
    "formulas": (
        "size,V,acc\n7B,64,$60.1 \\pm 0.4$\n13B,64,$61.2\\pm0.3$\n",
        {},
        "error_se from the ±",
        [(7, 64, 0.399, "all")],
    ),
    "without embeddings": (
        "LLM params (non-emb),V,acc\n0.36B,64,50\n6.5B,64,60\n",
        {},
        "N from `LLM params (non-emb)`",
        [(0.36, 64, 0.5, "all")],
    ),
    "billions in words": (
        "Model size (in billions),V,acc\n0.5,64,50\n7,64,60\n",
        {},
        "in billions",
        [(0.5, 64, 0.5, "all")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_pasted_tables_are_read_as_they_stand(name, tmp_path):
    text, options, says, cells = READ[name]
    path = tmp_path / "pasted.txt"
    path.write_bytes(text.encode())  # as it stands, its ends of lines too
    table = read_measurements(path, **options)
    assert says in table.units["read"]
    rows = [(row.N, row.V, row.error, row.suite) for row in table.frame.itertuples()]
    for n, v, error, suite in cells:
        assert any(
            (size, tokens) == (n, v) and value == pytest.approx(error) and suite in (None, found)
            for size, tokens, value, found in rows
        ), (n, v, error, suite, rows)
    assert table.frame["error"].between(0, 1).all()


def test_standard_errors_are_those_of_their_cells(tmp_path):
    path = tmp_path / "pasted.csv"
    path.write_text("size,V,GQA,GQA stderr,POPE\n7B,64,60%,0.5%,80\n13B,64,61,0.4,81\n", encoding="utf-8")
    frame = read_measurements(path).frame.set_index(["N", "suite"])["error_se"]
    assert frame[7, "GQA"] == pytest.approx(0.005)
    assert frame[13, "GQA"] == pytest.approx(0.004)
    assert frame.xs("POPE", level=1).isna().all()


@pytest.mark.parametrize(
    ("header", "fields", "half"),
    [
        ("acc,95% CI", '60,"[58.9, 61.1]"', 1.1),
        ("acc,CI", "60,±1.1", 1.1),
        ("acc,ci95", "60,58.9-61.1", 1.1),
        ("acc,lo,hi", "60,58.9,61.1", 1.1),
        ("acc,ci_lower,ci_upper", "60,58.9,61.1", 1.1),
        ("GQA (95% CI)", '"60 [58.9, 61.1]"', 1.1),
        ("GQA (95% CI)", "60 ± 1.1", 1.1),
        ("GQA,other,GQA CI", "60,5,59.0–61.2", 1.1),
        ("acc,99% CI", "60,±1.1", 1.1 * 1.959964 / 2.575829),
    ],
)
def test_intervals_become_standard_errors(header, fields, half, tmp_path):
    """Half of a 95 % interval of a normal estimate is 1.959964 standard errors (2.575829 at 99 %)."""
    path = tmp_path / "pasted.csv"
    path.write_text(f"size,V,{header}\n7B,64,{fields}\n13B,64,{fields}\n", encoding="utf-8")
    table = read_measurements(path)
    assert table.frame["error_se"].tolist() == pytest.approx([half / 1.959964 / 100] * 2, rel=1e-5)
    assert table.frame["error"].tolist() == pytest.approx([0.4, 0.4])
    assert "% intervals of `" in table.units["read"]


REFUSED = {
    "shares of the upper bound": ("Model,Visual tokens,Rel. (%)\nA-7B,64,98.2\nA-13B,64,98.9\n", "relative to another"),
    "an average of shares": ("Model,Tokens,Avg.\nA-7B,576,100%\nA-7B,192,95.8%\n", "relative to another"),
    "errors of another unit": ("size,V,acc,se\n7B,64,60.1,0.004\n13B,64,61,0.012\n", "write both in one unit"),
    "a distance": ("size,V,FID ↓\n7B,64,12.1\n13B,64,10.9\n", "is a loss"),
    "shares of tokens": ("Model,Visual tokens,GQA\nA-7B,33.3%,60\nA-7B,11.1%,58\n", "a share of the encoder's tokens"),
    "shares as columns": ("Model,0%↓,66.7%↓\nA-7B,62,60\nA-13B,63,62\n", "times 1 - the share"),
    "shares as headings": (
        "Method,GQA,POPE\nRetain 33.3% tokens,,\nA-7B,60,80\nRetain 11.1% tokens,,\nA-7B,58,78\n",
        "`11.1%` in a heading is a share",
    ),
    "thousands with a point": ("size;V;acc\n7B;2.880;60\n13B;1.152;61\n", "Write 2880 for 2.880"),
    "compression": ("Model,Compression,GQA\nA-7B,4x,62\nA-7B,16x,60\n", "divided by it"),
    "edits": ("size,V,edit distance\n7B,64,12\n13B,64,10\n", "Divide edits by the length"),
    "captions alone": ("size,V,COCO CIDEr\n7B,64,120\n13B,64,130\n", "no share of wrong answers"),
    "a sum of tokens": ("size,V,acc\n7B,64+1,60\n13B,576+1,61\n", "Write the sum"),
    "a limit of tokens": ("size,V,acc\n7B,≤2880,60\n13B,576,61\n", "give the mean over the images"),
    "an interval": ('size,V,acc\n7B,64,"60.1 [59.0, 61.2]"\n13B,64,61\n', "divided by 3.92"),
    "a sum of sizes": ("size,V,acc\n7B+0.4B,64,60\n13B+0.4B,64,61\n", "write the parameters, as 7B"),
    "a name without size": ("Model,V,acc\nA-7B,64,60\nB-Large,64,61\nA-13B,64,61\n", "'B-Large'.: write it into them"),
    "two counts of parameters": ("params_total,params_nonemb,V,acc\n0.5B,0.36B,64,50\n", "--column 'n_params=params_t"),
    "metrics of both directions": (
        "model,V,task,metric,value\nA-7B,64,ocr,acc,60\nA-7B,64,ocr,cer,20\n",
        r"holds errors \(cer\) beside scores",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_known_is_refused(name, tmp_path):
    text, remedy = REFUSED[name]
    path = tmp_path / "pasted.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=remedy):
        read_measurements(path)


def test_blanks_that_are_no_merged_cells_are_refused(tmp_path):
    path = tmp_path / "lost.csv"
    path.write_text("size,V,acc\n7B,64,60\n,144,61\n13B,64,62\n13B,144,63\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3: column 'size' holds ''"):
        read_measurements(path)


def test_two_numbers_are_no_counts(tmp_path):
    path = tmp_path / "pair.csv"
    path.write_text("size,V,MMB (en/cn)\n7B,64,60/90\n13B,64,61/90\n", encoding="utf-8")
    assert set(read_measurements(path).frame["suite"]) == {"MMB en", "MMB cn"}

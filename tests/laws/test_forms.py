"""Tables as people have them: each form is read rightly as it is, or refused with what to do."""

import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws.table import read_measurements

README = """# Our compressor

Some | prose. Weights: see below.

| Model | Visual tokens | **GQA** | MMB (en/cn) | MME | Latency |
|:------|:-------------:|--------:|----:|:---:|---|
| [LLaVA-1.5-7B](https://example.org) | 576 | **62.0** | 64.3/58.3 | 1510.7 | 120 ms |
| LLaVA-1.5-7B | 144 | 60.1 ± 0.2 | 63.0/57.0 | 1,490 | 90 ms |
| LLaVA-1.5-13B | 576 | 63.3<sup>1</sup> | 67.7/63.6 | 1531.3 | 0.2 s |
| LLaVA-1.5-13B | 144 | -- | 66.9/62.1 | 1500 | 0.15 s |
"""
LATEX = r"""\begin{tabular}{lccc}
\toprule
Model & \#Tokens & GQA & POPE \\ \midrule
LLaVA-7B & 64 & \textbf{60.1} & 85.0 \\
LLaVA-13B & 576 & 61.1$_{\pm 0.2}$ & 85.4 \\
\end{tabular}
"""
PRUNING = """| Method | GQA | POPE |
|---|---|---|
| *Upper bound, 576 tokens* | | |
| Vanilla-7B | 61.9 | 85.9 |
| *Retain 192 Tokens (↓ 66.7%)* | | |
| FastV-7B | 52.7 (-9.2) | 64.8 |
"""
BOX = """+------+---------------+------+
| size | visual tokens | acc  |
+======+===============+======+
| 7B   | 16            | 48.2 |
| 13B  | 144           | 49   |
+------+---------------+------+
"""

# name -> (text, options, what the first line says, cells (N, V, error, suite) among the rows)
FORMS = {
    "README": (
        README,
        {"maxima": {"MME": 2000}},
        "N from sizes in the names of `Model`, as written; V from `Visual tokens`; error = 1 - `GQA`, `MMB en`, "
        "`MMB cn`, percent; `MME`, points of 2000; error_se from the ±; not read: `Latency`",
        [(7, 576, 0.38, "GQA"), (13, 144, 0.379, "MMB cn"), (7, 144, 0.255, "MME"), (13, 576, 0.367, "GQA")],
    ),
    "semicolons and decimal commas": (
        "Modell;params_b;visual tokens;Accuracy (%)\nA;0,5;16;38,5\nB;7;2.880;48,25\n",
        {},
        "N from `params_b`, in billions; V from `visual tokens`; error = 1 - `Accuracy (%)`, percent",
        [(0.5, 16, 0.615, "all"), (7, 2880, 0.5175, "all")],
    ),
    "tabs": ("Size\tTokens\tAcc\n7B\t16\t48.2\n13B\t16\t49.2\n", {}, "V from `Tokens`", [(13, 16, 0.508, "all")]),
    "aligned by spaces": (
        "size visual_tokens acc\n7B 64 60.1\n13B 64 61.2\n",
        {},
        "N from `size`",
        [(13, 64, 0.388, "all")],
    ),
    "printed in a box": (BOX, {}, "V from `visual tokens`", [(13, 144, 0.51, "all")]),
    "LaTeX": (
        LATEX,
        {},
        "`GQA`, `POPE`, percent; error_se from the ±",
        [(13, 576, 0.389, "GQA"), (7, 64, 0.15, "POPE")],
    ),
    "plus and minus": (
        "size,visual tokens,acc\n7B,64,48.2 ± 0.4\n13B,64,49.2+-0.3\n",
        {},
        "the ±",
        [(7, 64, 0.518, "all")],
    ),
    "percent signs": (
        "size,visual tokens,err\n7B,64,40%\n13B,64,38%\n",
        {},
        "error = `err`, percent",
        [(7, 64, 0.4, "all")],
    ),
    "two in a field": (
        "LLM,visual tokens,acc (val/test)\n7B,64,59.8/59.1\n13B,64,60.1/60\n",
        {},
        "`acc val`, `acc test`, percent",
        [(7, 64, 0.409, "acc test"), (13, 64, 0.399, "acc val")],
    ),
    "mixtures of experts": (
        "Model,Visual tokens,MMMU\nMixtral-8x7B,64,50.1\nQwen3-VL-30B-A3B-Instruct,64,60\nQwen3-VL-8B,256,59\n",
        {},
        "N from sizes in the names of `Model`, as written (total; active ones in `active_params_b`)",
        [(46.7, 64, 0.499, "MMMU"), (30, 64, 0.4, "MMMU"), (8, 256, 0.41, "MMMU")],
    ),
    "names as sizes": ("size,V,acc\n7B-Instruct,64,0.5\n13B-chat,64,0.55\n", {}, "fraction", [(13, 64, 0.45, "all")]),
    "thousands": (
        'params,visual tokens,score\n"7,000,000,000","2,880",0.5\n"13,000,000,000",576,0.6\n',
        {},
        "N from `params`, count",
        [(7, 2880, 0.5, "all"), (13, 576, 0.4, "all")],
    ),
    "letters of the law beside names": (
        "size,N,V,acc\n7B-a,6.7,64,0.5\n13B-a,13,64,0.6\n",
        {},
        "N from `N`, in billions; V from `V`",
        [(6.7, 64, 0.5, "all")],
    ),
    "millions by name": ("# Params (M),VT,Top-1\n86,64,70\n304,64,75\n", {}, "in millions", [(0.304, 64, 0.25, "all")]),
    "wide over V": (
        "| Model size | V=1 | V=16 | V=144 |\n|---|---|---|---|\n| 0.5B | 38.1 | 39.2 | 40 |\n| 7B | 48 | 49.1 | - |\n",
        {},
        "V from the names of columns; error = 1 - `score`, percent",
        [(0.5, 144, 0.6, "all"), (7, 16, 0.509, "all")],
    ),
    "wide over sizes, errors": (
        "Visual tokens,0.5B,1.8B,7B\n1,0.61,0.58,0.52\n16,0.59,0.56,0.5\n144,0.57,0.54,0.48\n",
        {},
        "error = `score`, fraction (errors, as it falls with N and V; --holds score if not)",
        [(0.5, 1, 0.61, "all"), (7, 144, 0.48, "all")],
    ),
    "wide over V and benchmarks": (
        "size,v16 GQA,v16 POPE,v64 GQA,v64 POPE\n7B,60,80,61,82\n13B,62,82,63,84\n",
        {},
        "`GQA`, `POPE`, percent",
        [(13, 64, 0.37, "GQA"), (7, 16, 0.2, "POPE")],
    ),
    "wide over benchmarks with SEED and points": (
        "params_b,visual_tokens,n,SEED,MME-P,OCRBench,Avg\n7,64,1000,58,1400,300,65\n13,64,1000,60,1500,330,68\n",
        {},
        "`SEED`, percent; `MME-P`, points of 2000; `OCRBench`, points of 1000; n_questions from `n`; not read: `Avg`",
        [(7, 64, 0.42, "SEED"), (13, 64, 0.25, "MME-P"), (13, 64, 0.67, "OCRBench")],
    ),
    "a row of maxima": (
        "size,visual tokens,MME,GQA\nMax,,2800,100\n7B,64,1700,60\n13B,64,2100,62\n",
        {},
        "`MME`, points of 2800",
        [(7, 64, 1 - 1700 / 2800, "MME"), (13, 64, 0.38, "GQA")],
    ),
    "headings between rows": (
        PRUNING,
        {},
        "V from the names of `group`",
        [(7, 192, 0.473, "GQA"), (7, 576, 0.141, "POPE")],
    ),
    "grids and signs as V": (
        "size,#Vis. tokens,acc\n7B,24x24,60\n13B,~144,61*\n",
        {},
        "percent",
        [(7, 576, 0.4, "all")],
    ),
    "marks for what is missing": (
        "size,visual tokens,acc,held out\n7B,64,N/A,n\n13B,64,62,y\n7B,144,60,n\n",
        {},
        "left out: 1 rows without a value",
        [(13, 64, 0.38, "all"), (7, 144, 0.4, "all")],
    ),
    "training tokens beside visual ones": (
        "size,tokens,image tokens,acc\n7B,2e12,64,60\n13B,2e12,64,61\n",
        {},
        "V from `image tokens`",
        [(13, 64, 0.39, "all")],
    ),
    "one size for all": (
        "visual tokens,GQA\n64,60\n144,61\n",
        {"columns": {"n_params": "7B"}},
        "7B as given",
        [(7, 144, 0.39, "GQA")],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_read_as_they_are(name, tmp_path):
    text, options, says, cells = FORMS[name]
    path = tmp_path / "table.txt"
    path.write_text(text, encoding="utf-8")
    table = read_measurements(path, options.get("columns"), maxima=options.get("maxima"))
    assert says in table.units["read"]
    found = {(row.N, row.V, row.suite): row.error for row in table.frame.itertuples()}
    for n, v, error, suite in cells:
        assert found[n, v, suite] == pytest.approx(error)
    assert table.frame["error"].between(0, 1).all()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings(encoding, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("größe;params_b;visual tokens;score\nä;0.5;16;0.4\nö;7;16;0.5\n".encode(encoding))
    assert read_measurements(path).frame["error"].tolist() == pytest.approx([0.6, 0.5])


def test_spreadsheet_with_a_title_and_percent_cells(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    rows = [["Results of March"], ["Size", "Visual tokens", "Accuracy"], ["7B", 64, 0.6], ["13B", 64, 0.62]]
    for row in rows:
        book.active.append(row)
    book.active["C3"].number_format = book.active["C4"].number_format = "0.0%"
    book.create_sheet("empty")
    book.save(tmp_path / "table.xlsx")
    table = read_measurements(tmp_path / "table.xlsx")
    assert table.frame[["N", "V", "error"]].to_numpy().tolist() == [
        [7, 64, pytest.approx(0.4)],
        [13, 64, pytest.approx(0.38)],
    ]
    assert "`Accuracy`, percent" in table.units["read"]


REFUSED = {
    "n: questions or size": ("n,visual tokens,acc\n1000,64,60\n1000,16,61\n", "n_questions=n or --column n_params=n"),
    "total and active": (
        "total_params_b,active_params_b,V,acc\n30,3,64,6\n235,22,64,7\n",
        "`total_params_b` and `active_",
    ),
    "two counts of tokens": (
        "size,visual_tokens,image_tokens,acc\n7B,64,128,60\n",
        "`visual_tokens` and `image_tokens`",
    ),
    "two scores": ("size,visual_tokens,accuracy,f1\n7B,64,60,55\n", "`accuracy` and `f1`. Say which: --column"),
    "two names of sizes": ("Model,LLM,V,GQA\nInternVL2-8B,InternLM2-7B,256,62\n", "--column n_params=LLM"),
    "training tokens": ("size,tokens,acc\n7B,2000000000000,60\n", "not the visual tokens of an image"),
    "millions beside billions": ("params,visual tokens,acc\n7,64,60\n500,64,50\n", "Write the unit, as 500M and 7B"),
    "fractions beside percent": (
        "size,V,acc\n7B,64,60\n7B,144,62\n1B,64,0.50\n",
        "mixes fractions and percent: line 4",
    ),
    "percent by name only": ("size,V,acc (%)\n7B,64,0.5\n13B,64,0.6\n", "--scale fraction or --scale percent"),
    "a loss": ("size,V,loss\n7B,64,1.2\n13B,64,1.1\n", r"1 - exp\(-loss\)"),
    "a loss called score": ("size,V,score\n7B,64,2.2\n13B,64,2.1\n", "a loss, or percent"),
    "points of unknown maximum": ("size,V,MME\n7B,64,1400\n13B,64,1500\n", "--maximum MME=2000"),
    "equal names": ("size,V,MMB,MMB\n7B,64,60,61\n", r"names column 'MMB' twice \(columns 3 and 4\)"),
    "one count twice": ("size,v16,V=16,v64\n7B,60,61,62\n", "v16, V=16; keep the one"),
    "brackets": ("size,V,acc\n7B,64,48.2 (0.4)\n", "Write ± before a standard error"),
    "a range of tokens": ("size,visual tokens,acc\n7B,64-2880,60\n", "give the mean"),
    "resolutions": ("size,resolution,acc\n7B,336,60\n", r"\(resolution / 14\)\^2"),
    "shares": ("size,keep ratio,acc\n7B,50%,60\n", "multiply it by the tokens"),
    "unknown mixture": ("Model,V,MMMU\nFoo-8x9B,64,50\n", "write it, as 46.7B-A12.9B"),
    "both kinds of commas": ("size;V;acc\n7B;64;60,5\n13B;64;61.5\n", "decimal commas and decimal points"),
    "held out in other words": ("size,V,acc,held_out\n7B,64,60,maybe\n", "'maybe'; expected yes or no"),
    "HTML": ("<html><table><tr><td>7B</td></tr></table></html>", "is HTML without a table of two rows"),
    "a benchmark at resolutions": (
        "model,GQA@336,GQA@672\nA-7B,60,61\nA-13B,62,63\n",
        "is 336 in the column 'GQA@336' a resolution, or visual tokens",
    ),
    "an interval of another unit": (
        "size,V,acc,95% CI\n7B,64,60.1,0.59-0.61\n13B,64,61,0.60-0.62\n",
        "line 2: the interval 0.59-0.61 of `95% CI` does not hold its value 60.1",
    ),
    "a typing error in a benchmark": (
        "size,V,GQA\n7B,64,60\n13B,64,6l.5\n9B,64,61\n",
        "line 3: column 'GQA' holds '6l.5'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_doubtful_tables_are_refused_with_the_remedy(name, tmp_path):
    text, remedy = REFUSED[name]
    path = tmp_path / "table.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=remedy):
        read_measurements(path)


def test_a_page_of_several_tables_is_read_where_one_holds_cells(tmp_path):
    path = tmp_path / "README.md"
    licences = "\n\n| Model | Licence |\n|---|---|\n| LLaVA-7B | MIT |\n"
    path.write_text(README + licences, encoding="utf-8")
    assert len(read_measurements(path, maxima={"MME": 2000}).select(suite="GQA")) == 3
    path.write_text(README + licences + README.replace("GQA", "POPE"), encoding="utf-8")
    with pytest.raises(UserError, match=r"3 tables .* 2 of them with sizes"):
        read_measurements(path, maxima={"MME": 2000})


def test_first_line_of_the_output_says_which_column_is_what(tmp_path, capsys):
    path = tmp_path / "README.md"
    rows = [
        f"| LLaVA-{n}B | {v} | {40 + 3 * i + j}.5% |"
        for i, n in enumerate((1, 3, 7, 13))
        for j, v in enumerate((16, 64, 256))
    ]
    path.write_text("| Model | Visual tokens | Acc |\n|---|---|---|\n" + "\n".join(rows), encoding="utf-8")
    assert main(["law", "fit", str(path), "--bootstrap-draws", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "N from sizes in the names of `Model`, as written; V from `Visual tokens`; error = 1 - `Acc`, percent"
    )
    assert "rho = " in out
    assert main(["law", "lint", str(path)]) == 0
    assert capsys.readouterr().out.startswith("N from sizes")


def test_reading_options_of_the_law_section_are_those_of_the_command_line(tmp_path, capsys):
    rows = [
        f"{n},{i + 1},{v},{400 + 30 * i + 10 * j},a"
        for i, n in enumerate((1, 3, 7))
        for j, v in enumerate((16, 64, 256))
    ]
    table = tmp_path / "own.csv"
    table.write_text("\n".join(["LLM,rank,tok,points,who", *rows, "7,3,512,900,b"]), encoding="utf-8")
    section = (
        "law:\n  columns: {n_params: LLM, n_visual_tokens: tok, score: points}\n  maxima: {points: 1000}\n"
        "  where: {who: a}\n  bootstrap_draws: 0\n"
    )
    (tmp_path / "law.yaml").write_text(section, encoding="utf-8")
    assert main(["law", "fit", str(table), "--options", str(tmp_path / "law.yaml")]) == 0
    said = capsys.readouterr().out
    flags = [*("--column", "n_params=LLM", "--column", "n_visual_tokens=tok", "--column", "score=points")]
    flags += ["--maximum", "points=1000", "--where", "who=a", "--bootstrap-draws", "0"]
    assert main(["law", "fit", str(table), *flags]) == 0
    assert capsys.readouterr().out == said
    (tmp_path / "law.yaml").write_text("law: {columns: [LLM]}\n", encoding="utf-8")
    assert main(["law", "fit", str(table), "--options", str(tmp_path / "law.yaml")]) == 2
    assert "law option columns is ['LLM']; expected a mapping" in capsys.readouterr().err


def test_any_text_is_read_or_refused(tmp_path):
    """Damaged tables end in a UserError, never in another exception."""
    import random

    from vlmlaw.laws.linter.lint import lint

    draw = random.Random(0)
    marks = ["|", "--", "N/A", "±", "%", ",", ";", "\t", "1e999", "nan", "-inf", "0", "-5", "8x9B", "V=16", "Max"]
    marks += ["\n", '"', "1/2", "²"]
    texts = [text for text, *_ in FORMS.values()]
    path, read = tmp_path / "damaged.txt", 0
    for _ in range(100):
        text = draw.choice(texts)
        for _ in range(draw.choice((1, 1, 2, 4))):
            place, kept = draw.randrange(len(text)), draw.choice((0, 0, 6))
            text = text[:place] + draw.choice(marks) + text[place + kept :]
        try:
            path.write_text(text, encoding="utf-8")
            lint(read_measurements(path))
            read += 1
        except UserError:
            pass
    assert 10 < read < 90


def test_markup_is_only_that_of_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("size,V,acc,<script>x</script>_ms,<b>power</b>\n7B,64,0.5,1,2\n13B,64,0.6,2,3\n", encoding="utf-8")
    assert {"<script>x</script>_ms", "power"} <= set(read_measurements(path).frame)

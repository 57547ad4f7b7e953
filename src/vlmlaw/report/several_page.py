"""The page of several tables side by side: their answers, one explorer for all of them, and figures in rows.

Each table keeps its law and its own page; nothing is fitted across tables. Suites of one name are taken to ask the same
questions, so the explorer may choose among the tables there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlmlaw.report import explorer, page, phrasing, provenance, tables
from vlmlaw.report.figures import gallery, style
from vlmlaw.report.study import Study
from vlmlaw.report.templating import environment
from vlmlaw.runtime.git import commit
from vlmlaw.runtime.whole_files import whole_file

# What stands side by side: one of them, all as the page introduces them, and all.
TABLES = ("table", "tables of measurements", "tables")
FAMILIES = ("family", "families of released models, whose sizes lie on no common law", "families")
SHOWN = ("error_against_tokens", "error_against_flops")  # the others stand on each table's own page


def write_several(
    studies: Mapping[str, Study],
    out: Path,
    *,
    title: str = "",
    formats: tuple[str, ...] = (),
    kind: tuple[str, str, str] = TABLES,
) -> None:
    """Write index.html of all tables, by their names, to the folder `out`, and the page of each to `out`/NAME.

    kind: TABLES, or FAMILIES of one table.
    """
    for name, study in studies.items():
        gallery.draw_figures(study, out / name / "figures", formats=formats)
        page.write_page(study, out / name / "index.html")
    with whole_file(out / "index.html") as partial:
        partial.write_text(render(studies, title=title, kind=kind), encoding="utf-8")


def render(studies: Mapping[str, Study], *, title: str = "", kind: tuple[str, str, str] = TABLES) -> str:
    """The HTML of the page of several tables."""
    templates = environment()
    first, *others = studies.items()
    with style.look():
        pictures = [_picture(picture, studies) for picture in gallery.LAW_PICTURES if picture.name in SHOWN]
    return templates.get_template("several.html").render(
        title=title or f"{phrasing.listed(list(studies))}, side by side",
        study=first[1],
        studies=studies,
        answers=_answers(studies),
        kind=kind,
        summary=_summary(studies, kind[0]),
        pictures=pictures,
        explorer=explorer.explorer_parts(first[1], dict(others), name=first[0], of=(kind[0], kind[2])),
        colors=[page.size_variables(study) for study in studies.values()],
        commit=commit(),
        versions=provenance.versions(),
        style=Markup(templates.get_template("page.css").render(sizes={"light": [], "dark": []})),
    )


def _answers(studies: Mapping[str, Study]) -> list[tuple[str, page.Answer]]:
    """The answers with the names of their tables; those of one suite stand beside each other."""
    found = [(name, page.answer(suite, study)) for name, study in studies.items() for suite in study.suites]
    order = list(dict.fromkeys(answer.suite.label for _, answer in found))
    return sorted(found, key=lambda pair: order.index(pair[1].suite.label))


def _picture(picture: gallery.Picture, studies: Mapping[str, Study]) -> dict[str, Any]:
    """A figure of every table: title, caption, and the panels of each."""
    blocks = []
    for place, study in enumerate(studies.values()):
        panels = [panel for suite in study.suites for panel in picture.panels(suite, study)]
        name = f"{picture.name}-{place}-"
        blocks.append(page.block(name, picture.title, picture.caption, panels, study, of_sizes=picture.of_sizes))
    return {"title": picture.title, "caption": picture.caption, "blocks": blocks}


def _summary(studies: Mapping[str, Study], kind: str) -> tables.Table:
    rows = []
    for name, study in studies.items():
        for suite in study.suites:
            ends = (study.name_of(suite.rows["N"].min()), study.name_of(suite.rows["N"].max()))
            tokens = phrasing.span(*suite.v_range)
            rho = phrasing.rho(suite.rho).removeprefix("ρ = ")
            rows.append((name, suite.label, str(len(suite.rows)), " to ".join(ends), tokens, suite.fit.law.name, rho))
    header = [kind, "suite", "rows", "LLM", "visual tokens", "law", "ρ"]
    return tables.Table(header=header, rows=rows, caption=f"Each {kind} has its own law.", left=(0, 1, 3, 4, 5, 6))

"""The page: one self-contained HTML file, readable on a phone and on paper, in a light and in a dark theme."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlmlaw.report import clock, comparison, design, explorer, findings, phrasing, provenance, tables
from vlmlaw.report.explained import Explanation
from vlmlaw.report.figures import gallery, style, svg
from vlmlaw.report.run_files import Cell, Sample, Training
from vlmlaw.report.study import Study, Suite
from vlmlaw.report.templating import environment
from vlmlaw.runtime.git import commit
from vlmlaw.runtime.whole_files import whole_file


@dataclass(frozen=True)
class Run:
    """Files of a run of the workflow: trainings, samples of the test split, explained ones, the design."""

    cells: Sequence[Cell] = ()
    trainings: Sequence[Training] = ()
    samples: Sequence[Sample] = ()
    explanation: Explanation | None = None
    design: Mapping[str, Any] | None = None  # the last round, where cells were chosen one after the other

    @property
    def seconds(self) -> float:
        """Wall time of all trainings."""
        return sum(training.wall_seconds for training in (*self.trainings, *self.cells))


@dataclass(frozen=True)
class Answer:
    """The main result of one suite."""

    suite: Suite
    advice: str
    rho: str
    sentence: str
    v_star: str
    recommended: tables.Table
    by_time: tables.Table | None  # the same by measured time, where the table has one


@dataclass(frozen=True)
class Block:
    """A figure on the page: its panels as SVG."""

    name: str
    title: str
    caption: str
    panels: Sequence[tuple[str, Markup]]
    of_sizes: bool
    small: bool = False


def write_page(study: Study, out: Path, *, run: Run | None = None) -> None:
    """Write the page of a study to the file `out`."""
    page = render(study, out, run=run or Run())
    with whole_file(out) as partial:
        partial.write_text(page, encoding="utf-8")


def render(study: Study, out: Path, *, run: Run) -> str:
    """The HTML of the page; `out` is the file that it is for, from which its links start."""
    templates = environment()
    is_miniature = study.experiment.get("data", {}).get("source") == "miniature"
    with style.look():
        blocks = [block for picture in gallery.LAW_PICTURES for block in _blocks(picture, study)]
        training = _training_block(study, run)
        compared = _comparison(study)
    return templates.get_template("page.html").render(
        study=study,
        run=run,
        words=phrasing,
        answers=[answer(suite, study) for suite in study.suites],
        facts=findings.what_was_run(study) | _effort(run, study),
        blocks=blocks,
        training=training,
        design=run.design and {"sentences": design.sentences(run.design), "steps": design.steps(run.design)},
        compared=compared,
        explorer=explorer.explorer_parts(study),
        contrast=findings.contrast(study),
        limits=findings.limits(study, is_miniature=is_miniature),
        tables=_tables(study, run, out),
        cost_in_words=findings.cost(study),
        commands=provenance.commands(study, is_run=bool(run.cells), out=out),
        commit=commit(),
        versions=provenance.versions(),
        style=Markup(templates.get_template("page.css").render(sizes=size_variables(study))),
    )


def answer(suite: Suite, study: Study) -> Answer:
    """The main result of a suite: advice, rho, V* and the recommended cells."""
    return Answer(
        suite=suite,
        advice=phrasing.advice(suite.rho),
        rho=phrasing.rho(suite.rho),
        sentence=findings.headline(suite, study),
        v_star=phrasing.best(suite.rho, suite.v_star(study), at=study.question_tokens),
        recommended=tables.recommended(suite, study),
        by_time=tables.recommended_by_time(suite, study),
    )


def _effort(run: Run, study: Study) -> dict[str, str]:
    """Steps, training time and images of a run."""
    if not run.cells:
        return {}
    steps = sorted({cell.steps for cell in run.cells})
    facts = {"training steps a cell": " to ".join(phrasing.whole(n) for n in dict.fromkeys((steps[0], steps[-1])))}
    cells = sum(cell.wall_seconds for cell in run.cells)
    facts["training time"] = (
        f"{phrasing.seconds(run.seconds)} of wall time over all jobs, cells {phrasing.seconds(cells)}"
    )
    images = study.experiment.get("data", {}).get("images")
    if images:
        facts["images"] = ", ".join(f"{split} {phrasing.whole(n)}" for split, n in images.items())
    return facts


def _tables(study: Study, run: Run, out: Path) -> dict[str, Any]:
    made = [*run.trainings, *run.cells]
    links = [os.path.relpath(training.folder, out.parent) + "/" for training in made]
    return {
        "suites": [_suite_tables(suite, study) for suite in study.suites],
        "cost": tables.cost(study),
        "trainings": tables.trainings(run.trainings, run.cells, links=links) if made else None,
    }


def _suite_tables(suite: Suite, study: Study) -> dict[str, Any]:
    return {
        "suite": suite,
        "parameters": tables.parameters(suite, study),
        "rho": tables.rho_methods(suite),
        "d_profile": tables.d_profile(suite),
        "best_tokens": tables.best_tokens(suite),
        "laws": tables.law_comparison(suite, study),
        "held_out": tables.held_out(suite, study),
        "kinds": tables.kinds(suite, study),
        "compressors": tables.compressors(suite, study),
        "cells": tables.every_cell(study, suite),
    }


# --------------------------------------------------------------------------- figures


def _blocks(picture: gallery.Picture, study: Study) -> list[Block]:
    """A figure as one block, or for small multiples as a block for each suite."""
    per_suite = [(suite, picture.panels(suite, study)) for suite in study.suites]
    if picture.name != "kinds":
        panels = [panel for _, panels in per_suite for panel in panels]
        caption = " ".join(
            [picture.caption, *(_clock_sentences(study) if picture.name == "time_against_flops" else [])]
        )
        if picture.optional and not panels:
            return []
        return [block(picture.name, picture.title, caption, panels, study, of_sizes=picture.of_sizes)]
    return [
        block(
            f"kinds-{place}",
            f"{picture.title}: {suite.label}",
            picture.caption,
            panels,
            study,
            of_sizes=True,
            small=True,
        )
        for place, (suite, panels) in enumerate(per_suite)
        if panels
    ]


def _clock_sentences(study: Study) -> list[str]:
    """How far 2N(Q + V) is from the clock, of the suite whose cells the figure shows."""
    suite = study.suites[0]
    own = clock.clock_of(suite, study)
    return [clock.sentence(suite, study, own)] if own is not None else []


def block(
    name: str,
    title: str,
    caption: str,
    panels: Sequence[gallery.Panel],
    study: Study,
    *,
    of_sizes: bool,
    small: bool = False,
) -> Block:
    """A figure of these panels; `name` begins the ids of its SVGs, which must differ on a page."""
    colors = _css_colors(study)
    drawn = []
    for place, panel in enumerate(panels):
        untitled = replace(panel, title="")  # the page has the title as text, which wraps
        text = gallery.as_svg(gallery.draw_panels([untitled], n_columns=1))
        label = ", ".join(part for part in (title, panel.title) if part)
        drawn.append((panel.title, Markup(svg.inline(text, name=f"{name}{place}", title=label, colors=colors))))
    return Block(name=name, title=title, caption=caption, panels=drawn, of_sizes=of_sizes, small=small)


def _comparison(study: Study) -> dict[str, Any] | None:
    """The section that compares compressors; None if no two share cells."""
    found = comparison.compare(study)
    if found is None:
        return None
    n = comparison.shown_size(found)
    panels = [
        gallery.Panel(
            f"{suite}: {way}",
            partial(comparison.draw_errors, found=found, suite=suite, way=way, n=n, level=study.level),
        )
        for suite in found.suites
        for way in comparison.ways_of(found)
    ]
    budgets = [
        gallery.Panel(suite, partial(comparison.draw_budget, found=found, suite=suite)) for suite in found.suites
    ]
    return {
        "sentences": comparison.sentences(found, study),
        "beside_pooling": comparison.beside_pooling(found, study),
        "blocks": [
            block(
                "compressors",
                f"Error against visual tokens by compressor, {study.name_of(n)}",
                gallery.caption_of("compressors"),
                panels,
                study,
                of_sizes=False,
            ),
            block("budgets", "Which compressor wins", gallery.caption_of("budgets"), budgets, study, of_sizes=False),
        ],
        "suites": [
            {
                "suite": suite,
                "winners": comparison.winners(found, suite, study),
                "errors": comparison.errors(found, suite, study),
                "laws": comparison.laws(found, suite, study),
            }
            for suite in found.suites
        ],
    }


def _training_block(study: Study, run: Run) -> Block | None:
    panels = gallery.training_panels(run.cells, study)
    if not panels:
        return None
    caption = gallery.caption_of("training")
    return block("training", "Training curves", caption, panels, study, of_sizes=True, small=True)


def theme_colors() -> dict[str, str]:
    """The colours of every figure and the CSS variables that replace them, which follow the theme."""
    names = ("INK", "QUIET", "GRID", "PAPER", "ACCENT", "NEUTRAL")
    return {getattr(style, name): f"var(--{name.lower()})" for name in names}


def _css_colors(study: Study) -> dict[str, str]:
    """The colours of a study's figures, those of its sizes too, and the CSS variables that replace them."""
    sizes = {color: f"var(--size-{rank})" for rank, color in enumerate(style.size_colors(len(study.sizes)))}
    return theme_colors() | sizes


def size_variables(study: Study) -> Mapping[str, Sequence[str]]:
    """The colours of the sizes in the light and in the dark theme, smallest size first."""
    n_sizes = len(study.sizes)
    return {"light": style.size_colors(n_sizes), "dark": style.size_colors(n_sizes, dark=True)}

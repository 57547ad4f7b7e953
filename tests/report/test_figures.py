"""Figures say what the fit says, show what is missing as missing, and are the same bytes every time."""

import copy
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from vlmlaw.laws import LawOptions, analyse
from vlmlaw.report import findings, phrasing
from vlmlaw.report.figures import curves, gallery, style, trust
from vlmlaw.report.figures.gallery import PanelFunction
from vlmlaw.report.study import Study, read_study
from vlmlaw.report.templates_version import TEMPLATES
from vlmlaw.workflow.stages import FIGURES, OF_TIME

from . import made

ROOT = Path(__file__).parents[2]


def texts(svg: str) -> list[str]:
    """The words of an SVG."""
    return [unescape(re.sub(r"<[^>]+>", "", found)) for found in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)]


def svg_of(name: str, study: Study) -> str:
    picture = next(picture for picture in gallery.LAW_PICTURES if picture.name == name)
    with style.look():
        figure = gallery.sheet(picture, study)
        assert figure is not None
        return gallery.as_svg(figure)


def test_rho_in_a_figure_is_the_fits(study: Study) -> None:
    shown = texts(svg_of("error_against_tokens", study))
    for suite in study.suites:
        lower, upper = suite.rho["lower"], suite.rho["upper"]
        assert (
            f"ρ = {phrasing.number(suite.rho['estimate'])} [{phrasing.number(lower)}, {phrasing.number(upper)}]"
            in shown
        )


def test_a_changed_fit_changes_the_text(study: Study) -> None:
    suite = study.suites[0]
    analysis = copy.deepcopy(dict(suite.analysis))
    analysis["rho"] |= {"estimate": 7.654, "lower": 7.5, "upper": None}
    changed = replace(study, suites=[replace(suite, analysis=analysis)])
    assert "ρ = 7.65 [7.50, ∞]" in texts(svg_of("error_against_tokens", changed))


def test_best_tokens_are_q_over_rho_minus_1(study: Study) -> None:
    suite = next(suite for suite in study.suites if suite.name == "reasoning")
    star = study.question_tokens / (suite.rho["estimate"] - 1)
    shown = " ".join(texts(svg_of("best_tokens", study)))
    assert f"V* = {phrasing.number(star)} [" in shown
    assert f"at Q = {study.question_tokens:g}" in shown


def test_where_tokens_do_harm_the_curve_of_v_star_is_at_the_fewest(study: Study) -> None:
    """As its points are, and the advice: not at the most, where the ratio of the exponents, below 0, would lead."""
    suite = study.suites[0]
    rows = suite.rows.assign(error=0.5 - 0.05 * np.log(suite.rows["N"] * 1e6) + 0.01 * np.log(suite.rows["V"]))
    options = LawOptions(bootstrap_draws=0, hold_out="none", question_tokens=(0, 8, 64))
    harm = replace(suite, analysis=analyse(rows[["N", "V", "error", "seed"]], options)["fits"][0])
    axes = Figure().subplots()
    curves.best_tokens(axes, harm, study)
    assert harm.fit.exponents[1] < 0
    assert {y for line in axes.lines for y in line.get_ydata()} == {rows["V"].min()}


def test_the_profile_of_an_infinite_rho_shows_where_its_interval_begins(study: Study) -> None:
    suite = study.suites[0]
    rows = suite.rows.assign(error=0.5 - 0.05 * np.log(suite.rows["N"] * 1e6) + 0.001 * np.log(suite.rows["V"]))
    rows["error"] += 0.003 * np.cos(np.arange(len(rows)))  # noise, so that the interval has an end
    options = LawOptions(bootstrap_draws=0, hold_out="none", question_tokens=(0, 8, 64))
    flat = replace(suite, analysis=analyse(rows[["N", "V", "error", "seed"]], options)["fits"][0])
    axes = Figure().subplots()
    trust.profile_of_rho(axes, flat, study)
    low, high = axes.get_xlim()
    assert flat.rho["upper"] is None and flat.rho["lower"] > 8
    assert low < flat.rho["lower"] < high


def test_the_measured_grid_is_written_into_the_heat_map(study: Study) -> None:
    shown = texts(svg_of("grid", study))
    for suite in study.suites:
        means = suite.rows.groupby(["N", "V"])["error"].mean()
        for error in means:
            assert phrasing.error(error) in shown


def test_a_missing_cell_is_hatched_and_never_a_number(tmp_path: Path) -> None:
    gone = "150k_v9_block_linear_s0"
    made.write_measurements(tmp_path / "m.csv", without=(gone,))
    made.write_law(tmp_path / "m.csv", tmp_path / "law.json", allow_missing=True, bootstrap_draws=0)
    holed = read_study(tmp_path / "law.json", tmp_path / "m.csv", where=made.WHERE)
    suite = holed.suites[0]
    assert [(round(n * 1e9), v) for n, v in suite.missing] == [(made.SIZES["150k"], 9.0)]
    with style.look():
        _, axes = style.new_figure(1, 1)
        trust.grid(axes[0, 0], suite, holed)
    hatched = [patch for patch in axes[0, 0].patches if patch.get_hatch()]
    written = [text.get_text() for text in axes[0, 0].texts if text.get_text()]
    assert len(hatched) == 1
    assert len(written) == len(made.SIZES) * len(made.TOKENS) - 1
    assert "0.000" not in written
    told = findings.limits(holed, is_miniature=False)
    assert "reading: 1 cell missing and not fitted: 150k with V = 9." in told


def test_measured_points_are_the_measurements_with_their_standard_errors(study: Study) -> None:
    suite = study.suites[0]
    with style.look():
        _, axes = style.new_figure(1, 1)
        curves.error_against_tokens(axes[0, 0], suite, study)
    bars = axes[0, 0].containers
    assert len(bars) == len(made.SIZES)
    shown = np.concatenate([bar.lines[0].get_ydata() for bar in bars])
    assert sorted(shown) == sorted(suite.rows["error"])
    first = bars[0].lines[2][0].get_segments()
    rows = suite.rows[suite.rows["N"] == suite.rows["N"].min()]
    assert sum(end[1] - start[1] for start, end in first) == pytest.approx(2 * rows["error_se"].sum())


def test_seeds_are_points_of_their_own(study: Study) -> None:
    suite = study.suites[0]
    smallest = suite.rows[(suite.rows["N"] == suite.rows["N"].min()) & (suite.rows["V"] == 1)]
    assert sorted(smallest["seed"]) == ["0", "1"]
    assert sorted(suite.others["compressor"].unique()) == ["quecc"]


def test_no_cell_within_a_budget_beats_the_frontier(study: Study) -> None:
    for suite in study.suites:
        n, v = suite.rows["N"].unique()[:, None], suite.rows["V"].unique()[None, :]
        costs, errors = study.cost.of(n, v), suite.fit.predict(n, v)
        for row in suite.frontier(study).to_dict("records"):
            assert row["error"] == pytest.approx(errors[costs <= row["budget"] * (1 + 1e-9)].min())


def test_held_out_sizes_are_named(study: Study) -> None:
    assert "600k (held out)" in texts(svg_of("error_against_tokens", study))
    assert any("600k unseen" in text for text in texts(svg_of("predicted", study)))


def test_one_colour_for_each_size_in_every_figure(study: Study) -> None:
    colors = style.size_colors(len(study.sizes))
    assert len(set(colors)) == len(made.SIZES)
    for name in ("error_against_tokens", "error_against_flops", "predicted", "residuals", "kinds"):
        drawn = svg_of(name, study)
        assert all(color in drawn for color in colors), name


def test_ticks_are_plain_numbers(study: Study) -> None:
    shown = texts(svg_of("error_against_tokens", study))
    assert [text for text in shown if text in map(str, made.TOKENS)] == [str(v) for v in made.TOKENS] * 2
    assert not any("×" in text or "e+" in text for text in shown)


def test_ticks_that_would_touch_are_left_out() -> None:
    assert style.thinned([1, 4, 9, 10, 16, 570, 576]) == [1, 4, 9, 16, 576]
    assert style.thinned([5]) == [5]
    axes = Figure().subplots()
    style.log_axis(axes, "x", [1, 1.5, 3, 10], lambda value: f"a name of {value:g}")
    assert axes.get_xticks().tolist() == [1, 3, 10]  # 12 letters take a quarter of the axis


@pytest.mark.parametrize("n_sizes", [1, 2, 9])
def test_colours_in_both_themes(n_sizes: int) -> None:
    for dark in (False, True):
        assert len(set(style.size_colors(n_sizes, dark=dark))) == n_sizes


def test_the_same_bytes_twice(study: Study) -> None:
    assert svg_of("error_against_flops", study) == svg_of("error_against_flops", study)


def test_every_figure_that_the_workflow_promises_is_written_with_a_caption(run_page: str, run_folder: Path) -> None:
    promised = [name for name in FIGURES if name not in OF_TIME]  # the run was not timed
    written = [path.stem for path in (run_folder / "report" / "figures").iterdir()]
    assert sorted(written) == sorted(promised)
    assert all((TEMPLATES / f"{name}.rst").is_file() for name in FIGURES)
    assert all(gallery.caption_of(name) for name in FIGURES)


def test_a_figure_with_nothing_to_show_says_so_where_it_was_promised(published: Path, tmp_path: Path) -> None:
    study = read_study(published, Path("li2024_ocr"))
    bare = replace(study, suites=[])
    written = gallery.draw_figures(bare, tmp_path, every=True)
    assert all("nothing to show" in path.read_text() for path in written)
    assert not gallery.draw_figures(bare, tmp_path)


def test_a_png_where_asked_for(published: Path, tmp_path: Path) -> None:
    study = read_study(published, Path("li2024_ocr"))
    written = gallery.draw_figures(study, tmp_path, formats=("png",))
    assert written and all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert "kinds.png" not in [path.name for path in written]  # nothing to show, so no file


def test_labels_of_equal_costs_do_not_meet(study: Study) -> None:
    """Each label lies along its line: another one is beside it by a letter's height, or past its end."""
    for suite in study.suites:
        with style.look():
            figure, panels = style.new_figure(1, 1)
            curves.contour(panels[0, 0], suite, study)
            figure.canvas.draw()
            labels = [text for text in panels[0, 0].texts if text.get_text().endswith("FLOPs")]
            assert len(labels) == 4
            centres = [np.mean(text.get_window_extent().get_points(), axis=0) for text in labels]
            for text, centre in zip(labels, centres, strict=True):
                angle = np.radians(text.get_rotation())
                text.set_rotation(0)
                box = text.get_window_extent()
                for other in centres:
                    x, y = other - centre
                    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
                    assert other is centre or abs(across) > box.height or abs(along) > box.width


def test_a_profile_shows_the_whole_interval(study: Study) -> None:
    for suite in study.suites:
        with style.look():
            _, panels = style.new_figure(1, 1)
            trust.profile_of_rho(panels[0, 0], suite, study)
        low, high = panels[0, 0].get_xlim()
        assert low < suite.rho["lower"] and suite.rho["upper"] < high


def test_long_names_leave_a_figure_its_place(study: Study) -> None:
    long = "A benchmark whose name has no end, as people make them (validation split, 2025-11, filtered by length)"
    labels = {suite.label: f"{long} {suite.label}" for suite in study.suites}
    changed = replace(
        study,
        suites=[replace(suite, label=labels[suite.label]) for suite in study.suites],
        kinds={labels[label]: kinds for label, kinds in study.kinds.items()},
        sizes=[replace(size, name=f"Qwen2.5-VL-Instruct-GPTQ-Int4-quantised {size.name}") for size in study.sizes],
    )
    for name in ("error_against_tokens", "grid", "contour", "predicted", "residuals"):
        picture = next(picture for picture in gallery.LAW_PICTURES if picture.name == name)
        for panel in picture.panels(changed.suites[0], changed):
            with style.look():
                figure = gallery.draw_panels([panel], n_columns=1)
                figure.canvas.draw()
                assert figure.axes[0].get_position().width > 0.5, name


@pytest.mark.parametrize(
    "draw",
    [
        curves.error_against_tokens,
        curves.error_against_flops,
        trust.measured_against_predicted,
        trust.residuals_against_size,
    ],
)
def test_sizes_differ_by_shape_and_not_by_colour_alone(draw: PanelFunction, study: Study) -> None:
    with style.look():
        _, panels = style.new_figure(1, 1)
        draw(panels[0, 0], study.suites[0], study)
        legend = [handle.get_marker() for handle in gallery.legend_handles(study)]
    drawn = {line.get_marker() for line in panels[0, 0].lines} & set(style.MARK_PATHS)
    assert legend == ["o", "s", "^", "D"] and drawn == set(legend)


def test_the_legend_of_the_page_has_the_marks_of_the_figures(run_page: str) -> None:
    legend = re.findall(r'<ul class="legend">(.*?)</ul>', run_page, re.DOTALL)[0]
    assert re.findall(r'<path d="([^"]*)"', legend) == [style.mark_path(rank) for rank in range(len(made.SIZES))]


@pytest.mark.parametrize("infinite", [1, -1])
def test_panels_of_an_infinite_rho_shade_no_interval(infinite: int, study: Study) -> None:
    suite = study.suites[0]
    analysis = copy.deepcopy(dict(suite.analysis))
    analysis["rho"] |= {"estimate": None, "lower": None, "upper": None, "infinite": infinite}
    changed = replace(suite, analysis=analysis)
    with style.look():
        _, panels = style.new_figure(1, 3)
        trust.profile_of_rho(panels[0, 0], changed, study)
        curves.best_tokens(panels[0, 1], changed, study)
        curves.contour(panels[0, 2], changed, study)
    assert [text.get_text() for text in panels[0, 0].texts] == [phrasing.rho(changed.rho)]
    assert bool(panels[0, 1].lines) == (infinite > 0)  # without any gain no V is the best
    upright = [line for line in panels[0, 2].lines if len(set(line.get_xdata())) == 1 and line.get_linewidth() > 2]
    assert len(upright) == (infinite > 0)

"""The budget explorer: what a browser shows is what the Python API says, and no name of a table becomes markup."""

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from jinja2 import Environment, PackageLoader

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws import ColumnCost, Cost, compare_laws, fit_law, read_measurements, recommend_among
from vlmlaw.laws.analysis import analyse
from vlmlaw.laws.blend import Blend
from vlmlaw.laws.options import LawOptions
from vlmlaw.report.explorer import explorer_data, explorer_parts, plotting_library, script_json
from vlmlaw.report.study import Study, read_study

from .browser import CHROMIUM, Browser

HOSTILE = "</script><!--<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">_ms"
SUITES = ("reading<script>document.title='owned'</script>", "reasoning")  # in the order of the page
COMPRESSORS = ("average", "query")
LAWS = ("logit", "power", "probit")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a measured cost, one cell of which is unknown, and hostile names; and its page."""
    folder = tmp_path_factory.mktemp("explorer")
    frame = read_measurements("li2024_reasoning").frame[["N", "V", "error"]].copy()
    frame[HOSTILE] = (12 + 8.3 * frame["N"] * (50 + frame["V"]) ** 0.9).round(1)
    frame.loc[3, HOSTILE] = None
    frame["train_ms"] = 1.0
    frame["size"] = frame["N"].map(lambda n: f"{n:g}B</script><img src=x>")
    frame["suite"] = "reasoning<script>document.title='owned'</script>"
    frame.to_csv(folder / "table.csv", index=False)
    assert main(["report", str(folder / "table.csv"), "--out", str(folder / "page")]) == 0
    return folder


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two suites and two compressors of known laws, each compressor with its own V and cost; explorer.html of them."""
    folder, rng = tmp_path_factory.mktemp("two_by_two"), np.random.default_rng(0)
    rows = []
    for suite, a, b in zip(SUITES, (0.12, 0.55), (0.5, 0.08), strict=True):
        for compressor, gain, counts in zip(COMPRESSORS, (0.0, 0.5), ((1, 4, 16, 64, 256), (4, 16, 64)), strict=True):
            for n in (0.00005, 0.0003, 0.002, 0.015):
                for v in counts:
                    index = 4.5 * a + a * np.log(n) + b * np.log(v) + gain * v**-0.3
                    error = 1 / (1 + np.exp(index)) + rng.normal(0, 0.012)
                    ms = round(12 + 3 * gain + 4000 * n * (50 + v) ** 0.9, 1)
                    rows.append((suite, compressor, n, v, round(error, 4), ms))
    frame = pd.DataFrame(rows, columns=["suite", "compressor", "N", "V", "error", HOSTILE])
    frame["flat_usd"] = 0.0012345  # what every answer costs
    frame.to_csv(folder / "table.csv", index=False)
    options = LawOptions(bootstrap_draws=0, candidates=LAWS, sizes=(0.00005, 0.0003, 0.002, 0.015, 0.1))
    analyse(read_measurements(folder / "table.csv"), options, out=folder / "law.json")
    study = read_study(folder / "law.json", folder / "table.csv")
    templates = Environment(loader=PackageLoader("vlmlaw.report"), autoescape=True)
    body = templates.get_template("explorer.html").render(explorer=explorer_parts(study), study=study)
    style = templates.get_template("page.css").render(sizes={"light": [], "dark": []})
    page = f"<!DOCTYPE html><meta charset='utf-8'><title>explorer</title><style>{style}</style>{body}"
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def visit(browser: Browser, page: Path, settings: dict[str, Any]) -> None:
    """Open the page with these settings in its address, from nothing."""
    browser.failures.clear()
    browser.open("about:blank")
    browser.open(page.as_uri() + "#" + urlencode(settings))


def text(browser: Browser, name: str) -> str:
    return str(browser.evaluate(f"document.getElementById('x-{name}').textContent"))


# --------------------------------------------------------------------------- what the Python API says


@cache
def measured(path: Path, suite: str, compressor: str) -> Any:
    return read_measurements(path).select(suite=suite, compressor=compressor)


@cache
def fitted(path: Path, suite: str, compressor: str, laws: tuple[str, ...]) -> Any:
    """The choice among all laws where all count; else the first that counts, alone."""
    rows = measured(path, suite, compressor)
    best = compare_laws(rows, LAWS).best
    order = [best.law.name, *(rival.law.name for rival in best.rivals)]
    counted = [name for name in order if name in laws]
    return best if counted == order else fit_law(rows, counted[0]) if counted else None


def among(path: Path, s: dict[str, Any], laws: tuple[str, ...]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """`recommend_among` for settings of the explorer: the best compressor, all recommendations, and the fits."""
    weights = s["weights"]
    names = [SUITES[i] for i, weight in enumerate(weights) if weight > 0]
    fits, costs = {}, {}
    for compressor in (COMPRESSORS[i] for i in s["c"]):
        parts = {name: fitted(path, name, compressor, laws) for name in names}
        if None in parts.values():
            continue
        shares = {SUITES[i]: weight / sum(weights) for i, weight in enumerate(weights) if weight > 0}
        fits[compressor] = Blend(parts, shares) if len(parts) > 1 else parts[names[0]]
        costs[compressor] = (
            ColumnCost.from_table(read_measurements(path).select(compressor=compressor), HOSTILE)
            if s.get("cost")
            else Cost(question_tokens=s["q"], generated_tokens=s["g"])
        )
    sizes = [n for n in (0.00005, 0.0003, 0.002, 0.015, 0.1) if n <= s.get("maxn", 1e9)]
    counts = {c: [v for v in fit.cells.token_counts if v <= s.get("maxv", 1e9)] for c, fit in fits.items()}
    best, found = "", {}
    for name, fit in fits.items():  # one at a time, since each has its own V
        try:
            found |= recommend_among(
                {name: fit}, flops=s["budget"], cost=costs[name], sizes=sizes, tokens=counts[name]
            )[1]
        except UserError:
            continue
    if found:
        best = min(found, key=lambda name: (found[name].error, found[name].cost))
    return best, found, fits


SIZES = {0.00005: "50 k", 0.0003: "300 k", 0.002: "2 M", 0.015: "15 M", 0.1: "0.1 B"}


def cell(n: float, v: float, compressor: str) -> str:
    return f"{SIZES[n]}, V = {v:g} ({compressor})"


def expected(path: Path, s: dict[str, Any]) -> dict[str, str]:
    """What the Python API says, as `vlmlaw law recommend` prints it."""
    best, found, _ = among(path, s, s["laws"])
    if not found:
        return {"found": "hidden"}
    chosen = found[best]
    rows = pd.concat([each.alternatives.assign(of=name) for name, each in found.items()])
    rows["regret"] = rows["error"] / chosen.error - 1
    others = rows[(rows["V"] != chosen.v) | (rows["of"] != best)].sort_values("error", kind="stable").head(1)
    unit = HOSTILE if s.get("cost") else "FLOPs"
    return {
        "cell": cell(chosen.n, chosen.v, best),
        "error": f"{chosen.error:.4f} [{chosen.error_lower:.4f}, {chosen.error_upper:.4f}]",
        "price": f"{chosen.cost:.3g} of {chosen.budget:.3g} {unit}",
        "flat": f"V = {', '.join(f'{v:g}' for v in chosen.flat)}",
        "next": next((f"{cell(r.N, r.V, r.of)}, regret {r.regret:+.2%}" for r in others.itertuples()), "none"),
        "warnings": "".join(f"Mind: {warning}." for warning in (*chosen.warnings, *left_out(path, s))),
        "alternatives": "".join(
            f"{r.of}{r.V:g}{SIZES[r.N]}{r.cost:.3g}{r.error:.4f}{r.regret:+.2%}" for r in rows.itertuples()
        ),
        "lawrows": "".join(by_law(path, s, name, best, chosen) for name in s["laws"]),
    }


def left_out(path: Path, s: dict[str, Any]) -> list[str]:
    """A sentence on each compressor without a law of every suite that weighs."""
    return [
        f"{COMPRESSORS[i]} has no counted law of {suite} and is left out"
        for i in s["c"]
        for suite, weight in zip(SUITES, s["weights"], strict=True)
        if weight > 0 and fitted(path, suite, COMPRESSORS[i], s["laws"]) is None
    ]


def by_law(path: Path, s: dict[str, Any], law: str, best: str, chosen: Any) -> str:
    """The row of one law: its own cell, and the regret of the chosen one if this law holds."""
    own, found, fits = among(path, s, (law,))
    if not found:  # it predicts unseen cells badly, and counts nowhere
        return ""
    mine = found[own]
    regret = f"{fits[best].predict(chosen.n, chosen.v).item() / mine.error - 1:+.2%}" if best in fits else "no law"
    return f"{law}{cell(mine.n, mine.v, own)}{mine.error:.4f}{regret}"


GRID: list[dict[str, Any]] = [
    {"weights": (1, 0), "c": (0,), "laws": LAWS, "budget": 1e9, "q": 50, "g": 0},
    {"weights": (0, 1), "c": (1,), "laws": LAWS, "budget": 2.5e8, "q": 8, "g": 0},
    {"weights": (0, 1), "c": (0, 1), "laws": LAWS, "budget": 7e7, "q": 0, "g": 0},
    {"weights": (1, 1), "c": (0, 1), "laws": LAWS, "budget": 3.3e9, "q": 50, "g": 12},
    {"weights": (3, 0.5), "c": (0, 1), "laws": LAWS, "budget": 1.3e10, "q": 50, "g": 0},
    {"weights": (0.2, 0.7), "c": (1,), "laws": LAWS, "budget": 1e12, "q": 12.5, "g": 200},
    {"weights": (1, 2), "c": (0, 1), "laws": ("power",), "budget": 5e8, "q": 50, "g": 0},
    {"weights": (1, 2), "c": (0, 1), "laws": ("power", "probit"), "budget": 5e8, "q": 50, "g": 0, "maxn": 0.002},
    {"weights": (1, 0), "c": (0, 1), "laws": ("probit",), "budget": 1e15, "q": 50, "g": 0, "maxv": 64},
    {"weights": (1, 1), "c": (0, 1), "laws": LAWS, "budget": 900.0, "q": 50, "g": 0, "cost": HOSTILE},
    {"weights": (1, 0), "c": (0,), "laws": ("logit", "power"), "budget": 33.0, "q": 50, "g": 0, "cost": HOSTILE},
    {"weights": (1, 1), "c": (0, 1), "laws": LAWS, "budget": 3.0, "q": 50, "g": 0, "cost": HOSTILE},
]


def address(s: dict[str, Any]) -> dict[str, Any]:
    asked = {name: s[name] for name in ("budget", "q", "g", "maxn", "maxv", "cost") if name in s}
    asked |= {"c": ",".join(map(str, s["c"]))} | ({"law": ",".join(s["laws"])} if s["laws"] != LAWS else {})
    if all(s["weights"]):
        return asked | {"suite": "several"} | {f"w{i}": weight for i, weight in enumerate(s["weights"])}
    return asked | {"suite": s["weights"].index(1)}


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("settings", GRID, ids=range(len(GRID)))
def test_the_browser_says_what_the_python_api_says(
    settings: dict[str, Any], two_by_two: Path, browser: Browser
) -> None:
    visit(browser, two_by_two / "index.html", address(settings))
    for name, wanted in expected(two_by_two / "table.csv", settings).items():
        if name == "found":
            assert browser.evaluate("document.getElementById('x-found').hidden") is True
        else:
            assert text(browser, name) == wanted, (name, settings)
    assert browser.evaluate("document.title") == "explorer" and browser.failures == []


# --------------------------------------------------------------------------- bad settings, hostile names, other ways in


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message", "wrong"),
    [
        ({"budget": "<b>much</b>"}, 'Budget: found "<b>much</b>"; expected a number above 0', "budget"),
        ({"q": "-3"}, 'Question tokens: found "-3"; expected a number, 0 or more.', "q"),
        ({"suite": "several", "w0": "x"}, "Weight of reading<script>", "w0"),
        ({"suite": "several", "w0": "0", "w1": "0"}, "Every weight is 0; expected one above 0.", "w0"),
        ({"c": ""}, "Nothing is ticked that could be chosen; expected one or more.", "c0"),
        ({"law": "nonsense"}, "No law is ticked; expected one or more.", "l0"),
        ({"law": ""}, "No law is ticked; expected one or more.", "l0"),
        ({"budget": "0"}, 'Budget: found "0"; expected a number above 0', "budget"),
        ({"budget": ""}, 'Budget: found ""; expected a number above 0', "budget"),
        ({"budget": "1e400"}, 'Budget: found "1e400"; expected a number above 0', "budget"),
        ({"budget": "١٢"}, 'Budget: found "١٢"; expected a number above 0', "budget"),
    ],
)
def test_the_browser_names_a_bad_setting(
    settings: dict[str, str], message: str, wrong: str, two_by_two: Path, browser: Browser
) -> None:
    visit(browser, two_by_two / "index.html", settings)
    assert text(browser, "sentence").startswith(message)
    invalid = "[...document.querySelectorAll('#explorer-form [aria-invalid=true]')].map((x) => x.id)"
    assert browser.evaluate(invalid) == [f"x-{wrong}"]
    described = "[...document.querySelectorAll('[aria-describedby=x-sentence]')].map((x) => x.id)"
    assert browser.evaluate(described) == [f"x-{wrong}"]


@needs_browser
@pytest.mark.slow
def test_a_link_holds_the_settings_even_where_nothing_is_ticked(two_by_two: Path, browser: Browser) -> None:
    visit(browser, two_by_two / "index.html", {"budget": "2e9"})
    browser.evaluate("document.querySelectorAll('#x-laws input:not(:disabled)').forEach((box) => box.click())")
    said, link = text(browser, "sentence"), str(browser.evaluate("location.href"))
    browser.open("about:blank")
    browser.open(link)
    assert text(browser, "sentence") == said == "No law is ticked; expected one or more."


@needs_browser
@pytest.mark.slow
def test_the_first_budget_buys_a_cell_and_what_buys_none_differs_from_the_cheapest(
    two_by_two: Path, browser: Browser
) -> None:
    visit(browser, two_by_two / "index.html", {"cost": "flat_usd"})
    assert text(browser, "sentence").startswith("For 0.00123 flat_usd an answer, deploy ")
    visit(browser, two_by_two / "index.html", {"cost": "flat_usd", "budget": "0.001234"})
    said = "No cell costs 0.001234 flat_usd or less; the cheapest costs 0.0012345."
    assert text(browser, "sentence") == said


@needs_browser
@pytest.mark.slow
def test_a_page_of_hostile_names_stays_inert(folder: Path, browser: Browser) -> None:
    visit(browser, folder / "page" / "index.html", {"budget": "400.5", "cost": HOSTILE, "maxn": "1.8"})
    assert "B</script><img src=x>, V = " in text(browser, "cell") and HOSTILE in text(browser, "price")
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")  # Vega draws after the text is there
    assert browser.evaluate("document.querySelectorAll('#x-plot .marks').length") == 1
    assert browser.evaluate("document.title") == "Larger LLM or more visual tokens?"
    assert browser.evaluate("document.querySelectorAll('img:not([src^=data])').length") == 0
    assert browser.failures == []


@needs_browser
@pytest.mark.slow
def test_keyboard_and_screen_reader_reach_every_control(two_by_two: Path, browser: Browser) -> None:
    visit(browser, two_by_two / "index.html", {"suite": "several"})
    shown = "[...document.querySelectorAll('#explorer-form input, #explorer-form select, #explorer-answer summary')]"
    order = browser.evaluate(f"{shown}.filter((x) => x.checkVisibility() && !x.disabled).map((x) => x.id || 'summary')")
    reached = []
    for _ in order:
        browser.press("Tab")
        style = "((x, s) => [x.id || 'summary', s.outlineStyle, s.outlineWidth])"
        name, line, width = browser.evaluate(
            f"{style}(document.activeElement, getComputedStyle(document.activeElement))"
        )
        assert line != "none" and float(width.removesuffix("px")) >= 2, name  # the focus can be seen
        reached.append(name)
    assert reached == order and {"x-w0", "x-w1", "x-c1", "x-l1"} <= set(order)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if "role" in n and not n["ignored"]
    ]
    roles = ("combobox", "textbox", "slider", "checkbox", "form", "status")
    assert [role for role, name in named if role in roles[:5] and not name] == []
    assert sum(role in roles[:4] for role, _ in named) == len(order) - order.count("summary")
    groups = {name for role, name in named if role == "group"}
    assert {"Weight of each suite", "Which compressors count"} <= groups
    assert ("form", "Explore a budget") in named and "status" in [role for role, _ in named]
    assert any(role == "graphics-document" and name.startswith("Error against cost. For") for role, name in named)
    before = text(browser, "sentence")
    browser.evaluate("document.getElementById('x-c1').focus()")
    browser.press(" ")
    assert text(browser, "sentence") != before and "c=0%2C1" in browser.evaluate("location.hash")


class Controls(HTMLParser):
    """Ids of the form controls, and of the labels that are for them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.controls: set[str] = set()
        self.labels: set[str] = set()
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.controls |= {given["id"]} if tag in ("input", "select") else set()
        self.labels |= {given["for"]} if tag == "label" else set()
        self.scripts += tag == "script"


@pytest.mark.slow
@needs_browser
def test_a_phone_shows_whole_cards_and_scrolls_other_tables_by_keyboard(
    run_page: str, run_folder: Path, browser: Browser
) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=False)
    try:
        visit(browser, run_folder / "report" / "index.html", {})
        browser.evaluate("new Promise((done) => setTimeout(done, 300))")  # observers report after the layout
        shown = "[...document.querySelectorAll('.scroll')].filter((x) => x.checkVisibility())"
        wide = f"{shown}.filter((x) => x.scrollWidth > x.clientWidth + 1)"
        assert browser.evaluate("document.documentElement.scrollWidth") <= 400
        assert browser.evaluate("document.querySelectorAll('.answer .scroll').length") == 2
        assert browser.evaluate(f"{wide}.filter((x) => x.closest('.answer')).length") == 0
        stops = browser.evaluate(f"{wide}.map((x) => [x.tabIndex, x.role, x.ariaLabel])")
        assert len(stops) > 2 and all(stop[:2] == [0, "region"] and stop[2] for stop in stops)
        assert browser.evaluate(f"{shown}.filter((x) => x.hasAttribute('tabindex')).length") == len(stops)
        levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((x) => Number(x.tagName[1]))")
        assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
        assert browser.evaluate("document.querySelectorAll('main').length") == 1 and browser.failures == []
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_every_control_has_a_label_and_names_stay_text(folder: Path) -> None:
    page = (folder / "page" / "index.html").read_text(encoding="utf-8")
    found = Controls(page)
    assert len(found.controls) == 8 and found.controls == found.labels
    assert found.scripts == 3  # data, library, code: no name of the table opened another one
    assert len(page.encode()) < 3_000_000


def test_costs_are_those_of_an_answer(folder: Path) -> None:
    page = (folder / "page" / "index.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'(?s)id="explorer-data">(.*?)</script>', page)[1])  # type: ignore[index]
    (series,) = data["series"]
    assert [cost["name"] for cost in series["costs"]] == [HOSTILE]
    assert series["costs"][0]["of"].count(None) == 1
    assert series["suites"][0]["costs"] == series["costs"]


def test_a_runs_measured_flops_are_costs(study: Study) -> None:
    data = explorer_data(study)
    (series,) = data["series"]
    assert len(data["suites"]) == len(series["suites"]) == 2
    names = [cost["name"] for cost in series["costs"]]
    assert names == ["llm_flops+compressor_flops+vision_flops", "llm_flops", "vision_flops", "compressor_flops"]
    suite = series["suites"][0]
    assert suite["laws"][0]["name"] == suite["report"]["name"] == study.suites[0].fit.law.name
    assert len(suite["laws"][0]["error"]) == len(series["n"]) == 24


def test_script_json_cannot_leave_its_element() -> None:
    text = str(script_json({HOSTILE: [0.1, None]}))
    assert "<" not in text and json.loads(text) == {HOSTILE: [0.1, None]}
    assert "</script" not in plotting_library() and "<!--" not in plotting_library()

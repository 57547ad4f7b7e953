"""The budget explorer: what a browser shows is what the Python API says, and no name of a table becomes markup."""

import html
import json
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.laws import ColumnCost, Cost, fit_law, fit_or_choose, read_measurements, recommend
from vlmlaw.report.explorer import explorer_data, plotting_library, script_json
from vlmlaw.report.study import Study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking",
    "--disable-component-update --disable-sync --dump-dom",
)
HOSTILE = "</script><!--<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">_ms"
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


def dump(folder: Path, settings: dict[str, Any], tmp_path: Path) -> str:
    """The page's document after its scripts ran, with these settings in its address."""
    address = (folder / "page" / "index.html").as_uri() + "#" + urlencode(settings)
    command = [str(CHROMIUM), *" ".join(FLAGS).split(), f"--user-data-dir={tmp_path / 'profile'}", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def shown(page: str, name: str) -> str:
    found = re.search(rf'id="x-{name}"[^>]*>([^<]*)<', page)
    assert found is not None, name
    return html.unescape(found[1])


def expected(folder: Path, s: dict[str, Any]) -> dict[str, str]:
    """What `recommend` says, as `vlmlaw law recommend` prints it."""
    table = read_measurements(folder / "table.csv")
    fit = fit_or_choose(table, "auto") if s["law"] == "logit" else fit_law(table, s["law"])
    cost = (
        ColumnCost.from_table(table, HOSTILE)
        if s.get("cost") == 1
        else Cost(question_tokens=s["q"], generated_tokens=s["g"])
    )
    sizes = [n for n in fit.cells.sizes if n <= float(s["maxn"] or 1e9)]
    tokens = [v for v in fit.cells.token_counts if v <= float(s["maxv"] or 1e9)]
    unit = cost.unit or HOSTILE
    try:
        chosen = recommend(fit, flops=float(s["budget"]), cost=cost, sizes=sizes, tokens=tokens)
    except UserError as error:
        return {"sentence": str(error).replace("no cell", "No cell", 1).replace(HOSTILE, unit) + "."}
    row = chosen.alternatives[chosen.alternatives["V"] != chosen.v].sort_values("error", kind="stable").head(1)
    name = partial("{:g}B</script><img src=x>, V = {:g}".format)
    return {
        "cell": name(chosen.n, chosen.v),
        "error": f"{chosen.error:.4f} [{chosen.error_lower:.4f}, {chosen.error_upper:.4f}]",
        "price": f"{chosen.cost:.3g} of {chosen.budget:.3g} {unit}",
        "flat": f"V = {', '.join(f'{v:g}' for v in chosen.flat)}",
        "next": next((f"{name(r.N, r.V)}, regret {r.regret:+.2%}" for r in row.itertuples()), "none"),
        "warnings": "".join(f"Mind: {warning}." for warning in chosen.warnings),
    }


GRID = [
    {"law": "logit", "budget": "1e12", "q": 50, "g": 0, "maxn": "", "maxv": ""},
    {"law": "logit", "budget": "1.325e11", "q": 0, "g": 0, "maxn": "", "maxv": ""},
    {"law": "power", "budget": "3.7e11", "q": 12.5, "g": 200, "maxn": "4", "maxv": "64"},
    {"law": "power", "budget": "1e15", "q": 50, "g": 0, "maxn": "", "maxv": "36"},
    {"law": "log_linear", "budget": "1000", "q": 50, "g": 0, "maxn": "", "maxv": ""},
    {"law": "logit", "budget": "1500", "q": 50, "g": 0, "maxn": "", "maxv": "", "cost": 1},
    {"law": "power", "budget": "400.5", "q": 50, "g": 0, "maxn": "1.8", "maxv": "144", "cost": 1},
]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("settings", GRID, ids=lambda s: f"{s['law']}-{s['budget']}")
def test_the_browser_says_what_the_python_api_says(settings: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    page = dump(folder, settings, tmp_path)
    for name, text in expected(folder, settings).items():
        found = shown(page, name) if name != "warnings" else warnings_of(page)
        assert found == text, (name, settings)
    assert 'class="marks"' in page  # Vega drew
    assert "owned" not in re.search(r"(?s)<title>(.*?)</title>", page)[1]  # type: ignore[index]
    assert not re.search(r"<img src=.?x", re.sub(r"(?s)<script[ >].*?</script>", "", page))


def warnings_of(page: str) -> str:
    listed = re.search(r'(?s)id="x-warnings"[^>]*>(.*?)</ul>', page)
    assert listed is not None
    return html.unescape(re.sub(r"<[^>]+>", "", listed[1]))


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "<b>much</b>"}, 'Budget: found "<b>much</b>"; expected a number above 0'),
        ({"q": "-3"}, 'Question tokens: found "-3"; expected a number, 0 or more.'),
    ],
)
def test_the_browser_names_a_bad_setting(settings: dict[str, str], message: str, folder: Path, tmp_path: Path) -> None:
    assert shown(dump(folder, settings, tmp_path), "sentence").startswith(message)


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


def test_every_control_has_a_label_and_names_stay_text(folder: Path) -> None:
    page = (folder / "page" / "index.html").read_text(encoding="utf-8")
    found = Controls(page)
    assert len(found.controls) == 9 and found.controls == found.labels
    assert found.scripts == 3  # data, library, code: no name of the table opened another one
    assert len(page.encode()) < 3_000_000


def test_costs_are_those_of_an_answer(folder: Path) -> None:
    page = (folder / "page" / "index.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'(?s)id="explorer-data">(.*?)</script>', page)[1])  # type: ignore[index]
    (suite,) = data["suites"]
    assert [cost["name"] for cost in suite["costs"]] == [HOSTILE]
    assert suite["costs"][0]["of"].count(None) == 1


def test_a_runs_measured_flops_are_costs(study: Study) -> None:
    suite = explorer_data(study)["suites"][0]
    names = [cost["name"] for cost in suite["costs"]]
    assert names == ["llm_flops+compressor_flops+vision_flops", "llm_flops", "vision_flops", "compressor_flops"]
    assert [law["name"] for law in suite["laws"]] == [study.suites[0].fit.law.name]
    assert len(suite["laws"][0]["error"]) == len(suite["n"]) == 24


def test_script_json_cannot_leave_its_element() -> None:
    text = str(script_json({HOSTILE: [0.1, None]}))
    assert "<" not in text and json.loads(text) == {HOSTILE: [0.1, None]}
    assert "</script" not in plotting_library() and "<!--" not in plotting_library()

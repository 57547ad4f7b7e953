"""What is chosen: front, good enough, limit, router and rules, each against brute force or a made truth."""

import itertools

import numpy as np
import pandas as pd
import pytest

from vlmlaw.errors import UserError
from vlmlaw.evaluation.measuring.cells import Model
from vlmlaw.evaluation.measuring.decide import (
    Wishes,
    blind_facts,
    check_costs,
    cost_of,
    decide,
    least_of_each,
    least_tokens,
    perfect_router,
)
from vlmlaw.evaluation.measuring.paired import Paired
from vlmlaw.evaluation.measuring.prices import Price
from vlmlaw.evaluation.measuring.rules import rules

COST = {"a_v0": 1.0, "a_v16": 2.0, "a_v64": 4.0, "b_v0": 3.0, "b_v16": 5.0, "b_v64": 8.0}
ERROR = {"a_v0": 0.7, "a_v16": 0.5, "a_v64": 0.35, "b_v0": 0.6, "b_v16": 0.31, "b_v64": 0.3}


@pytest.fixture(scope="module")
def judged():
    """600 questions on 300 images; a question that is right in a cell is right in every one of less error."""
    rng = np.random.default_rng(0)
    hard = rng.permutation(np.linspace(0, 1, 600))
    frame = {"question": [f"q{i:03}" for i in range(600)], "cluster": np.arange(600) // 2, "weight": 1.0}
    frame |= {"height": 100, "width": 100 + np.arange(600) // 2, "kind": "", "suite": "s"}
    parts = []
    for cell, error in ERROR.items():
        model, _, budget = cell.partition("_v")
        lost = (hard > 1 - error).astype(float)
        parts.append(pd.DataFrame({**frame, "cell": cell, "model": model, "budget": budget, "lost": lost}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table():
    frame = pd.DataFrame({"cell": [*COST], "total_ms": [*COST.values()], "model": [c[0] for c in COST]})
    return frame.assign(
        total_ms_p95=frame.total_ms * 2,
        n_visual_tokens=[0, 16, 64, 0, 16, 64],
        n_text_tokens=10.0,
        n_generated_tokens=2.0,
        flops=np.nan,
    )


def test_front_choice_and_limit(judged, table):
    found = decide(Paired.of(judged), table, Wishes(worse_by=0.04, limit_ms=9.0))
    beaten = {a for a, b in itertools.permutations(COST, 2) if COST[b] <= COST[a] and ERROR[b] <= ERROR[a]}
    assert found.front == tuple(cell for cell in COST if cell not in beaten)
    assert found.best == "b_v64" and found.good_enough == "b_v16"  # a_v64 is 0.05 worse
    assert found.confidence["a_v64"] < 0.95 < found.confidence["b_v16"]
    assert set(found.fitting) == {"a_v0", "a_v16", "b_v0", "a_v64"} and found.best_fitting == "a_v64"
    assert found.beside_best.value == pytest.approx(0.05, abs=0.003)
    assert decide(Paired.of(judged), table, Wishes(worse_by=0.2)).good_enough == "a_v64"


def test_costs(judged, table):
    prices = {"a": Price(read=1.0, written=10.0), "b": Price.parse("2/10", where="b")}
    money = cost_of(table, Wishes(cost="money", prices=prices))
    assert money["b_v16"] == pytest.approx((26 * 2 + 2 * 10) * 1000 / 1e6)
    # By the hour: a thousand replies of so many ms, one after the other; where a rate is known, at that rate.
    hourly = {"a": Price(per_hour=3.6), "b": Price.parse(" 7.2/h", where="b")}
    alone = cost_of(table, Wishes(cost="money", prices=hourly))
    ms = table.set_index("cell").total_ms
    assert alone["b_v16"] == pytest.approx(7.2 / 3600 * ms["b_v16"]) and alone["a_v0"] == pytest.approx(
        ms["a_v0"] / 1000
    )
    loaded = table.assign(requests_per_second=np.where(table.cell == "b_v16", 50.0, np.nan))
    assert cost_of(loaded, Wishes(cost="money", prices=hourly)) == alone | {"b_v16": pytest.approx(7.2 / 3600 * 20)}
    with pytest.raises(UserError, match=r"'flops' of a_v0 is not known.*--params"):
        cost_of(table, Wishes(cost="flops"))


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(cost="money", prices={"a": Price(read=1)}), r"needs a price of b; give --price b=IN/OUT.*X/h"),
        (Wishes(prices={"c": Price(read=1)}), r"a price is given of 'c', which is none of the models: a, b"),
        (Wishes(cost="flops"), r"needs the parameters of b.*--params b=7B"),
    ],
)
def test_a_cost_that_cannot_be_known_is_refused_before_anything_is_asked(wishes, said):
    with pytest.raises(UserError, match=said):
        check_costs(wishes, [Model(name="a", n_params=1e9), Model(name="b")])


@pytest.mark.parametrize("text", ["", "cheap", "1", "1/", "-1/2", "nan/1", "h", "inf/h"])
def test_a_price_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"--price x: found .*expected IN/OUT for a million tokens"):
        Price.parse(text, where="--price x")


def test_without_the_image_and_the_least_that_does(judged):
    a, b = blind_facts(judged)
    assert (a.model, a.cell, b.cell) == ("a", "a_v64", "b_v64")
    assert a.right_without == pytest.approx(0.3, abs=0.003) and a.gained == pytest.approx(0.5, abs=0.01) and a.lost == 0
    least = least_of_each(judged)
    assert len(least) == 2 * 600
    for row in least.iloc[::97].itertuples():
        own = judged[(judged.model == row.model) & (judged.question == row.question)]
        right = [budget for budget, lost in zip(own.budget, own.lost, strict=True) if not lost]
        assert row.budget == (min(right, key=int) if right else "never")
    shares = least_tokens(judged).set_index(["model", "budget"]).share
    wanted = {("a", "0"): 0.3, ("a", "16"): 0.2, ("a", "64"): 0.15, ("a", "never"): 0.35, ("b", "64"): 0.01}
    assert {key: shares[key] for key in wanted} == pytest.approx(wanted, abs=0.004)


def test_a_perfect_router_takes_the_cheapest_right_cell(judged, table):
    found = decide(Paired.of(judged), table, Wishes())
    routed = perfect_router(judged, found)
    cost = 0.0
    for _, rows in judged.groupby("question"):
        right = [COST[cell] for cell, lost in zip(rows.cell, rows.lost, strict=True) if lost == 0]
        cost += min(right, default=min(COST.values())) / 600
    assert routed.error == pytest.approx(0.3, abs=0.003)
    assert routed.cost == pytest.approx(cost) == pytest.approx(routed.cost_at_best_error)
    assert routed.best_cost == 8.0


def test_a_rule_is_found_where_there_is_one_and_not_in_noise(judged, table):
    found = decide(Paired.of(judged), table, Wishes(worse_by=0.03))
    assert rules(judged, found) == []
    wide = judged.pivot(index="question", columns="cell", values="lost")
    enough = judged.question.map(wide["b_v64"])  # on small images few tokens are as good as any
    easy = judged.assign(lost=np.where((judged.width < 250) & (judged.cell == "a_v16"), enough, judged.lost))
    (rule,) = rules(easy, decide(Paired.of(easy), table, Wishes(worse_by=0.03)))
    assert rule.by == "image size" and rule.saving == pytest.approx(0.3, abs=0.02)
    assert rule.cells == {"to 158 x 158 px": "a_v16", "above 158 x 158 px": "b_v16"}
    widths = dict(zip(wide.index, np.random.default_rng(1).permutation(600), strict=True))
    assert rules(easy.assign(width=easy.question.map(widths)), found) == []

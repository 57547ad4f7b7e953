"""How fast fits, the command line, bootstraps and the authors' brute force are on one machine; prints a table.

Seconds of `vlmlaw law fit` are those of CPU of a process of its own, with its start: of the published table, and of a
table with a row for each of 20,000 questions. The least of several repeats is what a machine without other work takes.

The brute force is that of Li et al. 2024: a grid of 50 x 100 x 100 x 10 values of A, alpha, beta and D, one at a time
in Python, of which a part is timed and the rest extrapolated; its best loss is that of the whole grid.

    python benchmarks/law_speed.py
"""

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlmlaw.laws import fit_law, read_measurements
from vlmlaw.laws.bootstrap import residual_bootstrap
from vlmlaw.laws.cells import Cells
from vlmlaw.laws.families import DEFAULT_CANDIDATES
from vlmlaw.laws.fit import fit_cells
from vlmlaw.laws.render import render_table

GRID = {"A": (0.1, 2.0, 50), "alpha": (0.001, 0.3, 100), "beta": (0.001, 0.3, 100), "D": (0.0, 0.4, 10)}
BRUTE_SAMPLE = 20_000


def timed(what: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Least and median wall time in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        what()
        times.append(time.perf_counter() - start)
    return min(times), float(np.median(times))


def brute_force_seconds(cells: Cells) -> float:
    """Seconds that the whole grid would take, one point at a time, from a part of it."""
    axes = [np.linspace(*ends) for ends in GRID.values()]
    points = itertools.islice(itertools.product(*axes), BRUTE_SAMPLE)
    n, v, error = cells.n, cells.v, cells.error
    best, start = np.inf, time.perf_counter()
    for a, alpha, beta, d in points:
        best = min(best, float(np.sum((a * n**-alpha * v**-beta + d - error) ** 2)))
    return (time.perf_counter() - start) / BRUTE_SAMPLE * np.prod([ends[2] for ends in GRID.values()])


def brute_force_loss(cells: Cells) -> tuple[float, float]:
    """Least loss on the grid, and the seconds to evaluate all of it at once: the loss is quadratic in A and D."""
    start = time.perf_counter()
    a, alpha, beta, d = (np.linspace(*ends) for ends in GRID.values())
    in_n, in_v = np.exp(-np.outer(alpha, cells.ln_n)), np.exp(-np.outer(beta, cells.ln_v))
    error = cells.error
    square, first, cross = (in_n**2) @ (in_v**2).T, in_n @ in_v.T, (in_n * error) @ in_v.T
    a, d = a[:, None, None, None], d[:, None, None]
    loss = a**2 * square + 2 * a * (d * first - cross) + len(cells) * d**2 - 2 * d * error.sum() + error @ error
    return float(loss.min()), time.perf_counter() - start


def big_grid(n_cells: int) -> Cells:
    """Cells of a law with noise, each at its own N and V."""
    rng = np.random.default_rng(0)
    n, v = np.exp(rng.uniform(np.log(0.1), np.log(70), n_cells)), rng.integers(1, 1024, n_cells)
    return Cells.of(n, v, 0.6 * n**-0.07 * v**-0.02 + rng.normal(0, 0.005, n_cells))


def question_table(folder: Path) -> Path:
    """A CSV with a row for each question: five sizes, eight token counts, 500 questions a cell, right or wrong."""
    rng = np.random.default_rng(0)
    n, v = (x.ravel() for x in np.meshgrid([0.5, 1.8, 4, 7, 14], [1, 4, 16, 36, 64, 144, 256, 576], indexing="ij"))
    right = rng.random((n.size, 500)) < 1 / (1 + np.exp(0.4 - 0.15 * np.log(n) - 0.05 * np.log(v)))[:, None]
    path = folder / "questions.csv"
    rows = (f"{a:g},{b:g},{int(score)}\n" for a, b, row in zip(n, v, right, strict=True) for score in row)
    path.write_text("params_b,visual_tokens,score\n" + "".join(rows))
    return path


def command_seconds(table: str) -> float:
    """CPU seconds of `vlmlaw law fit` of a table, start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "vlmlaw", "law", "fit", table], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command_rows(*, repeats: int) -> list[list[str]]:
    """Rows of the table for the command line."""
    with tempfile.TemporaryDirectory() as folder:
        questions = str(question_table(Path(folder)))
        rows = []
        for what, name, wanted in (("28 cells", "li2024_reasoning", 1000), ("20,000 questions", questions, 3000)):
            times = [1e3 * command_seconds(name) for _ in range(repeats)]
            rows.append([f"vlmlaw law fit, {what}", f"{np.median(times):.0f}", f"{min(times):.0f}", f"{wanted}"])
    return rows


def main() -> None:
    table = read_measurements("li2024_reasoning")
    cells, large = table.cells(), big_grid(10_000)
    rows, fit_seconds = [], {}
    for law in ("power", "power_d0", "logit"):
        least, median = timed(lambda law=law: fit_law(table, law), repeats=50)
        fit_seconds[law] = median
        rows.append([f"fit {law}, 28 cells, linted", f"{1e3 * median:.2f}", f"{1e3 * least:.2f}", "10"])
    for law in DEFAULT_CANDIDATES:
        least, median = timed(lambda law=law: fit_cells(cells, law), repeats=50)
        rows.append([f"fit {law}, 28 cells", f"{1e3 * median:.2f}", f"{1e3 * least:.2f}", "5"])
    rows += command_rows(repeats=5)
    for law in ("log_linear", "logit", "probit", "cloglog", "power_d0"):
        fit = fit_cells(cells, law)
        least, median = timed(lambda fit=fit: residual_bootstrap(fit, n_draws=10_000), repeats=7)
        rows.append([f"10,000 bootstrap draws, {law}", f"{1e3 * median:.1f}", f"{1e3 * least:.1f}", "100"])
    for law in ("power", "logit", "additive"):
        least, median = timed(lambda law=law: fit_cells(large, law), repeats=3)
        rows.append([f"fit {law}, 10,000 cells", f"{1e3 * median:.0f}", f"{1e3 * least:.0f}", "1000"])
    print(render_table(["what", "median ms", "least ms", "wanted"], rows))

    brute, (loss, at_once) = brute_force_seconds(cells), brute_force_loss(cells)
    ours = fit_cells(cells, "power").sse
    print(f"\nbrute force, 5,000,000 points: {brute:.1f} s one by one (from {BRUTE_SAMPLE:,}), {at_once:.3f} s at once")
    print(f"fit power: {1e3 * fit_seconds['power']:.2f} ms, {brute / fit_seconds['power']:,.0f} times as fast")
    print(f"loss: {ours:.9g} against {loss:.9g} on the grid ({loss / ours:.4f} of ours)")


if __name__ == "__main__":
    main()

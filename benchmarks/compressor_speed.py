"""Milliseconds and memory of every compressor at each V, beside average pooling at the same V.

    python benchmarks/compressor_speed.py                        # 24 x 24 patches of width 1024, batch 32
    python benchmarks/compressor_speed.py --batch 4 --repeats 3  # a laptop

Forward pass alone, without gradients; four levels and a question of 32 tokens of width 4096 for those that read
them. The time is the best of the repeats; on one CPU thread it is that thread's own, in which a busy machine shows
little. A ratio is to average pooling at the same V, whose runs alternate with the compressor's; the row `avg_pool2d` is
torch's own pooling of the same numbers, as a view whose channels come last. Memory is the most that was allocated
during the pass above its inputs and weights, the tokens included, as torch's profiler (CPU) or allocator (CUDA) saw it.
Prints a Markdown table for each of the two; progress goes to stderr.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's log lines; read when torch is loaded

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vlmlaw.compressors import COMPRESSORS, Compressor, build_compressor

BASELINE = "average"
TORCHS = "avg_pool2d"
OPTIONS: dict[str, dict[str, Any]] = {name: {"key_width": 4096} for name in ("text_guided", "cdpruner")}
MULTI_LEVEL, N_LEVELS = ("tokenpacker", "quecc"), 4
QUESTION_WIDTH, N_QUESTION_TOKENS = 4096, 32


def make_inputs(arguments: argparse.Namespace, n_levels: int) -> dict[str, Tensor]:
    batch, n_patches, device = arguments.batch, arguments.grid_side**2, arguments.device
    dtype = getattr(torch, arguments.dtype)
    return {
        "patches_BPK": torch.randn(batch, n_patches, n_levels * arguments.width, device=device, dtype=dtype),
        "question_BTD": torch.randn(batch, N_QUESTION_TOKENS, QUESTION_WIDTH, device=device, dtype=dtype),
        "importance_BP": torch.rand(batch, n_patches, device=device, dtype=dtype) / n_patches,
        "keys_BPH": torch.randn(batch, n_patches, QUESTION_WIDTH, device=device, dtype=dtype),
    }


def best_milliseconds(runs: list[Callable[[], Any]], arguments: argparse.Namespace) -> list[float]:
    """The best time of each, their runs alternating: what disturbs one disturbs the others."""
    # One thread's own time is what it would take on a core that nothing else wants.
    now = time.process_time if (arguments.device, arguments.threads) == ("cpu", 1) else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    while len(times[0]) < arguments.repeats or sum(times[0]) < arguments.least_ms:
        for run, own in zip(runs, times, strict=True):
            start = now()
            run()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            own.append(1e3 * (now() - start))
    return [min(own) for own in times]


def peak_megabytes(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    del kept
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


class Measured(NamedTuple):
    """A compressor's figures, and average pooling's of the same minutes."""

    milliseconds: float
    megabytes: float
    pooling_milliseconds: float
    pooling_megabytes: float


def built(name: str, n_tokens: int, n_levels: int, arguments: argparse.Namespace) -> Compressor:
    torch.manual_seed(0)
    with torch.device(arguments.device):
        compressor = build_compressor(
            name,
            arguments.grid_side,
            arguments.width,
            n_tokens,
            question_width=QUESTION_WIDTH,
            n_levels=n_levels,
            **OPTIONS.get(name, {}),
        )
    return compressor.to(getattr(torch, arguments.dtype)).eval()


def torchs_pooling(n_tokens: int, inputs: dict[str, Tensor], arguments: argparse.Namespace) -> Callable[[], Tensor]:
    """What pooling costs at the least: one call on a view of the patches."""
    side, patches = arguments.grid_side, inputs["patches_BPK"][..., -arguments.width :]
    image = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    kernel = side // math.isqrt(n_tokens)
    return lambda: F.avg_pool2d(image, kernel)


def measure(name: str, n_tokens: int, inputs: dict[str, Tensor], arguments: argparse.Namespace) -> Measured:
    n_levels = inputs["patches_BPK"].shape[2] // arguments.width
    pooling = partial(built(BASELINE, n_tokens, n_levels, arguments), **inputs)
    if name == TORCHS:
        run: Callable[[], Any] = torchs_pooling(n_tokens, inputs, arguments)
    else:
        run = partial(built(name, n_tokens, n_levels, arguments), **inputs)
    with torch.inference_mode():
        # These are also the first runs, which are not timed.
        megabytes, of_pooling = (peak_megabytes(each, arguments.device) for each in (run, pooling))
        milliseconds, pooling_milliseconds = best_milliseconds([run, pooling], arguments)
    return Measured(milliseconds, megabytes, pooling_milliseconds, of_pooling)


def can_make(name: str, grid_side: int) -> list[int]:
    if name == TORCHS:
        return [side**2 for side in range(1, grid_side) if grid_side % side == 0]
    allowed = COMPRESSORS[name].allowed_tokens(grid_side)
    pooled = set(COMPRESSORS[BASELINE].allowed_tokens(grid_side))
    return [n_tokens for n_tokens in allowed if n_tokens in pooled]


def measure_all(arguments: argparse.Namespace) -> dict[tuple[str, int], Measured]:
    measured = {}
    names = [BASELINE, TORCHS, *(name for name in COMPRESSORS if name != BASELINE and name in arguments.names)]
    for n_levels in (1, N_LEVELS):
        inputs = make_inputs(arguments, n_levels)
        for name in names:
            if (name in MULTI_LEVEL) != (n_levels == N_LEVELS):
                continue
            possible = can_make(name, arguments.grid_side)
            for n_tokens in (n for n in arguments.tokens if n in possible):
                found = measured[name, n_tokens] = measure(name, n_tokens, inputs, arguments)
                print(f"{name} V={n_tokens}: {found.milliseconds:.3g} ms, {found.megabytes:.3g} MB", file=sys.stderr)
    return measured


def with_ratio(value: float, unit: float) -> str:
    return f"{value:.3g} ({value / unit:.2g})" if unit else f"{value:.3g}"


def print_table(
    title: str, measured: dict[tuple[str, int], tuple[float, float]], tokens: list[int], n_patches: int
) -> None:
    """Each quantity, and in brackets its ratio to average pooling's at the same V, if pooling does anything there."""
    print(f"\n{title} (ratio to `{BASELINE}` at the same V)\n")
    print("| compressor | " + " | ".join(f"V={n_tokens}" for n_tokens in tokens) + " |")
    print("|---" + "|--:" * len(tokens) + "|")
    for name in dict.fromkeys(name for name, _ in measured):
        found = [(n_tokens, measured.get((name, n_tokens))) for n_tokens in tokens]
        cells = ["" if both is None else with_ratio(both[0], both[1] if n < n_patches else 0) for n, both in found]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--grid-side", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 36, 64, 144, 576])
    # Those at inference compute what others do; where the image is made smaller, there is nothing left to compute.
    own = [name for name, kind in COMPRESSORS.items() if not (name.endswith("_at_inference") or kind.before_tower)]
    parser.add_argument("--names", nargs="+", default=own, choices=list(COMPRESSORS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, at least")
    parser.add_argument("--least-ms", type=float, default=500, help="the quick are run for as long: pauses drop out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cpus = f"{arguments.threads} of {os.cpu_count()} CPUs"
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else cpus
    print(
        f"{arguments.batch} images of {arguments.grid_side**2} patches of width {arguments.width}, {arguments.dtype}, "
        f"{device}, torch {torch.__version__}, best of {arguments.repeats} or more"
    )
    measured = measure_all(arguments)
    for title, which in (("Milliseconds", 0), ("Megabytes", 1)):
        chosen = {key: (found[which], found[which + 2]) for key, found in measured.items()}
        print_table(title, chosen, arguments.tokens, arguments.grid_side**2)


if __name__ == "__main__":
    main()

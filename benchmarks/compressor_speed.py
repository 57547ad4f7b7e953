"""Milliseconds and memory of every compressor at each V, beside average pooling at the same V.

    python benchmarks/compressor_speed.py                        # 24 x 24 patches of width 1024, batch 32
    python benchmarks/compressor_speed.py --batch 4 --repeats 3  # a laptop

Forward pass alone, without gradients; four levels and a question of 32 tokens of width 4096 for those that read
them. The time is the best of the repeats; on one CPU thread it is that thread's own, in which a busy machine shows
little. Memory is the most that was allocated during the pass above its inputs and weights, the tokens included, as
torch's profiler (CPU) or allocator (CUDA) saw it. Prints a Markdown table for each of the two; progress goes to stderr.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's log lines; read when torch is loaded

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vlmlaw.compressors import COMPRESSORS, Compressor, build_compressor

BASELINE = "average"
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


def best_milliseconds(run: Callable[[], Any], arguments: argparse.Namespace) -> float:
    # One thread's own time is what it would take on a core that nothing else wants.
    now = time.process_time if (arguments.device, arguments.threads) == ("cpu", 1) else time.perf_counter
    times: list[float] = []
    while len(times) < arguments.repeats or sum(times) < arguments.least_ms:
        start = now()
        run()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (now() - start))
    return min(times)


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


def measure(name: str, n_tokens: int, inputs: dict[str, Tensor], arguments: argparse.Namespace) -> tuple[float, float]:
    """(milliseconds, megabytes) of one compressor."""
    torch.manual_seed(0)
    with torch.device(arguments.device):
        compressor: Compressor = build_compressor(
            name,
            arguments.grid_side,
            arguments.width,
            n_tokens,
            question_width=QUESTION_WIDTH,
            n_levels=inputs["patches_BPK"].shape[2] // arguments.width,
            **OPTIONS.get(name, {}),
        )
    compressor = compressor.to(getattr(torch, arguments.dtype)).eval()

    def run() -> Tensor:
        return compressor(**inputs)

    with torch.inference_mode():
        megabytes = peak_megabytes(run, arguments.device)  # and the first run, which is not timed
        return best_milliseconds(run, arguments), megabytes


def measure_all(arguments: argparse.Namespace) -> dict[tuple[str, int], tuple[float, float]]:
    measured = {}
    names = [BASELINE, *(name for name in COMPRESSORS if name != BASELINE and name in arguments.names)]
    for n_levels in (1, N_LEVELS):
        inputs = make_inputs(arguments, n_levels)
        for name in names:
            if (name in MULTI_LEVEL) != (n_levels == N_LEVELS):
                continue
            for n_tokens in arguments.tokens:
                if n_tokens in COMPRESSORS[name].allowed_tokens(arguments.grid_side):
                    milliseconds, megabytes = measure(name, n_tokens, inputs, arguments)
                    print(f"{name} V={n_tokens}: {milliseconds:.3g} ms, {megabytes:.3g} MB", file=sys.stderr)
                    measured[name, n_tokens] = milliseconds, megabytes
    return measured


def with_ratio(value: float, unit: float | None) -> str:
    return f"{value:.3g} ({value / unit:.2g})" if unit else f"{value:.3g}"


def print_table(title: str, measured: dict[tuple[str, int], float], tokens: list[int], n_patches: int) -> None:
    """Each quantity, and in brackets its ratio to average pooling's at the same V, if pooling does anything there."""
    print(f"\n{title} (ratio to `{BASELINE}` at the same V)\n")
    print("| compressor | " + " | ".join(f"V={n_tokens}" for n_tokens in tokens) + " |")
    print("|---" + "|--:" * len(tokens) + "|")
    for name in dict.fromkeys(name for name, _ in measured):
        values = [(measured.get((name, n)), measured.get((BASELINE, n)) if n < n_patches else None) for n in tokens]
        cells = ["" if value is None else with_ratio(value, unit) for value, unit in values]
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
        chosen = {key: both[which] for key, both in measured.items()}
        print_table(title, chosen, arguments.tokens, arguments.grid_side**2)


if __name__ == "__main__":
    main()

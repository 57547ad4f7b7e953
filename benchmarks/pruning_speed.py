"""Measured latency beside FLOPs where tokens are taken out inside the LLM: does a method save what it promises?

    python benchmarks/pruning_speed.py                    # 576 patches and 50 text tokens, 16 layers of width 256
    python benchmarks/pruning_speed.py --width 4096 --layers 32 --heads 32 --device cuda --dtype bfloat16

Prefill of one prompt by an untrained LLM, the tower's features given, beside the same LLM that reads all patches and
one that reads average pooling's V. Runs of all methods alternate and the best of each counts, so that a busy machine
disturbs them alike; on one CPU thread the time is that thread's own. Prints a Markdown table.
"""

import argparse
import time

import torch
from transformers import CLIPVisionConfig, Qwen2Config

from vlmlaw.vlm.config import VlmConfig
from vlmlaw.vlm.cost import inference_flops, mean_visual_tokens
from vlmlaw.vlm.model import VlmForConditionalGeneration

GRID, TOWER_WIDTH, IMAGE = 24, 32, 1
CASES = [("none", 576), ("average", 16), ("average", 64), ("fastv", 16), ("fastv", 64), ("dart", 64), ("vtw", 64)]
CASES += [("sparsevlm", 16), ("promptdistill", 36), ("pyramiddrop", 72)]


def build(name: str, n_tokens: int, arguments: argparse.Namespace) -> VlmForConditionalGeneration:
    torch.manual_seed(0)
    llm = Qwen2Config(
        vocab_size=1000,
        hidden_size=arguments.width,
        intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.heads,
    )
    tower = CLIPVisionConfig(
        image_size=14 * GRID,
        patch_size=14,
        hidden_size=TOWER_WIDTH,
        intermediate_size=TOWER_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    config = VlmConfig(
        vision_config=tower, text_config=llm, compressor=name, n_visual_tokens=n_tokens, image_token_id=IMAGE
    )
    return VlmForConditionalGeneration(config).to(arguments.device, getattr(torch, arguments.dtype)).eval()


@torch.inference_mode()
def milliseconds(model: VlmForConditionalGeneration, arguments: argparse.Namespace) -> float:
    """Of one prefill, to the logits of the last token."""
    own_time = (arguments.device, arguments.threads) == ("cpu", 1)
    now = time.process_time if own_time else time.perf_counter
    places = torch.full((1, model.compressor.n_input_tokens), IMAGE)
    text = torch.arange(2, 2 + arguments.text_tokens).unsqueeze(0)
    input_ids = torch.cat([places, text], dim=1).to(arguments.device)
    patches = torch.randn(1, GRID**2, TOWER_WIDTH, device=arguments.device, dtype=model.dtype)
    start = now()
    model(input_ids, patches=patches, logits_to_keep=1)
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (now() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in (("width", 256), ("layers", 16), ("heads", 4), ("text-tokens", 50)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = {case: build(*case, arguments) for case in CASES}
    times: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
    for _ in range(1 + arguments.repeats):
        for case, model in models.items():
            times[case].append(milliseconds(model, arguments))
    best = {case: min(found[1:]) for case, found in times.items()}  # the first run is not counted
    flops = {case: inference_flops(model, n_text_tokens=arguments.text_tokens).llm for case, model in models.items()}
    whole = ("none", GRID**2)
    print(
        f"{arguments.layers} layers of width {arguments.width}, {GRID**2} patches, {arguments.text_tokens} text "
        f"tokens, {arguments.dtype}, {arguments.device}, torch {torch.__version__}, best of {arguments.repeats}: "
        f"{best[whole]:.3g} ms and {flops[whole] / 1e9:.3g} GFLOPs for all patches\n"
    )
    print("| method | V kept | mean over layers | FLOPs, of all patches' | time, of all patches' |")
    print("|---|--:|--:|--:|--:|")
    for case, model in models.items():
        share = f"{flops[case] / flops[whole]:.3f} | {best[case] / best[whole]:.3f}"
        print(f"| `{case[0]}` | {case[1]} | {mean_visual_tokens(model):.0f} | {share} |")


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Rewrites the locks from pyproject.toml and torch.txt: `make lock`, then commit what changed.
#   cpu.txt           every package that any extra needs; what only a CUDA build of torch pulls in is left to torch
#   cuda.txt          the same and the CUDA packages, for a reproducible GPU machine
#   environment.yaml  cpu.txt as a conda environment, for `snakemake --software-deployment-method conda`
#   lmms-eval.yaml    a conda environment with lmms-eval, which wants torchvision and much else; see docs/benchmarks.md
set -euo pipefail
cd "$(dirname "$0")"
export UV_CUSTOM_COMPILE_COMMAND="make lock"
uv pip compile ../pyproject.toml --all-extras --constraint torch.txt --universal --python-version 3.11 \
    --no-annotate --no-emit-index-url --no-emit-find-links --output-file cuda.txt >/dev/null
grep -vE '^(cuda-|nvidia-|triton)' cuda.txt >cpu.txt
conda() { # conda SOURCE: its locked packages as a conda environment
    echo "# Written by \`make lock\` from $1, in full because Snakemake copies this file elsewhere."
    printf 'channels:\n  - conda-forge\ndependencies:\n  - python >=3.11,<3.14\n  - pip\n  - pip:\n'
    grep -vE '^ *#' | sed -E "s/'/''/g; s/(.*)/      - '\1'/"
}
conda cpu.txt <cpu.txt >environment.yaml
echo 'lmms-eval==0.7.3' | uv pip compile ../pyproject.toml - --extra train --constraint torch.txt --universal \
    --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links --no-header |
    conda 'lmms-eval and the extra `train`' >lmms-eval.yaml

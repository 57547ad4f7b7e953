#!/usr/bin/env bash
# Rewrites the locks from pyproject.toml and torch.txt: `make lock`, then commit what changed.
#   cpu.txt           every package that any extra needs; what only a CUDA build of torch pulls in is left to torch
#   cuda.txt          the same and the CUDA packages, for a reproducible GPU machine
#   environment.yaml  cpu.txt as a conda environment, for `snakemake --software-deployment-method conda`
set -euo pipefail
cd "$(dirname "$0")"
export UV_CUSTOM_COMPILE_COMMAND="make lock"
uv pip compile ../pyproject.toml --all-extras --constraint torch.txt --universal --python-version 3.11 \
    --no-annotate --no-emit-index-url --no-emit-find-links --output-file cuda.txt >/dev/null
grep -vE '^(cuda-|nvidia-|triton)' cuda.txt >cpu.txt
{
    echo "# Written by \`make lock\` from cpu.txt, in full because Snakemake copies this file elsewhere."
    printf 'channels:\n  - conda-forge\ndependencies:\n  - python >=3.11,<3.14\n  - pip\n  - pip:\n'
    grep -vE '^ *#' cpu.txt | sed -E "s/'/''/g; s/(.*)/      - '\1'/"
} >environment.yaml

"""The whole study: data, vision encoder, language models, a grid of VLMs, the scaling law, the report.

snakemake --cores 2                                                # the experiment of params.yaml
snakemake --cores 2 --configfile workflow/experiments/tiny.yaml    # another one, into its own results folder
snakemake --cores 2 --config measurements=my.csv                   # the law and report of a table of your own
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.18")
sys.path.insert(0, f"{workflow.basedir}/src")

from vlmlaw.engine import (
    give_up_hopeless_jobs,
    keep_the_locks_of_others,
    leave_out_unused_environments,
    record_inside_cluster_jobs,
)
from vlmlaw.lineage import BY_LMMS_EVAL, BY_METRIC, FIT
from vlmlaw.plan import Plan, use_this_interpreter
from vlmlaw.slurm import refuse_orphans
from vlmlaw.status import failed_cells

# A file given by --configfile is a whole experiment. Snakemake would merge it into params.yaml key by key, which
# would keep the default's sizes, so params.yaml is read only where no other is given.
if "grid" not in config:

    configfile: "params.yaml"


OWN_MEASUREMENTS = config.pop("measurements", None)

use_this_interpreter()
give_up_hopeless_jobs()
keep_the_locks_of_others()
leave_out_unused_environments()
if workflow.remote_exec:
    record_inside_cluster_jobs()
plan = Plan(config)
if plan.budget and workflow.is_main_process:
    print(plan.budget, file=sys.stderr)

OWN_RESULTS = f"{plan.results}/own/{Path(OWN_MEASUREMENTS or '').stem}"
MODEL_FILES = ["model.safetensors", "config.json"]
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
SPEAKING_MODEL_FILES = [*MODEL_FILES, "generation_config.json", *TOKENIZER_FILES]
CELL_MODEL_FILES = [*SPEAKING_MODEL_FILES, "processor_config.json"]
PICTURE_FILES = ["conversations.json", "index.npz", "images-00000.tar"]
# A pretrained model is not copied into the results: a small file says what it is.
ENCODER_FILES = ["model.json"] if plan.pretrained else MODEL_FILES
LANGUAGE_MODEL_FILES = (
    ["model.json", *TOKENIZER_FILES] if plan.pretrained else SPEAKING_MODEL_FILES
)
# Beside its log a job records what became of it, for retries and `vlmlaw status`; and it takes GPUs of its own.
JOB = (
    "python -m vlmlaw --log {log} --memory-mb {resources.mem_mb} --minutes {resources.runtime}"
    " --gpus {resources.gpu}"
    " --record {output.record} --code {params.code} --upstream {params.upstream}"
)
CELL = "{size}_v{n_visual_tokens}_{compressor}_s{seed}"
ELASTIC = "{size}_{compressor}_s{seed}"


pathvars:
    results=plan.results,
    logs=f"{plan.results}/logs",
    benchmarks=f"{plan.results}/benchmarks",


report: "workflow/report/workflow.rst"


wildcard_constraints:
    split="|".join([*plan.splits, "text"]),
    size="|".join(plan.sizes),
    n_visual_tokens="[0-9]+",
    compressor="|".join(plan.compressors),
    seed="[0-9]+",


include: "workflow/rules/common.smk"


if plan.pretrained:

    include: "workflow/rules/pretrained.smk"

else:

    include: "workflow/rules/data.smk"
    include: "workflow/rules/models.smk"


include: "workflow/rules/inputs.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/benchmarks.smk"
include: "workflow/rules/law.smk"
include: "workflow/rules/report.smk"


if OWN_MEASUREMENTS:

    include: "workflow/rules/own.smk"

    localrules:
        fit_own_law,
        write_own_report,


onstart:
    refuse_orphans(Path.cwd())


onerror:
    print(failed_cells(plan.experiment), file=sys.stderr)


# What takes seconds runs where Snakemake runs, beside which a cluster's queue would take longer.
localrules:
    all,
    data,
    models,
    cells,
    law,
    collect_measurements,
    fit_law,
    write_headline,
    write_report,


rule all:
    input:
        f"{OWN_RESULTS}/index.html"
        if OWN_MEASUREMENTS
        else "<results>/report/index.html",
        [] if OWN_MEASUREMENTS else "<results>/headline/errors.csv",
        # Named so that a cell that was deleted by hand is missed, although the report does not need it again.
        []
        if OWN_MEASUREMENTS
        else expand(
            "<results>/cells/{name}/model/model.safetensors", name=plan.trainings
        )
        + plan.evaluations
        + plan.cards,


rule data:
    input:
        plan.data_files,


rule models:
    input:
        f"<results>/encoder/{ENCODER_FILES[0]}",
        expand(
            "<results>/language_models/{size}/{file}",
            size=plan.sizes,
            file=LANGUAGE_MODEL_FILES[0],
        ),


rule cells:
    input:
        "<results>/measurements.csv",
        plan.cards,


rule law:
    input:
        "<results>/law/law.json",
        "<results>/headline/errors.csv",

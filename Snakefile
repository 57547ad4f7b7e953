"""The whole study: data, vision encoder, language models, a grid of VLMs, the scaling law, the report.

snakemake --cores 2                                                # the experiment of params.yaml
snakemake --cores 2 --configfile workflow/experiments/tiny.yaml    # another one, into its own results folder
snakemake --cores 2 --config measurements=my.csv                   # the law and report of a table of your own
snakemake --cores 2 --config measurements='[a.csv, b.csv]'         # of several, side by side

Rules are made from the table of stages, src/vlmlaw/workflow/stages.py.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")
sys.path.insert(0, f"{workflow.current_basedir}/src")

from vlmlaw.workflow import snakemake_patches
from vlmlaw.workflow.config import measurements_of, refuse_repeated_options, source_of
from vlmlaw.runtime.stop_switch import announce_head
from vlmlaw.workflow.head import await_saving
from vlmlaw.workflow.freshness import Freshness
from vlmlaw.workflow.models_plan import plan_of
from vlmlaw.workflow.plan import use_this_interpreter

# Snakemake merges what it is given over params.yaml key by key, so that is left out where a whole experiment is given.
# The experiment is `source.content`, which is read more strictly than Snakemake's `config`.
if snakemake_patches.is_head_process(workflow):
    refuse_repeated_options(sys.argv)
source = source_of(config, **snakemake_patches.config_given(workflow))
if source.reads_default:

    configfile: "params.yaml"


OWN = measurements_of(config)

use_this_interpreter()
plan = plan_of(source.content, source=source.name)
freshness = Freshness(workflow, plan)
OWN_RESULTS = f"{plan.results}/own"
OWN_PAGE = f"{OWN_RESULTS}/{'+'.join(OWN)}/index.html"
snakemake_patches.apply(
    workflow,
    is_verified=freshness.is_verified,
    digest=freshness.digest,
    is_finished=freshness.is_finished,
)
if snakemake_patches.is_head_process(workflow):
    await_saving(Path(plan.results))
    announce_head()
    print(f"experiment: {source.text}", file=sys.stderr)
    if plan.budget:
        print(plan.budget, file=sys.stderr)


include: "workflow/rules/common.smk"


rule all:
    input:
        OWN_PAGE if OWN else (lambda _: plan.targets),
    localrule: True


if OWN:

    include: "workflow/rules/own.smk"


include: "workflow/rules/targets.smk"
include: "workflow/rules/stages.smk"


if plan.design:

    include: "workflow/rules/design.smk"

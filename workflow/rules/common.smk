"""What all rules share: paths, what happens before and after a run, and what a rule's outputs are to Snakemake."""

from vlmlaw.report.templates_version import TEMPLATES
from vlmlaw.workflow.dvc_offer import refuse_what_dvc_has
from vlmlaw.workflow.head import pass_stop_on_to_jobs, refuse_orphans
from vlmlaw.workflow.stages import FIGURES


pathvars:
    results=plan.results,
    logs=f"{plan.results}/logs",
    benchmarks=f"{plan.results}/benchmarks",


report: "../report/workflow.rst"


wildcard_constraints:
    **plan.constraints(),


onstart:
    refuse_orphans(Path(plan.results))
    refuse_what_dvc_has(plan)
    pass_stop_on_to_jobs(Path(plan.results))


onerror:
    print(plan.failed(), file=sys.stderr)


def made_by(rule):
    """The rule's outputs; the report's figures are shown in Snakemake's own report too."""
    named = plan.outputs(rule)
    return named | {"files": [flagged(file) for file in named["files"]]}


def flagged(file):
    name = Path(file).stem
    if file.endswith("/"):
        return directory(file.rstrip("/"))
    if not file.endswith(".svg"):
        return file
    category, title = FIGURES[name]
    caption = str(TEMPLATES / f"{name}.rst")
    return report(file, caption=caption, category=category, labels={"figure": title})

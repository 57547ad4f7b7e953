"""The law and the report of tables of one's own (`--config measurements=FILE`); nothing is trained."""

import re

from vlmlaw.report.templates_version import templates_version
from vlmlaw.settings import to_json


localrules:
    fit_own_law,
    write_own_report,


wildcard_constraints:
    own="|".join(map(re.escape, OWN)),


rule fit_own_law:
    input:
        lambda w: OWN[w.own],
    output:
        f"{OWN_RESULTS}/{{own}}/law.json",
    log:
        f"{OWN_RESULTS}/{{own}}/logs/fit_own_law.log",
    benchmark:
        f"{OWN_RESULTS}/{{own}}/benchmarks/fit_own_law.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        measurements=lambda w: OWN[w.own],
        settings=lambda _: to_json(plan.experiment.law),
        code=plan.lineage.code("fit_law", {}),
    message:
        "Fit the law of {input}"
    shell:
        "python -m vlmlaw law fit {input:q} --settings {params.settings:q} --out {output:q}"
        " 2>&1 | tee {log:q}"


rule write_own_report:
    input:
        laws=[f"{OWN_RESULTS}/{name}/law.json" for name in OWN],
        measurements=list(OWN.values()),
    output:
        page=OWN_PAGE,
    log:
        f"{Path(OWN_PAGE).parent}/logs/write_own_report.log",
    benchmark:
        f"{Path(OWN_PAGE).parent}/benchmarks/write_own_report.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        tables=[
            f"--{option}={value}"
            for name, table in OWN.items()
            for option, value in (
                ("law", f"{OWN_RESULTS}/{name}/law.json"),
                ("measurements", f"{name}={table}" if len(OWN) > 1 else table),
            )
        ],
        settings=plan.params("write_report")["settings"],
        code=plan.lineage.code("write_report", {}),
        templates=templates_version(),
    message:
        "Draw the figures and write the report of {input.measurements}"
    shell:
        "python -m vlmlaw report {params.tables:q}"
        ' --settings {params.settings:q} --out "$(dirname {output.page:q})"'
        " > {log:q} 2>&1"

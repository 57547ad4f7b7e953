"""The law and the report of a table of one's own (`--config measurements=FILE`); nothing is trained."""

from vlmlaw.report.templates_version import templates_version
from vlmlaw.settings import to_json


localrules:
    fit_own_law,
    write_own_report,


rule fit_own_law:
    input:
        OWN_MEASUREMENTS,
    output:
        f"{OWN_RESULTS}/law.json",
    log:
        f"{OWN_RESULTS}/logs/fit_own_law.log",
    benchmark:
        f"{OWN_RESULTS}/benchmarks/fit_own_law.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        measurements=OWN_MEASUREMENTS,
        settings=lambda _: to_json(plan.experiment.law),
        code=plan.lineage.code("fit_law", {}),
    message:
        "Fit the law of {input}"
    shell:
        "python -m vlmlaw law fit {input:q} --settings {params.settings:q} --out {output:q}"
        " 2>&1 | tee {log:q}"


rule write_own_report:
    input:
        law=f"{OWN_RESULTS}/law.json",
        measurements=OWN_MEASUREMENTS,
    output:
        page=f"{OWN_RESULTS}/index.html",
    log:
        f"{OWN_RESULTS}/logs/write_own_report.log",
    benchmark:
        f"{OWN_RESULTS}/benchmarks/write_own_report.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        settings=plan.params("write_report")["settings"],
        code=plan.lineage.code("write_report", {}),
        templates=templates_version(),
    message:
        "Draw the figures and write the report of {input.measurements}"
    shell:
        "python -m vlmlaw report --law {input.law:q} --measurements {input.measurements:q}"
        ' --settings {params.settings:q} --out "$(dirname {output.page:q})"'
        " > {log:q} 2>&1"

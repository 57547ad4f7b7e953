"""The law and the report of a table of one's own (`--config measurements=FILE`); nothing is trained."""


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
        settings=plan.law,
        code=plan.code(*FIT),
    message:
        "Fit the law of {input}"
    shell:
        "python -m vlmlaw law fit {input} --settings {params.settings:q} --out {output}"
        " 2>&1 | tee {log}"


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
        settings=plan.report,
        code=plan.code("vlmlaw.report.cli:run_report"),
        templates=templates_version(),
    message:
        "Draw the figures and write the report of {input.measurements}"
    shell:
        "python -m vlmlaw report --law {input.law} --measurements {input.measurements}"
        " --settings {params.settings:q} --out $(dirname {output.page})"
        " > {log} 2>&1"

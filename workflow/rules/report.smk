"""The figures and the page that tells the result."""


rule write_report:
    input:
        law="<results>/law/law.json",
        measurements="<results>/measurements.csv",
    output:
        page="<results>/report/index.html",
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        settings=plan.report,
        code=plan.code("vlmlaw.report"),
    message:
        "Write the report"
    shell:
        "python -m vlmlaw report --law {input.law} --measurements {input.measurements}"
        " --settings {params.settings:q} --out {output.page} > {log} 2>&1"

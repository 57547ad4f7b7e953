"""The scaling law of the measured cells."""


rule fit_law:
    input:
        "<results>/measurements.csv",
    output:
        "<results>/law/law.json",
    log:
        "<logs>/fit_law.log",
    benchmark:
        "<benchmarks>/fit_law.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        settings=plan.law,
        code=plan.code("vlmlaw.laws.cli"),
        upstream=plan.upstream_of("fit_law"),
    message:
        "Fit the law"
    shell:
        "python -m vlmlaw law fit {input} --settings {params.settings:q} --out {output}"
        " > {log} 2>&1"

"""The scaling law of the measured cells, and the study in a few numbers."""


rule fit_law:
    input:
        measurements="<results>/measurements.csv",
        again=again("fit_law"),
    output:
        law="<results>/law/law.json",
        record="<results>/law/record.json",
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
        code=plan.code(*FIT),
        upstream=plan.upstream_of("fit_law"),
    message:
        "Fit the law"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code} --upstream {params.upstream}"
        " law fit {input.measurements} --settings {params.settings:q} --out {output.law}"
        " > {log} 2>&1"


rule write_headline:
    input:
        law="<results>/law/law.json",
        measurements="<results>/measurements.csv",
        trainings=[
            *plan.training_accounts,
            *expand("<results>/cells/{name}/training.json", name=plan.trainings),
        ],
        again=again("write_headline"),
    output:
        metrics=directory("<results>/headline/metrics"),
        errors="<results>/headline/errors.csv",
        record="<results>/headline/record.json",
    log:
        "<logs>/write_headline.log",
    benchmark:
        "<benchmarks>/write_headline.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=plan.code("vlmlaw.headline:write_headline"),
        upstream=plan.upstream_of("write_headline"),
    message:
        "Write the study's few numbers"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code} --upstream {params.upstream}"
        " headline --law {input.law} --measurements {input.measurements} --results $(dirname {input.measurements})"
        " --out $(dirname {output.errors})"
        " > {log} 2>&1"

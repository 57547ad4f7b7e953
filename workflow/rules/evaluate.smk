"""Every cell on the test split, and all cells in one table."""


rule evaluate_cell:
    input:
        model=lambda wildcards: multiext(
            f"{plan.model_of(wildcards)}/model/", *SPEAKING_MODEL_FILES
        ),
        training=lambda wildcards: f"{plan.model_of(wildcards)}/training.json",
        dataset=caches(
            "evaluate_cell",
            f"{plan.results}/data/test/conversations.json",
            f"{plan.results}/data/test/index.npz",
        ),
        tokens=caches("evaluate_cell", f"{plan.results}/tokens/test.npz"),
        images=caches("evaluate_cell", plan.images_of("test")),
        again=again("evaluate_cell"),
    output:
        evaluation=f"<results>/cells/{CELL}/evaluation.json",
        card=f"<results>/cells/{CELL}/README.md",
        record=f"<results>/cells/{CELL}/evaluation.record.json",
    log:
        f"<logs>/evaluate_cell/{CELL}.log",
    benchmark:
        f"<benchmarks>/evaluate_cell/{CELL}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("evaluate_cell", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("evaluate_cell"),
        runtime=plan.needs.minutes("evaluate_cell"),
        gpu=plan.needs.gpus("evaluate_cell"),
    params:
        settings=plan.evaluation,
        cell=plan.measured_of,
        code=plan.cell_code("vlmlaw.evaluate:evaluate_cell"),
        upstream=plan.upstream_of("evaluate_cell"),
    message:
        "Evaluate {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"
    shell:
        JOB
        + " evaluate --model $(dirname {input.model[0]}) --dataset $(dirname {input.dataset[0]})"
        " --tokens {input.tokens} --images $(dirname {input.images[0]})"
        " --settings {params.settings:q} --cell {params.cell:q} --out {output.evaluation}"
        " > {log} 2>&1"


rule collect_measurements:
    input:
        evaluations=plan.evaluations,
        again=again("collect_measurements"),
    output:
        measurements="<results>/measurements.csv",
        record="<results>/measurements.record.json",
    log:
        "<logs>/collect_measurements.log",
    benchmark:
        "<benchmarks>/collect_measurements.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
        experiment=plan.as_json,
    params:
        held_out=plan.held_out,
        code=plan.code("vlmlaw.measurements:collect"),
        upstream=plan.upstream_of("collect_measurements"),
    message:
        "Collect the measurements of all cells"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code} --upstream {params.upstream}"
        " collect --cells $(dirname {output.measurements})/cells --experiment {resources.experiment:q} --held-out={params.held_out:q} --out {output.measurements}"
        " > {log} 2>&1"

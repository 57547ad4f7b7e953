"""Every cell on each benchmark of the experiment: by the project's own metrics, or by lmms-eval. And its card."""


rule evaluate_benchmark:
    input:
        model=lambda wildcards: multiext(
            f"{plan.model_of(wildcards)}/model/", *SPEAKING_MODEL_FILES
        ),
        training=lambda wildcards: f"{plan.model_of(wildcards)}/training.json",
        questions=plan.questions_of,
        again=again("evaluate_benchmark"),
    output:
        scores=f"<results>/cells/{CELL}/benchmarks/{{benchmark}}.json",
        replies=f"<results>/cells/{CELL}/benchmarks/{{benchmark}}.jsonl",
        record=f"<results>/cells/{CELL}/benchmarks/{{benchmark}}.record.json",
    log:
        f"<logs>/evaluate_benchmark/{CELL}/{{benchmark}}.log",
    benchmark:
        f"<benchmarks>/evaluate_benchmark/{CELL}/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark="|".join(plan.benchmarks_by("vlmlaw")) or "none",
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("evaluate_benchmark", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("evaluate_benchmark", least=3000),
        runtime=plan.needs.minutes("evaluate_benchmark", least=240),
        gpu=plan.needs.gpus("evaluate_benchmark"),
        batch_size=plan.experiment.evaluation.batch_size,
    params:
        settings=plan.benchmark_of,
        cell=plan.measured_of,
        images=plan.images_of_benchmark,
        code=plan.cell_code(*BY_METRIC),
        upstream=plan.upstream_of("evaluate_benchmark"),
    message:
        "Ask {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed}) the questions of {wildcards.benchmark}"
    shell:
        JOB
        + " benchmark run --model $(dirname {input.model[0]}) --questions {input.questions:q}"
        " --images {params.images:q} --settings {params.settings:q} --cell {params.cell:q} --batch-size {resources.batch_size}"
        " --out {output.scores}"
        " 2>&1 | tee {log}"


rule evaluate_by_lmms_eval:
    input:
        model=multiext(f"<results>/cells/{CELL}/model/", *SPEAKING_MODEL_FILES),
        training=f"<results>/cells/{CELL}/training.json",
        again=again("evaluate_by_lmms_eval"),
    output:
        scores=f"<results>/cells/{CELL}/benchmarks/{{benchmark}}.json",
        record=f"<results>/cells/{CELL}/benchmarks/{{benchmark}}.record.json",
    log:
        f"<logs>/evaluate_by_lmms_eval/{CELL}/{{benchmark}}.log",
    benchmark:
        f"<benchmarks>/evaluate_by_lmms_eval/{CELL}/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark="|".join(plan.benchmarks_by("lmms-eval")) or "none",
    conda:
        "../../envs/lmms-eval.yaml"
    threads: plan.threads_of("evaluate_by_lmms_eval", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("evaluate_by_lmms_eval", least=8000),
        runtime=plan.needs.minutes("evaluate_by_lmms_eval", least=480),
        gpu=plan.needs.gpus("evaluate_by_lmms_eval"),
        batch_size=plan.experiment.evaluation.batch_size,
    params:
        settings=plan.benchmark_of,
        code=plan.cell_code(*BY_LMMS_EVAL),
        upstream=plan.upstream_of("evaluate_benchmark"),
    message:
        "Run lmms-eval's {wildcards.benchmark} on {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"
    shell:
        JOB
        + " benchmark lmms-eval --model $(dirname {input.model[0]}) --settings {params.settings:q}"
        " --batch-size {resources.batch_size} --out {output.scores}"
        " 2>&1 | tee {log}"


# Else the evaluation on the test split writes it, with its errors there.
if not plan.experiment.has_test:

    rule write_card:
        input:
            model=lambda wildcards: f"{plan.model_of(wildcards)}/model/config.json",
            training=lambda wildcards: f"{plan.model_of(wildcards)}/training.json",
            scores=[
                f"<results>/cells/{CELL}/benchmarks/{name}.json"
                for name in plan.benchmarks
            ],
            again=again("write_card"),
        output:
            card=f"<results>/cells/{CELL}/README.md",
            record=f"<results>/cells/{CELL}/card.record.json",
        log:
            f"<logs>/write_card/{CELL}.log",
        benchmark:
            f"<benchmarks>/write_card/{CELL}.tsv"
        conda:
            "../../envs/environment.yaml"
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            code=plan.code("vlmlaw.card:card_of_benchmarks"),
            upstream=plan.upstream_of("write_card"),
        message:
            "Write the card of {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"
        shell:
            "python -m vlmlaw --record {output.record} --code {params.code} --upstream {params.upstream}"
            " card --model $(dirname {input.model}) --out {output.card} {input.scores}"
            " > {log} 2>&1"

    localrules:
        write_card,

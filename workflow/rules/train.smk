"""One vision-language model for each cell of the grid, or one for all cells that share their weights."""


rule train_cell:
    input:
        language_model=multiext(
            "<results>/language_models/{size}/", *LANGUAGE_MODEL_FILES
        ),
        encoder=multiext("<results>/encoder/", *ENCODER_FILES),
        tokens=caches("train_cell", f"{plan.results}/tokens/train.npz"),
        images=caches("train_cell", plan.images_of("train")),
        aligned=plan.aligned_of,
        again=again("train_cell"),
    output:
        multiext(f"<results>/cells/{CELL}/model/", *CELL_MODEL_FILES),
        training=f"<results>/cells/{CELL}/training.json",
        history=f"<results>/cells/{CELL}/train.jsonl",
        record=f"<results>/cells/{CELL}/training.record.json",
    log:
        f"<logs>/train_cell/{CELL}.log",
    benchmark:
        f"<benchmarks>/train_cell/{CELL}.tsv"
    priority: plan.cell_priority
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("train_cell", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("train_cell"),
        runtime=plan.needs.minutes("train_cell"),
        gpu=plan.needs.gpus("train_cell"),
        checkpoint_seconds=plan.training_checkpoint_seconds,
        compute=plan.how_to_compute("train_cell"),
    params:
        settings=plan.cell_of,
        code=plan.cell_code("vlmlaw.train:train_cell"),
        upstream=plan.upstream_of("train_cell"),
    message:
        "Train {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"
    shell:
        JOB
        + " train --language-model $(dirname {input.language_model[0]}) --encoder $(dirname {input.encoder[0]})"
        " --tokens {input.tokens} --images $(dirname {input.images[0]}) --aligned {input.aligned}"
        " --settings {params.settings:q} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --compute {resources.compute:q}"
        " --out $(dirname {output.training})"
        " 2>&1 | tee {log}"


use rule train_cell as train_elastic with:
    input:
        language_model=multiext(
            "<results>/language_models/{size}/", *LANGUAGE_MODEL_FILES
        ),
        encoder=multiext("<results>/encoder/", *ENCODER_FILES),
        tokens=caches("train_elastic", f"{plan.results}/tokens/train.npz"),
        images=caches("train_elastic", plan.images_of("train")),
        aligned=plan.aligned_of,
        again=again("train_elastic"),
    output:
        multiext(f"<results>/cells/{ELASTIC}/model/", *CELL_MODEL_FILES),
        training=f"<results>/cells/{ELASTIC}/training.json",
        history=f"<results>/cells/{ELASTIC}/train.jsonl",
        record=f"<results>/cells/{ELASTIC}/training.record.json",
    log:
        f"<logs>/train_cell/{ELASTIC}.log",
    benchmark:
        f"<benchmarks>/train_cell/{ELASTIC}.tsv"
    message:
        "Train {wildcards.size} for every number of visual tokens ({wildcards.compressor}, seed {wildcards.seed})"

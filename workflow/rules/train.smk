"""One vision-language model for each cell of the grid."""


rule train_cell:
    input:
        language_model="<results>/language_models/{size}/model.safetensors",
        language_model_config="<results>/language_models/{size}/config.json",
        encoder="<results>/encoder/model.safetensors",
        encoder_config="<results>/encoder/config.json",
        tokenizer=rules.build_tokenizer.output,
        tokens="<results>/tokens/train.npz",
        features=plan.features_of("train"),
    output:
        weights=f"<results>/cells/{CELL}/model/model.safetensors",
        config=f"<results>/cells/{CELL}/model/config.json",
        training=f"<results>/cells/{CELL}/training.json",
        history=f"<results>/cells/{CELL}/train.jsonl",
    log:
        f"<logs>/train_cell/{CELL}.log",
    benchmark:
        f"<benchmarks>/train_cell/{CELL}.tsv"
    priority: plan.cell_priority
    conda:
        "../../envs/environment.yaml"
    threads: plan.compute.threads
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=plan.compute.gpus,
        checkpoint_seconds=plan.training_checkpoint_seconds,
    params:
        settings=plan.cell_of,
        code=plan.code("vlmlaw.train"),
    message:
        "Train {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"
    shell:
        "python -m vlmlaw train --language-model $(dirname {input.language_model}) --encoder $(dirname {input.encoder})"
        " --tokens {input.tokens} --features $(dirname {input.features[0]})"
        " --settings {params.settings:q} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --out $(dirname {output.training})"
        " 2>&1 | tee {log}"

"""The miniature's vision encoder, and one pretrained language model a size."""


rule train_encoder:
    input:
        train=caches(
            "train_encoder",
            *multiext(
                f"{plan.results}/data/train/", *PICTURE_FILES, "patch_labels.npz"
            ),
        ),
        development=caches(
            "train_encoder",
            *multiext(
                f"{plan.results}/data/development/", *PICTURE_FILES, "patch_labels.npz"
            ),
        ),
        again=again("train_encoder"),
    output:
        multiext("<results>/encoder/", *MODEL_FILES),
        training="<results>/encoder/training.json",
        record="<results>/encoder/record.json",
    log:
        "<logs>/train_encoder.log",
    benchmark:
        "<benchmarks>/train_encoder.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("train_encoder", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("train_encoder"),
        runtime=plan.needs.minutes("train_encoder"),
        gpu=plan.needs.gpus("train_encoder"),
        checkpoint_seconds=plan.encoder_checkpoint_seconds,
    params:
        settings=plan.encoder,
        code=plan.code("vlmlaw.encoder:train_encoder"),
        upstream=plan.upstream_of("train_encoder"),
    message:
        "Train the vision encoder"
    shell:
        JOB
        + " encoder train --train $(dirname {input.train[0]}) --development $(dirname {input.development[0]})"
        " --settings {params.settings:q} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --out $(dirname {output.training})"
        " 2>&1 | tee {log}"


rule pretrain_language_model:
    input:
        tokens=caches("pretrain_language_model", f"{plan.results}/tokens/text.npz"),
        tokenizer=caches(
            "pretrain_language_model",
            *multiext(f"{plan.results}/data/tokenizer/", *TOKENIZER_FILES),
        ),
        again=again("pretrain_language_model"),
    output:
        multiext("<results>/language_models/{size}/", *SPEAKING_MODEL_FILES),
        training="<results>/language_models/{size}/training.json",
        record="<results>/language_models/{size}/record.json",
    log:
        "<logs>/pretrain_language_model/{size}.log",
    benchmark:
        "<benchmarks>/pretrain_language_model/{size}.tsv"
    priority: plan.language_model_priority
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("pretrain_language_model", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("pretrain_language_model"),
        runtime=plan.needs.minutes("pretrain_language_model"),
        gpu=plan.needs.gpus("pretrain_language_model"),
        checkpoint_seconds=plan.pretraining_checkpoint_seconds,
    params:
        settings=plan.language_model_of,
        code=plan.code("vlmlaw.language_model:pretrain"),
        upstream=plan.upstream_of("pretrain_language_model"),
    message:
        "Pretrain the language model of size {wildcards.size} on text"
    shell:
        JOB
        + " language-model --tokens {input.tokens} --tokenizer $(dirname {input.tokenizer[0]})"
        " --settings {params.settings:q} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --out $(dirname {output.training})"
        " 2>&1 | tee {log}"

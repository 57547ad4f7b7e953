"""What a real experiment begins with: LLaVA-style data, and pretrained models of the hub or of folders here.

A model is not copied: its stage says which files it consists of, and loading it compares them.
"""


# Where Snakemake runs: a cluster's other nodes often have no way to the hub.
localrules:
    take_tokenizer,
    fetch_encoder,
    fetch_language_model,


rule prepare_pictures:
    input:
        conversations=plan.conversations_of,
        again=again("prepare_pictures"),
    output:
        images="<results>/data/{split}/images-00000.tar",
        index="<results>/data/{split}/index.npz",
        conversations="<results>/data/{split}/conversations.json",
        skipped="<results>/data/{split}/skipped.json",
        record="<results>/data/{split}/record.json",
    log:
        "<logs>/prepare_pictures/{split}.log",
    benchmark:
        "<benchmarks>/prepare_pictures/{split}.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    threads: plan.compute.threads
    resources:
        mem_mb=plan.needs.doubling(8000),
        runtime=plan.needs.doubling(720),
    params:
        settings=plan.pictures_of,
        code=plan.code("vlmlaw.data.llava:prepare_split"),
    message:
        "Read the conversations of the {wildcards.split} split and resize their images"
    shell:
        "python -m vlmlaw --read {input.conversations:q} --record {output.record} --code {params.code}"
        " data prepare --settings {params.settings:q} --threads {threads}"
        " --out $(dirname {output.index})"
        " 2>&1 | tee {log}"


rule take_tokenizer:
    input:
        again=again("take_tokenizer"),
    output:
        tokenizer=multiext("<results>/data/tokenizer/", *TOKENIZER_FILES),
        record="<results>/data/tokenizer/record.json",
    log:
        "<logs>/take_tokenizer.log",
    benchmark:
        "<benchmarks>/take_tokenizer.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=plan.needs.doubling(1000),
        runtime=plan.needs.doubling(30),
    params:
        settings=plan.tokenizer,
        code=plan.code("vlmlaw.tokenizers:take_tokenizer"),
    message:
        "Take the tokenizer of the first size"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code}"
        " fetch tokenizer --settings {params.settings:q} --out $(dirname {output.tokenizer[0]})"
        " > {log} 2>&1"


rule fetch_encoder:
    input:
        model=plan.local_files_of(plan.experiment.encoder_settings),
        again=again("fetch_encoder"),
    output:
        model="<results>/encoder/model.json",
        record="<results>/encoder/record.json",
    log:
        "<logs>/fetch_encoder.log",
    benchmark:
        "<benchmarks>/fetch_encoder.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=plan.needs.doubling(2000),
        runtime=plan.needs.doubling(120),
    params:
        settings=plan.encoder,
        code=plan.code("vlmlaw.hub:fetch_vision"),
    message:
        "Fetch the vision tower"
    shell:
        "python -m vlmlaw --read {input.model:q} --record {output.record} --code {params.code}"
        " fetch vision --settings {params.settings:q} --out $(dirname {output.model})"
        " 2>&1 | tee {log}"


rule fetch_language_model:
    input:
        model=plan.language_model_files_of,
        tokenizer=caches(
            "fetch_language_model",
            *multiext(f"{plan.results}/data/tokenizer/", *TOKENIZER_FILES),
        ),
        again=again("fetch_language_model"),
    output:
        multiext("<results>/language_models/{size}/", *LANGUAGE_MODEL_FILES),
        record="<results>/language_models/{size}/record.json",
    log:
        "<logs>/fetch_language_model/{size}.log",
    benchmark:
        "<benchmarks>/fetch_language_model/{size}.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=plan.needs.doubling(2000),
        runtime=plan.needs.doubling(240),
    params:
        settings=plan.language_model_of,
        code=plan.code("vlmlaw.hub:fetch_language_model"),
        upstream=plan.upstream_of("fetch_language_model"),
    message:
        "Fetch the language model of size {wildcards.size}"
    shell:
        "python -m vlmlaw --read {input.model:q} --record {output.record} --code {params.code} --upstream {params.upstream}"
        " fetch language-model --settings {params.settings:q} --tokenizer $(dirname {input.tokenizer[0]})"
        " --out $(dirname {output[0]})"
        " 2>&1 | tee {log}"


rule align_cell:
    input:
        language_model=multiext(
            "<results>/language_models/{size}/", *LANGUAGE_MODEL_FILES
        ),
        encoder=multiext("<results>/encoder/", *ENCODER_FILES),
        tokens=caches("align_cell", f"{plan.results}/tokens/align.npz"),
        images=caches("align_cell", plan.images_of("align")),
        again=again("align_cell"),
    output:
        f"<results>/cells/{CELL}/stage_1/connector.safetensors",
        training=f"<results>/cells/{CELL}/stage_1/training.json",
        history=f"<results>/cells/{CELL}/stage_1/train.jsonl",
        record=f"<results>/cells/{CELL}/stage_1/record.json",
    log:
        f"<logs>/align_cell/{CELL}.log",
    benchmark:
        f"<benchmarks>/align_cell/{CELL}.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("align_cell", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("align_cell"),
        runtime=plan.needs.minutes("align_cell"),
        gpu=plan.needs.gpus("align_cell"),
        checkpoint_seconds=plan.alignment_checkpoint_seconds,
        compute=plan.how_to_compute("align_cell"),
    params:
        settings=plan.alignment_of,
        code=plan.cell_code("vlmlaw.train:align_cell"),
        upstream=plan.upstream_of("align_cell"),
    message:
        "Stage 1 of {wildcards.size} with {wildcards.n_visual_tokens} visual tokens ({wildcards.compressor}, seed {wildcards.seed})"
    shell:
        JOB
        + " align --language-model $(dirname {input.language_model[0]}) --encoder $(dirname {input.encoder[0]})"
        " --tokens {input.tokens} --images $(dirname {input.images[0]})"
        " --settings {params.settings:q} --checkpoint-seconds {resources.checkpoint_seconds}"
        " --compute {resources.compute:q} --out $(dirname {output.training})"
        " 2>&1 | tee {log}"


use rule align_cell as align_elastic with:
    input:
        language_model=multiext(
            "<results>/language_models/{size}/", *LANGUAGE_MODEL_FILES
        ),
        encoder=multiext("<results>/encoder/", *ENCODER_FILES),
        tokens=caches("align_elastic", f"{plan.results}/tokens/align.npz"),
        images=caches("align_elastic", plan.images_of("align")),
        again=again("align_elastic"),
    output:
        f"<results>/cells/{ELASTIC}/stage_1/connector.safetensors",
        training=f"<results>/cells/{ELASTIC}/stage_1/training.json",
        history=f"<results>/cells/{ELASTIC}/stage_1/train.jsonl",
        record=f"<results>/cells/{ELASTIC}/stage_1/record.json",
    log:
        f"<logs>/align_cell/{ELASTIC}.log",
    benchmark:
        f"<benchmarks>/align_cell/{ELASTIC}.tsv"
    message:
        "Stage 1 of {wildcards.size} for every number of visual tokens ({wildcards.compressor}, seed {wildcards.seed})"


# Where Snakemake runs there is a way to the hub more often than on a cluster's nodes.
localrules:
    take_tokenizer,
    fetch_encoder,
    fetch_language_model,

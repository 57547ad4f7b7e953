"""What cells read: conversations as tokens, and images as cached features."""


rule tokenize:
    input:
        conversations="<results>/data/{split}/conversations.json",
        index="<results>/data/{split}/index.npz",
        tokenizer=multiext("<results>/data/tokenizer/", *TOKENIZER_FILES),
        again=again("tokenize"),
    output:
        tokens="<results>/tokens/{split}.npz",
        record="<results>/tokens/{split}.record.json",
    log:
        "<logs>/tokenize/{split}.log",
    benchmark:
        "<benchmarks>/tokenize/{split}.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=plan.needs.tokenizing_memory_mb,
        runtime=plan.needs.doubling(240 if plan.pretrained else 30),
    params:
        settings=plan.tokens_of,
        code=plan.code("vlmlaw.token_table:tokenize_dataset"),
        upstream=plan.upstream_of("tokenize"),
    message:
        "Turn the conversations of {wildcards.split} into tokens"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code} --upstream {params.upstream}"
        " data tokenize --dataset $(dirname {input.index}) --tokenizer $(dirname {input.tokenizer[0]})"
        " --settings {params.settings:q} --out {output.tokens}"
        " > {log} 2>&1"


rule cache_features:
    input:
        encoder=multiext("<results>/encoder/", *ENCODER_FILES),
        dataset=multiext("<results>/data/{split}/", *PICTURE_FILES),
        again=again("cache_features"),
    output:
        features=expand(
            "<results>/features/{{split}}/layer{layer}.npy", layer=plan.layers
        ),
        record="<results>/features/{split}/record.json",
    log:
        "<logs>/cache_features/{split}.log",
    benchmark:
        "<benchmarks>/cache_features/{split}.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    threads: plan.threads_of("cache_features", workflow)
    resources:
        mem_mb=plan.needs.memory_mb("cache_features", least=2500),
        runtime=plan.needs.minutes("cache_features", least=60),
        gpu=plan.needs.gpus("cache_features"),
    params:
        layers=plan.layers,
        code=plan.code("vlmlaw.images:cache_features"),
        upstream=plan.upstream_of("cache_features"),
    message:
        "Cache the encoder's patch features of {wildcards.split}"
    shell:
        JOB
        + " encoder features --encoder $(dirname {input.encoder[0]}) --dataset $(dirname {input.dataset[0]})"
        " --layers {params.layers} --out $(dirname {output.features[0]})"
        " > {log} 2>&1"

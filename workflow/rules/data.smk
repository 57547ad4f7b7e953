"""The miniature's pictures with questions, its text, and the tokenizer of both."""


rule draw_pictures:
    input:
        again=again("draw_pictures"),
    output:
        images="<results>/data/{split}/images-00000.tar",
        index="<results>/data/{split}/index.npz",
        conversations="<results>/data/{split}/conversations.json",
        labels="<results>/data/{split}/patch_labels.npz",
        record="<results>/data/{split}/record.json",
    log:
        "<logs>/draw_pictures/{split}.log",
    benchmark:
        "<benchmarks>/draw_pictures/{split}.tsv"
    wildcard_constraints:
        split="|".join(plan.splits),
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=plan.needs.doubling(1000),
        runtime=plan.needs.doubling(30),
    params:
        settings=plan.pictures_of,
        code=plan.code("vlmlaw.data.miniature:draw_split"),
    message:
        "Draw the pictures and questions of the {wildcards.split} split"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code}"
        " data pictures --split {wildcards.split} --settings {params.settings:q}"
        " --out $(dirname {output.index})"
        " > {log} 2>&1"


rule write_text:
    input:
        again=again("write_text"),
    output:
        conversations="<results>/data/text/conversations.json",
        index="<results>/data/text/index.npz",
        record="<results>/data/text/record.json",
    log:
        "<logs>/write_text.log",
    benchmark:
        "<benchmarks>/write_text.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=plan.text,
        code=plan.code("vlmlaw.data.miniature:write_corpus"),
    message:
        "Write the text that the language models are pretrained on"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code}"
        " data text --settings {params.settings:q} --out $(dirname {output.index})"
        " > {log} 2>&1"


rule build_tokenizer:
    input:
        again=again("build_tokenizer"),
    output:
        tokenizer=multiext("<results>/data/tokenizer/", *TOKENIZER_FILES),
        record="<results>/data/tokenizer/record.json",
    log:
        "<logs>/build_tokenizer.log",
    benchmark:
        "<benchmarks>/build_tokenizer.tsv"
    priority: plan.FIRST
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=plan.code("vlmlaw.data.miniature:write_tokenizer"),
    message:
        "Build the tokenizer"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code}"
        " data tokenizer --out $(dirname {output.tokenizer[0]})"
        " > {log} 2>&1"


localrules:
    write_text,
    build_tokenizer,

"""The rounds of a design: each a checkpoint, after which Snakemake asks again which cells there are."""


localrules:
    propose_cells,


checkpoint propose_cells:
    input:
        unpack(freshness.inputs("propose_cells")),
    output:
        **made_by("propose_cells"),
    log:
        "<logs>/propose_cells/{round}.log",
    benchmark:
        "<benchmarks>/propose_cells/{round}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        **plan.resources("propose_cells"),
    params:
        **plan.params("propose_cells"),
    message:
        plan.stages["propose_cells"].message
    shell:
        plan.command("propose_cells")


plan.design.require = lambda number: checkpoints.propose_cells.get(round=str(number))

"""Parts of the study to ask for by name."""


localrules:
    data,
    models,
    cells,
    law,


rule data:
    input:
        plan.data_files,


rule models:
    input:
        plan.model_files,


rule cells:
    input:
        "<results>/measurements.csv",
        lambda _: plan.cards,


rule law:
    input:
        plan.law_files,

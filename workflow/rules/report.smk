"""The figures and the page that tells the result."""

from vlmlaw.report import described, templates_version


rule write_report:
    input:
        law="<results>/law/law.json",
        measurements="<results>/measurements.csv",
        cells=expand("<results>/cells/{name}/training.json", name=plan.trainings),
        curves=expand("<results>/cells/{name}/train.jsonl", name=plan.trainings),
        trainings=plan.training_accounts,
        samples=caches("write_report", *plan.samples),
        again=again("write_report"),
    output:
        page="<results>/report/index.html",
        record="<results>/report/record.json",
        error_against_tokens=report(
            "<results>/report/figures/error_against_tokens.svg",
            caption="../../src/vlmlaw/report/templates/error_against_tokens.rst",
            category="Law",
            labels={"figure": "error against visual tokens"},
        ),
        error_against_flops=report(
            "<results>/report/figures/error_against_flops.svg",
            caption="../../src/vlmlaw/report/templates/error_against_flops.rst",
            category="Law",
            labels={"figure": "error against FLOPs, frontier"},
        ),
        best_tokens=report(
            "<results>/report/figures/best_tokens.svg",
            caption="../../src/vlmlaw/report/templates/best_tokens.rst",
            category="Law",
            labels={"figure": "best number of visual tokens"},
        ),
        contour=report(
            "<results>/report/figures/contour.svg",
            caption="../../src/vlmlaw/report/templates/contour.rst",
            category="Law",
            labels={"figure": "error over size and tokens"},
        ),
        grid=report(
            "<results>/report/figures/grid.svg",
            caption="../../src/vlmlaw/report/templates/grid.rst",
            category="Measurements",
            labels={"figure": "measured grid"},
        ),
        kinds=report(
            "<results>/report/figures/kinds.svg",
            caption="../../src/vlmlaw/report/templates/kinds.rst",
            category="Measurements",
            labels={"figure": "error by kind of question"},
        ),
        training=report(
            "<results>/report/figures/training.svg",
            caption="../../src/vlmlaw/report/templates/training.rst",
            category="Measurements",
            labels={"figure": "training curves"},
        ),
        predicted=report(
            "<results>/report/figures/predicted.svg",
            caption="../../src/vlmlaw/report/templates/predicted.rst",
            category="Trust",
            labels={"figure": "measured against predicted"},
        ),
        residuals=report(
            "<results>/report/figures/residuals.svg",
            caption="../../src/vlmlaw/report/templates/residuals.rst",
            category="Trust",
            labels={"figure": "residuals"},
        ),
        profiles=report(
            "<results>/report/figures/profiles.svg",
            caption="../../src/vlmlaw/report/templates/profiles.rst",
            category="Trust",
            labels={"figure": "profiles of rho and D"},
        ),
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        settings=plan.report,
        experiment=described(plan.experiment),
        code=plan.code("vlmlaw.report.cli:run_report"),
        upstream=plan.upstream_of("write_report"),
        templates=templates_version(),
    message:
        "Draw the figures and write the report"
    shell:
        "python -m vlmlaw --record {output.record} --code {params.code} --upstream {params.upstream}"
        " report --law {input.law} --measurements {input.measurements}"
        " --cells $(dirname $(dirname {input.cells[0]})) $(test -z '{input.trainings}' || echo --trainings $(dirname {input.trainings}))"
        " $(test -z '{input.samples}' || echo --samples $(dirname {input.samples} | uniq)) --experiment {params.experiment:q}"
        " --settings {params.settings:q} --out $(dirname {output.page})"
        " > {log} 2>&1"

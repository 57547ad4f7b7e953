"""A rule for each stage of the experiment, from its row in src/vlmlaw/workflow/stages.py."""

# The command is looked up again when a job runs, where `rule` is the name of the job's rule, as it is here.
for rule in plan.rules:

    rule:
        name:
            rule
        input:
            unpack(freshness.inputs(rule)),
        output:
            **made_by(rule),
        log:
            f"<logs>/{plan.stages[rule].log}.log",
        benchmark:
            f"<benchmarks>/{plan.stages[rule].log}.tsv"
        wildcard_constraints:
            **plan.own_constraints(rule),
        priority: plan.priority(rule)
        localrule: plan.stages[rule].local
        conda:
            f"../../envs/{plan.stages[rule].environment}.yaml"
        threads: plan.threads(rule, workflow)
        resources:
            **plan.resources(rule),
        params:
            **plan.params(rule),
        message:
            plan.stages[rule].message
        shell:
            plan.command(rule)

"""What rules ask about the results that are there already (see vlmlaw.upkeep)."""

from vlmlaw.upkeep import Upkeep

upkeep = Upkeep(workflow, behind=plan.behind, caches=plan.caches)


def again(job):
    """An input function: something new where the results cannot be trusted, so that the job runs."""
    return lambda wildcards: [local(file) for file in upkeep.again(job, wildcards)]


def caches(job, *files):
    """An input function: caches, which may be lost and made anew without rerunning all that once read them."""
    return lambda wildcards: upkeep.caches(job, wildcards, files)

"""What rules ask about the results that are there already (see vlmlaw.upkeep)."""

from vlmlaw.upkeep import Upkeep

upkeep = Upkeep(workflow, behind=plan.behind)


def again(job):
    """An input function: something new where the results cannot be trusted, so that the job runs."""
    return lambda wildcards: [local(file) for file in upkeep.again(job, wildcards)]


def caches(job, *files):
    """An input function: caches, which may be made anew without rerunning all that once read them."""
    return lambda wildcards: [
        ancient(file) for file in upkeep.caches(job, wildcards, files)
    ]

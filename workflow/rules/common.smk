"""What rules ask about the results that are there already (see vlmlaw.upkeep)."""

from vlmlaw.engine import ask_where_no_checksum_is_known
from vlmlaw.upkeep import Upkeep

upkeep = Upkeep(workflow, behind=plan.behind, results=plan.results, caches=plan.caches)
ask_where_no_checksum_is_known(upkeep.vouches, upkeep.digest)


def again(job):
    """An input function: something new where the results cannot be trusted, so that the job runs."""
    return lambda wildcards: [local(file) for file in upkeep.again(job, wildcards)]


def caches(job, *files):
    """An input function: caches, which may be lost and made anew without rerunning all that once read them."""
    return lambda wildcards: upkeep.caches(job, wildcards, files)

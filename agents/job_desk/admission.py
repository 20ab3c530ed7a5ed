"""What makes a request a job: the rules that types can't express, and the words for what is refused."""

import random
from collections.abc import Collection

from agents.job_desk.state import Job
from schemas.aggregation import LEAST_NODES
from schemas.ids import JobId
from schemas.jobs import JobRequest
from schemas.lengths import most_rounds

# Without i, l, o, 0 and 1, which are misread when an id is typed from a screen. 31^6: 900 million ids.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_ID_LENGTH = 6

FULL = "$"
"""The field at fault where the request as such is sound and there is only no room for it now."""

# Seconds between which a client is told to come back: no sooner than a job takes to be cleared away, no later than somebody
# who waits would look anyway; and where nothing tells how long jobs take.
_SOONEST, _LATEST, _UNKNOWN = 5.0, 3600.0, 60.0

Refusal = tuple[str, str]
"""JSON path of the field at fault, and the reason in words."""


def new_id(kind: str, taken: Collection[str], rng: random.Random) -> JobId:
    """A short id that nobody has, such as `train-7f3k2q`."""
    while True:
        job = f"{kind}-" + "".join(rng.choices(_ALPHABET, k=_ID_LENGTH))
        if job not in taken:
            return job


def objection(request: JobRequest) -> Refusal | None:
    """What is wrong with a request that decoded, or None. `$.resume` and the queue's bound are the desk's to judge."""
    if request.target_loss is not None and request.validate_every == 0:
        return "$.validate_every", "0 is never before the end, but target_loss is compared with validations: set 1 or more"
    if request.fragments is not None and request.sync != "overlap":
        reason = f'only sync = "overlap" exchanges the model in fragments, and sync is {request.sync}'
        return "$.fragments", f"{reason}: leave it out, or set sync too"
    return _in_averaging(request) or _in_waiting(request) or _in_microbatch(request) or _in_nodes(request)


def come_back(refusal: Refusal, unfinished: Collection[Job], now: float) -> float | None:
    """Seconds until the first of the jobs under way should have ended, at the pace of its rounds so far; None where waiting
    is of no use."""
    if refusal[0] != FULL:
        return None
    left = [
        (most_rounds(job.request) - job.round) * (now - job.running_since) / job.round
        for job in unfinished
        if job.round > 0 and job.running_since is not None
    ]
    return round(max(_SOONEST, min([_LATEST, *left])), 1) if left else _UNKNOWN


def _in_waiting(request: JobRequest) -> Refusal | None:
    """Where nobody waits for anybody, what needs all at once has no meaning."""
    if request.sync != "async":
        return None
    if request.outer != "average":
        reason = 'with sync = "async" an outer step has some nodes\' work in it, and momentum adds up what is stale'
        return "$.outer", f'{reason}: leave it at average, or take sync = "overlap"'
    if request.aggregation not in ("mean", "clip"):
        reason = f'{request.aggregation} compares all nodes\' differences, and with sync = "async" they come one by one'
        return "$.aggregation", f'{reason}: leave it out, or take sync = "overlap"'
    if request.adaptation == "proactive":
        reason = 'proactive weighs the seconds that all wait for a link, and with sync = "async" nobody waits'
        return "$.adaptation", f"{reason}: take reactive"
    return None


def _in_averaging(request: JobRequest) -> Refusal | None:
    """With gradients the job's own optimizer takes the step: there is none left for an outer one."""
    if request.sync == "step" and request.outer != "average":
        reason = f'with sync = "step" the workload\'s optimizer moves the model, so there is no {request.outer} outer step'
        return "$.outer", f'{reason}: leave it at average, or take sync = "round"'
    if request.sync == "step" and request.outer_lr != 1.0:
        return "$.outer_lr", 'sync = "step" has no outer step: set the learning rate of the workload\'s optimizer'
    if request.sync == "step" and request.aggregation not in ("mean", "clip"):
        reason = f'{request.aggregation} makes another step than one on all the samples, which sync = "step" is for'
        return "$.aggregation", f'{reason}: leave it out, or take sync = "round"'
    return None


def _in_microbatch(request: JobRequest) -> Refusal | None:
    for name in ("microbatch_min", "microbatch_max", "microbatch"):
        value = getattr(request, name)
        if value & (value - 1):
            below = 1 << (value.bit_length() - 1)
            return f"$.{name}", f"{value} is no power of two: {below} and {2 * below} are"
    low, high, start = request.microbatch_min, request.microbatch_max, request.microbatch
    if low > high:
        return "$.microbatch_min", f"{low} is above microbatch_max ({high})"
    if not low <= start <= high:
        bound = "microbatch_min" if start < low else "microbatch_max"
        return "$.microbatch", f"{start} is outside {low} to {high}: set {bound} too"
    return None


def _in_nodes(request: JobRequest) -> Refusal | None:
    if request.max_nodes is not None and request.max_nodes < request.min_nodes:
        return "$.max_nodes", f"{request.max_nodes} is below min_nodes ({request.min_nodes})"
    least = LEAST_NODES[request.aggregation]
    if request.min_nodes < least:
        reason = f"{request.aggregation} needs {least} nodes to tolerate a bad one, but min_nodes is {request.min_nodes}"
        return "$.aggregation", f"{reason}: set min_nodes to {least} or more, or take clip"
    both = sorted(set(request.include) & set(request.exclude))
    if both:
        return "$.exclude", f"{', '.join(both)} is in include too: a node can't be both in and out"
    if request.max_nodes is not None and len(set(request.include)) > request.max_nodes:
        return "$.include", f"{len(set(request.include))} nodes, but max_nodes is {request.max_nodes}"
    return None

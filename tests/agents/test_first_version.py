"""Equal seeds don't promise equal initial bits: what nodes make of a version 0 that is theirs alone."""

import random
from collections import defaultdict
from functools import partial

import pytest

from schemas.anchors import CaughtUp
from schemas.training import RoundApplied
from tests.agents.job_cluster import JobCluster, Node

PARAMETERS = 100_000


def one_anchor_a_version(cluster: JobCluster) -> None:
    """Nobody publishes a version that the first round led to with other bits than the rest."""
    digests: defaultdict[int, set[str]] = defaultdict(set)
    for event in cluster.said(RoundApplied):
        digests[event.version].add(event.digest)
    assert not {version: found for version, found in digests.items() if version and len(found) > 1}
    assert not cluster.mismatches


@pytest.mark.parametrize("reducers", [1, 3])
def test_who_comes_when_a_round_is_closed_takes_the_jobs_anchor_instead_of_averages(reducers: int) -> None:
    fleet = [Node(name) for name in "abc"]
    fleet[2].salt = "another machine's"
    cluster = JobCluster(fleet, rounds=4, parameters=PARAMETERS, reducers=reducers)
    cluster.kill("c", told=False)
    cluster.run(until=lambda: len(cluster.closed) == 1)
    cluster.boot(fleet[2])
    cluster.run(until=lambda: cluster.finished)
    assert cluster.finished
    assert [event.node for event in cluster.said(CaughtUp)] == ["c"]
    assert {event.node for event in cluster.said(RoundApplied) if event.version == 4} == set("abc")
    one_anchor_a_version(cluster)


@pytest.mark.parametrize("sync", ["round", "overlap", "async"])
@pytest.mark.parametrize("reducers", [1, 4])
def test_whatever_dies_in_the_first_rounds_no_average_is_applied_to_another_version_0(sync: str, reducers: int) -> None:
    for seed in range(5):
        rng = random.Random(seed)
        fleet = [Node(name, step_seconds=rng.uniform(0.02, 0.4), salt=name) for name in "abcde"[: rng.randint(3, 5)]]
        asked = {"fragments": 2} if sync == "overlap" else {}
        cluster = JobCluster(fleet, rounds=6, seed=seed, parameters=PARAMETERS, reducers=reducers, sync=sync, **asked)

        def back(node: Node, cluster: JobCluster = cluster) -> None:
            node.salt = node.name
            cluster.boot(node)

        for node in rng.sample(fleet, 2):  # so that somebody holds the anchor whatever happens
            at = rng.uniform(0.5, 8.0)
            cluster.later(at, partial(cluster.kill, node.name, told=rng.random() < 0.5))
            cluster.later(at + rng.uniform(0.5, 3.0), partial(back, node))
        cluster.run(seconds=300, until=lambda cluster=cluster: cluster.finished)
        assert cluster.finished, f"seed {seed}: the job stands still"
        one_anchor_a_version(cluster)

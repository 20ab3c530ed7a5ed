"""Sites in rosters: nodes whose owners named one, once they are ready, with a speaker; and why not, where a job can't."""

from typing import Any

import pytest

from schemas.nodes import NodeProfile
from schemas.training import Roster, TrainerReady
from tests.agents.node_selector_world import World


def at_site(world: World, *nodes: str, named: bool = True) -> None:
    for node in nodes:
        world.give(
            NodeProfile(node=node, version=1, host="h", site="lab", cpus=1, memory_bytes=1, site_named=named)
        )  # fmt: skip


def ready(world: World, *nodes: str) -> Roster:
    for node in nodes:
        world.give(TrainerReady(job="j", node=node, version=0, digest="d", parameters=1000, device="cpu"))
    return world.last(Roster)


def test_nodes_of_a_named_site_average_together_once_they_are_ready() -> None:
    world = World()
    at_site(world, "b", "c")
    world.fleet("a", "b", "c")
    world.job()
    assert world.last(Roster).sites == ()
    assert ready(world, "a", "b").sites == (), "one is no site"
    roster = ready(world, "c")
    assert [set(nodes) for nodes in roster.sites] == [{"b", "c"}]
    assert f"b, c average among themselves, {roster.sites[0][0]} sends" in roster.reason.replace("c, b", "b, c")


def test_one_that_is_lost_is_out_of_its_site_and_the_next_speaks() -> None:
    world = World()
    at_site(world, "a", "b", "c")
    world.fleet("a", "b", "c")
    world.job()
    speaker = ready(world, "a", "b", "c").sites[0][0]
    world.kill(speaker)
    world.run(10)
    sites = world.last(Roster).sites
    assert len(sites) == 1
    assert speaker not in sites[0]


def test_a_process_that_failed_is_out_of_its_site_until_it_is_ready_again() -> None:
    world = World()
    at_site(world, "b", "c")
    world.fleet("a", "b", "c")
    world.job()
    before = ready(world, "a", "b", "c")
    world.crash("b")
    assert before.sites
    assert world.last(Roster).sites == ()
    assert ready(world, "b").sites


def test_a_site_that_nobody_named_is_none() -> None:
    world = World()
    at_site(world, "a", "b", named=False)
    world.fleet("a", "b")
    world.job()
    assert ready(world, "a", "b").sites == ()


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"sync": "overlap"}, "sync overlap"), ({"aggregation": "median", "min_nodes": 3}, "a vote of its own")],
)
def test_a_job_that_cannot_says_why_its_sites_send_one_by_one(asked: dict[str, Any], why: str) -> None:
    world = World()
    at_site(world, "a", "b")
    world.fleet("a", "b", "c")
    world.job(**asked)
    assert why in world.last(Roster).reason
    assert ready(world, "a", "b", "c").sites == ()

"""A node that doesn't take a job's code is out of that job without blame, until its owner mends that."""

import msgspec
import pytest
from node_selector_world import World

from schemas.decisions import NodeQuarantined
from schemas.nodes import NodeMended, NodeProfile, WorkFailed

WHY = "its code comes from a stranger; given up on this node"


def world_of(*nodes: str) -> World:
    world = World()
    world.fleet(*nodes)
    world.start("j", min_nodes=1)
    return world


def refuse(world: World, node: str, kind: str = "declined") -> None:
    failed = WorkFailed(node=node, job="j", attempt=1, kind=kind, code=7, last_lines=(), retry=False, reason=WHY)
    world.give(failed)


def test_it_is_out_of_this_job_with_the_reason_and_not_blamed() -> None:
    world = world_of("a", "b")
    world.start("other", min_nodes=1)
    for kind in ("declined", "bundle") * 3:
        refuse(world, "b", kind)
    assert world.roster("j").nodes == ("a",)
    assert world.roster("other").nodes == ("b",)
    (left_out,) = world.roster("j").excluded
    assert left_out.node == "b"
    assert WHY in left_out.reason
    assert not any(isinstance(m, NodeQuarantined) for m in world.said)
    assert world.core.state.nodes["b"].conduct.strikes == 0


def mended(world: World) -> msgspec.Struct:
    return NodeMended(node="b", reason="its owner has changed whom it trusts")


def started_anew(world: World) -> msgspec.Struct:
    version = int((world.now + 5) * 1000)
    return NodeProfile(node="b", version=version, host="h", site="s", cpus=1, memory_bytes=1)


@pytest.mark.parametrize("again", [mended, started_anew])
def test_mended_it_is_tried_again(again: object) -> None:
    world = world_of("a", "b")
    refuse(world, "b")
    world.give(again(world))  # type: ignore[operator]
    assert world.roster("j").nodes == ("a", "b")
    assert world.roster("j").reason.startswith("b: it")
    refuse(world, "b")
    assert world.roster("j").nodes == ("a",)


@pytest.mark.parametrize("again", [mended, started_anew])
def test_what_else_it_failed_of_is_not_mended_by_that(again: object) -> None:
    world = world_of("a", "b")
    refuse(world, "b", "raised")
    world.give(again(world))  # type: ignore[operator]
    assert world.roster("j").nodes == ("a",)

"""What each drill does: the harm, and the wait until the part is at work again. Gives when that was."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

import psutil  # type: ignore[import-untyped]

from bus import clock, processes
from runners.drill.scene import PATIENCE, CantDrill, Scene
from runners.drill.watching import NotHeard
from runners.up import AGENTS
from schemas.decisions import AgentStarted
from schemas.emulation import LinkOrder
from schemas.nodes import NodeHeartbeat

_SENT_BEFORE = 0.1  # seconds in which is heard whatever was said before an end

Act = Callable[[Scene], Awaitable[float]]


async def kill_job_process(scene: Scene) -> float:
    """A job's process that doesn't reduce; its node starts it again."""
    reducer = await scene.reducer()
    node, process = scene.worker(scene.parts(), besides=reducer)
    await scene.kill(process, f"{node}'s job process")
    return await scene.contributes(node)


async def kill_reducer(scene: Scene) -> float:
    """The one that reduces; another takes over."""
    node, process = scene.worker(scene.parts(), only=await scene.reducer())
    await scene.kill(process, f"{node}'s job process, which reduces,")
    return await scene.contributes(node)


async def kill_node(scene: Scene) -> float:
    """A node with its job's process; `shoal up` starts it again."""
    node = _watched(scene, besides=await scene.reducer())
    await scene.kill(scene.parts().nodes[node].process, f"node {node}")
    return await scene.contributes(node)


def kill_agent(agent: str) -> Act:
    """An agent; `shoal up` starts it again, or a standby takes over."""

    async def act(scene: Scene) -> float:
        found = scene.parts().leader(agent)
        if found is None:
            raise CantDrill(f"{agent} has no process that leads")
        number, process = found
        await scene.kill(process, f"{agent}{f', replica {number}, which leads,' if number else ''}")
        return await _started(scene, agent)

    return act


async def kill_server(scene: Scene) -> float:
    """The server; `shoal up` starts it again."""
    return await _end_server(scene, gently=False)


async def restart_server(scene: Scene) -> float:
    """The same in good order, as an upgrade would."""
    return await _end_server(scene, gently=True)


async def pause_server(scene: Scene) -> float:
    """All links at once: connections stand, and nothing goes through."""
    server = scene.parts().server
    if server is None:
        raise CantDrill("the server is down")
    await scene.stand_still(server, "nats-server")
    return await scene.contributes(*scene.nodes, since=scene.clock())


def pause_agent(agent: str) -> Act:
    """An agent stands still. Where it has a standby, that leads from then on, and who wakes finds itself replaced."""

    async def act(scene: Scene) -> float:
        found = scene.parts().leader(agent)
        if found is None:
            raise CantDrill(f"{agent} has no process that leads")
        number, process = found
        if not number:
            await scene.stand_still(process, agent)
            return scene.clock()
        await scene.stand_still(process, f"{agent}, replica {number}, which leads,")
        return await _started(scene, agent)

    return act


async def pause_node(scene: Scene) -> float:
    """A node's own process; its job's goes on."""
    node = next((name for name in scene.nodes if name in scene.parts().nodes), None)
    if node is None:
        raise CantDrill("no node of this job is on this machine")
    await scene.stand_still(scene.parts().nodes[node].process, f"node {node}")
    return await scene.contributes(node)


async def pause_reducer(scene: Scene) -> float:
    """The job's process that reduces stands still; another takes over."""
    node, process = scene.worker(scene.parts(), only=await scene.reducer())
    await scene.stand_still(process, f"{node}'s job process, which reduces,")
    return await scene.contributes(node)


def cut_link(node: str) -> Act:
    """A node's emulated link is down for a while."""

    async def act(scene: Scene) -> float:
        if node not in scene.nodes:
            raise CantDrill(f"{node} does not take part in the job")
        why = f"a drill: its link is cut for {scene.seconds:g} s"
        await scene.begin(f"{node}'s emulated link", f"is cut for {scene.seconds:g} s")
        try:
            cut = LinkOrder(node=node, do="disconnect", seconds=scene.seconds, reason=why)
            await scene.client.publish(cut)
            await asyncio.sleep(scene.seconds)
        finally:
            # The emulator ends it by itself, too, should this process be killed.
            await scene.client.publish(LinkOrder(node=node, do="heal", reason="the drill is over"))
        return await scene.contributes(node)

    return act


async def fill_store(scene: Scene) -> float:
    """The server refuses all that would be stored."""
    limits = await scene.streams.limits()
    await scene.begin("JetStream", f"takes nothing more for {scene.seconds:g} s")
    scene.notebook.note(limits=limits)
    try:
        await scene.streams.fill()
        await asyncio.sleep(scene.seconds)
    finally:
        restoring = asyncio.ensure_future(scene.streams.restore(limits))
        try:
            await asyncio.shield(restoring)
        except asyncio.CancelledError:
            await restoring
            raise
        finally:
            if restoring.done() and restoring.exception() is None:
                scene.notebook.note(limits={})
    return await scene.contributes(*scene.nodes, since=scene.clock())


async def skew_clock(scene: Scene) -> float:
    """A node and its job's process start again with a wrong clock, work so, and start again with the right one."""
    node = _watched(scene, besides=await scene.reducer())
    told = scene.notebook.path.parent / "nodes" / f"{node}.skew"
    process = scene.parts().nodes[node].process
    scene.notebook.note(skewed=(node,))
    try:
        clock.skew_next(told, scene.skew)
        words = f"starts again with its clock {abs(scene.skew):g} s {'ahead' if scene.skew > 0 else 'behind'}"
        await scene.kill(process, f"node {node}", words, gently=True)
        await asyncio.to_thread(processes.wait_gone, process.pid, PATIENCE)
        await asyncio.sleep(_SENT_BEFORE)
        await scene.watch.first(
            NodeHeartbeat, scene.clock(), lambda m: m.node == node, what=f"{node}'s heart beats", within=PATIENCE
        )
        with contextlib.suppress(NotHeard):
            at = await scene.watch.contributes(scene.job, node, scene.begun, scene.seconds)
            scene.details.append(f"its work counts after {at - scene.begun:.1f} s, under the wrong time")
    finally:
        told.unlink(missing_ok=True)
        skewed = scene.parts().nodes.get(node)
        if skewed is not None and skewed.process.pid != process.pid:
            with contextlib.suppress(psutil.Error):
                skewed.process.send_signal(signal.SIGTERM)
        scene.notebook.note(skewed=())
    if skewed is None:
        raise CantDrill(f"{node} ended by itself")
    await asyncio.to_thread(processes.wait_gone, skewed.process.pid, PATIENCE)
    righted = scene.clock()
    back = await scene.contributes(node, since=righted)
    scene.details.append(f"and with the right one {righted - scene.begun:.1f} s after that")
    return back


async def _end_server(scene: Scene, *, gently: bool) -> float:
    server = scene.parts().server
    if server is None:
        raise CantDrill("the server is down")
    await scene.kill(server, "nats-server", "gets SIGTERM" if gently else "gets SIGKILL", gently=gently)
    await asyncio.to_thread(processes.wait_gone, server.pid, PATIENCE)
    await asyncio.sleep(_SENT_BEFORE)
    return await scene.contributes(*scene.nodes, since=scene.clock())


async def _started(scene: Scene, agent: str) -> float:
    assert agent in AGENTS
    started = await scene.watch.first(
        AgentStarted, scene.begun, lambda m: m.agent == agent, what=f"{agent} is at work again", within=PATIENCE
    )
    return started.at


def _watched(scene: Scene, besides: str) -> str:
    """A node that `shoal up` starts again."""
    parts = scene.parts()
    for node in reversed(scene.nodes):
        if node != besides and node in parts.nodes and parts.nodes[node].watched:
            return node
    raise CantDrill("no node besides the one that reduces is a child of `shoal up --nodes N`")

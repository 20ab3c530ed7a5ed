"""All drills: their names, what they do, what is expected, and why one can't be done here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from runners.drill import acts
from runners.drill.parts import Parts
from runners.drill.results import AIM, BACK_WITHIN, TAKEOVER
from runners.up import AGENTS
from schemas.errors import ShoalError

NO_FLEET = "no `shoal up` runs on this store"
NO_NODE = "no node of this store runs on this machine: `shoal up --nodes N`"
NOT_WATCHED = "`shoal up` watches over no two nodes here, and nobody else would start one again: `shoal up --nodes 2`"
NO_LINK = "no node's link is emulated: `shoal node --link good`"


class NoSuchDrill(ShoalError):
    """No drill has this name. Attributes: `name`, `known`."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no drill is named {name!r}: there are {', '.join(known)}; * stands for anything")
        self.name = name
        self.known = tuple(known)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One drill.

    Attributes:
        does, goal: in words.
        act: what does it.
        stands: whether no round can be closed meanwhile, so that the time it takes is not the fleet's fault.
        lasts: seconds that the fault itself lasts.
        back_limit: seconds after it within which the part is to be at work again.
        impossible: why it can't be done here; empty where it can.
    """

    name: str
    does: str
    goal: str
    act: acts.Act
    stands: bool = False
    lasts: float = 0.0
    back_limit: float = BACK_WITHIN
    impossible: str = ""

    def gap_limit(self, deadline: float) -> float:
        """Seconds that rounds may stand still, where one may take so long."""
        return AIM + deadline + (self.lasts if self.stands else 0.0)


def plans(parts: Parts, links: Sequence[str], seconds: float, skew: float) -> tuple[Plan, ...]:
    """All drills, in the order in which they are done. `links`: live nodes whose link is emulated."""
    return (
        *_kills(parts),
        *_standstills(parts, seconds),
        *_surroundings(parts, links, seconds, skew),
    )


def chosen(all_plans: Sequence[Plan], only: Iterable[str]) -> tuple[Plan, ...]:
    """Those that are named, in their order; all where nobody names any. Raises `NoSuchDrill`."""
    wanted = tuple(only)
    names = [plan.name for plan in all_plans]
    for name in wanted:
        if not any(fnmatchcase(known, name) for known in names):
            raise NoSuchDrill(name, names)
    return tuple(plan for plan in all_plans if not wanted or any(fnmatchcase(plan.name, name) for name in wanted))


def _kills(parts: Parts) -> list[Plan]:
    goal = "rounds go on, and its work counts again"
    nodes = "" if parts.nodes else NO_NODE
    watched = "" if sum(node.watched for node in parts.nodes.values()) > 1 else NOT_WATCHED
    server = "" if parts.server is not None else NO_FLEET
    back = "rounds go on, and every node's work counts again"
    made = [
        Plan(name="kill-job", does="SIGKILL to a job process", goal=goal, act=acts.kill_job_process, impossible=nodes),
        Plan(
            name="kill-reducer", does="SIGKILL to the job process that reduces", goal="another node reduces; " + goal,
            act=acts.kill_reducer, impossible=nodes,
        ),
        Plan(name="kill-node", does="SIGKILL to a node", goal=goal, act=acts.kill_node, impossible=watched),
    ]  # fmt: skip
    for agent in AGENTS:
        several = len(parts.agents.get(agent, {})) > 1
        plan = Plan(
            name=f"kill-{agent}",
            does=f"SIGKILL to {agent}{', to the replica that leads' if several else ''}",
            goal=f"a standby leads within {TAKEOVER:g} s" if several else "rounds go on, and it goes on where it was",
            act=acts.kill_agent(agent),
            back_limit=TAKEOVER if several else BACK_WITHIN,
            impossible=_impossible(parts, agent),
        )
        made.append(plan)
    made.append(Plan(name="kill-server", does="SIGKILL to nats-server", goal=back, act=acts.kill_server, impossible=server))
    made.append(
        Plan(
            name="restart-server", does="SIGTERM to nats-server, which starts again", goal=back,
            act=acts.restart_server, impossible=server,
        )
    )  # fmt: skip
    return made


def _standstills(parts: Parts, seconds: float) -> list[Plan]:
    nodes = "" if parts.nodes else NO_NODE
    made = [
        Plan(
            name="pause-reducer", does=f"SIGSTOP to the job process that reduces, SIGCONT after {seconds:g} s",
            goal="another node reduces meanwhile", act=acts.pause_reducer, lasts=seconds, impossible=nodes,
        ),
        Plan(
            name="pause-node", does=f"SIGSTOP to a node, SIGCONT after {seconds:g} s",
            goal="rounds go on", act=acts.pause_node, lasts=seconds, impossible=nodes,
        ),
    ]  # fmt: skip
    for agent in AGENTS:
        several = len(parts.agents.get(agent, {})) > 1
        made.append(
            Plan(
                name=f"pause-{agent}",
                does=f"SIGSTOP to {agent}{', to the replica that leads' if several else ''}, SIGCONT after {seconds:g} s",
                goal=f"a standby leads within {TAKEOVER:g} s" if several else "rounds go on without it",
                act=acts.pause_agent(agent),
                lasts=0.0 if several else seconds,
                back_limit=TAKEOVER if several else BACK_WITHIN,
                impossible=_impossible(parts, agent),
            )
        )
    return made


def _surroundings(parts: Parts, links: Sequence[str], seconds: float, skew: float) -> list[Plan]:
    server = "" if parts.server is not None else NO_FLEET
    watched = "" if sum(node.watched for node in parts.nodes.values()) > 1 else NOT_WATCHED
    return [
        Plan(
            name="pause-server", does=f"SIGSTOP to nats-server, SIGCONT after {seconds:g} s: every link is cut",
            goal="all is as before once it is over", act=acts.pause_server, stands=True, lasts=seconds, impossible=server,
        ),
        Plan(
            name="cut-link",
            does=f"the emulated link of {links[0] if links else 'a node'} is cut for {seconds:g} s",
            goal="rounds go on without it, and its work counts again",
            act=acts.cut_link(links[0] if links else ""), lasts=seconds, impossible="" if links else NO_LINK,
        ),
        Plan(
            name="fill-store", does=f"every stream is full for {seconds:g} s: the server refuses what is published",
            goal="all is as before once there is room", act=acts.fill_store, stands=True, lasts=seconds, impossible=server,
        ),
        Plan(
            name="skew-clock",
            does=f"a node starts again with its clock {abs(skew):g} s {'ahead' if skew > 0 else 'behind'}, "
            f"and with the right one after {seconds:g} s at most",
            goal="rounds go on, and its work counts again", act=acts.skew_clock, lasts=seconds,
            back_limit=2 * BACK_WITHIN, impossible=watched,
        ),
    ]  # fmt: skip


def _impossible(parts: Parts, agent: str) -> str:
    if parts.up is None:
        return NO_FLEET
    return "" if parts.agents.get(agent) else f"{agent} doesn't run here"

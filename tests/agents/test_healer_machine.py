"""Whatever happens: never more orders than budgets allow, pauses that grow, none for what is healed, one for a silence."""

from collections import defaultdict

from healer_world import NODES, START, World
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.decisions import NodeJoined, NodeLost
from schemas.healing import AgentRestartOrdered, Healed, HealingFailed, HealingOrdered
from schemas.health import WorkStalled

AGENTS = ("optimizer", "recorder", "job_desk")
node = st.sampled_from(NODES)
action = st.one_of(
    st.tuples(st.just("stalls"), node),
    st.tuples(st.just("crashes"), node),
    st.tuples(st.just("given up"), node),
    st.tuples(st.just("lost"), node),
    st.tuples(st.just("closes"), st.sets(node, min_size=1)),
    st.tuples(st.just("roster"), st.sets(node, min_size=2)),
    st.tuples(st.just("speak"), st.sets(st.sampled_from(AGENTS))),
    st.tuples(st.sampled_from(("run", "pause")), st.sampled_from((1.0, 25.0, 50.0, 70.0, 400.0))),
)


def play(world: World, what: str, which: object) -> None:
    """One thing happens."""
    match what, which:
        case "stalls", str(name):
            world.give(WorkStalled(node=name, job="j", silent_seconds=30, usual_seconds=1, reason="no step"))
        case "crashes", str(name):
            world.fails(name)
        case "given up", str(name):
            world.fails(name, retry=False)
        case "lost", str(name):
            world.give(NodeLost(node=name, silent_seconds=5, reason="r"))
            world.give(NodeJoined(node=name, returned=True, reason="r"))
        case "closes", set(names):
            world.closes(*sorted(map(str, names)))
        case "roster", set(names):
            world.roster(*sorted(map(str, names)))
        case "speak", set(names):
            world.usage(*sorted(map(str, names)))
        case "run", float(seconds):
            world.run(seconds)
        case "pause", float(seconds):
            world.pause(seconds)


def within(times: list[float], burst: int, every: float) -> bool:
    """Whether a token bucket would have let all of them through."""
    return all(
        later + 1 - first <= burst + (times[later] - times[first]) / every + 1e-6
        for first in range(len(times))
        for later in range(first, len(times))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(action, max_size=40), st.integers(1, 3), st.integers(1, 3))
def test_whatever_happens(actions: list[tuple[str, object]], of_node: int, of_fleet: int) -> None:
    world = World(node_burst=of_node, fleet_burst=of_fleet, back_off_seconds=20.0)
    world.usage(*AGENTS)
    heard = dict.fromkeys(AGENTS, START)
    accused: dict[str, float] = {}
    for what, which in actions:
        before = len(world.said)
        play(world, what, which)
        for name in which if what == "speak" and isinstance(which, set) else ():
            heard[name] = world.now
        for said in world.said[before:]:
            if isinstance(said, AgentRestartOrdered):
                assert heard[said.target] > accused.get(said.target, START - 1), "one silence, one order"
                accused[said.target] = world.now
    every = world.core.settings
    orders = [(at, said) for at, said in zip(world.at, world.said, strict=True) if isinstance(said, HealingOrdered)]
    everything = [
        at for at, said in zip(world.at, world.said, strict=True) if isinstance(said, HealingOrdered | AgentRestartOrdered)
    ]
    assert within(everything, of_fleet, every.fleet_every_seconds)
    by_node: dict[str, list[float]] = defaultdict(list)
    for at, order in orders:
        by_node[order.node].append(at)
    assert all(within(times, of_node, every.node_every_seconds) for times in by_node.values())
    assert len({order.ticket for _, order in orders}) == len(orders)
    must_pause(world)


def must_pause(world: World) -> None:
    """Between the end of one order and the next against the same fault the pause grows; what is over gets no order."""
    ended: dict[str, float] = {}
    count: dict[str, int] = defaultdict(int)
    for at, said in zip(world.at, world.said, strict=True):
        if isinstance(said, HealingOrdered):
            name = f"{said.node}/{said.job}"
            if count[name]:
                assert at - ended.get(name, -1e9) >= 20.0 * 2 ** (count[name] - 1) - 0.01
            count[name] += 1
        elif isinstance(said, HealingFailed) and said.node is not None:
            name = f"{said.node}/{said.job}"
            ended[name] = at
            count[name] = 0 if said.final else said.orders
        elif isinstance(said, Healed):
            count[f"{said.node}/{said.job}"] = 0

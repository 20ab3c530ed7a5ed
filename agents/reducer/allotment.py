"""Who reduces which piece of a round, and who is in its way."""

from collections.abc import Collection, Mapping, Sequence

from schemas.ids import NodeId

TOLERANCE = 1.25
"""Times the best: an allotment that is not worse stays, since every change costs warm connections."""

ALIKE = 2.0
"""Times that rates may differ and count alike: reducers' downlinks and chance were seen to make as much of equal links."""

UNKNOWN = 2.0
"""Rate of everybody while nobody's is known, in any unit."""


def share_out(pieces: int, rates: Mapping[NodeId, float], present: tuple[NodeId, ...] = ()) -> tuple[NodeId, ...]:
    """Who reduces each piece: each goes to who would be done with it first, by the rates of their links, in any one unit.

    List scheduling on machines of different speed (Graham, SIAM J. Appl. Math. 17(2), 1969; there for equal ones).
    `present` is who reduces them now.
    """
    loads = dict.fromkeys(rates, 0)
    found = []
    for _ in range(pieces):
        first = min(rates, key=lambda node: ((loads[node] + 1) / rates[node], node))
        loads[first] += 1
        found.append(first)
    known = len(present) == pieces and set(present) <= set(rates)
    if known and _longest(present, rates) <= TOLERANCE * _longest(found, rates):
        return present
    return tuple(found)


def _longest(shares: Sequence[NodeId], rates: Mapping[NodeId, float]) -> float:
    return max(shares.count(node) / rates[node] for node in dict.fromkeys(shares))


def regular(candidates: Sequence[NodeId], occasional: Collection[NodeId], measured: Mapping[NodeId, float]) -> list[NodeId]:
    """Those who contribute to each round, and of the others who were seen to upload at a rate like the best.

    Where rounds are mostly transfers, a link that is as good as any may miss a contribution a round by little.
    """
    least = max(measured.values(), default=0.0) / ALIKE
    return [node for node in candidates if node not in occasional or (least and measured.get(node, 0.0) >= least)]


def filled(
    reducer: NodeId, candidates: Sequence[NodeId], measured: Mapping[NodeId, float], most: int
) -> dict[NodeId, float]:
    """The rates to share out by: the reducer's, which nobody measures while it reduces alone, is taken for the best, that
    of another who was not measured for the middle one. `most`: nodes at most, the first of them; 0 for any number.

    Those from half of the best on count alike: what an upload takes says as much of the links of those it goes to.
    """
    known = sorted(measured[node] for node in candidates if measured.get(node, 0.0) > 0)
    best, middle = (known[-1], known[len(known) // 2]) if known else (UNKNOWN, UNKNOWN)
    others = [node for node in candidates if node != reducer][: most - 1 if most else None]
    rates = {node: measured.get(node, 0.0) or middle for node in others}
    rates = {reducer: measured.get(reducer, 0.0) or best, **rates}
    alike = max(rates.values()) / ALIKE
    return {node: min(rate, alike) for node, rate in rates.items()}


def in_the_way(
    lacking: Mapping[NodeId, Collection[NodeId]], helpers: Sequence[NodeId], needed: int, *, patient: bool
) -> tuple[NodeId, ...]:
    """Helpers without whom a round that lacks a quorum would have one, the worst first.

    `lacking`: whose pieces each contribution still wants. If it has none even without all helpers, it is the contributions
    that are late: nobody is in the way then, as long as there is patience.
    """
    blamed: list[NodeId] = []
    for helper in sorted(helpers, key=lambda node: (-sum(node in wanted for wanted in lacking.values()), node)):
        if not any(helper in wanted for wanted in lacking.values()):
            break
        blamed.append(helper)
        if sum(set(wanted) <= set(blamed) for wanted in lacking.values()) >= needed:
            return tuple(blamed)
    return () if patient else tuple(blamed)

"""Who has which nodes, where several jobs want the same ones: fair shares of the fleet's speed, in whole nodes.

A job's share is the speed of its nodes, as it would measure it, over that of the whole fleet and over its weight: what
Gavel's max-min policy compares (Narayanan et al., OSDI 2020, section 4.1), and weighted dominant resource fairness (Ghodsi
et al., NSDI 2011) with one resource, for which each job has a yardstick of its own. Free nodes go to the job with the
smallest share (progressive filling, there). Then nodes change hands, or places, as long as the smaller of the shares
concerned grows, if that brings some job enough: as in Pollux (Qiao et al., OSDI 2021, section 4.2) a division starts from
the present one, since every move costs a start of a process and a copy of the model. Whole nodes divide the fleet less
finely than time on all nodes would, and spare the memory and the averaging.

Two jobs meet on one node where there is no other way: more jobs than nodes, more nodes asked for at least than there are,
or one would have less than half of the other's share, and that one can't give a node up (`least`, or a lone node that is
worth most of the fleet).
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from schemas.ids import JobId, NodeId

MOVES = 1000
"""Of one division at most, which ends by itself, since each raises the smaller shares: a bound on its time."""

LOOKS = 8
"""At a division at most: what one job leaves another may want, which seldom takes a third."""

SWAPPED = 24
"""Nodes of a side that are tried for a swap, evenly from its fastest to its slowest: 576 pairs take some milliseconds."""

UNEVEN = 2.0
"""Factor between two jobs' shares above which they meet on a node, if whole nodes can't mend it: two jobs on three nodes
are as uneven as that."""

ROUNDING = 1e-12
"""Of the whole fleet's speed: what sums of parts are off by is no gain."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a job asks of the fleet."""

    job: JobId
    weight: float = 1.0
    least: int = 1
    most: int | None = None
    rates: dict[NodeId, float]
    """The nodes it may have, in the order in which ties are settled: each one's part of the fleet's speed, 0 to 1."""
    pinned: frozenset[NodeId] = frozenset()
    """Nodes that it must have, whoever else has them."""
    held: tuple[NodeId, ...] = ()
    """Those that it has now."""
    waits: bool = False
    """It hasn't begun: it has either as many nodes as it needs, or none."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How nodes are divided."""

    together: int = 1
    """Jobs that share a node although there are other nodes."""
    crowd: int = 4
    """Jobs that share one at most."""
    margin: float = 0.2
    """Part by which the smallest share, or the second smallest and so on, must grow for nodes to change hands."""
    cores: dict[NodeId, int] = {}
    """Jobs that a node serves without any of them being slower for it; 1 where nothing is said."""


class Table:
    """Who sits where while nodes are divided."""

    def __init__(self, claims: Sequence[Claim], terms: Terms) -> None:
        self.terms = terms
        self.claims = {claim.job: claim for claim in claims}
        self.order = {claim.job: place for place, claim in enumerate(claims)}
        self.tenants: dict[NodeId, list[JobId]] = {}
        self.has: dict[JobId, dict[NodeId, None]] = {claim.job: {} for claim in claims}
        self.speed = dict.fromkeys(self.claims, 0.0)
        """Each job's part of the fleet's speed."""
        for claim in claims:
            for node in claim.rates:
                self.tenants.setdefault(node, [])
        for claim in claims:
            for node in claim.rates:
                if node in claim.pinned or node in claim.held:
                    self.seat(claim.job, node)

    def copy(self, claims: Sequence[Claim] | None = None) -> "Table":
        """Another such table with everybody where he is now, for these claims instead if they are given."""
        given = list(self.claims.values()) if claims is None else claims
        return Table(
            [msgspec.structs.replace(claim, held=tuple(self.has.get(claim.job, ()))) for claim in given], self.terms
        )

    def seat(self, job: JobId, node: NodeId) -> None:
        """A job gets a node."""
        self._count(node, -1.0)
        self.has[job][node] = None
        self.tenants[node].append(job)
        self._count(node, 1.0)

    def leave(self, job: JobId, node: NodeId) -> None:
        """A job gives a node up."""
        self._count(node, -1.0)
        del self.has[job][node]
        self.tenants[node].remove(job)
        self._count(node, 1.0)

    def _count(self, node: NodeId, sign: float) -> None:
        """Add what a node is to each job on it, or take it off: of several jobs the kernel serves each alike."""
        tenants = self.tenants[node]
        part = sign * min(1.0, self.terms.cores.get(node, 1) / max(1, len(tenants)))
        for job in tenants:
            self.speed[job] += part * self.claims[job].rates[node]

    def share(self, job: JobId) -> float:
        """A job's part of the fleet's speed, over its weight."""
        return self.speed[job] / self.claims[job].weight

    def least_of(self, jobs: Iterable[JobId]) -> float:
        """The smallest share among jobs."""
        return min(self.share(job) for job in jobs)

    def full(self, job: JobId) -> bool:
        """Whether a job wants no more."""
        most = self.claims[job].most
        return most is not None and len(self.has[job]) >= most

    def open_to(self, job: JobId, below: int) -> list[NodeId]:
        """Nodes that a job may have and hasn't, with fewer than `below` jobs; the emptiest first, then the fastest."""
        claim = self.claims[job]
        found = [node for node in claim.rates if node not in self.has[job] and len(self.tenants[node]) < below]
        return sorted(found, key=lambda node: (len(self.tenants[node]), -claim.rates[node]))

    def by_share(self) -> list[JobId]:
        """The poorest first; of equals who came first."""
        return sorted(self.has, key=lambda job: (self.share(job), self.order[job]))


def divide(claims: Sequence[Claim], terms: Terms, *, settled: bool = False) -> Table:
    """A division that is fair to all, as near to the present one as a margin has it.

    `settled`: nobody gives up a node but to one who lacks what it needs; free nodes are handed out. Claims come in the
    order in which their jobs did, which settles ties. A job that waits and can't have what it needs is not in the table.
    """
    table = Table([claim for claim in claims if not claim.waits], terms)
    for job in table.by_share():
        _provide(table, job)
    for claim in claims:
        if claim.waits:
            table = _admit(table, claims, claim)
    _hand_out(table)
    _part(table)
    if settled:
        return table
    balanced = table.copy()
    for _ in range(LOOKS):
        seated = {job: list(nodes) for job, nodes in balanced.has.items()}
        _balance(balanced)
        _part(balanced)
        if seated == {job: list(nodes) for job, nodes in balanced.has.items()}:
            break
    before_and_after = zip(sorted(map(table.share, table.has)), sorted(map(balanced.share, balanced.has)), strict=True)
    worth = any(after > before * (1 + terms.margin) + ROUNDING for before, after in before_and_after)
    return balanced if worth else table


def _admit(table: Table, claims: Sequence[Claim], claim: Claim) -> Table:
    """The table with one more job, if that gets what it needs; else as it was."""
    tried = table.copy([other for other in claims if other.job in table.claims or other is claim])
    return tried if _provide(tried, claim.job) else table


def _provide(table: Table, job: JobId) -> bool:
    """Give a job what it needs at least: free nodes, then of those who have more than they need, then beside others."""
    while len(table.has[job]) < table.claims[job].least:
        free = table.open_to(job, table.terms.together)
        if free:
            table.seat(job, free[0])
            continue
        given = _given(table, job)
        if given is not None:
            donor, node = given
            table.leave(donor, node)
            table.seat(job, node)
            _provide(table, donor)
            continue
        beside = table.open_to(job, table.terms.crowd)
        if not beside:
            return False
        table.seat(job, beside[0])
    return True


def _given(table: Table, job: JobId) -> tuple[JobId, NodeId] | None:
    """A node that the richest who can spare one gives up: one of its own, which is worth more to the taker than to it."""
    rates = table.claims[job].rates
    for donor in reversed(table.by_share()):
        pinned = table.claims[donor].pinned
        spare = [node for node in table.has[donor] if node in rates and node not in table.has[job] and node not in pinned]
        another = table.open_to(donor, table.terms.together)
        if spare and (another or len(table.has[donor]) > table.claims[donor].least):
            theirs = table.claims[donor].rates
            return donor, max(spare, key=lambda node: (-len(table.tenants[node]), rates[node] - theirs[node], rates[node]))
    return None


def _hand_out(table: Table) -> None:
    """Free nodes, one at a time to the poorest who wants one."""
    while True:
        for job in table.by_share():
            free = [] if table.full(job) else table.open_to(job, table.terms.together)
            if free:
                table.seat(job, free[0])
                break
        else:
            return


def _part(table: Table) -> None:
    """Jobs that needn't meet on a node any more don't. Who has left one may take a free one for it."""
    for _ in range(LOOKS):
        crowded = [node for node, jobs in table.tenants.items() if len(jobs) > table.terms.together]
        left = [_leave(table, node) for node in crowded]
        if not any(left):
            return
        _hand_out(table)


def _leave(table: Table, node: NodeId) -> bool:
    """The richest job that can leaves a node, if no share that is smaller falls for it, or whole nodes are fair enough."""
    concerned = list(table.tenants[node])
    for job in reversed(table.by_share()):
        claim = table.claims[job]
        if job not in concerned or node in claim.pinned or len(table.has[job]) <= claim.least:
            continue
        before = table.least_of(concerned)
        table.leave(job, node)
        after = table.least_of(concerned)
        if after >= before - ROUNDING or max(map(table.share, concerned)) <= UNEVEN * after + ROUNDING:
            return True
        table.seat(job, node)
    return False


class Move(msgspec.Struct, frozen=True):
    """A change of hands: `node` from the donor to the taker, `back` the other way."""

    donor: JobId
    taker: JobId
    node: NodeId
    back: NodeId | None = None
    beside: bool = False
    """The donor stays on the node."""

    def concerned(self, table: Table) -> set[JobId]:
        """The jobs whose shares it changes."""
        return {self.donor, self.taker, *table.tenants[self.node], *(table.tenants[self.back] if self.back else ())}

    def make(self, table: Table) -> list[tuple[JobId, NodeId, bool]]:
        """Do it; gives what was done, as job, node and whether it has the node now."""
        steps = [] if self.beside else [(self.donor, self.node, False)]
        steps += [] if self.node in table.has[self.taker] else [(self.taker, self.node, True)]
        if self.back is not None:
            steps += [(self.taker, self.back, False)]
            steps += [] if self.back in table.has[self.donor] else [(self.donor, self.back, True)]
        for job, node, seated in steps:
            (table.seat if seated else table.leave)(job, node)
        return steps


def _balance(table: Table) -> None:
    """Moves, the best one each time, until none raises a smaller share by the margin."""
    for _ in range(MOVES):
        move = _best_move(table)
        if move is None:
            return
        move.make(table)


def _best_move(table: Table) -> Move | None:
    """The move that leaves most to the poorest of those concerned, for the poorest job that any move helps.

    Two nodes change places only where no single one can, and for a gain by the margin: that is two starts of processes.
    """
    ranked = table.by_share()
    for taker in ranked:
        share = table.share(taker)
        richer = [donor for donor in reversed(ranked) if table.share(donor) > share]
        for kind, margin in ((_single, 0.0), (_swaps, table.terms.margin)):
            best, value = None, share * (1 + margin) + ROUNDING
            for donor in richer:
                for move in kind(table, donor, taker):
                    after = _after(table, move)
                    if after > value:
                        best, value = move, after
            if best is not None:
                return best
    return None


def _after(table: Table, move: Move) -> float:
    """The smallest share of those concerned, once a move is made."""
    concerned = move.concerned(table)
    done = move.make(table)
    after = table.least_of(concerned)
    for job, node, seated in reversed(done):
        (table.leave if seated else table.seat)(job, node)
    return after


def _single(table: Table, donor: JobId, taker: JobId) -> Iterator[Move]:
    """What one job may give another; beside it on a node only where it can't spare any."""
    give, rates = table.claims[donor], table.claims[taker].rates
    spare = [node for node in table.has[donor] if node in rates and node not in give.pinned]
    spare = spare if len(table.has[donor]) > give.least else []
    for node in spare:
        if node in table.has[taker] or not table.full(taker):
            yield Move(donor, taker, node)
    uneven = table.share(donor) > UNEVEN * table.share(taker) + ROUNDING
    if spare or table.full(taker) or not uneven:
        return
    for node in table.has[donor]:
        if node in rates and node not in table.has[taker] and len(table.tenants[node]) < table.terms.crowd:
            yield Move(donor, taker, node, beside=True)


def _swaps(table: Table, donor: JobId, taker: JobId) -> Iterator[Move]:
    """Nodes of two jobs that may change places."""
    give, take = table.claims[donor], table.claims[taker]
    mine = [node for node in table.has[donor] if node in take.rates and node not in give.pinned]
    theirs = [node for node in table.has[taker] if node in give.rates and node not in take.pinned]
    for node in _spread(mine, take.rates):
        for back in _spread(theirs, give.rates):
            if node not in table.has[taker] and back not in table.has[donor]:
                yield Move(donor, taker, node, back)


def _spread(nodes: Sequence[NodeId], rates: dict[NodeId, float]) -> list[NodeId]:
    """The nodes of a side that are tried, from the fastest to the slowest."""
    ranked = sorted(nodes, key=lambda node: -rates[node])
    if len(ranked) <= SWAPPED:
        return ranked
    step = (len(ranked) - 1) / (SWAPPED - 1)
    return [ranked[round(place * step)] for place in range(SWAPPED)]

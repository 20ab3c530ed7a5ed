"""Nodes of one site: who they are, who speaks, and that nothing is lost or counted twice whatever fails among them."""

import random
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.base import StartWork
from agents.inputs import Result
from agents.node_selector.sites import group
from agents.reducer.sites import is_behind
from agents.reducer.state import Offer, ReducerState
from agents.trainer import site_works as works
from agents.trainer.works import Drop, LocalRound
from schemas.decisions import NodeLost
from schemas.sites import SiteMember, SiteOpened, SitePaced, SiteParted
from schemas.training import ContributionOffered, ContributionReceived, ContributionRefused, Roster, RoundClosed
from tests.agents.job_cluster import JobCluster, Node

# Who is in a site, and who speaks.


def test_the_best_upload_speaks_and_the_reducer_before_it() -> None:
    places = {"a": "lab", "b": "lab", "c": "", "d": "attic", "e": "attic", "f": "cellar"}
    upload = {"a": 1.0, "b": 9.0, "d": 1.0, "e": 2.0}
    assert group(places, upload, (), "d", choosing=True) == (("d", "e"), ("b", "a"))


def test_a_speaker_stays_while_another_is_only_a_little_better() -> None:
    places, now = dict.fromkeys("ab", "lab"), (("a", "b"),)
    assert group(places, {"a": 1.0, "b": 1.2}, now, "z", choosing=True) == (("a", "b"),)
    assert group(places, {"a": 1.0, "b": 1.3}, now, "z", choosing=True) == (("b", "a"),)
    assert group(places, {"a": 1.0, "b": 9.0}, now, "z", choosing=False) == (("a", "b"),)


def test_the_next_speaks_when_the_first_is_gone() -> None:
    places = dict.fromkeys("bcd", "lab")
    assert group(places, {"d": 9.0}, (("a", "c", "b"),), "z", choosing=False) == (("c", "b", "d"),)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=30)
def test_sites_are_disjoint_and_of_one_place(seed: int, choosing: bool) -> None:
    rng = random.Random(seed)
    places = {node: rng.choice(["", "x", "y"]) for node in "abcdefgh" if rng.random() < 0.8}
    upload = {node: rng.random() for node in places}
    current = group({node: rng.choice("xy") for node in "abcdefgh"}, upload, (), "a", choosing=True)
    made = group(places, upload, current, "b", choosing=choosing)
    named = [node for nodes in made for node in nodes]
    assert len(set(named)) == len(named)
    for nodes in made:
        assert len(nodes) > 1
        assert len({places[node] for node in nodes}) == 1
    again = group(places, upload, made, "b", choosing=choosing)
    assert [nodes[0] for nodes in again] == [nodes[0] for nodes in made], "nothing has changed"


# Rounds.


class Site(JobCluster):
    """A job some of whose nodes stand at one site. What is played: their group, and what is averaged in it.

    `fails` is asked at each step inside, by the node and what it does, whether that comes to nothing there.
    """

    def __init__(
        self, nodes: list[Node], at_site: str, fails: Any = lambda node, what, round_: False, **asked: Any
    ) -> None:
        self.at_site, self.fails = tuple(at_site), fails
        self.inside: dict[tuple[int, str], set[str]] = {}
        """Who has come so far: to a group, or to a round's average in it."""
        self.waiting: dict[tuple[int, str], list[Any]] = {}
        """Who has come so far: to a group, or to a round's average in it."""
        self.broken: set[int] = set()
        self.word: dict[int, int] = {}
        """What speakers say of the first round of a group."""
        self.parts: dict[int, dict[str, int]] = {}
        """By round: into how many parts each node cuts its steps."""
        self.kept: set[tuple[str, str]] = set()
        """Averages of the site that are held for whoever asks, by node and name."""
        super().__init__(nodes, **asked)
        self.later(0.0, lambda: self.regroup(*at_site))

    def regroup(self, *at_site: str) -> None:
        """What the selector says once somebody of the site is ready, or not any more."""
        roster = self.present[1]
        assert isinstance(roster, Roster)
        alive = tuple(name for name in roster.nodes if self.nodes[name].alive)
        fields: dict[str, Any] = {"nodes": alive, "sites": (at_site,) if len(at_site) > 1 else (), "quorum": 1}
        fields["reducers"] = tuple(name for name in roster.reducers if name in alive)
        self.present[1] = msgspec.structs.replace(roster, id="", version=roster.version + 1, **fields)
        self.publish(msgspec.structs.replace(self.present[1]), "selector")

    def work(self, node: Node, core: str, effect: StartWork) -> None:
        tell = partial(self.tell, node, node.cores)
        match effect.work:
            case works.OpenSite(epoch=epoch, parts=parts):
                self.word[epoch] = parts
                self.later(0.01, lambda: tell(works.SiteListening(epoch=epoch, addresses=("192.0.2.1",), port=1)))
                self.meet(node, (epoch, "join"), effect.work.members, effect.work.round, tell)
            case works.JoinSite(epoch=epoch):
                self.meet(node, (epoch, "join"), effect.work.members, effect.work.round, tell)
            case works.AverageInSite():
                self.average(node, effect.work, tell)
            case LocalRound(round=round_, meetings=meetings):
                parts = meetings.parts if meetings is not None else 1
                self.parts.setdefault(round_, {})[node.name] = parts
                super().work(node, core, effect)
            case Drop(tensors=tensors):
                self.kept -= {(node.name, tensor.partition("/")[2]) for tensor in tensors}
            case works.LeaveSite(epoch=epoch):
                self.break_up(epoch, f"{node.name} left")
            case _:
                super().work(node, core, effect)

    def tell(self, node: Node, cores: Any, result: Result) -> None:
        if node.cores is cores:
            self.give(node, "trainer", result)

    def meet(self, node: Node, at: tuple[int, str], members: tuple[str, ...], round_: int, tell: Any) -> None:
        epoch = at[0]
        if epoch in self.broken or self.fails(node.name, "join", round_):
            self.later(0.05, lambda: tell(works.SiteFailed(epoch=epoch, reason="can't be reached")))
            self.break_up(epoch, f"{node.name} can't come")
            return
        self.waiting.setdefault(at, []).append((node, tell, round_))
        self.later(10.0, lambda: self.give_up(at, members))
        if len(self.waiting[at]) == len(members):
            first = max(each for _, _, each in self.waiting[at]) + 1
            for _, told, _ in self.waiting.pop(at):
                self.later(0.02, partial(told, works.SiteJoined(epoch=epoch, first=first, parts=self.word.get(epoch, 1))))

    def average(self, node: Node, work: works.AverageInSite, tell: Any) -> None:
        at, members = (work.epoch, f"average/{work.done.round}"), self.members_of(work.epoch)
        if work.epoch in self.broken or self.fails(node.name, "average", work.done.round):
            self.later(0.01, lambda: tell(works.SiteFailed(epoch=work.epoch, reason="broken")))
            self.break_up(work.epoch, f"{node.name} is gone")
            return
        self.waiting.setdefault(at, []).append((node, tell, work))
        self.later(work.within, lambda: self.give_up(at, members))
        if len(self.waiting[at]) == len(members):
            self.averaged(work, members, {node.name: (node, tell, work) for node, tell, work in self.waiting.pop(at)})

    def averaged(self, work: works.AverageInSite, members: tuple[str, ...], there: dict[str, Any]) -> None:
        parts = tuple(
            SiteMember(node=name, samples=there[name][2].done.samples, steps=there[name][2].done.steps, loss=1.0)
            for name in members
        )
        round_ = work.done.round
        planned = works.SitePlanned(epoch=work.epoch, round=round_, parts=there[members[0]][2].parts, seconds=0.01)
        for name, (_, tell, _) in there.items():
            self.later(0.01, partial(tell, planned))
            result: Result = works.SiteGiven(epoch=work.epoch, round=round_)
            if name == members[0]:
                self.kept.add((name, f"{round_}-site"))
                result = works.SiteAveraged(
                    epoch=work.epoch, round=round_, members=parts, encoding="int8", key=f"{round_}-site", size=100,
                    digest=f"site-{work.epoch}-{round_}",
                )  # fmt: skip
            elif self.fails(name, "confirm", round_):
                result = works.SiteFailed(epoch=work.epoch, reason="nothing came back")
            self.later(0.02, partial(tell, result))

    def members_of(self, epoch: int) -> tuple[str, ...]:
        return next(opened.members for opened in self.said(SiteOpened) if opened.epoch == epoch)

    def give_up(self, at: tuple[int, str], members: tuple[str, ...]) -> None:
        if at in self.waiting and len(self.waiting[at]) < len(members):
            self.break_up(at[0], "somebody didn't come")

    def break_up(self, epoch: int, reason: str) -> None:
        self.broken.add(epoch)
        for at in [at for at in self.waiting if at[0] == epoch]:
            for _, tell, _ in self.waiting.pop(at):
                self.later(0.02, partial(tell, works.SiteFailed(epoch=epoch, reason=reason)))

    # What must hold.

    def counted(self) -> list[tuple[str, int]]:
        return [(c.node, c.round) for each in self.closed.values() for c in each.contributions]

    def check(self) -> None:
        counted = self.counted()
        assert len(set(counted)) == len(counted), "a difference counts once"
        for each in self.closed.values():
            assert sum(c.weight for c in each.contributions) == pytest.approx(1.0)
            assert sum(c.samples for c in each.contributions) == each.samples

    def through(self) -> dict[int, set[str]]:
        """By round: whose differences the site's speaker sent."""
        sent = {n: {c.node for c in each.contributions if c.through} for n, each in self.closed.items()}
        return {round_: nodes for round_, nodes in sent.items() if nodes}


def test_one_of_a_site_sends_for_all_and_the_listing_names_each() -> None:
    cluster = Site([Node(name) for name in "abcd"], "cd", rounds=5)
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    assert set(cluster.through()) >= {2, 3, 4, 5}
    offers = [(o.node, o.round) for o in cluster.said(ContributionOffered) if o.node in "cd" and o.round > 1]
    assert {node for node, _ in offers} == {"c"}, "d leaves it to c"
    last = cluster.closed[5]
    assert [(c.node, c.through) for c in last.contributions] == [("a", None), ("b", None), ("c", "c"), ("d", "c")]
    assert [c.weight for c in last.contributions] == [0.25] * 4
    assert last.missing == ()
    received = [r for r in cluster.said(ContributionReceived) if r.round == 5 and r.contributor == "d"]
    assert cluster.kept <= {("c", "5-site")}, "what is counted is held no longer"
    assert received
    assert received[0].carried == 0, "nothing of it went over d's link"


def test_nodes_of_a_site_cut_a_round_alike_and_the_others_not_at_all() -> None:
    cluster = Site([Node(name) for name in "abcd"], "bcd", rounds=6, local_steps=9, site_every=3)
    cluster.run(until=lambda: cluster.finished)
    together = [round_ for round_, nodes in cluster.through().items() if round_ + 1 in cluster.parts]
    assert together
    for round_ in together:
        parts = cluster.parts[round_ + 1]
        assert parts == {"a": 1, "b": 3, "c": 3, "d": 3}, "what the speaker said in the round before"
    assert [(p.node, p.parts) for p in cluster.said(SitePaced)] == [("b", 3)], "it is said once"


@pytest.mark.parametrize(("every", "speakers"), [(3, {"c"}), (9, {"c", "d"})])
def test_another_reducer_is_no_reason_to_break_up_what_averages_in_the_midst_of_rounds(
    every: int, speakers: set[str]
) -> None:
    cluster = Site([Node(name) for name in "abcd"], "cd", rounds=12, local_steps=9, site_every=every)
    cluster.run(until=lambda: 5 in cluster.closed)
    roster = cluster.present[1]
    assert isinstance(roster, Roster)
    order = ("d", *(name for name in roster.reducers if name != "d"))
    cluster.present[1] = msgspec.structs.replace(
        roster, id="", version=roster.version + 1, reducers=order, sites=(("d", "c"),)
    )
    cluster.publish(msgspec.structs.replace(cluster.present[1]), "selector")
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert {c.through for each in cluster.closed.values() for c in each.contributions if c.through} == speakers


def test_in_a_round_that_fails_inside_everybody_sends_and_then_there_is_another_group() -> None:
    failing = {("d", "average", 3)}
    cluster = Site(
        [Node(name) for name in "abcd"], "cd", lambda *what: what in failing, rounds=8
    )  # fmt: skip
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    assert 3 not in cluster.through()
    assert {("c", 3), ("d", 3)} <= set(cluster.counted())
    assert max(cluster.through()) == 8, "they average inside again"
    assert "broken" in {parted.reason for parted in cluster.said(SiteParted)}
    assert all(each.missing == () for each in cluster.closed.values()), "nobody was late for it"


def test_a_site_that_cannot_meet_sends_one_by_one_and_tries_ever_less_often() -> None:
    cluster = Site([Node(name) for name in "abc"], "bc", lambda node, what, round_: what == "join", rounds=20)
    cluster.run(400, until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    assert cluster.through() == {}
    assert len(cluster.counted()) == 60
    assert 3 <= len(cluster.said(SiteOpened)) <= 6


def test_what_was_given_to_a_speaker_that_dies_is_sent_by_its_own_node() -> None:
    cluster = Site([Node("a"), Node("b"), Node("c", transfer_seconds=3.0), Node("d")], "cd", rounds=6)
    cluster.run(until=lambda: any(o.members and o.round == 3 for o in cluster.said(ContributionOffered)))
    cluster.run(0.5)  # everybody has heard the offer, and nobody has the bytes
    cluster.kill("c", told=False)
    cluster.publish(NodeLost(node="c", silent_seconds=3.0, reason="silent"), "selector")
    cluster.regroup("d")
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    assert {("d", 3), ("d", 4), ("d", 5)} <= set(cluster.counted())


def test_a_member_that_doubts_its_speaker_is_counted_once() -> None:
    cluster = Site(
        [Node(name) for name in "abcd"], "cd", lambda *what: what == ("d", "confirm", 3), rounds=6
    )  # fmt: skip
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    assert {(node, 3) for node in "abcd"} <= set(cluster.counted())


def test_a_site_whose_average_is_refused_is_taken_apart_and_the_culprit_named() -> None:
    nodes = [Node(name) for name in "abcd"]
    cluster = Site(nodes, "cd", rounds=6)
    cluster.run(until=lambda: 2 in cluster.closed)
    nodes[2].garbage = True  # what c sends, for itself or for both, is unsound
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    refused = [(r.contributor, r.round) for r in cluster.said(ContributionRefused)]
    assert ("c", 3) in refused
    assert ("d", 3) in cluster.counted(), "d's own was sound"
    assert ("c", 3) not in cluster.counted()


def test_what_a_dead_node_offered_and_nobody_has_holds_up_nothing() -> None:
    fields: dict[str, Any] = {"job": "j", "round": 1, "base_digest": "d", "loss": 1.0, "compute_seconds": 1.0}
    fields |= {"encoding": "float32", "steps": 1, "key": "1", "size": 9, "digest": "d"}
    own = ContributionOffered(node="b", samples=4, **fields)
    given = tuple(SiteMember(node=node, samples=4, steps=1, loss=1.0) for node in "bc")
    both = ContributionOffered(node="c", samples=8, members=given, **fields)
    s = ReducerState(job="j", node="a", sites=[("b", "c")], applied={"a": 0, "b": 0, "c": 0})
    s.offers = {"b/1": Offer(message=own), "c/1": Offer(message=both)}
    assert is_behind(s, "c/1")
    del s.applied["b"]
    assert is_behind(s, "c/1"), "it may still be had"
    s.offers["b/1"].attempts = 1
    assert not is_behind(s, "c/1")
    s.offers["c/1"].status = "collecting"
    s.applied["b"] = 0
    assert is_behind(s, "b/1"), "the node is back while the other is on its way: never both"
    assert not is_behind(s, "c/1")


def test_nobody_takes_the_place_of_a_node_of_another_site() -> None:
    cluster = Site([Node(name) for name in "abcd"], "cd", rounds=3)
    cluster.run(until=lambda: any(o.members for o in cluster.said(ContributionOffered)))
    real = next(o for o in cluster.said(ContributionOffered) if o.members)
    forged = tuple(msgspec.structs.replace(member, node=node) for member, node in zip(real.members, "bd", strict=True))
    offer = msgspec.structs.replace(real, id="", node="b", members=forged, digest="f" * 64)
    cluster.publish(offer, "trainer/j/b")
    cluster.run(until=lambda: cluster.finished)
    cluster.check()
    assert "d stand at another site" in [r.reason for r in cluster.said(ContributionRefused)]


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_whatever_fails_inside_no_difference_is_lost_or_counted_twice(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [Node(name, step_seconds=rng.uniform(0.05, 0.2), transfer_seconds=rng.uniform(0.05, 1.0)) for name in "abcd"]
    site = rng.choice(["cd", "abc", "bd", "abcd", "ba"])
    cluster = Site(nodes, site, lambda *what: rng.random() < 0.1, rounds=8, seed=seed)
    cluster.run(rng.uniform(3, 20))
    if rng.random() < 0.7:
        victim = rng.choice("abcd")
        cluster.kill(victim)
        cluster.run(3.01)
        cluster.regroup(*(name for name in site if name != victim))
        if rng.random() < 0.5:
            cluster.run(rng.uniform(0, 10))
            cluster.boot(cluster.nodes[victim])
            cluster.run(1.1)
            cluster.regroup(*site)
    cluster.run(600, until=lambda: cluster.finished)
    cluster.check()
    assert cluster.finished
    for each in cluster.closed.values():
        assert isinstance(each, RoundClosed)
        assert all(c.late <= 4 for c in each.contributions)

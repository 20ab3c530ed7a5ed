"""Chains of causes out of stored events."""

from report_story import told

from runners.causes import LONGEST, about, chain_of, chains_about
from schemas.decisions import NodeLost, NodeReleased
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeYielding, PauseNode
from schemas.training import Assignment, ContributionOffered, Exclusion, Roster
from schemas.wire import Message, seal


def said(number: int, cause: int | None, at: float = 0.0) -> Message:
    """An event by its number, with the number of its cause."""
    message = NodeReleased(node="n", reason=f"event {number}")
    return seal(message, id=str(number), cause="" if cause is None else str(cause), at=at or number, source="x")


def ids(chain: list[Message]) -> list[str]:
    return [event.id for event in chain]


def test_a_chain_goes_from_the_event_back_to_its_first_cause() -> None:
    events = [said(1, None), said(2, 1), said(3, 1), said(4, 2)]
    assert ids(chain_of(events, "4")) == ["4", "2", "1"]
    assert ids(chain_of(events, "1")) == ["1"]


def test_a_chain_ends_where_a_cause_is_no_longer_stored() -> None:
    assert ids(chain_of([said(2, 1)], "2")) == ["2"]
    assert chain_of([said(2, 1)], "1") == []
    assert chain_of([], "") == []


def test_a_loop_ends() -> None:
    assert ids(chain_of([said(1, 3), said(2, 1), said(3, 2)], "2")) == ["2", "1", "3"]
    assert ids(chain_of([said(1, 1)], "1")) == ["1"]


def test_a_chain_is_cut_where_nobody_reads_on() -> None:
    events = [said(number, number - 1) for number in range(100)]
    assert len(chain_of(events, "99")) == LONGEST


def test_why_a_share_changed_is_the_link() -> None:
    story = told()
    chain = next(
        chain for chain in chains_about(story, "cyd", 99) if getattr(chain[0], "reason", "") == "cyd's link is poor"
    )
    assert [type(event) for event in chain] == [Assignment, LinkQualityChanged]
    assert isinstance(chain[1], LinkQualityChanged)
    assert chain[1].node == "cyd"


def test_decisions_about_a_name_newest_first_and_no_more_than_asked_for() -> None:
    story = told()
    chains = chains_about(story, "dan", 3)
    assert len(chains) == 3
    times = [chain[0].at for chain in chains]
    assert times == sorted(times, reverse=True)
    everything = [chain[0] for chain in chains_about(story, "dan", 999)]
    assert any(isinstance(event, NodeLost) for event in everything)
    assert any(isinstance(event, Roster) for event in everything)
    assert not any(isinstance(event, ContributionOffered) for event in everything), "an offer is no decision"
    assert chains_about(story, "nobody", 5) == []


def test_a_roster_is_about_those_that_it_leaves_out_too() -> None:
    roster = Roster(
        job="j",
        version=1,
        nodes=("a",),
        reducers=("a",),
        quorum=1,
        excluded=(Exclusion(node="b", reason="slow"),),
        reason="r",
    )
    assert about(roster, "j")
    assert about(roster, "a")
    assert about(roster, "b")
    assert not about(roster, "c")


def test_a_pause_explains_a_roster() -> None:
    order = seal(PauseNode(node="n", pause=True), id="1", cause="", at=1.0, source="cli")
    word = seal(NodeYielding(node="n", version=1, yielding=True, reason="r"), id="2", cause="1", at=2.0, source="node/n")
    roster = seal(
        Roster(
            job="j",
            version=2,
            nodes=("m",),
            reducers=(),
            quorum=1,
            reason="n: r",
            excluded=(Exclusion(node="n", reason="r"),),
        ),
        id="3",
        cause="2",
        at=3.0,
        source="s",
    )
    chains = chains_about([order, word, roster], "n", 3)
    assert [ids(chain) for chain in chains] == [["3", "2", "1"], ["2", "1"], ["1"]]

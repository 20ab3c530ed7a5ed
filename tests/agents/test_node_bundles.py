"""A node's agent and the code that jobs bring: nothing hangs while it arrives, a refusal is final until it is mended."""

import pytest
from test_node_agent import KEY, NOW, a_roster, a_state, at_work, exited, said, tell, works

from agents.base import SetTimer, StartWork
from agents.node import BundleArriving, NodeAgent, TrainingWork, TrustChanged
from agents.node.core import NoProgress
from agents.node.works import EXIT_BUNDLE, EXIT_DECLINED, EXIT_RAISED
from schemas.nodes import NodeMended, WorkFailed, WorkStarted

WHY = "the job's code comes from a stranger: if you trust them, say `shoal trust KEY`"


def refused(**settings: object) -> NodeAgent:
    """A node that didn't take the code of job `j`."""
    node = at_work(**settings)
    tell(node, exited(EXIT_DECLINED, WHY), NOW + 1)
    return node


def starts(effects: list[object]) -> list[str]:
    return [e.key for e in effects if isinstance(e, StartWork) and isinstance(e.work, TrainingWork)]


def test_code_that_arrives_slowly_is_no_hang() -> None:
    node = at_work(startup_seconds=60.0)
    assert SetTimer(timer=NoProgress(job="j"), at=NOW + 500 + 80) in tell(node, BundleArriving(job="j"), NOW + 500)
    assert tell(node, BundleArriving(job="other"), NOW + 500) == []
    tell(node, a_roster("other", version=2))
    assert tell(node, BundleArriving(job="j"), NOW + 501) == [], "its end isn't put off"


@pytest.mark.parametrize(("code", "kind"), [(EXIT_BUNDLE, "bundle"), (EXIT_DECLINED, "declined")])
def test_a_refusal_says_why_once_and_is_not_tried_again(code: int, kind: str) -> None:
    node = at_work()
    effects = tell(node, exited(code, WHY), NOW + 1)
    (failed,) = said(effects, WorkFailed)
    assert (failed.kind, failed.retry, failed.last_lines) == (kind, False, ())
    assert failed.reason == f"{WHY}; given up on this node"
    assert works(effects) == []
    assert works(tell(node, a_state(version=3), NOW + 2)) == []


def test_trust_that_is_given_later_starts_the_job() -> None:
    node = refused()
    effects = tell(node, TrustChanged(), NOW + 2)
    assert len(said(effects, NodeMended)) == 1
    assert starts(effects) == [KEY]
    assert len(said(effects, WorkStarted)) == 1


def test_trust_that_is_given_after_the_roster_went_on_tells_whoever_draws_them_up() -> None:
    node = refused()
    tell(node, a_roster("other", version=2), NOW + 1)
    effects = tell(node, TrustChanged(), NOW + 2)
    assert len(said(effects, NodeMended)) == 1
    assert starts(effects) == []
    assert starts(tell(node, a_roster("me", "other", version=3), NOW + 3)) == [KEY]


def test_trust_mends_no_crash() -> None:
    node = at_work(attempts=1)
    tell(node, exited(EXIT_RAISED, "ValueError"), NOW + 1)
    assert starts(tell(node, TrustChanged(), NOW + 2)) == []

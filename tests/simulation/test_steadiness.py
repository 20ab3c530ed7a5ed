"""What counts as unrest: shares of measured nodes that change, not what newcomers turn out to be."""

from runners.simulation.steadiness import LEARNT, Steadiness
from schemas.training import Assignment, Average, Roster, RoundClosed, Share

AVERAGE = Average(key="k", size=1, digest="d", holders=())


class Story:
    """A job of which roster, shares and rounds are told."""

    def __init__(self) -> None:
        self.steadiness = Steadiness()
        self.closed = 0

    def roster(self, *nodes: str) -> None:
        self.steadiness.see(Roster(job="j", version=1, nodes=nodes, reducers=nodes[:1], quorum=1, reason=""))

    def steps(self, deadline: float = 9.0, **steps: int) -> None:
        shares = {node: Share(microbatch=8, local_steps=count, encoding="int8") for node, count in steps.items()}
        self.steadiness.see(
            Assignment(
                job="j",
                version=1,
                roster_version=1,
                shares=shares,
                average_encoding="int8",
                round_seconds=5.0,
                deadline_seconds=deadline,
                strategy="adaptive",
                reason="",
            )
        )

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.closed += 1
            self.steadiness.see(
                RoundClosed(
                    job="j",
                    round=self.closed,
                    term=0,
                    reducer="a",
                    next_reducer="a",
                    contributions=(),
                    missing=(),
                    average=AVERAGE,
                    samples=1,
                    loss=1.0,
                    seconds=5.0,
                    on_time=True,
                    reason="",
                )
            )

    @property
    def changes(self) -> tuple[int, int]:
        return self.steadiness.changes(Roster, "j"), self.steadiness.changes(Assignment, "j")


def test_what_changes_while_a_job_is_measured_does_not_count() -> None:
    story = Story()
    story.roster("a", "b")
    for steps in range(LEARNT):
        story.steps(a=steps, b=9)
        story.rounds(1)
    assert story.changes == (0, 0)


def test_shares_of_measured_nodes_that_go_up_and_down_count() -> None:
    story = Story()
    story.roster("a", "b")
    story.steps(a=1, b=9)
    story.rounds(LEARNT)
    for steps in (2, 1, 2):
        story.steps(a=steps, b=9)
        story.rounds(1)
    story.steps(a=2, b=9, deadline=12.0)
    assert story.changes == (0, 4)


def test_a_newcomer_is_measured_and_the_roster_counts_for_it() -> None:
    story = Story()
    story.roster("a", "b")
    story.steps(a=1, b=9)
    story.rounds(LEARNT)
    story.roster("a", "c")
    story.steps(a=1, c=5)
    for steps in range(LEARNT):
        story.steps(a=1, c=steps)
        story.rounds(1)
    assert story.changes == (1, 0)
    story.steps(a=1, c=7)
    assert story.changes == (1, 1)


def test_who_comes_back_again_and_again_counts_by_the_roster() -> None:
    story = Story()
    story.roster("a", "b")
    story.steps(a=1, b=9)
    story.rounds(LEARNT)
    for _ in range(3):
        story.roster("a")
        story.steps(a=1)
        story.roster("a", "b")
        story.steps(a=1, b=9)
        story.rounds(1)
    assert story.changes == (6, 0)

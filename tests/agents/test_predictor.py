"""The predictor by direct calls: what it expects, what it makes of what came, and that it says by what it goes."""

import random
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.base import Publish, SetTimer, StartWork
from agents.inputs import Woken, WorkExited
from agents.predictor import Fitted, Learned, Model, Predictor, PredictorSettings, PredictorState, scores, tracks
from agents.predictor.state import Track
from schemas.decisions import NodeLost
from schemas.network import LinkProbed
from schemas.nodes import Accelerator, NodeHeartbeat, NodeProfile, WorkFailed, WorkStarted
from schemas.prediction import FaultForeseen, PredictionJudged, PredictorLearned
from schemas.training import StepTimed
from schemas.wire import Message, encode

M = TypeVar("M", bound=Message)
MEMORY = 1000


class World:
    """One predictor, one node, a second at a time."""

    def __init__(self, **settings: float) -> None:
        self.core = Predictor(PredictorSettings(**({"held_out": 0.0} | settings)), random.Random(1))  # type: ignore[arg-type]
        self.now = 1000.0
        self.said: list[Message] = []
        self.works: list[StartWork] = []
        self.timers: list[SetTimer] = []
        self.give(Woken(incarnation=1, resumed=False, at=1000.0))
        self.give(NodeProfile(node="a", version=1, host="h", site="s", cpus=1, memory_bytes=MEMORY))

    def give(self, event: msgspec.Struct) -> None:
        """One input."""
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, Publish):
                assert encode(effect.message)
                self.said.append(effect.message)
            elif isinstance(effect, StartWork):
                self.works.append(effect)
            elif isinstance(effect, SetTimer):
                self.timers.append(effect)
        self.core.check()
        kept = msgspec.msgpack.encode(self.core.state)
        assert msgspec.msgpack.decode(kept, type=PredictorState) == self.core.state, "a restart finds it as it was"

    def beat(self, used: float, **figures: object) -> None:
        """A heartbeat, and a second."""
        self.give(NodeHeartbeat(node="a", sequence=1, interval=1.0, memory_used_bytes=int(used), **figures))  # type: ignore[arg-type]
        self.now += 1.0

    def all(self, kind: type[M]) -> list[M]:
        """Everything said of a kind."""
        return [said for said in self.said if isinstance(said, kind)]

    def rises(self, first: int, last: int, step: int = 2) -> None:
        """Memory in use, a second each."""
        for used in range(first, last, step):
            self.beat(used)


def out_of_memory() -> WorkFailed:
    """The fault."""
    return WorkFailed(
        node="a", job="j", attempt=1, kind="out_of_memory", code=5, last_lines=(), retry=True, reason="out of memory"
    )


def test_memory_that_is_about_to_run_out_is_foreseen_by_its_trend_and_said_so() -> None:
    world = World()
    world.rises(400, 980)
    (told,) = world.all(FaultForeseen)
    assert (told.node, told.kind, told.expected, told.basis) == ("a", "memory", True, "trend")
    assert told.chance >= told.threshold == 0.7
    assert "no model being learned yet" in told.reason
    assert world.now - 1000 > 100, "not long before it was to be seen"


def test_memory_that_is_merely_high_is_no_news() -> None:
    world = World()
    for _ in range(300):
        world.beat(850)
    assert not world.said


def test_what_rises_as_a_process_starts_and_then_stands_still_is_no_trend() -> None:
    world = World()
    for second in range(300):
        world.beat(min(300 + 14 * second, 700) + 10 * (second % 3))
    assert not world.said


def test_what_is_no_longer_expected_is_told_too() -> None:
    world = World()
    world.rises(400, 900)
    for _ in range(120):
        world.beat(500)
    assert [told.expected for told in world.all(FaultForeseen)] == [True, False]
    assert world.all(FaultForeseen)[1].version > world.all(FaultForeseen)[0].version


def test_another_process_begins_anew() -> None:
    world = World()
    world.rises(400, 900)
    world.give(WorkStarted(node="a", job="j", attempt=2, reason="r"))
    assert not world.all(FaultForeseen)[-1].expected
    assert "memory_used_bytes" not in world.core.state.nodes["a"].tracks


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("heat", lambda i: {"temperature_c": 60 + 0.1 * i}),
        ("disk", lambda i: {"disk_used_part": 0.7 + 0.0015 * i}),
        ("heat", lambda i: {"accelerators": (Accelerator(name="g", memory_bytes=1, temperature_c=60 + 0.1 * i),)}),
        ("gpu", lambda i: {"accelerators": (Accelerator(name="g", memory_bytes=1, ecc_corrected=i * i // 20),)}),
    ],
)
def test_heat_disks_and_errors(kind: str, figures: object) -> None:
    world = World()
    for i in range(240):
        world.beat(10, **figures(i))  # type: ignore[operator]
        if world.said:
            break
    assert [told.kind for told in world.all(FaultForeseen)] == [kind]


def test_a_link_that_loses_more_and_more_and_a_loss_that_was_foreseen() -> None:
    world = World(held_out=1.0)
    for i in range(400):
        lost = (i * 7919) % 100 < i / 5
        world.give(LinkProbed(node="a", sequence=i, rtt_ms=None if lost else 20.0))
        world.now += 1
    assert world.all(FaultForeseen)[0].kind == "link"
    world.give(NodeLost(node="a", silent_seconds=5, reason="r"))
    assert world.core.state.scores["link"].faults == 1
    assert not world.all(FaultForeseen)[-1].expected


def test_training_that_becomes_slower_and_slower() -> None:
    world = World()
    for i in range(230):
        speed = 100 if i < 60 else 100 - 0.4 * (i - 60)
        world.give(
            StepTimed(job="j", node="a", round=i, steps=1, samples=round(speed * 10), seconds=10, microbatch=8, loss=1)
        )
        world.now += 5
        if world.said:
            break
    told = world.all(FaultForeseen)
    assert [(each.kind, each.held_out) for each in told] == [("speed", True)], "nobody acts upon it"
    assert speed > world.core.state.nodes["a"].tracks["samples_per_s"].usual / 2, "not after the fact"


def test_what_was_acted_upon_teaches_nothing_and_what_was_not_does() -> None:
    for held_out, faults in ((0.0, 0), (1.0, 1)):
        world = World(held_out=held_out)
        world.rises(400, 980)
        assert world.all(FaultForeseen)[0].held_out == bool(held_out)
        world.give(out_of_memory())
        score = world.core.state.scores.get("memory")
        assert (score.faults if score is not None else 0) == faults


def test_false_alarms_raise_the_threshold_and_that_is_published() -> None:
    settings = PredictorSettings()
    score = scores.fresh()
    for _ in range(20):
        scores.count(score, 0.75, False, settings)
        scores.count(score, 0.92, True, settings)
    assert score.threshold == 0.9
    assert scores.precision(score, 0.9) == 1.0
    assert scores.recall(score, 0.9) == 1.0
    assert scores.precision(score, 0.7) == pytest.approx(0.5, abs=0.01)
    world = World(held_out=1.0, judged_every=2)
    for _ in range(30):
        world.rises(400, 480)
        world.give(out_of_memory())
    judged = world.all(PredictionJudged)
    assert judged
    assert judged[-1].faults > 0
    assert "outcomes" in judged[-1].reason


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60))
def test_scores_are_parts(outcomes: list[tuple[float, bool]]) -> None:
    score, settings = scores.fresh(), PredictorSettings()
    for chance, came in outcomes:
        scores.count(score, chance, came, settings)
    recalls = [scores.recall(score, threshold) for threshold in scores.THRESHOLDS]
    for threshold, recall in zip(scores.THRESHOLDS, recalls, strict=True):
        precision = scores.precision(score, threshold)
        assert precision is None or 0 <= precision <= 1
        assert recall is None or 0 <= recall <= 1 + 1e-9
    known = [recall for recall in recalls if recall is not None]
    assert known == sorted(known, reverse=True)
    assert score.threshold is None or score.faults >= settings.least_faults


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=120), st.sampled_from(sorted(tracks._KINDS)))
def test_no_figure_breaks_a_track(values: list[float], figure: str) -> None:
    kind = tracks.kind_of(figure)
    assert kind is not None
    track, settings = Track(kind=kind), PredictorSettings()
    for second, value in enumerate(values):
        level = tracks.level(track, value, MEMORY, settings)
        if level is not None:
            assert 0 <= level <= tracks.MOST
            tracks.take(track, level, float(second * 4), settings)
    found = tracks.features(track, settings)
    assert found is None or 0 <= tracks.chance(tracks.PRIOR, found) <= 1


def test_models_are_asked_for_adopted_and_given_up() -> None:
    world = World()
    (due,) = world.timers
    world.now = due.at
    world.give(due.timer)
    assert len(world.works) == 1
    model = Model(bias=-1.0, weights=(0.0, 0.0, 0.0), basis="model")
    world.give(
        Learned(fitted=(Fitted(kind="memory", examples=900, faults=20, model=model, loss_model=0.1, loss_trend=0.2),))
    )
    assert world.all(PredictorLearned)[-1].basis == "model"
    world.rises(400, 980)
    assert not world.all(FaultForeseen), "this model expects nothing"
    world.give(Learned(fitted=(Fitted(kind="memory", examples=900, faults=2, problem="too few"),)))
    assert world.all(PredictorLearned)[-1].reason == "too few"
    assert not world.core.state.models
    world.give(WorkExited(key="learn", code=1, last_lines=("no such file",)))
    assert {said.reason for said in world.all(PredictorLearned)[-6:]} == {"no such file"}

"""What each machine is worth, where people look: the live view, its lines, the report."""

import io

from report_story import BEGIN, told
from rich.console import Console

from runners.report import as_json, build_report, from_json
from runners.report_text import summary
from runners.view.lines import Lines
from runners.view.render import draw
from runners.view.state import ViewState
from schemas.appraisal import NodesAppraised, NodeValue
from schemas.wire import Message, seal

HINDERS = NodeValue(
    node="eve",
    verdict="hinders",
    rounds=20,
    samples_per_second=-12.0,
    low=-16.0,
    high=-8.0,
    without=0.12,
    without_low=0.08,
    without_high=0.15,
)
HELPS = NodeValue(node="ada", verdict="helps", rounds=20, without=-0.3, without_low=-0.33, without_high=-0.27)
EARLY = NodeValue(node="bob", verdict="early", rounds=3)


def appraised(version: int, *nodes: NodeValue, at: float = 90.0) -> NodesAppraised:
    said = NodesAppraised(
        job="demo",
        version=version,
        round=20,
        rounds=19,
        samples_per_second=100.0,
        nodes=nodes,
        reason="without eve the job would be 12 % faster (8 to 15 %)",
    )
    return seal(said, id=f"appraiser:1:{version}", cause="", at=BEGIN + at, source="appraiser")


def story() -> list[Message]:
    first = appraised(1, EARLY, earlier(HINDERS), at=60.0)
    return [*told(), first, appraised(2, HELPS, HINDERS, EARLY)]


def earlier(value: NodeValue) -> NodeValue:
    """The same node, earlier: it still helped."""
    return NodeValue(node=value.node, verdict="helps", rounds=9, without=-0.05, without_low=-0.08, without_high=-0.02)


def test_the_view_has_a_column_for_it() -> None:
    state = ViewState()
    for message in sorted(story(), key=lambda message: message.at):
        state.see(message)
    console = Console(width=140, height=60, record=True, file=io.StringIO(), force_terminal=True)
    console.print(draw(state, BEGIN + 100.0, 140, 60))
    text: str = console.export_text()
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert "without it" in text
    assert "+12 %" in rows["eve"]
    assert "-30 %" in rows["ada"]
    assert "?" in rows["bob"]
    assert "without eve the job would be 12 % faster" in text


def test_lines_say_it_once() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for version in (1, 2):
        lines.see(appraised(version, HINDERS))
    assert said == ["appraiser: without eve the job would be 12 % faster (8 to 15 %)"]


def test_the_report_has_the_last_word_on_each_node() -> None:
    report = build_report("demo", story())
    values = {node.node: node.value for node in report.nodes}
    assert (values["eve"], values["ada"], values["bob"]) == (HINDERS, HELPS, EARLY)
    assert values["cyd"] is None
    assert from_json(as_json(report)) == report
    text = summary(report)
    assert "without eve the job would be 12 % faster (8 to 15 %)" in text
    assert "without ada the job would be 30 % slower (27 to 33 %)" in text
    assert "too early to say of bob: 3 rounds" in text


def test_a_job_that_was_not_appraised_says_nothing_of_it() -> None:
    assert "does each machine help" not in summary(build_report("demo", told()))

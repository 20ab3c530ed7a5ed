"""A view's state drawn with rich."""

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runners.view.state import NodeView, ViewState

SPARKS = "▁▂▃▄▅▆▇█"
QUALITY_STYLE = {
    "excellent": "green",
    "good": "green",
    "fair": "yellow",
    "poor": "red",
    "critical": "bold red",
    "offline": "dim",
}
MARKS = {
    "here": "[green]● here[/green]",
    "sending": "[yellow]◐ sending[/yellow]",
    "expected": "○ expected",
    "missing": "[red]✗ missed[/red]",
}


def draw(state: ViewState, now: float) -> RenderableType:
    """The whole view; `now` in seconds since the epoch."""
    return Group(_header(state, now), _nodes(state), _decisions(state))


def _header(state: ViewState, now: float) -> Panel:
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    if not state.job:
        return Panel("no job yet: shoal submit examples/digits.toml", title="shoal")
    elapsed = f"{now - state.began:.0f} s" if state.began else ""
    bar = ProgressBar(total=max(1, state.rounds), completed=state.round, width=40)
    line = Text.assemble((state.state, "bold"), f"  round {state.round}/{state.rounds}  ", elapsed)
    grid.add_row(line, bar)
    loss = f"loss {state.loss:.4f}" if state.loss is not None else "loss -"
    if state.validation is not None:
        loss += f"   held out {state.validation:.4f}"
    about = f"reducer {state.reducer or '-'}   phase {state.phase or '-'}"
    if state.round_seconds:
        about += f"   round {state.round_seconds:.1f} s, deadline {state.deadline or 0:.1f} s"
    grid.add_row(Text(f"{loss}   {sparkline(state.losses, 40)}"), about)
    return Panel(grid, title=f"{state.job}  {state.workload}", title_align="left")


def _nodes(state: ViewState) -> Table:
    table = Table(expand=True, box=None, header_style="bold")
    for title, right in (
        ("node", False),
        ("link", False),
        ("score", True),
        ("rtt", True),
        ("batch", True),
        ("steps", True),
        ("sent as", False),
        ("doing", False),
        ("round", False),
        ("samples", True),
        ("late", True),
        ("emulated", False),
    ):
        table.add_column(title, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for name in sorted(state.nodes):
        table.add_row(*_row(state.nodes[name]), style="" if state.nodes[name].alive else "dim")
    return table


def _row(node: NodeView) -> list[str]:
    share = node.share
    style = QUALITY_STYLE.get(node.quality, "")
    doing = f"{node.doing} {node.step}/{node.steps}" if node.doing == "computing" else node.doing
    every = f" /{share.every} rounds" if share and share.every > 1 else ""
    streams = f" x{share.streams}" if share and share.streams > 1 else ""
    return [
        node.name if node.alive else f"{node.name} (lost)",
        f"[{style}]{node.quality}[/{style}]" if style else node.quality or "-",
        f"{node.score:.0f}" if node.score is not None else "",
        f"{node.rtt_ms:.0f} ms" if node.rtt_ms is not None else "-",
        str(share.microbatch) if share else "",
        str(share.local_steps) if share else "",
        f"{share.encoding}{streams}{every}" if share else "",
        doing,
        MARKS.get(node.mark, ""),
        str(node.samples),
        str(node.late) if node.late else "",
        node.emulated,
    ]


def _decisions(state: ViewState) -> Panel:
    lines = Text(overflow="ellipsis", no_wrap=True)
    for decision in state.decisions:
        lines.append(f"{decision.round:>4}  ", style="dim")
        lines.append(f"{decision.who:<17.17} ", style="red" if decision.fault else "cyan")
        lines.append(decision.reason + "\n")
    return Panel(lines, title="decisions, by round", title_align="left")


def sparkline(values: list[float], width: int) -> str:
    """The last `width` values as a line of blocks, scaled to their range."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in shown)

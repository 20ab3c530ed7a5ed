"""A view's state drawn with rich."""

from rich.console import Group, JustifyMethod, RenderableType
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
    "here": Text("● here", "green"),
    "sending": Text("◐ sending", "yellow"),
    "expected": Text("○ awaited"),
    "missing": Text("✗ missed", "red"),
}
HEADER_LINES = 4  # two lines and their border
BORDER_LINES = 2
ROOMY = 100  # columns from which there is room for all figures
NAME_WIDTH = 16  # columns that a node's name always gets, if it is that long
FEWEST_DECISIONS = 3  # on a terminal that is too low for everything

# Title, whether it is aligned to the right, and the narrowest terminal (in columns) that has room for it.
COLUMNS = (
    ("node", False, 0),
    ("link", False, 0),
    ("rtt ms", True, 80),
    ("batch", True, 0),
    ("steps", True, 0),
    ("sent as", False, ROOMY),
    ("doing", False, 0),
    ("round", False, 0),
    ("samples", True, ROOMY),
    ("late", True, ROOMY),
    ("without it", True, ROOMY),
    ("emulated", False, 0),
)


def draw(state: ViewState, now: float, width: int, height: int) -> RenderableType:
    """The whole view for a terminal of so many columns and lines; `now` in seconds since the epoch."""
    rows = [state.nodes[name] for name in sorted(state.nodes) if state.nodes[name].worth_a_row]
    left = height - HEADER_LINES - (len(rows) + 1) - BORDER_LINES - 1  # the last line is the cursor's
    return Group(_header(state, now, width), _nodes(rows, width), _decisions(state, max(FEWEST_DECISIONS, left)))


def _header(state: ViewState, now: float, width: int) -> Panel:
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    if not state.job:
        missing = f"no job {state.wanted} yet" if state.wanted else "no job yet: shoal submit examples/digits.toml"
        return Panel(missing, title="shoal", title_align="left")
    line = Text.assemble((state.state, "bold"), f"  round {state.round}/{state.rounds}")
    if state.began is not None:
        line.append(f"  {(state.ended_at or now) - state.began:.0f} s")
    if state.ended_at is not None or not state.round:
        line.append(f"  {state.state_reason}")
    grid.add_row(line, ProgressBar(total=max(1, state.rounds), completed=state.round, width=min(40, width // 5)))
    loss = f"loss {state.loss:.4f}" if state.loss is not None else "loss -"
    if state.validation is not None:
        loss += f"  held out {state.validation:.4f}"
    about = f"reducer {state.reducer or '-'}  phase {(state.phase or '-').replace('_', ' ')}"
    if state.round_seconds and width >= ROOMY:
        about += f"  round {state.round_seconds:.1f} s, deadline {state.deadline or 0:.1f} s"
    grid.add_row(Text(f"{loss}  {sparkline(state.losses, width // 4)}"), Text(about))
    return Panel(grid, title=Text(f"{state.job}  {state.workload}"), title_align="left")


def _nodes(rows: list[NodeView], width: int) -> Table:
    table = Table(expand=True, box=None, header_style="bold", padding=(0, 1, 0, 0))
    shown = [column for column in COLUMNS if column[2] <= width]
    for title, right, _ in shown:
        least = min(NAME_WIDTH, max((len(node.name) for node in rows), default=0)) if title == "node" else None
        justify: JustifyMethod = "right" if right else "left"
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", min_width=least)
    for node in rows:
        cells = _cells(node)
        table.add_row(*(cells[title] for title, _, _ in shown), style="" if node.alive else "dim")
    return table


def _cells(node: NodeView) -> dict[str, str | Text]:
    """By column."""
    share = node.share
    every = f" /{share.every}" if share and share.every > 1 else ""
    streams = f" x{share.streams}" if share and share.streams > 1 else ""
    doing = f"{node.doing} {node.step}/{node.steps}" if node.doing == "computing" else node.doing.replace("_", " ")
    link = f"{node.quality or '-'} {node.score:.0f}" if node.score is not None else node.quality or "-"
    return {
        "node": node.name,
        "link": Text(link, QUALITY_STYLE.get(node.quality, "")),
        "rtt ms": f"{node.rtt_ms:.0f}" if node.rtt_ms is not None else "-",
        "batch": str(share.microbatch) if share else "",
        "steps": str(share.local_steps) if share else "",
        "sent as": f"{share.encoding}{streams}{every}" if share else "",
        "doing": Text("lost", "red") if node.lost else Text("yields", "yellow") if node.yielding else doing,
        "round": MARKS.get(node.mark, ""),
        "samples": str(node.samples),
        "late": str(node.late) if node.late else "",
        "without it": Text(node.without, "red" if node.without.startswith("+") else ""),
        "emulated": node.emulated,
    }


def _decisions(state: ViewState, most: int) -> Panel:
    lines = Text(overflow="ellipsis", no_wrap=True)
    for decision in state.decisions[-most:]:
        lines.append("\n" if lines else "")
        lines.append(f"{decision.round or '':>4}  ", style="dim")
        lines.append(f"{decision.who:<17.17} ", style="red" if decision.fault else "cyan")
        lines.append(decision.reason)
    return Panel(lines, title="decisions, by round", title_align="left")


def sparkline(values: list[float], width: int) -> str:
    """The last `width` values as a line of blocks, scaled to their range."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((value - low) * scale)] for value in shown)

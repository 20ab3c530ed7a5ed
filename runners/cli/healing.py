"""The command `shoal healing`."""

import msgspec
import typer
from rich.table import Table

from runners.cli.common import (
    DEFAULT_STORE,
    LOOKS,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    example,
    print_json,
    run_async,
)
from runners.known_past import known_past


def healing(server: ServerOption = None, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """What has helped against which fault, how sure that is, and which faults are expected.

    On the machine of `shoal up` it knows the recorded history, too.
    """
    from runners.healing_table import RemedyRow, RiskRow, remedies, risks  # no other command needs the healer's arithmetic

    past = run_async(known_past(server, store))
    known, foreseen = remedies(past), risks(past)
    if as_json:
        print_json({"remedies": msgspec.to_builtins(known), "risks": msgspec.to_builtins(foreseen)})
        return

    def helped(row: RemedyRow) -> tuple[str, ...]:
        chance = f"{100 * row.chance:.0f} ± {100 * row.deviation:.0f} %"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f} ± {row.seconds_deviation or 0:.0f} s"
        return row.fault, row.remedy, chance, f"{row.successes:.1f}", f"{row.failures:.1f}", seconds

    def expected(row: RiskRow) -> tuple[str, ...]:
        parts = ["" if part is None else f"{100 * part:.0f} %" for part in (row.threshold, row.precision, row.recall)]
        return row.kind, row.basis, *parts, f"{row.faults} of {row.outcomes}", ", ".join(row.expected_of)

    table = Table("fault", "remedy", "helps", "helped", "in vain", "health after", title="Remedies", title_justify="left")
    for remedy in known:
        table.add_row(*helped(remedy))
    console.print(table if known else "No fault has lasted or healed yet.")
    if foreseen:
        table = Table(
            "fault", "by", "told from", "precision", "recall", "came", "expected of", title="Foreseen", title_justify="left"
        )
        for risk in foreseen:
            table.add_row(*expected(risk))
        console.print(table)


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(rich_help_panel=LOOKS, epilog=example("shoal healing", "shoal healing --json"))(healing)

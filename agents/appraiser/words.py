"""An appraisal in a user's words: in events, `shoal watch`, the report and `shoal doctor --fleet`."""

from collections.abc import Sequence

from schemas.appraisal import NodeValue

NAMED = 3
"""Nodes that a reason names."""


def change(value: float) -> str:
    """`12 % faster`, `30 % slower`, of a change of speed."""
    return f"{abs(value):.0%}".replace("%", " %") + (" faster" if value > 0 else " slower")


def span(low: float, high: float) -> str:
    """`8 to 15 %`, or with both signs `3 % slower to 4 % faster`."""
    if low < 0 < high:
        return f"{change(low)} to {change(high)}"
    near, far = sorted((abs(low), abs(high)))
    return f"{100 * near:.0f} to {100 * far:.0f} %"


def value(one: NodeValue) -> str:
    """`without node-4 the job would be 12 % faster (8 to 15 %)`."""
    match one.verdict:
        case "early":
            rounds = "1 round" if one.rounds == 1 else f"{one.rounds} rounds"
            return f"too early to say of {one.node}: {rounds}"
        case "unclear":
            bounds = span(one.without_low, one.without_high)
            return f"whether {one.node} helps can't be told: without it the job would be {bounds}"
    bounds = span(one.without_low, one.without_high)
    return f"without {one.node} the job would be {change(one.without)} ({bounds})"


def short(one: NodeValue) -> str:
    """For a column: `-30 %`, `+12 %`, `±4 %`, `?`."""
    if one.verdict == "early":
        return "?"
    if one.verdict == "unclear":
        return f"±{100 * max(abs(one.without_low), abs(one.without_high)):.0f} %"
    return f"{100 * one.without:+.0f} %"


def fleet(nodes: Sequence[NodeValue]) -> str:
    """Who hinders; if nobody does, who helps least."""
    hinders = sorted((one for one in nodes if one.verdict == "hinders"), key=lambda one: -one.without)
    if hinders:
        rest = f"; and {len(hinders) - NAMED} more hinder" if len(hinders) > NAMED else ""
        return "; ".join(value(one) for one in hinders[:NAMED]) + rest
    judged = [one for one in nodes if one.verdict != "early"]
    if not judged:
        most = max((one.rounds for one in nodes), default=0)
        return f"too early to say which machines help: {most} rounds were seen"
    unclear = [one for one in judged if one.verdict == "unclear"]
    if unclear:
        names = ", ".join(one.node for one in unclear[:NAMED])
        rest = f" and {len(unclear) - NAMED} more" if len(unclear) > NAMED else ""
        return f"no machine hinders; {names}{rest} may or may not help"
    least = max(judged, key=lambda one: one.without)
    return f"every machine helps; {value(least)}" + (", without any other even slower" if len(judged) > 1 else "")

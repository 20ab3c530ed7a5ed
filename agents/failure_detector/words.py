"""The failure detector's reasons, in a user's words."""


def seconds(value: float) -> str:
    """`0.8 s`, `12 s`."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def began() -> str:
    """A node was heard for the first time."""
    return "its heartbeats began"


def back(silent: float, how: str) -> str:
    """A suspicion is over."""
    return f"{how} after {seconds(silent)}"


def late(silent: float, usual: float, asked: int) -> str:
    """A node becomes a suspect by its silence."""
    others = f"; {asked} other nodes are asked to reach it" if asked > 1 else "; another node is asked to reach it"
    return f"no heartbeat for {seconds(silent)}, where {seconds(usual)} are usual{others if asked else ''}"


def cut(silent: float, wait: float) -> str:
    """A node becomes a suspect by the end of its connection."""
    return (
        f"its connection to the server has ended, {seconds(silent)} after its last heartbeat; it has {wait:.1f} s to return"
    )


def gone(silent: float, away: float) -> str:
    """A node whose connection didn't come back."""
    return f"its connection to the server ended and was not made anew within {seconds(away)}; silent for {seconds(silent)}"


def stalled(job: str, silent: float, usual: float) -> str:
    """A job's process that lives and takes no steps."""
    return f"its process of {job} computes and has taken no step for {seconds(silent)}, where {seconds(usual)} are usual"


def silent(length: float, phi: float, tried: int) -> str:
    """A node that stays silent though its connection stands."""
    others = f"; {tried} other nodes can't reach it either" if tried > 1 else "; another node can't reach it either"
    return f"no heartbeat for {seconds(length)} (phi {phi:.0f}) and no answer{others if tried else ''}"


def figure(name: str, kind: str, value: float, usual: float, first: float, last: float) -> str:
    """`step_ms is 210, where 95 is usual`, `memory_used_bytes has been rising, from 1.2e+09 to 1.9e+09`."""
    match kind:
        case "rising" | "falling":
            return f"{name} has been {kind}, from {first:.4g} to {last:.4g}"
        case "usual":
            return f"{name} is {value:.4g}, as is usual now"
    return f"{name} is {value:.4g}, where {usual:.4g} is usual"

"""The monitor's findings in a user's words."""

from schemas.network import LinkQuality


def milliseconds(value: float) -> str:
    """`0.4 ms`, `212 ms`."""
    return f"{value:.1f} ms" if value < 9.95 else f"{value:.0f} ms"


def percent(fraction: float) -> str:
    """`4 %`, and `0.4 %` under one."""
    return f"{100 * fraction:.1f} %" if 0 < fraction < 0.00995 else f"{100 * fraction:.0f} %"


def seconds(value: float) -> str:
    """`6 s`, `2.5 min`."""
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def change(previous: LinkQuality | None, quality: LinkQuality) -> str:
    """`fair -> poor`, or `graded fair` the first time."""
    return f"{previous.value} -> {quality.value}" if previous is not None else f"graded {quality.value}"


def figures(rtt_ms: float, was_ms: float | None, jitter_ms: float, loss: float, score: float) -> str:
    """`round trip 212 ms (was 95 ms), jitter 30 ms, loss 4 %: score 48`."""
    was = f" (was {milliseconds(was_ms)})" if was_ms is not None else ""
    return (
        f"round trip {milliseconds(rtt_ms)}{was}, jitter {milliseconds(jitter_ms)}, loss {percent(loss)}: score {score:.0f}"
    )

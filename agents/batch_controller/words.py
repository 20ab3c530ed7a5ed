"""The controller's decisions in a user's words."""

from collections.abc import Mapping

from schemas.ids import NodeId
from schemas.training import Share

NAMED = 4
"""Nodes that a reason names; more would bury them."""


def seconds(value: float) -> str:
    """`0.021 s`, `0.21 s`, `2.1 s`, `21 s`."""
    digits = 3 if value < 0.1 else 2 if value < 1 else 1 if value < 10 else 0
    return f"{value:.{digits}f} s"


def share(one: Share) -> str:
    """`10 x 8 samples in float16`."""
    lanes = f" over {one.streams} connections" if one.streams > 1 else ""
    pause = f", every {one.every} rounds" if one.every > 1 else ""
    return f"{one.local_steps} x {one.microbatch} samples in {one.encoding}{lanes}{pause}"


def difference(old: Share, new: Share) -> str:
    """`microbatch 8 -> 16, steps 10 -> 5, int8 over 8 connections`; empty where nothing differs."""
    parts = []
    if new.microbatch != old.microbatch:
        parts.append(f"microbatch {old.microbatch} -> {new.microbatch}")
    if new.local_steps != old.local_steps:
        parts.append(f"steps {old.local_steps} -> {new.local_steps}")
    if (new.encoding, new.streams) != (old.encoding, old.streams):
        plural = "s" if new.streams > 1 else ""
        parts.append(f"{new.encoding} over {new.streams} connection{plural}")
    if new.every != old.every:
        parts.append("contributes to each round" if new.every == 1 else f"contributes every {new.every} rounds")
    return ", ".join(parts)


def differences(old: Mapping[NodeId, Share], new: Mapping[NodeId, Share], news: Mapping[NodeId, str], else_why: str) -> str:
    """What changes for whom and why, of the nodes that are in both; `else_why` for those that have no news of their own."""
    told = []
    for node in sorted(new):
        changed = difference(old[node], new[node]) if node in old else ""
        if changed:
            told.append((not news.get(node), f"{node}: {changed}: {news.get(node) or else_why}"))
    told.sort(key=lambda entry: entry[0])  # first those with news of their own: they are the cause
    rest = [more(len(told) - NAMED)] if len(told) > NAMED else []
    return "; ".join([text for _, text in told[:NAMED]] + rest)


def move(latency_ms: float, target: int, old: int, new: int, measured: Mapping[int, float], *, by_latency: bool) -> str:
    """Why a microbatch moves: what the round trip calls for, or what was measured."""
    if by_latency:
        return f"a round trip of {latency_ms:.0f} ms calls for {target} samples between two"
    if new in measured:
        return f"{measured[new]:.0f} samples/s with {new}, {measured[old]:.0f} with {old}"
    return f"{measured.get(old, 0.0):.0f} samples/s with {old}, to see whether more gains"


def worth(found: int, size: int, gain: float) -> str:
    """Why a microbatch moves with strategy `goodput`."""
    return f"steps of {found} samples promise {gain:.0%} more progress a second than of {size}"


def length(found: float, than: float, gain: float) -> str:
    """Why rounds get longer or shorter with strategy `goodput`."""
    return f"rounds of {seconds(found)} promise {gain:.0%} more progress a second than of {seconds(than)}"


def steps_between(found: int, than: int, gain: float) -> str:
    """Why rounds get fewer steps than were asked for, or more again."""
    return f"{found} steps between two averages promise {gain:.0%} more progress a second than {than}"


def gradient(size: int, step: float, within: float) -> str:
    """Why a gradient is made of more or fewer samples."""
    return f"a gradient of {size} samples takes {seconds(step)}, and a round has {seconds(within)} for it"


def upload(old: str, old_part: float, new: str, new_part: float) -> str:
    """Why an encoding changes though the link's grade doesn't."""
    return f"its upload in {old} takes {old_part:.0%} of a round, in {new} {new_part:.0%}"


def more(count: int) -> str:
    """`and 1 more node`, `and 3 more nodes`."""
    return f"and {count} more node{'s' if count > 1 else ''}"


def comings_and_goings(old: Mapping[NodeId, Share], new: Mapping[NodeId, Share]) -> str:
    """`node-5 comes in with 4 x 8 samples in float16; node-2 is out`."""
    came = [node for node in sorted(new) if node not in old]
    went = [node for node in sorted(old) if node not in new]
    parts = [f"{node} comes in with {share(new[node])}" for node in came[:NAMED]]
    if len(came) > NAMED:
        parts.append(f"and {len(came) - NAMED} more come in")
    if went:
        names = ", ".join(went[:NAMED]) + (f" and {len(went) - NAMED} more" if len(went) > NAMED else "")
        parts.append(f"{names} {'is' if len(went) == 1 else 'are'} out")
    return "; ".join(parts)


def first_shares(shares: Mapping[NodeId, Share], strategy: str) -> str:
    """The reason of a job's first assignment."""
    told = [f"{node} {share(one)}" for node, one in sorted(shares.items())[:NAMED]]
    rest = [more(len(shares) - NAMED)] if len(shares) > NAMED else []
    basis = "equal work for all" if strategy == "fixed" else "by what the nodes say of themselves, until they are measured"
    return f"first shares, {basis}: {'; '.join(told + rest)}"

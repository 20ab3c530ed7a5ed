"""What keeps healing from becoming a storm: budgets for each node and for the fleet, and a back-off that grows."""

from agents.healer.settings import HealerSettings
from agents.healer.state import Bucket, HealerState, Level
from schemas.ids import NodeId

_TINY = 1e-6
"""Of a token: what adding up fractions of them may lose."""
MOMENT = 1e-3
"""Seconds that are not worth waiting for: sums of times are no more exact than that."""
_KEPT = 4096
"""Nodes whose budget, and faults whose back-off, is remembered: the oldest ones are full, or forgiven, by then."""


def level_now(before: Level | None, now: float, settings: HealerSettings) -> int:
    """Orders that the back-off of a fault begins with that was there before."""
    if before is None:
        return 0
    return max(0, before.level - int(max(0.0, now - before.at) / settings.forgiven_seconds))


def back_off(level: int, settings: HealerSettings) -> float:
    """Seconds between the end of an order's time and the next order, after so many of them: exponential."""
    if level <= 0:
        return 0.0
    return float(min(settings.back_off_seconds * 2 ** min(level - 1, 30), settings.back_off_most_seconds))


def wait_for(state: HealerState, node: NodeId, now: float, settings: HealerSettings) -> tuple[float, str]:
    """Seconds until an order about a node may be given, 0 for at once; and whose budget it waits for."""
    s = settings
    of_node = _lacking(state.budgets.get(node), s.node_burst, s.node_every_seconds, now)
    of_fleet = _lacking(state.fleet, s.fleet_burst, s.fleet_every_seconds, now)
    return (of_fleet, "fleet") if of_fleet >= of_node else (of_node, "node")


def spend(state: HealerState, node: NodeId, now: float, settings: HealerSettings) -> None:
    """An order is given."""
    s = settings
    state.fleet = _spent(state.fleet, s.fleet_burst, s.fleet_every_seconds, now)
    if node:
        mine = state.budgets.pop(node, None)
        state.budgets[node] = _spent(mine, s.node_burst, s.node_every_seconds, now)
        if len(state.budgets) > _KEPT:
            del state.budgets[next(iter(state.budgets))]


def remember(state: HealerState, key: str, level: int, now: float) -> None:
    """A fault is over."""
    state.levels.pop(key, None)
    if level > 0:
        state.levels[key] = Level(level=level, at=now)
        if len(state.levels) > _KEPT:
            del state.levels[next(iter(state.levels))]


def _held(bucket: Bucket | None, burst: int, every: float, now: float) -> float:
    if bucket is None:
        return float(burst)
    return min(float(burst), bucket.tokens + max(0.0, now - bucket.at) / every)


def _lacking(bucket: Bucket | None, burst: int, every: float, now: float) -> float:
    held = _held(bucket, burst, every, now)
    return 0.0 if held >= 1.0 - _TINY else (1.0 - held) * every  # to the whole token: less would be asked for again


def _spent(bucket: Bucket | None, burst: int, every: float, now: float) -> Bucket:
    return Bucket(tokens=_held(bucket, burst, every, now) - 1.0, at=now)

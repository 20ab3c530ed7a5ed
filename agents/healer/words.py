"""The healer's reasons, in a user's words."""

from collections.abc import Mapping

from agents.healer.state import Case
from schemas.healing import FaultKind, Remedy

FAULTS: Mapping[FaultKind, str] = {
    "stalled": "takes no steps",
    "crashed": "failed",
    "out_of_memory": "ran out of memory",
    "given_up": "was given up",
    "slow": "has become slow",
    "reducer": "fell silent as the reducer",
    "flapping": "comes and goes",
    "agent": "is silent",
    "foreseen": "is about to fail",
}
REMEDIES: Mapping[Remedy, str] = {
    "wait": "nothing was ordered",
    "restart": "its process is started anew",
    "free": "its process gives memory back",
    "shrink": "its microbatch is halved",
    "retry": "it is tried once more",
    "demote": "others reduce",
    "move": "its work goes to others",
    "quarantine": "it is kept out of all jobs",
    "restart_agent": "its process is started anew",
}


def who(case: Case) -> str:
    """`laptop in train-7f3k2q`, `the agent optimizer`."""
    if case.agent:
        return f"the agent {case.agent}"
    return f"{case.node} in {case.job}" if case.job else case.node


def ordered(case: Case, remedy: Remedy, chance: float, tries: int) -> str:
    """Why this remedy, and why now."""
    basis = f"helped in {100 * chance:.0f} % of {tries} tries" if tries else f"assumed to help in {100 * chance:.0f} %"
    again = f"; order {case.orders + 1} against this fault" if case.orders else ""
    return f"{REMEDIES[remedy]} ({basis}{again}), since it {FAULTS[case.fault]}: {case.why}"


def healed(case: Case, seconds: float) -> str:
    """A fault is over."""
    how = "without an order" if not case.orders else f"after {case.orders} order{'s' if case.orders > 1 else ''}"
    last = f", the last: {REMEDIES[case.remedy]}" if case.orders and case.remedy != "wait" else ""
    return f"it {FAULTS[case.fault]}; well again after {seconds:.0f} s, {how}{last}"


def failed(case: Case, seconds: float, final: bool, again: str) -> str:
    """A remedy was of no use."""
    why = f"it {FAULTS[case.fault]} again ({again})" if again else f"nothing is better after {seconds:.0f} s"
    then = "; nothing more is tried" if final else ""
    return f"{REMEDIES[case.remedy]}, in vain: {why}{then}"


def withheld(seconds: float, budget: str) -> str:
    """An order has to wait."""
    whose = "of this node" if budget == "node" else "of the fleet"
    return f"the budget {whose} for remedies is spent; the next one in {seconds:.0f} s"

"""What an operator may set of the healer (`[healer]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class HealerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults. Times in seconds."""

    orders: bool = True
    """Whether anything is ordered; else the healer only watches how others heal by themselves, and learns from it."""

    # Patience
    first_aid_seconds: Positive = 45.0
    """That a fault is left to those who act by themselves (the node's restarts, the controller's smaller microbatches, the
    list of reducers): a restart takes some ten seconds with its catching up, and the node makes three."""
    foreseen_seconds: Annotated[float, Meta(ge=0)] = 0.0
    """That a fault which is expected is left to them: nobody acts by himself against what isn't there."""
    judge_seconds: Positive = 60.0
    """After an order, until the remedy has failed if nothing is better: a start, catching up, and a round or two."""
    steady_seconds: Positive = 20.0
    """For which all must stay well before a fault counts as healed: twice what a process needs to crash again."""
    settle_seconds: Annotated[float, Meta(ge=0)] = 3.0
    """After an order in which another sign of the same fault is one of before: messages of several machines cross."""
    late_seconds: Positive = 5.0
    """A timer this late says that the healer itself stood still: it hears first, and judges after that."""

    # Budgets: token buckets
    node_burst: Count = 3
    """Orders about one node that may follow on each other."""
    node_every_seconds: Positive = 120.0
    """After which a node's budget has one more: two minutes are some rounds and a restart's whole effect."""
    fleet_burst: Count = 6
    """Orders about the whole fleet that may follow on each other: what many nodes have at once is no fault of theirs."""
    fleet_every_seconds: Positive = 20.0
    """After which the fleet's budget has one more: at most three a minute for good."""

    # Back-off
    back_off_seconds: Positive = 15.0
    """Before the second order for one fault, counted from the end of the first; doubled with each further one."""
    back_off_most_seconds: Positive = 900.0
    """The longest."""
    most_orders: Count = 6
    """For one fault, after which nothing more is tried until it has been well, or its job over: with the back-off that is
    a quarter of an hour."""
    forgiven_seconds: Positive = 600.0
    """Without a fault, after which one order less of the last is remembered: a fault that comes back within ten minutes
    goes on with the back-off where it was."""

    # Learning
    memory: Annotated[float, Meta(gt=0, le=1)] = 0.97
    """What an outcome still counts one outcome later: some thirty are remembered, since machines and jobs change."""
    prior_weight: Positive = 2.0
    """Outcomes that an assumption is worth: two tries weigh as much."""

    # What the orders of the selector last
    move_seconds: Positive = 300.0
    """A node is kept out of a job: some tens of rounds."""
    demote_seconds: Positive = 300.0
    """A node reduces nothing."""

    # What is a fault
    reducer_falls: Count = 2
    """Times that others had to take over from a reducer, within `reducer_window` rounds, that are a fault of its own."""
    reducer_window: Count = 10
    """Rounds."""
    flaps: Count = 3
    """Losses of a node within `flap_seconds` that are a fault."""
    flap_seconds: Positive = 600.0
    agent_silent_seconds: Positive = 40.0
    """Without a word of an agent, after which it is silent: agents report their use of the machine every ten seconds, by
    messages that may be lost."""

    cases_kept: Count = 1024
    """Faults that are looked after at once; further ones are left to those who act by themselves."""

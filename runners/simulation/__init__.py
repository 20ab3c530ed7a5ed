"""The real cores on the simulated bus with simulated workers: whole fleets in virtual time, faults from a seed."""

from runners.simulation.world import Outcome, World

__all__ = ["Outcome", "World"]

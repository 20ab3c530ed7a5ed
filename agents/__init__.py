"""Who decides: one folder an agent, pure decision cores without I/O, clock or torch. Imports schemas alone."""

__shoal__ = True
"""Tells the command line that this is Shoal's `agents` and no other distribution's package of that name."""

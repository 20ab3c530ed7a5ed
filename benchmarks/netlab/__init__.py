"""A bad network in a box: packet-level links between network namespaces, without kernel netem. Root and gcc are needed.

One network namespace a node with one TUN device in it, and one router (`router.c`) between them, which delays, queues and
drops packets as each node's link says. Any program runs inside. No packet leaves the machine: the namespaces have no
other way out. `python -m benchmarks.netlab --help` is the same by hand.
"""

from benchmarks.netlab.lab import PROFILES, LabError, NetLab, address_of

__all__ = ["PROFILES", "LabError", "NetLab", "address_of"]

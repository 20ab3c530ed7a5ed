"""What transfers take of a job's rounds, by encoding: what a node's upload does, and the average's way to everybody."""

from collections.abc import Mapping, Sequence
from statistics import median_low

from agents.batch_controller import links, transfers
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Job, Known, Node
from schemas.ids import NodeId
from schemas.jobs import AverageEncoding, Encoding

LEAST_MEASURED = 2
"""Transfers of a node before an encoding is chosen by them: a single one may have met anything."""


def upload_share(job: Job, known: Known, node: Node, streams: int) -> dict[Encoding, float]:
    """The part of a round that a node's upload takes in each encoding, once two were measured; else nothing."""
    if len(transfers.newest(known.up)) < LEAST_MEASURED or not job.parameters or job.current is None:
        return {}
    return links.upload_shares(job.exchanged, job.current.round_seconds * transfers.rate(known.up, streams, node))


def download_shares(job: Job, known: Mapping[NodeId, Known], nodes: Mapping[NodeId, Node]) -> dict[Encoding, float]:
    """The part of a round that the average's way to a node takes in each encoding, in the median of the nodes by which
    rounds go; nothing before each of these has two measured."""
    if not job.parameters or job.current is None:
        return {}
    shares = {name: share for name, share in job.current.shares.items() if share.every == 1 and name in known}
    measured = [name for name in shares if len(transfers.newest(known[name].down)) >= LEAST_MEASURED]
    if len(measured) < max(1, len(shares) - 1):  # who reduces alone gets nothing over its link
        return {}
    rates = [transfers.rate(known[name].down, shares[name].streams, nodes[name]) for name in measured]
    return links.upload_shares(job.exchanged, job.current.round_seconds * median_low(rates))


def average_encoding(
    present: AverageEncoding | None,
    usual: AverageEncoding,
    parts: Mapping[Encoding, float],
    settings: BatchControllerSettings,
) -> AverageEncoding:
    """How the average is sent: as the worst link's grade needs it (`usual`), and coarser where its way takes too long.

    By the rule of `links.encoding_for`. Never coarser than int8: all apply it, and what its encoding loses is owed by one
    process alone.
    """
    levels: Sequence[AverageEncoding] = ("float32", "float16", "int8")
    least = levels.index(usual)
    level = max(least, levels.index(present) if present is not None else least)
    if not parts or present is None:
        return levels[level]
    return levels[links.step(level, least, levels.index("int8"), parts, settings)]

"""How many processes each agent has (`[replicas]` in `shoal.toml`)."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from runners.settings import load_settings
from runners.shared_journal import MOST

Count = Annotated[int, Meta(ge=1, le=MOST)]


class ReplicaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processes of each agent: one leads, the others stand by. 1: no standby, and the journal is on disk alone."""

    job_desk: Count = 1
    node_selector: Count = 1
    batch_controller: Count = 1
    network_monitor: Count = 1
    optimizer: Count = 1
    appraiser: Count = 1
    failure_detector: Count = 1
    healer: Count = 1
    predictor: Count = 1
    recorder: Count = 1


def replicas_of(agents: tuple[str, ...], store: Path, wanted: int | None) -> dict[str, int]:
    """Processes by agent: `wanted` of each, else as `shoal.toml` says. Raises `BadSettings`."""
    settings = load_settings(ReplicaSettings, "replicas", store)
    return {name: wanted if wanted is not None else int(getattr(settings, name, 1)) for name in agents}

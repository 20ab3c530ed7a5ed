"""What an operator may set of the appraiser (`[appraiser]` in `shoal.toml`)."""

from typing import Annotated

import msgspec
from msgspec import Meta


class AppraiserSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All knobs with their defaults."""

    rounds_kept: Annotated[int, Meta(ge=8, le=1000)] = 64
    """Last rounds of a job that nodes are judged by: enough for an interval of some per cent, few enough to follow a link
    that has changed."""
    parts_kept: Annotated[int, Meta(ge=512)] = 4096
    """Contributions of a job that are kept at most; in fleets of more than 64 nodes that is fewer rounds."""
    least_rounds: Annotated[int, Meta(ge=4, le=1000)] = 8
    """Rounds of a node before anything is said of it. The job's first round, whose caches are cold, doesn't count."""
    every: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Rounds between two appraisals; one takes some 10 ms for 16 nodes."""
    news: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Difference of what the job's speed would be without a node from which another appraisal is published, besides for
    another verdict and at the job's end."""
    nodes_told: Annotated[int, Meta(ge=1, le=4000)] = 1000
    """Nodes in one message at most, those first that the job could best do without: one takes 200 bytes of the 1 MiB."""
    jobs_kept: Annotated[int, Meta(ge=1)] = 256
    """Jobs under way that are followed."""

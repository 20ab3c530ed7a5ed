"""Who says what: every message's speakers, as the `source` of the envelope names them."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from schemas import (
    anchors,
    appraisal,
    bus,
    decisions,
    drills,
    emulation,
    healing,
    health,
    jobs,
    measuring,
    members,
    network,
    nodes,
    prediction,
    shards,
    sites,
    training,
    verification,
)
from schemas.errors import SchemaError

CLIENT = "a client"
"""Anybody who may connect: the command line, `import shoal`, any NATS client. Its `source` is its own choice."""
EVERYONE = "any participant"
SPEAKING_AGENT = "the agent in its subject"
NODE = "node/<node>"
TRAINER = "trainer/<job>/<node>"
REDUCER = "reducer/<job>/<node>"
EMULATOR = "emulator/<node>"

SPEAKERS: Mapping[str, tuple[type[msgspec.Struct], ...]] = MappingProxyType(
    {
        CLIENT: (
            jobs.JobRequest,
            jobs.CancelRequest,
            jobs.ListRequest,
            jobs.JobQueued,
            decisions.ForceNode,
            nodes.PauseNode,
            measuring.MeasureNode,
            emulation.LinkOrder,
            drills.DrillMark,
            health.ReachNode,
            members.InviteRequest,
            members.RevokeRequest,
            members.MembersRequest,
            members.EnrolRequest,
            members.RenewRequest,
        ),
        "job_desk": (jobs.JobRefused, jobs.JobState),
        "recorder": (jobs.ReportReady,),
        NODE: (
            nodes.NodeProfile,
            nodes.NodeHeartbeat,
            nodes.NodeLeaving,
            nodes.NodeYielding,
            nodes.WorkStarted,
            nodes.WorkEnded,
            nodes.WorkFailed,
            nodes.WorkPrinted,
            nodes.NodeMended,
            network.LinkProbed,
            measuring.NodeMeasured,
            health.ReachTold,
        ),
        "network_monitor": (
            network.LinkQualityChanged,
            network.LinkForecast,
            network.NetworkAlert,
            network.NetworkSummary,
        ),
        "node_selector": (
            training.Roster,
            decisions.NodeJoined,
            decisions.NodeLost,
            decisions.NodeQuarantined,
            decisions.NodeReleased,
        ),
        "batch_controller": (training.Assignment,),
        "optimizer": (training.Tuning, decisions.RolledBack, decisions.AdaptationCost, decisions.ForesightJudged),
        "failure_detector": (
            health.NodeHealth,
            health.WorkStalled,
            health.FigureChanged,
            health.ReachAsked,
            health.DetectorWatching,
        ),
        "healer": (
            healing.HealingOrdered,
            healing.AgentRestartOrdered,
            healing.Healed,
            healing.HealingFailed,
            healing.HealingWithheld,
        ),
        "predictor": (prediction.FaultForeseen, prediction.PredictionJudged, prediction.PredictorLearned),
        "appraiser": (appraisal.NodesAppraised,),
        TRAINER: (
            training.TrainerReady,
            training.ContributionOffered,
            training.AverageHeld,
            training.StepTimed,
            training.TransferTimed,
            training.TrainingProgress,
            training.RoundApplied,
            anchors.CaughtUp,
            training.Validated,
            sites.SiteOpened,
            sites.SitePaced,
            sites.SiteParted,
            verification.GradientVerified,
            jobs.ModelStored,
        ),
        REDUCER: (
            training.RoundOpened,
            training.ContributionReceived,
            training.ContributionRefused,
            training.AverageOffered,
            shards.PiecesReceived,
            shards.AverageOrdered,
            training.RoundClosed,
            anchors.DigestMismatch,
            verification.ArithmeticDoubted,
            training.NodeRefused,
        ),
        "gatekeeper": (members.AuditEntry,),
        EMULATOR: (emulation.EmulatedLinkChanged,),
        SPEAKING_AGENT: (decisions.AgentStarted, decisions.AgentUsage, decisions.InputFailed, decisions.MessagesDropped),
        EVERYONE: (bus.MessageRejected, bus.BusDisturbed),
    }
)


def writer_of(kind: type[msgspec.Struct]) -> str:
    """Who says messages of a type. Raises `SchemaError` for one that is in nobody's list."""
    try:
        return _WRITER[kind]
    except KeyError:
        raise SchemaError(f"nobody says {kind.__name__}: put it into a speaker's list in schemas/writers.py") from None


_WRITER = {kind: speaker for speaker, kinds in SPEAKERS.items() for kind in kinds}

"""An example of every message, made from its type: always the same, valid, and with values that a reader believes."""

from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from schemas.jobs import JobAnswer
from schemas.wire import Message, Request
from schemas.writers import CLIENT, EVERYONE, SPEAKING_AGENT, writer_of

JOB, NODE, OTHER_NODE, AGENT = "train-7f3k2q", "laptop", "attic", "batch_controller"
BORN = 1767225600  # seconds since the epoch: 2026-01-01 00:00 UTC, when everybody in the examples has started
NKEY = "UDWX6ADEHHRHNSMIY4MN6ZZVUGNZCPZYKSNZ34Z6VYJSSYGLBNJR2GRV"
PEM = "-----BEGIN PUBLIC KEY-----\n...\n-----END PUBLIC KEY-----\n"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

# By the name of the field. A value is used where the field's type can hold it.
VALUES: dict[str, Any] = {
    # who and what
    "job": JOB,
    "node": NODE,
    "agent": AGENT,
    "contributor": OTHER_NODE,
    "suspect": OTHER_NODE,
    "reducer": NODE,
    "next_reducer": OTHER_NODE,
    "donor": OTHER_NODE,
    "nodes": [NODE, OTHER_NODE],
    "expected": [NODE, OTHER_NODE],
    "reducers": [NODE, OTHER_NODE],
    "holders": [NODE, OTHER_NODE],
    "worst": [OTHER_NODE],
    "missing": [OTHER_NODE],
    "jobs": [JOB],
    "host": "laptop.local",
    "site": "laptop.local",
    "life": str(BORN * 1000),
    "figure": "step_ms",
    "device": "cuda:0",
    "addresses": ["192.0.2.17"],
    "port": 41233,
    "python": "3.11.9",
    "torch": "2.9.1",
    "shoal": "0.1.0",
    "workload": "examples.digits:workload",
    "reason": "why, in words",
    "subject": "shoal.jobs.submit",
    "field": "$.rounds",
    "input": "StepTimed",
    "profile": "poor",
    "emulated_link": "poor (cubic)",
    "strategy": "hybrid",
    "digest": SHA256,
    "base_digest": SHA256,
    "found": SHA256[::-1],
    "key": "12",
    "ticket": "m-1f2e3d4c",
    "code": f"source={SHA256[:12]} torch=2.9.1 shoal=0.1.0",
    "submitter": "ed25519:" + "6_Xz" * 10 + "9Ts",
    "signature": "h0Qz" * 21 + "Bg",
    "lines": ["epoch 3", "loss 2.31"],
    "last_lines": ['  File "workload.py", line 12, in loss', "ValueError: 3 classes, but label 7"],
    # how much
    "version": 3,
    "roster_version": 2,
    "round": 12,
    "rounds": 25,
    "term": 1,
    "quorum": 2,
    "sequence": 512,
    "incarnation": BORN * 1000,
    "samples": 640,
    "steps": 80,
    "step": 40,
    "local_steps": 80,
    "microbatch": 8,
    "parameters": 1_053_440,
    "size": 1_055_232,
    "bytes": 1_055_232,
    "cpus": 8,
    "memory_bytes": 16_000_000_000,
    "memory_used_bytes": 5_100_000_000,
    "resident_bytes": 41_000_000,
    "loss": 2.31,
    "score": 71.5,
    "mean_score": 71.5,
    "weight": 0.5,
    "norm": 31.2,
    "rtt_ms": 43.1,
    "latency_ms": 43.1,
    "jitter_ms": 6.2,
    "seconds": 4.2,
    "round_seconds": 4.2,
    "deadline_seconds": 9.5,
    "compute_seconds": 3.1,
    "run_seconds": 61.0,
    "agent_seconds": 0.9,
    "share": 0.0148,
    "interval": 1.0,
    "cpu_percent": 37.5,
    "temperature_c": 61.0,
    "power_w": 120.0,
    "utilisation_percent": 88.0,
    "submitted_at": float(BORN),
    # which of several
    "state": "running",
    "quality": "good",
    "previous": "fair",
    "trend": "improving",
    "encoding": "int8",
    "average_encoding": "float16",
    "policy": "reactive",
    "phase": "adaptive",
    "doing": "computing",
    "aggregation": "clip",
    "direction": "up",
}

# Where a name means something else than elsewhere.
SPECIAL: dict[tuple[str, str], Any] = {
    ("Accelerator", "name"): "NVIDIA GeForce RTX 3060",
    ("BusDisturbed", "kind"): "reconnected",
    ("Contribution", "scale"): 0.125,
    ("Contribution", "remark"): "clipped to 0.125 of its length: its norm is 31.2",
    ("DigestMismatch", "expected"): SHA256,
    ("EmulatedLinkChanged", "do"): "spike",
    ("EmulatedLinkChanged", "reason"): "ordered by a client",
    ("JobQueued", "request"): {"kind": "train", "workload": "examples.digits:workload", "id": JOB},
    ("LinkOrder", "do"): "spike",
    ("LinkProbed", "retransmitted"): 0.01,
    ("LinkQualityChanged", "loss"): 0.01,
    ("ModelStored", "name"): f"{JOB}/model.safetensors",
    ("NetworkSummary", "nodes"): 5,
    ("GradeCount", "nodes"): 4,
    ("Average", "key"): "12-1",
    ("DrillMark", "drill"): "drill-7f3k2q",
    ("DrillMark", "part"): "job_desk",
    ("DrillMark", "reason"): "gets SIGKILL",
    ("MeasureNode", "request"): {"kind": "train", "workload": "examples.digits:workload"},
    ("AuditEntry", "act"): "revoke",
    ("AuditEntry", "by"): "operator",
    ("AuditEntry", "target"): OTHER_NODE,
    ("AuditEntry", "when"): BORN + 61.5,
    ("AuditEntry", "previous"): SHA256[::-1],
    ("AuditEntry", "number"): 7,
    ("EnrolRequest", "name"): "i-1f2e3d4c",
    ("EnrolRequest", "key"): NKEY,
    ("EnrolRequest", "work_key"): NKEY,
    ("RenewRequest", "certificate_key"): PEM,
    ("NodeMeasured", "problem"): "",
    ("NodeMeasured", "step_seconds"): [0.0123, 0.0119],
    ("PiecesReceived", "unsound"): "",
    ("ReportReady", "name"): f"{JOB}/report.json",
    ("WorkFailed", "kind"): "raised",
    ("Accelerator", "ecc_corrected"): 0,
    ("Accelerator", "ecc_uncorrected"): 0,
    ("NodeHeartbeat", "disk_used_part"): 0.61,
    ("FaultForeseen", "figure"): "memory_used_bytes",
    ("FaultForeseen", "chance"): 0.83,
    ("FaultForeseen", "threshold"): 0.7,
    ("FaultForeseen", "horizon_seconds"): 120.0,
    ("PredictionJudged", "threshold"): 0.65,
    ("PredictionJudged", "precision"): 0.9,
    ("PredictionJudged", "recall"): 0.75,
    ("PredictionJudged", "outcomes"): 150,
    ("PredictionJudged", "faults"): 12,
    ("PredictorLearned", "examples"): 2400,
    ("PredictorLearned", "faults"): 31,
    ("PredictorLearned", "loss_model"): 0.031,
    ("PredictorLearned", "loss_trend"): 0.058,
    ("HealingOrdered", "remedy"): "restart",
    ("HealingOrdered", "chance"): 0.78,
    ("HealingOrdered", "judged_after"): 60.0,
    ("HealingFailed", "remedy"): "restart",
    ("Healed", "remedy"): "restart",
    ("Healed", "target"): None,
    ("HealingFailed", "target"): None,
    ("AgentRestartOrdered", "target"): "optimizer",
    ("Fingerprint", "batch"): SHA256,
    ("Fingerprint", "precision"): "float32",
}


def examples_of(kind: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """Bodies of a registered message or an answer, as they stand in JSON: one, or one for each way an answer can go."""
    if kind is JobAnswer:
        refused = {"accepted": False, "field": "$.rounds", "reason": "Expected `int` >= 1"}
        return [{"accepted": True, "job": JOB}, refused]
    made = _struct(kind)
    if issubclass(kind, Message):
        made.update(_envelope(kind))
    return [made]


def _envelope(kind: type[Message]) -> dict[str, Any]:
    writer = writer_of(kind)
    source = {CLIENT: "my-script", EVERYONE: AGENT, SPEAKING_AGENT: AGENT}.get(writer, writer)
    source = source.replace("<node>", NODE).replace("<job>", JOB)
    cause = "" if writer == CLIENT else f"node/{OTHER_NODE}:{BORN * 1000}:17"
    return {"id": f"{source}:{BORN * 1000}:42", "cause": cause, "at": BORN + 61.5, "source": source}


def _struct(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Of requests the compulsory fields alone: that is how people write them. Of all else every field."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {
        field.encode_name: _field(kind.__name__, field)
        for field in info.fields
        if field.required or not issubclass(kind, Request)
    }


def _field(owner: str, field: inspect.Field) -> Any:
    if (owner, field.name) in SPECIAL:
        return SPECIAL[owner, field.name]
    if field.name in VALUES:
        return _fitting(VALUES[field.name], field.type)
    if field.default is not NODEFAULT and field.default not in ("", None, ()):
        return msgspec.to_builtins(field.default)
    return _value(field.type)


def _fitting(value: Any, kind: inspect.Type) -> Any:
    """`value` where it is of the type, else one that is made from the type."""
    match _present(kind):
        case inspect.StrType():
            fits = isinstance(value, str)
        case inspect.IntType():
            fits = isinstance(value, int)
        case inspect.FloatType():
            fits = isinstance(value, float)
        case inspect.EnumType(cls=cls):
            fits = value in [member.value for member in cls]
        case inspect.LiteralType(values=values):
            fits = value in values
        case inspect.VarTupleType(item_type=item):
            fits = isinstance(value, list) and isinstance(_present(item), inspect.StrType)
        case _:
            fits = False
    return value if fits else _value(kind)


def _present(kind: inspect.Type) -> inspect.Type:
    """What an optional type is when it isn't null; annotations taken off."""
    if isinstance(kind, inspect.UnionType):
        return _present(next(part for part in kind.types if not isinstance(part, inspect.NoneType)))
    return _present(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _value(kind: inspect.Type) -> Any:
    match _present(kind):
        case inspect.StructType(cls=cls):
            return _struct(cls)
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.VarTupleType(item_type=item):
            return [_value(item)]
        case inspect.DictType(value_type=value):
            return {NODE: _value(value)}
        case inspect.BoolType():
            return True
        case inspect.IntType(ge=least):
            return max(1, least or 1)
        case inspect.FloatType():
            return 1.5
        case inspect.StrType(pattern=None):
            return "text"
        case inspect.StrType():
            return NODE
        case other:
            raise TypeError(f"no example of {other}: say in schemas/examples.py what one looks like")

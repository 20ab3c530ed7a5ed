"""Any NATS client takes part: requests as bytes, answers as JSON, garbage survived."""

import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import nats
import pytest
from process_fleet import PATIENCE, ProcessFleet
from story import Story

from schemas.bus import MessageRejected
from schemas.jobs import JobState

SUBMIT = "shoal.jobs.submit"
WAITS_FOR_EVER = {"kind": "train", "workload": "points:workload", "min_nodes": 50}
GARBAGE = (b"", b"\x00\xff\xfe{", b"[1, 2", b"null", b'{"node": 7}', os.urandom(512))
SPOILT = (
    "shoal.nodes.a.heartbeat",
    "shoal.network.a.probe",
    "shoal.nodes.stranger.profile",
    "shoal.training.none.roster",
    "shoal.jobs.none.state",
)


@pytest.fixture
async def anybody(fleet: ProcessFleet) -> AsyncIterator[nats.NATS]:
    """A client that knows nothing of Shoal."""
    connection = await nats.connect(fleet.url)
    yield connection
    await connection.close()


async def ask(anybody: nats.NATS, subject: str, body: Any) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    answer = await anybody.request(subject, data, timeout=PATIENCE)
    decoded: dict[str, Any] = msgspec.json.decode(answer.data)
    return decoded


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"kind": "train", "workload": "a:b", "rounds": 0}, "$.rounds", ">= 1"),
        ({"kind": "train", "workload": "a:b", "rouds": 5}, "$.rouds", "did you mean `rounds`"),
        ({"kind": "train", "workload": "no colon"}, "$.workload", ""),
        ({"kind": "bake", "workload": "a:b"}, "$.kind", ""),
        ({"kind": "train"}, "$.workload", ""),
        ({"kind": "train", "workload": "a:b", "resume": "nobody"}, "$.resume", "no job nobody"),
        (b"not JSON", "$", ""),
        (b"", "$", ""),
        (b"\x80\x81\xff", "$", ""),
        (b"[]", "$", ""),
    ],
)
async def test_a_bad_request_is_refused_at_the_field_at_fault(
    anybody: nats.NATS, body: Any, field: str, words: str
) -> None:
    answer = await ask(anybody, SUBMIT, body)
    assert answer["accepted"] is False
    assert answer["field"] == field
    assert words in answer["reason"]
    assert "job" not in answer


async def test_the_same_id_is_the_same_job_and_another_body_is_not(anybody: nats.NATS) -> None:
    body = WAITS_FOR_EVER | {"id": "twice"}
    assert await ask(anybody, SUBMIT, body) == {"accepted": True, "job": "twice"}
    assert await ask(anybody, SUBMIT, body) == {"accepted": True, "job": "twice"}
    refused = await ask(anybody, SUBMIT, body | {"rounds": 7})
    assert (refused["accepted"], refused["field"]) == (False, "$.id")
    listed = await ask(anybody, "shoal.jobs.list", {})
    assert [job["state"] for job in listed["jobs"] if job["job"] == "twice"] == ["queued"]
    assert (await ask(anybody, "shoal.jobs.cancel", {"job": "twice"}))["accepted"] is True
    again = await ask(anybody, "shoal.jobs.cancel", {"job": "no-such-job"})
    assert (again["accepted"], again["field"]) == (False, "$.job")


async def test_garbage_is_counted_and_reported_and_stops_nothing(anybody: nats.NATS, story: Story) -> None:
    since = story.mark
    for subject in SPOILT:
        for data in GARBAGE:
            await anybody.publish(subject, data)
    largest = anybody.max_payload
    await anybody.publish("shoal.nodes.large.heartbeat", b"{" * largest)
    await anybody.flush()
    for subject in SPOILT:
        said = await story.heard(MessageRejected, lambda m, subject=subject: m.subject == subject, since=since)
        assert said.field.startswith("$")
        assert said.reason
        assert said.count >= 1
    large = await story.heard(MessageRejected, lambda m: m.size == largest, since=since)
    assert large.subject == "shoal.nodes.large.heartbeat"
    # Whatever that did, the desk answers and the nodes are heard.
    job = (await ask(anybody, SUBMIT, WAITS_FOR_EVER | {"min_nodes": 40}))["job"]
    state = await story.heard(JobState, lambda m: m.job == job)
    assert "waiting for 40 nodes" in state.reason
    await ask(anybody, "shoal.jobs.cancel", {"job": job})

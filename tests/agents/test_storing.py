"""Checkpoints and the final model when the object store can't be reached: real cores in virtual time."""

from schemas.jobs import ModelStored
from tests.agents.job_cluster import JobCluster, Node


def test_a_checkpoint_that_fails_is_stored_a_little_later_and_ends_nothing() -> None:
    cluster = JobCluster([Node(name) for name in "abc"], rounds=12, checkpoint_every=2)
    for node in cluster.nodes.values():
        node.storeless = True
    cluster.run(until=lambda: len(cluster.closed) == 5)
    for node in cluster.nodes.values():
        node.storeless = False
    cluster.run(until=lambda: cluster.finished)
    stored = [(event.round, event.final) for event in cluster.said(ModelStored)]
    assert stored[-1] == (12, True), "the final model is the last round's"
    assert not any(final for _, final in stored[:-1])
    assert stored[0][0] < 6, "tried again before the next is due"
    rounds = [round_ for round_, _ in stored[:-1]]
    assert rounds == sorted(set(rounds)), "none is stored twice, nor after a newer one"


def test_the_final_model_is_tried_again_until_the_store_is_back() -> None:
    cluster = JobCluster([Node("a"), Node("b")], rounds=3, checkpoint_every=0)
    for node in cluster.nodes.values():
        node.storeless = True
    cluster.run(seconds=60.0)
    assert len(cluster.closed) == 3
    assert not cluster.said(ModelStored)
    for node in cluster.nodes.values():
        node.storeless = False
    cluster.run(until=lambda: cluster.finished)
    assert {(event.round, event.final) for event in cluster.said(ModelStored)} == {(3, True)}

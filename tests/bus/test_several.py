"""Addresses of several servers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.several import address_of, each_of, in_turn, place_of
from runners.address import BadServer, parse_server

THREE = "nats://a:1,nats://b:2,nats://c:3"


def test_each_is_a_url_of_its_own() -> None:
    assert each_of("nats://a:1, b:2,") == ("nats://a:1", "nats://b:2")
    assert [place_of(one) for one in each_of(THREE)] == [("a", 1), ("b", 2), ("c", 3)]
    assert place_of("nats://a") == ("a", 4222)


def test_what_is_shown_has_no_token_in_it() -> None:
    assert address_of("nats://secret@a:1,nats://secret@b:2") == "nats://a:1,nats://b:2"


@settings(max_examples=20)  # no more ways than three
@given(who=st.text())
def test_everybody_tries_all_of_them_once_in_one_direction(who: str) -> None:
    order = in_turn(THREE, who)
    assert sorted(order) == sorted(each_of(THREE))
    assert ",".join(order + order).find(THREE) >= 0


def test_participants_spread_and_the_connections_of_one_begin_together() -> None:
    assert len({in_turn(THREE, f"node/{number}") for number in range(20)}) == 3
    assert in_turn(THREE, "node/a") == in_turn(THREE, "node/a tensors") == in_turn(THREE, "node/a lane 7")


def test_an_address_of_several_keeps_one_token_apart() -> None:
    address = parse_server("nats://token@a:1,nats://token@b:2")
    assert (address.url, address.token) == ("nats://a:1,nats://b:2", "token")
    assert (address.host, address.port, address.places) == ("a", 1, "a:1,b:2")
    with pytest.raises(BadServer):
        parse_server("nats://a:1,http://b:2")

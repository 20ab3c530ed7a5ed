"""Several servers of one fleet in one address: `nats://a:4222,nats://b:4222`."""

import zlib
from urllib.parse import SplitResult, urlsplit

DEFAULT_PORT = 4222


def each_of(url: str) -> tuple[str, ...]:
    """The single URLs, each with a scheme."""
    parts = (part.strip() for part in url.split(","))
    return tuple(part if "://" in part else f"nats://{part}" for part in parts if part)


def in_turn(url: str, who: str) -> tuple[str, ...]:
    """The single URLs in the order in which a participant tries them.

    Participants begin with different ones, so that servers share the work; the connections of one participant, whose names
    begin with its own, with the same, so that what it says to itself needs no route.
    """
    urls = each_of(url)
    first = zlib.crc32(who.split(" ", maxsplit=1)[0].encode()) % len(urls)
    return urls[first:] + urls[:first]


def place_of(url: str | SplitResult) -> tuple[str, int]:
    """Host and port of a single URL."""
    parts = urlsplit(url) if isinstance(url, str) else url
    return parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORT


def address_of(url: str) -> str:
    """The URL as messages show it: without the tokens that may be in it."""
    parts = [urlsplit(one) for one in each_of(url)]
    return ",".join(f"{one.scheme}://{one.netloc.rpartition('@')[2]}" for one in parts)

"""What the kernel has counted of a TCP connection."""

import socket
import struct

# Offsets in `struct tcp_info` (linux/tcp.h), part of the kernel's ABI: fields are only ever added at its end.
_TOTAL_RETRANS = 100  # bytes; u32
_DATA_SEGS_OUT = 156  # bytes; u32, since Linux 4.6


def segments_of(connection: socket.socket | None) -> tuple[int, int] | None:
    """(segments sent again, data segments sent) of a TCP connection since it was made; None where the system won't say."""
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DATA_SEGS_OUT + 4)
    except (OSError, ValueError):  # of a connection that has just ended, uvloop's socket has no descriptor any more
        return None
    if len(info) < _DATA_SEGS_OUT + 4:
        return None
    return struct.unpack_from("=I", info, _TOTAL_RETRANS)[0], struct.unpack_from("=I", info, _DATA_SEGS_OUT)[0]

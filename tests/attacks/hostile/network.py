"""Getting at a network, or at a socket of the host."""

from __future__ import annotations

import array
import os
import socket
from pathlib import Path

from hostile.registry import Request, attack


@attack()
def _tcp_connect(request: Request) -> bool:
    with socket.create_connection(("127.0.0.1", request["tcp"]), timeout=2) as connection:
        connection.sendall(b"x")
    return True


@attack()
def _tcp_fast_open(request: Request) -> bool:
    with socket.socket() as connection:
        return connection.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", request["tcp"])) > 0


@attack()
def _tcp_listen(_: Request) -> bool:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
    return True


@attack()
def _udp_send(request: Request) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        return connection.sendto(b"x", ("127.0.0.1", request["udp"])) > 0


@attack()
def _unix_connect(request: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(request["unix"])
    return True


@attack()
def _unix_connect_abstract(request: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + request["abstract"])
    return True


@attack()
def _datagram_from_socketpair(request: Request) -> bool:
    first, _second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return first.sendto(b"x", request["datagram"]) > 0


@attack()
def _connect_socketpair(request: Request) -> bool:
    first, _second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.connect(request["datagram"])
    return first.send(b"x") > 0


@attack()
def _netlink(_: Request) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
        connection.bind((0, 0))
    return True


@attack(root=True)
def _raw_socket(_: Request) -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return True


@attack(root=True, optional=True)
def _packet_socket(_: Request) -> bool:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    return True


@attack(optional=True)
def _crypto_socket(_: Request) -> bool:
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()
    return True


@attack(optional=True)
def _vsock(_: Request) -> bool:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0).close()
    return True


@attack()
def _abstract_listen(_: Request) -> bool:
    """Another job, or a program of the host, could connect to it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0planted-{os.getpid()}")
        listener.listen()
    return True


@attack()
def _unix_bind_in_scratch(_: Request) -> bool:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(os.environ["TMPDIR"], "socket")))
    return True


@attack()
def _udp_version_six(request: Request) -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as connection:
        return connection.sendto(b"x", ("::ffff:127.0.0.1", request["udp"])) > 0


@attack()
def _multicast(_: Request) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        return connection.sendto(b"x", ("224.0.0.1", 9)) > 0


@attack()
def _credentials_over_datagrams(request: Request) -> bool:
    """A message with a descriptor in it, to a socket of the host."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
        return connection.sendmsg([b"x"], message, 0, request["datagram"]) > 0


@attack(optional=True)
def _rare_families(_: Request) -> bool:
    """Protocols that few use and many holes were found in: any of them, once, is enough."""
    for family in (9, 19, 21, 23, 29, 30, 31, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
            try:
                socket.socket(family, kind, 0).close()
            except OSError:
                continue
            return True
    return False


@attack(optional=True)
def _stream_control(_: Request) -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    return True


@attack(optional=True)
def _multipath(_: Request) -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
    return True


@attack()
def _interfaces(_: Request) -> bool:
    """Their names and addresses tell where the machine stands; loopback alone tells nothing."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return any(line.split(":")[0].strip() != "lo" for line in lines)


@attack(optional=True)
def _out_of_band(_: Request) -> bool:
    """Urgent bytes between two ends of a pair: hardly used, and how a browser's sandbox was once left."""
    one, other = socket.socketpair()
    with one, other:
        return one.send(b"x", socket.MSG_OOB) == 1

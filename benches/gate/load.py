"""Callers of a router over REST: a closed loop in one thread, on connections that stay open.

The caller is the same for both revisions and costs both the same, so it needs no part of either. Requests are made before the clock
starts.
"""

import contextlib
import selectors
import socket
import time
from dataclasses import dataclass

PATIENCE = 60


class Refused(Exception):
    """An answer other than success."""


@dataclass(frozen=True)
class Timing:
    """How long a load took, in seconds: each message, in the order in which they were given, and all of it."""

    latencies: list
    elapsed: float


@dataclass(frozen=True)
class Target:
    """Where a router listens, and the token that it takes."""

    port: int
    token: str

    def message(self, method, path, body=b""):
        """An HTTP request, whole."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection:
    """One HTTP/1.1 connection with at most one request under way."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.sent_at = 0.0
        # Which message of a load is under way.
        self.number = None

    def send(self, message):
        """Sends a request."""
        self.received.clear()
        self.sent_at = time.perf_counter()
        self.socket.sendall(message)

    def receive(self):
        """Reads what has come. The body once all is here, None before."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise Refused("the router closed the connection")
        self.received += piece
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = content_length(self.received[:head])
        if len(self.received) < head + 4 + length:
            return None
        body = bytes(self.received[head + 4 :])
        status = self.received[9:12]
        if not status.startswith(b"2"):
            raise Refused(f"{status.decode()}: {body[:300].decode(errors='replace')}")
        return body

    def exchange(self, message):
        """Sends a request and waits for its answer's body."""
        self.send(message)
        while (body := self.receive()) is None:
            pass
        return body

    def close(self):
        """Ends the connection."""
        self.socket.close()


def content_length(head):
    """The length that a head announces; 0 where it announces none."""
    for line in bytes(head).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":", 1)[1])
    return 0


def check_whole(body):
    """Refuses an answer that lacks a shard or an item."""
    if b'"degraded":true' in body or b'"error":{' in body:
        raise Refused(f"an answer that is not whole: {body[:300].decode(errors='replace')}")


def timed(connection, message):
    """Seconds that one request takes."""
    sent = time.perf_counter()
    body = connection.exchange(message)
    took = time.perf_counter() - sent
    check_whole(body)
    return took


@contextlib.contextmanager
def connected(port, callers):
    """Connections that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Connection(port))) for _ in range(callers)]


def closed_loop(connections, messages):
    """Sends all messages, one under way on each connection. Any answer but success is an error, and one without a shard or an item."""
    waiting = iter(range(len(messages)))
    latencies = [0.0] * len(messages)
    connections = connections[: len(messages)]
    started = time.perf_counter()
    if len(connections) == 1:
        return Timing([timed(connections[0], message) for message in messages], time.perf_counter() - started)
    with selectors.DefaultSelector() as ready:
        for connection in connections:
            ready.register(connection.socket, selectors.EVENT_READ, connection)
            connection.number = next(waiting)
            connection.send(messages[connection.number])
        under_way = len(connections)
        while under_way:
            events = ready.select(PATIENCE)
            if not events:
                raise Refused(f"no answer within {PATIENCE} s")
            for key, _ in events:
                body = key.data.receive()
                if body is None:
                    continue
                latencies[key.data.number] = time.perf_counter() - key.data.sent_at
                check_whole(body)
                key.data.number = next(waiting, None)
                if key.data.number is None:
                    under_way -= 1
                else:
                    key.data.send(messages[key.data.number])
    return Timing(latencies, time.perf_counter() - started)

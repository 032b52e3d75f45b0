"""A cluster of one revision that is measured: `mira dev` in a folder of its own, filled and asked over REST.

One process holds the nodes and the router, so its processor time (user and system, of all threads) is all that an operation cost,
replication and indexing included.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from load import Connection, Refused, Target, closed_loop, connected

DIM = 384
HITS = 10
# Documents of an import, and so of a batch: what `mira import` sends.
BATCH = 100
CENTRES = 64
READY_WITHIN = 120
SETTLED_WITHIN = 240
NUMBERS = [str(value - 255) for value in range(511)]


@dataclass(frozen=True)
class Operation:
    """What is measured: one kind of request."""

    name: str
    # What the requests of one turn are made by: `method(requests, count)`.
    requests: str
    collection: str
    callers: int = 1
    # Documents in one request: figures are for one.
    documents: int = 1
    # Requests that one side gets before it is the other's turn.
    block: int = 5
    # Whether everything is indexed before the next block: what one side left over would slow the other.
    settles: bool = False


FAST = [
    Operation("search", "searches", "one"),
    Operation("search, 4 partitions", "searches", "four"),
    Operation("recall", "recalls", "one"),
    Operation("store", "stores", "stores"),
]
FULL = FAST + [
    Operation("search, 20 callers", "searches", "one", callers=20, block=100),
    Operation("store, 20 callers", "stores", "stores", callers=20, block=60, settles=True),
    Operation("import", "imports", "imports", callers=4, documents=BATCH, block=8, settles=True),
]
# Collections by name, with their partitions.
COLLECTIONS = {"one": 1, "four": 4, "stores": 1, "imports": 1}


class Requests:
    """Makes requests from a seed: both sides of a turn get the same, and none is ever made twice."""

    def __init__(self, seed, documents):
        self.random = random.Random(seed)
        self.documents = documents
        self.centres = [self.random.randbytes(DIM) for _ in range(CENTRES)]
        # Random ids: they spread over partitions the same way in every revision.
        self.ids = [str(uuid.UUID(bytes=self.random.randbytes(16), version=4)) for _ in range(documents)]

    def vector(self):
        """A vector near one of the centres, as JSON."""
        centre, noise = self.random.choice(self.centres), self.random.randbytes(DIM)
        return f"[{','.join(NUMBERS[at + off] for at, off in zip(centre, noise))}]"

    def text(self, size):
        """A text of so many bytes that nothing compresses."""
        return b64encode(self.random.randbytes(size * 3 // 4 + 3)).decode()[:size]

    def searches(self, collection, count):
        """Searches with a vector given."""
        return [
            ("/mcp/search", f'{{"vector":{self.vector()},"k":{HITS},"collection":"{collection}"}}'.encode())
            for _ in range(count)
        ]

    def recalls(self, collection, count):
        """Linearizable recalls by id."""
        return [
            (
                "/mcp/recall",
                f'{{"ids":["{self.random.choice(self.ids)}"],"collection":"{collection}","consistency":"linearizable"}}'.encode(),
            )
            for _ in range(count)
        ]

    def stores(self, collection, count):
        """Stores of one memory of 1 KiB each."""
        return [
            (
                "/mcp/store",
                f'{{"content":"{self.text(1024)}","vector":{self.vector()},"collection":"{collection}"}}'.encode(),
            )
            for _ in range(count)
        ]

    def imports(self, collection, count):
        """Batches of an import."""
        return [self.batch(collection, [None] * BATCH) for _ in range(count)]

    def fill(self, collection):
        """Batches that hold all documents, under their ids."""
        return [self.batch(collection, self.ids[at : at + BATCH]) for at in range(0, self.documents, BATCH)]

    def batch(self, collection, ids):
        """One request that stores a document for each id; None leaves the id to the router."""
        items = (
            (f'{{"id":"{name}",' if name else "{")
            + f'"content":"{self.text(400)}","vector":{self.vector()},"collection":"{collection}"}}'
            for name in ids
        )
        return "/mcp/store", f'{{"items":[{",".join(items)}]}}'.encode()


class Cluster:
    """A running cluster of one program."""

    def __init__(self, program, nodes, parent):
        self.folder = Path(tempfile.mkdtemp(prefix="mira-gate-", dir=parent))
        port = free_ports()
        # No variable of this shell reaches it, and no model of this machine is loaded: vectors are given.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MIRA_", "XDG_"))}
        environment["HOME"] = str(self.folder)
        data = self.folder / "data"
        command = [program, "dev", "--nodes", str(nodes), "--data", data, "--http", f"127.0.0.1:{port}"]
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        self.port, self.token, self.target = port, data / "token", None

    def wait(self):
        """Waits until it answers. Apart from the start, so that several start at once."""
        self._wait(lambda: self._is_listening(self.port), READY_WITHIN, "listening")
        self.target = Target(self.port, self.token.read_text().strip())
        self._wait(lambda: self._status()["state"] == "ok", READY_WITHIN, "ready")

    def prepare(self, requests):
        """Waits for it, makes the collections and fills those that are searched."""
        self.wait()
        for name, partitions in COLLECTIONS.items():
            self.ask("PUT", f"/collections/{name}", {"dim": DIM, "partitions": partitions})
        for name in ("one", "four"):
            self._send(requests.fill(name), 4)
        self.settle()
        frames = self._status()["frames"]
        if frames < 2 * requests.documents:
            raise Refused(f"of two times {requests.documents} documents {frames} were stored")

    def check(self, requests):
        """Asks once for each kind of answer and looks at it: a load whose answers are empty would be fast."""
        for collection in ("one", "four"):
            (_, body), = requests.searches(collection, 1)
            found = len(self.ask("POST", "/mcp/search", body)["hits"])
            if found != HITS:
                raise Refused(f"a search of {collection!r} found {found} of {HITS}")
        (_, body), = requests.recalls("one", 1)
        if len(self.ask("POST", "/mcp/recall", body)["frames"]) != 1:
            raise Refused("a recall did not find a document")

    @contextlib.contextmanager
    def connect(self, callers):
        """What sends requests by so many callers, on connections that stay open meanwhile."""
        with connected(self.target.port, callers) as connections:
            yield lambda requests: closed_loop(connections, self.messages(requests))

    def settle(self):
        """Waits until every replica has applied and indexed everything."""
        self._wait(self._is_settled, SETTLED_WITHIN, "settled")

    def ask(self, method, path, body):
        """One request, its answer read."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = Connection(self.target.port)
        try:
            return json.loads(connection.exchange(self.target.message(method, path, body)) or b"null")
        finally:
            connection.close()

    def close(self):
        """Ends it and removes its data, which nobody wants: it need not stop in good order."""
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def messages(self, requests):
        """Requests as they go over the wire."""
        return [self.target.message("POST", path, body) for path, body in requests]

    def _send(self, requests, callers):
        with self.connect(callers) as send:
            return send(requests)

    def _is_settled(self):
        replicas = [replica for group in self._status()["groups"] for replica in group["replicas"]]
        return all(replica["apply_lag"] + replica["index_lag"] == 0 for replica in replicas)

    def _status(self):
        return self.ask("POST", "/mcp/status", {"detailed": True})

    @staticmethod
    def _is_listening(port):
        try:
            connection = Connection(port)
            connection.exchange(Target(port, "").message("GET", "/readyz"))
            connection.close()
            return True
        except (OSError, Refused):
            return False

    def _wait(self, condition, patience, what):
        deadline = time.monotonic() + patience
        while not condition():
            if self.process.poll() is not None:
                raise Refused(f"the cluster ended: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Refused(f"the cluster was not {what} within {patience} s: {self._last_words()}")
            time.sleep(0.02)

    def _last_words(self):
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def cpu(self):
        """Processor time of the process so far, seconds."""
        # What clock_getcpuclockid(3) gives: exact to the nanosecond, where /proc counts ticks of 10 ms.
        return time.clock_gettime(~self.process.pid << 3 | 2)


def free_ports():
    """A port that is free together with the one above it, which `mira dev` uses for gRPC."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                continue

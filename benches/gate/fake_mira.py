#!/usr/bin/env python3
"""Answers as `mira dev` does, after so much work as SPIN says: what the gate's own tests measure instead of a cluster."""

import json
import sys
import time
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

# Seconds of processor time that a request costs.
SPIN = 0.0010

ANSWERS = {
    "/readyz": "ok",
    "/mcp/status": {"state": "ok", "frames": 10**9, "groups": [{"replicas": [{"apply_lag": 0, "index_lag": 0}]}]},
    "/mcp/search": {"hits": [{"score": 1.0}] * 10},
    "/mcp/recall": {"frames": [{"id": "x"}]},
}


class Handler(StreamRequestHandler):
    """One connection, request after request."""

    disable_nagle_algorithm = True

    def handle(self):
        """Reads a request, works, answers."""
        while line := self.rfile.readline():
            path, length = line.split()[1].decode(), 0
            while (header := self.rfile.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            self.rfile.read(length)
            until = time.thread_time() + SPIN
            while time.thread_time() < until:
                pass
            body = json.dumps(ANSWERS.get(path, {})).encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


class Server(ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True


def main():
    """Serves until it is stopped."""
    options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    data = Path(options["--data"])
    data.mkdir(parents=True)
    (data / "token").write_text("secret\n")
    host, port = options["--http"].rsplit(":", 1)
    Server((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()

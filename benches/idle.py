#!/usr/bin/env python3
"""What a cluster of three costs that nobody uses: processor time and write calls, scrapes of its metrics included.

Starts `mira dev --nodes 3` in a folder of its own, lets it come to rest, and reads what the kernel counted. With
`--collections` it makes and drops so many before, and says what each cost as they grew in number.

    benches/idle.py target/release/mira [--seconds 60] [--collections 1000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request


def counted(pid):
    """Processor seconds, and calls that write, of a process so far."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    io = dict(line.split(": ") for line in open(f"/proc/{pid}/io").read().splitlines())
    return ticks / os.sysconf("SC_CLK_TCK"), int(io["syscw"])


def get(url, token=None, method="GET", body=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
        return answer.read()


def idle(pid, scraped, seconds):
    before, begun = counted(pid), time.monotonic()
    next_scrape = begun
    while time.monotonic() < begun + seconds:
        if time.monotonic() >= next_scrape:
            for url in scraped:
                get(url)
            next_scrape += 15
        time.sleep(0.2)
    after, took = counted(pid), time.monotonic() - begun
    cpu, writes = (after[0] - before[0]) / took, (after[1] - before[1]) / took
    print(f"idle for {took:.0f} s: {100 * cpu:.2f} % of a core, {writes:.1f} write calls a second")


def collections(base, token, count):
    for what, method, body in (("made", "PUT", {"dim": 8}), ("dropped", "DELETE", None)):
        parts, begun = [], time.monotonic()
        for part in range(10):
            start = time.monotonic()
            for number in range(part * count // 10, (part + 1) * count // 10):
                get(f"{base}/collections/c{number}", token, method, body)
            parts.append((time.monotonic() - start) / (count / 10) * 1000)
        each = " ".join(f"{part:.1f}" for part in parts)
        print(f"{count} collections {what} in {time.monotonic() - begun:.1f} s; ms each, tenth by tenth: {each}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program")
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--settle", type=int, default=15)
    arguments.add_argument("--collections", type=int, default=0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, log = os.path.join(folder, "data"), open(os.path.join(folder, "log"), "w+")
        command = [given.program, "dev", "--nodes", "3", "--data", data, "--http", "127.0.0.1:17890"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            base, until = "http://127.0.0.1:17890", time.monotonic() + 120
            while True:
                try:
                    get(f"{base}/readyz")
                    break
                except OSError:
                    if time.monotonic() > until or process.poll() is not None:
                        log.seek(0)
                        sys.exit(f"the cluster does not become ready:\n{log.read()}")
                    time.sleep(0.2)
            token = open(os.path.join(data, "token")).read().strip()
            if given.collections:
                collections(base, token, given.collections)
            time.sleep(given.settle)
            nodes = [node["http"] for node in json.load(open(os.path.join(data, "nodes.json")))]
            idle(process.pid, [f"http://{node}/metrics" for node in nodes] + [f"{base}/metrics"], given.seconds)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()

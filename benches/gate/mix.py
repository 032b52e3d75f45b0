#!/usr/bin/env python3
"""Measures two programs in turns under what agents do: many searches that repeat, some stores between them.

    benches/gate/mix.py --base main --plant without.patch        what a patch changes
    benches/gate/mix.py --base main --candidate REV --filtered 0.5

One of ten requests stores a memory, the others ask one of 2,000 questions, drawn by Zipf's law (s = 1), of three
collections. A question always asks the same collection for the same number of hits. Both programs get the same requests, by one
caller and by twenty; each round starts both afresh.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import gate
import judge
from cluster import BATCH, DIM, Cluster, Requests

COLLECTIONS = ("first", "second", "third")
QUESTIONS = 2_000
STORES = 0.1
HITS = (5, 10)
# Numbers of callers, and the requests that one side gets before it is the other's turn: some 20 ms of work, because a machine
# changes its speed in less than a second.
BLOCKS = {1: 25, 20: 100}
TOPICS = 20


class Mix(Requests):
    """Draws requests: both sides of a turn get the same."""

    def __init__(self, seed, documents, filtered):
        super().__init__(seed, documents)
        self.filtered = filtered
        self.questions = [self.question(rank) for rank in range(QUESTIONS)]
        self.weights = list(itertools.accumulate(1 / rank for rank in range(1, QUESTIONS + 1)))

    def question(self, rank):
        """The question of a rank: collections and numbers of hits take turns, filters are drawn."""
        collection, hits = COLLECTIONS[rank % 3], HITS[rank // 3 % 2]
        meant = ""
        if self.random.random() < self.filtered:
            topic = self.random.randrange(TOPICS)
            meant = f',"filter":{{"field":"metadata.topic","eq":"topic {topic}"}}'
        return "/mcp/search", f'{{"vector":{self.vector()},"k":{hits},"collection":"{collection}"{meant}}}'.encode()

    def draw(self, count):
        """So many requests."""
        return [self.one() for _ in range(count)]

    def one(self):
        """A store or a search."""
        if self.random.random() < STORES:
            return "/mcp/store", self.document(self.random.choice(COLLECTIONS)).encode()
        return self.random.choices(self.questions, cum_weights=self.weights)[0]

    def document(self, collection):
        """A memory with a field that filters name, as JSON."""
        topic, count = self.random.randrange(TOPICS), self.random.randrange(1000)
        return (
            f'{{"content":"{self.text(400)}","vector":{self.vector()},"collection":"{collection}",'
            f'"metadata":{{"topic":"topic {topic}","count":{count}}}}}'
        )

    def filling(self, collection):
        """Batches that fill a collection."""
        for _ in range(0, self.documents, BATCH):
            yield "/mcp/store", f'{{"items":[{",".join(self.document(collection) for _ in range(BATCH))}]}}'.encode()


@dataclass(frozen=True)
class Figures:
    """What one side did by one number of callers in one round."""

    searches_per_second: float
    p50_ms: float
    p99_ms: float
    store_p50_ms: float
    # Processor time of the cluster by operation, indexing included.
    cpu_us: float


class MixCluster(Cluster):
    """A cluster that is filled for the mix."""

    def fill(self, mix):
        """Waits for it, makes and fills the collections."""
        self.wait()
        for name in COLLECTIONS:
            self.ask("PUT", f"/collections/{name}", {"dim": DIM})
            self._send(list(mix.filling(name)), 4)
        self.settle()


class Played:
    """What one side did so far."""

    def __init__(self, cluster, send):
        self.cluster, self.send = cluster, send
        self.searches, self.stores, self.elapsed = [], [], 0.0
        self.cpu_before = cluster.cpu()

    def play(self, requests):
        """Sends a block of requests."""
        timing = self.send(requests)
        self.elapsed += timing.elapsed
        for (path, _), took in zip(requests, timing.latencies):
            (self.searches if path == "/mcp/search" else self.stores).append(took)

    def figures(self):
        """The figures, once everything is indexed."""
        self.cluster.settle()
        searches = sorted(self.searches)
        return Figures(
            searches_per_second=len(searches) / self.elapsed,
            p50_ms=1000 * statistics.median(searches),
            p99_ms=1000 * searches[len(searches) * 99 // 100],
            store_p50_ms=1000 * statistics.median(self.stores),
            cpu_us=1e6 * (self.cluster.cpu() - self.cpu_before) / (len(searches) + len(self.stores)),
        )


def play_round(number, start, options):
    """Both sides afresh, in turns: the figures by callers and side."""
    print(f"mix: round {number + 1}", file=sys.stderr, flush=True)
    sides = (gate.BASE, gate.CANDIDATE) if number % 2 == 0 else (gate.CANDIDATE, gate.BASE)
    clusters, found = {}, {}
    try:
        for side in sides:
            clusters[side] = start(side)
        for side in sides:
            clusters[side].fill(Mix(number, options.documents, options.filtered))
        mix = Mix(number, options.documents, options.filtered)
        for callers, block in BLOCKS.items():
            with contextlib.ExitStack() as stack:
                send = {side: stack.enter_context(clusters[side].connect(callers)) for side in sides}
                # What warms both up does not count.
                warm = mix.draw(options.requests // 10)
                for side in sides:
                    send[side](warm)
                played = {side: Played(clusters[side], send[side]) for side in sides}
                for turn in range(options.requests // block):
                    asked = mix.draw(block)
                    for side in sides if turn % 4 in (0, 3) else sides[::-1]:
                        played[side].play(asked)
                found[callers] = {side: played[side].figures() for side in sides}
    finally:
        for cluster in clusters.values():
            cluster.close()
    return found


def report(rounds):
    """A table: of each figure the median of the rounds and their range, and the change from round to round."""
    print(f"\n{'callers':>8} {'figure':22}{'base':>30}{'candidate':>30}   candidate to base")
    for callers in BLOCKS:
        for name in Figures.__dataclass_fields__:
            of = {side: [getattr(one[callers][side], name) for one in rounds] for side in (gate.BASE, gate.CANDIDATE)}
            ratios = [after / before - 1 for before, after in zip(of[gate.BASE], of[gate.CANDIDATE]) if before]
            shown = [f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in of.values()]
            change = f"{statistics.median(ratios):+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})" if ratios else ""
            print(f"{callers:8} {name:22}{shown[0]:>30}{shown[1]:>30}   {change}")


def arguments(given):
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gate.add_sides(parser)
    parser.add_argument("--nodes", type=int, default=3, help="nodes of each cluster [default: 3]")
    parser.add_argument("--documents", type=int, default=5_000, help="documents of each collection [default: 5000]")
    parser.add_argument("--filtered", type=float, default=0.0, help="share of questions with a filter [default: 0]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with fresh clusters [default: 3]")
    parser.add_argument("--requests", type=int, default=8_000, help="requests of a round by each number of callers [default: 8000]")
    options = parser.parse_args(given)
    gate.check_sides(parser, options)
    return options


def main(given=None):
    """The exit status."""
    options = arguments(given)

    def measure(programs):
        start = lambda side: MixCluster(programs[side], options.nodes, options.dir or options.cache)
        return [play_round(number, start, options) for number in range(options.rounds)]

    if not (rounds := gate.measured("mix", options, measure)):
        return 2
    report(rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Fails when a change made MIRA more than five percent slower.

    make bench-gate BASE=main              the tree as it is beside a revision: search, recall, store; some minutes
    make bench-gate BASE=main FULL=1       also imports, and twenty callers at once

Both revisions are built once (builds.py), started side by side and measured in turns, A B B A …, by the same caller over
REST (cluster.py, load.py): the clock of the caller, and the processor time of the cluster, which is quieter. Trials, each with fresh
clusters, go on until the answer is sharp (judge.py).

The exit status is 0 when nothing was found slower, 1 when something was, 2 when nothing could be said: a build failed, or the
machine was too busy. `--plant FILE` takes as candidate the base with a patch applied, to see that the gate sees it.
"""

import argparse
import contextlib
import fcntl
import json
import os
import statistics
import sys
import time
from pathlib import Path

import judge
from builds import BuildError, Builds
from cluster import FAST, FULL, Cluster, Requests
from load import Refused

BASE, CANDIDATE = "base", "candidate"
REPOSITORY = Path(__file__).resolve().parents[2]
# What is judged of each operation: the clock of its caller, and the time of all processors that the cluster used.
MEASURES = ("wall", "cpu")
# Trials before the first verdict; the interval of fewer is too wide to say anything.
FEWEST_TRIALS = 3
# Blocks of a turn: a number that falls on both sides alike.
BLOCKS = 8
FEWEST_TURNS = 4


class Gate:
    """Runs trials and keeps what they found. `start(side)` gives a cluster of that side."""

    def __init__(self, start, operations, options):
        self.start = start
        self.operations = operations
        self.options = options
        # Of each measure, the logarithm of each trial, and the seconds of the base for the report.
        self.trials = {(operation.name, measure): [] for operation in operations for measure in MEASURES}
        self.seconds = {key: [] for key in self.trials}

    def run(self):
        """Trials until the verdict is known, or until there are as many as may be. What was estimated, by measure."""
        for number in range(self.options.most_trials):
            self.trial(number)
            found = self.found()
            if number + 1 >= FEWEST_TRIALS and judge.is_decided(found.values(), self.options.limit):
                break
        return found

    def found(self):
        """The estimate of each measure so far."""
        return {key: judge.estimate(values) for key, values in self.trials.items()}

    def trial(self, number):
        """Both sides afresh, and in turns."""
        print(f"gate: trial {number + 1}", file=sys.stderr, flush=True)
        sides = (BASE, CANDIDATE) if number % 2 == 0 else (CANDIDATE, BASE)
        clusters = {}
        try:
            for side in sides:
                clusters[side] = self.start(side)
            for side in sides:
                clusters[side].prepare(Requests(number, self.options.documents))
                clusters[side].check(Requests(number, self.options.documents))
            requests = Requests(number, self.options.documents)
            for operation in self.operations:
                for measure, pairs in self.measure(operation, clusters, requests).items():
                    self.trials[operation.name, measure].append(judge.trial_value(pairs))
                    self.seconds[operation.name, measure].extend(base for base, _ in pairs)
        finally:
            for cluster in clusters.values():
                cluster.close()

    def measure(self, operation, clusters, requests):
        """Both sides in turns: pairs of seconds for one operation, by measure."""
        pairs = {measure: [] for measure in MEASURES}
        with contextlib.ExitStack() as stack:
            send = {side: stack.enter_context(clusters[side].connect(operation.callers)) for side in clusters}
            # The first does not count: it warms both sides up.
            self.turn(operation, clusters, requests, send, {measure: [] for measure in MEASURES})
            started, number = time.perf_counter(), 0
            while number < FEWEST_TURNS or time.perf_counter() - started < self.options.seconds:
                self.turn(operation, clusters, requests, send, pairs)
                number += 1
        for cluster in clusters.values():
            cluster.settle()
        return pairs

    def turn(self, operation, clusters, requests, send, pairs):
        """Blocks of requests, A B B A …. Processor time is that of the whole turn, with what is done behind the answers."""
        before = {side: cluster.cpu() for side, cluster in clusters.items()}
        for number in range(BLOCKS):
            asked = make(requests, operation, operation.block)
            # Whatever drifts steadily falls on both alike.
            sides = (BASE, CANDIDATE) if number % 4 in (0, 3) else (CANDIDATE, BASE)
            took = {side: seconds(operation, send[side](asked)) for side in sides}
            pairs["wall"].append((took[BASE], took[CANDIDATE]))
            if operation.settles:
                for cluster in clusters.values():
                    cluster.settle()
        operations = BLOCKS * operation.block * operation.documents
        spent = {side: (cluster.cpu() - before[side]) / operations for side, cluster in clusters.items()}
        pairs["cpu"].append((spent[BASE], spent[CANDIDATE]))


def seconds(operation, timing):
    """What one operation took by the clock of its callers."""
    # Alone, the median is least disturbed by what else the machine does; together, only the throughput is a cost.
    if operation.callers == 1:
        return statistics.median(timing.latencies)
    return timing.elapsed / (operation.block * operation.documents)


def make(requests, operation, count):
    """The requests of a turn."""
    return getattr(requests, operation.requests)(operation.collection, count)


def report(gate, found):
    """A table, and the exit status."""
    limit, status = gate.options.limit, 0
    print(f"\n{'':24}{'':6}{'base':>10}{'change':>10}   95 % interval")
    for (name, measure), one in found.items():
        verdict = judge.judge(one, limit)
        seconds = sorted(gate.seconds[name, measure])
        base = seconds[len(seconds) // 2] * 1000
        interval = f"{one.low:+.1%} to {one.high:+.1%}"
        print(f"{name:24}{measure:6}{base:7.3f} ms{one.change:+10.1%}   {interval:22}{verdict.value}")
        status = max(status, {judge.Verdict.SLOWER: 2, judge.Verdict.TOO_NOISY: 1}.get(verdict, 0))
    trials = next(iter(found.values())).trials
    says = ["nothing slower", "too noisy to tell: run it again on a quiet machine", "slower"][status]
    print(f"\ngate: {says} (limit {limit:.0%}, {trials} trials)")
    return [0, 2, 1][status]


def to_json(gate, found, programs):
    """What was found, for keeping."""
    return {
        "limit": gate.options.limit,
        "programs": {side: str(program) for side, program in programs.items()},
        "measures": [
            {"operation": name, "measure": measure, **vars(one), "verdict": judge.judge(one, gate.options.limit).name,
             "trials_log": gate.trials[name, measure]}
            for (name, measure), one in found.items()
        ],
    }


def add_sides(parser):
    """The options that say what is compared, and where."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mira" / "bench-gate"
    parser.add_argument("--base", metavar="REV", help="what to compare with")
    parser.add_argument("--candidate", metavar="REV", help="what to judge [default: the tree as it is]")
    parser.add_argument("--plant", metavar="PATCH", help="judge the base with this patch instead")
    parser.add_argument("--programs", nargs=2, metavar=("BASE", "CANDIDATE"), help="two programs that are built already")
    parser.add_argument("--cache", type=Path, default=cache, help=f"where builds are kept [default: {cache}]")
    parser.add_argument("--dir", type=Path, help="where data lies, and so on which disk [default: the cache]")


def check_sides(parser, options):
    """Ends with a message where they do not say enough."""
    if not options.base and not options.programs:
        parser.error("say what to compare with: --base REV")


def arguments(given):
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sides(parser)
    parser.add_argument("--full", action="store_true", help="also imports, and twenty callers")
    parser.add_argument("--only", metavar="NAME", action="append", help="measure this operation alone; may be repeated")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of each cluster [default: 3]")
    parser.add_argument("--documents", type=int, help="documents that are searched [default: 1000, full: 20000]")
    parser.add_argument("--limit", type=float, default=0.05, help="slowdown that fails [default: 0.05]")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a trial measures an operation [default: 3]")
    parser.add_argument("--most-trials", type=int, default=10, help="trials at most [default: 10]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to a file as well")
    options = parser.parse_args(given)
    check_sides(parser, options)
    options.documents = options.documents or (20_000 if options.full else 1_000)
    return options


def operations_of(options):
    """What is measured."""
    operations = FULL if options.full else FAST
    if not options.only:
        return operations
    if unknown := set(options.only) - {operation.name for operation in FULL}:
        raise Refused(f"no operation is called {unknown.pop()!r}; there are {', '.join(one.name for one in FULL)}")
    return [operation for operation in FULL if operation.name in options.only]


def programs_of(options):
    """The programs of both sides, built where they are not there."""
    if options.programs:
        return dict(zip((BASE, CANDIDATE), options.programs))
    builds = Builds(REPOSITORY, options.cache)
    base = builds.tree_of(options.base)
    if options.plant:
        candidate = builds.patched(base, options.plant)
    elif options.candidate:
        candidate = builds.tree_of(options.candidate)
    else:
        candidate = builds.working_tree()
    return {BASE: builds.program(base), CANDIDATE: builds.program(candidate)}


def measured(name, options, measure):
    """What `measure(programs)` gives, with nothing of this kind beside it; none, with a message, when it cannot be had."""
    options.cache.mkdir(parents=True, exist_ok=True)
    with (options.cache / "lock").open("w") as lock:
        # Two at once would measure each other.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return measure(programs_of(options))
        except (BuildError, Refused, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return None


def main(given=None):
    """The exit status."""
    options = arguments(given)

    def measure(programs):
        start = lambda side: Cluster(programs[side], options.nodes, options.dir or options.cache)
        gate = Gate(start, operations_of(options), options)
        return gate, gate.run(), programs

    if not (result := measured("gate", options, measure)):
        return 2
    gate, found, programs = result
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(to_json(gate, found, programs), indent=1) + "\n")
    return report(gate, found)


if __name__ == "__main__":
    sys.exit(main())

"""Tests of the gate: its statistics, on noise that is drawn from seeds; and all of it, on a program that answers like a cluster."""

import collections
import contextlib
import io
import itertools
import json
import math
import random
import statistics
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import builds
import cluster
import gate
import judge
import load
import mix

HERE = Path(__file__).resolve().parent


class StatisticsTest(unittest.TestCase):
    def test_a_trial_is_the_median_of_its_turns(self):
        turns = [(1.0, 1.1), (2.0, 2.2), (1.0, 50.0)]
        self.assertAlmostEqual(judge.trial_value(turns), math.log(1.1))

    def test_the_interval_is_students(self):
        # By hand: mean 0.1, deviation 0.01, three trials, t = 4.303.
        found = judge.estimate([0.09, 0.10, 0.11])
        half = 4.303 * 0.01 / math.sqrt(3)
        self.assertAlmostEqual(found.change, math.expm1(0.1))
        self.assertAlmostEqual(found.low, math.expm1(0.1 - half))
        self.assertAlmostEqual(found.high, math.expm1(0.1 + half))

    def test_one_trial_says_nothing(self):
        found = judge.estimate([0.2])
        self.assertFalse(judge.is_settled(found, 0.05))
        self.assertNotEqual(judge.judge(found, 0.05), judge.Verdict.SLOWER)

    def test_trials_end_when_the_verdict_is_known(self):
        def decided(*intervals):
            return judge.is_decided([judge.Estimate((low + high) / 2, low, high, 5) for low, high in intervals], 0.05)

        self.assertTrue(decided((-0.01, 0.02), (0.0, 0.04)))
        self.assertFalse(decided((-0.01, 0.02), (0.0, 0.06)))
        self.assertTrue(decided((-0.09, 0.20), (0.06, 0.10)))
        self.assertFalse(decided((-0.09, 0.20), (0.04, 0.10)))

    def test_verdicts(self):
        def verdict(change, low, high):
            return judge.judge(judge.Estimate(change, low, high, 5), 0.05)

        self.assertEqual(verdict(0.09, 0.06, 0.12), judge.Verdict.SLOWER)
        self.assertEqual(verdict(0.06, 0.01, 0.11), judge.Verdict.SLOWER)
        self.assertEqual(verdict(0.04, 0.01, 0.07), judge.Verdict.UNCLEAR)
        self.assertEqual(verdict(0.06, -0.01, 0.13), judge.Verdict.TOO_NOISY)
        self.assertEqual(verdict(0.00, -0.02, 0.02), judge.Verdict.FINE)
        self.assertEqual(verdict(0.03, 0.02, 0.04), judge.Verdict.FINE)
        self.assertEqual(verdict(-0.20, -0.30, -0.10), judge.Verdict.FINE)

    def test_a_quantile_covers_95_of_100(self):
        chance = random.Random(1)
        covered = 0
        for _ in range(2000):
            found = judge.estimate([chance.gauss(0.03, 0.02) for _ in range(5)])
            covered += found.low <= math.expm1(0.03) <= found.high
        self.assertTrue(0.935 <= covered / 2000 <= 0.965, covered)


class NoisyCluster:
    """A side of a simulated machine: each start has its own luck, each turn its own noise, some a hiccup."""

    def __init__(self, chance, factor, start_noise):
        self.chance = chance
        self.factor = factor * math.exp(chance.gauss(0, start_noise))

        self.spent = 0.0

    def prepare(self, requests):
        pass

    def check(self, requests):
        pass

    def settle(self):
        pass

    def close(self):
        pass

    def cpu(self):
        return self.spent

    @contextlib.contextmanager
    def connect(self, callers):
        yield self.send

    def send(self, requests):
        def noisy(spread):
            hiccup = 1.5 if self.chance.random() < 0.1 else 1.0
            return 0.001 * self.factor * hiccup * math.exp(self.chance.gauss(0, spread))

        self.spent += noisy(0.02)
        took = noisy(0.04)
        return load.Timing([took], took)


class GateTest(unittest.TestCase):
    """The whole loop on simulated noise: how often it is right."""

    def run_once(self, seed, factor, start_noise=0.015):
        chance = random.Random(seed)
        factors = {gate.BASE: 1.0, gate.CANDIDATE: factor}
        options = gate.arguments(["--base", "x", "--seconds", "0"])
        one = gate.Gate(lambda side: NoisyCluster(chance, factors[side], start_noise), cluster.FAST, options)
        with mock.patch.object(gate, "make", lambda requests, operation, count: []), \
                mock.patch.object(gate, "Requests", lambda *_: None), mock.patch.object(gate, "FEWEST_TURNS", 16), \
                contextlib.redirect_stderr(io.StringIO()):
            found = one.run()
        verdicts = [judge.judge(each, options.limit) for each in found.values()]
        return judge.Verdict.SLOWER in verdicts, judge.Verdict.TOO_NOISY in verdicts

    def test_the_same_revision_passes(self):
        for seed in range(100):
            self.assertEqual(self.run_once(seed, 1.0), (False, False), seed)

    def test_ten_percent_are_found(self):
        for seed in range(100):
            self.assertTrue(self.run_once(seed, 1.10)[0], seed)

    def test_two_percent_pass(self):
        slower = sum(self.run_once(seed, 1.02)[0] for seed in range(50))
        self.assertLessEqual(slower, 1)

    def test_a_faster_candidate_passes(self):
        self.assertFalse(any(self.run_once(seed, 0.85)[0] for seed in range(20)))

    def test_a_machine_that_is_too_busy_is_told_apart_from_a_pass(self):
        noisy = sum(self.run_once(seed, 1.0, start_noise=0.2)[1] for seed in range(20))
        self.assertGreaterEqual(noisy, 15)

    def test_sides_take_turns(self):
        order = []

        class Seen(NoisyCluster):
            def __init__(self, side):
                super().__init__(random.Random(0), 1.0, 0)
                self.side = side

            def send(self, requests):
                order.append(self.side[0])
                return super().send(requests)

        one = gate.Gate(Seen, cluster.FAST[:1], gate.arguments(["--base", "x", "--seconds", "0"]))
        with mock.patch.object(gate, "make", lambda *_: []), mock.patch.object(gate, "Requests", lambda *_: None), \
                contextlib.redirect_stderr(io.StringIO()):
            one.trial(0)
        self.assertEqual("".join(order), "bccbcbbc" * (gate.BLOCKS // 4) * (1 + gate.FEWEST_TURNS))


def fake_program(folder, spin):
    """A program that answers like a cluster after so many seconds of work."""
    path = folder / f"mira-{spin}"
    path.write_text((HERE / "fake_mira.py").read_text().replace("SPIN = 0.0010", f"SPIN = {spin}"))
    path.chmod(0o755)
    return str(path)


class ProgramTest(unittest.TestCase):
    """Everything but the builds, over sockets and processes."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def program(self, spin):
        return fake_program(self.folder, spin)

    def gate(self, *programs):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = gate.main(
                ["--programs", *programs, "--cache", str(self.folder), "--documents", "200", "--seconds", "0",
                 "--most-trials", "4", "--limit", "0.5", "--json", str(self.folder / "gate.json")]
            )
        return status, out.getvalue()

    def test_a_program_beside_a_slow_one(self):
        quick, slow = self.program(0.0003), self.program(0.0012)
        status, text = self.gate(quick, slow)
        self.assertEqual(status, 1, text)
        self.assertIn("SLOWER", text)
        self.assertTrue((self.folder / "gate.json").exists())

    def test_a_program_that_does_not_start_is_not_judged(self):
        broken = self.folder / "broken"
        broken.write_text("#!/bin/sh\necho no such option; exit 2\n")
        broken.chmod(0o755)
        self.assertEqual(self.gate(str(broken), str(broken))[0], 2)

    def test_a_load_by_many_callers_sends_each_message_once(self):
        one = cluster.Cluster(self.program(0.0001), 1, self.folder)
        try:
            one.wait()
            messages = [one.target.message("POST", "/mcp/recall", b"{}")] * 50
            with load.connected(one.target.port, 20) as connections:
                timing = load.closed_loop(connections, messages)
        finally:
            one.close()
        self.assertEqual(len(timing.latencies), 50)
        self.assertGreaterEqual(timing.elapsed, statistics.median(timing.latencies))


class MixTest(unittest.TestCase):
    """The mix of searches that repeat and stores."""

    def test_requests_are_drawn_as_the_mix_says(self):
        drawn = mix.Mix(1, 0, 0.5).draw(20_000)
        searches = collections.Counter(body for path, body in drawn if path == "/mcp/search")
        self.assertAlmostEqual(1 - searches.total() / len(drawn), mix.STORES, delta=0.01)
        # Zipf's law: the first of 2,000 has one of 8.18 questions, twice as many as the second.
        (_, first), (_, second) = searches.most_common(2)
        self.assertAlmostEqual(first / searches.total(), 1 / 8.18, delta=0.01)
        self.assertAlmostEqual(first / second, 2, delta=0.2)
        self.assertLessEqual(len(searches), mix.QUESTIONS)
        asked = [json.loads(body) for body in searches]
        filtered = sum("filter" in one for one in asked)
        self.assertAlmostEqual(filtered / len(asked), 0.5, delta=0.05)
        self.assertEqual({(one["collection"], one["k"]) for one in asked}, set(itertools.product(mix.COLLECTIONS, mix.HITS)))

    def test_both_sides_get_the_same(self):
        self.assertEqual(mix.Mix(7, 0, 0.5).draw(50), mix.Mix(7, 0, 0.5).draw(50))

    def test_figures_are_of_searches_and_of_all_blocks(self):
        class Counting:
            spent = 5.0

            def cpu(self):
                return self.spent

            def settle(self):
                self.spent += 0.01

        one, latencies = Counting(), iter([[0.001] * 98 + [0.009, 0.004], [0.001] + [0.006] * 9])
        played = mix.Played(one, lambda requests: load.Timing(next(latencies), 0.5))
        search, store = ("/mcp/search", b""), ("/mcp/store", b"")
        played.play([search] * 99 + [store])
        played.play([search] + [store] * 9)
        one.spent = 5.1
        found = played.figures()
        self.assertEqual(found.searches_per_second, 100)
        self.assertAlmostEqual(found.p50_ms, 1)
        self.assertAlmostEqual(found.p99_ms, 9)
        self.assertAlmostEqual(found.store_p50_ms, 6)
        self.assertAlmostEqual(found.cpu_us, 1000)

    def test_a_program_beside_itself(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = mix.main(
                ["--programs", *[fake_program(folder, 0.0001)] * 2, "--cache", str(folder), "--documents", "200", "--rounds", "1",
                 "--requests", "100"]
            )
        self.assertEqual(status, 0)
        self.assertRegex(out.getvalue(), r"20 searches_per_second +\d")


class OperationsTest(unittest.TestCase):
    def test_one_operation_can_be_measured_alone(self):
        def names(*given):
            return [one.name for one in gate.operations_of(gate.arguments(["--base", "x", *given]))]

        self.assertEqual(names("--only", "import"), ["import"])
        self.assertEqual(names(), [one.name for one in cluster.FAST])
        self.assertEqual(names("--full"), [one.name for one in cluster.FULL])
        with self.assertRaisesRegex(load.Refused, "'imports'"):
            names("--only", "imports")


class PlantTest(unittest.TestCase):
    def test_the_patch_that_plants_a_slowdown_fits_the_tree(self):
        done = subprocess.run(
            ["git", "apply", "--check", "-C1", "--recount", HERE / "planted.patch"],
            cwd=gate.REPOSITORY, capture_output=True, text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)


class BuildsTest(unittest.TestCase):
    """Trees of a small repository."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        # What make prints.
        self.enterContext(contextlib.redirect_stderr(self.enterContext(tempfile.TemporaryFile("w"))))
        self.repository = self.folder / "repository"
        self.repository.mkdir()
        self.git("init", "--quiet")
        self.git("config", "user.name", "A")
        self.git("config", "user.email", "a@b")
        # Counts how often it was built, in the folder that builds share.
        (self.repository / "Makefile").write_text(
            "release:\n\tmkdir -p $$CARGO_TARGET_DIR/release\n\tcp a $$CARGO_TARGET_DIR/release/mira\n"
            "\techo built >> $$CARGO_TARGET_DIR/count\n"
        )
        (self.repository / "a").write_text("one\n")
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "one")
        self.builds = builds.Builds(self.repository, self.folder / "cache")

    def git(self, *arguments):
        subprocess.run(["git", "-C", self.repository, *arguments], check=True, capture_output=True)

    def count(self):
        return len((self.folder / "cache/target/count").read_text().splitlines())

    def test_a_tree_is_built_once(self):
        tree = self.builds.tree_of("HEAD")
        program = self.builds.program(tree)
        self.assertEqual(program.read_text(), "one\n")
        self.git("commit", "--quiet", "--allow-empty", "-m", "the same tree")
        self.assertEqual(self.builds.program(self.builds.tree_of("HEAD")), program)
        self.assertEqual(self.count(), 1)

    def test_the_working_tree_counts_with_its_changes_and_stays_as_it_is(self):
        self.assertEqual(self.builds.working_tree(), self.builds.tree_of("HEAD"))
        (self.repository / "a").write_text("two\n")
        tree = self.builds.working_tree()
        self.assertEqual(self.builds.program(tree).read_text(), "two\n")
        self.assertEqual((self.repository / "a").read_text(), "two\n")
        (self.repository / "new").write_text("x")
        with self.assertRaisesRegex(builds.BuildError, "new"):
            self.builds.working_tree()

    def test_a_patch_makes_another_tree(self):
        patch = self.folder / "p.patch"
        patch.write_text("--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+slow\n")
        tree = self.builds.patched(self.builds.tree_of("HEAD"), patch)
        self.assertEqual(self.builds.program(tree).read_text(), "slow\n")
        self.assertEqual((self.repository / "a").read_text(), "one\n")

    def test_what_does_not_build_is_an_error(self):
        (self.repository / "Makefile").write_text("release:\n\tfalse\n")
        with self.assertRaisesRegex(builds.BuildError, "does not build"):
            self.builds.program(self.builds.working_tree())


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""The vector index beside qdrant-edge, faiss, hnswlib and usearch, in one interleaved run on the same vectors.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r index/benches/peers/requirements.txt
    MIRA_BENCH_DATA=… /tmp/peers/bin/python index/benches/peers/compare.py

Every engine builds with two threads, m = 16 and ef_construction = 128, and searches with one. Then the beam is swept:
at each width all engines take turns, several rounds, and the best round counts, so that a noisy hour meets everybody.
MIRA is the benchmark program of this folder (`cargo bench --bench vectors`), asked over a pipe; its times are taken
inside it, as those of the peers are taken around their calls from Python, single query by single query. What such a
call costs for nothing (about a microsecond for faiss, hnswlib and usearch; qdrant-edge wants the query as a list, which
is made beforehand) is on the peers' side.

Environment: MIRA_BENCH_DATA (a folder with *.base.f16 and *.query.f16, 384 half floats a row; without it clusters are
made), MIRA_BENCH_ORIGINALS (how many rows of it are taken and copied with noise; all), MIRA_BENCH_VECTORS (200000), MIRA_BENCH_ROUNDS (5), MIRA_BENCH_ENGINES (a comma-separated choice),
MIRA_BENCH_ROWS (memory, or disk: MIRA's full-precision rows in a file instead).
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np

DIM, K, M, EF_CONSTRUCTION, THREADS = 384, 10, 16, 128, 2
BEAMS = [10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]  # MIRA's own, at 0, is asked first.
GOALS = [0.95, 0.99]


def load(count):
    """Vectors and queries: real ones, extended with noise as the data's description says; or clusters."""
    random = np.random.default_rng(1)
    folder = os.environ.get("MIRA_BENCH_DATA")
    if folder:
        def read(suffix):
            path = next(p for p in sorted(pathlib.Path(folder).iterdir()) if p.name.endswith(suffix))
            return np.fromfile(path, dtype="<f2").reshape(-1, DIM).astype(np.float32)

        base, queries = read(".base.f16"), read(".query.f16")
    else:
        centres = random.normal(size=(500, DIM))
        base = centres[random.integers(0, 500, 50_000)] + 0.8 * random.normal(size=(50_000, DIM))
        queries = centres[random.integers(0, 500, 1_000)] + 0.8 * random.normal(size=(1_000, DIM))
    base = base[: int(os.environ.get("MIRA_BENCH_ORIGINALS", len(base)))]
    parts, rows = [base[:count]], min(len(base), count)
    while rows < count:
        more = base[: count - rows]
        parts.append(more + np.sqrt(0.384 / 384) * random.normal(size=more.shape))
        rows += len(more)
    # Through half precision and back, so that every engine gets the very same numbers.
    normalised = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("<f2")
    return normalised(np.concatenate(parts)), normalised(queries)


def truth_of(base, queries):
    best = [np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=int)]
    for start in range(0, len(base), 50_000):
        scores = queries @ base[start : start + 50_000].T
        near = np.argpartition(-scores, min(K, scores.shape[1] - 1), axis=1)[:, :K]
        best[0] = np.concatenate([best[0], np.take_along_axis(scores, near, axis=1)], axis=1)
        best[1] = np.concatenate([best[1], near + start], axis=1)
        order = np.argsort(-best[0], axis=1)[:, :K]
        best = [np.take_along_axis(part, order, axis=1) for part in best]
    return [set(row.tolist()) for row in best[1]]


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class InProcess:
    """A peer, called query by query."""

    def prepare(self, queries):
        self.queries = queries

    def measure(self, ef, truth):
        self.set_ef(ef)
        latencies, found = [], 0
        for query, wanted in zip(self.queries, truth):
            start = time.perf_counter_ns()
            ids = self.search(query)
            latencies.append(time.perf_counter_ns() - start)
            found += len(wanted.intersection(int(i) for i in ids))
        latencies.sort()
        at = lambda share: latencies[int((len(latencies) - 1) * share)] / 1e3
        return {
            "recall": found / (K * len(truth)),
            "qps": len(latencies) / (sum(latencies) / 1e9),
            "p50": at(0.5),
            "p99": at(0.99),
        }


class Faiss(InProcess):
    def build(self, base):
        import faiss

        faiss.omp_set_num_threads(THREADS)
        self.index = self.make(faiss)
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        if not self.index.is_trained:
            self.index.train(base)
        self.index.add(base)
        faiss.omp_set_num_threads(1)

    def set_ef(self, ef):
        self.index.hnsw.efSearch = ef

    def search(self, query):
        return self.index.search(query.reshape(1, -1), K)[1][0]


class FaissFlat(Faiss):
    def make(self, faiss):
        return faiss.IndexHNSWFlat(DIM, M, faiss.METRIC_INNER_PRODUCT)


class FaissSq8(Faiss):
    def make(self, faiss):
        return faiss.IndexHNSWSQ(DIM, faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_INNER_PRODUCT)


class Hnswlib(InProcess):
    def build(self, base):
        import hnswlib

        self.index = hnswlib.Index("ip", DIM)
        self.index.init_index(len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(base, num_threads=THREADS)

    def set_ef(self, ef):
        self.index.set_ef(max(ef, K))

    def search(self, query):
        return self.index.knn_query(query, K, num_threads=1)[0][0]


class Usearch(InProcess):
    dtype = "f32"

    def build(self, base):
        from usearch.index import Index

        self.index = Index(
            ndim=DIM, metric="ip", dtype=self.dtype, connectivity=M, expansion_add=EF_CONSTRUCTION
        )
        self.index.add(np.arange(len(base)), base, threads=THREADS)

    def set_ef(self, ef):
        self.index.expansion_search = ef

    def search(self, query):
        return self.index.search(query, K, threads=1).keys


class UsearchI8(Usearch):
    """Its codes with our rescoring: without one it does not reach 0.99."""

    dtype = "i8"

    def build(self, base):
        super().build(base)
        self.base = base

    def search(self, query):
        keys = self.index.search(query, 2 * K, threads=1).keys
        return keys[np.argsort(-(self.base[keys] @ query))[:K]]


class QdrantEdge(InProcess):
    quantised = True

    def build(self, base):
        import qdrant_edge as q

        self.q, self.folder = q, tempfile.TemporaryDirectory()
        config = q.EdgeConfig(
            vectors={"": q.EdgeVectorParams(size=DIM, distance=q.Distance.Dot)},
            hnsw_config=q.HnswIndexConfig(m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=10, max_indexing_threads=THREADS),
            quantization_config=q.ScalarQuantizationConfig(type=q.ScalarType.Int8, always_ram=True) if self.quantised else None,
            optimizers=q.EdgeOptimizersConfig(indexing_threshold=1_000, default_segment_number=1),
        )
        self.shard = q.EdgeShard.create(self.folder.name, config)
        for start in range(0, len(base), 1_000):
            points = [q.Point(start + i, row.tolist(), None) for i, row in enumerate(base[start : start + 1_000])]
            self.shard.update(q.UpdateOperation.upsert_points(points))
        while self.shard.optimize():
            pass
        info = self.shard.info()
        assert info.indexed_vectors_count >= len(base), info

    def prepare(self, queries):
        self.queries = [query.tolist() for query in queries]

    def set_ef(self, ef):
        q = self.q
        quantization = q.QuantizationSearchParams(rescore=True, oversampling=2.0) if self.quantised else None
        self.params = q.SearchParams(hnsw_ef=ef, quantization=quantization)

    def search(self, query):
        q = self.q
        request = q.SearchRequest(query=q.Query.Nearest(query), limit=K, params=self.params)
        return [point.id for point in self.shard.search(request)]


class QdrantEdgeF32(QdrantEdge):
    quantised = False


class Mira:
    """The benchmark program of this folder, asked line by line."""

    def __init__(self, quantization):
        self.quantization = quantization

    def start(self, folder, count):
        environment = dict(
            os.environ, MIRA_BENCH_DATA=str(folder), MIRA_BENCH_VECTORS=str(count), MIRA_BENCH_SERVE=self.quantization
        )
        command = ["cargo", "bench", "--locked", "-q", "-p", "mira-index", "--bench", "vectors"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return json.loads(self.process.stdout.readline())

    def measure(self, ef, _):
        self.process.stdin.write(f"{ef}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


ENGINES = {
    "mira int8": lambda: Mira("int8"),
    "mira binary": lambda: Mira("binary"),
    "qdrant-edge sq": QdrantEdge,
    "qdrant-edge f32": QdrantEdgeF32,
    "faiss flat": FaissFlat,
    "faiss sq8": FaissSq8,
    "hnswlib": Hnswlib,
    "usearch f32": Usearch,
    "usearch i8": UsearchI8,
}


def build(name, engine, base, folder):
    """Builds an engine and prints what that took."""
    if isinstance(engine, Mira):
        built = engine.start(folder, len(base))
        print(f"{name}: built in {built['seconds']:.1f} s, {built['bytes_per_vector']:.0f} bytes a vector ({built['parts']})")
        return
    before, start = resident(), time.perf_counter()
    engine.build(base)
    seconds = time.perf_counter() - start
    grown = (resident() - before) / len(base)
    print(f"{name}: built in {seconds:.1f} s, process grew by {grown:.0f} bytes a vector")


def sweep(engines, truth, rounds):
    points = {name: [] for name in engines}
    for name, engine in engines.items():
        if isinstance(engine, Mira):
            point = max((engine.measure(0, truth) for _ in range(rounds)), key=lambda point: point["qps"])
            print(f"{name} with the beam that widens by itself: recall {point['recall']:.4f}, {point['qps']:.0f} QPS, "
                  f"p50 {point['p50']:.0f} µs, p99 {point['p99']:.0f} µs")
    for ef in BEAMS:
        best = {}
        for _ in range(rounds):
            for name, engine in engines.items():
                if points[name] and points[name][-1][1]["recall"] >= max(GOALS):
                    continue  # Wider beams say nothing new of it.
                point = engine.measure(ef, truth)
                if name not in best or point["qps"] > best[name]["qps"]:
                    best[name] = point
        for name, point in best.items():
            points[name].append((ef, point))
    return points


def report(points):
    print(f"\nrecall by beam\n{'engine':<16} " + " ".join(f"{ef:>6}" for ef in BEAMS))
    for name, sweep_of in points.items():
        print(f"{name:<16} " + " ".join(f"{p['recall']:>6.3f}" for _, p in sweep_of))
    print(f"\n{'engine':<16} {'ef':>4} {'recall':>7} {'QPS':>8} {'p50 µs':>8} {'p99 µs':>8}")
    for goal in GOALS:
        print(f"first at recall {goal}")
        for name, sweep_of in points.items():
            reached = next(((ef, p) for ef, p in sweep_of if p["recall"] >= goal), None)
            if reached is None:
                print(f"{name:<16} not reached; best {max(p['recall'] for _, p in sweep_of):.4f}")
                continue
            ef, p = reached
            print(f"{name:<16} {ef:>4} {p['recall']:>7.4f} {p['qps']:>8.0f} {p['p50']:>8.0f} {p['p99']:>8.0f}")


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = next((line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")), platform.machine())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{model}, {os.cpu_count()} threads, load {load}, {platform.platform()}, Python {platform.python_version()}"


def main():
    count = int(os.environ.get("MIRA_BENCH_VECTORS", 200_000))
    rounds = int(os.environ.get("MIRA_BENCH_ROUNDS", 5))
    chosen = os.environ.get("MIRA_BENCH_ENGINES", ",".join(ENGINES)).split(",")
    halves, half_queries = load(count)
    print("machine:", machine())
    print("peers:", ", ".join((pathlib.Path(__file__).parent / "requirements.txt").read_text().split()))
    print(f"{len(halves)} vectors of {DIM}, {len(half_queries)} queries, k = {K}, inner product of unit vectors, "
          f"m = {M}, ef_construction = {EF_CONSTRUCTION}, {THREADS} building threads, 1 searching, best of {rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        halves.tofile(folder / "data.base.f16")
        half_queries.tofile(folder / "data.query.f16")
        base, queries = halves.astype(np.float32), half_queries.astype(np.float32)
        truth = truth_of(base, queries)
        engines = {}
        for name in chosen:
            engine = ENGINES[name]()
            build(name, engine, base, folder)
            if isinstance(engine, InProcess):
                engine.prepare(queries)
            engines[name] = engine
            sys.stdout.flush()
        report(sweep(engines, truth, rounds))
        for engine in engines.values():
            if isinstance(engine, Mira):
                engine.process.stdin.close()
                engine.process.wait()


if __name__ == "__main__":
    main()

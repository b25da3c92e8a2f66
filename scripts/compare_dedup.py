#!/usr/bin/env python3
"""clipsift dedup beside faiss-cpu, PyTorch, scikit-learn and numpy: the same rows, k, centroids, iterations and threads, in one call.

    python scripts/compare_dedup.py --binary target/release/clipsift > table.md

Two works on each of two kinds of data, both from fixed seeds. `clustered`: unit rows around 1,000 directions, all moved by a
common vector with a few large values as CLIP's embeddings have it. `uniform`: directions without any structure. In both every
fiftieth row is an earlier one moved a little, so that cosines lie on both sides of the threshold.

k-means: Lloyd's iterations from the same given centroids, no normalised centroids (faiss: spherical=False). Beside the time stands
the inertia of the final centroids, computed here for all in float64.
Pairs: all rows with all, cosine >= threshold. Beside the time stand the number of pairs and how many are missing or too many against
a brute force in float64, pairs within 1e-6 of the threshold left aside. Torch and numpy go through the upper triangle in blocks.

Time is that of the search alone. For the peers: the call, on rows that are in memory. For clipsift: `seconds.kmeans` (check of the
rows, the iterations, and one more assignment, which labels all rows) and `seconds.pairs` (hashing of the rows to collapse
identical ones, the search, and the file of pairs) of run.json. Runs take turns, `--repeats` times; medians, and ratios of medians.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

BAND = 1e-6


def unit(x):
    x /= np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return x


def make_rows(kind, n, d, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "clustered":
        directions = rng.standard_normal((1000, d), dtype=np.float32)
        common = rng.standard_normal(d, dtype=np.float32)
        common[:: d // 4] *= 8
        x = 0.8 * x + directions[rng.integers(0, 1000, n)] + common
    x = unit(x)
    copies = np.arange(50, n, 50)
    # Cosines from about 0.85 to 1.
    noise = rng.standard_normal((len(copies), d), dtype=np.float32) * (0.6 * rng.random((len(copies), 1), dtype=np.float32))
    x[copies] = x[copies - rng.integers(1, 50, len(copies))] + noise / np.sqrt(d)
    return np.ascontiguousarray(unit(x), dtype=np.float32)


def blocks(n, size):
    for i in range(0, n, size):
        for j in range(i, n, size):
            yield i, j


def brute_pairs(x, threshold):
    """a * n + b of all pairs down to threshold - BAND, and their cosines, in float64."""
    n, found, cosines = len(x), [], []
    wide = x.astype(np.float64)
    for i, j in blocks(n, 2000):
        c = wide[i : i + 2000] @ wide[j : j + 2000].T
        a, b = np.nonzero(c >= threshold - BAND)
        later = a + i < b + j
        a, b = a[later], b[later]
        found.append((a + i) * n + b + j)
        cosines.append(c[a, b])
    return np.concatenate(found), np.concatenate(cosines)


def faults(keys, cosines, threshold, got):
    """Pairs that are missing, and pairs too many, outside the band."""
    sure = keys[cosines > threshold + BAND]
    return len(np.setdiff1d(sure, got)), len(np.setdiff1d(got, keys))


def numpy_pairs(x, threshold):
    n, found = len(x), []
    for i, j in blocks(n, 2048):
        a, b = np.nonzero(x[i : i + 2048] @ x[j : j + 2048].T >= threshold)
        found.append(((a + i) * n + b + j)[a + i < b + j])
    return np.concatenate(found)


def torch_pairs(x, threshold, whole):
    """Blocks on and above the diagonal, as we go; or the whole square, as code that does not use the symmetry goes."""
    n, found = len(x), []
    each = ((i, j) for i in range(0, n, 2048) for j in range(0, n, 2048)) if whole else blocks(n, 2048)
    for i, j in each:
        a, b = (x[i : i + 2048] @ x[j : j + 2048].T >= threshold).nonzero(as_tuple=True)
        found.append(((a + i) * n + b + j)[a + i < b + j])
    return np.concatenate([f.numpy() for f in found])


def faiss_pairs(index, x, threshold):
    limits, _, others = index.range_search(x, threshold)
    n = len(x)
    a = np.repeat(np.arange(n), np.diff(limits).astype(np.int64))
    return a, others


def numpy_kmeans(x, centroids, iterations):
    c = centroids.copy()
    for _ in range(iterations):
        labels = np.concatenate(
            [np.argmin((c * c).sum(1) - 2 * (x[i : i + 4096] @ c.T), axis=1) for i in range(0, len(x), 4096)]
        )
        order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(c))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        full = counts > 0
        c[full] = np.add.reduceat(x[order], starts[full], axis=0) / counts[full, None]
    return c


def torch_kmeans(torch, x, rows, centroids, iterations):
    """`rows` is `x` in the precision of the products."""
    c = centroids.clone()
    for _ in range(iterations):
        half = (c * c).sum(1)
        near = c.to(rows.dtype).T.contiguous()
        labels = torch.cat(
            [(half - 2 * (rows[i : i + 4096] @ near).float()).argmin(1) for i in range(0, len(x), 4096)]
        )
        sums = torch.zeros_like(c).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=len(c))
        full = counts > 0
        c[full] = sums[full] / counts[full, None]
    return c.numpy()


def inertia(x, centroids):
    c = centroids.astype(np.float64)
    total = 0.0
    for i in range(0, len(x), 4096):
        rows = x[i : i + 4096].astype(np.float64)
        total += ((rows**2).sum(1) + ((c**2).sum(1) - 2 * (rows @ c.T)).min(1)).sum()
    return total


def clipsift(args, npy, out, more):
    command = [args.binary, "dedup", str(npy), "--out", str(out), "--overwrite", "--quiet"]
    command += ["--threads", str(args.threads), "--eps", "0.01", "--floor", f"{1 - args.threshold:.6f}", *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "run.json").read_text())


def read_centroids(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + size])["centroids"]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32).reshape(entry["shape"])


def read_pairs(run, n):
    import pyarrow.parquet as pq

    tables = [pq.read_table(f, columns=["a", "b"]) for f in sorted((run / "duplicates").glob("pairs-*.parquet"))]
    a, b = (np.concatenate([[int(v) for v in t[name].to_pylist()] for t in tables]).astype(np.int64) for name in ("a", "b"))
    return np.minimum(a, b) * n + np.maximum(a, b)


def contest(names, repeats, race):
    """Runs all in turn; the seconds of each, and what each gave the last time."""
    seconds, results = {name: [] for name in names}, {}
    for turn in range(repeats):
        for name in names:
            taken, results[name] = race(name)
            seconds[name].append(taken)
            print(f"  {turn + 1}/{repeats} {name}: {taken:.3f} s", file=sys.stderr, flush=True)
    return seconds, results


def timed(call):
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def table(title, seconds, notes):
    ours = statistics.median(seconds["clipsift"])
    print(f"\n{title}\n\n| | median s | least s | times clipsift | result |\n|---|---|---|---|---|")
    for name, all_seconds in seconds.items():
        median = statistics.median(all_seconds)
        print(f"| {name} | {median:.3f} | {min(all_seconds):.3f} | {median / ours:.2f} | {notes[name]} |", flush=True)


def compare_kmeans(args, kind, folder, peers):
    n, d, k = args.kmeans_rows, args.dims, args.clusters
    x = make_rows(kind, n, d, 1)
    centroids = x[np.random.default_rng(2).choice(n, k, replace=False)].copy()
    npy, start = folder / "rows.npy", folder / "centroids.npy"
    np.save(npy, x)
    np.save(start, centroids)

    def race(name):
        if name == "clipsift":
            run = folder / "run"
            more = ["--dedup", "semantic", "--centroids", str(start), "--iterations", str(args.iterations), "--tol", "0"]
            return clipsift(args, npy, run, more)["seconds"]["kmeans"], read_centroids(run / "clusters/centroids.safetensors")
        if name == "faiss-cpu":
            faiss = peers["faiss"]
            km = faiss.Kmeans(d, k, niter=args.iterations, spherical=False, max_points_per_centroid=n)
            return timed(lambda: km.train(x, init_centroids=centroids))[0], km.centroids
        if name == "scikit-learn":
            from sklearn.cluster import KMeans

            km = KMeans(k, init=centroids, n_init=1, max_iter=args.iterations, tol=0, algorithm="lloyd")
            return timed(lambda: km.fit(x))[0], km.cluster_centers_
        if name == "numpy":
            return timed(lambda: numpy_kmeans(x, centroids, args.iterations))
        torch = peers["torch"]
        rows = torch.from_numpy(x)
        low = rows.to(torch.bfloat16) if name == "torch bf16" else rows
        return timed(lambda: torch_kmeans(torch, rows, low, torch.from_numpy(centroids), args.iterations))

    names = ["clipsift", "faiss-cpu", "torch f32", "torch bf16", "scikit-learn", "numpy"]
    seconds, results = contest(args.pick(names), args.repeats, race)
    notes = {name: f"inertia {inertia(x, c):.3f}" for name, c in results.items()}
    table(f"k-means, {n:,} x {d} {kind}, k {k:,}, {args.iterations} iterations", seconds, notes)


def compare_pairs(args, kind, folder, peers):
    n, d = args.pair_rows, args.dims
    x = make_rows(kind, n, d, 3)
    npy = folder / "rows.npy"
    np.save(npy, x)
    keys, cosines = brute_pairs(x, args.threshold)

    def race(name):
        if name == "clipsift":
            run = folder / "run"
            taken = clipsift(args, npy, run, ["--dedup", "exact"])["seconds"]["pairs"]
            return taken, read_pairs(run, n)
        if name == "faiss-cpu":
            index = peers["faiss"].IndexFlatIP(d)
            index.add(x)
            taken, (a, b) = timed(lambda: faiss_pairs(index, x, args.threshold))
            return taken, (a * n + b)[a < b]
        if name == "numpy":
            return timed(lambda: numpy_pairs(x, args.threshold))
        torch = peers["torch"]
        rows = torch.from_numpy(x)
        rows = rows.to(torch.bfloat16) if name.startswith("torch bf16") else rows
        return timed(lambda: torch_pairs(rows, args.threshold, name.endswith("square")))

    names = ["clipsift", "faiss-cpu", "torch f32", "torch bf16", "torch bf16 square", "numpy"]
    seconds, results = contest(args.pick(names), args.repeats, race)
    notes = {}
    for name, got in results.items():
        missing, extra = faults(keys, cosines, args.threshold, got)
        notes[name] = f"{len(got):,} pairs, {missing} missing, {extra} too many"
    table(f"all pairs, {n:,} x {d} {kind}, cosine >= {args.threshold}", seconds, notes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/clipsift")
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--pair-rows", type=int, default=30_000)
    parser.add_argument("--threshold", type=float, default=0.92)
    parser.add_argument("--kmeans-rows", type=int, default=100_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=["clustered", "uniform"], choices=["clustered", "uniform"])
    parser.add_argument("--works", nargs="+", default=["pairs", "kmeans"], choices=["pairs", "kmeans"])
    parser.add_argument("--only", nargs="+", help="these peers, for instance: faiss-cpu 'torch bf16'")
    args = parser.parse_args()
    args.pick = lambda names: [n for n in names if n == "clipsift" or not args.only or n in args.only]

    import faiss
    import torch
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    peers = {"faiss": faiss, "torch": torch}
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("faiss-cpu", "torch", "scikit-learn", "numpy"))
    ours = subprocess.run([args.binary, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")][:1]
    print(f"{(model or [platform.processor()])[0]}, {args.threads} threads; {ours}; {versions}; Python {platform.python_version()}")
    works = {"pairs": compare_pairs, "kmeans": compare_kmeans}
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(args.threads):
        for work in args.works:
            for kind in args.kinds:
                works[work](args, kind, pathlib.Path(folder), peers)


if __name__ == "__main__":
    main()

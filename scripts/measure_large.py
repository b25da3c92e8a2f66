#!/usr/bin/env python3
"""A large set through `clipsift dedup`: wall time, CPU time, peak memory, and what it finds of the planted duplicates.

    python scripts/measure_large.py --rows 1000000 --dims 512 --work DIR -- --dedup semantic --clusters 1000 --fit-fraction 0.1 \\
        --iterations 20 --eps 0.03 --audit 2000
    python scripts/measure_large.py --rows 200000 --work DIR -- --dedup exact --eps 0.03

Needs numpy and pyarrow. Makes the set with scripts/make_embeddings.py where DIR has none of that size, removes an earlier run, and
runs `target/release/clipsift dedup DIR/SET/emb_*.npy --out DIR/SET-run ARGS`. Memory is that of the process, asked of Linux ten
times a second: anonymous is what must be there, mapped what the system may drop again. Prints a table in Markdown.

Recall is measured twice. Against the truth: over the planted rows that have a true neighbour (cosine >= 1 - eps in f64 among the rows of
their group), the mean share of these neighbours that is stored as a pair within eps. By the audit, where --audit is among the
arguments: what run.json says of rows drawn at random among all. A planted set has no other neighbours, so both estimate the same
figure.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent


def status(pid):
    """Kilobytes of the process by kind."""
    fields = {}
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                fields[name] = int(value[:-3])
    except (OSError, ValueError):
        pass
    return fields


def run(command):
    """Runs it; gives wall and CPU seconds and the peaks in bytes."""
    print("$", " ".join(map(str, command)), flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    process = subprocess.Popen(command)
    peaks = {"VmRSS": 0, "RssAnon": 0, "VmHWM": 0}
    while process.poll() is None:
        for name, kilobytes in status(process.pid).items():
            if name in peaks:
                peaks[name] = max(peaks[name], kilobytes * 1024)
        time.sleep(0.1)
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        sys.exit(f"ended with {process.returncode}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peaks


def load(run, rows):
    """The wanted rows, which ascend, as the run stores them (unit rows, rounded to f16 again), in f64."""
    found = []
    first = 0
    for file in sorted((run / "embeddings").glob("part-*.parquet")):
        column = pq.read_table(file, columns=["embedding"])["embedding"].combine_chunks()
        last = first + len(column)
        here = rows[(rows >= first) & (rows < last)] - first
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        found.append(values[here].astype(np.float64))
        first = last
    return np.concatenate(found)


def allowed(report, n, d, within):
    """Bytes of anonymous memory by the formula in README.md (mapped pages come on top)."""
    matrix = min(4 * n * d, 512 << 20)
    total = 300 * n + 80 * within + matrix + (3 << 28)
    fit = (report.get("clusters") or {}).get("request")
    if fit:
        total += 16 * fit["clusters"] * d
        total += 4 * fit["fit_fraction"] * n * d if fit["fit_fraction"] < 1 else 0
    return total


def row_numbers(ids, shards):
    """Ids such as emb_0003#17 -> row numbers; plain numbers stay."""
    if not ids or not isinstance(ids[0], str):
        return np.array(ids, dtype=np.int64)
    starts = {}
    first = 0
    for file, rows in shards:
        starts[file] = first
        first += rows
    split = (i.rpartition("#") for i in ids)
    return np.array([starts[stem] + int(row) for stem, _, row in split], dtype=np.int64)


def true_pairs(folder, run, eps):
    """Pairs of rows of one planted group within eps, and whether the group lies on a border."""
    truth = pq.read_table(folder / "truth.parquet").to_pydict()
    rows, groups, border = (np.array(truth[name]) for name in ("row", "group", "border"))
    values = load(run, rows)
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    pairs, on_border, edge = [], [], 0
    for members in np.split(order, cuts):
        cosines = values[members] @ values[members].T
        for i in range(len(members)):
            for j in range(i + 1, len(members)):
                # Too close to call in f32.
                edge += abs(cosines[i, j] - (1 - eps)) < 1e-6
                if cosines[i, j] >= 1 - eps:
                    a, b = rows[members[i]], rows[members[j]]
                    pairs.append((min(a, b), max(a, b)))
                    on_border.append(border[members[i]])
    return pairs, on_border, int(edge)


def found_pairs(run, eps, shards):
    """Stored pairs within eps, with those that follow from identical rows."""
    pairs, same = set(), {}
    for file in sorted((run / "duplicates").glob("pairs-*.parquet")):
        table = pq.read_table(file)
        a, b = (row_numbers(table[name].to_pylist(), shards).tolist() for name in ("a", "b"))
        for x, y, cosine, identical in zip(a, b, table["cosine"].to_pylist(), table["identical"].to_pylist()):
            if identical:
                same.setdefault(x, [x]).append(y)
            elif cosine >= 1 - eps:
                pairs.add((x, y))
    whole = set()
    for x, y in pairs:
        for i in same.get(x, [x]):
            for j in same.get(y, [y]):
                whole.add((min(i, j), max(i, j)))
    for rows in same.values():
        whole.update((min(i, j), max(i, j)) for n, i in enumerate(rows) for j in rows[n + 1 :])
    return whole


def recall_by_rows(pairs, found, keep):
    """The mean over rows of the share of its true neighbours that was found, with its 95 % interval."""
    share = {}
    for pair, kept in zip(pairs, keep):
        if kept:
            for row in pair:
                hit, of = share.get(row, (0, 0))
                share[row] = (hit + (pair in found), of + 1)
    values = np.array([hit / of for hit, of in share.values()])
    if len(values) == 0:
        return "none"
    return f"{values.mean():.4f} over {len(values):,} rows"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="where the set and the run go")
    parser.add_argument("--clipsift", default=HERE.parent / "target/release/clipsift")
    parser.add_argument("dedup", nargs="*", help="arguments of clipsift dedup, after --")
    args = parser.parse_args()
    folder = args.work / f"{args.rows}x{args.dims}-{args.seed}"
    if not (folder / "truth.parquet").exists() or not sorted(folder.glob("emb_*.npy")):
        make = [HERE / "make_embeddings.py", folder, "--rows", args.rows, "--dims", args.dims, "--seed", args.seed]
        subprocess.run([sys.executable, *map(str, make)], check=True)
    out = pathlib.Path(f"{folder}-run")
    shutil.rmtree(out, ignore_errors=True)
    files = sorted(folder.glob("emb_*.npy"))
    load_before = os.getloadavg()[0]
    wall, cpu, peaks = run([str(args.clipsift), "dedup", *map(str, files), "--out", str(out), *args.dedup])

    report = json.loads((out / "run.json").read_text())
    eps = report["decide"]["eps"]
    shards = [(file.stem, len(np.load(file, mmap_mode="r"))) for file in files]
    pairs, border, edge = true_pairs(folder, out, eps)
    found = found_pairs(out, eps, shards)
    inside = [not b for b in border]
    gib = lambda size: f"{size / 2**30:.2f} GiB"
    lines = [
        ("command", "`clipsift dedup emb_*.npy --out RUN " + " ".join(args.dedup) + "`"),
        ("rows x dims", f"{args.rows:,} x {args.dims}, f16, {len(files)} files"),
        ("cores; load when it began", f"{os.cpu_count()}; {load_before:.1f}"),
        ("wall, CPU", f"{wall:.1f} s, {cpu:.1f} s"),
        ("stages", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items())),
        ("peak memory", f"{gib(peaks['VmHWM'])}, of which anonymous at most {gib(peaks['RssAnon'])}"),
        ("anonymous by the formula", gib(allowed(report, args.rows, args.dims, len(found)))),
        ("true pairs, stored pairs within eps", f"{len(pairs):,} ({edge} within 1e-6 of eps), {len(found):,}"),
        ("stored and not planted", f"{len(found - set(pairs)):,}"),
        ("recall by rows against the truth", recall_by_rows(pairs, found, [True] * len(pairs))),
        ("of groups inside clusters", recall_by_rows(pairs, found, inside)),
        ("of groups on borders", recall_by_rows(pairs, found, border)),
        ("duplicates, kept", f"{report['counts']['duplicate']:,}, {report['counts']['kept']:,}"),
    ]
    clusters = report.get("clusters")
    if clusters:
        n, shift = len(clusters["shifts"]), clusters["shifts"][-1] if clusters["shifts"] else 0
        text = f"{clusters['request']['clusters']} clusters on {clusters['fitted_rows']:,} rows, {n} iterations, last shift {shift:.3g}"
        lines.append(("k-means", f"{text}, inertia {clusters['inertia']:.1f}"))
    audit = report.get("audit")
    if audit and audit["recall"] is not None:
        low, high = audit["interval"]
        text = f"{audit['recall']:.4f} [{low:.4f}, {high:.4f}] over {audit['with_neighbours']:,} of {audit['audited']:,} rows drawn"
        lines.append(("recall by the audit, 95 %", text))
    print("\n| what | figure |\n|---|---|")
    for name, value in lines:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()

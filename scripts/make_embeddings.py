#!/usr/bin/env python3
"""Embeddings with planted duplicates, for measurements on large sets.

    python scripts/make_embeddings.py OUT --rows 1000000 --dims 512 --seed 0

Needs numpy and pyarrow. Writes to OUT
  emb_0000.npy, ...   f16 [n, d] unit rows, --shard rows each (--format parquet: emb_0000.parquet with id and embedding)
  truth.parquet       row (int64), group (int64), border (bool), noise (float32): the rows of every planted group
  centres.npy         f32 [centres, d]: what the rows lie around

The set looks as embeddings of images do: rows spread around centres that themselves crowd around some directions, all
pairwise cosines of different rows well below the duplicates'. On top of that groups of 2 to 5 rows are planted, a base row and copies
of it with a little noise, so that the cosine to the base is 1 - noise^2 / 2 or so: from 1 (equal rows) down to 1 - 0.02.
A share of the groups (--border) is planted across the border of two clusters: the base row lies on the bisector of
two neighbouring centres, and the copies are moved off it to either side, within the noise. k-means near these centres parts
them, and only they are lost to a search inside clusters. Groups that the rows of truth.parquet name are all there are.

Everything follows from the seed: shards are drawn from streams of their own, so memory is one shard, and the same seed gives the
same bytes.
"""

import argparse
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_centres(rng, count, d):
    """Centres around a tenth as many directions: neighbours at cosines of about 0.6, strangers near 0."""
    themes = unit(rng.standard_normal((max(1, count // 10), d)))
    of = themes[rng.integers(0, len(themes), count)]
    return unit(of + 0.8 * rng.standard_normal((count, d)) / np.sqrt(d))


def neighbours(centres):
    """For each centre the nearest other one."""
    nearest = np.empty(len(centres), dtype=np.int64)
    for first in range(0, len(centres), 1024):
        block = centres[first : first + 1024]
        cosines = block @ centres.T
        cosines[np.arange(len(block)), first + np.arange(len(block))] = -2
        nearest[first : first + 1024] = cosines.argmax(axis=1)
    return nearest


def draw_rows(rng, centres, which, spread):
    noise = rng.standard_normal((len(which), centres.shape[1]))
    return unit(centres[which] + spread * noise / np.sqrt(centres.shape[1]))


def draw_groups(rng, centres, nearest, args, count):
    """Rows, group sizes, whether each group lies on a border, and each row's distance from its base."""
    sizes = rng.choice([2, 3, 4, 5], size=count, p=[0.6, 0.2, 0.1, 0.1])
    border = rng.random(count) < args.border
    which = rng.integers(0, len(centres), count)
    base = draw_rows(rng, centres, which, args.spread)
    # Onto the bisector of the two centres, which is the border of their clusters.
    normal = unit(centres[which] - centres[nearest[which]])
    on_it = unit(base - (base * normal).sum(axis=1, keepdims=True) * normal)
    base[border] = on_it[border]
    # A third of the copies are equal to the bit; the others as far off as a squared noise drawn from 0 to 0.04.
    place = np.repeat(np.arange(count), sizes)
    first = np.r_[0, np.cumsum(sizes)[:-1]]
    far = np.sqrt(rng.uniform(1e-4, 0.04, len(place)))
    far[(rng.random(len(place)) < 1 / 3) & ~border[place]] = 0
    step = unit(rng.standard_normal((len(place), centres.shape[1])))
    # Across a border: the first row to one side of it, the second to the other, then in turn.
    side = np.where((np.arange(len(place)) - first[place]) % 2 == 0, 1.0, -1.0)[:, None]
    across = unit(0.6 * normal[place] * side + 0.8 * step)
    step = np.where(border[place][:, None], across, step)
    far[first[~border]] = 0
    rows = unit(base[place] + far[:, None] * step)
    # Equal copies must stay equal to the bit.
    rows[far == 0] = base[place][far == 0]
    return rows, sizes, border, far


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--centres", type=int, help="default: one for each thousand rows")
    parser.add_argument("--spread", type=float, default=0.7, help="length of a row's noise beside its centre's 1")
    parser.add_argument("--planted", type=float, default=0.05, help="share of the rows that lie in planted groups")
    parser.add_argument("--border", type=float, default=0.2, help="share of the groups that lie on a border of clusters")
    parser.add_argument("--shard", type=int, default=100_000, help="rows of a file")
    parser.add_argument("--format", choices=["npy", "parquet"], default="npy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    n, d = args.rows, args.dims
    rng = np.random.default_rng([args.seed, 0])
    centres = make_centres(rng, args.centres or max(2, n // 1000), d)
    nearest = neighbours(centres)
    np.save(args.out / "centres.npy", centres.astype(np.float32))

    # Groups are of 2.7 rows on average; their rows take random places among all rows.
    planted, sizes, border, far = draw_groups(rng, centres, nearest, args, round(n * args.planted / 2.7))
    group = np.repeat(np.arange(len(sizes)), sizes)
    if len(group) > n:
        parser.error(f"{len(group)} planted rows of {n}: plant less")
    place = rng.permutation(n)[: len(group)]
    truth = pa.table(
        {
            "row": pa.array(place, pa.int64()),
            "group": pa.array(group, pa.int64()),
            "border": pa.array(border[group], pa.bool_()),
            "noise": pa.array(far, pa.float32()),
        }
    )
    pq.write_table(truth.sort_by("row"), args.out / "truth.parquet")
    order = np.argsort(place)
    place, planted = place[order], planted[order].astype(np.float16)

    for index, first in enumerate(range(0, n, args.shard)):
        last = min(n, first + args.shard)
        stream = np.random.default_rng([args.seed, 1, index])
        rows = draw_rows(stream, centres, stream.integers(0, len(centres), last - first), args.spread)
        rows = rows.astype(np.float16)
        here = slice(*np.searchsorted(place, [first, last]))
        rows[place[here] - first] = planted[here]
        name = args.out / f"emb_{index:04}.{args.format}"
        if args.format == "npy":
            np.save(name, rows)
        else:
            values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), d)
            pq.write_table(pa.table({"id": pa.array(np.arange(first, last)), "embedding": values}), name)
        print(f"{name}: rows {first} to {last - 1}", flush=True)
    print(f"{len(sizes)} groups of {len(group)} rows, {int(border.sum())} of them on borders")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""clipsift's embedded tower beside pHash, dHash and PDQ: how many edited copies each finds, at one precision for all.

    python scripts/compare_neardup.py --binary target/release/clipsift --work work --jobs 2 > table.md
    python scripts/compare_neardup.py --binary target/release/clipsift --speed

Pictures: neardup_drawing.py's, another program than the one that the tower was trained on; and, as a check, the photographs
that come with scikit-learn and scikit-image with their tiles (read from the installed packages, never stored here). Edits:
neardup_edits.py. Every copy is written to a file and read back. clipsift: the cosine of the embeddings of `clipsift embed`. The
hashes: the packages' defaults (imagehash.phash, imagehash.dhash, pdqhash.compute), the share of equal bits.

Precision: each copy, of every edit, is compared with every original. A pair at or above the threshold is a find, right if the
original is the copy's own. One threshold for each method, for all edits together: the lowest at which 99 % of the finds
are right. Recall: the share of the copies of an edit whose own original is a find. The columns `with mirror` compare the mirrored
copy as well, and take the better of the two: twice the work, and twice the chances of a wrong find. The embedded tower is
symmetric, and needs none.

Requirements: numpy, scipy, pillow, pyarrow, and for the peers imagehash==4.3.2, pdqhash==0.2.8; for the photographs
scikit-learn==1.9.1, scikit-image==0.26.0.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import imagehash
import numpy as np
import pdqhash
import pyarrow.parquet
from PIL import Image, ImageOps

import neardup_drawing
from neardup_edits import EDITS

PRECISION = 0.99
EPSILONS = (0.04, 0.08, 0.12, 0.16, 0.20, 0.24, 0.28, 0.32, 0.36, 0.40)
HASHES = {
    "pHash": lambda image: imagehash.phash(image).hash,
    "dHash": lambda image: imagehash.dhash(image).hash,
    "PDQ": lambda image: pdqhash.compute(np.asarray(image))[0],
}
PHOTOGRAPHS = (
    "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png "
    "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg text.png"
).split()


# ---------------------------------------------------------------- pictures


def photographs():
    """The photographs of installed packages, and every third of their disjoint tiles, near-blank ones left out."""
    files = []
    if spec := find_spec("sklearn"):
        files += [Path(spec.submodule_search_locations[0]) / "datasets/images" / name for name in ("china.jpg", "flower.jpg")]
    if spec := find_spec("skimage"):
        files += [Path(spec.submodule_search_locations[0]) / "data" / name for name in PHOTOGRAPHS]
    whole = [Image.open(path).convert("RGB") for path in files if path.exists()]
    tiles = []
    for image in whole:
        rows, columns = (min(5, max(1, n // 140)) for n in (image.height, image.width))
        h, w = image.height // rows, image.width // columns
        tiles += [image.crop((x * w, y * h, x * w + w, y * h + h)) for y in range(rows) for x in range(columns) if rows * columns > 1]
    return whole + [tile for tile in tiles[::3] if np.asarray(tile.resize((96, 96)).convert("L"), float).std() >= 8]


def write_drawing(job):
    path, seed, edge, scene = job
    neardup_drawing.draw(seed, edge, scene and getattr(neardup_drawing, scene)).save(path, compress_level=1)


def hashed(path):
    image = Image.open(path).convert("RGB")
    mirrored = ImageOps.mirror(image)
    return {name: np.stack([np.ravel(f(image)), np.ravel(f(mirrored))]).astype(np.int8) for name, f in HASHES.items()}


def write_copy(job):
    """Writes one edited copy, and hashes it."""
    source, folder, number, seed = job
    edited, suffix, options = EDITS[number][2](Image.open(source).convert("RGB"), np.random.default_rng((seed, number)))
    path = folder / (source.stem + suffix)
    edited.save(path, **options)
    return hashed(path)


# ---------------------------------------------------------------- methods


class Features:
    """What each method keeps of a folder of pictures: unit rows, for a hash its bits as +-1 and those of the mirrored picture."""

    def __init__(self, args, folder):
        self.rows = {}
        for name, spec in args.models.items():
            with tempfile.TemporaryDirectory() as out:
                command = [args.binary, "embed", folder, "--out", out + "/run", "--model", spec, "--quiet", "--threads", args.jobs]
                subprocess.run([str(x) for x in command], check=True, stdout=subprocess.DEVNULL)
                table = pyarrow.parquet.read_table(out + "/run/embeddings").sort_by("id")
            self.rows[name] = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
        for name, bits in np.load(hashes_of(folder)).items():
            both = bits.astype(np.float32) * 2 - 1
            self.rows[name] = both / np.sqrt(both.shape[-1])
        if len({len(rows) for rows in self.rows.values()}) != 1:
            sys.exit(f"not every picture of {folder} was embedded: " + ", ".join(f"{k} {len(v)}" for k, v in self.rows.items()))


def hashes_of(folder):
    return folder.with_name(folder.name + ".npz")


def keep_hashes(folder, bits):
    """Beside the folder, last of all: where this file is, the folder is whole."""
    np.savez(hashes_of(folder), **{name: np.stack([b[name] for b in bits]) for name in HASHES})


def similarity(copies, originals, method):
    """[copies, originals]: cosine, or for a hash 2 x (share of equal bits) - 1."""
    name, _, mirror = method.partition(" with mirror")
    a, b = copies.rows[name], originals.rows[name]
    if a.ndim == 2:
        return a @ b.T
    s = a[:, 0] @ b[:, 0].T
    return np.maximum(s, a[:, 1] @ b[:, 0].T) if method.endswith("with mirror") else s


def threshold(right, wrong, precision=PRECISION):
    """The lowest score at which `precision` of the finds are right. Both sorted ascending."""
    line = np.unique(right)
    true = len(right) - np.searchsorted(right, line - 1e-6)
    false = len(wrong) - np.searchsorted(wrong, line - 1e-6)
    good = true / (true + false) >= precision
    return line[good][0] - 1e-6 if good.any() else np.inf


# ---------------------------------------------------------------- the comparison


def fresh(folder):
    """Whether the folder is still to be filled; a half-filled one is emptied."""
    if hashes_of(folder).exists():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return True


def drawings(args, name, count, scene, workers):
    folder = args.work / name
    if fresh(folder):
        jobs = [(folder / f"{i:05}.png", (args.seed, sum(map(ord, name)), i), args.edge, scene) for i in range(count)]
        workers.map(write_drawing, jobs, chunksize=4)
        keep_hashes(folder, workers.map(hashed, sorted(folder.iterdir()), chunksize=4))
    return folder


def edited(args, originals, workers):
    """A folder of copies for each edit."""
    sources = sorted(originals.iterdir())
    folders = [args.work / f"{originals.name}-{number:02}" for number in range(len(EDITS))]
    for number, folder in enumerate(folders):
        if fresh(folder):
            jobs = [(source, folder, number, (args.seed, 77, i)) for i, source in enumerate(sources)]
            keep_hashes(folder, workers.map(write_copy, jobs, chunksize=4))
            print(": ".join(EDITS[number][:2]), file=sys.stderr, flush=True)
    return folders


def prepare(args):
    """{set: folder} of different pictures, and {set: folders of copies} of those that are edited. What is there is taken as it is."""
    request = {"images": args.images, "others": args.others, "edge": args.edge, "seed": args.seed, "photographs": args.photographs,
               "edits": [edit[:2] for edit in EDITS]}  # fmt: skip
    record = args.work / "request.json"
    if record.exists() and json.loads(record.read_text()) != json.loads(json.dumps(request)):
        sys.exit(f"{args.work} holds the pictures of another request; give an empty --work")
    args.work.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(request))
    with multiprocessing.Pool(args.jobs) as workers:
        sets = {"drawings": drawings(args, "drawings", args.images, None, workers)}
        copies = {"drawings": edited(args, sets["drawings"], workers)}
        folder = args.work / "photographs"
        if args.photographs:
            if fresh(folder):
                for i, image in enumerate(photographs()):
                    image.save(folder / f"{i:05}.png", compress_level=1)
                keep_hashes(folder, workers.map(hashed, sorted(folder.iterdir()), chunksize=4))
            sets["photographs and tiles"], copies["photographs and tiles"] = folder, edited(args, folder, workers)
        sets["other drawings"] = drawings(args, "others", args.others, None, workers)
        sets["pages of text"] = drawings(args, "pages", 300, "document", workers)
        sets["near-blank"] = drawings(args, "blank", 200, "near_blank", workers)
    return sets, copies


def measure(originals, copies, methods):
    """{method: (threshold, recalls, right, wrong, scores of the copies of each edit)}"""
    results = {}
    for method in methods:
        own, other = [], []
        for edit in copies:
            s = similarity(edit, originals, method)
            own.append(np.diag(s).copy())
            other.append(s[~np.eye(len(s), dtype=bool)])
        right, wrong = np.sort(np.concatenate(own)), np.sort(np.concatenate(other))
        line = threshold(right, wrong)
        results[method] = (line, np.array([(x >= line).mean() for x in own]), right, wrong, own)
    return results


def best_in_bold(recalls):
    """A row's recalls in percent, the best of them in bold."""
    return " | ".join(f"**{100 * x:.1f}**" if x == max(recalls) else f"{100 * x:.1f}" for x in recalls)


def print_recalls(results, title):
    methods = list(results)
    print(f"\n{title}\n\n| edit | " + " | ".join(methods) + " |\n|---" + "|--:" * len(methods) + "|")
    for number, (kind, name, _) in enumerate(EDITS):
        print(f"| {kind}: {name} | {best_in_bold([results[m][1][number] for m in methods])} |")
    print("| all edits | " + " | ".join(f"{100 * results[m][1].mean():.1f}" for m in methods) + " |")
    print("| threshold | " + " | ".join(f"{results[m][0]:.3f}" for m in methods) + " |")
    print("| wrong finds | " + " | ".join(f"{int((results[m][3] >= results[m][0]).sum()):,}" for m in methods) + " |")


def print_kinds(results, title):
    """The mean over the edits of each kind: what is wanted is that no hash finds more of any kind."""
    methods = list(results)
    print(f"\n{title}\n\n| kind of edit | " + " | ".join(methods) + " |\n|---" + "|--:" * len(methods) + "|")
    for kind in dict.fromkeys(edit[0] for edit in EDITS):
        means = [np.mean([r for r, edit in zip(results[m][1], EDITS) if edit[0] == kind]) for m in methods]
        print(f"| {kind} | {best_in_bold(means)} |")


def print_recalls_at(args, results, title):
    """What each clipsift model finds of each edit at an eps, whatever the precision there."""
    for model in args.models:
        own = results[model][4]
        print(f"\n{model}, {title}: recall in % at eps\n\n| edit | " + " | ".join(f"{e:.2f}" for e in EPSILONS[:8]) + " |\n|---" + "|--:" * 8 + "|")
        for (kind, name, _), scores in zip(EDITS, own):
            print(f"| {kind}: {name} | " + " | ".join(f"{100 * (scores >= 1 - e).mean():.1f}" for e in EPSILONS[:8]) + " |")


def print_false(sets, results, title):
    """Pairs of different pictures that pass each method's threshold."""
    print(f"\n{title}\n\n| set | pictures | pairs | " + " | ".join(results) + " |\n|---|--:|--:" + "|--:" * len(results) + "|")
    for name, features in sets.items():
        n = len(next(iter(features.rows.values())))
        upper = np.triu_indices(n, 1)
        cells = [f"{int((similarity(features, features, m)[upper] >= results[m][0]).sum()):,}" for m in results]
        print(f"| {name} | {n:,} | {len(upper[0]):,} | " + " | ".join(cells) + " |")


def print_eps(args, results, features):
    """What each eps costs and gives, for each clipsift model."""
    for model in args.models:
        inner = {name: (f.rows[model] @ f.rows[model].T)[np.triu_indices(len(f.rows[model]), 1)] for name, f in features.items()}
        print(f"\n{model}: eps\n\n| eps | " + " | ".join(f"{name}: recall, precision in %" for name in results)
              + " | " + " | ".join(f"pairs: {name}" for name in inner) + " |\n|--:" + "|--:" * (len(results) + len(inner)) + "|")  # fmt: skip
        for eps in EPSILONS:
            cells = []
            for method in results.values():
                _, _, right, wrong, _ = method[model]
                true, false = (right >= 1 - eps).sum(), (wrong >= 1 - eps).sum()
                cells.append(f"{100 * true / len(right):.1f}, {100 * true / max(1, true + false):.3f}")
            cells += [f"{int((x >= 1 - eps).sum()):,}" for x in inner.values()]
            print(f"| {eps:.2f} | " + " | ".join(cells) + " |")
        print("| pairs in all | " + "| " * len(results) + "| ".join(f"{len(x):,} " for x in inner.values()) + "|")
        print("| largest cosine | " + "| " * len(results) + "| ".join(f"{x.max():.3f} " for x in inner.values()) + "|")


def compare(args):
    methods = [*args.models, *HASHES, *(f"{name} with mirror" for name in HASHES)]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("imagehash", "pdqhash", "pillow", "numpy"))
    sets, copies = prepare(args)
    if args.prepare:
        return
    print(f"{versions}; {args.images} drawings of {args.edge} pixels, seed {args.seed}, {len(EDITS)} edits")
    features, results = {name: Features(args, folder) for name, folder in sets.items()}, {}
    for name, folders in copies.items():
        results[name] = measure(features[name], [Features(args, folder) for folder in folders], methods)
        count = len(features[name].rows["PDQ"])
        print_kinds(results[name], f"{count} {name}: recall in % at precision {PRECISION}, by kind")
        print_recalls(results[name], f"{count} {name}: recall in % at precision {PRECISION}")
        print_recalls_at(args, results[name], name)
    print_false(features, results["drawings"], "Different pictures that pass the thresholds of the drawings")
    print_eps(args, results, features)


def speed(args):
    """Images a second on one core, pictures decoded: the hashes from an RGB picture, clipsift's two stages from its own bench."""
    rng = range(24)
    pictures = [neardup_drawing.draw((args.seed, 9, i), args.edge) for i in rng]
    print(f"\nImages a second on one core, from decoded pictures of {args.edge} pixels\n\n| | images/s |\n|---|--:|")
    for name, f in HASHES.items():
        rates = []
        for _ in range(5):
            start = time.perf_counter()
            for image in pictures:
                f(image)
            rates.append(len(pictures) / (time.perf_counter() - start))
        print(f"| {name} | {np.median(rates):,.0f} |")
    for name, spec in args.models.items():
        command = [str(args.binary), "bench", "--device", "cpu", "--threads", "1", "--json", "--stages", "resize,tower"]
        command += ["--batch-size", "1,16,64", "--model", spec]
        stages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["stages"]
        for stage in stages:
            if stage["unit"] == "images/s":
                print(f"| {name}: {stage['name']} {json.dumps(stage['params'])} | {stage['value']:,.0f} |")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("target/release/clipsift"))
    parser.add_argument("--model", action="append", metavar="NAME=SPEC", help="a tower to measure: a name and a --model of clipsift")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--others", type=int, default=1000, help="further drawings, compared with each other")
    parser.add_argument("--edge", type=int, default=320, help="shortest edge of a drawing")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--jobs", type=int, default=1, help="processes that edit and hash")
    parser.add_argument("--work", type=Path, help="folder for the pictures (some 5 GB), kept for a next call")
    parser.add_argument("--prepare", action="store_true", help="only fill --work")
    parser.add_argument("--no-photographs", dest="photographs", action="store_false")
    parser.add_argument("--speed", action="store_true", help="measure the rates instead")
    args = parser.parse_args()
    if not args.speed and not args.work:
        parser.error("--work: say where the pictures may lie")
    args.models = dict(pair.split("=", 1) for pair in args.model or ["clipsift=builtin"])
    return args


if __name__ == "__main__":
    args = arguments()
    if args.speed:
        speed(args)
    else:
        compare(args)

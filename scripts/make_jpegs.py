#!/usr/bin/env python3
"""Makes a folder of JPEGs that cost a decoder what photographs cost it, all different, quickly.

    python scripts/make_jpegs.py --count 20000 --out /tmp/jpegs

A few hundred scenes are drawn once (fractal clouds, gradients, discs, bars, grain). Each file is a mixture of two of them: a
crop of one shows through the shape of a third's light parts over a crop of the other. Sizes lie around 500 x 375, one in four upright; 4:2:0 chroma, quality 85 to 92: about 48 KB
each. File i depends on the seed and i alone, not on the number of files or processes, so a larger set begins with the
smaller one. With --subfolders the files lie in folders of 1,000.

--edge N makes the longer edge N pixels instead of 500 (photographs of a camera: 4000 x 3000 is 12 megapixels). --progressive
writes several scans. --links M adds hard links to the files until there are M names, for runs over more files than the disk holds.

Needs numpy and Pillow.
"""

import argparse
import io
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SCENES = 240
SCENE_EDGE = 720  # a scene is square, so that crops of both orientations fit


def clouds(rng, edge):
    """Fractal noise in 0..1, [edge, edge]."""
    total, weight, cells = np.zeros((edge, edge), np.float32), 1.0, int(rng.integers(2, 5))
    for _ in range(7):
        lattice = Image.fromarray(rng.random((cells + 1, cells + 1), np.float32))
        total += weight * np.asarray(lattice.resize((edge, edge), Image.Resampling.BICUBIC))
        weight, cells = weight * 0.55, cells * 2
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def scene(seed, number):
    """A square picture, and the same size of light and dark to mix by."""
    rng = np.random.Generator(np.random.PCG64([seed, 1, number]))
    heights = clouds(rng, SCENE_EDGE)
    stops = np.linspace(0, 1, 4)
    colours = rng.uniform(0, 255, (4, 3))
    picture = np.stack([np.interp(heights, stops, colours[:, c]) for c in range(3)], axis=-1)
    image = Image.fromarray(picture.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 12))):
        x, y, size = (int(v) for v in rng.integers(0, SCENE_EDGE, 3))
        box = (x, y, x + size // 4 + 4, y + size // 6 + 4)
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))
        draw.ellipse(box, fill=fill) if rng.random() < 0.5 else draw.rectangle(box, fill=fill)
    grain = rng.normal(0, 1, (SCENE_EDGE, SCENE_EDGE, 1)) * rng.uniform(3, 7)
    image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    mask = Image.fromarray(np.uint8(255 * np.clip(6 * (clouds(rng, SCENE_EDGE) - 0.5) + 0.5, 0, 1)))
    return image, mask


def cut(image, rng, width, height):
    """A crop of width x height somewhere in the scene, or from a quarter to the whole of it where that is larger than the scene."""
    edge = max(width, height)
    if edge > SCENE_EDGE:
        share = rng.uniform(0.5, 1)
        w, h = (int(share * SCENE_EDGE * n / edge) for n in (width, height))
        left, top = (int(rng.integers(0, SCENE_EDGE - n + 1)) for n in (w, h))
        return image.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    left, top = (int(rng.integers(0, SCENE_EDGE - n + 1)) for n in (width, height))
    return image.crop((left, top, left + width, top + height))


def picture(scenes, seed, number, edge=500, exact=False):
    """The pixels of file `number`: around `edge` long, or exactly that and lying 4:3."""
    rng = np.random.Generator(np.random.PCG64([seed, 2, number]))
    longer = edge if exact else int(edge * rng.uniform(0.9, 1.1))
    size = longer, int(longer * (0.75 if exact else rng.choice([0.75, 0.75, 0.667, 1.0])))
    width, height = size[::-1] if rng.random() < 0.25 and not exact else size
    (one, _), (other, _), (_, mask) = (scenes[int(i)] for i in rng.integers(0, len(scenes), 3))
    parts = [cut(image, rng, width, height) for image in (one, other)]
    if rng.random() < 0.5:
        parts[0] = parts[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mixed = Image.composite(*parts, cut(mask, rng, width, height))
    if longer <= SCENE_EDGE:
        return mixed
    # A scene that was enlarged has lost its grain, and with it most of what a decoder has to read.
    grain = np.tile(np.int16(rng.normal(0, 5, (512, 512))), (height // 512 + 1, width // 512 + 1))[:height, :width, None]
    return Image.fromarray(np.clip(np.asarray(mixed) + grain, 0, 255).astype(np.uint8))


def jpeg(image, seed, number, progressive=False):
    rng = np.random.Generator(np.random.PCG64([seed, 3, number]))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(rng.integers(85, 93)), subsampling="4:2:0", progressive=progressive)
    return out.getvalue()


def place(out, number, subfolders):
    return out / f"{number // 1000:04d}" / f"{number:07d}.jpg" if subfolders else out / f"{number:07d}.jpg"


_scenes = {}


def write(args, numbers):
    """The files of some numbers; the scenes are drawn once a process."""
    if args.seed not in _scenes:
        _scenes[args.seed] = [scene(args.seed, i) for i in range(args.scenes)]
    total = 0
    for number in numbers:
        path = place(args.out, number, args.subfolders)
        image = picture(_scenes[args.seed], args.seed, number, args.edge, args.exact)
        data = jpeg(image, args.seed, number, args.progressive)
        path.write_bytes(data)
        total += len(data)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--edge", type=int, default=500)
    parser.add_argument("--exact", action="store_true", help="every file EDGE x 3/4 EDGE")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes that are drawn; another number makes other files")
    parser.add_argument("--progressive", action="store_true")
    parser.add_argument("--subfolders", action="store_true")
    parser.add_argument("--links", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()

    for number in range(0, max(args.count, args.links), 1000):
        place(args.out, number, args.subfolders).parent.mkdir(parents=True, exist_ok=True)
    blocks = [range(start, min(start + 100, args.count)) for start in range(0, args.count, 100)]
    with ProcessPoolExecutor(max(args.processes, 1)) as pool:
        total = sum(pool.map(partial(write, args), blocks))
    for number in range(args.count, args.links):
        link = place(args.out, number, args.subfolders)
        link.unlink(missing_ok=True)
        os.link(place(args.out, number % args.count, args.subfolders), link)
    print(f"{args.count} files, {total / args.count / 1000:.1f} KB on average, in {args.out}")


if __name__ == "__main__":
    main()

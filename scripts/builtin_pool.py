"""The drawn pool that the embedded tower learns from, on disk as plain arrays that every process maps.

`draw(folder, seed, size)` fills the folder once; `Pool(folder)` maps it. Images are squashed to EDGE x EDGE and carry their
aspect, so that a batch is one array and a view of one image is one affine map.
"""

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
from PIL import Image

from builtin_drawing import draw_family, draw_overlay, draw_screen

EDGE = 192  # pool images are EDGE x EDGE
LAYER_EDGE = 128  # overlays and screens are LAYER_EDGE x LAYER_EDGE


def _family(seed):
    members = draw_family(seed)
    aspect = members[0].shape[1] / members[0].shape[0]
    squashed = [np.asarray(Image.fromarray(x).resize((EDGE, EDGE), Image.Resampling.BICUBIC)) for x in members]
    return aspect, np.stack(squashed).transpose(0, 3, 1, 2)


def _luma(rgb):
    return np.asarray(Image.fromarray(rgb).convert("L"))


def _overlay(seed):
    layer = draw_overlay(seed, LAYER_EDGE)
    return np.stack([_luma(layer[..., :3].copy()), layer[..., 3]])


def _screen(seed):
    return _luma(draw_screen(seed, LAYER_EDGE))


def draw(folder, seed, size, processes):
    """Draws the pool: images.npy uint8 [size, 3, EDGE, EDGE], families.npy, aspects.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (size, 3, EDGE, EDGE))
    families, aspects, done = np.zeros(size, np.int64), np.zeros(size, np.float32), 0
    with multiprocessing.Pool(processes) as workers:
        seeds = ((seed, 1, n) for n in range(size))
        for family, (aspect, members) in enumerate(workers.imap(_family, seeds, chunksize=16)):
            members = members[: size - done]
            images[done : done + len(members)] = members
            families[done : done + len(members)], aspects[done : done + len(members)] = family, aspect
            done += len(members)
            if family % 2000 == 0:
                print(f"drawn {done} of {size}, {time.time() - start:.0f} s", flush=True)
            if done == size:
                workers.terminate()
                break
    images.flush()
    np.save(folder / "families.npy", families)
    np.save(folder / "aspects.npy", aspects)
    (folder / "pool.json").write_text(json.dumps({"seed": seed, "size": size}))
    print(f"pool of {size} in {time.time() - start:.0f} s", flush=True)


def draw_layers(folder, seed, processes, overlays=4500, screens=2000):
    """Draws the layers: overlays.npy uint8 [overlays, 2, LAYER_EDGE, LAYER_EDGE] (luminance, opacity), screens.npy [screens, ...]."""
    with multiprocessing.Pool(processes) as workers:
        layers = workers.map(_overlay, [(seed, 2, n) for n in range(overlays)], chunksize=16)
        np.save(folder / "overlays.npy", np.stack(layers))
        np.save(folder / "screens.npy", np.stack(workers.map(_screen, [(seed, 3, n) for n in range(screens)], chunksize=16)))


class Pool:
    """Mapped arrays of a drawn pool."""

    def __init__(self, folder):
        folder = Path(folder)
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.overlays = np.load(folder / "overlays.npy", mmap_mode="r")
        self.screens = np.load(folder / "screens.npy", mmap_mode="r")
        self.families, self.aspects = np.load(folder / "families.npy"), np.load(folder / "aspects.npy")

#!/usr/bin/env python3
"""Train the embedded tower: a small CLIP-format vision tower that recognises edited copies of an image.

Every training image is drawn: no photograph, weight or data set from elsewhere enters. Three things are made, each kept in --work
and not made twice: a pool of drawings (builtin_pool.py), batches of originals with two edited views of each (builtin_views.py), and the
tower (builtin_tower.py). With --start, an earlier tower first says which drawings it takes for alike; batches drawn after that hold
them together.

A step asks that a view finds the other view of its original among all others of the batch (InfoNCE), and again with one sum of
negatives for all rows, since one threshold is to serve all images, while the nearest different views are pushed apart (the
Kozachenko-Leonenko entropy estimate, as in SSCD, Pizzi et al. 2022). It asks the same of half of the first views and third ones, in
which nothing moved but tones, overlays and stickers are others; and of their last --apart dims alone, which need not bear crops and
can tell more images apart by where things are. A batch is seen several times, each time under other
stickers and with other third views. Matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW. The weights that are written are an
exponential average of those that were trained.

With --signs, the signs of cosine coefficients that builtin_signs.py puts beside the tower afterwards are a fixed part of each row, so that
the tower learns what they do not tell; and its own part is to have one length for all pictures before the last norm, on which their share hangs.
Three calls make the embedded tower:

    python scripts/train_builtin.py --work work --minutes 50 --out smooth
    python scripts/train_builtin.py --work work --minutes 90 --start smooth --out smooth --signs --still 1 --stickers 0.35 --overall 0.6 --muon-rate 0.015 --rate 1e-3
    python scripts/builtin_signs.py --work work --start smooth --out models/builtin

The learning rate warms up, stays, and falls along a cosine. With --minutes the clock moves along it; with --steps the same request gives
the same run, for one number of threads on one kind of processor. Measuring is compare_neardup.py's work, on drawings of another
program; what is printed here (`probe`) is measured on this one's.

Requirements (pinned): python 3.11, torch==2.15.0 (its compiler wants a C++ compiler), safetensors==0.8.0, numpy==2.4.6,
pillow==13.0.0.
"""

import argparse
import collections
import hashlib
import math
import os
import time
from pathlib import Path

import numpy as np

PROBE_SEED = 9_000_001  # never a training seed: training seeds begin with --seed
VIEW_EDGE = 96  # edge of the views on disk; they are brought to the tower's size when they are read


def squeezed(torch, views, size):
    """Luminance 0..255 [n, e, e] -> uint8 [n, size, size], as the tower's preprocessing has it."""
    x = torch.nn.functional.interpolate(views[:, None].float(), (size, size), mode="bicubic", antialias=True)
    return x[:, 0].add_(0.5).clamp_(0, 255).to(torch.uint8)


def mine(torch, model, folder, k=6):
    """Writes the k nearest pool images of other families for each one, as this tower sees them: the hard negatives."""
    from builtin_views import LUMA, NEIGHBOURS, Pool

    pool, weights, rows = Pool(folder), torch.from_numpy(LUMA), []
    for i in range(0, len(pool.images), 256):
        x = torch.from_numpy(pool.images[i : i + 256].copy()).permute(0, 2, 3, 1).float() @ weights
        with torch.no_grad():
            rows.append(torch.nn.functional.normalize(model(squeezed(torch, x, model.c["image_size"])), dim=-1))
    rows, families, nearest = torch.cat(rows), torch.from_numpy(pool.families), []
    for part, own in zip(rows.split(1000), families.split(1000)):
        cosine = (part @ rows.T).masked_fill(own[:, None] == families, -1)
        nearest.append(cosine.topk(k).indices)
    np.save(folder / "mined.npy", torch.cat(nearest).numpy())
    (folder / "mined.npy").replace(folder / NEIGHBOURS)


def feed(queue, folder, size, share, seed):
    """Puts one batch after the other into the queue, in another order each time round: views uint8 [2n + n / 2, size, size] (first, second,
    and third ones of the first half), thumbs, indices."""
    import torch

    from builtin_layers import recoloured, stickers
    from builtin_views import Pool, batches, in_place

    torch.set_num_threads(1)
    files, overlays, rng = batches(folder / "views"), Pool(folder).overlays, np.random.default_rng((seed, 6))
    while True:
        for i in rng.permutation(len(files)):
            with np.load(files[i]) as batch:
                first, second = torch.from_numpy(batch["views"])
                third = in_place(rng, first[: len(first) // 2], overlays)
                views = torch.cat([first, stickers(rng, recoloured(rng, second, 0.15), share), third])
                queue.put((squeezed(torch, views, size).numpy(), batch["thumbs"], batch["indices"]))


# ---------------------------------------------------------------- training


def contrastive(torch, z, thumbs, indices, memory, overall, args):
    """The loss over 2n unit views: its first part, and all of it.

    InfoNCE with every other view as a negative; the same with one sum for all rows, over the negatives of the batch and of the
    memory, so that one threshold serves all images; and the entropy term. Originals whose thumbnails are all but equal (blank
    crops) are no negatives of each other, nor are views of one pool image in different batches; in one batch, two of its views are
    where their thumbnails have little in common."""
    n, F = len(z) // 2, torch.nn.functional
    partner = torch.arange(2 * n).roll(n)
    cosine = z @ z.T
    same = torch.cdist(thumbs, thumbs) / thumbs.shape[1] ** 0.5 < 4.0
    directions = F.normalize(thumbs, dim=1)
    same |= (indices[:, None] == indices) & (directions @ directions.T > 0.5)
    same = same.repeat(2, 2)
    own = torch.arange(2 * n)[:, None] == partner
    same[own] = False
    positive = cosine[torch.arange(2 * n), partner]
    row = F.cross_entropy((cosine / args.temperature).masked_fill(same, -1e4), partner)
    negatives = cosine.masked_fill(same | own, -1)
    t = args.overall_temperature
    total, count = torch.logsumexp(negatives.flatten() / t, 0), negatives.numel()
    if memory:
        rows, ids = (torch.cat(x) for x in zip(*memory))
        apart = (z[n:] @ rows.T).masked_fill(indices[:, None] == ids, -1)
        total, count = torch.logaddexp(total, torch.logsumexp(apart.flatten() / t, 0)), count + apart.numel()
    over_all = F.softplus(total + math.log(2**18 / count) - positive / t).mean()
    entropy = -0.5 * torch.log((2 - 2 * negatives.amax(1)).clamp_min(0.05)).mean()
    return row, row + overall * over_all + args.entropy * entropy


def losses(torch, rows, sizes, signs, thumbs, indices, memories, overall, args):
    """What is to fall, for the rows of a batch, not normalised, and figures of it: the InfoNCE of first and second views and of first and third
    ones. With signs, unit rows, these are a part of each row, and rows are to be of one length before the last norm, which divides by `sizes`.
    Without, the last dims of the rows alone must tell first and third views apart."""
    n = len(thumbs)
    half, normalize = n // 2, torch.nn.functional.normalize

    def still(z, memory):
        return contrastive(torch, torch.cat([z[:half], z[2 * n :]]), thumbs[:half], indices[:half], memory, overall, args)

    whole = normalize(rows, dim=-1)
    if signs is not None:
        whole = torch.cat([whole * (1 - args.share) ** 0.5, signs * args.share**0.5], 1)
    found = [contrastive(torch, whole[: 2 * n], thumbs, indices, memories[0], overall, args), still(whole, memories[0])]
    loss = found[0][1] + args.still * found[1][1]
    memories[0].append((whole[:n].detach(), indices))
    if signs is not None:
        lengths = sizes * rows.norm(dim=1)
        loss = loss + args.even * (lengths / lengths.mean() - 1).square().mean()
    else:
        apart = normalize(rows[:, -args.apart :], dim=-1)
        found.append(still(apart, memories[1]))
        loss = loss + found[2][1]
        memories[1].append((apart[:n].detach(), indices))
    return loss, " ".join(f"{x[0].item():.3f}" for x in found)


class Muon:
    """Momentum whose steps are made orthogonal by five rounds of a Newton-Schulz iteration (Jordan et al. 2024), for parameters that
    are stacks of matrices [.., outputs, inputs]. Queries, keys and values in one are three."""

    def __init__(self, torch, parameters, decay, momentum=0.95):
        self.torch, self.parameters, self.decay, self.momentum = torch, list(parameters), decay, momentum
        self.means = [torch.zeros_like(p) for p in self.parameters]

    def orthogonal(self, x):
        wide = x.shape[-2] <= x.shape[-1]
        x = x.bfloat16() if wide else x.bfloat16().mT
        x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
        for _ in range(5):
            square = x @ x.mT
            x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
        return (x if wide else x.mT).float()

    def step(self, rate):
        with self.torch.no_grad():
            for p, mean in zip(self.parameters, self.means):
                mean.lerp_(p.grad, 1 - self.momentum)
                outputs, inputs = p.shape[-2:]
                direction = p.grad.lerp(mean, self.momentum)
                if outputs % (3 * inputs) == 0:
                    direction, outputs = direction.view(-1, outputs // 3, inputs), outputs // 3
                step = self.orthogonal(direction).view(p.shape)
                p.mul_(1 - rate * self.decay).add_(step, alpha=-rate * max(1, outputs / inputs) ** 0.5)


def probes(torch, folder, size, n=384):
    """Held-out originals uint8 [n, s, s] and, for each kind of edit and for mixtures, a copy of each [kinds + 3, n, s, s]."""
    import builtin_pool
    from builtin_views import KINDS, LUMA as WEIGHTS, ORIGINAL_EDGE, Views

    rng = np.random.default_rng(PROBE_SEED)
    families = [builtin_pool._family((PROBE_SEED, 1, i)) for i in range(n)]
    images = torch.from_numpy(np.stack([members[0] for _, members in families])).float().permute(0, 2, 3, 1) @ torch.from_numpy(WEIGHTS)
    images = torch.nn.functional.interpolate(images[:, None], (ORIGINAL_EDGE, ORIGINAL_EDGE), mode="bicubic", antialias=True)
    aspects, views = np.array([aspect for aspect, _ in families]), Views(folder, VIEW_EDGE)
    none, full = np.zeros(n, int), np.ones(n)
    sets = [views.chosen(rng, none)]
    for kind in KINDS:
        sets.append(views.chosen(rng, none))
        sets[-1][kind] = full > 0
    sets += [views.chosen(rng, none + count) for count in (2, 3, 4)]
    plain, *copies = (squeezed(torch, views.copies(rng, images, images * 0, aspects, does, full), size) for does in sets)
    return plain, torch.stack(copies), [*KINDS, "2", "3", "4"]


def probe(torch, model, held_out):
    """Shares of the copies found at one threshold, at which 99 % of the finds are right."""
    plain, copies, names = held_out
    with torch.no_grad():
        plain = torch.nn.functional.normalize(model(plain).float(), dim=-1)
        rows = [torch.nn.functional.normalize(model(x).float(), dim=-1) for x in copies]
    cosine = torch.stack([x @ plain.T for x in rows])
    right = torch.diagonal(cosine, dim1=1, dim2=2)
    wrong = cosine.masked_fill(torch.eye(len(plain), dtype=bool), -1).flatten()
    wrong = wrong.topk(min(len(wrong), 4096)).values.sort().values
    lines = right.flatten().sort().values
    true = torch.arange(len(lines), 0, -1)
    false = len(wrong) - torch.searchsorted(wrong, lines)
    line = lines[true / (true + false) >= 0.99][0]
    caught = (right >= line).float().mean(1)
    return f"{caught.mean():.3f} above {line:.3f}: " + ", ".join(f"{name} {100 * x:.1f}" for name, x in zip(names, caught))


def narrow(torch, model, folder):
    """Leaves of a tower's dims twice as many as builtin_signs.py has place for."""
    import builtin_signs

    dims = 2 * builtin_signs.TRAINED
    with torch.no_grad():
        rows = model(builtin_signs.pictures(folder, 2 * builtin_signs.PICTURES, model.c["image_size"]))
        model.projection = torch.nn.Parameter(builtin_signs.narrowed(model.projection, rows, dims))
    model.c["projection_dim"] = dims


def prepare(args):
    """The tower to begin with, after pool and batches are drawn."""
    import torch

    import builtin_pool
    import builtin_tower
    import builtin_views

    if not (args.work / "pool.json").exists():
        builtin_pool.draw(args.work, args.seed, args.pool, args.workers)
        builtin_pool.draw_layers(args.work, args.seed, args.workers)
    torch.manual_seed(args.seed)
    c = builtin_tower.ARCHITECTURE | {k: int(v) for k, v in (pair.split("=") for pair in args.architecture)}
    model = builtin_tower.load(args.start, 0 if args.signs else c["projection_dim"]) if args.start else builtin_tower.Tower(c)
    if args.signs:
        narrow(torch, model, args.work)
    if args.start and not (args.work / builtin_views.NEIGHBOURS).exists():
        mine(torch, model, args.work)
    builtin_views.draw(args.work, args.work / "views", VIEW_EDGE, args.seed, args.batch, args.views, args.workers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {builtin_tower.flops(model.c)['total']:,} FLOP an image", flush=True)
    return model


def rate_at(args, step, progress):
    """Share of the highest learning rate: up over the warm-up, level, and down along a cosine."""
    falling = max(0.0, progress - args.level) / (1 - args.level)
    return min(1.0, (step + 1) / args.warmup) * max(0.005, 0.5 + 0.5 * math.cos(math.pi * falling))


def train(args):
    import copy

    import torch
    import torch.multiprocessing as mp

    import builtin_signs
    import builtin_tower

    torch.set_num_threads(args.threads)
    model = prepare(args)
    size, start = model.c["image_size"], time.time()
    queue = mp.Queue(6)
    mp.Process(target=feed, args=(queue, args.work, size, args.stickers, args.seed), daemon=True).start()
    held_out = probes(torch, args.work, size)
    average, compiled = copy.deepcopy(model), torch.compile(model.sized)
    muon = Muon(torch, model.matrices(), args.decay)
    rest = [p for p in model.parameters() if all(p is not q for q in muon.parameters)]
    groups = [{"params": [p for p in rest if (p.ndim > 1) == many], "weight_decay": args.decay * many} for many in (True, False)]
    adam = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    memories, step, saved = [collections.deque(maxlen=args.memory) for _ in range(2)], 0, time.time()
    while (progress := step / args.steps if args.steps else (time.time() - start) / 60 / args.minutes) < 1:
        views, thumbs, indices = (torch.from_numpy(x) for x in queue.get())
        with torch.autocast("cpu", torch.bfloat16):
            rows, sizes = compiled(views)
        overall = args.overall * min(1.0, step / args.ramp)
        signs = builtin_signs.signs(views) if args.signs else None
        loss, figures = losses(torch, rows.float(), sizes, signs, thumbs, indices, memories, overall, args)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        share = rate_at(args, step, progress)
        for group in adam.param_groups:
            group["lr"] = args.rate * share
        adam.step()
        muon.step(args.muon_rate * share)
        step += 1
        keep = min(args.average, step / (step + 30))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - keep)
        if step % args.report == 0 or step == 1:
            print(f"step {step}, {time.time() - start:.0f} s, InfoNCE "
                  f"{figures}; held out: {probe(torch, average, held_out)}", flush=True)  # fmt: skip
        if time.time() - saved > 120:
            builtin_tower.save(average, args.out)
            saved = time.time()
    builtin_tower.save(average, args.out)
    weights = (args.out / "model.safetensors").read_bytes()
    print(f"model.safetensors: {len(weights):,} bytes, sha256 {hashlib.sha256(weights).hexdigest()}")
    print(f"{step} steps, {step * args.batch:,} pairs, {(time.time() - start) / 60:.1f} minutes; repeat with --steps {step}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/builtin"), help="model folder to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for pool (110 kB an image) and batches (5 MB each), made when missing")
    parser.add_argument("--start", type=Path, help="begin with the weights of this model folder, made by this program")
    parser.add_argument("--minutes", type=float, default=40, help="training time, without the drawing of pool and batches")
    parser.add_argument("--steps", type=int, help="exactly so many steps instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the tower")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--pool", type=int, default=18000, help="drawings in the pool")
    parser.add_argument("--views", type=int, default=2500, help="batches drawn")
    parser.add_argument("--batch", type=int, default=256, help="originals in a batch; each gives two views")
    parser.add_argument("--stickers", type=float, default=0.25, help="share of the second views under a sticker")
    parser.add_argument("--still", type=float, default=0.5, help="weight of the loss of first and third views")
    parser.add_argument("--apart", type=int, default=128, help="dims at the end that are also trained alone, on first and third views")
    parser.add_argument("--signs", action="store_true", help="train on for the signs of cosine coefficients to be joined to the tower")
    parser.add_argument("--share", type=float, default=0.42, help="of a row's squared length that the signs have")
    parser.add_argument("--even", type=float, default=800, help="weight of the deviation of the rows' lengths, with --signs")
    parser.add_argument("--warmup", type=int, default=40, help="steps over which the learning rate rises")
    parser.add_argument("--level", type=float, default=0.35, help="share of the run before it falls")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate of AdamW")
    parser.add_argument("--muon-rate", type=float, default=0.02, help="highest learning rate of Muon")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of matrices")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--entropy", type=float, default=0.2, help="weight of the entropy term")
    parser.add_argument("--overall", type=float, default=0.4, help="weight of the loss with one sum of negatives for all rows")
    parser.add_argument("--ramp", type=int, default=200, help="steps over which that weight rises")
    parser.add_argument("--overall-temperature", type=float, default=0.04)
    parser.add_argument("--memory", type=int, default=6, help="batches whose first views stay as negatives")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--report", type=int, default=200, help="steps between reports")
    parser.add_argument("--architecture", nargs="*", default=[], metavar="NAME=N", help="changes to ARCHITECTURE, for trials")
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    train(args)

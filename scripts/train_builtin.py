#!/usr/bin/env python3
"""Train the embedded tower: a small CLIP-format vision tower that recognises edited copies of an image.

    python scripts/train_builtin.py --minutes 60 --work work --out models/builtin

Every training image is drawn by builtin_drawing.py: no photograph, weight or data set from elsewhere enters. A pool of drawings
is made first (builtin_pool.py). A batch turns pool entries into fresh originals and two edited views of each (builtin_views.py);
a step asks that a view finds the other view of its original among all others of the batch (InfoNCE), and again with one sum of
negatives for all rows, since one threshold is to serve all images, while the nearest different views are pushed apart (the
Kozachenko-Leonenko entropy estimate, as in SSCD, Pizzi et al. 2022). Now and then the tower embeds the pool, and from then on
a batch holds images together that it takes for alike. The weights that are written are an exponential average of those that
were trained.

The tower sees luminance alone, and is symmetric under mirroring by construction: see `tower`. It is trained on one channel; what
is written has three, and its preprocessing squashes the picture to a square.

The learning rate warms up and falls along a cosine. With --minutes the clock moves along it; the resulting number of steps is
printed, and --steps with that number comes close to the same run: when a search for alike images reaches the process that draws
is not fixed. --start goes on from an earlier tower. Measuring is compare_neardup.py's work, on drawings of another program;
what is printed here (`probe`) is measured on this one's.

Requirements (pinned): python 3.11, torch==2.15.0 (its compiler wants a C++ compiler), transformers==5.23.0, safetensors==0.8.0,
numpy==2.4.6, pillow==13.0.0.
"""

import argparse
import collections
import hashlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LUMA = (0.299, 0.587, 0.114)
LUMA_MEAN = sum(l * m for l, m in zip(LUMA, CLIP_MEAN))
ARCHITECTURE = dict(
    hidden_size=192,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=96,
    patch_size=16,
    num_channels=3,
    projection_dim=128,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
LAYER_NAMES = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
PROBE_SEED = 9_000_001  # never a training seed: training seeds begin with --seed


# ---------------------------------------------------------------- tower


def flops(c):
    """Floating-point operations for one image, a multiply-add as two, by part. Elementwise work is counted an operation at a
    time: layer norm 8 an element, softmax 5, quick-GELU 5 (exponential and division as one each)."""
    patches = (c["image_size"] // c["patch_size"]) ** 2
    t, d, m, n = patches + 1, c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    heads = c["num_attention_heads"]
    parts = {
        "normalise pixels": 3 * c["image_size"] ** 2 * 3,
        "patch embedding": 2 * patches * 3 * c["patch_size"] ** 2 * d,
        "attention projections": n * (2 * t * d * d * 4 + t * d * 4),
        "attention": n * (2 * 2 * t * t * d + heads * t * t * (5 + 1)),
        "mlp": n * (2 * 2 * t * d * m + t * (m + d) + 5 * t * m),
        "norms, residuals, positions": 8 * t * d * (2 * n + 1) + 8 * d + n * 2 * t * d + t * d,
        "projection": 2 * d * c["projection_dim"],
    }
    return parts | {"total": sum(parts.values())}


def tower(torch, c):
    """The tower with CLIPVisionModelWithProjection's arithmetic, for one channel, Q, K and V in one product, attention spelled out:
    on a CPU torch's compiler makes this form's backward pass the fast one. `whole` gives its weights in full.

    It is symmetric by construction: the channels come in pairs, and mirroring the picture swaps the two of each pair (and the
    columns of patches). A pair's patch filters are mirror images, and every matrix commutes with the swap (the mean over
    the group, as in Cohen and Welling 2016); the projection takes the sum of a pair, so that a mirrored picture has the same row."""
    nn, F = torch.nn, torch.nn.functional
    d, m, heads, p = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["patch_size"]
    side, layers = c["image_size"] // p, c["num_hidden_layers"]

    def tied(x):
        """[..., d / 2] to [..., d]: the same number for both of a pair."""
        return x.repeat_interleave(2, -1)

    def swapped(x):
        return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)

    def commuting(w):
        return (w + w.unflatten(0, (-1, 2)).unflatten(-1, (-1, 2)).flip(1, 3).flatten(-2).flatten(0, 1)) / 2

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(d // 2)), nn.Parameter(torch.zeros(d // 2))

        def whole(self):
            return tied(self.weight), tied(self.bias)

        def forward(self, x):
            return F.layer_norm(x, (d,), *self.whole(), c["layer_norm_eps"])

    class Linear(nn.Module):
        def __init__(self, inputs, outputs, gain=1.0):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain * (2 / inputs) ** 0.5)
            self.bias = nn.Parameter(torch.zeros(outputs // 2))

        def whole(self):
            return commuting(self.weight), tied(self.bias)

        def forward(self, x):
            return F.linear(x, *self.whole())

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            deep = (2 * layers) ** -0.5
            self.norm1, self.norm2 = Norm(), Norm()
            self.qkv, self.out, self.fc1, self.fc2 = Linear(d, 3 * d), Linear(d, d, deep), Linear(d, m), Linear(m, d, deep)

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            weights = torch.softmax((q * (d // heads) ** -0.5) @ k.transpose(-1, -2), -1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
            y = self.fc1(self.norm2(x))
            return x + self.fc2(y * torch.sigmoid(1.702 * y))

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            smooth = F.interpolate(torch.randn(d // 2, 1, 5, 5) * 0.15, (p, p), mode="bicubic")[:, 0]
            self.patch = nn.Parameter(smooth - 0.8 * smooth.mean((1, 2), keepdim=True))
            self.classes = nn.Parameter(torch.randn(d // 2) * 0.3)
            self.positions = nn.Parameter(torch.randn(side * side + 1, d) * 0.1)
            self.pre, self.post = Norm(), Norm()
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.projection = nn.Parameter(torch.randn(c["projection_dim"], d // 2) * d**-0.5)

        def filters(self):
            """[d, p, p]"""
            return torch.stack([self.patch, self.patch.flip(-1)], 1).flatten(0, 1)

        def places(self):
            """[tokens, d]"""
            first, grid = self.positions[:1], self.positions[1:].unflatten(0, (side, side))
            grid = (grid + swapped(grid.flip(1))) / 2
            return torch.cat([(first + swapped(first)) / 2, grid.flatten(0, 1)])

        def forward(self, x):
            """Rows [n, projection_dim], not normalised, of luminance 0..255 [n, s, s]."""
            n = len(x)
            x = x.float() / 255 - LUMA_MEAN
            x = x.reshape(n, side, p, side, p).permute(0, 1, 3, 2, 4).reshape(n, side * side, p * p)
            x = F.linear(x, self.filters().flatten(1))
            x = torch.cat([tied(self.classes).to(x.dtype).expand(n, 1, -1), x], 1) + self.places()
            x = self.pre(x)
            for layer in self.layers:
                x = layer(x)
            return F.linear(self.post(x[:, 0]), tied(self.projection))

        def whole(self):
            """{name: tensor}, with every weight in full and the patch filters over normalised R, G and B."""
            luma = torch.tensor([l * s for l, s in zip(LUMA, CLIP_STD)])
            state = {
                "patch": self.filters()[:, None] * luma.view(1, 3, 1, 1),
                "classes": tied(self.classes), "positions": self.places(), "projection": tied(self.projection),
            }  # fmt: skip
            for name, module in self.named_modules():
                if isinstance(module, (Norm, Linear)):
                    state[name + ".weight"], state[name + ".bias"] = module.whole()
            return {name: t.detach() for name, t in state.items()}

    return Tower()


def started(torch, folder, model, c):
    """Fills the tower with the weights of an earlier one of its kind."""
    from safetensors.torch import load_file

    t = {name: x.float() for name, x in load_file(folder / "model.safetensors").items()}
    e = "vision_model.embeddings."
    luma = torch.tensor([l * s for l, s in zip(LUMA, CLIP_STD)]).view(1, 3, 1, 1)
    state = {
        "patch": (t[e + "patch_embedding.weight"] / luma).mean(1)[::2],
        "classes": t[e + "class_embedding"][::2],
        "positions": t[e + "position_embedding.weight"],
        "projection": t["visual_projection.weight"][:, ::2],
    }
    for kind in ("weight", "bias"):
        half = slice(None, None, 2 if kind == "bias" else 1)
        state[f"pre.{kind}"] = t[f"vision_model.pre_layrnorm.{kind}"][::2]
        state[f"post.{kind}"] = t[f"vision_model.post_layernorm.{kind}"][::2]
        for i in range(c["num_hidden_layers"]):
            there, here = f"vision_model.encoder.layers.{i}.", f"layers.{i}."
            for theirs, ours in LAYER_NAMES.items():
                state[f"{here}{ours}.{kind}"] = t[f"{there}{theirs}.{kind}"][:: 2 if ours.startswith("norm") else half.step]
            state[f"{here}qkv.{kind}"] = torch.cat([t[f"{there}self_attn.{letter}_proj.{kind}"] for letter in "qkv"])[half]
    model.load_state_dict(state)


def mine(torch, model, folder, size, k=6):
    """Writes the k nearest pool images of other families for each one, as this tower sees them: the hard negatives."""
    from builtin_views import LUMA as WEIGHTS, NEIGHBOURS, Pool

    pool, weights, rows = Pool(folder), torch.from_numpy(WEIGHTS), []
    for i in range(0, len(pool.images), 256):
        x = torch.from_numpy(pool.images[i : i + 256].copy()).permute(0, 2, 3, 1).float() @ weights
        x = torch.nn.functional.interpolate(x[:, None], (size, size), mode="bicubic", antialias=True)[:, 0]
        with torch.no_grad():
            rows.append(torch.nn.functional.normalize(model(x.clamp(0, 255)), dim=-1))
    rows, families, nearest = torch.cat(rows), torch.from_numpy(pool.families), []
    for part, own in zip(rows.split(1000), families.split(1000)):
        cosine = (part @ rows.T).masked_fill(own[:, None] == families, -1)
        nearest.append(cosine.topk(k).indices)
    np.save(folder / "mined.npy", torch.cat(nearest).numpy())
    (folder / "mined.npy").replace(folder / NEIGHBOURS)


def hugging_face(state, c):
    """The state dictionary under CLIPVisionModelWithProjection's names."""
    out, e = {}, "vision_model.embeddings."
    out[e + "class_embedding"] = state["classes"]
    out[e + "position_embedding.weight"] = state["positions"]
    out[e + "patch_embedding.weight"] = state["patch"]
    out["visual_projection.weight"] = state["projection"]
    for theirs, ours in (("pre_layrnorm", "pre"), ("post_layernorm", "post")):
        for kind in ("weight", "bias"):
            out[f"vision_model.{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    for i in range(c["num_hidden_layers"]):
        there, here = f"vision_model.encoder.layers.{i}.", f"layers.{i}."
        for kind in ("weight", "bias"):
            for theirs, ours in LAYER_NAMES.items():
                out[f"{there}{theirs}.{kind}"] = state[f"{here}{ours}.{kind}"]
            for letter, part in zip("qkv", state[f"{here}qkv.{kind}"].chunk(3)):
                out[f"{there}self_attn.{letter}_proj.{kind}"] = part
    return out


def save(state, c, out):
    """config.json, preprocessor_config.json and model.safetensors (f16, Hugging Face names), each by rename."""
    import torch
    from safetensors.torch import save as serialise

    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().to(torch.float16).contiguous() for name, t in sorted(hugging_face(state, c).items())}
    config = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", **c}
    config |= {"attention_dropout": 0.0, "dtype": "float16"}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": c["image_size"], "width": c["image_size"]},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
    files = {
        "model.safetensors": serialise(tensors, metadata={"format": "pt"}),
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "preprocessor_config.json": (json.dumps(processor, indent=2) + "\n").encode(),
    }
    for name, data in files.items():
        (out / f"{name}.tmp").write_bytes(data)
        (out / f"{name}.tmp").replace(out / name)


# ---------------------------------------------------------------- batches, from processes of their own


def serve(queue, folder, size, seed, batch, worker, workers, easy_steps):
    """Puts every `workers`-th batch into the queue; the edits grow to full strength over the first `easy_steps` of them."""
    import torch

    from builtin_views import Views

    torch.set_num_threads(1)
    views, step = Views(folder, size), worker
    while True:
        queue.put(views.batch((seed, 5, step), batch, easy=max(0.0, 1 - step / easy_steps)))
        step += workers


# ---------------------------------------------------------------- training


def contrastive(torch, z, thumbs, indices, memory, args):
    """The three parts of the loss over 2n unit views, and the mean cosine of the pairs.

    InfoNCE with every other view as a negative; the same with one sum for all rows, over the negatives of the batch and of the
    memory, so that one threshold serves all images; and the entropy term. Originals whose thumbnails are all but equal (blank
    crops) are no negatives of each other, nor are views of one pool image in different batches."""
    n, F = len(z) // 2, torch.nn.functional
    partner = torch.arange(2 * n).roll(n)
    cosine = z @ z.T
    same = torch.cdist(thumbs, thumbs) / thumbs.shape[1] ** 0.5 < 4.0
    same = same.repeat(2, 2)
    own = torch.arange(2 * n)[:, None] == partner
    same[own] = False
    positive = cosine[torch.arange(2 * n), partner]
    row = F.cross_entropy((cosine / args.temperature).masked_fill(same, -1e4), partner)
    negatives = cosine.masked_fill(same | own, -1)
    t = args.overall_temperature
    total, count = torch.logsumexp(negatives.flatten() / t, 0), 4 * n * n
    if memory:
        rows, ids = (torch.cat(x) for x in zip(*memory))
        apart = (z[n:] @ rows.T).masked_fill(indices[:, None] == ids, -1)
        total, count = torch.logaddexp(total, torch.logsumexp(apart.flatten() / t, 0)), count + apart.numel()
    over_all = F.softplus(total + math.log(4 * n * n / count) - positive / t).mean()
    nearest = negatives.amax(1)
    entropy = -0.5 * torch.log((2 - 2 * nearest).clamp_min(0.05)).mean()
    return row, over_all, entropy, positive.mean().item()


def probes(torch, folder, size, n=384):
    """Held-out originals uint8 [n, s, s] and, for each kind of edit and for mixtures, a copy of each [kinds + 3, n, s, s]."""
    import builtin_pool
    from builtin_views import KINDS, LUMA as WEIGHTS, ORIGINAL_EDGE, Views

    rng = np.random.default_rng(PROBE_SEED)
    families = [builtin_pool._family((PROBE_SEED, 1, i)) for i in range(n)]
    images = torch.from_numpy(np.stack([members[0] for _, members in families])).float().permute(0, 2, 3, 1) @ torch.from_numpy(WEIGHTS)
    images = torch.nn.functional.interpolate(images[:, None], (ORIGINAL_EDGE, ORIGINAL_EDGE), mode="bicubic", antialias=True)
    aspects, views = np.array([aspect for aspect, _ in families]), Views(folder, size)
    none, full = np.zeros(n, int), np.ones(n)
    plain = views.copies(rng, images, images * 0, aspects, views.chosen(rng, none), full)
    copies = []
    for kind in KINDS:
        does = views.chosen(rng, none)
        does[kind] = full > 0
        copies.append(views.copies(rng, images, images * 0, aspects, does, full))
    for count in (2, 3, 4):
        copies.append(views.copies(rng, images, images * 0, aspects, views.chosen(rng, none + count), full))
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


def train(args):
    import torch
    import torch.multiprocessing as mp

    import builtin_pool
    from builtin_views import NEIGHBOURS

    if not (args.work / "pool.json").exists():
        builtin_pool.draw(args.work, args.seed, args.pool, args.workers)
        builtin_pool.draw_layers(args.work, args.seed, args.workers)
    c = ARCHITECTURE | {k: int(v) for k, v in (pair.split("=") for pair in args.architecture)}
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = tower(torch, c)
    if args.start:
        started(torch, args.start, model, c)
        mine(torch, model, args.work, c["image_size"])
    else:
        (args.work / NEIGHBOURS).unlink(missing_ok=True)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {flops(c)['total']:,} FLOP an image", flush=True)
    held_out = probes(torch, args.work, c["image_size"])
    queues = [mp.Queue(3) for _ in range(args.workers)]
    for worker, queue in enumerate(queues):
        request = (queue, args.work, c["image_size"], args.seed, args.batch, worker, args.workers, args.easy_steps)
        mp.Process(target=serve, args=request, daemon=True).start()

    average = tower(torch, c)
    average.load_state_dict(model.state_dict())
    compiled = torch.compile(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}], lr=args.rate, betas=(0.9, 0.98)
    )
    memory = collections.deque(maxlen=args.memory)
    start, saved, step, waited = time.time(), time.time(), 0, 0.0
    while True:
        progress = step / args.steps if args.steps else (time.time() - start) / 60 / args.minutes
        if progress >= 1:
            break
        rate = args.rate * min(1.0, (step + 1) / args.warmup) * max(0.005, 0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = rate
        asked = time.time()
        views, thumbs, indices = queues[step % args.workers].get()
        waited += time.time() - asked
        with torch.autocast("cpu", torch.bfloat16):
            z = compiled(views.flatten(0, 1))
        z = torch.nn.functional.normalize(z.float(), dim=-1)
        row, over_all, entropy, positive = contrastive(torch, z, thumbs, indices, memory, args)
        loss = row + args.overall * min(1.0, step / args.ramp) * over_all + args.entropy * entropy
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step > args.easy_steps:
            memory.append((z[: args.batch].detach(), indices))
        keep = min(args.average, step / (step + 50))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.lerp_(p, 1 - keep)
        if step % args.report == 0 or step == 1:
            spent = time.time() - start
            print(f"step {step}, {spent:.0f} s ({waited:.0f} waited for views), rate {rate:.5f}, losses {row.item():.3f} {over_all.item():.3f} "
                  f"{entropy.item():.3f}, positive {positive:.3f}; held out: {probe(torch, average, held_out)}", flush=True)  # fmt: skip
        if step % args.mine == 0:
            mine(torch, average, args.work, c["image_size"])
        if time.time() - saved > 120:
            save(average.whole(), c, args.out)
            saved = time.time()
    save(average.whole(), c, args.out)
    weights = (args.out / "model.safetensors").read_bytes()
    print(f"model.safetensors: {len(weights):,} bytes, sha256 {hashlib.sha256(weights).hexdigest()}")
    print(f"{step} steps, {step * args.batch:,} pairs, {(time.time() - start) / 60:.1f} minutes; repeat with --steps {step}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/builtin"), help="model folder to write")
    parser.add_argument("--work", type=Path, required=True, help="folder for the drawn pool (110 kB an image), made when missing")
    parser.add_argument("--start", type=Path, help="begin with the weights of this model folder, made by this program")
    parser.add_argument("--minutes", type=float, default=60, help="training time without the drawing of the pool")
    parser.add_argument("--steps", type=int, help="exactly so many steps instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the tower")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw views")
    parser.add_argument("--pool", type=int, default=18000, help="drawings in the pool")
    parser.add_argument("--batch", type=int, default=256, help="originals in a step; each gives two views")
    parser.add_argument("--easy-steps", type=int, default=300, help="batches over which the edits grow to full strength")
    parser.add_argument("--warmup", type=int, default=40, help="steps over which the learning rate rises")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--entropy", type=float, default=0.2, help="weight of the entropy term")
    parser.add_argument("--overall", type=float, default=0.3, help="weight of the loss with one sum of negatives for all rows")
    parser.add_argument("--ramp", type=int, default=600, help="steps over which that weight rises")
    parser.add_argument("--overall-temperature", type=float, default=0.04)
    parser.add_argument("--memory", type=int, default=8, help="batches whose first views stay as negatives")
    parser.add_argument("--mine", type=int, default=600, help="steps between the searches for hard negatives")
    parser.add_argument("--average", type=float, default=0.997, help="decay of the averaged weights")
    parser.add_argument("--report", type=int, default=50, help="steps between reports")
    parser.add_argument("--architecture", nargs="*", default=[], metavar="NAME=N", help="changes to ARCHITECTURE, for trials")
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    train(args)

#!/usr/bin/env python3
"""clipsift and PyTorch on one device, on the same shapes, in one call.

    python scripts/compare_gpu.py --binary target/release/clipsift > table.md

Towers have random weights in both. PyTorch's is the same CLIP vision tower in three forms: eager (softmax and matrix products as
written), sdpa (torch's fused attention) and compile (torch.compile over sdpa). k-means is one Lloyd iteration over rows and
centroids in half precision; pairs are all rows against all later rows in blocks, compared with a threshold on the device.
Both sides are timed over whole calls that end with a synchronisation, medians after a warm-up. Needs torch alone.

--device cpu with small sizes shows that the script works where there is no GPU; its figures mean nothing there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# width, inner width, layers, heads, patch, d; all at 224 pixels. The same table stands in src/bench/tower.rs.
MODELS = {
    "vit-b-32": (768, 3072, 12, 12, 32, 512),
    "vit-b-16": (768, 3072, 12, 12, 16, 512),
    "vit-l-14": (1024, 4096, 24, 16, 14, 768),
    "vit-h-14": (1280, 5120, 32, 16, 14, 1024),
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Block(nn.Module):
    def __init__(self, width, inner, heads, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def attend(self, x):
        n, t, w = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            joined = F.scaled_dot_product_attention(q, k, v)
        else:
            joined = torch.softmax(q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5, dim=-1) @ v
        return self.out(joined.transpose(1, 2).reshape(n, t, w))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        hidden = self.up(self.norm2(x))
        return x + self.down(hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    """CLIP's vision tower: u8 pixels [n, 224, 224, 3] -> unit rows [n, d]."""

    def __init__(self, width, inner, layers, heads, patch, dims, fused):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch, bias=False)
        tokens = (224 // patch) ** 2 + 1
        self.token = nn.Parameter(torch.randn(width) * 0.1)
        self.positions = nn.Parameter(torch.randn(tokens, width) * 0.1)
        self.pre, self.post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(Block(width, inner, heads, fused) for _ in range(layers)))
        self.projection = nn.Linear(width, dims, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, pixels):
        x = pixels.permute(0, 3, 1, 2).to(self.token.dtype)
        x = self.patch((x - self.mean) / self.std).flatten(2).transpose(1, 2)
        token = self.token.expand(x.shape[0], 1, -1)
        x = self.pre(torch.cat([token, x], dim=1) + self.positions)
        x = self.post(self.blocks(x)[:, 0])
        return F.normalize(self.projection(x).float(), dim=-1)


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def median_seconds(work, device, seconds):
    """Median of calls for `seconds`, at least three, after two that do not count."""
    for _ in range(2):
        work()
    synchronise(device)
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def encode(args, device, model, dtype, form, batch):
    torch.manual_seed(0)
    tower = Tower(*MODELS[model], fused=form != "eager").to(device, DTYPES[dtype]).eval()
    run = torch.compile(tower) if form == "compile" else tower
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        return batch / median_seconds(lambda: run(pixels), device, args.seconds)


def clustered_rows(n, d, k, dtype, device):
    torch.manual_seed(1)
    centres = torch.rand(k, d, device=device) * 2 - 1
    rows = torch.empty(n, d, dtype=dtype, device=device)
    for start in range(0, n, 1 << 16):
        stop = min(start + (1 << 16), n)
        which = torch.arange(start, stop, device=device) * 7919 % k
        noise = torch.rand(stop - start, d, device=device) * 2 - 1
        rows[start:stop] = F.normalize(centres[which] + 0.8 * noise, dim=1).to(dtype)
    return rows


def kmeans_ms(args, device, rows, k):
    d = rows.shape[1]
    centroids = rows[:: max(rows.shape[0] // k, 1)][:k].float()

    def iterate():
        half = centroids.to(rows.dtype)
        squares = centroids.square().sum(1)
        sums = torch.zeros(k, d, device=device)
        for block in rows.split(1 << 16):
            labels = (squares - 2 * (block @ half.T).float()).argmin(1)
            sums.index_add_(0, labels, block.float())
        return sums

    return 1000 * median_seconds(iterate, device, args.seconds)


def pairs_seconds(device, rows, threshold):
    def search():
        found = 0
        for start in range(0, rows.shape[0], 16384):
            block = rows[start : start + 16384]
            for other in range(start, rows.shape[0], 16384):
                near = (block @ rows[other : other + 16384].T) >= threshold
                near = near.triu(1) if other == start else near
                found += near.nonzero().shape[0]
        return found

    search()
    synchronise(device)
    start = time.perf_counter()
    search()
    synchronise(device)
    return time.perf_counter() - start


def ours(args, dtype):
    command = [args.binary, "bench", "--json", "--device", args.device, "--dtype", dtype, "--seconds", str(args.seconds)]
    command += ["--stages", "upload,tower,heads,kmeans,pairs", "--model", ",".join(args.models)]
    command += ["--batch-size", ",".join(map(str, args.batch_sizes))]
    command += ["--rows", str(args.rows), "--dims", str(args.dims), "--clusters", str(args.clusters)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/clipsift")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default="f16,bf16", type=lambda s: s.split(","))
    parser.add_argument("--models", default="vit-b-32,vit-l-14", type=lambda s: s.split(","))
    parser.add_argument("--forms", default="eager,sdpa,compile", type=lambda s: s.split(","))
    parser.add_argument("--batch-sizes", default="64,256,1024", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--rows", default=1_000_000, type=int)
    parser.add_argument("--dims", default=768, type=int)
    parser.add_argument("--clusters", default=1000, type=int)
    parser.add_argument("--seconds", default=1.0, type=float)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here; on a CPU use scripts/compare_cpu.py")
    device = torch.device(args.device)

    rows = []  # what, ours, PyTorch's best, its form, ratio (over 1: ours is faster)
    machine = None
    for dtype in args.dtypes:
        report = ours(args, dtype)
        machine = report["machine"]
        for stage in report["stages"]:
            with_ = stage["params"]
            if stage["name"] == "tower":
                theirs = {
                    form: encode(args, device, with_["model"], dtype, form, with_["batch_size"]) for form in args.forms
                }
                best = max(theirs, key=theirs.get)
                each = ", ".join(f"{form} {rate:.1f}" for form, rate in theirs.items())
                what = f"{with_['model']} {dtype}, batch {with_['batch_size']}, images/s"
                rows.append((what, stage["value"], each, stage["value"] / theirs[best], stage["fraction_of_peak"]))
        data = clustered_rows(args.rows, args.dims, args.clusters, DTYPES[dtype], device)
        for stage in report["stages"]:
            if stage["name"] == "kmeans":
                theirs = kmeans_ms(args, device, data, args.clusters)
                what = f"k-means {args.rows} x {args.dims}, k {args.clusters}, {dtype}, ms an iteration"
            elif stage["name"] == "pairs":
                theirs = pairs_seconds(device, data, stage["params"]["cosine_from"])
                what = f"all pairs {args.rows} x {args.dims}, {dtype}, s"
            else:
                continue
            rows.append((what, stage["value"], f"{theirs:.3f}", theirs / stage["value"], stage["fraction_of_peak"]))
        del data

    name = torch.cuda.get_device_name() if device.type == "cuda" else machine["cpu"]
    print(f"{name}; torch {torch.__version__}; clipsift {machine['clipsift']};", end=" ")
    print(f"matrix product {machine['gemm_flops'] / 1e12:.1f} TFLOP/s, copy {machine['copy_bytes_per_second'] / 1e9:.0f} GB/s\n")
    print("| what | clipsift | of peak | PyTorch | ratio |\n|---|---|---|---|---|")
    for what, value, theirs, ratio, peak in rows:
        print(f"| {what} | {value:.3f} | {100 * (peak or 0):.1f} % | {theirs} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The tower on this machine's CPU: clipsift beside PyTorch (transformers) and ONNX Runtime, on the same weights.

    cargo build --release
    pip install -r scripts/requirements.txt onnx onnxruntime
    python scripts/compare_cpu.py --binary target/release/clipsift > table.md

Writes a CLIP vision tower with random weights in Hugging Face's layout, once for each model, and gives the same folder to all. First
the embeddings of a few drawn images are compared with transformers' in f64, since speed without the same result is worth nothing: the
least cosine and the furthest value of a unit row stand in the table, and a cosine below .999 ends the run. Then all take turns, round after round, so that a
slow minute of the machine is everybody's: clipsift through `clipsift bench` (u8 pixels -> embeddings), PyTorch and ONNX Runtime over
tensors that are normalised already. All with the same threads and batch; medians over the rounds of each round's median.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

# width, inner width, layers, heads, patch, d, batch; all at 224 pixels.
MODELS = {
    "vit-b-32": (768, 3072, 12, 12, 32, 512, 16),
    "vit-b-16": (768, 3072, 12, 12, 16, 512, 16),
    "vit-l-14": (1024, 4096, 24, 16, 14, 768, 8),
}
OURS = ["f32", "bf16", "int8"]
# What each precision is measured against: int8 against the best that PyTorch has, bf16.
PEERS = {"f32": "torch f32", "bf16": "torch bf16", "int8": "torch bf16"}


def write_model(name, folder, large_channels=1.0):
    """The model of that name with random weights, three channels of every norm so many times as large as the others."""
    width, inner, layers, heads, patch, dims, _ = MODELS[name]
    torch.manual_seed(7)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        patch_size=patch, projection_dim=dims, image_size=224, hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "layer_norm" in key and key.endswith("weight"):
                value[[7, width // 3, width - 20]] *= large_channels
    model.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return model


def draw_images(folder, count=16):
    """Shapes on gradients, in sizes that need no resizing: only the towers are compared."""
    rng = np.random.default_rng(3)
    paths = []
    for i in range(count):
        a, b = rng.integers(0, 256, (2, 3))
        ramp = np.linspace(0, 1, 224)[None, :, None]
        pixels = (a * (1 - ramp) + b * ramp).repeat(224, axis=0).astype(np.uint8)
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        for _ in range(6):
            x, y, r = rng.integers(0, 224), rng.integers(0, 224), rng.integers(8, 80)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
        path = Path(folder) / f"{i:02}.png"
        image.save(path)
        paths.append(path)
    return paths


def stored_rows(run):
    import pyarrow.parquet as pq

    table = pq.read_table(run / "embeddings" / "part-00000.parquet")
    rows = np.stack([np.asarray(r, np.float32) for r in table["embedding"].to_pylist()])
    order = np.argsort([str(i) for i in table["id"].to_pylist()])
    return rows[order]


def distance(rows, expected):
    """The least cosine of two sets of rows, and the greatest difference of a value of theirs as unit rows."""
    rows, expected = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows.astype(np.float64), expected))
    return float((rows * expected).sum(axis=1).min()), float(np.abs(rows - expected).max())


def check(args, folder, model, images, dtypes):
    """The `distance` of each precision of ours, and of torch, to transformers in f64."""
    processor = CLIPImageProcessor.from_pretrained(folder)
    pixels = processor([Image.open(p) for p in images], return_tensors="pt")["pixel_values"]
    distances = {}
    with torch.inference_mode():
        rows = {}
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f64", torch.float64)):
            rows[name] = model.to(dtype)(pixel_values=pixels.to(dtype)).image_embeds.double().numpy()
            # Back to what bf16 was made of.
            model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
    expected = rows.pop("f64")
    for name, values in rows.items():
        distances[f"torch {name}"] = distance(values, expected)
    for dtype in dtypes:
        with tempfile.TemporaryDirectory() as out:
            run = Path(out) / "run"
            call = [args.binary, "embed", str(images[0].parent), "--out", str(run), "--model", str(folder)]
            done = subprocess.run([*call, "--device", "cpu", "--dtype", dtype, "--quiet"], capture_output=True, text=True)
            if done.returncode != 0:
                print(f"{dtype}: {done.stderr.strip()}", file=sys.stderr)
                continue
            distances[f"clipsift {dtype}"] = distance(stored_rows(run), expected)
        cosine = distances[f"clipsift {dtype}"][0]
        if cosine < 0.999 and args.large_channels == 1:
            sys.exit(f"{dtype}: least cosine {cosine:.6f} to transformers in f64; speed means nothing then")
    return distances


def clipsift(args, folder, dtype, batch):
    call = [args.binary, "bench", "--device", "cpu", "--stages", "tower", "--model", str(folder), "--dtype", dtype]
    call += ["--batch-size", str(batch), "--seconds", str(args.seconds), "--threads", str(args.threads), "--json"]
    report = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    return report["stages"][0]["value"]


def rate(work, batch, seconds):
    """Images a second: the median of calls for that long, after one that does not count."""
    work()
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times)


def onnx_session(model, batch, threads):
    try:
        import onnxruntime
    except ImportError:
        return None
    file = io.BytesIO()
    pixels = torch.zeros(batch, 3, 224, 224)
    try:
        with torch.inference_mode():
            torch.onnx.export(model, (pixels,), file, input_names=["pixels"], dynamo=False)
    except Exception as error:  # The exporter needs packages that not everybody has.
        print(f"no ONNX: {error}", file=sys.stderr)
        return None
    if file.tell() > 2**31 - 1:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    pixels = pixels.numpy()
    return lambda: session.run(None, {"pixels": pixels})


def compare(args, name, work):
    folder = Path(work) / name
    batch = args.batch or MODELS[name][-1]
    model = write_model(name, folder, args.large_channels)
    images = draw_images(tempfile.mkdtemp(dir=work))
    distances = check(args, folder, CLIPVisionModelWithProjection.from_pretrained(folder).eval(), images, args.dtypes)
    ours = [d for d in args.dtypes if f"clipsift {d}" in distances]
    half = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.bfloat16).eval()
    pixels = torch.randn(batch, 3, 224, 224)
    peers = {
        "torch f32": lambda: model(pixel_values=pixels),
        "torch bf16": lambda: half(pixel_values=pixels.bfloat16()),
    }
    session = onnx_session(model, batch, args.threads)
    if session:
        peers["onnxruntime f32"] = session
    rates = {}
    with torch.inference_mode():
        for _ in range(args.rounds):
            for dtype in ours:
                rates.setdefault(f"clipsift {dtype}", []).append(clipsift(args, folder, dtype, batch))
                peer = PEERS[dtype]
                rates.setdefault(peer, []).append(rate(peers[peer], batch, args.seconds))
            if session:
                rates.setdefault("onnxruntime f32", []).append(rate(session, batch, args.seconds))
    medians = {what: statistics.median(values) for what, values in rates.items()}
    for what, values in rates.items():
        dtype = what.split()[-1]
        ratio = ""
        if what.startswith("clipsift"):
            ratio = f"{medians[what] / medians[PEERS[dtype]]:.2f} x {PEERS[dtype]}"
        cosine, furthest = distances.get(what, (None, None))
        off = f"{cosine:.6f} | {furthest:.1e}" if cosine is not None else " | "
        spread = f"{min(values):.1f}-{max(values):.1f}"
        print(f"| {name} | {batch} | {what} | {medians[what]:.1f} | {spread} | {ratio} | {off} |", flush=True)
    return medians


def plot(path, figures, heading):
    """Horizontal bars, a group for each model: images a second, clipsift in colour."""
    left, bar, gap, wide = 170, 20, 34, 460
    lines, y = [], 56
    for model, medians in figures.items():
        most = max(medians.values())
        lines.append(f'<text x="12" y="{y}" font-weight="bold">{model}</text>')
        y += 12
        for what, value in sorted(medians.items(), key=lambda item: -item[1]):
            length = max(2, wide * value / most)
            colour = "#2a7fb8" if what.startswith("clipsift") else "#b9b9b9"
            lines.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{what}</text>')
            lines.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{bar - 4}" fill="{colour}"/>')
            lines.append(f'<text x="{left + length + 6:.0f}" y="{y + 14}">{value:.{0 if value >= 10 else 2}f}</text>')
            y += bar
        y += gap
    width, height = left + wide + 70, y - gap + 12
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">'
    title = f'<rect width="{width}" height="{height}" fill="white"/><text x="12" y="24" font-size="15">{heading}</text>'
    Path(path).write_text("\n".join([frame, title, *lines, "</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/clipsift")
    parser.add_argument("--models", nargs="+", default=["vit-b-32", "vit-l-14"], choices=MODELS)
    parser.add_argument("--dtypes", nargs="+", default=OURS, choices=OURS)
    parser.add_argument("--batch", type=int, help="images a batch; 16, for vit-l-14 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a figure is repeated in a round")
    help = "make three channels of every norm so many times as large, as some trained towers have them"
    parser.add_argument("--large-channels", type=float, default=1.0, help=help)
    parser.add_argument("--plot", help="an SVG of the medians")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import transformers

    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    try:
        import onnxruntime

        versions += f", onnxruntime {onnxruntime.__version__}"
    except ImportError:
        pass
    print(f"{cpu}, {args.threads} threads; {versions}, Python {platform.python_version()}; {args.rounds} rounds\n")
    print("| model | batch | | images/s | least-most | times | least cosine to f64 | furthest value |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        figures = {f"{name}, batch {args.batch or MODELS[name][-1]}": compare(args, name, work) for name in args.models}
    if args.plot:
        plot(args.plot, figures, f"CLIP vision towers on {args.threads} cores: images a second")


if __name__ == "__main__":
    main()

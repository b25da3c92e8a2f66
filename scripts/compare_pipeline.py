#!/usr/bin/env python3
"""clipsift beside Pillow and PyTorch on the way from JPEG files to embeddings, on one machine, in one call.

    cargo build --release && python scripts/compare_pipeline.py --part pipeline --dtypes f32,bf16 > table.md
    cargo bench --bench decode_resize --no-run && python scripts/compare_pipeline.py --part decode > table.md

decode: one JPEG of 500 x 375 (some 48 KB, 4:2:0) to a square of 224 pixels, on one thread. clipsift is benches/decode_resize.rs over
the same files, Pillow the same steps from bytes in memory: decode, bicubic resize to a shortest edge of 224, centre crop.

pipeline: a folder of JPEGs to unit rows of CLIP B/32 with random weights, all cores. Both load the same model folder. clipsift is
`clipsift embed`, its seconds those of the stage in run.json, which include reading the files and writing the tables. PyTorch is a
DataLoader (Pillow in worker processes, which hand over bytes; normalised in the main process) before transformers'
CLIPVisionModelWithProjection with fused attention; its clock starts with warm workers and a warm model, and it writes nothing. Numbers
of workers and batch sizes are tried first over a part of the files and the best is kept. Before anything is said of
speed, all embeddings of both must agree: cosine >= .999.

curate: clipsift alone, `curate --model builtin` over the first 5,000, 20,000 and 100,000 files of a folder of subfolders
(`make_jpegs.py --count 20000 --links 100000 --subfolders`): wall time beside the CPU seconds of all stages divided by the cores, and
the peak of memory. Only on a machine that does nothing else; fewer files where the folder has no more.

Runs of both alternate; medians and their ratio are printed (over 1: clipsift is faster), with the range of the ratios of the pairs.
Needs torch, transformers, pyarrow, numpy, Pillow.
"""

import argparse
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

import make_jpegs

EDGE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def square(image):
    """What Hugging Face's processor for Pillow makes of an image: shortest edge 224, bicubic, the middle of it."""
    width, height = image.size
    short = min(width, height)
    size = (EDGE * width // short, EDGE * height // short)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - EDGE) // 2, (size[1] - EDGE) // 2
    return image.crop((left, top, left + EDGE, top + EDGE))


def make_files(folder, count, exact):
    scenes = [make_jpegs.scene(42, i) for i in range(min(make_jpegs.SCENES, max(count // 4, 8)))]
    total = 0
    for i in range(count):
        data = make_jpegs.jpeg(make_jpegs.picture(scenes, 42, i, 500, exact), 42, i)
        (folder / f"{i:07d}.jpg").write_bytes(data)
        total += len(data)
    return total / count


def machine(more=""):
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}{more}; {date.today()}."


def ratios(pairs):
    """Of rates (ours, theirs): 'median (lowest to highest)' of ours / theirs."""
    each = sorted(ours / theirs for ours, theirs in pairs)
    medians = statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs)
    return f"{medians:.2f} ({each[0]:.2f} to {each[-1]:.2f})"


# ---------------------------------------------------------------------------------------------------------------------
# decode


def bench_binary():
    """The executable of benches/decode_resize.rs, built where it is not."""
    command = ["cargo", "bench", "--bench", "decode_resize", "--no-run", "--message-format", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "decode_resize" and message.get("executable"):
            return message["executable"]
    sys.exit("cargo named no executable for decode_resize")


UNITS = {"ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def our_seconds(binary, folder, what, seconds):
    """Seconds that criterion measures for one pass over the folder."""
    command = [binary, "--bench", f"decode_resize/{what}", "--sample-size", "10", "--discard-baseline"]
    command += ["--warm-up-time", "0.5", "--measurement-time", str(seconds)]
    env = {**os.environ, "CLIPSIFT_BENCH_JPEGS": str(folder)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, text=True, env=env)
    found = re.search(r"time:\s+\[\S+ \S+ (\S+) (\S+) \S+ \S+\]", done.stdout)
    if not found:
        sys.exit(f"{binary} said no time:\n{done.stdout}")
    return float(found[1]) * UNITS[found[2]]


def their_seconds(work, items, seconds):
    """Median seconds of one pass over the items."""
    for item in items:
        work(item)
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        for item in items:
            work(item)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare_decode(args):
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for both
    binary = args.bench_binary or bench_binary()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        average = make_files(folder, args.pictures, exact=True)
        files = [path.read_bytes() for path in sorted(folder.iterdir())]
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
        works = {
            "decode": (lambda data: Image.open(io.BytesIO(data)).convert("RGB"), files),
            "resize": (square, images),
            "both": (lambda data: square(Image.open(io.BytesIO(data)).convert("RGB")), files),
        }
        pairs = {what: [] for what in works}
        for number in range(args.rounds):
            for what, (work, items) in works.items():
                ours = lambda: our_seconds(binary, folder, what, args.seconds)
                theirs = lambda: their_seconds(work, items, args.seconds)
                first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
                a, b = first(), second()
                times = (a, b) if number % 2 == 0 else (b, a)
                pairs[what].append(tuple(len(files) / seconds for seconds in times))
                say(f"round {number + 1}: {what}: clipsift {pairs[what][-1][0]:.0f}, Pillow {pairs[what][-1][1]:.0f} images/s")
    print(machine(f", Pillow {Image.__version__}"))
    print(f"{len(files)} JPEGs of 500 x 375, 4:2:0, {average / 1000:.1f} KB on average; one thread each, {args.rounds} pairs of runs.\n")
    print("| 500 x 375 JPEG to 224 | clipsift, images/s | Pillow, images/s | ratio |\n|---|---|---|---|")
    names = {"decode": "decode", "resize": "resize and crop", "both": "decode and resize"}
    for what, rates in pairs.items():
        ours, theirs = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
        print(f"| {names[what]} | {ours:.0f} | {theirs:.0f} | {ratios(rates)} |")


# ---------------------------------------------------------------------------------------------------------------------
# pipeline


class Files:
    """A data set for torch's DataLoader: each file's square as bytes, [224, 224, 3]."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            return np.array(square(image.convert("RGB")))


def random_model(folder):
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32, projection_dim=512
    )
    model = CLIPVisionModelWithProjection(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            # The defaults leave embeddings that hardly depend on the image; these keep its scale from layer to layer.
            if tensor.ndim > 1 and "embedding" not in name:
                tensor.normal_(0, tensor.shape[-1] ** -0.5)
            elif name.endswith("patch_embedding.weight"):
                tensor.normal_(0, tensor[0].numel() ** -0.5)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.1)
    model.save_pretrained(folder)
    processor = {
        "do_resize": True, "size": {"shortest_edge": EDGE}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": EDGE, "width": EDGE}, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_convert_rgb": True,
    }
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))


class Peer:
    """The PyTorch loop."""

    def __init__(self, model, dtype):
        import torch
        from transformers import CLIPVisionModelWithProjection

        self.torch = torch
        kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self.model = CLIPVisionModelWithProjection.from_pretrained(model, attn_implementation="sdpa").to(kind).eval()
        self.mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(STD).view(1, 3, 1, 1) * 255
        self.kind = kind

    def embed(self, squares):
        with self.torch.inference_mode():
            pixels = (squares.permute(0, 3, 1, 2).float() - self.mean) / self.std
            rows = self.model(pixel_values=pixels.to(self.kind)).image_embeds.float()
            return self.torch.nn.functional.normalize(rows, dim=-1)

    def loader(self, paths, workers, batch):
        return self.torch.utils.data.DataLoader(
            Files(paths), batch_size=batch, num_workers=workers, persistent_workers=workers > 0, prefetch_factor=4 if workers else None
        )

    def run(self, loader):
        """(seconds, rows) of a pass; the second one over a loader finds its workers there."""
        begun = time.perf_counter()
        rows = self.torch.cat([self.embed(squares) for squares in loader])
        return time.perf_counter() - begun, rows.numpy()

    def best(self, paths, workers, batches):
        """The fastest loader over a part of the files, and what it is."""
        tried = {}
        for count in workers:
            for batch in batches:
                loader = self.loader(paths[: max(len(paths) // 4, batch)], count, batch)
                self.run(loader)
                tried[count, batch] = len(loader.dataset) / min(self.run(loader)[0] for _ in range(2))
                say(f"PyTorch with {count} workers, batch {batch}: {tried[count, batch]:.1f} images/s")
        return max(tried, key=tried.get)


def our_run(args, files, model, dtype, out):
    """(seconds of the stage, ids, rows)"""
    import pyarrow.parquet as parquet

    command = [args.binary, "embed", str(files), "--model", str(model), "--out", str(out), "--device", "cpu", "--dtype", dtype]
    command += ["--overwrite"] + (["--batch-size", str(args.batch_size)] if args.batch_size else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    parts = [parquet.read_table(path) for path in sorted((out / "embeddings").iterdir())]
    ids = [id for part in parts for id in part["id"].to_pylist()]
    rows = np.concatenate([np.stack(part["embedding"].to_numpy()) for part in parts]).astype(np.float32)
    report = json.loads((out / "run.json").read_text())
    return report["seconds"]["embed"], ids, rows, report["clipsift"]


def compare_pipeline(args):
    import torch
    import transformers

    table, version = [], ""
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        work = Path(work)
        files = args.files
        if not files:
            files = work / "files"
            files.mkdir()
            average = make_files(files, args.pictures, exact=False)
            say(f"{args.pictures} JPEGs, {average / 1000:.1f} KB on average")
        model = args.model
        if not model:
            model = work / "model"
            random_model(model)
        paths = sorted(path for path in Path(files).rglob("*.jpg"))
        for dtype in args.dtypes:
            try:
                _, ids, ours, version = our_run(args, files, model, dtype, work / "run")
            except RuntimeError as error:
                say(f"clipsift {dtype}: {error}")
                table.append(f"| {dtype} | refused: {error} | | |")
                continue
            peer = Peer(model, dtype)
            workers, batch = peer.best(paths, args.workers, args.batch_sizes)
            loader = peer.loader(paths, workers, batch)
            _, theirs = peer.run(loader)
            by_id = {str(path.relative_to(files)): row for path, row in zip(paths, theirs)}
            assert len(ids) == len(by_id), f"{len(ids)} rows for {len(by_id)} files"
            cosines = np.array([float(row / np.linalg.norm(row) @ by_id[id]) for id, row in zip(ids, ours)])
            spread = float(np.median(theirs @ theirs[0]))
            say(f"{dtype}: cosines between both at least {cosines.min():.6f}; between images {spread:.3f}")
            if cosines.min() < 0.999:
                sys.exit(f"{dtype}: the embeddings differ: cosine {cosines.min():.6f}; no speed is compared")
            rates = []
            for number in range(args.rounds):
                run_ours = lambda: our_run(args, files, model, dtype, work / "run")[0]
                run_theirs = lambda: peer.run(loader)[0]
                first, second = (run_ours, run_theirs) if number % 2 == 0 else (run_theirs, run_ours)
                a, b = first(), second()
                seconds = (a, b) if number % 2 == 0 else (b, a)
                rates.append(tuple(len(paths) / s for s in seconds))
                say(f"round {number + 1}: clipsift {rates[-1][0]:.1f}, PyTorch {rates[-1][1]:.1f} images/s")
            ours, theirs = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
            with_ = f"{workers} workers, batch {batch}"
            table.append(f"| {dtype} | {ours:.1f} | {theirs:.1f} ({with_}) | {ratios(rates)} | {cosines.min():.6f} |")
            del loader, peer
    print(machine(f", PyTorch {torch.__version__}, transformers {transformers.__version__}, Pillow {Image.__version__}, clipsift {version}"))
    print(f"{len(paths)} JPEGs around 500 x 375, CLIP B/32 with random weights, {args.rounds} pairs of runs.\n")
    print("| folder to embeddings | clipsift, images/s | PyTorch, images/s | ratio | lowest cosine |\n|---|---|---|---|---|")
    print("\n".join(table))


# ---------------------------------------------------------------------------------------------------------------------
# curate


def run_measured(command):
    """(wall seconds, CPU seconds, peak bytes) of a command that must end well."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    if status:
        sys.exit(f"{' '.join(map(str, command))} ended with {os.waitstatus_to_exitcode(status)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def curate(args):
    if not args.files:
        sys.exit("--part curate needs --files: a folder that make_jpegs.py --subfolders made")
    folders = sorted(path for path in args.files.iterdir() if path.is_dir())
    sizes = [sum(1 for _ in folder.iterdir()) for folder in folders]
    for path in (path for folder in folders[:20] for path in folder.iterdir()):
        path.read_bytes()  # the page cache has them, so that no disk is measured
    table = []
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for count in args.counts:
            taken = [folder for i, folder in enumerate(folders) if sum(sizes[:i]) < count]
            if sum(sizes) < count:
                say(f"{args.files} has {sum(sizes)} files, not {count}")
                continue
            command = [args.binary, "curate", *taken, "--model", "builtin", "--device", "cpu", "--out", Path(work) / "run", "--overwrite"]
            wall, cpu, peak = run_measured(command)
            seconds = json.loads((Path(work) / "run" / "run.json").read_text())["seconds"]
            say(f"{count}: {seconds}")
            share = cpu / len(os.sched_getaffinity(0))
            table.append(f"| {count:,} | {wall:.1f} | {cpu:.1f} | {wall / share:.3f} | {count / wall:.0f} | {peak / 2**20:.0f} |")
    print(machine())
    print("`curate --model builtin` over JPEGs around 500 x 375.\n")
    print("| files | wall, s | CPU, s | wall / (CPU / cores) | images/s | peak, MiB |\n|---|---|---|---|---|---|")
    print("\n".join(table))


def main():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["decode", "pipeline", "curate"], default="pipeline")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, help="JPEGs to make: 40 for decode, 512 for pipeline")
    parser.add_argument("--seconds", type=float, default=2.0, help="decode: of each measurement")
    parser.add_argument("--bench-binary", help="decode: the executable of benches/decode_resize.rs; built by cargo otherwise")
    parser.add_argument("--binary", default="target/release/clipsift")
    parser.add_argument("--dtypes", default="f32", type=lambda s: s.split(","), help="pipeline: f32, bf16")
    parser.add_argument("--files", type=Path, help="pipeline: a folder of .jpg instead of made ones; curate: the folder")
    parser.add_argument("--counts", type=numbers, default=[5000, 20000, 100000], help="curate: of files")
    parser.add_argument("--model", type=Path, help="pipeline: a model folder instead of B/32 with random weights")
    parser.add_argument("--batch-size", type=int, help="pipeline: clipsift's, instead of its own choice")
    parser.add_argument("--workers", type=numbers, default=[0, 1, 2], help="pipeline: PyTorch's, to choose from")
    parser.add_argument("--batch-sizes", type=numbers, default=[16, 64], help="pipeline: PyTorch's, to choose from")
    parser.add_argument("--work", help="where the temporary files go")
    args = parser.parse_args()
    args.pictures = args.pictures or {"decode": 40}.get(args.part, 512)
    {"decode": compare_decode, "pipeline": compare_pipeline, "curate": curate}[args.part](args)


if __name__ == "__main__":
    main()

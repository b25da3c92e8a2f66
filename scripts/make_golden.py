#!/usr/bin/env python3
"""Writes the small fixtures under tests/data that hold clipsift to Pillow and Hugging Face transformers.

    pip install -r scripts/requirements.txt
    python scripts/make_golden.py                  # everything
    python scripts/make_golden.py clip resize      # only these parts
    python scripts/make_golden.py full --out DIR   # towers of full size, for the ignored tests; 1.6 GB, not committed

Each part is one function of this file and one or more folders of the output. The same versions give the same bytes, so
a run that changes a committed file is a finding, not noise. Nothing here is needed to build or to test clipsift.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

MASK = (1 << 64) - 1


def check_versions(*names):
    """Stops when an installed package (one of `names`, if any) is not the one that requirements.txt pins."""
    for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, want = line.strip().split("==")
            if names and name not in names:
                continue
            have = importlib.metadata.version(name).split("+")[0]
            assert have == want, f"{name} {want} is pinned, {have} is installed: pip install -r scripts/requirements.txt"


def fresh(folder):
    """An empty folder in place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def json_text(value, indent=0):
    """JSON with whatever fits on one line on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= 240 and indent or not isinstance(value, (dict, list)):
        return flat
    pad = "\n" + " " * (indent + 1)
    items = ([f"{json.dumps(key, ensure_ascii=False)}: {json_text(item, indent + 1)}" for key, item in value.items()]
             if isinstance(value, dict) else [json_text(item, indent + 1) for item in value])
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return begin + pad + ("," + pad).join(items) + "\n" + " " * indent + end


def write_json(path, value):
    path.write_text(json_text(value) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Pixels from a formula, so that a test can draw the source again instead of reading it.

PATTERN_FORMULA = {
    "pixel": "byte(x, y, c) for column x < w, row y < h, channel c of RGB; all divisions floor, all values non-negative",
    "noise": "i = (y*w + x)*3 + c; z = seed + (i + 1)*0x9E3779B97F4A7C15; z = (z ^ z>>30)*0xBF58476D1CE4E5B9; "
             "z = (z ^ z>>27)*0x94D049BB133111EB; z ^= z>>31; byte = z >> 56 (u64, wrapping: splitmix64)",
    "gradient": "c=0: 255*x/max(w-1,1); c=1: 255*y/max(h-1,1); c=2: 255*(x+y)/max(w+h-2,1)",
    "blend": "(3*gradient + noise)/4",
    "checks": "255 if (x/5 + y/3 + c) is odd, else 0",
}


def pattern(kind, w, h, seed):
    """The u8 [h, w, 3] picture that PATTERN_FORMULA describes."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    with np.errstate(over="ignore"):
        z = np.uint64(seed & MASK) + (np.arange(h * w * 3, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        noise = ((z ^ (z >> np.uint64(31))) >> np.uint64(56)).astype(np.int64).reshape(h, w, 3)
    ramps = [255 * x // max(w - 1, 1), 255 * y // max(h - 1, 1), 255 * (x + y) // max(w + h - 2, 1)]
    gradient = np.choose(c, ramps)
    pixels = {
        "noise": noise,
        "gradient": gradient,
        "blend": (3 * gradient + noise) // 4,
        "checks": ((x // 5 + y // 3 + c) & 1) * 255,
    }[kind]
    return pixels.astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# clip: random-weight CLIP folders as the hub has them, and what transformers makes of them.


def tower_weights(rng, prefix, hidden, intermediate, layers):
    """Encoder layers in hub names. The scales are well above those of training, so that unlike images part widely."""
    weights = {}

    def linear(name, rows, columns, gain):
        weights[f"{name}.weight"] = rng.normal(0, gain / np.sqrt(columns), (rows, columns))
        weights[f"{name}.bias"] = rng.normal(0, 0.1, rows)

    for layer in range(layers):
        at = f"{prefix}.encoder.layers.{layer}"
        for name, gain in [("k_proj", 1.6), ("v_proj", 1.2), ("q_proj", 1.6), ("out_proj", 1.2)]:
            linear(f"{at}.self_attn.{name}", hidden, hidden, gain)
        linear(f"{at}.mlp.fc1", intermediate, hidden, 1.4)
        linear(f"{at}.mlp.fc2", hidden, intermediate, 1.4)
        for name in ("layer_norm1", "layer_norm2"):
            norm_weights(rng, weights, f"{at}.{name}", hidden)
    return weights


def norm_weights(rng, weights, name, hidden):
    weights[f"{name}.weight"] = rng.normal(1, 0.2, hidden)
    weights[f"{name}.bias"] = rng.normal(0, 0.2, hidden)


def vision_weights(rng, vision, projection_dim):
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    tokens = (vision["image_size"] // patch) ** 2 + 1
    weights = tower_weights(rng, "vision_model", hidden, vision["intermediate_size"], vision["num_hidden_layers"])
    at = "vision_model.embeddings"
    weights[f"{at}.class_embedding"] = rng.normal(0, 0.2, hidden)
    weights[f"{at}.patch_embedding.weight"] = rng.normal(0, 3 / np.sqrt(3 * patch * patch), (hidden, 3, patch, patch))
    weights[f"{at}.position_embedding.weight"] = rng.normal(0, 0.2, (tokens, hidden))
    norm_weights(rng, weights, "vision_model.pre_layrnorm", hidden)
    norm_weights(rng, weights, "vision_model.post_layernorm", hidden)
    weights["visual_projection.weight"] = rng.normal(0, 1 / np.sqrt(hidden), (projection_dim, hidden))
    weights = {name: value.astype(np.float32) for name, value in sorted(weights.items())}
    # Files saved by transformers before 4.31 hold this buffer, and most CLIPs on the hub are that old.
    weights[f"{at}.position_ids"] = np.arange(tokens, dtype=np.int64)[None]
    return weights


def halves_exactly(value):
    """Matrices rounded to what f16 can hold, still f32; everything else as it is."""
    return value.astype(np.float16).astype(np.float32) if value.dtype == np.float32 and value.ndim > 1 else value


def text_weights(rng, text, projection_dim):
    hidden, length = text["hidden_size"], text["max_position_embeddings"]
    weights = tower_weights(rng, "text_model", hidden, text["intermediate_size"], text["num_hidden_layers"])
    weights["text_model.embeddings.token_embedding.weight"] = rng.normal(0, 0.5, (text["vocab_size"], hidden))
    weights["text_model.embeddings.position_embedding.weight"] = rng.normal(0, 0.5, (length, hidden))
    norm_weights(rng, weights, "text_model.final_layer_norm", hidden)
    weights["text_projection.weight"] = rng.normal(0, 1 / np.sqrt(hidden), (projection_dim, hidden))
    weights["logit_scale"] = np.array(np.log(100))
    weights = {name: value.astype(np.float32) for name, value in sorted(weights.items())}
    weights["text_model.embeddings.position_ids"] = np.arange(length, dtype=np.int64)[None]
    return weights


# Five unlike pictures of odd sizes: what the processor gets.
CLIP_SOURCES = [("blend", 61, 47, 1), ("checks", 33, 97, 2), ("noise", 51, 51, 3), ("gradient", 129, 35, 4), ("blend", 23, 29, 5)]


def clip_expected(folder, model):
    """Inputs, hidden states and embeddings of the five sources through transformers, computed in f64, stored as f32.

    `hidden_0` is what enters the first layer (after pre_layrnorm), `hidden_k` what leaves layer k.
    """
    import torch
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(folder)
    pictures = [Image.fromarray(pattern(*source)) for source in CLIP_SOURCES]
    pixel_values = processor(pictures, return_tensors="np")["pixel_values"]
    cropped = processor(pictures, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    assert cropped.dtype == np.uint8 and pixel_values.dtype == np.float32

    def run(model, dtype):
        model = model.to(dtype)
        pixels = torch.from_numpy(pixel_values).to(dtype)
        with torch.no_grad():
            out = model.vision_model(pixels, output_hidden_states=True)
            embeds = model.visual_projection(out.pooler_output)
        layers = model.vision_model.config.num_hidden_layers
        assert len(out.hidden_states) == layers + 1
        assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
        return [state.double().numpy() for state in out.hidden_states], embeds.double().numpy()

    _, embeds32 = run(model, torch.float32)
    hidden, embeds = run(model, torch.float64)
    unit = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    unit32 = embeds32 / np.linalg.norm(embeds32, axis=1, keepdims=True)
    assert np.abs(unit - unit32).max() < 1e-5, "f32 strays from f64: the weights are too wild for a golden"
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    assert cosines.max() < 0.97 and np.ptp(cosines) > 0.25, f"the pictures look alike to this tower: {cosines}"
    expected = {"pixel_u8": np.ascontiguousarray(cropped.transpose(0, 2, 3, 1)), "pixel_values": pixel_values}
    expected |= {f"hidden_{k}": state.astype(np.float32) for k, state in enumerate(hidden)}
    expected |= {"image_embeds": embeds.astype(np.float32), "unit": unit.astype(np.float32)}
    return expected


def load_checked(architecture, folder):
    """The model, after making sure that transformers found every tensor in the folder."""
    model, info = architecture.from_pretrained(folder, attn_implementation="sdpa", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return model.eval()


def make_clip(data):
    """tiny-clip, tiny-clip-gelu, tiny-clip-bin."""
    import torch
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    # tiny-clip: a full CLIPModel. As in many hub configs the vision part repeats the default projection_dim of 512, and
    # only the outer one holds; sizes in the preprocessor are bare integers.
    rng = np.random.Generator(np.random.PCG64(20240))
    d = 40
    vision = dict(model_type="clip_vision_model", hidden_size=64, intermediate_size=80, num_hidden_layers=2, num_attention_heads=2,
                  image_size=32, patch_size=8, num_channels=3, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512,
                  attention_dropout=0.0, dropout=0.0, initializer_factor=1.0, initializer_range=0.02)
    text = dict(model_type="clip_text_model", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=9, vocab_size=50, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512,
                bos_token_id=0, eos_token_id=2, pad_token_id=1)
    config = dict(architectures=["CLIPModel"], initializer_factor=1.0, logit_scale_init_value=2.6592, model_type="clip",
                  projection_dim=d, text_config=text, text_config_dict=None, torch_dtype="float32", transformers_version=None,
                  vision_config=vision, vision_config_dict=None)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    preprocessor = dict(crop_size=32, do_center_crop=True, do_normalize=True, do_resize=True,
                        feature_extractor_type="CLIPFeatureExtractor", image_mean=mean, image_std=std, resample=3, size=32)
    folder = fresh(data / "tiny-clip")
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", preprocessor)
    towers = {name: halves_exactly(value) for name, value in vision_weights(rng, vision, d).items()}
    save_file(towers | text_weights(rng, text, d), folder / "model.safetensors", metadata={"format": "pt"})
    expected = clip_expected(folder, load_checked(CLIPModel, folder))
    save_file(expected, folder / "expected.safetensors")

    # tiny-clip-bin: the vision part of the same, pickled. Its matrices are stored as f16, without loss.
    folder = fresh(data / "tiny-clip-bin")
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", preprocessor)
    halves = {name: torch.from_numpy(value).to(torch.float16 if value.dtype == np.float32 and value.ndim > 1 else None)
              for name, value in towers.items()}
    assert all(torch.equal(half.to(torch.from_numpy(towers[name]).dtype), torch.from_numpy(towers[name])) for name, half in halves.items())
    torch.save(halves, folder / "pytorch_model.bin")
    save_file({name: expected[name] for name in ("pixel_u8", "image_embeds", "unit")}, folder / "expected.safetensors")

    # tiny-clip-gelu: vision only, in two shards. A patch that leaves three pixels over, a head of 16, another eps, another
    # mean and deviation for each channel, sizes in the preprocessor as objects.
    rng = np.random.Generator(np.random.PCG64(20241))
    vision = dict(architectures=["CLIPVisionModelWithProjection"], model_type="clip_vision_model", hidden_size=32,
                  intermediate_size=52, num_hidden_layers=2, num_attention_heads=2, image_size=31, patch_size=7, num_channels=3,
                  hidden_act="gelu", layer_norm_eps=1e-6, projection_dim=24)
    folder = fresh(data / "tiny-clip-gelu")
    write_json(folder / "config.json", vision)
    write_json(folder / "preprocessor_config.json", dict(
        crop_size=dict(height=31, width=31), do_center_crop=True, do_convert_rgb=True, do_normalize=True, do_rescale=True,
        do_resize=True, image_mean=[0.5, 0.45, 0.4], image_processor_type="CLIPImageProcessor", image_std=[0.25, 0.27, 0.29],
        resample=3, rescale_factor=1 / 255, size=dict(shortest_edge=31)))
    weights = vision_weights(rng, vision, 24)
    del weights["vision_model.embeddings.position_ids"]
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / shard, metadata={"format": "pt"})
    write_json(folder / "model.safetensors.index.json", {
        "metadata": {"total_size": sum(value.nbytes for value in weights.values())},
        "weight_map": {name: shard for shard, held in shards.items() for name in held}})
    save_file(clip_expected(folder, load_checked(CLIPVisionModelWithProjection, folder)), folder / "expected.safetensors")


# ---------------------------------------------------------------------------------------------------------------------
# full: vision towers of the published sizes with random weights. Too large to commit; their seed is what stands here.

FULL_TOWERS = {
    "vit-b-32": (20250, 512, dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32)),
    "vit-l-14": (20251, 768, dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)),
}
FULL_SOURCES = [("blend", 224, 224, 6), ("checks", 224, 224, 7)]


def make_full(out):
    """vit-b-32 and vit-l-14: config.json, preprocessor_config.json, model.safetensors, and two pictures' unit embeddings."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    for name, (seed, d, shape) in FULL_TOWERS.items():
        vision = dict(model_type="clip_vision_model", image_size=224, num_channels=3, hidden_act="quick_gelu", layer_norm_eps=1e-5,
                      projection_dim=d, **shape)
        folder = fresh(out / name)
        write_json(folder / "config.json", dict(architectures=["CLIPModel"], model_type="clip", projection_dim=d, vision_config=vision))
        write_json(folder / "preprocessor_config.json", dict(
            crop_size=224, do_center_crop=True, do_normalize=True, do_resize=True, feature_extractor_type="CLIPFeatureExtractor",
            image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711], resample=3, size=224))
        save_file(vision_weights(np.random.Generator(np.random.PCG64(seed)), vision, d), folder / "model.safetensors", metadata={"format": "pt"})

        pixels = np.stack([pattern(*source) for source in FULL_SOURCES])
        processor = CLIPImageProcessorPil.from_pretrained(folder)
        values = torch.from_numpy(processor([Image.fromarray(p) for p in pixels], return_tensors="np")["pixel_values"])
        model = load_checked(CLIPVisionModelWithProjection, folder)

        def unit(dtype):
            with torch.no_grad():
                rows = model.to(dtype)(values.to(dtype)).image_embeds.double().numpy()
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        single, double = unit(torch.float32), unit(torch.float64)
        stray, cosine = np.abs(single - double).max(), double[0] @ double[1]
        print(f"{name}: transformers in f32 strays from f64 by {stray:.1e}; cosine of the two pictures {cosine:.3f}")
        assert cosine < 0.9, "the pictures look alike to this tower"
        save_file({"pixel_u8": pixels, "unit": double.astype(np.float32)}, folder / "expected.safetensors")


# ---------------------------------------------------------------------------------------------------------------------
# resize: Hugging Face's PIL processor, as hashes for all cases and as pixels for the small ones.

RESIZE_SIZES = [(61, 997), (997, 61), (1, 1), (2, 3), (5, 1), (1, 600), (600, 1), (223, 225), (224, 224), (225, 224),
                (500, 375), (375, 500), (333, 777)]
RESIZE_EXTRA = [  # width, height, target, pattern
    (32, 32, 32, "noise"), (32, 33, 32, "noise"), (35, 32, 32, "noise"), (48, 91, 48, "noise"), (31, 31, 32, "noise"),
    (33, 33, 32, "checks"), (64, 64, 32, "checks"), (65, 63, 32, "checks"), (97, 96, 48, "checks"), (47, 49, 48, "checks"),
    (17, 19, 48, "checks"), (224, 225, 224, "noise"), (226, 224, 224, "noise"), (225, 225, 224, "checks"),
    (448, 336, 224, "checks"), (111, 113, 224, "checks"), (640, 427, 224, "blend"), (427, 640, 224, "blend"),
    (1023, 769, 224, "noise"), (101, 103, 45, "blend"), (103, 101, 45, "noise"), (337, 337, 336, "blend"),
]
SQUASH_SIZES = [  # width, height, target: larger and smaller, both ways, one way and the other, around the order of the passes
    (61, 997, 32), (997, 61, 32), (1, 1, 32), (1, 600, 32), (600, 1, 32), (31, 33, 32), (33, 31, 32), (32, 32, 32), (20, 90, 32),
    (90, 20, 32), (40, 48, 32), (40, 49, 32), (500, 375, 96), (375, 500, 96), (333, 777, 96), (97, 95, 96), (95, 97, 96),
    (640, 427, 224), (101, 1023, 224), (225, 224, 224),
]


def make_resize(data):
    """resize/cases.json and resize/expected.safetensors."""
    from transformers import CLIPImageProcessorPil

    folder = fresh(data / "resize")
    patterns = ["blend", "checks", "noise"]
    cases = [(w, h, size, patterns[(row + column) % 3])
             for row, (w, h) in enumerate(RESIZE_SIZES) for column, size in enumerate((32, 48, 224))] + RESIZE_EXTRA
    listed, stored = [], {}

    def keep(name, ours, case):
        listed.append({"name": name, **case, "sha256": hashlib.sha256(ours.tobytes()).hexdigest()})
        if case["size"] < 48:
            stored[name] = ours
        else:
            # Enough to see how a mismatch looks: the first, the middle and the last row.
            stored[f"{name}/rows"] = np.ascontiguousarray(ours[[0, case["size"] // 2, case["size"] - 1]])

    for seed, (w, h, size, kind) in enumerate(cases, start=1000):
        source = Image.fromarray(pattern(kind, w, h, seed))
        # The rule in words: shortest edge to `size`, the other edge truncated, floor of half the margin cut on each side.
        short, long = min(w, h), max(w, h)
        other = int(size * long / short)
        resized = (size, other) if w <= h else (other, size)
        left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
        ours = np.array(source.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + size, top + size)))
        processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        theirs = processor(source, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(ours, theirs.transpose(1, 2, 0)), (w, h, size, kind)
        keep(f"{w}x{h}-to-{size}-{kind}", ours, {"w": w, "h": h, "size": size, "pattern": kind, "seed": seed, "resized": resized,
                                                 "left": left, "top": top})
    for seed, (w, h, size) in enumerate(SQUASH_SIZES, start=2000):
        kind = patterns[seed % 3]
        source = Image.fromarray(pattern(kind, w, h, seed))
        ours = np.array(source.resize((size, size), Image.Resampling.BICUBIC))
        processor = CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False)
        theirs = processor(source, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(ours, theirs.transpose(1, 2, 0)), (w, h, size, kind)
        keep(f"{w}x{h}-squashed-to-{size}-{kind}", ours, {"w": w, "h": h, "size": size, "pattern": kind, "seed": seed, "squashed": True})
    write_json(folder / "cases.json", {
        "what": "CLIPImageProcessorPil up to the crop: shortest edge to `size` (the other edge int(size*long/short), in f64), Pillow "
                "bicubic on RGB8, then `size` x `size` from the centre, offset floor((n - size)/2). The sha256 is over the "
                "RGB bytes, row by row. After a shortest-edge resize the crop always fits, so the processor's zero padding never happens. "
                "`squashed`: a size of two edges and no crop, the whole image to `size` x `size`.",
        "pattern": PATTERN_FORMULA,
        "expected": "expected.safetensors: `NAME` u8 [size, size, 3] for size < 48, `NAME/rows` u8 [3, size, 3] with rows 0, size/2 and "
                    "size-1 above that",
        "cases": listed,
    })
    save_file(stored, folder / "expected.safetensors")


# ---------------------------------------------------------------------------------------------------------------------
# formats: one picture in every format and colour mode, and the RGB that Pillow makes of it.


CLIPPED = "Pillow clips 16-bit grey at 255, so nearly everything turns white; NAME/high-byte holds the high bytes"


def with_black(picture):
    """CMYK with ink in all four channels: Pillow's own conversion leaves K at 0."""
    cmy = 255 - np.array(picture).astype(np.int64)
    k = cmy.min(axis=2, keepdims=True) * 3 // 4
    return Image.fromarray(np.concatenate([(cmy - k) * 255 // (255 - k), k], axis=2).astype(np.uint8), "CMYK")


def base_picture():
    """27 x 19: smooth ramps under noise, a hard-edged block, a thin line and flat corners in black, white and red."""
    w, h = 27, 19
    pixels = pattern("blend", w, h, 77)
    pixels[5:11, 9:17] = (20, 60, 220)
    for y in range(h):
        pixels[y, min(w - 1, y + 3)] = (255, 240, 0)
    pixels[:4, -4:] = 255
    pixels[-4:, :4] = 0
    pixels[-4:, -4:] = (230, 10, 10)
    return Image.fromarray(pixels)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(w, h, depth, colour, rows, extra=(), interlaced=False):
    """A PNG around scanlines that are packed already. `extra` chunks stand before the data."""
    header = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlaced))
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def pack_bits(values, depth):
    """A row of small integers as bits, first pixel in the high bits, padded to a byte."""
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at:at + 8], 2) for at in range(0, len(bits), 8))


def adam7(pixels, pack):
    """The scanlines of the seven passes; `pack` makes one row of pixels into bytes."""
    for y0, x0, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]:
        part = pixels[y0::dy, x0::dx]
        if part.size:
            yield from (pack(row) for row in part)


def png_files(picture):
    rgb = np.array(picture)
    h, w, _ = rgb.shape
    grey = np.array(picture.convert("L"))
    alpha = ((np.arange(h)[:, None] * 29 + np.arange(w) * 11) % 256).astype(np.uint8)
    # Sixteen bits whose low byte matters to whoever rounds instead of truncating.
    wide = rgb.astype(np.uint16) * 256 + pattern("noise", w, h, 5)
    wide_grey = grey.astype(np.uint16) * 256 + pattern("noise", w, h, 6)[..., 0]
    wide_alpha = alpha.astype(np.uint16) * 256 + 77
    big = lambda rows: [row.astype(">u2").tobytes() for row in rows]
    palette = picture.quantize(13, dither=Image.Dither.NONE)
    entries = palette.getpalette("RGB")[: 13 * 3]
    index = np.array(palette)
    plte = (b"PLTE", bytes(entries))
    exif = Image.Exif()
    exif[0x0112] = 8
    yield "png-bit1.png", png(w, h, 1, 0, [pack_bits(row, 1) for row in grey >> 7]), ""
    yield "png-grey2.png", png(w, h, 2, 0, [pack_bits(row, 2) for row in grey >> 6]), ""
    yield "png-grey4.png", png(w, h, 4, 0, [pack_bits(row, 4) for row in grey >> 4]), ""
    yield "png-grey8.png", png(w, h, 8, 0, grey.reshape(h, -1)), ""
    yield "png-grey8-trns.png", png(w, h, 8, 0, grey, [(b"tRNS", struct.pack(">H", int(grey[6, 10])))]), "one grey is transparent; alpha is dropped"
    yield "png-grey16.png", png(w, h, 16, 0, big(wide_grey)), CLIPPED
    yield "png-la8.png", png(w, h, 8, 4, np.dstack([grey, alpha]).reshape(h, -1)), "alpha is dropped"
    yield "png-la16.png", png(w, h, 16, 4, big(np.dstack([wide_grey, wide_alpha]).reshape(h, -1))), "high byte; alpha is dropped"
    yield "png-rgb8.png", png(w, h, 8, 2, rgb.reshape(h, -1)), ""
    yield "png-rgb8-trns.png", png(w, h, 8, 2, rgb.reshape(h, -1), [(b"tRNS", struct.pack(">HHH", 20, 60, 220))]), "one colour is transparent; alpha is dropped"
    yield "png-rgb16.png", png(w, h, 16, 2, big(wide.reshape(h, -1))), "high byte"
    yield "png-rgba8.png", png(w, h, 8, 6, np.dstack([rgb, alpha]).reshape(h, -1)), "alpha is dropped, also where it is 0"
    yield "png-rgba16.png", png(w, h, 16, 6, big(np.dstack([wide, wide_alpha]).reshape(h, -1))), "high byte; alpha is dropped"
    yield "png-palette8.png", png(w, h, 8, 3, index, [plte]), ""
    yield "png-palette4.png", png(w, h, 4, 3, [pack_bits(row, 4) for row in index], [plte]), ""
    yield "png-palette1.png", png(w, h, 1, 3, [pack_bits(row, 1) for row in grey >> 7], [(b"PLTE", bytes([200, 30, 30, 20, 220, 140]))]), ""
    yield "png-palette-trns.png", png(w, h, 8, 3, index, [plte, (b"tRNS", bytes(range(0, 250, 25)))]), "alpha for ten of the entries; alpha is dropped"
    yield "png-palette-trns-one.png", png(w, h, 8, 3, index, [plte, (b"tRNS", b"\xff\xff\xff\0")]), "a single transparent entry; alpha is dropped"
    yield "png-adam7-rgb8.png", png(w, h, 8, 2, adam7(rgb, lambda row: row.tobytes()), interlaced=True), "interlaced"
    yield "png-adam7-bit1.png", png(w, h, 1, 0, adam7(grey >> 7, lambda row: pack_bits(row, 1)), interlaced=True), "interlaced"
    yield "png-exif-orientation8.png", png(w, h, 8, 2, rgb.reshape(h, -1), [(b"eXIf", exif.tobytes()[6:])]), "orientation in an eXIf chunk"
    yield "png-gamma.png", png(w, h, 8, 2, rgb.reshape(h, -1), [(b"gAMA", struct.pack(">I", 100000))]), "a gAMA chunk changes nothing"
    flipped = ImageOps.flip(picture)
    yield "png-animated.png", saved(picture, "PNG", save_all=True, append_images=[flipped]), "APNG: the first picture"


def saved(picture, format, **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def exif_orientation(value, big_endian=False):
    """An EXIF block whose first directory holds the orientation tag alone."""
    order = ">" if big_endian else "<"
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", 8)
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, value, 0)
    return b"Exif\0\0" + head + struct.pack(order + "H", 1) + entry + struct.pack(order + "I", 0)


def jpeg_files(picture):
    base = dict(format="JPEG", quality=88)
    yield "jpeg-444.jpg", saved(picture, subsampling=0, **base), ""
    yield "jpeg-422.jpg", saved(picture, subsampling=1, **base), ""
    yield "jpeg-420.jpg", saved(picture, subsampling=2, **base), ""
    yield "jpeg-grey.jpg", saved(picture.convert("L"), **base), ""
    yield "jpeg-progressive.jpg", saved(picture, progressive=True, subsampling=2, **base), ""
    yield "jpeg-restart.jpg", saved(picture, restart_marker_blocks=1, subsampling=0, **base), "a restart marker after each block"
    yield "jpeg-rgb.jpg", saved(picture, keep_rgb=True, **base), "stored as RGB, Adobe transform 0"
    cmyk = saved(with_black(picture), **base)
    marker = cmyk.index(b"\xff\xee")
    adobe = 2 + struct.unpack(">H", cmyk[marker + 2:marker + 4])[0]
    transform = marker + adobe - 1
    assert cmyk[marker + 4:marker + 9] == b"Adobe" and cmyk[transform] == 0
    yield "jpeg-cmyk-adobe.jpg", cmyk, "inverted CMYK as Adobe writes it"
    yield "jpeg-cmyk-plain.jpg", cmyk[:marker] + cmyk[marker + adobe:], "the same without the Adobe marker: Pillow takes it as inverted too"
    yield "jpeg-ycck-adobe.jpg", cmyk[:transform] + b"\2" + cmyk[transform + 1:], "Adobe transform 2: the same numbers read as YCCK"
    # Stored turned, so that each comes out upright.
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> Image.Transpose that stores it
    for value, turn in undo.items():
        stored = picture if turn is None else picture.transpose(Image.Transpose(turn))
        yield f"jpeg-orientation{value}.jpg", saved(stored, exif=exif_orientation(value), subsampling=0, **base), ""
    yield "jpeg-orientation6-big-endian.jpg", saved(picture, exif=exif_orientation(6, True), subsampling=0, **base), ""
    yield "jpeg-orientation9.jpg", saved(picture, exif=exif_orientation(9), subsampling=0, **base), "no such orientation: left alone"
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description ' \
             b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    yield "jpeg-xmp-orientation6.jpg", saved(picture, xmp=packet, subsampling=0, **base), "orientation in XMP only, which Pillow follows"


def webp_files(picture):
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    holed = np.array(alpha)
    holed[2:9, 3:12, 3] = 0
    holed = Image.fromarray(holed)
    yield "webp-lossy.webp", saved(picture, "WEBP", quality=85), ""
    yield "webp-lossless.webp", saved(picture, "WEBP", lossless=True), ""
    yield "webp-lossy-alpha.webp", saved(alpha, "WEBP", quality=85), "alpha is dropped"
    yield "webp-lossless-alpha.webp", saved(holed, "WEBP", lossless=True, exact=True), "alpha is dropped; colours under alpha 0 are kept"
    yield "webp-orientation5.webp", saved(picture, "WEBP", lossless=True, exif=exif_orientation(5)), ""
    frames = [ImageOps.mirror(picture), ImageOps.flip(picture)]
    yield "webp-animated.webp", saved(picture, "WEBP", lossless=True, save_all=True, append_images=frames, duration=80), "first frame"
    yield "webp-animated-alpha.webp", saved(holed, "WEBP", lossless=True, exact=True, save_all=True, append_images=frames, duration=80), "first frame, alpha dropped; the animation decoder makes pixels of alpha 0 black"


def lzw_literal(indices):
    """GIF image data for 8-bit indices: nine-bit codes only, the table cleared before it would grow to ten bits."""
    codes, out, bits, held = [], bytearray(), 0, 0
    for at in range(0, len(indices), 250):
        codes += [256, *indices[at:at + 250]]
    for code in [*codes, 257]:
        held |= code << bits
        bits += 9
        while bits >= 8:
            out.append(held & 255)
            held >>= 8
            bits -= 8
    out.append(held & 255)
    blocks = b"".join(bytes([len(out[at:at + 255])]) + bytes(out[at:at + 255]) for at in range(0, len(out), 255))
    return b"\x08" + blocks + b"\0"


def gif(canvas, frames, palette, background=0):
    """A GIF by hand. `frames`: (left, top, index array, transparent index or None, interlaced)."""
    out = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0xF7, background, 0) + bytes(palette).ljust(768, b"\x40")
    for left, top, index, transparent, interlaced in frames:
        flags, key = (0, 0) if transparent is None else (1, transparent)
        out += b"\x21\xf9\x04" + struct.pack("<BHB", flags, 5, key) + b"\0"
        h, w = index.shape
        if interlaced:
            index = np.concatenate([index[0::8], index[4::8], index[2::4], index[1::2]])
        out += b"," + struct.pack("<HHHHB", left, top, w, h, 0x40 if interlaced else 0) + lzw_literal(index.ravel().tolist())
    return out + b";"


def gif_files(picture):
    palette = picture.quantize(60, dither=Image.Dither.NONE)
    entries, index = palette.getpalette("RGB")[:180], np.array(palette)
    w, h = picture.size
    key = int(index[7, 12])
    yield "gif-static.gif", gif((w, h), [(0, 0, index, None, False)], entries), ""
    yield "gif-interlaced.gif", gif((w, h), [(0, 0, index, None, True)], entries), ""
    yield "gif-transparent.gif", gif((w, h), [(0, 0, index, key, False)], entries), "the transparent index keeps its palette colour"
    yield "gif-animated.gif", gif((w, h), [(0, 0, index, None, False), (4, 3, index[::-1, ::-1][:9, :9], None, False)], entries), "first frame"
    yield "gif-offset-frame.gif", gif((w, h), [(5, 4, index[4:15, 5:20], None, False)], entries, background=7), "the frame covers a part of the canvas; the rest is palette entry 0, whatever the background index says"
    yield "gif-offset-frame-transparent.gif", gif((w, h), [(5, 4, index[4:15, 5:20], key, False)], entries, background=7), "the frame covers a part of the canvas; the rest is the palette colour of the transparent index"
    yield "gif-grey.gif", saved(picture.convert("L"), "GIF"), "as Pillow writes it"


def bmp(w, h, bits, rows, palette=b"", compression=0, masks=b"", top_down=False):
    """A BMP by hand; `rows` in file order, padded here to four bytes unless compressed."""
    body = b"".join(row + b"\0" * (-len(row) % 4) for row in rows) if compression in (0, 3) else b"".join(rows)
    info = struct.pack("<IiiHHIIiiII", 40, w, -h if top_down else h, 1, bits, compression, len(body), 2835, 2835, len(palette) // 4, 0)
    start = 14 + len(info) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + masks + palette + body


def bmp_files(picture):
    rgb = np.array(picture)
    h, w, _ = rgb.shape
    up = rgb[::-1]
    yield "bmp-rgb24.bmp", bmp(w, h, 24, [row[:, ::-1].tobytes() for row in up]), ""
    yield "bmp-rgb24-top-down.bmp", bmp(w, h, 24, [row[:, ::-1].tobytes() for row in rgb], top_down=True), ""
    yield "bmp-rgb32.bmp", bmp(w, h, 32, [np.dstack([row[None, :, ::-1], np.full((1, w), 9, np.uint8)]).tobytes() for row in up]), "the fourth byte is nothing"
    yield "bmp-rgba32.bmp", saved(Image.merge("RGBA", [*picture.split(), Image.linear_gradient("L").resize((w, h))]), "BMP"), "as Pillow writes RGBA"
    palette = picture.quantize(16, dither=Image.Dither.NONE)
    quads = np.array(palette.getpalette("RGB")[:48], np.uint8).reshape(16, 3)
    quads = b"".join(bytes([*quad[::-1], 0]) for quad in quads)
    index = np.array(palette)[::-1]
    yield "bmp-palette8.bmp", bmp(w, h, 8, [row.tobytes() for row in index], quads), ""
    yield "bmp-palette4.bmp", bmp(w, h, 4, [pack_bits(row, 4) for row in index], quads), ""
    yield "bmp-palette1.bmp", bmp(w, h, 1, [pack_bits(row & 1, 1) for row in index], b"\x10\x20\xc0\0\xf0\xe0\x40\0"), ""
    runs = [b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in index]
    yield "bmp-rle8.bmp", bmp(w, h, 8, [*runs, b"\0\1"], quads, compression=1), "run lengths"
    five = (up >> 3).astype(np.uint16)
    yield "bmp-rgb555.bmp", bmp(w, h, 16, [row.astype("<u2").tobytes() for row in five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]]), "within 1: Pillow has 255*v/31, floor"
    six = five[..., 0] << 11 | (up[..., 1].astype(np.uint16) >> 2) << 5 | five[..., 2]
    yield "bmp-rgb565.bmp", bmp(w, h, 16, [row.astype("<u2").tobytes() for row in six], compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)), "within 1: Pillow has 255*v/31 and 255*v/63, floor"
    yield "bmp-grey8.bmp", saved(picture.convert("L"), "BMP"), "as Pillow writes it"


def tiff(w, h, tags, body, order="<", strips=1):
    """A TIFF of equal strips by hand. `tags`: {number: (type, values)} with type 3 (u16) or 4 (u32)."""
    size = len(body) // strips
    tags = {256: (4, [w]), 257: (4, [h]), 259: (3, [1]), 278: (4, [h]), 279: (4, [size] * strips), 273: (4, [0] * strips)} | tags
    directory = 8
    spill_at = directory + 2 + 12 * len(tags) + 4
    sizes = [len(values) * (2 if kind == 3 else 4) for kind, values in tags.values()]
    data_at = spill_at + sum(bytes_ for bytes_ in sizes if bytes_ > 4)
    data_at += data_at % 2
    tags[273] = (4, [data_at + size * strip for strip in range(strips)])
    entries, spill = b"", b""
    for number, (kind, values) in sorted(tags.items()):
        raw = struct.pack(order + ("H" if kind == 3 else "I") * len(values), *values)
        if len(raw) > 4:
            entries += struct.pack(order + "HHII", number, kind, len(values), spill_at + len(spill))
            spill += raw
        else:
            entries += struct.pack(order + "HHI", number, kind, len(values)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    out = head + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0) + spill
    return out.ljust(data_at, b"\0") + body


def tiff_files(picture):
    rgb, grey = np.array(picture), np.array(picture.convert("L"))
    h, w, _ = rgb.shape
    wide = rgb.astype(np.uint16) * 256 + pattern("noise", w, h, 5)
    wide_grey = grey.astype(np.uint16) * 256 + pattern("noise", w, h, 6)[..., 0]
    alpha = Image.linear_gradient("L").resize((w, h))
    rgba = Image.merge("RGBA", [*picture.split(), alpha])
    yield "tiff-rgb8.tif", saved(picture, "TIFF"), ""
    yield "tiff-grey8.tif", saved(picture.convert("L"), "TIFF"), ""
    yield "tiff-grey8-white-is-zero.tif", tiff(w, h, {258: (3, [8]), 262: (3, [0]), 277: (3, [1])}, (255 - grey).tobytes()), ""
    yield "tiff-bit1.tif", saved(picture.convert("L").point(lambda v: v > 127 and 255, "1"), "TIFF"), ""
    yield "tiff-group4.tif", saved(picture.convert("L").point(lambda v: v > 127 and 255, "1"), "TIFF", compression="group4"), "fax coding"
    yield "tiff-grey16.tif", tiff(w, h, {258: (3, [16]), 262: (3, [1]), 277: (3, [1])}, wide_grey.astype("<u2").tobytes()), CLIPPED
    yield "tiff-grey16-big-endian.tif", tiff(w, h, {258: (3, [16]), 262: (3, [1]), 277: (3, [1])}, wide_grey.astype(">u2").tobytes(), ">"), CLIPPED
    yield "tiff-rgb16.tif", tiff(w, h, {258: (3, [16, 16, 16]), 262: (3, [2]), 277: (3, [3])}, wide.astype("<u2").tobytes()), "high byte"
    yield "tiff-rgb8-planar.tif", tiff(w, h, {258: (3, [8, 8, 8]), 262: (3, [2]), 277: (3, [3]), 284: (3, [2])}, rgb.transpose(2, 0, 1).tobytes(), strips=3), "one strip for each channel"
    yield "tiff-cmyk8.tif", saved(with_black(picture), "TIFF"), "channel = (255-k) - (255-k)*c/255, the product rounded"
    yield "tiff-lzw.tif", saved(picture, "TIFF", compression="tiff_lzw"), ""
    yield "tiff-lzw-predictor.tif", saved(picture, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}), ""
    yield "tiff-deflate.tif", saved(picture, "TIFF", compression="tiff_adobe_deflate"), ""
    yield "tiff-packbits.tif", saved(picture, "TIFF", compression="packbits"), ""
    yield "tiff-palette8.tif", saved(picture.quantize(40, dither=Image.Dither.NONE), "TIFF"), ""
    yield "tiff-rgba8.tif", saved(rgba, "TIFF"), "alpha is dropped"
    yield "tiff-la8.tif", saved(rgba.convert("LA"), "TIFF"), "alpha is dropped"
    yield "tiff-orientation6.tif", saved(picture, "TIFF", tiffinfo={274: 6}), ""
    yield "tiff-orientation3-lzw.tif", saved(picture, "TIFF", compression="tiff_lzw", tiffinfo={274: 3}), ""
    yield "tiff-pages.tif", saved(picture, "TIFF", save_all=True, append_images=[ImageOps.flip(picture)]), "first page"
    yield "tiff-jpeg.tif", saved(picture, "TIFF", compression="jpeg", quality=88), "JPEG inside"


NOT_EXACT = ("jpeg-", "webp-lossy.", "webp-lossy-", "tiff-jpeg", "bmp-rgb555", "bmp-rgb565")


def make_formats(data):
    """formats/*: the pictures, index.json and expected.safetensors."""
    folder = fresh(data / "formats")
    picture = base_picture()
    index, expected = {}, {}
    for maker in (jpeg_files, png_files, webp_files, gif_files, bmp_files, tiff_files):
        for name, body, note in maker(picture):
            (folder / name).write_bytes(body)
            opened = Image.open(folder / name)
            stored_mode = opened.mode
            upright = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
            h, w, _ = upright.shape
            index[name] = {"exact": not name.startswith(NOT_EXACT), "format": opened.format.lower(), "pillow_mode": stored_mode, "w": w, "h": h}
            if note:
                index[name]["note"] = note
            expected[name] = upright
            if note == CLIPPED:
                high = (np.array(opened).astype(np.uint32) >> 8).astype(np.uint8)
                expected[f"{name}/high-byte"] = np.repeat(high[..., None], 3, axis=2)
    write_json(folder / "index.json", {
        "what": 'ImageOps.exif_transpose(Image.open(file)).convert("RGB") in Pillow 13 for each file, u8 [h, w, 3] in expected.safetensors '
                "under the file's name",
        "exact": "true: the pixels must be equal. false: decoders differ in their rounding, allow a few units (or what the note says)",
        "files": index,
    })
    save_file(expected, folder / "expected.safetensors")


# ---------------------------------------------------------------------------------------------------------------------
# shards and hostile: inputs of every kind, whole and broken.


def scene(seed, w, h):
    """A small picture of smooth ground and a few flat shapes, so that it packs well. Each seed looks different."""
    from PIL import ImageDraw

    values = pattern("noise", 8, 8, seed).reshape(-1, 3).tolist()
    ground = Image.new("RGB", (2, 2))
    ground.putdata([tuple(value) for value in values[:4]])
    picture = ground.resize((w, h), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for shape in range(4):
        (a, b, kind), (r, s, _), colour = values[4 + 3 * shape: 7 + 3 * shape]
        x, y = a * w // 256, b * h // 256
        box = (x, y, x + w // 6 + r * w // 700, y + h // 6 + s * h // 700)
        [draw.ellipse, draw.rectangle][kind % 2](box, fill=tuple(colour))
    return picture


def scene_bytes(seed, w, h, suffix):
    if suffix in ("jpg", "jpeg"):
        return saved(scene(seed, w, h), "JPEG", quality=75)
    if suffix == "webp":
        return saved(scene(seed, w, h), "WEBP", quality=70)
    return saved(scene(seed, w, h).quantize(32, dither=Image.Dither.NONE), "PNG", optimize=True)


TAR_TIME = 1_700_000_000


def tar_member(name, body=b"", kind=tarfile.REGTYPE, format=tarfile.USTAR_FORMAT, link="", size=None):
    """A header in the given format, the body, and the padding to 512 bytes. `size` lets the header lie."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime, info.mode = kind, link, TAR_TIME, 0o644
    info.size = len(body) if size is None else size
    return info.tobuf(format, "utf-8", "surrogateescape") + body + b"\0" * (-len(body) % 512)


TAR_END = b"\0" * 1024


def shard_members():
    """For each shard, in order: (name, body, tar format)."""
    ustar, gnu, pax = tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
    caption = lambda seed: f"picture number {seed}\n".encode()
    facts = lambda seed: json.dumps({"seed": seed, "caption": f"picture number {seed}"}).encode()

    first = []
    for at, suffix in enumerate(["jpg", "png", "webp", "jpg", "jpeg", "png", "jpg", "webp"]):
        key, seed = f"{at:06d}", 100 + at
        image = scene_bytes(seed, 64 + 12 * at, 150 - 9 * at, suffix)
        first += [(f"{key}.{suffix}", image, ustar), (f"{key}.txt", caption(seed), ustar), (f"{key}.json", facts(seed), ustar)]
    # Sidecars may come before the image, and a sample may have none.
    first[3:6] = [first[5], first[4], first[3]]
    del first[-2:]

    second = []
    for at, suffix in enumerate(["jpg", "JPG", "png", "Webp", "jpg", "PNG", "jpg"]):
        key, seed = f"train/{'cats' if at < 4 else 'dogs'}/{100 + at}", 200 + at
        image = scene_bytes(seed, 160 - 11 * at, 80 + 7 * at, suffix.lower())
        second += [(f"{key}.{suffix}", image, ustar), (f"{key}.cls", str(at % 3).encode(), ustar)]
        if at == 1:
            second.append((f"{key}.TXT", caption(seed), ustar))
        if at == 4:
            # Everything behind the first dot is the suffix: `seg.png` is a sidecar of 104.
            second.append((f"{key}.seg.png", scene_bytes(999, 64, 64, "png"), ustar))

    long = "a-folder-name-that-is-rather-long/" * 4 + "and-a-file-name-that-goes-on-for-quite-a-while-as-well-000"
    third = []
    for key, suffix, format, seed in [
        (long + "0", "jpg", gnu, 300), (long + "1", "png", pax, 301), ("münchen-straße-写真", "jpg", pax, 302), ("with space and 'quote'", "webp", ustar, 303),
        ("v1/000304", "jpg", gnu, 304), ("v1/000305", "jpg", ustar, 305), ("v2/000305", "jpg", ustar, 306), ("last", "png", pax, 307),
    ]:
        third += [(f"{key}.{suffix}", scene_bytes(seed, 96, 72 + seed % 7, suffix), format), (f"{key}.json", facts(seed), format)]
    return {"00000.tar": first, "00001.tar": second, "00002.tar": third}


IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"}


def listed_samples(path):
    """The samples of a well-formed tar by the rules of the project, with where each image lies."""
    samples = []
    with tarfile.open(path) as tar:
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
            if not samples or samples[-1]["key"] != key:
                samples.append({"key": key, "sidecars": []})
            if suffix in IMAGE_SUFFIXES:
                body = tar.extractfile(member).read()
                w, h = Image.open(io.BytesIO(body)).size
                samples[-1] |= {"member": member.name, "offset": member.offset_data, "length": member.size, "w": w, "h": h,
                                "sha256": hashlib.sha256(body).hexdigest()}
            else:
                samples[-1]["sidecars"].append(suffix)
    return samples


def write_parquet(path, table, **options):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path, **{"compression": "snappy", **options})


def hugging_face_table(rows, label):
    """`image: struct<bytes, path>` and a label, with the metadata that `datasets` writes."""
    import pyarrow

    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    schema = pyarrow.schema(
        [("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])), ("label", pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})})
    return pyarrow.table({"image": rows, "label": label}, schema=schema)


def make_shards(data):
    """shards/*: three tars, four parquet files, loose images and a list, with manifest.json."""
    import pyarrow

    folder = fresh(data / "shards")
    manifest = {"what": "What a reader must find. offset and length are those of the image's bytes in the tar; sidecars are suffixes in file order.",
                "tars": {}, "parquet": {}, "list": {}}
    for name, members in shard_members().items():
        blocks = b"".join(tar_member(member, body, format=format) for member, body, format in members)
        (folder / name).write_bytes(blocks + TAR_END)
        manifest["tars"][name] = listed_samples(folder / name)

    (folder / "images").mkdir()
    loose = []
    for at, (name, suffix) in enumerate([("one.jpg", "jpg"), ("two.png", "png"), ("sub/three.webp", "webp"), ("sub/four.JPEG", "jpg")]):
        path = folder / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(scene_bytes(400 + at, 90 + at, 64 + at, suffix))
        loose.append(f"images/{name}")

    def facts(bodies):
        return [{"sha256": hashlib.sha256(body).hexdigest(), "w": size[0], "h": size[1]}
                for body in bodies for size in [Image.open(io.BytesIO(body)).size]]

    bodies = [scene_bytes(500 + at, 70 + 5 * at, 88 - 3 * at, ["jpg", "png", "webp"][at % 3]) for at in range(6)]
    rows = [{"bytes": body, "path": f"{at}.{['jpg', 'png', 'webp'][at % 3]}"} for at, body in enumerate(bodies)]
    write_parquet(folder / "hugging-face.parquet", hugging_face_table(rows, [at % 2 for at in range(6)]), row_group_size=4)
    manifest["parquet"]["hugging-face.parquet"] = {"column": "image.bytes", "row_groups": 2, "rows": facts(bodies)}

    bodies = [scene_bytes(520 + at, 75, 60 + 4 * at, "jpg") for at in range(4)]
    write_parquet(folder / "binary.parquet", pyarrow.table({
        "id": pyarrow.array([70, 3, 11, 9_000_000_000], pyarrow.int64()), "jpg": pyarrow.array(bodies, pyarrow.binary()),
        "caption": [f"row {at}" for at in range(4)]}), compression="zstd")
    manifest["parquet"]["binary.parquet"] = {"column": "jpg", "ids": [70, 3, 11, 9_000_000_000], "rows": facts(bodies)}
    write_parquet(folder / "large-binary.parquet", pyarrow.table({"image": pyarrow.array(bodies[:2], pyarrow.large_binary())}), compression="none")
    manifest["parquet"]["large-binary.parquet"] = {"column": "image", "rows": facts(bodies[:2])}
    write_parquet(folder / "paths.parquet", pyarrow.table({"path": loose, "caption": ["first", "second", "third", "fourth"]}))
    manifest["parquet"]["paths.parquet"] = {"column": "path", "relative_to": "the folder of the parquet file",
                                            "rows": facts((folder / name).read_bytes() for name in loose)}
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in loose), encoding="utf-8")
    manifest["list"]["list.txt"] = {"relative_to": "the folder of the list", "paths": loose}
    write_json(folder / "manifest.json", manifest)


def huge_claims():
    """Files of a few bytes whose headers claim enormous pictures."""
    w = h = 60_000
    yield "huge-claim.png", png(w, h, 8, 2, [b"\0" * 300])
    yield "huge-claim.gif", gif((65535, 65535), [(0, 0, np.zeros((2, 2), np.uint8), None, False)], b"\0").replace(
        b"," + struct.pack("<HHHH", 0, 0, 2, 2), b"," + struct.pack("<HHHH", 0, 0, 65535, 65535))
    yield "huge-claim.bmp", bmp(w, h, 24, [b"\0" * 60])
    yield "huge-claim.tif", tiff(w, h, {258: (3, [8, 8, 8]), 262: (3, [2]), 277: (3, [3])}, b"\0" * 60)
    lossless = bytes([0x2F]) + struct.pack("<I", 16383 | 16383 << 14) + b"\0" * 16  # VP8L: both sides less one, 14 bits each
    lossless += b"\0" * (len(lossless) % 2)
    yield "huge-claim.webp", b"RIFF" + struct.pack("<I", 12 + len(lossless)) + b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless
    small = scene_bytes(600, 32, 32, "jpg")
    frame = small.index(b"\xff\xc0")
    yield "huge-claim.jpg", small[:frame + 5] + struct.pack(">HH", 65500, 65500) + small[frame + 9:]


def make_hostile(data):
    """hostile/*: what others' disks and archives hold, with manifest.json."""
    import pyarrow

    folder = fresh(data / "hostile")
    for name in ("images", "tars", "parquet"):
        (folder / name).mkdir()
    jpg, picture_png, webp = scene_bytes(601, 96, 64, "jpg"), scene_bytes(602, 80, 90, "png"), scene_bytes(603, 72, 72, "webp")
    manifest = {
        "what": "What must come of each file. Nothing here may stop a run, and nothing may be written outside the output folder.",
        "images": {}, "tars": {}, "parquet": {}}

    def image(name, body, expect, why):
        (folder / "images" / name).write_bytes(body)
        manifest["images"][name] = {"expect": expect, "why": why}

    image("good.jpg", jpg, "good", "")
    image("good.png", picture_png, "good", "")
    image("jpeg-named.png", jpg, "good", "a JPEG under another suffix: the content decides")
    image("trailing-garbage.jpg", jpg + b"\0garbage" * 20, "good", "bytes after the end-of-image marker")
    tall = np.tile(np.arange(60_000, dtype=np.uint32)[:, None] // 235 % 256, (1, 1)).astype(np.uint8)
    image("tall-1x60000.png", png(1, 60_000, 8, 0, tall), "good", "a real picture of 1 x 60000 pixels; the shortest-edge resize must not make 224 x 13440000 of it in memory")
    image("empty.jpg", b"", "bad", "no bytes")
    image("truncated.jpg", jpg[:len(jpg) // 2], "bad", "the second half is missing")
    image("truncated.png", picture_png[:len(picture_png) * 2 // 3], "bad", "the last third is missing")
    image("truncated.webp", webp[:len(webp) // 2], "bad", "the second half is missing")
    image("header-only.jpg", jpg[:20], "bad", "nothing after the first marker")
    image("text.jpg", b"<html><body>404 Not Found</body></html>\n", "bad", "an error page saved as a picture")
    image("zero-width.png", png(0, 9, 8, 2, [b""]), "bad", "no columns")
    at = picture_png.index(b"IDAT") + 20
    image("flipped-bits.png", picture_png[:at] + bytes([picture_png[at] ^ 0xFF]) + picture_png[at + 1:], "bad", "a checksum does not hold")
    image("noise.webp", pattern("noise", 16, 16, 9).tobytes(), "bad", "random bytes")
    for name, body in huge_claims():
        image(name, body, "bad", "the header claims an enormous picture: refuse before allocating")

    def tar(name, members, samples, why, end=TAR_END, cut=None):
        blocks = b"".join(tar_member(*member[:2], **(member[2] if len(member) > 2 else {})) for member in members) + end
        (folder / "tars" / name).write_bytes(blocks[:cut])
        manifest["tars"][name] = {"samples": [dict(zip(("key", "expect", "why"), sample)) for sample in samples], "why": why}

    good = [("a.jpg", jpg), ("a.txt", b"a"), ("b.png", picture_png), ("c.webp", webp)]
    whole = len(b"".join(tar_member(*member) for member in good[:2]))
    tar("cut-in-member.tar", good, [("a", "good"), ("b", "bad", "cut")], "ends in the bytes of the second picture", cut=whole + 512 + len(picture_png) // 2)
    tar("cut-in-header.tar", good, [("a", "good")], "ends in a header", cut=whole + 200)
    tar("no-end.tar", good, [("a", "good"), ("b", "good"), ("c", "good")], "without the two zero blocks: many tools write such", end=b"")
    tar("evil-paths.tar",
        [("good1.jpg", jpg), ("../evil.jpg", picture_png), ("/abs/evil.jpg", webp), ("dir/../../evil2.jpg", jpg),
         ("link.jpg", b"", {"kind": tarfile.SYMTYPE, "link": "/etc/passwd"}), ("hard.jpg", b"", {"kind": tarfile.LNKTYPE, "link": "good1.jpg"}),
         ("pipe.jpg", b"", {"kind": tarfile.FIFOTYPE}), ("good2.png", picture_png)],
        [("good1", "good"), ("good2", "good")],
        "whether the evil names become samples is open; links and pipes do not; no write may leave the output folder")
    tar("duplicate-keys.tar", [("a.jpg", jpg), ("b.png", picture_png), ("a.webp", webp), ("a.txt", b"late")],
        [("a", "good"), ("b", "good"), ("a#2", "bad", "repeated key")], "a key that comes back later")
    tar("repeated-suffix.tar", [("a.jpg", jpg), ("a.txt", b"1"), ("a.txt", b"2"), ("b.jpg", jpg), ("b.JPG", jpg), ("c.png", picture_png)],
        [("a", "bad", "repeated suffix"), ("b", "bad", "repeated suffix"), ("c", "good")], "a suffix twice in one sample, also in another case")
    tar("oddments.tar",
        [("dir", b"", {"kind": tarfile.DIRTYPE}), ("dir/.hidden.jpg", jpg), (".DS_Store", b"\0\0"), ("dir/._a.jpg", b"\0\5\x16\7"), ("dir/a.jpg", jpg),
         ("dir/only-text.txt", b"no picture"), ("dir/only-json.json", b"{}"), ("dir/no-suffix", b"x"), ("dir/a-broken.jpg", jpg[:300]), ("dir/z.png", picture_png)],
        [("dir/a", "good"), ("dir/only-text", "bad", "no image"), ("dir/only-json", "bad", "no image"), ("dir/no-suffix", "open", "no suffix and no image"),
         ("dir/a-broken", "bad", "truncated"), ("dir/z", "good")], "directories and dot-files are skipped; a sample of sidecars alone is bad")
    tar("dot-slash.tar", [("./", b"", {"kind": tarfile.DIRTYPE}), ("./a.jpg", jpg), ("./a.txt", b"a"), ("./sub/b.png", picture_png)],
        [("./a", "good"), ("./sub/b", "good")], "as `tar cf x.tar .` writes it; the key may also come without the leading ./")
    tar("huge-member.tar", [("a.jpg", jpg), ("b.jpg", jpg, {"size": 8_000_000_000, "format": tarfile.GNU_FORMAT})],
        [("a", "good"), ("b", "bad", "cut")], "a header claims eight gigabytes")
    tar("bad-checksum.tar", good, [("a", "good")], "a header in the middle is damaged")
    path = folder / "tars" / "bad-checksum.tar"
    blocks = bytearray(path.read_bytes())
    blocks[whole + 3] ^= 0x55
    path.write_bytes(blocks)
    tar("empty.tar", [], [], "the end and nothing before it")
    (folder / "tars" / "zero-bytes.tar").write_bytes(b"")
    manifest["tars"]["zero-bytes.tar"] = {"samples": [], "why": "no bytes: an input that cannot be used, or an empty one"}
    (folder / "tars" / "not-a-tar.tar").write_bytes(b"this is no archive\n" * 60)
    manifest["tars"]["not-a-tar.tar"] = {"samples": [], "why": "text: an input that cannot be used"}

    def parquet(name, table, rows, why):
        write_parquet(folder / "parquet" / name, table)
        manifest["parquet"][name] = {"rows": rows, "why": why}

    parquet("no-image-column.parquet", pyarrow.table({"text": ["a", "b"], "number": [1, 2]}), None, "no column that could be pictures: an input that cannot be used")
    rows = [{"bytes": jpg, "path": "a.jpg"}, None, {"bytes": None, "path": None}, {"bytes": b"", "path": "d.jpg"},
            {"bytes": b"text", "path": "e.jpg"}, {"bytes": None, "path": "../../nowhere.jpg"}, {"bytes": picture_png, "path": None}]
    parquet("null-images.parquet", hugging_face_table(rows, list(range(7))), ["good", "bad", "bad", "bad", "bad", "bad", "good"],
            "null struct, null bytes, no bytes, text, a path that leads out to nothing")
    parquet("no-rows.parquet", hugging_face_table([], []), [], "a table without rows")
    body = (folder / "parquet" / "null-images.parquet").read_bytes()
    (folder / "parquet" / "cut.parquet").write_bytes(body[:len(body) // 2])
    manifest["parquet"]["cut.parquet"] = {"rows": None, "why": "the footer is missing: an input that cannot be used"}
    (folder / "parquet" / "not-a-parquet.parquet").write_bytes(b"id,path\n1,a.jpg\n")
    manifest["parquet"]["not-a-parquet.parquet"] = {"rows": None, "why": "text: an input that cannot be used"}
    write_json(folder / "manifest.json", manifest)


PARTS = {"clip": make_clip, "resize": make_resize, "formats": make_formats, "shards": make_shards, "hostile": make_hostile}
BY_NAME_ONLY = {"full": make_full}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = PARTS | BY_NAME_ONLY
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to make, of {', '.join(known)}; default: all but {', '.join(BY_NAME_ONLY)}")
    parser.add_argument("--out", type=Path, help="default: tests/data")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if arguments.out is None and set(arguments.parts) & set(BY_NAME_ONLY):
        parser.error(f"name a folder with --out for {', '.join(BY_NAME_ONLY)}: it is not for tests/data")
    out = arguments.out or Path(__file__).parent.parent / "tests/data"
    check_versions()
    for name in arguments.parts or PARTS:
        known[name](out)
        print(f"{name}: done")


if __name__ == "__main__":
    main()

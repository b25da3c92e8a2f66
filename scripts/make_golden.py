#!/usr/bin/env python3
"""Writes the small fixtures under tests/data that hold clipsift to Pillow and Hugging Face transformers.

    pip install -r scripts/requirements.txt
    python scripts/make_golden.py                  # everything
    python scripts/make_golden.py clip resize      # only these parts

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


def check_versions():
    """Stops when an installed package is not the one that requirements.txt pins."""
    for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, want = line.strip().split("==")
            have = importlib.metadata.version(name).split("+")[0]
            assert have == want, f"{name} {want} is pinned, {have} is installed: pip install -r scripts/requirements.txt"


def fresh(folder):
    """An empty folder in place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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

    # tiny-clip-gelu: vision only, in two shards. A patch that leaves three pixels over, three heads, another eps, another
    # mean and deviation for each channel, sizes in the preprocessor as objects.
    rng = np.random.Generator(np.random.PCG64(20241))
    vision = dict(architectures=["CLIPVisionModelWithProjection"], model_type="clip_vision_model", hidden_size=48,
                  intermediate_size=84, num_hidden_layers=3, num_attention_heads=3, image_size=31, patch_size=7, num_channels=3,
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


def make_resize(data):
    """resize/cases.json and resize/expected.safetensors."""
    from transformers import CLIPImageProcessorPil

    folder = fresh(data / "resize")
    patterns = ["blend", "checks", "noise"]
    cases = [(w, h, size, patterns[(row + column) % 3])
             for row, (w, h) in enumerate(RESIZE_SIZES) for column, size in enumerate((32, 48, 224))] + RESIZE_EXTRA
    listed, stored = [], {}
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
        name = f"{w}x{h}-to-{size}-{kind}"
        listed.append({"name": name, "w": w, "h": h, "size": size, "pattern": kind, "seed": seed, "resized": resized,
                       "left": left, "top": top, "sha256": hashlib.sha256(ours.tobytes()).hexdigest()})
        if size < 48:
            stored[name] = ours
        else:
            # Enough to see how a mismatch looks: the first, the middle and the last row.
            stored[f"{name}/rows"] = np.ascontiguousarray(ours[[0, size // 2, size - 1]])
    write_json(folder / "cases.json", {
        "what": "CLIPImageProcessorPil up to the crop: shortest edge to `size` (the other edge int(size*long/short), in f64), Pillow "
                "bicubic on RGB8, then `size` x `size` from the centre, offset floor((n - size)/2). The sha256 is over the "
                "RGB bytes, row by row. After a shortest-edge resize the crop always fits, so the processor's zero padding never happens.",
        "pattern": PATTERN_FORMULA,
        "expected": "expected.safetensors: `NAME` u8 [size, size, 3] for size < 48, `NAME/rows` u8 [3, size, 3] with rows 0, size/2 and "
                    "size-1 above that",
        "cases": listed,
    })
    save_file(stored, folder / "expected.safetensors")


PARTS = {"clip": make_clip, "resize": make_resize}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to make, of {', '.join(PARTS)}; default: everything")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/data", help="default: tests/data")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    check_versions()
    for name in arguments.parts or PARTS:
        PARTS[name](arguments.out)
        print(f"{name}: done")


if __name__ == "__main__":
    main()

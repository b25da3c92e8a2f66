#!/usr/bin/env python3
"""Train and measure the embedded tower: a small CLIP-format vision tower that recognises edited copies of an image.

    python scripts/train_builtin.py --minutes 30 --out models/builtin     draw, train, write the model folder
    python scripts/train_builtin.py --evaluate --out models/builtin       print the tables of the model card
    python scripts/train_builtin.py --sheet sheet.png                     a contact sheet of what is drawn, and of its edits

Every training image is drawn by this file: no photograph, weight or data set enters. A pool of scenes is drawn first; each
step turns pool entries into fresh originals (crop, mirror, channel permutation), edits a copy of each (resize, JPEG, crop,
colour, blur, noise, rotation, border, overlay), takes both through CLIP's preprocessing, and asks that a copy finds its
original among all others of the batch (InfoNCE). Scenes with a common background and disjoint crops of one scene share
the batch, so that colour and texture alone do not tell images apart.

The learning rate warms up, stays, and falls over the last quarter. With --minutes, the clock says when that quarter begins;
the resulting number of steps is printed, and --steps with that number repeats the run with the same seed, thread count and
library versions.

Requirements (pinned): python 3.11, torch==2.15.0, transformers==5.23.0, safetensors==0.8.0, numpy==2.4.6, pillow==13.0.0;
only for the photographs of --evaluate, which are read from the installed packages and left out when those are missing:
scikit-learn==1.9.1, scikit-image==0.26.0.
"""

import argparse
import hashlib
import io
import json
import math
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

IMAGE_SIZE = 96
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ARCHITECTURE = dict(
    hidden_size=192,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=3,
    image_size=IMAGE_SIZE,
    patch_size=16,
    num_channels=3,
    projection_dim=128,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
POOL_EDGE = 192  # shortest edge of a pool drawing
HELD_OUT_SEED = 9_000_001  # never a training seed: training seeds are --seed and small offsets of it


# ---------------------------------------------------------------- drawing: parts
#
# A canvas is float32 [h, w, 3] in 0..1. Coordinates u, v run over the shortest edge, so a scene looks alike at every size.


def coordinates(h, w):
    edge = min(h, w)
    v, u = np.mgrid[0:h, 0:w].astype(np.float32) / edge
    return u, v


def palette(rng, n=5):
    """n related colours: natural (muted, one or two hues) or graphic (any hue)."""
    base = rng.random()
    if rng.random() < 0.65:
        hue = base + rng.choice([0, 0, 0.08, 0.5, 0.33], n) + rng.normal(0, 0.03, n)
        sat = np.clip(rng.normal(0.35, 0.22, n), 0, 1)
    else:
        hue, sat = rng.random(n), rng.uniform(0.2, 1, n)
    val = np.clip(rng.uniform(0.05, 1, n) ** rng.uniform(0.6, 1.4), 0, 1)
    k = (np.array([5, 3, 1])[None] + hue[:, None] * 6) % 6
    return (val[:, None] * (1 - sat[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


def ramp(field, colours):
    """Colours along a scalar field whose useful range is 0..1."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(field, stops, colours[:, c]) for c in range(3)], -1).astype(np.float32)


def noise(rng, h, w, slope):
    """A random field with amplitude spectrum 1/f^slope, zero mean, unit deviation."""
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    f = np.sqrt(fy**2 + fx**2)
    f[0, 0] = 1
    spectrum = (rng.standard_normal(f.shape) + 1j * rng.standard_normal(f.shape)) * f**-slope
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (h, w)).astype(np.float32)
    return field / (field.std() + 1e-9)


def squash(field):
    return 1 / (1 + np.exp(-1.7 * field))


def line_noise(rng, n, slope):
    f = np.fft.rfftfreq(n)
    f[0] = 1
    spectrum = (rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))) * f**-slope
    spectrum[0] = 0
    y = np.fft.irfft(spectrum, n).astype(np.float32)
    return y / (y.std() + 1e-9)


def to_image(canvas):
    return Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))


def to_canvas(image):
    return np.asarray(image.convert("RGB"), np.float32) / 255


def rgb(colour):
    return tuple(int(255 * float(np.clip(c, 0, 1))) for c in colour)


def blurred(canvas, radius):
    return to_canvas(to_image(canvas).filter(ImageFilter.GaussianBlur(radius)))


def outline(rng, cx, cy, radius):
    """Corner points of a random shape: polygon, star, smooth blob or rotated box."""
    kind = rng.integers(4)
    turn = rng.uniform(0, 2 * math.pi)
    if kind == 0:
        a, r = np.linspace(0, 2 * math.pi, rng.integers(3, 9), endpoint=False), 1.0
    elif kind == 1:
        n = int(rng.integers(4, 9))
        a, r = np.linspace(0, 2 * math.pi, 2 * n, endpoint=False), np.tile([1, rng.uniform(0.3, 0.7)], n)
    elif kind == 2:
        a = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        r = 1 + sum(rng.normal(0, 0.35 / k) * np.cos(k * a + rng.uniform(0, 6.3)) for k in range(2, 6))
    else:
        a0 = rng.uniform(0.15, 0.75)
        a, r = np.array([a0, math.pi - a0, math.pi + a0, -a0]), 1.0
    x, y = cx + radius * r * np.cos(a + turn), cy + radius * r * np.sin(a + turn)
    return list(zip(x.tolist(), y.tolist()))


def random_text(rng, letters):
    alphabet = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDL0123456789.,"
    words, left = [], letters
    while left > 0:
        n = int(rng.integers(1, 10))
        words.append("".join(alphabet[min(int(rng.exponential(9)), len(alphabet) - 1)] for _ in range(n)))
        left -= n + 1
    return " ".join(words)


# ---------------------------------------------------------------- drawing: scenes


def gradient(rng, h, w, pal):
    u, v = coordinates(h, w)
    if rng.random() < 0.5:
        a = rng.uniform(0, 2 * math.pi)
        field = (u - 0.5) * math.cos(a) + (v - 0.5) * math.sin(a) + 0.5
    else:
        field = np.hypot(u - rng.uniform(0, 1.2), (v - rng.uniform(0, 1.2)) * rng.uniform(0.5, 2))
    return ramp(field * rng.uniform(0.6, 1.6), pal[: rng.integers(2, 6)])


def spectral(rng, h, w, pal):
    """Noise with the spectrum of photographs: strong luminance, weaker colour."""
    slope = rng.uniform(0.7, 1.9)
    light = squash(noise(rng, h, w, slope) * rng.uniform(0.6, 2))
    if rng.random() < 0.5:
        return ramp(light, pal)
    tint = np.stack([noise(rng, h, w, slope + 0.3) for _ in range(3)], -1)
    return light[..., None] * (0.5 + pal[0]) + tint * rng.uniform(0.02, 0.2)


def leaves(rng, h, w, pal):
    """Overlapping opaque shapes of power-law sizes: the occlusion statistics of natural scenes."""
    edge = min(h, w)
    image = to_image(gradient(rng, h, w, pal))
    draw = ImageDraw.Draw(image)
    n = int(rng.integers(30, 220))
    radii = np.clip(edge * 0.03 * rng.random(n) ** (-1 / rng.uniform(1.2, 3)), 1, edge * 0.6)
    round_only = rng.random() < 0.4
    for r in radii:
        colour = rgb(pal[rng.integers(len(pal))] * rng.uniform(0.6, 1.3) + rng.normal(0, 0.06, 3))
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        if round_only:
            q = r * rng.uniform(0.4, 1)
            draw.ellipse((x - r, y - q, x + r, y + q), fill=colour)
        else:
            draw.polygon(outline(rng, x, y, r), fill=colour)
    canvas = to_canvas(image)
    return canvas * (1 + 0.25 * rng.random() * noise(rng, h, w, rng.uniform(0.3, 1.5))[..., None])


def network(rng, h, w, pal):
    """A random small network from coordinates to colour."""
    u, v = coordinates(h, w)
    scale = rng.uniform(2, 9)
    x = np.stack([u - 0.6, v - 0.6, np.hypot(u - rng.random(), v - rng.random()), np.ones_like(u)], -1) * scale
    for _ in range(int(rng.integers(2, 5))):
        weight = rng.normal(0, 1 / math.sqrt(x.shape[-1]), (x.shape[-1], 12)).astype(np.float32)
        x = x @ weight * 1.6
        x = np.sin(x) if rng.random() < 0.6 else np.tanh(x)
    field = squash(x @ rng.normal(0, 0.6, (12, 3)).astype(np.float32))
    return ramp(field[..., 0], pal) if rng.random() < 0.4 else field


def landscape(rng, h, w, pal):
    u, v = coordinates(h, w)
    top = h / min(h, w)
    horizon = top * rng.uniform(0.25, 0.75)
    blue = np.array([[0.3, 0.5, 0.85], [0.75, 0.85, 0.95], [0.95, 0.75, 0.5]], np.float32)
    sky = blue if rng.random() < 0.5 else pal[:3]
    canvas = ramp(v / horizon * rng.uniform(0.5, 1), sky)
    cloud = squash(noise(rng, h, w, rng.uniform(1.2, 1.9)) * 2 - rng.uniform(-0.5, 2))[..., None]
    canvas = canvas * (1 - cloud) + (0.75 + 0.25 * rng.random()) * cloud
    if rng.random() < 0.4:
        sun = np.exp(-(np.hypot(u - rng.uniform(0, 1.3), v - rng.uniform(0, horizon)) * rng.uniform(4, 25)) ** 2)
        canvas = canvas + sun[..., None] * np.array([1, 0.9, 0.6], np.float32)
    layers = int(rng.integers(1, 6))
    for i in range(layers):
        near = (i + 1) / layers
        ridge = horizon + (top - horizon) * (i / layers) * 0.8 + rng.uniform(0.02, 0.18) * line_noise(
            rng, w, rng.uniform(0.8, 1.8)
        )
        mask = np.clip((v - ridge[None]) * min(h, w), 0, 1)[..., None]
        ground = pal[i % len(pal)] * rng.uniform(0.4, 1)
        grain = 1 + rng.uniform(0.05, 0.5) * near * noise(rng, h, w, rng.uniform(0.3, 1.4))[..., None]
        body = ground * grain * near + (1 - near) * canvas[: max(1, h // 4)].mean((0, 1))
        canvas = canvas * (1 - mask) + body * mask
    if rng.random() < 0.3:
        line = int(np.clip((horizon + 0.15) * min(h, w), h * 0.4, h * 0.85))
        rows = np.clip(2 * line - np.arange(line, h) + (3 * line_noise(rng, h - line, 0.5)).astype(int), 0, line - 1)
        canvas[line:] = canvas[rows] * rng.uniform(0.5, 0.9) + 0.05
    return canvas


def texture(rng, h, w, pal):
    u, v = coordinates(h, w)
    a = rng.uniform(0, math.pi)
    s, t = u * math.cos(a) + v * math.sin(a), v * math.cos(a) - u * math.sin(a)
    warp = rng.uniform(0, 0.08)
    s, t = s + warp * noise(rng, h, w, 1.7), t + warp * noise(rng, h, w, 1.7)
    f, g = rng.uniform(3, 28), rng.uniform(3, 28)
    kind = rng.integers(5)
    if kind == 0:
        field = 0.5 + 0.5 * np.sin(2 * math.pi * f * s)
    elif kind == 1:
        field = ((np.floor(s * f) + np.floor(t * g)) % 2).astype(np.float32)
    elif kind == 2:
        row = np.floor(t * g)
        field = np.minimum((s * f + 0.5 * (row % 2)) % 1, (t * g) % 1) > 0.12
        field = field * (0.6 + 0.4 * np.sin(row * 12.9 + np.floor(s * f + 0.5 * (row % 2)) * 78.2))
    elif kind == 3:
        field = np.hypot((s * f) % 1 - 0.5, (t * f) % 1 - 0.5) < rng.uniform(0.15, 0.48)
    else:
        field = squash(noise(rng, h, w, rng.uniform(0.2, 1)) + np.sin(2 * math.pi * f * s))
    canvas = ramp(np.asarray(field, np.float32), pal[: rng.integers(2, 5)])
    return canvas * (1 + 0.2 * rng.random() * noise(rng, h, w, 1.2)[..., None])


def page(rng, h, w, pal):
    """Documents, screens and posters: text, bars, frames, small pictures."""
    edge = min(h, w)
    paper = np.full((h, w, 3), rng.uniform(0.8, 1), np.float32) if rng.random() < 0.6 else np.tile(pal[0], (h, w, 1))
    image = to_image(paper)
    draw = ImageDraw.Draw(image)
    dark = rgb(pal[1] * 0.4) if paper.mean() > 0.5 else rgb(pal[1] * 0.4 + 0.6)
    margin = edge * rng.uniform(0.02, 0.12)
    y = margin
    columns = int(rng.integers(1, 4))
    if rng.random() < 0.3:
        draw.rectangle((0, 0, w, edge * rng.uniform(0.05, 0.15)), fill=rgb(pal[2]))
    while y < h - margin:
        kind = rng.random()
        if kind < 0.2:
            size = edge * rng.uniform(0.07, 0.2)
            draw.text((margin, y), random_text(rng, int(rng.integers(4, 20))), rgb(pal[rng.integers(1, 5)] * 0.7),
                      ImageFont.load_default(size))
        elif kind < 0.4:
            size = edge * rng.uniform(0.08, 0.35)
            x = rng.uniform(0, w * 0.7)
            box = (int(x), int(y), int(x + edge * rng.uniform(0.15, 0.8)), int(y + size))
            draw.rectangle(box, fill=rgb(pal[rng.integers(5)]), outline=dark)
            if rng.random() < 0.6 and box[2] > box[0] + 8 and box[3] > box[1] + 8:
                inset = to_image(simple(rng, box[3] - box[1], box[2] - box[0], palette(rng)))
                image.paste(inset, box[:2])
        else:
            size = edge * rng.uniform(0.025, 0.06)
            font = ImageFont.load_default(size)
            for column in range(columns):
                x = margin + column * (w - margin) / columns
                letters = int((w - 2 * margin) / columns / size * 1.7 * rng.uniform(0.3, 1))
                draw.text((x, y), random_text(rng, letters)[:letters], dark, font)
        y += size * rng.uniform(1.05, 1.6)
    return to_canvas(image)


def shaded(rng, canvas, pal, count, low, high):
    """Puts lit, textured objects with soft shadows on a canvas."""
    h, w, _ = canvas.shape
    edge = min(h, w)
    for _ in range(count):
        r = edge * rng.uniform(low, high)
        cx, cy = rng.uniform(0.1, 0.9) * w, rng.uniform(0.15, 0.9) * h
        mask = Image.new("L", (w, h))
        draw = ImageDraw.Draw(mask)
        if rng.random() < 0.4:
            q = r * rng.uniform(0.4, 1)
            draw.ellipse((cx - r, cy - q, cx + r, cy + q), fill=255)
        else:
            draw.polygon(outline(rng, cx, cy, r), fill=255)
        if rng.random() < 0.5:
            shadow = mask.filter(ImageFilter.GaussianBlur(edge * 0.03))
            off = int(edge * 0.03)
            dim = np.roll(np.asarray(shadow, np.float32) / 255, (off, off), (0, 1))[..., None]
            canvas = canvas * (1 - rng.uniform(0.3, 0.7) * dim)
        inside = np.asarray(mask.filter(ImageFilter.GaussianBlur(edge * rng.uniform(0.002, 0.01))), np.float32)[..., None] / 255
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        a = rng.uniform(0, 2 * math.pi)
        light = 0.75 - 0.45 * ((x - cx) * math.cos(a) + (y - cy) * math.sin(a)) / r
        if rng.random() < 0.3:
            skin = texture(rng, h, w, palette(rng))
        else:
            skin = pal[rng.integers(len(pal))] + rng.uniform(0, 0.12) * noise(rng, h, w, 1.3)[..., None]
        canvas = canvas * (1 - inside) + np.clip(skin * np.clip(light, 0.1, 1.4)[..., None], 0, 1) * inside
    return canvas


def objects(rng, h, w, pal):
    canvas = blurred(simple(rng, h, w, pal), min(h, w) * rng.uniform(0, 0.06))
    return shaded(rng, canvas, palette(rng), int(rng.integers(1, 7)), 0.06, 0.4)


def portrait(rng, h, w, pal):
    edge = min(h, w)
    image = to_image(blurred(simple(rng, h, w, pal), edge * rng.uniform(0.01, 0.08)))
    draw = ImageDraw.Draw(image)
    clothes = palette(rng)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        r = edge * rng.uniform(0.1, 0.26)
        x, y = w * rng.uniform(0.2, 0.8), h * rng.uniform(0.25, 0.55)
        skin = np.array([0.9, 0.72, 0.6]) * rng.uniform(0.3, 1.05) + rng.normal(0, 0.03, 3)
        hair = rgb(np.array([0.5, 0.35, 0.2]) * rng.uniform(0.05, 1.5))
        k = rng.uniform(1, 1.5)
        draw.ellipse((x - 1.2 * r, y - 1.5 * r, x + 1.2 * r, y + r * rng.uniform(0.2, 1.8)), fill=hair)
        draw.ellipse((x - 2.2 * r, y + 1.3 * r, x + 2.2 * r, y + 6 * r), fill=rgb(clothes[0]))
        draw.rectangle((x - 0.4 * r, y + 0.6 * r, x + 0.4 * r, y + 1.6 * r), fill=rgb(skin * 0.8))
        draw.ellipse((x - r, y - k * r, x + r, y + k * r), fill=rgb(skin))
        tilt = rng.uniform(-0.3, 0.3) * r
        for side in (-1, 1):
            ex = x + tilt + side * 0.4 * r
            draw.ellipse((ex - 0.15 * r, y - 0.25 * r, ex + 0.15 * r, y - 0.05 * r), fill=hair)
        draw.ellipse((x + tilt - 0.3 * r, y + 0.5 * r, x + tilt + 0.3 * r, y + rng.uniform(0.6, 0.8) * r), fill=rgb(skin * 0.5))
    canvas = blurred(to_canvas(image), edge * 0.006)
    return canvas * (1 + 0.15 * noise(rng, h, w, 1.5)[..., None])


def room(rng, h, w, pal):
    """A floor and a ceiling in perspective, with objects."""
    u, v = coordinates(h, w)
    horizon = h / min(h, w) * rng.uniform(0.3, 0.6)
    depth = 1 / (np.abs(v - horizon) + 0.03)
    x = (u - rng.uniform(0.2, 1)) * depth
    f, g = rng.uniform(1, 8), rng.uniform(0.5, 4)
    tiles = (np.floor(x * f) + np.floor(depth * g)) % 2
    below = ramp(tiles * rng.uniform(0.3, 1), pal[:2]) * np.clip(1.2 - depth[..., None] / 35, 0.2, 1)
    above = pal[2] * np.ones((h, w, 1), np.float32) * np.clip(1.1 - depth[..., None] / 60, 0.3, 1)
    canvas = np.where((v > horizon)[..., None], below, above)
    return shaded(rng, canvas, pal, int(rng.integers(1, 6)), 0.05, 0.25)


def skyline(rng, h, w, pal):
    edge = min(h, w)
    image = to_image(landscape(rng, h, w, pal))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 16))):
        bw, bh = edge * rng.uniform(0.06, 0.3), h * rng.uniform(0.15, 0.8)
        x0 = rng.uniform(-0.05, 1) * w
        wall = pal[rng.integers(5)] * rng.uniform(0.3, 1)
        draw.rectangle((x0, h - bh, x0 + bw, h), fill=rgb(wall))
        step = edge * rng.uniform(0.02, 0.06)
        for yy in np.arange(h - bh + step, h, step * rng.uniform(1.2, 2)):
            for xx in np.arange(x0 + step * 0.5, x0 + bw - step * 0.5, step):
                if rng.random() < 0.75:
                    lit = wall * 0.4 if rng.random() < 0.7 else np.array([1, 0.9, 0.6])
                    draw.rectangle((xx, yy, xx + step * 0.5, yy + step * 0.6), fill=rgb(lit))
    return to_canvas(image)


def sparse(rng, h, w, pal):
    """Little on an almost empty ground: icons, logos, line drawings, product shots."""
    edge = min(h, w)
    ground = np.full(3, rng.choice([0.0, 1.0, 0.95, 0.9])) if rng.random() < 0.6 else pal[0]
    image = Image.new("RGB", (w, h), rgb(ground))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 6))):
        colour = rgb(pal[rng.integers(1, 5)])
        x, y, r = rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * h, edge * rng.uniform(0.05, 0.35)
        kind = rng.random()
        if kind < 0.4:
            draw.polygon(outline(rng, x, y, r), fill=colour)
        elif kind < 0.7:
            points = outline(rng, x, y, r)
            draw.line(points + points[:1], fill=colour, width=max(1, int(edge * rng.uniform(0.005, 0.04))))
        elif kind < 0.85:
            draw.text((x - r, y - r), random_text(rng, int(rng.integers(1, 9))), colour, ImageFont.load_default(r))
        else:
            t = np.linspace(0, 1, 50)
            curve = np.stack([x + r * line_noise(rng, 50, 1.5), y + r * line_noise(rng, 50, 1.5) + 0 * t], -1)
            draw.line([tuple(p) for p in curve.tolist()], fill=colour, width=max(1, int(edge * rng.uniform(0.005, 0.03))))
    return to_canvas(image)


def branches(rng, h, w, pal):
    """Trees, roads, cracks: branching strokes over another scene."""
    edge = min(h, w)
    image = to_image(blurred(simple(rng, h, w, pal), edge * 0.02))
    draw = ImageDraw.Draw(image)
    colour = pal[3] * rng.uniform(0.1, 0.8)
    spread, shrink = rng.uniform(0.2, 0.8), rng.uniform(0.65, 0.8)
    for _ in range(int(rng.integers(1, 4))):
        todo = [(rng.uniform(0.1, 0.9) * w, h * rng.uniform(0.7, 1.05), -math.pi / 2, edge * rng.uniform(0.12, 0.28), edge * 0.04)]
        while todo:
            x, y, a, length, width = todo.pop()
            if length < edge * 0.02:
                continue
            x2, y2 = x + length * math.cos(a), y + length * math.sin(a)
            draw.line((x, y, x2, y2), fill=rgb(colour * rng.uniform(0.8, 1.3)), width=max(1, int(width)))
            if len(todo) < 60:
                for side in (-1, 1):
                    turn = side * spread * rng.uniform(0.4, 1.4)
                    todo.append((x2, y2, a + turn, length * shrink * rng.uniform(0.8, 1.1), width * 0.7))
        if rng.random() < 0.5:
            break
    return to_canvas(image)


def blend(rng, h, w, pal):
    """Two scenes joined along the level line of a noise field."""
    a, b = simple(rng, h, w, pal), simple(rng, h, w, palette(rng))
    mask = np.clip((noise(rng, h, w, rng.uniform(1.3, 2)) + rng.normal(0, 0.5)) * rng.uniform(1, 30) + 0.5, 0, 1)[..., None]
    return a * (1 - mask) + b * mask


def collage(rng, h, w, pal):
    rows, columns = [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)][rng.integers(5)]
    canvas = np.full((h, w, 3), rng.choice([0.0, 1.0, 0.5]), np.float32)
    gap = int(min(h, w) * rng.choice([0, 0.01, 0.03]))
    ys, xs = np.linspace(0, h, rows + 1).astype(int), np.linspace(0, w, columns + 1).astype(int)
    for i in range(rows):
        for j in range(columns):
            ph, pw = ys[i + 1] - ys[i] - gap, xs[j + 1] - xs[j] - gap
            canvas[ys[i] : ys[i] + ph, xs[j] : xs[j] + pw] = simple(rng, ph, pw, palette(rng))
    return canvas


def julia(rng, h, w, pal):
    u, v = coordinates(h, w)
    zoom = rng.uniform(0.5, 1.6)
    z = ((u - 0.6) + 1j * (v - 0.6)) * 2.4 * zoom
    a = rng.uniform(0, 2 * math.pi)
    c = 0.7885 * complex(math.cos(a), math.sin(a))
    count = np.zeros((h, w), np.float32)
    for _ in range(28):
        inside = np.abs(z) < 4
        z = np.where(inside, z * z + c, z)
        count += inside
    return ramp((count / 28) ** rng.uniform(0.4, 1), pal)


def voronoi(rng, h, w, pal):
    u, v = coordinates(h, w)
    n = int(rng.integers(6, 70))
    best, second, owner = np.full((h, w), 9.0, np.float32), np.full((h, w), 9.0, np.float32), np.zeros((h, w), int)
    for i in range(n):
        d = np.hypot(u - rng.uniform(0, w / min(h, w)), v - rng.uniform(0, h / min(h, w)))
        second = np.where(d < best, best, np.minimum(second, d))
        owner = np.where(d < best, i, owner)
        best = np.minimum(best, d)
    cells = (pal[rng.integers(5, size=n)] * rng.uniform(0.5, 1.2, (n, 1)))[owner]
    return cells * np.clip((second - best) * rng.uniform(10, 80), 0.1, 1)[..., None]


def curves(rng, h, w, pal):
    image = to_image(gradient(rng, h, w, pal))
    draw = ImageDraw.Draw(image)
    t = np.linspace(0, 2 * math.pi, 400)
    for _ in range(int(rng.integers(1, 6))):
        x = w * (0.5 + 0.45 * np.sin(rng.integers(1, 8) * t + rng.uniform(0, 6)))
        y = h * (0.5 + 0.45 * np.sin(rng.integers(1, 8) * t + rng.uniform(0, 6)))
        draw.line(list(zip(x.tolist(), y.tolist())), fill=rgb(pal[rng.integers(5)]), width=max(1, int(min(h, w) * rng.uniform(0.005, 0.03))))
    return to_canvas(image)


def interference(rng, h, w, pal):
    u, v = coordinates(h, w)
    field = sum(
        np.sin(rng.uniform(15, 90) * np.hypot(u - rng.uniform(0, 1.3), v - rng.uniform(0, 1.3))) for _ in range(rng.integers(2, 6))
    )
    return ramp(squash(field * rng.uniform(0.5, 2)), pal)


def plain_page(rng, h, w, pal):
    """A scanned page: black lines of text on white, one layout, other words."""
    image = Image.new("RGB", (w, h), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    size = min(h, w) * 0.035
    for y in np.arange(0.08 * h, 0.92 * h, size * 1.4):
        letters = int(rng.uniform(20, 50) if rng.random() < 0.2 else 50)
        draw.text((0.1 * w, y), random_text(rng, letters)[:letters], (20, 20, 20), ImageFont.load_default(size))
    return to_canvas(image)


def small_mark(rng, h, w, pal):
    """One small shape or word on white."""
    image = Image.new("RGB", (w, h), (255, 255, 255))
    x, y, r = rng.uniform(0.1, 0.9) * w, rng.uniform(0.1, 0.9) * h, min(h, w) * rng.uniform(0.03, 0.08)
    if rng.random() < 0.5:
        ImageDraw.Draw(image).polygon(outline(rng, x, y, r), fill=rgb(pal[1] * 0.7))
    else:
        ImageDraw.Draw(image).text((x, y), random_text(rng, 8), rgb(pal[1] * 0.7), ImageFont.load_default(r))
    return to_canvas(image)


GROUNDS = [gradient, spectral, leaves, network, landscape, texture]
SCENES = [
    (spectral, 2), (leaves, 3), (network, 2), (landscape, 3), (texture, 2), (page, 2), (objects, 3), (portrait, 2),
    (room, 1), (skyline, 1), (sparse, 2), (branches, 1), (blend, 3), (collage, 1),
]  # fmt: skip
HELD_OUT_SCENES = [
    (julia, 3), (voronoi, 3), (curves, 2), (interference, 2), (leaves, 2), (landscape, 4), (objects, 3), (portrait, 3),
    (page, 3), (blend, 2), (sparse, 1), (skyline, 2), (texture, 1),
]  # fmt: skip


def simple(rng, h, w, pal):
    return GROUNDS[rng.integers(len(GROUNDS))](rng, h, w, pal)


def finish(rng, canvas):
    """What a camera does last: exposure, tone, tint, vignette, defocus, grain, black and white."""
    h, w, _ = canvas.shape
    canvas = np.clip(canvas, 0, 1)
    if rng.random() < 0.3:
        canvas = blurred(canvas, min(h, w) * rng.uniform(0.001, 0.012))
    if rng.random() < 0.5:
        canvas = canvas ** rng.uniform(0.6, 1.7) * (1 + rng.normal(0, 0.06, 3).astype(np.float32))
    if rng.random() < 0.3:
        u, v = coordinates(h, w)
        canvas = canvas * (1 - rng.uniform(0.2, 0.7) * ((u / u.max() - 0.5) ** 2 + (v / v.max() - 0.5) ** 2))[..., None]
    if rng.random() < 0.12:
        canvas = np.repeat(canvas.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.4:
        canvas = canvas + rng.normal(0, rng.uniform(0.005, 0.04), canvas.shape)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def shape_of(rng, edge):
    long = int(edge * min(1.8, 1 + abs(rng.normal(0, 0.35)))) // 8 * 8
    return (edge, max(long, edge)) if rng.random() < 0.65 else (max(long, edge), edge)


def draw_family(seed, edge, scenes=SCENES):
    """One to three different images, uint8 [h, w, 3]. Several share background, colours and finish, and differ in content."""
    rng = np.random.default_rng(seed)
    h, w = shape_of(rng, edge)
    pal = palette(rng)
    weights = np.array([weight for _, weight in scenes], float)
    scene = scenes[rng.choice(len(scenes), p=weights / weights.sum())][0](rng, h, w, pal)
    tone = int(rng.integers(1 << 31))
    if rng.random() < 0.75:
        members = [scene]
    else:
        members = [shaded(rng, scene, pal, int(rng.integers(2, 6)), 0.12, 0.35) for _ in range(3)]
    return [finish(np.random.default_rng(tone), member) for member in members]


# ---------------------------------------------------------------- edits


def preprocess(image):
    """CLIP's preprocessing up to uint8: RGB, shortest edge by bicubic, centre crop."""
    image = image.convert("RGB")
    w, h = image.size
    edge = min(w, h)
    size = (int(IMAGE_SIZE * w / edge), int(IMAGE_SIZE * h / edge))
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - IMAGE_SIZE) // 2, (size[1] - IMAGE_SIZE) // 2
    return np.asarray(image)[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def recolour(x, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, gamma=1.0, tint=(1.0, 1.0, 1.0)):
    """uint8 in, uint8 out; hue in degrees."""
    luma = np.array([0.299, 0.587, 0.114])
    c, s = math.cos(math.radians(hue)) * saturation, math.sin(math.radians(hue)) * saturation
    to_yiq = np.array([luma, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    matrix = np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq
    matrix = np.diag(np.asarray(tint) * brightness) @ matrix
    y = x.astype(np.float32) / 255 @ matrix.T.astype(np.float32)
    if contrast != 1:
        mean = float(y.mean())
        y = (y - mean) * contrast + mean
    y = np.clip(y, 0, 1)
    if gamma != 1:
        y = y**gamma
    return (y * 255 + 0.5).astype(np.uint8)


def recompress(image, quality, format="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, format, quality=int(quality))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def rescale(image, factor, stretch=1.0, resample=Image.Resampling.BICUBIC):
    w, h = image.size
    return image.resize((max(24, round(w * factor * stretch)), max(24, round(h * factor))), resample)


def crop_away(image, lost, rng):
    """Keeps a window of 1 - lost of the area, at a random place and with a slightly different aspect."""
    w, h = image.size
    side, aspect = math.sqrt(1 - lost), math.sqrt(1 - lost) ** rng.uniform(-0.8, 0.8)
    cw, ch = w * min(1, side * aspect), h * min(1, side / aspect)
    x, y = rng.uniform(0, w - cw), rng.uniform(0, h - ch)
    return image.crop((round(x), round(y), round(x + cw), round(y + ch)))


def rotate(image, degrees, fill=(0, 0, 0)):
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill)


def border(image, share, colour, sides=(1, 1, 1, 1)):
    w, h = image.size
    n = max(1, round(min(w, h) * share))
    left, top, right, bottom = (n * s for s in sides)
    out = Image.new("RGB", (w + left + right, h + top + bottom), colour)
    out.paste(image, (left, top))
    return out


def overlay(image, rng):
    """A watermark, a caption bar or a sticker over a tenth of the area at most."""
    image = image.copy()
    w, h = image.size
    draw = ImageDraw.Draw(image, "RGBA")
    colour = rgb(rng.choice([0.0, 1.0]) * np.ones(3) if rng.random() < 0.5 else rng.random(3))
    kind = rng.random()
    if kind < 0.5:
        size = min(w, h) * rng.uniform(0.06, 0.16)
        place = (rng.uniform(0, 0.6) * w, rng.uniform(0, 0.9) * h)
        draw.text(place, random_text(rng, 9), (*colour, int(rng.uniform(90, 255))), ImageFont.load_default(size))
    elif kind < 0.75:
        bar = h * rng.uniform(0.05, 0.1)
        y = 0 if rng.random() < 0.5 else h - bar
        draw.rectangle((0, y, w, y + bar), (*colour, int(rng.uniform(120, 255))))
        draw.text((w * 0.05, y), random_text(rng, 12), tuple(255 - c for c in colour), ImageFont.load_default(max(4, bar * 0.7)))
    else:
        r = min(w, h) * rng.uniform(0.05, 0.15)
        draw.polygon(outline(rng, rng.uniform(0, w), rng.uniform(0, h), r), (*colour, 255))
    return image


def random_recolour(rng, x, strength):
    k = dict(brightness=rng.uniform(1 - 0.35 * strength, 1 + 0.4 * strength), contrast=rng.uniform(1 - 0.4 * strength, 1 + 0.4 * strength))
    k["gamma"] = math.exp(rng.normal(0, 0.25) * strength)
    k["saturation"] = 0.0 if rng.random() < 0.15 * strength else rng.uniform(1 - 0.7 * strength, 1 + 0.7 * strength)
    k["hue"] = rng.normal(0, 14) * strength
    if rng.random() < 0.4:
        k["tint"] = 1 + rng.normal(0, 0.07, 3) * strength
    return recolour(x, **k)


def random_copy(rng, image, strength):
    """A random edited copy, taken through preprocess(): uint8 [96, 96, 3]. strength 1 is the strongest, 0 changes nothing."""

    def happens(p):
        return rng.random() < p * strength

    if happens(0.5):
        image = crop_away(image, rng.uniform(0.02, 0.33) * strength, rng)
    if happens(0.2):
        image = rotate(image, rng.normal(0, 4) * strength, rgb(rng.choice([0.0, 1.0, rng.random()]) * np.ones(3)))
    if happens(0.15):
        sides = (1, 1, 1, 1) if rng.random() < 0.6 else [(1, 0, 1, 0), (0, 1, 0, 1)][rng.integers(2)]
        image = border(image, rng.uniform(0.01, 0.1) * strength, rgb(rng.choice([0.0, 1.0, rng.random()]) * np.ones(3)), sides)
    if happens(0.25):
        image = overlay(image, rng)
    if happens(0.4):
        stretch = rng.uniform(0.9, 1.1) if rng.random() < 0.4 else 1.0
        image = rescale(image, rng.uniform(0.3, 1.0), stretch, Image.Resampling(int(rng.choice([1, 2, 3, 3, 4]))))
    if happens(0.2):
        image = image.filter(ImageFilter.GaussianBlur(min(image.size) * rng.uniform(0.003, 0.014)))
    if happens(0.45):
        image = recompress(image, rng.integers(8, 85))
    x = preprocess(image)
    if happens(0.65):
        x = random_recolour(rng, x, strength)
    if happens(0.25):
        x = np.clip(x + rng.normal(0, rng.uniform(2, 14), x.shape), 0, 255).astype(np.uint8)
    return x


# ---------------------------------------------------------------- batches


def fresh_originals(rng, entry):
    """One new original from a pool drawing, or two disjoint crops of it (different images with the same colours and texture)."""
    if rng.random() < 0.5:
        entry = entry[:, ::-1]
    if rng.random() < 0.5:
        entry = entry[..., rng.permutation(3)]
    if rng.random() < 0.06:
        entry = 255 - entry
    image = Image.fromarray(np.ascontiguousarray(entry))
    w, h = image.size
    kind = rng.random()
    if kind < 0.15:
        cut = rng.uniform(0.42, 0.58)
        if w >= h:
            return [image.crop((0, 0, int(w * cut), h)), image.crop((int(w * cut), 0, w, h))]
        return [image.crop((0, 0, w, int(h * cut))), image.crop((0, int(h * cut), w, h))]
    if kind < 0.6:
        return [crop_away(image, rng.uniform(0.05, 0.6), rng)]
    return [image]


class Pool:
    """Drawings as a flat list plus the family each belongs to."""

    def __init__(self, seed, size, edge=POOL_EDGE):
        self.images, self.families, self.queue = [], [], []
        start, n = time.time(), 0
        while len(self.images) < size:
            members = draw_family((seed, 1, n), edge)
            self.families.append(range(len(self.images), len(self.images) + len(members)))
            self.images += members
            n += 1
            if n % 1000 == 0:
                print(f"drawn {len(self.images)} of {size}, {time.time() - start:.0f} s", flush=True)

    def batch(self, rng, size):
        """Two views of `size` originals, uint8 [size, 96, 96, 3] each, and a thumbnail of each original [size, 192]."""
        first, second, thumbs = [], [], []
        while len(first) < size:
            if not self.queue:
                self.queue = rng.permutation(len(self.families)).tolist()
            for index in self.families[self.queue.pop()]:
                for original in fresh_originals(rng, self.images[index]):
                    plain = preprocess(original)
                    thumbs.append(plain.reshape(8, 12, 8, 12, 3).mean((1, 3)).ravel())
                    first.append(plain if rng.random() < 0.5 else random_copy(rng, original, rng.uniform(0.2, 0.8)))
                    second.append(random_copy(rng, original, rng.uniform(0.4, 1.0)))
        return np.stack(first[:size]), np.stack(second[:size]), np.stack(thumbs[:size])


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


def build(torch, seed):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(**ARCHITECTURE)
    # Plain attention, and a matrix product for the patch convolution: on a CPU their backward passes are the faster ones.
    model = CLIPVisionModelWithProjection._from_config(config, attn_implementation="eager")
    patches = model.vision_model.embeddings.patch_embedding
    side, p = config.image_size // config.patch_size, config.patch_size

    def forward(x):
        x = x.reshape(len(x), 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5).reshape(len(x), side * side, 3 * p * p)
        x = torch.nn.functional.linear(x, patches.weight.flatten(1))
        return x.transpose(1, 2).unflatten(2, (side, side))

    patches.forward = forward
    return model


def to_pixels(torch, x):
    x = torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def embed(torch, model, views, batch=256):
    """Unit rows float32 [n, d] of uint8 views [n, 96, 96, 3]."""
    rows = []
    with torch.no_grad():
        for i in range(0, len(views), batch):
            e = model(pixel_values=to_pixels(torch, views[i : i + batch])).image_embeds.float()
            rows.append(torch.nn.functional.normalize(e, dim=-1))
    return torch.cat(rows).numpy()


def save(model, out):
    """config.json, preprocessor_config.json and model.safetensors (f16, Hugging Face names), each by rename."""
    import torch
    from safetensors.torch import save as serialise

    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: t.detach().to(torch.float16).contiguous()
        for name, t in sorted(model.state_dict().items())
        if not name.endswith("position_ids")
    }
    config = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", **ARCHITECTURE}
    config |= {"attention_dropout": 0.0, "dtype": "float16"}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
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


def load(torch, out):
    from transformers import CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection.from_pretrained(out, dtype=torch.float32).eval()


# ---------------------------------------------------------------- training


def contrastive(torch, a, b, thumbs, temperature, margin):
    """InfoNCE over 2n views with every other view as a negative. A copy must win by `margin`. Originals whose thumbnails
    are all but equal (blank crops) are not negatives of each other."""
    n = len(a)
    z = torch.nn.functional.normalize(torch.cat([a, b]).float(), dim=-1)
    partner = torch.arange(2 * n).roll(n)
    cosine = z @ z.T
    same = torch.cdist(thumbs, thumbs) / thumbs.shape[1] ** 0.5 < 6.0
    same = same.repeat(2, 2)
    same[torch.arange(2 * n), partner] = False
    logits = cosine.clone()
    logits[torch.arange(2 * n), partner] -= margin
    logits = (logits / temperature).masked_fill(same, -1e4)
    positive = cosine[torch.arange(n), torch.arange(n) + n]
    return torch.nn.functional.cross_entropy(logits, partner), positive.mean().item()


def train(args):
    import torch

    torch.set_num_threads(args.threads)
    model = build(torch, args.seed).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {flops(ARCHITECTURE)['total']:,} FLOP an image", flush=True)
    start = time.time()
    pool = Pool(args.seed, args.pool)
    print(f"pool of {len(pool.images)} in {time.time() - start:.0f} s", flush=True)

    probe_rng = np.random.default_rng(HELD_OUT_SEED)
    probes = [Image.fromarray(draw_family((HELD_OUT_SEED, n), POOL_EDGE, HELD_OUT_SCENES)[0]) for n in range(384)]
    plain = np.stack([preprocess(image) for image in probes])
    copies = np.stack([random_copy(probe_rng, image, 1.0) for image in probes])

    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}], lr=args.rate, betas=(0.9, 0.98)
    )
    rng = np.random.default_rng((args.seed, 2))
    steps, warmup, step = args.steps, 60, 0
    start = saved = time.time()
    while steps is None or step < steps:
        if steps is None and time.time() - start >= 0.75 * args.minutes * 60:
            steps = max(step + 1, step * 4 // 3)
            print(f"the rate falls from step {step}; {steps} steps in all", flush=True)
        falling = 1.0 if steps is None else min(1.0, (steps - step) / max(1, steps - steps * 3 // 4))
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / warmup) * max(0.01, falling)
        first, second, thumbs = pool.batch(rng, args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            z = model(pixel_values=to_pixels(torch, np.concatenate([first, second]))).image_embeds
        loss, positive = contrastive(
            torch, z[: args.batch], z[args.batch :], torch.from_numpy(thumbs).float(), args.temperature, args.margin
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0 or step == 1:
            a, b = embed(torch, model, plain), embed(torch, model, copies)
            cosine = b @ a.T
            hits = (cosine.argmax(1) == np.arange(len(a))).mean()
            others = (a @ a.T)[np.triu_indices(len(a), 1)]
            print(
                f"step {step} {time.time() - start:.0f} s loss {loss.item():.3f} positive {positive:.3f} | held out: recall@1 "
                f"{hits:.3f} copy {np.median(np.diag(cosine)):.3f} others 99.9% {np.quantile(others, 0.999):.3f} "
                f"max {others.max():.3f}",
                flush=True,
            )
        if time.time() - saved > 300:
            save(model, args.out)
            saved = time.time()
    save(model, args.out)
    views = np.concatenate([plain, copies])
    exact, rounded = embed(torch, model, views), embed(torch, load(torch, args.out), views)
    print(f"f16 file against f32 weights: cosine >= {(exact * rounded).sum(1).min():.7f} over {len(views)} views")
    for name, rows in (("f32", exact), ("f16", rounded)):
        cosine = rows[len(plain) :] @ rows[: len(plain)].T
        off = (rows[: len(plain)] @ rows[: len(plain)].T)[np.triu_indices(len(plain), 1)]
        print(f"{name}: recall@1 {(cosine.argmax(1) == np.arange(len(plain))).mean():.4f}, copies 10% "
              f"{np.quantile(np.diag(cosine), 0.1):.4f}, others max {off.max():.4f}")  # fmt: skip
    print(f"{step} steps, {step * args.batch:,} pairs, {(time.time() - start) / 60:.1f} minutes; repeat with --steps {step}")


# ---------------------------------------------------------------- evaluation

EPSILONS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10)


def fixed_recolour(**k):
    return lambda image, rng: Image.fromarray(recolour(np.asarray(image), **k))


def add_noise(image, rng, sigma):
    x = np.asarray(image, np.float32)
    return Image.fromarray(np.clip(x + rng.normal(0, sigma, x.shape), 0, 255).astype(np.uint8))


def combined(image, rng):
    image = rescale(crop_away(image, 0.1, rng), 0.5)
    return recompress(Image.fromarray(recolour(np.asarray(image), brightness=1.15, saturation=0.8)), 40)


MEASURED_EDITS = {
    "resized to 1/2": lambda image, rng: rescale(image, 0.5),
    "resized to 1/4": lambda image, rng: rescale(image, 0.25),
    "resized to 1/2, bilinear without antialias": lambda image, rng: image.transform(
        (image.width // 2, image.height // 2), Image.Transform.EXTENT, (0, 0, *image.size), Image.Resampling.BILINEAR
    ),
    "JPEG q75": lambda image, rng: recompress(image, 75),
    "JPEG q30": lambda image, rng: recompress(image, 30),
    "JPEG q10": lambda image, rng: recompress(image, 10),
    "WebP q30": lambda image, rng: recompress(image, 30, "WEBP"),
    "resized to 1/2 and JPEG q40": lambda image, rng: recompress(rescale(image, 0.5), 40),
    "5 % of the area cropped away": lambda image, rng: crop_away(image, 0.05, rng),
    "15 % cropped away": lambda image, rng: crop_away(image, 0.15, rng),
    "30 % cropped away": lambda image, rng: crop_away(image, 0.30, rng),
    "stretched by 8 %": lambda image, rng: rescale(image, 1.0, 1.08),
    "brightness x 1.3": fixed_recolour(brightness=1.3),
    "brightness x 0.7": fixed_recolour(brightness=0.7),
    "contrast x 0.65": fixed_recolour(contrast=0.65),
    "saturation x 0.4": fixed_recolour(saturation=0.4),
    "hue turned by 20 degrees": fixed_recolour(hue=20),
    "gamma 1.5": fixed_recolour(gamma=1.5),
    "greyscale": fixed_recolour(saturation=0.0),
    "blur, 1 % of the edge": lambda image, rng: image.filter(ImageFilter.GaussianBlur(min(image.size) * 0.01)),
    "noise, sigma 15 of 255": lambda image, rng: add_noise(image, rng, 15),
    "rotated by 3 degrees": lambda image, rng: rotate(image, 3),
    "border of 5 %": lambda image, rng: border(image, 0.05, (0, 0, 0)),
    "watermark, caption or sticker": overlay,
    "crop 10 %, 1/2 size, recoloured, JPEG q40": combined,
    "rotated by 15 degrees (not trained)": lambda image, rng: rotate(image, 15),
    "half cropped away (not trained)": lambda image, rng: crop_away(image, 0.5, rng),
    "mirrored (not trained)": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}

SKIMAGE_PHOTOS = (
    "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png "
    "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg text.png"
).split()


def test_photos():
    """Photographs inside installed packages, for measurement only: {name: image}, and faces as uint8 [n, 25, 25]."""
    from importlib.util import find_spec

    files, faces = {}, None
    if spec := find_spec("sklearn"):
        folder = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
        files |= {name: folder / name for name in ("china.jpg", "flower.jpg")}
    if spec := find_spec("skimage"):
        folder = Path(spec.submodule_search_locations[0]) / "data"
        files |= {name: folder / name for name in SKIMAGE_PHOTOS}
        if (folder / "lfw_subset.npy").exists():
            faces = np.load(folder / "lfw_subset.npy")[:100]
            faces = (faces * (255 if faces.max() <= 1 else 1)).astype(np.uint8)
    return {name: Image.open(path).convert("RGB") for name, path in files.items() if path.exists()}, faces


def tiles_of(image, edge=140):
    """Disjoint tiles of a photograph, 25 at most: different images with one light, colour and texture."""
    rows, columns = (min(5, max(1, n // edge)) for n in (image.height, image.width))
    h, w = image.height // rows, image.width // columns
    return [image.crop((x * w, y * h, x * w + w, y * h + h)) for y in range(rows) for x in range(columns)]


def detail(image):
    """Standard deviation of the tower's input, in units of 255: what a blank image lacks."""
    return float(preprocess(image).astype(np.float32).mean(-1).std())


def pair_row(name, rows):
    cosine = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    q = [np.quantile(cosine, p) for p in (0.5, 0.99, 0.9999)]
    counts = [int((cosine >= 1 - eps).sum()) for eps in EPSILONS]
    print(f"| {name} | {len(rows):,} | {len(cosine):,} | " + " | ".join(f"{x:.3f}" for x in (*q, cosine.max()))
          + " | " + " | ".join(f"{n:,}" for n in counts) + " |", flush=True)  # fmt: skip
    return cosine


def evaluate(args):
    import torch

    torch.set_num_threads(args.threads)
    model = load(torch, args.out)
    weights = (args.out / "model.safetensors").read_bytes()
    print(f"model.safetensors: {len(weights):,} bytes, sha256 {hashlib.sha256(weights).hexdigest()}")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters\n\n| part | FLOP an image |\n|---|---|")
    print("\n".join(f"| {part} | {n:,} |" for part, n in flops(ARCHITECTURE).items()))

    def rows_of(images):
        return embed(torch, model, np.stack([preprocess(image) for image in images]))

    drawings = [Image.fromarray(draw_family((HELD_OUT_SEED, 2, n), 448, HELD_OUT_SCENES)[0]) for n in range(args.drawings)]
    photos, faces = test_photos()
    tiles = {(name, i): tile for name, image in photos.items() for i, tile in enumerate(tiles_of(image))}
    flat = {key: tile for key, tile in tiles.items() if detail(tile) < 8}
    tiles = {key: tile for key, tile in tiles.items() if key not in flat}
    queries = {"drawings": drawings, "photographs": list(photos.values()), "photograph tiles": list(tiles.values())}
    queries = {kind: images for kind, images in queries.items() if images}
    gallery = {kind: rows_of(images) for kind, images in queries.items()}
    pooled = {kind: rows if kind == "drawings" else np.concatenate([rows, gallery["drawings"]]) for kind, rows in gallery.items()}

    print("\nCopies: recall@1 among all originals of the kind (and all drawings); cosine of copy and original; share caught\n")
    head = [f"{kind} {len(images)}" for kind, images in queries.items()]
    print("| edit | recall@1: " + " | ".join(head) + " | cosine 1 % | 10 % | 50 % | " + " | ".join(f"eps {e}" for e in EPSILONS) + " |")
    print("|---" * (1 + len(head) + 3 + len(EPSILONS)) + "|")
    for number, (name, edit) in enumerate(MEASURED_EDITS.items()):
        recall, cosines = [], []
        for kind, images in queries.items():
            rng = np.random.default_rng((HELD_OUT_SEED, 3, number))
            rows = rows_of([edit(image, rng) for image in images])
            recall.append((np.argmax(rows @ pooled[kind].T, 1) == np.arange(len(rows))).mean())
            cosines.append((rows * gallery[kind]).sum(1))
        cosine = np.concatenate(cosines)
        cells = [f"{100 * r:.1f}" for r in recall] + [f"{np.quantile(cosine, q):.3f}" for q in (0.01, 0.1, 0.5)]
        cells += [f"{100 * (cosine >= 1 - eps).mean():.0f} %" for eps in EPSILONS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)

    print("\nDifferent images: cosine quantiles of all pairs, and pairs at or above 1 - eps\n")
    print("| set | images | pairs | 50 % | 99 % | 99.99 % | max | " + " | ".join(f"eps {e}" for e in EPSILONS) + " |")
    print("|---" * (7 + len(EPSILONS)) + "|")
    families = [draw_family((HELD_OUT_SEED, 4, n), POOL_EDGE, HELD_OUT_SCENES) for n in range(args.others)]
    families = [[Image.fromarray(x) for x in family] for family in families]
    firsts = [family[0] for family in families if detail(family[0]) >= 8]
    rows = rows_of(firsts)
    cosine = pair_row("held-out drawings", rows)
    i, j = (index[np.argsort(cosine)[-12:]] for index in np.triu_indices(len(rows), 1))
    if args.closest:
        pairs = [np.concatenate([preprocess(firsts[a]), preprocess(firsts[b])]) for a, b in zip(i, j)]
        Image.fromarray(np.concatenate(pairs, 1)).save(args.closest)
    siblings = [rows_of(family) for family in families if len(family) > 1]
    if siblings:
        inner = np.concatenate([(s @ s.T)[np.triu_indices(len(s), 1)] for s in siblings])
        counts = " | ".join(f"{int((inner >= 1 - eps).sum()):,}" for eps in EPSILONS)
        quantiles = " | ".join(f"{np.quantile(inner, q):.3f}" for q in (0.5, 0.99, 0.9999, 1))
        print(f"| drawings: one background, other objects | {3 * len(siblings):,} | {len(inner):,} | {quantiles} | {counts} |")
    for scene in (page, portrait, landscape, sparse):
        drawn = [Image.fromarray(draw_family((HELD_OUT_SEED, 5, n), POOL_EDGE, [(scene, 1)])[0]) for n in range(args.others // 8)]
        pair_row(f"drawings: {scene.__name__} only", rows_of([image for image in drawn if detail(image) >= 8]))
    for scene in (plain_page, small_mark):
        rng = np.random.default_rng((HELD_OUT_SEED, 6))
        drawn = [to_image(scene(rng, 448, 448, palette(rng))) for _ in range(args.others // 20)]
        pair_row(f"drawings: {scene.__name__.replace('_', ' ')}", rows_of(drawn))
    if photos:
        pair_row("photographs", gallery["photographs"])
        cosine = pair_row("photograph tiles", gallery["photograph tiles"])
        keys = list(tiles)
        i, j = np.triu_indices(len(keys), 1)
        print("\nclosest tiles: " + ", ".join(f"{keys[i[n]]} {keys[j[n]]} {cosine[n]:.3f}" for n in np.argsort(-cosine)[:8]) + "\n")
    if faces is not None:
        pair_row("faces of 25 pixels", rows_of([Image.fromarray(face).convert("RGB") for face in faces]))
    if len(flat) > 1:
        pair_row("near-blank photograph tiles", rows_of(list(flat.values())))
    pair_row("solid colours", rows_of([Image.new("RGB", (200, 200), (r, g, b)) for r in (0, 85, 170, 255) for g in (0, 85, 170, 255)
                                       for b in (0, 85, 170, 255)]))  # fmt: skip


def contact_sheet(path):
    """Eight rows: an original and seven copies, then originals only."""
    rng = np.random.default_rng(7)
    tiles, n = [], 0
    while len(tiles) < 64:
        image = Image.fromarray(draw_family((0, 1, n), POOL_EDGE)[0])
        tiles += [preprocess(image)] + [random_copy(rng, image, 1.0) for _ in range(7)]
        n += 1
    while len(tiles) < 160:
        tiles += [preprocess(Image.fromarray(x)) for x in draw_family((0, 1, n), POOL_EDGE, SCENES if n % 3 else HELD_OUT_SCENES)]
        n += 1
    rows = [np.concatenate(tiles[i : i + 16], 1) for i in range(0, 160, 16)]
    Image.fromarray(np.concatenate(rows)).save(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/builtin"), help="model folder to write or to evaluate")
    parser.add_argument("--minutes", type=float, default=30, help="training time without the drawing of the pool")
    parser.add_argument("--steps", type=int, help="exactly so many steps instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256, help="originals in a step; each gives two views")
    parser.add_argument("--pool", type=int, default=8000, help="drawings in the pool (about 130 kB each)")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--temperature", type=float, default=0.07)
    parser.add_argument("--margin", type=float, default=0.1, help="cosine by which a copy must win over other images")
    parser.add_argument("--evaluate", action="store_true", help="measure the folder instead of training")
    parser.add_argument("--drawings", type=int, default=500, help="held-out originals that --evaluate edits")
    parser.add_argument("--others", type=int, default=6000, help="held-out families that --evaluate compares pairwise")
    parser.add_argument("--closest", type=Path, help="where --evaluate writes a picture of the closest different drawings")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of drawings and edits instead of training")
    return parser.parse_args()


if __name__ == "__main__":
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    if args.sheet:
        contact_sheet(args.sheet)
    elif args.evaluate:
        evaluate(args)
    else:
        train(args)

#!/usr/bin/env python3
"""Draws tests/data/gallery: a small, good-looking image collection with known duplicates and known broken files.

    pip install -r scripts/requirements.txt
    python scripts/make_gallery.py [--out tests/data] [--sheet contact-sheet.png]

Every picture is computed, so none belongs to anyone else. Each original has a few edited twins beside it, and
gallery.json, which lies outside the folder so that it is no part of the input, says for each file whose twin it is.
"""

import argparse
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from make_golden import check_versions, exif_orientation, huge_claims, write_json

SCALE = 2  # drawn at twice the size, then reduced


# ---------------------------------------------------------------------------------------------------------------------
# Tools


def random(seed):
    return np.random.Generator(np.random.PCG64(seed))


def colour(text):
    """#rrggbb as three floats in 0..1."""
    return np.array([int(text[at:at + 2], 16) for at in (1, 3, 5)]) / 255


def mix(a, b, t):
    """a where t is 0, b where t is 1; t is a number or an array [h, w]."""
    t = np.asarray(t)[..., None] if np.ndim(t) else t
    return a * (1 - t) + b * t


def ramp(stops, t):
    """Colours along t in 0..1; stops: [(position, '#rrggbb'), ...]."""
    places = [place for place, _ in stops]
    channels = np.array([colour(text) for _, text in stops])
    return np.stack([np.interp(t, places, channels[:, channel]) for channel in range(3)], axis=-1)


def smooth(low, high, x):
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def clouds(h, w, seed, cells=(3, 4), octaves=6, decay=0.55):
    """Fractal noise in 0..1."""
    dice, total, weight = random(seed), np.zeros((h, w)), 1.0
    for octave in range(octaves):
        rows, columns = min(cells[0] << octave, h), min(cells[1] << octave, w)
        grid = Image.fromarray(dice.random((rows, columns), dtype=np.float32))
        total += weight * np.asarray(grid.resize((w, h), Image.Resampling.BICUBIC))
        weight *= decay
    total -= total.min()
    return total / total.max()


def ridge(w, seed, cells=4, octaves=6, decay=0.5):
    return clouds(2, w, seed, (2, cells), octaves, decay)[0]


def to_image(pixels):
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def to_array(picture):
    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def grid(h, w):
    """y and x in 0..1."""
    return np.mgrid[0:h, 0:w] / np.array([h - 1, w - 1])[:, None, None]


def layer(pixels, shape, fill, opacity=1.0, blur=0):
    """Pixels with a drawn shape over them; `shape` is called with an ImageDraw of a mask."""
    mask = Image.new("L", pixels.shape[1::-1])
    shape(ImageDraw.Draw(mask))
    if blur:
        mask = mask.filter(ImageFilter.GaussianBlur(blur))
    return mix(pixels, fill, np.asarray(mask) / 255 * opacity)


def font(size):
    return ImageFont.load_default(size)


# ---------------------------------------------------------------------------------------------------------------------
# Landscapes


def mountain_lake(w, h):
    y, x = grid(h, w)
    out = ramp([(0, "#3b6fb5"), (0.35, "#9cc3e6"), (0.55, "#fbe3c4")], y)
    out = mix(out, colour("#ffffff"), smooth(0.55, 0.85, clouds(h, w, 1, (4, 2))) * smooth(0.5, 0.1, y) * 0.8)
    shore = 0.6
    for at, (base, height, far, near) in enumerate([(0.46, 0.26, "#8fa9cc", "#a9bcd6"), (0.5, 0.36, "#5b789f", "#748db0"), (0.58, 0.2, "#2f5560", "#47707a")]):
        line = base - height * (ridge(w, 20 + at, 3 + at) ** 1.4)
        body = mix(colour(far), colour(near), clouds(h, w, 30 + at, (8, 10)))
        if at < 2:
            snow = smooth(0.02, -0.03, y - (line + height * 0.22) + 0.14 * (clouds(h, w, 40 + at, (10, 16)) - 0.5))
            body = mix(body, colour("#f4f7fb"), snow)
        out = mix(out, body, smooth(-0.002, 0.002, y - line))
    rows = np.arange(h)
    mirrored = np.clip((2 * shore * h - rows).astype(int), 0, h - 1)
    waves = (6 * np.sin(rows * 0.9) * ((rows / h - shore).clip(0) * 3)).astype(int)
    lake = np.stack([np.roll(out[mirrored[row]], waves[row], axis=0) for row in rows])
    lake = mix(lake, colour("#1d4a6b"), 0.25 + 0.4 * (y - shore).clip(0))
    out = mix(out, lake, smooth(shore, shore + 0.004, y))
    dice = random(5)
    for side in range(26):
        left = dice.random() * 0.3 if side % 2 else 1 - dice.random() * 0.26
        foot, tall = 1.02 - 0.1 * dice.random(), 0.2 + 0.22 * dice.random()
        shade = mix(colour("#0e2a23"), colour("#1f4a33"), dice.random())

        def pine(draw, left=left, foot=foot, tall=tall):
            for step in range(6):
                top, half = foot - tall * (1 - step * 0.13), 0.012 + 0.011 * step
                draw.polygon([(left * w, top * h), ((left - half) * w, (top + tall * 0.3) * h), ((left + half) * w, (top + tall * 0.3) * h)], fill=255)
        out = layer(out, pine, shade)
    return out


def desert_dunes(w, h):
    y, x = grid(h, w)
    out = ramp([(0, "#2f6fa8"), (0.4, "#e9c9a0")], y)
    sun = np.hypot(x - 0.72, (y - 0.18) * h / w)
    out = mix(out, colour("#fff6d8"), np.exp(-sun * 14) + smooth(0.05, 0.046, sun))
    for at, base in enumerate([0.36, 0.46, 0.6, 0.8]):
        line = base + 0.07 * np.sin(x * (4.2 + at) + at * 1.9) + 0.03 * np.sin(x * 9 + at * 4)
        depth = (y - line).clip(0)
        lit = ramp([(0, "#f3c27a"), (0.5, "#d98f45"), (1, "#a85e2a")], np.clip(depth * 3.2, 0, 1))
        ripples = 0.035 * np.sin((y * 150 + 5 * np.sin(x * 13 + at)) * (1.2 - 0.2 * at) + x * 20)
        crest = x + 0.22 * np.sin(y * 7 + at) + depth * 1.1
        shaded = smooth(0.0, 0.015, np.sin(crest * 5 + at * 2.2))
        body = mix(lit + ripples[..., None], colour("#6d3a26"), shaded * 0.55 * np.exp(-depth * 2.5))
        out = mix(out, body, smooth(-0.002, 0.002, y - line))
    for at, left in enumerate([0.24, 0.3, 0.36, 0.42]):
        foot = 0.607 - 0.018 * at

        def camel(draw, left=left, foot=foot):
            s = 0.034 * w
            cx, cy = left * w, foot * h
            draw.ellipse([cx - s * .6, cy - s * .95, cx + s * .6, cy - s * .4], fill=255)
            draw.ellipse([cx - s * .25, cy - s * 1.25, cx + s * .2, cy - s * .6], fill=255)
            for leg in (-.5, -.3, .3, .5):
                draw.line([cx + leg * s, cy - s * .6, cx + leg * s, cy], fill=255, width=max(2, int(s * .13)))
            draw.line([cx + s * .5, cy - s * .7, cx + s * .85, cy - s * 1.35], fill=255, width=int(s * .2))
            draw.ellipse([cx + s * .72, cy - s * 1.5, cx + s * 1.15, cy - s * 1.22], fill=255)
        out = layer(out, camel, colour("#3a1f17"))
    return out


def sea_sunset(w, h):
    y, x = grid(h, w)
    line = 0.58
    out = ramp([(0, "#27214f"), (0.25, "#8a3a6b"), (0.45, "#f0714a"), (line, "#ffd27a")], y)
    bands = clouds(h, w, 8, (9, 2), 6, 0.6)
    out = mix(out, mix(colour("#5a2a5e"), colour("#ff9c6b"), y * 1.6), smooth(0.52, 0.75, bands) * 0.75)
    sun = np.hypot(x - 0.45, (y - line + 0.05) * h / w)
    out = mix(out, colour("#fff0b8"), np.clip(np.exp(-sun * 9) * 0.7 + smooth(0.075, 0.071, sun), 0, 1))
    deep = (y - line).clip(0)
    sea = ramp([(0, "#c9654f"), (0.08, "#6f3b63"), (0.42, "#1b1a3f")], deep)
    glints = clouds(h, w, 9, (90, 12), 3, 0.7)
    path = np.exp(-((x - 0.45) / (0.05 + deep * 0.45)) ** 2)
    sea = mix(sea, colour("#ffe09a"), smooth(0.5, 0.62, glints) * (0.12 + path * 0.9).clip(0, 1))
    out = mix(out, sea, smooth(line - 0.001, line + 0.001, y))

    def boat(draw):
        at = lambda a, b: (w * (0.71 + a * 0.06), h * (0.66 + b * 0.1))
        draw.polygon([at(-1, 0), at(1, 0), at(.7, .3), at(-.7, .3)], fill=255)
        draw.polygon([at(0, -2.4), at(0, -.15), at(1, -.15)], fill=255)
        draw.polygon([at(-.1, -2.1), at(-.1, -.15), at(-.8, -.15)], fill=255)
    out = layer(out, boat, colour("#1a1230"))
    for a, b in [(0.2, 0.2), (0.25, 0.17), (0.29, 0.23), (0.84, 0.28)]:
        out = layer(out, lambda draw: [draw.arc([w * (a + d), h * b, w * (a + d + 0.022), h * (b + 0.03)], 190, 350, fill=255, width=3) for d in (0, 0.02)], colour("#24163a"))
    return out


def misty_forest(w, h):
    y, x = grid(h, w)
    out = ramp([(0, "#dfe8d2"), (0.6, "#b9cfb4"), (1, "#6f8f63")], y)
    dice = random(17)
    for depth in range(5):
        near = depth / 4
        bark = mix(colour("#a9bfae"), colour("#22302a"), near)
        for _ in range(13 - depth * 2):
            left, half = dice.random() * w, (0.005 + 0.018 * near * (0.7 + 0.6 * dice.random())) * w
            lean, foot = (dice.random() - 0.5) * 0.03 * w, h * (0.66 + 0.09 * depth)
            boughs = [(dice.random() * 0.55, 1 if dice.random() > 0.5 else -1, 0.03 + 0.06 * dice.random()) for _ in range(5)]

            def trunk(draw, left=left, half=half, lean=lean, foot=foot, boughs=boughs):
                draw.polygon([(left - half, foot), (left + lean - half * 0.6, 0), (left + lean + half * 0.6, 0), (left + half, foot)], fill=255)
                for place, way, long in boughs:
                    draw.line([left + lean * (1 - place), place * h, left + way * long * w * (0.4 + near), (place - 0.07) * h], fill=255, width=max(1, int(half * 0.5)))
            out = layer(out, trunk, bark, blur=1.6 * (1 - near))
        ground = 0.66 + 0.09 * depth - 0.04 * ridge(w, 50 + depth, 5)
        moss = mix(mix(colour("#a5bf9c"), colour("#2f4d24"), near), mix(colour("#c2d3a9"), colour("#5d8232"), near), clouds(h, w, 60 + depth, (20, 30)))
        out = mix(out, moss, smooth(-0.01, 0.02, y - ground))
        out = mix(out, colour("#e9efd9"), (0.2 - 0.04 * depth) * clouds(h, w, 70 + depth, (3, 2)))
    rays = np.sin((x * 1.0 + y * 0.6) * 26 + 2 * np.sin(x * 6)) * 0.5 + 0.5
    return mix(out, colour("#fff7d0"), rays ** 3 * 0.32 * smooth(1, 0, y) * smooth(1.1, 0.3, x))


def night_sky(w, h):
    y, x = grid(h, w)
    out = ramp([(0, "#050a24"), (0.6, "#15264f"), (0.85, "#3c4a73")], y)
    along = (x - 0.55) * 0.75 + (y - 0.4) * 0.65
    dust = clouds(h, w, 81, (4, 5), 7, 0.62)
    glow = np.exp(-(along / 0.13) ** 2) * (0.35 + 0.9 * dust)
    out = mix(out, mix(colour("#8a7bc9"), colour("#f3dcc6"), dust), np.clip(glow * 0.62, 0, 1))
    out = mix(out, colour("#070a1e"), np.exp(-((along + 0.02) / 0.035) ** 2) * smooth(0.45, 0.7, dust) * 0.75)
    dice = random(82)
    for _ in range(700):
        a, b, size = int(dice.random() * w), int(dice.random() * h * 0.85), dice.random() ** 6
        tint = mix(colour("#bcd0ff"), colour("#fff0d0"), dice.random())
        reach = 1 if size < 0.5 else 2
        out[max(b - reach, 0):b + reach, max(a - reach, 0):a + reach] = mix(out[max(b - reach, 0):b + reach, max(a - reach, 0):a + reach], tint, 0.35 + 0.65 * size)
    moon = np.hypot(x - 0.16, (y - 0.2) * h / w)
    face = mix(colour("#f7f3df"), colour("#b9b6ab"), smooth(0.45, 0.75, clouds(h, w, 83, (12, 16))))
    out = mix(out, colour("#e8e6ff"), np.exp(-moon * 16) * 0.5)
    out = mix(out, face, smooth(0.062, 0.059, moon))
    for at, (base, tint) in enumerate([(0.84, "#141d3d"), (0.92, "#080d1d")]):
        out = mix(out, colour(tint), smooth(-0.003, 0.003, y - base + 0.12 * ridge(w, 90 + at, 3)))
    tent = [(0.62 * w, 0.93 * h), (0.7 * w, 0.78 * h), (0.8 * w, 0.93 * h)]
    out = layer(out, lambda draw: draw.ellipse([0.55 * w, 0.72 * h, 0.87 * w, 1.02 * h], fill=255), colour("#ffb45e"), 0.35, 30)
    out = layer(out, lambda draw: draw.polygon(tent, fill=255), colour("#f59b3c"))
    return layer(out, lambda draw: draw.polygon([tent[1], (0.69 * w, 0.93 * h), (0.735 * w, 0.93 * h)], fill=255), colour("#ffe9a8"))


def city_dusk(w, h):
    y, x = grid(h, w)
    quay = 0.76
    out = ramp([(0, "#1c2a55"), (0.4, "#7a5a8c"), (0.65, "#f2a27a"), (quay, "#ffd9a0")], y)
    out = mix(out, colour("#e7b3a5"), smooth(0.5, 0.9, clouds(h, w, 101, (8, 3))) * 0.5)
    picture, dice = to_image(out), random(102)
    draw = ImageDraw.Draw(picture)
    for depth, (shade, tallest) in enumerate([("#8d6f95", 0.38), ("#564a78", 0.5), ("#231f42", 0.42)]):
        left = -0.02
        while left < 1:
            wide, tall = 0.04 + 0.06 * dice.random(), tallest * (0.35 + 0.65 * dice.random())
            box = [left * w, (quay - tall) * h, (left + wide) * w, quay * h]
            draw.rectangle(box, fill=shade)
            roof = dice.random()
            if roof > 0.7:
                draw.polygon([(box[0], box[1]), ((box[0] + box[2]) / 2, box[1] - 0.06 * h), (box[2], box[1])], fill=shade)
            elif roof > 0.45:
                draw.line([(box[0] + box[2]) / 2, box[1] - 0.08 * h, (box[0] + box[2]) / 2, box[1]], fill=shade, width=3)
            if depth:
                for b in np.arange(box[1] + 8, box[3] - 10, 13):
                    for a in np.arange(box[0] + 6, box[2] - 8, 11):
                        if dice.random() < 0.5:
                            draw.rectangle([a, b, a + 5, b + 7], fill=["#ffd76e", "#fff1b8", "#ffb25a", "#9fd3e8"][int(dice.random() * 4)])
            left += wide + 0.004
    out = to_array(picture)
    rows = np.arange(h)
    mirrored = np.clip((2 * quay * h - rows).astype(int), 0, h - 1)
    jitter = (5 * np.sin(rows * 1.1) + 4 * np.sin(rows * 0.37)).astype(int)
    water = np.stack([np.roll(out[mirrored[row]], jitter[row], axis=0) for row in rows])
    water = np.asarray(to_image(water).filter(ImageFilter.BoxBlur((1, 4)))) / 255
    return mix(out, mix(water, colour("#1a1f45"), 0.4), smooth(quay, quay + 0.003, y))


def hot_air_balloons(w, h):
    y, x = grid(h, w)
    out = ramp([(0, "#5aa9e6"), (0.7, "#cfeaf7"), (1, "#fff3d6")], y)
    out = mix(out, colour("#ffffff"), smooth(0.55, 0.8, clouds(h, w, 111, (4, 4))) * 0.85)
    for at, (base, near, far) in enumerate([(0.86, "#9cc88f", "#7fb37a"), (0.94, "#5e9c4f", "#3f7d3b")]):
        fields = mix(colour(near), colour(far), smooth(-0.1, 0.1, np.sin(x * 40 * (1 + at) + y * 90) + clouds(h, w, 112 + at) - 0.5))
        out = mix(out, fields, smooth(-0.003, 0.003, y - base + 0.06 * ridge(w, 114 + at, 3)))
    sets = [(0.3, 0.34, 0.19, ["#d7263d", "#f7d002", "#f46036"]), (0.72, 0.25, 0.13, ["#2e294e", "#1b998b", "#f4f1de"]), (0.84, 0.6, 0.085, ["#ff6b9a", "#fff1f5", "#8338ec"]), (0.55, 0.62, 0.06, ["#ffb703", "#fb8500", "#023047"])]
    for cx, cy, size, paints in sets:
        u, v = (x - cx) / size, (y - cy) * h / w / size
        wide = np.sqrt((1 - np.clip(v, -1, 1) ** 2).clip(0)) * np.where(v > 0, 1 - 0.35 * v.clip(0), 1)
        turn = np.arcsin(np.clip(u / wide.clip(1e-3), -1, 1))
        stripe = ((turn / math.pi + 0.5) * 9).astype(int) % len(paints)
        body = np.array([colour(paint) for paint in paints])[stripe]
        body = mix(body, colour("#101030"), 0.5 * smooth(0.1, 1.2, u + 0.3 * v)) + 0.25 * np.exp(-((u + 0.4) ** 2 + (v + 0.4) ** 2) * 6)[..., None]
        inside = (np.abs(u) < wide) & (v > -1) & (v < 0.97)
        out = np.where(inside[..., None], body, out)

        def basket(draw, cx=cx, cy=cy, size=size):
            top, bottom = cy * h + 0.97 * size * w, cy * h + 1.35 * size * w
            for side in (-1, 1):
                draw.line([cx * w + side * size * w * 0.16, top, cx * w + side * size * w * 0.11, bottom], fill=255, width=2)
            draw.rectangle([(cx - size * 0.13) * w, bottom, (cx + size * 0.13) * w, bottom + size * w * 0.2], fill=255)
        out = layer(out, basket, colour("#5b3a1e"))
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Still life: a small ray tracer of balls on a table


def trace(w, h, balls, floor, sky, light=(-0.5, 0.9, -0.55), bounces=3, eye=(0, 1.25, -4.2), tilt=-0.16):
    """balls: (centre, radius, colour or function of the normal, mirror 0..1); floor and sky: functions giving colours."""
    light = np.array(light) / np.linalg.norm(light)
    y, x = grid(h, w)
    ray = np.stack([(x - 0.5) * 1.15, (0.5 - y) * 1.15 * h / w + tilt, np.ones_like(x)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    start = np.broadcast_to(np.array(eye, float), ray.shape)
    out, strength = np.zeros(ray.shape), np.ones((h, w, 1))

    def nearest(start, ray):
        best, which = np.full(ray.shape[:2], np.inf), np.full(ray.shape[:2], -1)
        for at, (centre, radius, _, _) in enumerate(balls):
            to = start - np.array(centre)
            half = (to * ray).sum(-1)
            inner = half ** 2 - (to * to).sum(-1) + radius ** 2
            far = -half - np.sqrt(inner.clip(0))
            hit = (inner > 0) & (far > 1e-4) & (far < best)
            best, which = np.where(hit, far, best), np.where(hit, at, which)
        down = np.where(np.abs(ray[..., 1]) > 1e-9, -start[..., 1] / ray[..., 1], np.inf)
        hit = (down > 1e-4) & (down < best)
        return np.where(hit, down, best), np.where(hit, len(balls), which)

    for _ in range(bounces):
        far, which = nearest(start, ray)
        point = start + np.where(np.isfinite(far), far, 0)[..., None] * ray
        normal = np.zeros_like(ray)
        normal[..., 1] = 1
        base, mirror = floor(point), np.full((h, w, 1), 0.1)
        for at, (centre, radius, paint, shine) in enumerate(balls):
            mine = (which == at)[..., None]
            outward = (point - np.array(centre)) / radius
            normal = np.where(mine, outward, normal)
            base = np.where(mine, paint(outward) if callable(paint) else paint, base)
            mirror = np.where(mine, shine, mirror)
        blocked = nearest(point + normal * 1e-3, np.broadcast_to(light, ray.shape))[1]
        lit = ((normal * light).sum(-1).clip(0) * np.where(blocked >= 0, 0.15, 1))[..., None]
        back = ray - 2 * (ray * normal).sum(-1, keepdims=True) * normal
        gloss = ((back * light).sum(-1).clip(0) ** 40 * (which < len(balls)) * (blocked < 0))[..., None]
        edge = 1
        for centre, radius, _, _ in balls:  # soft contact shadows
            edge = edge * np.where(which == len(balls), 1 - 0.55 * np.exp(-(np.hypot(point[..., 0] - centre[0], point[..., 2] - centre[2]) / radius) ** 2 * 1.4), 1)
        surface = base * (0.32 * edge[..., None] + 0.8 * lit) + 0.7 * gloss
        missed = (which < 0)[..., None]
        out += strength * np.where(missed, sky(ray), surface * (1 - mirror))
        strength = strength * np.where(missed, 0, mirror)
        start, ray = point + normal * 1e-3, back
    return out


def marbles(w, h):
    def floor(point):
        odd = (np.floor(point[..., 0] * 1.4) + np.floor(point[..., 2] * 1.4)) % 2
        return mix(colour("#f2ede3"), colour("#27323f"), odd)

    swirl = lambda a, b, k: lambda n: mix(colour(a), colour(b), smooth(-0.25, 0.25, np.sin(6 * n[..., 1] + k * np.sin(4 * n[..., 0] + 2 * n[..., 2]))))
    balls = [((-1.25, 0.7, 0.4), 0.7, swirl("#0b6fb8", "#9fe0ff", 2), 0.22), ((0.35, 0.95, 1.2), 0.95, colour("#cfd6dd"), 0.75), ((1.45, 0.5, -0.1), 0.5, swirl("#b3123b", "#ffc2a8", 1.4), 0.2),
             ((-0.25, 0.38, -0.75), 0.38, swirl("#1f8a4c", "#e9f7a8", 2.6), 0.2), ((0.65, 0.27, -1.1), 0.27, colour("#f2b400"), 0.25), ((-1.0, 0.22, -1.2), 0.22, colour("#7a2fb0"), 0.25), ((2.3, 0.8, 2.4), 0.8, colour("#e6552d"), 0.2)]
    return trace(w, h, balls, floor, lambda ray: ramp([(-0.1, "#f7e3c8"), (0.5, "#4d86b8")], ray[..., 1]))


def fruit(w, h):
    grain = lambda point: mix(colour("#8a5a33"), colour("#5c371c"), 0.5 + 0.5 * np.sin(point[..., 2] * 9 + 1.5 * np.sin(point[..., 0] * 1.3) + 0.6 * np.sin(point[..., 0] * 5 + point[..., 2] * 7)))

    def orange(n):
        return mix(colour("#f28c1a"), colour("#d9650a"), 0.5 + 0.5 * np.sin(n[..., 0] * 60) * np.sin(n[..., 1] * 60) * np.sin(n[..., 2] * 60))

    def apple(n):
        return mix(colour("#b5141f"), colour("#d9c441"), smooth(0.25, 0.9, n[..., 0] * 0.5 + n[..., 1] * 0.6 + 0.12 * np.sin(np.arctan2(n[..., 2], n[..., 0]) * 23)))

    def green(n):
        return mix(colour("#6fa52b"), colour("#bcd65a"), smooth(-0.5, 0.9, n[..., 1] + 0.1 * np.sin(np.arctan2(n[..., 2], n[..., 0]) * 17)))

    grapes = [((1.05 + 0.23 * a + 0.1 * b, 0.17 + 0.2 * c, -0.65 + 0.27 * b), 0.17, colour("#4a2363") * (0.8 + 0.15 * ((a + b + c) % 3)), 0.08)
              for c in range(3) for b in range(3 - c) for a in range(4 - c)]
    balls = [((-1.2, 0.72, 0.5), 0.72, orange, 0.02), ((0.15, 0.68, 0.7), 0.68, apple, 0.07), ((-0.45, 0.6, -0.55), 0.6, green, 0.07), ((-1.65, 0.3, -0.7), 0.3, colour("#e8d13a"), 0.04), *grapes]
    out = trace(w, h, balls, grain, lambda ray: ramp([(-0.1, "#3d2f2a"), (0.35, "#7d6a55")], ray[..., 1] + 0.3 * ray[..., 0]), bounces=2)
    for cx, cy in [(0.515, 0.355), (0.4, 0.38)]:
        out = layer(out, lambda draw: draw.line([cx * w, cy * h, (cx + 0.012) * w, (cy - 0.08) * h], fill=255, width=5), colour("#3a2412"))
        out = layer(out, lambda draw: draw.ellipse([(cx + 0.01) * w, (cy - 0.085) * h, (cx + 0.07) * w, (cy - 0.045) * h], fill=255), colour("#3f7d2a"))
    return out


def vases(w, h):
    y, x = grid(h, w)
    out = mix(ramp([(0, "#c9b79c"), (0.68, "#e9dcc3")], y), colour("#8d7a5f"), 0.35 * smooth(0.2, 1.1, x))
    table = ramp([(0.68, "#7b4b2a"), (1, "#4a2a16")], y) * (0.9 + 0.15 * clouds(h, w, 131, (40, 3)))[..., None]
    out = mix(out, table, smooth(0.68, 0.684, y))
    profiles = [
        (0.24, 0.3, 0.84, 0.105, lambda t: 0.45 + 0.75 * np.sin(t ** 1.5 * 3.0) ** 2 + 0.15 * (t < 0.06), "#2b5d7d", "#e8eef2", 7),
        (0.52, 0.36, 0.88, 0.085, lambda t: 0.35 + 0.25 * (1 - t) ** 3 + 0.8 * smooth(0.35, 0.75, t) * smooth(1.12, 0.85, t), "#a33b20", "#f2c879", 11),
        (0.79, 0.46, 0.86, 0.12, lambda t: 0.62 + 0.5 * np.sin(t * 3.1), "#2f6b4f", "#d8e8c9", 5)]
    for centre, top, foot, size, profile, dark, pale, bands in profiles:
        t = np.clip((y - top) / (foot - top), 0, 1)
        wide = size * profile(t)
        shadow = np.exp(-(((x - centre - 0.09) / (size * 1.6)) ** 2 + ((y - foot) / 0.035) ** 2))
        out = mix(out, colour("#1d0f07"), 0.65 * shadow * (y > 0.68))
        u = (x - centre) / wide
        glaze = mix(colour(dark), colour(pale), smooth(-0.1, 0.1, np.sin(t * bands * 6.28 + 0.8 * np.sin(np.arcsin(np.clip(u, -1, 1)) * 6)) - 0.3))
        glaze = glaze * (0.35 + 0.75 * np.sqrt((1 - np.clip(u + 0.25, -1, 1) ** 2).clip(0)))[..., None]
        glaze = glaze + 0.5 * (np.exp(-((u + 0.5) / 0.1) ** 2) * smooth(0.0, 0.2, t) * smooth(1, 0.6, t))[..., None]
        inside = smooth(1.01, 0.98, np.abs(u)) * (y > top) * (y < foot + 0.02 * np.sqrt((1 - np.clip(u, -1, 1) ** 2)))
        out = mix(out, glaze, inside)
    dice = random(132)
    for at in range(9):
        angle = -1.57 + (at - 4) * 0.2 + 0.1 * dice.random()
        tip = (0.52 + 0.21 * math.cos(angle), 0.36 + 0.26 * math.sin(angle) * (0.75 + 0.35 * dice.random()))
        out = layer(out, lambda draw: draw.line([0.52 * w, 0.38 * h, tip[0] * w, tip[1] * h], fill=255, width=4), colour("#3c6b2c"))
        petal = colour(["#f2545b", "#f7b32b", "#fcf6b1"][at % 3])
        for turn in range(6):
            a, b = tip[0] * w + 11 * math.cos(turn * 1.047), tip[1] * h + 11 * math.sin(turn * 1.047)
            out = layer(out, lambda draw: draw.ellipse([a - 9, b - 9, a + 9, b + 9], fill=255), petal * (0.85 + 0.03 * turn))
        out = layer(out, lambda draw: draw.ellipse([tip[0] * w - 6, tip[1] * h - 6, tip[0] * w + 6, tip[1] * h + 6], fill=255), colour("#6b3a12"))
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Patterns


def brick_wall(w, h):
    dice, tall = random(141), 36
    out = np.ones((h, w, 3)) * colour("#b9b2a6") * (0.8 + 0.3 * clouds(h, w, 142, (60, 80), 3))[..., None]
    rough = clouds(h, w, 143, (40, 50), 4)
    for row in range(-1, h // tall + 2):
        left = -(row % 2) * 42 - int(dice.random() * 6)
        while left < w:
            paint = mix(mix(colour("#8e3b2a"), colour("#c4674a"), dice.random()), colour("#5d2c26"), 0.6 * (dice.random() > 0.85))
            box = [left + 3, row * tall + 3, left + 81, row * tall + tall - 3]
            mask = Image.new("L", (w, h))
            ImageDraw.Draw(mask).rounded_rectangle(box, 4, fill=255)
            here = np.asarray(mask) / 255
            y0, y1, x0, x1 = max(box[1] - 2, 0), max(box[3] + 3, 0), max(box[0] - 2, 0), max(box[2] + 3, 0)
            face = paint * (0.72 + 0.5 * rough[y0:y1, x0:x1])[..., None]
            out[y0:y1, x0:x1] = mix(out[y0:y1, x0:x1], face, here[y0:y1, x0:x1])
            left += 84
    mask = Image.fromarray((out.mean(-1) * 255).astype(np.uint8)).filter(ImageFilter.Kernel((3, 3), [-2, -1, 0, -1, 0, 1, 0, 1, 2], 6, 128))
    out = out + (np.asarray(mask) / 255 - 0.5)[..., None] * 0.9
    y, x = grid(h, w)
    return out * (1.12 - 0.35 * np.hypot(x - 0.3, y - 0.3))[..., None]


def stained_glass(w, h):
    dice, count = random(151), 150
    y, x = np.mgrid[0:h, 0:w].astype(float)
    points = dice.random((count, 2)) * [h, w]
    near = np.full((2, h, w), 1e9)
    which = np.zeros((h, w), int)
    for at, (a, b) in enumerate(points):
        far = np.hypot(y - a, x - b)
        closer = far < near[0]
        near[1] = np.where(closer, near[0], np.minimum(near[1], far))
        which, near[0] = np.where(closer, at, which), np.where(closer, far, near[0])
    centre = np.hypot(points[:, 0] - h / 2, points[:, 1] - w / 2) / (0.5 * min(h, w))
    angle = np.arctan2(points[:, 0] - h / 2, points[:, 1] - w / 2)
    paints = ramp([(0, "#ffd447"), (0.35, "#f2762e"), (0.6, "#c2183c"), (0.85, "#5a1f8a"), (1.1, "#123f9e"), (1.5, "#0c6e6e")], centre + 0.13 * np.sin(angle * 8))
    glass = paints[which] * (0.72 + 0.55 * clouds(h, w, 152, (6, 6)))[..., None]
    glass = glass + 0.22 * np.exp(-((x - w * 0.4) ** 2 + (y - h * 0.35) ** 2) / (0.12 * w * h))[..., None]
    return mix(glass, colour("#14110f"), smooth(7, 4, near[1] - near[0]))


def julia(w, h):
    y, x = grid(h, w)
    z = ((x - 0.5) * 2.9) + 1j * ((y - 0.5) * 2.9 * h / w)
    steps = np.zeros((h, w))
    alive = np.ones((h, w), bool)
    for at in range(160):
        z = np.where(alive, z * z + (-0.79 + 0.15j), z)
        gone = alive & (np.abs(z) > 8)
        steps[gone] = at + 1 - np.log2(np.log(np.abs(z[gone])) / np.log(8))
        alive &= ~gone
    t = np.sqrt(np.clip(steps, 0, 110) / 110)
    out = ramp([(0, "#03071e"), (0.25, "#14337a"), (0.42, "#2a9dc9"), (0.55, "#e8f6e9"), (0.7, "#ffb703"), (0.85, "#d00000"), (1, "#370617")], t)
    return np.where(alive[..., None], colour("#02030a"), out)


def tartan(w, h):
    def threads(n):
        sett = [("#0f3b2e", 26), ("#132a54", 18), ("#0f3b2e", 8), ("#b3202c", 5), ("#0f3b2e", 8), ("#132a54", 18), ("#0f3b2e", 26), ("#e9c64a", 4), ("#101418", 10), ("#e9e4d8", 4), ("#101418", 10)]
        line = np.concatenate([np.tile(colour(paint), (count, 1)) for paint, count in sett])
        return np.resize(line, (n, 3))
    y, x = np.mgrid[0:h, 0:w]
    twill = ((x + y) // 2 % 4 < 2)[..., None]
    out = np.where(twill, threads(w + 30)[None, 30:], threads(h)[:, None])
    shade = 0.85 + 0.3 * clouds(h, w, 161, (3, 4), 3) + 0.07 * np.sin(x * 1.57)
    return np.clip(out * 1.25 + 0.03, 0, 1) * shade[..., None]


def tiles(w, h):
    cell = 64
    picture = Image.new("RGB", (w, h), "#f4efe2")
    draw, dice = ImageDraw.Draw(picture), random(171)
    paints = ["#1d4e89", "#f79256", "#00b2ca", "#7dcfb6", "#e63946", "#fbd1a2"]
    for top in range(0, h, cell):
        for left in range(0, w, cell):
            ground, ink = dice.permutation(paints)[:2]
            draw.rectangle([left, top, left + cell, top + cell], fill=ground)
            kind, turn = int(dice.random() * 4), int(dice.random() * 4)
            corners = [(left, top), (left + cell, top), (left + cell, top + cell), (left, top + cell)]
            a, b = corners[turn], corners[(turn + 2) % 4]
            if kind == 0:
                for corner in (a, b):
                    draw.ellipse([corner[0] - cell // 2, corner[1] - cell // 2, corner[0] + cell // 2, corner[1] + cell // 2], fill=ink)
            elif kind == 1:
                for radius, tint in [(cell, ink), (int(cell * 0.66), ground), (int(cell * 0.33), ink)]:
                    draw.pieslice([a[0] - radius, a[1] - radius, a[0] + radius, a[1] + radius], turn * 90, turn * 90 + 90, fill=tint)
            elif kind == 2:
                draw.polygon([corners[turn], corners[(turn + 1) % 4], corners[(turn + 2) % 4]], fill=ink)
            else:
                draw.ellipse([left + 8, top + 8, left + cell - 8, top + cell - 8], fill=ink)
                draw.ellipse([left + 24, top + 24, left + cell - 24, top + cell - 24], fill=ground)
    for left in range(0, w, cell):
        draw.line([left, 0, left, h], fill="#f4efe2", width=3)
    for top in range(0, h, cell):
        draw.line([0, top, w, top], fill="#f4efe2", width=3)
    return to_array(picture) * (0.92 + 0.12 * clouds(h, w, 172, (20, 20)))[..., None]


# ---------------------------------------------------------------------------------------------------------------------
# Portraits of geometric shapes


def robot(w, h):
    y, x = grid(h, w)
    out = mix(ramp([(0, "#ffd6a5"), (1, "#ff8fa3")], y), colour("#ffffff"), 0.25 * (np.sin(np.arctan2(y - 0.5, x - 0.5) * 24) > 0))
    picture = to_image(out)
    draw = ImageDraw.Draw(picture)
    box = lambda a, b, c, d, paint, r=0, line="#22313f": draw.rounded_rectangle([a * w, b * h, c * w, d * h], r, fill=paint, outline=line, width=5)
    box(0.2, 0.74, 0.8, 1.1, "#5c7c99", 40)
    box(0.42, 0.66, 0.58, 0.78, "#8fa7bb")
    box(0.34, 0.83, 0.66, 0.97, "#e8edf2", 14)
    for at, paint in enumerate(["#e63946", "#ffb703", "#2a9d8f", "#457b9d"]):
        draw.ellipse([(0.38 + at * 0.065) * w, 0.87 * h, (0.425 + at * 0.065) * w, 0.87 * h + 0.045 * w], fill=paint, outline="#22313f", width=3)
    box(0.16, 0.38, 0.25, 0.54, "#e63946", 14)
    box(0.75, 0.38, 0.84, 0.54, "#e63946", 14)
    box(0.23, 0.22, 0.77, 0.68, "#9fb8cc", 46)
    draw.line([0.5 * w, 0.22 * h, 0.5 * w, 0.1 * h], fill="#22313f", width=8)
    draw.ellipse([0.45 * w, 0.05 * h, 0.55 * w, 0.05 * h + 0.1 * w], fill="#ffdd57", outline="#22313f", width=5)
    for centre, look in [(0.38, 0.01), (0.62, 0.01)]:
        for radius, paint in [(0.085, "#f8fbff"), (0.05, "#1b9aaa"), (0.024, "#0b132b")]:
            shift = look if radius < 0.08 else 0
            draw.ellipse([(centre + shift - radius) * w, 0.4 * h - radius * w, (centre + shift + radius) * w, 0.4 * h + radius * w], fill=paint, outline="#22313f", width=4)
    box(0.36, 0.54, 0.64, 0.62, "#22313f", 12)
    for at in range(6):
        draw.rectangle([(0.375 + at * 0.044) * w, 0.555 * h, (0.405 + at * 0.044) * w, 0.605 * h], fill="#7ae582")
    out = to_array(picture)
    return out * (0.86 + 0.25 * smooth(0.9, 0.1, x))[..., None]


def cubist_face(w, h):
    picture = Image.new("RGB", (w, h), "#d8b26e")
    draw = ImageDraw.Draw(picture)
    at = lambda points: [(a * w, b * h) for a, b in points]
    facets = [
        ("#31572c", [(0, 0), (.45, 0), (.25, .5), (0, .6)]), ("#4f772d", [(0, .6), (.25, .5), (.2, 1), (0, 1)]), ("#1d3557", [(.45, 0), (1, 0), (1, .35), (.7, .3)]),
        ("#457b9d", [(1, .35), (.7, .3), (.78, .7), (1, .8)]), ("#6d2e46", [(.2, 1), (.35, .78), (.68, .8), (.9, 1)]), ("#a26769", [(.35, .78), (.5, .74), (.68, .8), (.52, 1)]),
        ("#f2cc8f", [(.3, .18), (.52, .12), (.5, .5), (.26, .48)]), ("#e07a5f", [(.52, .12), (.74, .22), (.76, .5), (.5, .5)]), ("#e9b384", [(.26, .48), (.5, .5), (.48, .8), (.32, .7)]),
        ("#bc4b51", [(.5, .5), (.76, .5), (.7, .7), (.48, .8)]), ("#3d2314", [(.3, .18), (.36, .06), (.62, .03), (.52, .12)]), ("#5a3519", [(.62, .03), (.82, .14), (.74, .22), (.52, .12)]),
        ("#2a1509", [(.82, .14), (.86, .5), (.76, .5), (.74, .22)]), ("#7f4f24", [(.3, .18), (.2, .3), (.22, .52), (.26, .48)]), ("#fff3d6", [(.5, .3), (.42, .56), (.52, .58)]), ("#c9773f", [(.5, .3), (.52, .58), (.58, .54)]),
    ]
    for paint, points in facets:
        draw.polygon(at(points), fill=paint)
    for centre, paint, tilt in [((.38, .36), "#2a9d8f", 0), ((.64, .38), "#264653", 1)]:
        a, b = centre
        draw.polygon(at([(a - .085, b + .01), (a, b - .04 - .01 * tilt), (a + .085, b), (a, b + .04)]), fill="#fdf6e3", outline="#1b1b1b")
        draw.ellipse([(a - .032) * w, b * h - .032 * w, (a + .032) * w, b * h + .032 * w], fill=paint)
        draw.ellipse([(a - .014) * w, b * h - .014 * w, (a + .014) * w, b * h + .014 * w], fill="#101010")
        draw.line(at([(a - .1, b - .05), (a, b - .09), (a + .1, b - .055)]), fill="#2a1509", width=9)
    draw.polygon(at([(.4, .66), (.48, .63), (.52, .65), (.57, .63), (.64, .66), (.52, .7)]), fill="#8d1b2c")
    draw.line(at([(.4, .66), (.52, .665), (.64, .66)]), fill="#3b0a12", width=4)
    for paint, points in facets:
        draw.line(at([*points, points[0]]), fill="#1f1a17", width=4)
    y, x = grid(h, w)
    strokes = clouds(h, w, 181, (10, 90), 4) * 0.5 + clouds(h, w, 182, (90, 10), 4) * 0.5
    return to_array(picture) * (0.75 + 0.5 * strokes)[..., None]


def owl(w, h):
    y, x = grid(h, w)
    out = mix(ramp([(0, "#1b2a49"), (1, "#465881")], y), colour("#f6e7b4"), smooth(0.17, 0.165, np.hypot(x - 0.8, (y - 0.18) * h / w)))
    picture = to_image(out)
    draw = ImageDraw.Draw(picture)
    disc = lambda a, b, r, paint, s=1.0: draw.ellipse([(a - r) * w, b * h - r * w * s, (a + r) * w, b * h + r * w * s], fill=paint)
    draw.polygon([(0, .9 * h), (w, .82 * h), (w, .88 * h), (0, .97 * h)], fill="#4a3120")
    disc(0.5, 0.6, 0.29, "#7a5230", 1.35)
    for row in range(7):
        for column in range(-5, 6):
            a, b = 0.5 + (column + (row % 2) * .5) * 0.062, 0.53 + row * 0.052
            if ((a - 0.5) / 0.25) ** 2 + ((b - 0.62) / 0.27) ** 2 < 1:
                disc(a, b, 0.034, ["#c89b62", "#a87947", "#e2c290"][(row + column) % 3])
                disc(a, b - 0.012, 0.027, "#8a5f38" if (row + column) % 2 else "#b98a55")
    for way in (-1, 1):
        draw.polygon([((.5 + way * .27) * w, .42 * h), ((.5 + way * .36) * w, .62 * h), ((.5 + way * .22) * w, .86 * h), ((.5 + way * .17) * w, .6 * h)], fill="#553820")
        draw.polygon([((.5 + way * .1) * w, .24 * h), ((.5 + way * .29) * w, .11 * h), ((.5 + way * .28) * w, .33 * h)], fill="#553820")
    disc(0.5, 0.36, 0.28, "#94683c", 0.82)
    for way in (-1, 1):
        a = 0.5 + way * 0.125
        for radius, paint in [(0.135, "#e8cfa3"), (0.115, "#f7ead0"), (0.082, "#f5a623"), (0.05, "#16110d")]:
            disc(a, 0.355, radius, paint)
        disc(a + 0.02, 0.338, 0.017, "#ffffff")
        for claw in (-1, 0, 1):
            disc(0.5 + way * 0.1 + claw * 0.03, 0.885, 0.02, "#e0a030", 1.5)
    draw.polygon([(.5 * w, .47 * h), (.455 * w, .385 * h), (.545 * w, .385 * h)], fill="#e58e26")
    dice = random(191)
    for _ in range(60):
        a, b = dice.random() * w, dice.random() * h * 0.7
        if picture.getpixel((int(a), int(b)))[2] > picture.getpixel((int(a), int(b)))[0] + 10:
            draw.ellipse([a, b, a + 3, b + 3], fill="#fff7d6")
    return to_array(picture)


# ---------------------------------------------------------------------------------------------------------------------
# Documents: charts, text, maps


def bar_chart(w, h):
    picture = Image.new("RGB", (w, h), "#fbfaf7")
    draw = ImageDraw.Draw(picture)
    draw.text((0.06 * w, 0.04 * h), "Harvest by orchard, tonnes", font=font(28), fill="#1f2933")
    left, right, top, foot = 0.12 * w, 0.96 * w, 0.2 * h, 0.86 * h
    for step in range(6):
        b = foot - (foot - top) * step / 5
        draw.line([left, b, right, b], fill="#d8d4ca", width=2)
        draw.text((left - 10, b), str(step * 20), font=font(18), fill="#52606d", anchor="rm")
    series, paints = [[62, 81, 47, 92, 70, 38], [48, 55, 68, 61, 83, 52], [22, 34, 41, 29, 57, 66]], ["#2a6f97", "#f4a259", "#5b8e7d"]
    for group in range(6):
        start = left + (right - left) * (group + 0.12) / 6
        for at, values in enumerate(series):
            a = start + at * (right - left) / 6 * 0.26
            draw.rectangle([a, foot - (foot - top) * values[group] / 100, a + (right - left) / 6 * 0.23, foot], fill=paints[at])
        draw.text((start + (right - left) / 6 * 0.38, foot + 8), "North East South West Hill Vale".split()[group], font=font(18), fill="#1f2933", anchor="ma")
    draw.line([left, foot, right, foot], fill="#1f2933", width=3)
    for at, name in enumerate(["apples", "pears", "plums"]):
        a = (0.56 + at * 0.14) * w
        draw.rectangle([a, 0.145 * h, a + 16, 0.145 * h + 16], fill=paints[at])
        draw.text((a + 22, 0.145 * h + 8), name, font=font(17), fill="#1f2933", anchor="lm")
    return to_array(picture)


def line_chart(w, h):
    picture = Image.new("RGB", (w, h), "#10182b")
    draw, dice = ImageDraw.Draw(picture), random(211)
    left, right, top, foot = 0.05 * w, 0.9 * w, 0.16 * h, 0.9 * h
    for step in range(9):
        a = left + (right - left) * step / 8
        draw.line([a, top, a, foot], fill="#22304d", width=2)
        b = top + (foot - top) * step / 8
        draw.line([left, b, right, b], fill="#22304d", width=2)
        draw.text((right + 8, b), f"{160 - 15 * step}", font=font(16), fill="#8da2c8", anchor="lm")
    draw.text((left, 0.04 * h), "River level, cm", font=font(26), fill="#e6edf8")
    for paint, seed_level, fill in [("#4cc9f0", 0.3, "#173a56"), ("#f72585", 0.6, None), ("#ffd166", 0.75, None)]:
        walk = np.cumsum(dice.normal(0, 0.03, 120))
        steps = (walk - np.linspace(0, walk[-1], 120)) * 0.8 + seed_level + 0.07 * np.sin(np.arange(120) / 9)
        line = [(left + (right - left) * at / 119, top + (foot - top) * float(np.clip(value, 0.03, 0.97))) for at, value in enumerate(steps)]
        if fill:
            draw.polygon([*line, (right, foot), (left, foot)], fill=fill)
        draw.line(line, fill=paint, width=5, joint="curve")
        draw.ellipse([line[-1][0] - 8, line[-1][1] - 8, line[-1][0] + 8, line[-1][1] + 8], fill=paint)
    return to_array(picture)


def newspaper(w, h):
    picture = Image.new("RGB", (w, h), "#efe8d8")
    draw, dice = ImageDraw.Draw(picture), random(221)
    draw.text((w / 2, 0.045 * h), "The Morning Tide", font=font(54), fill="#1b1a17", anchor="ma")
    draw.line([0.05 * w, 0.15 * h, 0.95 * w, 0.15 * h], fill="#1b1a17", width=4)
    draw.line([0.05 * w, 0.16 * h, 0.95 * w, 0.16 * h], fill="#1b1a17", width=2)
    draw.text((w / 2, 0.175 * h), "Lighthouse keeper counts whales", font=font(31), fill="#1b1a17", anchor="ma")
    plate = to_image(sea_sunset(int(0.42 * w), int(0.26 * h))).convert("L").convert("RGB")
    picture.paste(plate, (int(0.05 * w), int(0.25 * h)))
    words = "harbour the of wind and a boats sail north gull at dawn rope salt lamp over tide to in calm weather fish market old pier song fog bell it was net".split()
    for column in range(2):
        b = (0.53 if column == 0 else 0.25) * h
        start, end = (0.05 + column * 0.46) * w, (0.47 + column * 0.48) * w
        while b < 0.95 * h:
            a = start
            while True:
                word = words[int(dice.random() * len(words))]
                long = draw.textlength(word + " ", font=font(17))
                if a + long > end:
                    break
                draw.text((a, b), word, font=font(17), fill="#2a2823")
                a += long
            b += 22
    return to_array(picture) * (0.93 + 0.1 * clouds(h, w, 222, (4, 4)))[..., None]


def city_map(w, h):
    y, x = grid(h, w)
    picture = Image.new("RGB", (w, h), "#efeae0")
    draw, dice = ImageDraw.Draw(picture), random(231)
    draw.polygon([(a * w, b * h) for a, b in [(.56, .08), (.86, .05), (.9, .34), (.62, .38)]], fill="#bfe0a8")
    draw.ellipse([.05 * w, .66 * h, .26 * w, .9 * h], fill="#bfe0a8")
    for row in range(-2, 14):
        for column in range(-2, 18):
            if dice.random() < 0.55:
                a, b = (column * 0.07 + row * 0.012) * w, (row * 0.092 - column * 0.008) * h
                park = picture.getpixel((int(np.clip(a, 0, w - 1)), int(np.clip(b, 0, h - 1))))[1] == 0xE0
                if not park:
                    draw.rectangle([a + 6, b + 6, a + 0.055 * w * (0.5 + 0.5 * dice.random()), b + 0.07 * h * (0.5 + 0.5 * dice.random())], fill=["#ddd3c2", "#d6cab5", "#e3d9ca"][int(dice.random() * 3)])
    for row in range(-1, 14):
        draw.line([0, row * 0.092 * h, w, (row * 0.092 - 0.11) * h], fill="#ffffff", width=6)
    for column in range(-1, 18):
        draw.line([column * 0.07 * w, 0, (column * 0.07 + 0.13) * w, h], fill="#ffffff", width=6)
    river = [((0.02 + 0.98 * t) * w, (0.52 + 0.14 * math.sin(t * 6.5) + 0.1 * t) * h) for t in np.linspace(-0.05, 1.05, 60)]
    draw.line(river, fill="#8ec7e8", width=46, joint="curve")
    for paint, wide in [("#e39b2d", 17), ("#ffd477", 11)]:
        draw.line([(0, .26 * h), (.35 * w, .3 * h), (.55 * w, .5 * h), (.7 * w, .86 * h), (.75 * w, h)], fill=paint, width=wide, joint="curve")
        draw.line([(.08 * w, h), (.3 * w, .6 * h), (.5 * w, .22 * h), (.53 * w, 0)], fill=paint, width=wide, joint="curve")
    for a, b, text, paint in [(.74, .2, "Lime Park", "#3f7d3b"), (.27, .44, "Old Town", "#5a4a3a"), (.8, .83, "Docks", "#5a4a3a"), (.15, .78, "Heath", "#3f7d3b")]:
        draw.text((a * w, b * h), text, font=font(26), fill=paint, anchor="mm", stroke_width=3, stroke_fill="#ffffff")
    draw.polygon([(.43 * w, .38 * h), (.405 * w, .31 * h), (.455 * w, .31 * h)], fill="#d62839")
    draw.ellipse([.4 * w, .24 * h, .46 * w, .24 * h + .06 * w], fill="#d62839")
    draw.ellipse([.42 * w, .26 * h, .44 * w, .26 * h + .02 * w], fill="#ffffff")
    return to_array(picture)


def island_map(w, h):
    y, x = grid(h, w)
    height = clouds(h, w, 243, (3, 4), 6, 0.5) * 1.25 - 1.5 * ((x - 0.5) ** 2 + (y - 0.52) ** 2) - 0.12
    out = ramp([(0, "#1f5f8b"), (0.18, "#3f8fbf"), (0.3, "#9fd0e6"), (0.305, "#efe3b4"), (0.36, "#a9cf7f"), (0.55, "#6aa35a"), (0.68, "#c9b27a"), (0.8, "#9a7250"), (0.95, "#f7f5f0")], height)
    slope_y, slope_x = np.gradient(height)
    out = out * (1 + np.where(height > 0.3, (slope_x + slope_y) * 14, 0)).clip(0.6, 1.35)[..., None]
    lines = np.abs(height * 22 - np.round(height * 22)) / (np.hypot(slope_x, slope_y) * 22 + 1e-6)
    out = mix(out, colour("#5a4630"), smooth(1.2, 0.5, lines) * 0.45 * (height > 0.3))
    for at in range(1, 6):
        for mask in (np.abs(x * 6 - at) < 0.006, np.abs(y * 6 - at) < 0.008):
            out = mix(out, colour("#ffffff"), 0.35 * mask)
    picture = to_image(out)
    draw = ImageDraw.Draw(picture)
    draw.rectangle([4, 4, w - 5, h - 5], outline="#3b2d1f", width=8)
    a, b, r = 0.88 * w, 0.17 * h, 0.055 * w
    for turn in range(8):
        angle, long = turn * math.pi / 4, r if turn % 2 == 0 else r * 0.6
        tip = (a + long * math.sin(angle), b - long * math.cos(angle))
        for side, paint in ((0.25, "#2b2118"), (-0.25, "#f6ecd4")):
            draw.polygon([(a, b), (a + 0.22 * r * math.sin(angle + side * 3), b - 0.22 * r * math.cos(angle + side * 3)), tip], fill=paint)
    draw.text((a, b - r - 4), "N", font=font(24), fill="#2b2118", anchor="ms")
    return to_array(picture)


# ---------------------------------------------------------------------------------------------------------------------
# The collection

ORIGINALS = {  # name: (folder, draw, width, height, edits)
    "mountain-lake": ("landscapes", mountain_lake, 288, 192, "copy resized q30 webp"),
    "desert-dunes": ("landscapes", desert_dunes, 288, 192, "resized brighter"),
    "sea-sunset": ("landscapes", sea_sunset, 288, 192, "cropped q30"),
    "misty-forest": ("landscapes", misty_forest, 208, 272, "rotated-by-exif resized"),
    "night-sky": ("landscapes", night_sky, 288, 192, "q30 copy"),
    "city-dusk": ("landscapes", city_dusk, 288, 208, "grey resized"),
    "hot-air-balloons": ("landscapes", hot_air_balloons, 240, 288, "cropped webp copy"),
    "marbles": ("still-life", marbles, 288, 208, "resized rotated-by-exif"),
    "fruit": ("still-life", fruit, 272, 208, "q30 cropped"),
    "vases": ("still-life", vases, 256, 240, "webp brighter"),
    "brick-wall": ("patterns", brick_wall, 240, 180, "resized"),
    "stained-glass": ("patterns", stained_glass, 224, 224, "q30 rotated-by-exif"),
    "julia-set": ("patterns", julia, 272, 192, "resized alpha"),
    "tartan": ("patterns", tartan, 216, 162, "copy"),
    "tiles": ("patterns", tiles, 256, 192, "cropped webp"),
    "robot": ("portraits", robot, 216, 272, "alpha q30 resized"),
    "cubist-face": ("portraits", cubist_face, 208, 256, "grey cropped"),
    "owl": ("portraits", owl, 224, 256, "copy rotated-by-exif"),
    "bar-chart": ("documents", bar_chart, 288, 200, "alpha resized"),
    "river-levels": ("documents", line_chart, 288, 192, "q30"),
    "newspaper": ("documents", newspaper, 240, 304, "grey"),
    "city-map": ("documents", city_map, 272, 208, "resized brighter"),
    "island-map": ("documents", island_map, 272, 208, "webp q30"),
}

CAPTIONS = {
    "sea-sunset": "A small sailing boat crosses the last light of the day.",
    "marbles": "Glass and steel marbles on a chequered floor.",
    "owl": "An owl made of circles, under a pale moon.",
}
FACTS = {
    "misty-forest": {"caption": "Light falls through a misty forest.", "tags": ["forest", "mist"]},
    "newspaper": {"caption": "Front page of a newspaper that never was.", "tags": ["text", "print"]},
}


def encoded(picture, format, **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def edited(name, kind, picture, body):
    """File name and bytes of one edit of an original; `body` is the original's file."""
    w, h = picture.size
    jpeg = lambda picture, quality=90, **options: encoded(picture, "JPEG", quality=quality, **options)
    if kind == "copy":
        return f"{name}-copy.jpg", body
    if kind == "resized":
        return f"{name}-resized.jpg", jpeg(picture.resize((w * 5 // 8, h * 5 // 8), Image.Resampling.LANCZOS))
    if kind == "q30":
        return f"{name}-q30.jpg", jpeg(picture, 30)
    if kind == "cropped":  # about an eighth of the area, unevenly
        return f"{name}-cropped.jpg", jpeg(picture.crop((w // 40, h // 25, w - w // 25, h - h // 40)))
    if kind == "rotated-by-exif":
        return f"{name}-rotated-by-exif.jpg", jpeg(picture.transpose(Image.Transpose.ROTATE_90), exif=exif_orientation(6))
    if kind == "alpha":
        y, x = grid(h, w)
        fade = smooth(0.0, 0.08, np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)))
        small = picture.quantize(96, dither=Image.Dither.NONE).convert("RGB")
        small.putalpha(Image.fromarray((np.round(fade * 8) / 8 * 255).astype(np.uint8)))
        return f"{name}-alpha.png", encoded(small, "PNG", optimize=True)
    if kind == "webp":
        return f"{name}.webp", encoded(picture, "WEBP", quality=82)
    if kind == "grey":
        return f"{name}-grey.jpg", jpeg(picture.convert("L"))
    if kind == "brighter":
        return f"{name}-brighter.jpg", jpeg(picture.point(lambda value: min(255, int(value * 1.15 + 8))))
    raise ValueError(kind)


def broken_files(whole):
    """(name, bytes, why) of the files that cannot be read; `whole` is a good JPEG."""
    claims = dict(huge_claims())
    yield "truncated.jpg", whole[:len(whole) * 2 // 5], "cut off in the middle"
    yield "empty.png", b"", "no bytes"
    yield "not-an-image.jpg", b"<!DOCTYPE html>\n<title>404 Not Found</title>\n<p>The picture you asked for is gone.</p>\n", "an error page"
    yield "huge-claim.png", claims["huge-claim.png"], "a header that claims 60000 x 60000 pixels"
    yield "zeros.webp", bytes(2048), "zeros, as a failed copy leaves them"


def contact_sheet(folder, names, path):
    wide, tall, columns = 220, 210, 8
    sheet = Image.new("RGB", (columns * wide, -(-len(names) // columns) * tall), "#303030")
    draw = ImageDraw.Draw(sheet)
    for at, name in enumerate(names):
        picture = ImageOps.exif_transpose(Image.open(folder / name))
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "#ff00ff"), picture)
        picture = ImageOps.contain(picture.convert("RGB"), (wide - 10, tall - 26))
        left, top = at % columns * wide, at // columns * tall
        sheet.paste(picture, (left + (wide - picture.width) // 2, top + 4))
        draw.text((left + wide / 2, top + tall - 4), Path(name).name, font=font(13), fill="white", anchor="ms")
    sheet.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/data", help="default: tests/data")
    parser.add_argument("--sheet", type=Path, help="also write all pictures on one page")
    arguments = parser.parse_args()
    check_versions("numpy", "pillow")
    folder, files = arguments.out / "gallery", {}
    shutil.rmtree(folder, ignore_errors=True)

    def write(name, body, **facts):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        files[name] = facts

    for name, (place, draw, w, h, edits) in ORIGINALS.items():
        picture = to_image(draw(w * SCALE, h * SCALE)).resize((w, h), Image.Resampling.LANCZOS)
        body = encoded(picture, "JPEG", quality=90)
        write(f"{place}/{name}.jpg", body, group=name, edit="original")
        picture = Image.open(io.BytesIO(body)).convert("RGB")
        for kind in edits.split():
            file, edit = edited(name, kind, picture, body)
            write(f"{place}/{file}", edit, group=name, edit=kind)
        if name in CAPTIONS:
            (folder / place / f"{name}.txt").write_text(CAPTIONS[name] + "\n", encoding="utf-8")
        if name in FACTS:
            write_json(folder / place / f"{name}.json", FACTS[name])
    good = list(files)
    for name, body, why in broken_files((folder / good[0]).read_bytes()):
        write(f"broken/{name}", body, broken=True, why=why)
    write_json(arguments.out / "gallery.json", {
        "what": "Files of the same group show the same picture. copy is byte-identical to the original; all other edits differ in bytes.",
        "sidecars": [f"{ORIGINALS[name][0]}/{name}.txt" for name in CAPTIONS] + [f"{ORIGINALS[name][0]}/{name}.json" for name in FACTS],
        "files": files,
    })
    if arguments.sheet:
        contact_sheet(folder, good, arguments.sheet)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{len(files)} files, {len(good)} of them good, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

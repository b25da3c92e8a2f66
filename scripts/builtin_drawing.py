"""The drawing program behind the embedded tower's training: every image it learns from is drawn here.

Pool images (`draw_family`), overlays with transparency (`draw_overlay`: watermarks, captions, stickers, bars) and screens
(`draw_screen`: pages and windows on which a picture may lie). Everything follows from a seed. compare_neardup.py measures on
another program's drawings (neardup_drawing.py), which shares no code with this one.

Requirements: numpy, pillow (versions in train_builtin.py).
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

POOL_EDGE = 192  # shortest edge of a drawing, pixels


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
    (spectral, 2), (leaves, 3), (network, 2), (landscape, 4), (texture, 2), (page, 3), (objects, 4), (portrait, 3),
    (room, 2), (skyline, 2), (sparse, 2), (branches, 2), (blend, 4), (collage, 2), (julia, 1), (voronoi, 2), (curves, 1),
    (interference, 1), (plain_page, 1), (small_mark, 1),
]  # fmt: skip
REDRAWN = (page, plain_page, small_mark, sparse, portrait, room)  # scenes whose family is drawn again, not drawn upon


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


def draw_family(seed, edge=POOL_EDGE, scenes=SCENES):
    """One to three different images, uint8 [h, w, 3]. Several share layout or background, colours and finish, and differ in
    content: the negatives that colour and texture alone do not tell apart."""
    rng = np.random.default_rng(seed)
    h, w = shape_of(rng, edge)
    pal = palette(rng)
    weights = np.array([weight for _, weight in scenes], float)
    draw = scenes[rng.choice(len(scenes), p=weights / weights.sum())][0]
    scene = draw(rng, h, w, pal)
    tone = int(rng.integers(1 << 31))
    if draw in (plain_page, small_mark):
        members = [scene, draw(rng, h, w, pal), draw(rng, h, w, pal)]
    elif rng.random() < 0.7:
        members = [scene]
    elif draw in REDRAWN and rng.random() < 0.6:
        members = [scene, draw(rng, h, w, pal)]
    else:
        members = [shaded(rng, scene, pal, int(rng.integers(2, 6)), 0.12, 0.35) for _ in range(3)]
    return [finish(np.random.default_rng(tone), member) for member in members]


# ---------------------------------------------------------------- drawing: what is laid over and around an image


def draw_overlay(seed, edge):
    """Straight RGBA, uint8 [edge, edge, 4]: text, a caption bar, a tiled watermark, one translucent word, big lines at head and
    foot, stickers, a small picture, or interface parts. A twentieth to a third of the area is touched."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGBA", (edge, edge), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    plain = rgb(rng.choice([0.0, 1.0]) * np.ones(3)) if rng.random() < 0.6 else rgb(rng.random(3))
    against = (0, 0, 0) if sum(plain) > 380 else (255, 255, 255)
    kind = rng.random() * 1.3
    if kind > 1.15:
        word, size = random_text(rng, int(rng.integers(4, 12))), edge * rng.uniform(0.1, 0.26)
        place = (rng.uniform(0, 0.35) * edge, rng.uniform(0.25, 0.6) * edge)
        draw.text(place, word, (*plain, int(rng.uniform(60, 190))), ImageFont.load_default(size))
        image = image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR)
    elif kind > 1:
        size = edge * rng.uniform(0.08, 0.18)
        for y in (rng.uniform(0, 0.06) * edge, edge * rng.uniform(0.94, 1) - size * 1.2):
            draw.text((rng.uniform(0, 0.2) * edge, y), random_text(rng, int(rng.integers(5, 16))), (*plain, 255),
                      ImageFont.load_default(size), stroke_width=int(rng.integers(0, 3)), stroke_fill=(*against, 255))  # fmt: skip
    elif kind < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            size = edge * rng.uniform(0.05, 0.2)
            place = (rng.uniform(-0.05, 0.7) * edge, rng.uniform(0, 0.9) * edge)
            edged = int(rng.integers(0, 3))
            draw.text(place, random_text(rng, int(rng.integers(2, 14))), (*plain, int(rng.uniform(80, 255))),
                      ImageFont.load_default(size), stroke_width=edged, stroke_fill=(*against, 255))  # fmt: skip
    elif kind < 0.45:
        for top in [(True,), (False,), (True, False)][rng.integers(3)]:
            bar = edge * rng.uniform(0.06, 0.18)
            y = 0 if top else edge - bar
            if rng.random() < 0.7:
                draw.rectangle((0, y, edge, y + bar), (*plain, int(rng.uniform(110, 255))))
                ink = against
            else:
                ink = plain
            lines = int(rng.integers(1, 3))
            for line in range(lines):
                draw.text((edge * rng.uniform(0.01, 0.2), y + line * bar / lines), random_text(rng, 24), (*ink, 255),
                          ImageFont.load_default(max(5, bar * 0.75 / lines)))  # fmt: skip
    elif kind < 0.6:
        text, size, opacity = random_text(rng, 7), edge * rng.uniform(0.06, 0.14), int(rng.uniform(50, 170))
        step = size * rng.uniform(2, 4)
        for y in np.arange(-edge * 0.5, edge * 1.5, step):
            draw.text((rng.uniform(-0.3, 0.1) * edge, y), (text + "   ") * 4, (*plain, opacity), ImageFont.load_default(size))
        image = image.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR)
    elif kind < 0.8:
        for _ in range(int(rng.integers(1, 5))):
            r = edge * rng.uniform(0.04, 0.17)
            x, y, fill = rng.uniform(0, edge), rng.uniform(0, edge), (*rgb(rng.random(3)), int(rng.uniform(170, 255)))
            if rng.random() < 0.4:
                draw.ellipse((x - r, y - r, x + r, y + r), fill)
                if rng.random() < 0.5:
                    for s in (-0.4, 0.4):
                        draw.ellipse((x + s * r - r / 7, y - r / 3, x + s * r + r / 7, y), (0, 0, 0, 255))
                    draw.arc((x - r / 2, y - r / 4, x + r / 2, y + r / 2), 20, 160, (0, 0, 0, 255), max(1, int(r / 8)))
            else:
                draw.polygon(outline(rng, x, y, r), fill)
    elif kind < 0.9:
        n = int(edge * rng.uniform(0.2, 0.42))
        inset = Image.fromarray(finish(rng, simple(rng, n, n, palette(rng)))).convert("RGBA")
        image.paste(inset, (int(rng.uniform(0, edge - n)), int(rng.uniform(0, edge - n))))
    else:
        bar = edge * rng.uniform(0.04, 0.1)
        for y in (0, edge - bar):
            draw.rectangle((0, y, edge, y + bar), (*plain, 255))
            for x in np.arange(0.03, 1, rng.uniform(0.08, 0.25)):
                draw.rectangle((x * edge, y + bar * 0.3, x * edge + bar * 0.5, y + bar * 0.7), (*against, 255))
    return np.asarray(image)


def draw_screen(seed, edge):
    """uint8 [edge, edge, 3]: a page, a window or a wall that a picture lies on."""
    rng = np.random.default_rng(seed)
    kind, pal = rng.random(), palette(rng)
    if kind < 0.35:
        return finish(rng, page(rng, edge, edge, pal))
    ground = rgb(rng.choice([0.05, 0.1, 0.15, 0.93, 0.97, 1.0]) * np.ones(3)) if kind < 0.85 else rgb(pal[0])
    ink = (30, 30, 30) if sum(ground) > 380 else (225, 225, 225)
    image = Image.new("RGB", (edge, edge), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 4))):
        n = edge * rng.uniform(0.03, 0.14)
        side = rng.integers(4)
        box = [(0, 0, edge, n), (0, edge - n, edge, edge), (0, 0, n, edge), (edge - n, 0, edge, edge)][side]
        draw.rectangle(box, rgb(pal[rng.integers(5)]))
    size = edge * rng.uniform(0.025, 0.06)
    for y in np.arange(0.02, 0.98, rng.uniform(0.04, 0.12)):
        if rng.random() < 0.75:
            draw.text((rng.uniform(0.01, 0.3) * edge, y * edge), random_text(rng, int(rng.integers(4, 50))), ink, ImageFont.load_default(size))
        if rng.random() < 0.15:
            x, n = rng.uniform(0, 0.95) * edge, edge * rng.uniform(0.02, 0.08)
            draw.ellipse((x, y * edge, x + n, y * edge + n), rgb(pal[rng.integers(5)]))
    return np.asarray(image)

"""Held-out drawings for compare_neardup.py. Shares no code and no kind of scene with the program that the embedded tower was
trained on (builtin_drawing.py), pages of text aside: ray-traced still lifes, height-field terrain, brush strokes, low-poly, maps,
charts, flowers, animals, lights at night, woven cloth, galaxies, documents.

`draw(seed, edge)` gives one image; `document` and `near_blank` alone give sets of look-alikes that are different images.

Requirements: numpy, scipy, pillow (any recent version; the figures in benches/RESULTS.md name theirs).
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import Delaunay

WORDS = (
    "river stone winter market yellow garden engine paper signal north harbour copper window velvet orbit ladder meadow "
    "thunder pocket island mirror candle forest bridge number silver summer valley button carpet station feather lantern "
    "report total annual figure table chapter notice public office weather price open sale today morning train"
).split()


def words(rng, n):
    return " ".join(rng.choice(WORDS, n))


def colour(rng, low=0.1, high=1.0):
    return np.array(colorsys.hls_to_rgb(rng.random(), rng.uniform(low, high) * 0.9, rng.beta(1.5, 2)), np.float32)


def ints(c):
    return tuple(int(x) for x in np.clip(np.asarray(c) * 255, 0, 255))


def clouds(rng, h, w, octaves=5, falloff=0.55):
    """Value noise in 0..1: random grids, interpolated and summed."""
    total, weight, size = np.zeros((h, w), np.float32), 1.0, rng.uniform(2, 4)
    for _ in range(octaves):
        cells = rng.random((int(size * h / min(h, w)) + 2, int(size * w / min(h, w)) + 2))
        field = zoom(cells, (h / cells.shape[0], w / cells.shape[1]), order=1, grid_mode=True, mode="nearest")
        total += weight * field[:h, :w]
        weight, size = weight * falloff, size * 2
    low, high = total.min(), total.max()
    return (total - low) / (high - low + 1e-9)


def pixels(canvas):
    return Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))


# ---------------------------------------------------------------- ray tracing


def ray_traced(rng, h, w):
    """Spheres and boxes on a floor under one lamp, with shadows, gloss and haze."""
    aspect = w / h
    y, x = np.mgrid[1 : -1 : h * 1j, -aspect : aspect : w * 1j]
    pitch = rng.uniform(-0.35, -0.1)
    d = np.stack([x, y * np.cos(pitch) + 1.6 * np.sin(pitch), 1.6 * np.cos(pitch) - y * np.sin(pitch)], -1).astype(np.float32)
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    eye = np.array([0, rng.uniform(1.0, 2.2), -4], np.float32)
    lamp = np.array([rng.uniform(-4, 4), rng.uniform(3, 7), rng.uniform(-4, 1)], np.float32)
    things = []
    for _ in range(int(rng.integers(2, 8))):
        r = rng.uniform(0.25, 0.9)
        centre = np.array([rng.uniform(-2.4, 2.4), r, rng.uniform(-1, 3.5)], np.float32)
        extent = r * rng.uniform(0.4, 1.2, 3).astype(np.float32)
        centre_box = np.array([centre[0], extent[1], centre[2]], np.float32)
        things.append(("sphere", centre, np.float32(r)) if rng.random() < 0.6 else ("box", centre_box, extent))
    looks = [(colour(rng), colour(rng), rng.integers(4), rng.uniform(2, 12), rng.random()) for _ in range(len(things) + 1)]

    def hit(o, d, thing):
        kind, centre, size = thing
        o = o - centre
        if kind == "sphere":
            b = (o * d).sum(-1)
            q = b * b - (o * o).sum(-1) + size * size
            t = -b - np.sqrt(np.maximum(q, 0))
            return np.where((q > 0) & (t > 1e-3), t, np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (-size - o) / d, (size - o) / d
        near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
        return np.where((near < far) & (near > 1e-3), near, np.inf)

    with np.errstate(divide="ignore"):
        floor = np.where(d[..., 1] < -1e-3, -eye[1] / d[..., 1], np.inf)
    depths = np.stack([floor, *(hit(eye, d, thing) for thing in things)])
    owner, t = depths.argmin(0), depths.min(0)
    seen = np.isfinite(t)
    p = eye + d * np.where(seen, t, 0)[..., None]
    sky_a, sky_b = colour(rng, 0.3, 1), colour(rng, 0.5, 1)
    up = np.clip(d[..., 1:2] * 1.5 + 0.3, 0, 1)
    canvas = sky_a * up + sky_b * (1 - up)
    canvas += 0.25 * (clouds(rng, h, w)[..., None] - 0.5) * rng.integers(2)
    to_lamp = lamp - p
    distance = np.linalg.norm(to_lamp, axis=-1, keepdims=True)
    to_lamp /= distance
    shade = np.ones((h, w), np.float32)
    for thing in things:
        shade = np.where(hit(p + 1e-2 * to_lamp, to_lamp, thing) < distance[..., 0], 0.35, shade)
    for i, (first, second, pattern, scale, gloss) in enumerate(looks):
        mask = seen & (owner == i)
        if not mask.any():
            continue
        q, view = p[mask], d[mask]
        if i == 0:
            normal = np.broadcast_to(np.array([0, 1, 0], np.float32), q.shape)
        else:
            kind, centre, size = things[i - 1]
            local = q - centre
            if kind == "sphere":
                normal = local / size
            else:
                face = np.abs(local / size)
                normal = (face == face.max(-1, keepdims=True)) * np.sign(local)
        if pattern == 0:
            mix = (np.floor(q * scale * 0.4).sum(-1) % 2).astype(np.float32)
        elif pattern == 1:
            mix = 0.5 + 0.5 * np.sin(q @ rng.normal(0, scale, 3))
        elif pattern == 2:
            mix = 0.5 + 0.5 * np.sin(6 * np.sin(q[:, 0] * scale) + 4 * np.cos(q[:, 2] * scale * 0.7 + q[:, 1]))
        else:
            mix = np.zeros(len(q), np.float32)
        base = first * (1 - mix[:, None]) + second * mix[:, None]
        light = np.clip((normal * to_lamp[mask]).sum(-1), 0, 1) * shade[mask]
        mirror = view - 2 * (view * normal).sum(-1, keepdims=True) * normal
        shine = gloss * np.clip((mirror * to_lamp[mask]).sum(-1), 0, 1) ** 30 * (shade[mask] > 0.5)
        lit = base * (0.25 + 0.9 * light[:, None]) + shine[:, None]
        haze = np.exp(-0.03 * np.clip(t[mask], 0, 200))[:, None]
        canvas[mask] = lit * haze + sky_b * (1 - haze)
    return pixels(canvas)


def terrain(rng, h, w):
    """A height field seen from a low flight, column by column from near to far."""
    n = 256
    height = clouds(rng, n, n, 6, rng.uniform(0.45, 0.6)) ** rng.uniform(1, 2.5)
    moist = clouds(rng, n, n, 4)
    low, high, snow = colour(rng, 0.15, 0.6), colour(rng, 0.25, 0.7), colour(rng, 0.75, 1)
    sea = rng.uniform(0, 0.35)
    slope = np.gradient(height)[1]
    ground = low + (high - low) * moist[..., None] + (snow - high) * np.clip((height - 0.65) * 6, 0, 1)[..., None]
    ground = ground * np.clip(0.85 + 14 * slope, 0.3, 1.4)[..., None]
    ground[height < sea] = colour(rng, 0.1, 0.5)
    height = np.maximum(height, sea)
    far, top = colour(rng, 0.6, 1), colour(rng, 0.3, 0.9)
    v = np.linspace(0, 1, h)[:, None, None]
    canvas = np.broadcast_to(top * (1 - v) + far * v, (h, w, 3)).astype(np.float32).copy()
    canvas += 0.3 * np.clip(clouds(rng, h, w) - 0.45, 0, 1)[..., None]
    skyline, columns = np.full(w, h), np.arange(w)
    horizon, eye, heading, focus = h * rng.uniform(0.25, 0.5), rng.uniform(0.8, 1.3), rng.uniform(0, 6.28), rng.uniform(0.6, 1)
    start = rng.uniform(0, n, 2)
    for z in np.geomspace(2, 200, 260):
        side = (columns / w - 0.5) * 2 * z * focus
        px = (start[0] + z * np.cos(heading) - side * np.sin(heading)).astype(int) % n
        py = (start[1] + z * np.sin(heading) + side * np.cos(heading)).astype(int) % n
        line = np.clip(horizon + (eye - height[py, px]) * h * 12 / z * 0.8, 0, h).astype(int)
        haze = np.exp(-z / 110)
        shade = ground[py, px] * haze + far * (1 - haze)
        for x in np.flatnonzero(line < skyline):
            canvas[line[x] : skyline[x], x] = shade[x]
        skyline = np.minimum(skyline, line)
    return pixels(canvas)


# ---------------------------------------------------------------- painting


def strokes(rng, h, w):
    """Thousands of brush strokes along a field of directions."""
    base = np.stack([clouds(rng, h, w, 3) for _ in range(3)], -1) * 0.7 + 0.3 * colour(rng)
    angle = clouds(rng, h, w, 2) * rng.uniform(3, 14)
    image = pixels(base)
    pen = ImageDraw.Draw(image)
    size = min(h, w) * rng.uniform(0.03, 0.09)
    accents = [colour(rng) for _ in range(4)]
    for _ in range(int(rng.integers(700, 2500))):
        x, y = rng.uniform(0, w - 1), rng.uniform(0, h - 1)
        a = angle[int(y), int(x)]
        near = base[int(y), int(x)] if rng.random() < 0.75 else accents[int(rng.integers(4))]
        dx, dy = np.cos(a) * size, np.sin(a) * size
        pen.line((x - dx, y - dy, x, y, x + dx * 0.9, y + dy * 1.1), ints(near + rng.normal(0, 0.07)), max(1, int(size * 0.35)))
    return image


def low_poly(rng, h, w):
    """A triangulated field of colour, with a few bright islands."""
    n = int(rng.integers(30, 300))
    points = np.concatenate([rng.random((n, 2)), [[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0], [0.5, 1], [0, 0.5], [1, 0.5]]]) * (w, h)
    a, b, c = colour(rng), colour(rng), colour(rng)
    centre, image = rng.uniform(0.2, 0.8, 2) * (w, h), Image.new("RGB", (w, h))
    pen, field = ImageDraw.Draw(image), clouds(rng, h, w, 3)
    for corner in Delaunay(points).simplices:
        middle = points[corner].mean(0)
        f = field[min(h - 1, int(middle[1])), min(w - 1, int(middle[0]))]
        d = np.clip(np.hypot(*(middle - centre)) / min(h, w) * 1.6, 0, 1)
        fill = (a * f + b * (1 - f)) * d + c * (1 - d)
        pen.polygon([tuple(points[i]) for i in corner], ints(fill * rng.uniform(0.8, 1.15)))
    return image


def flowers(rng, h, w):
    edge = min(h, w)
    image = pixels(clouds(rng, h, w, 6)[..., None] * colour(rng, 0.1, 0.5) + 0.15 * colour(rng))
    image = image.filter(ImageFilter.GaussianBlur(edge * rng.uniform(0, 0.02)))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 16))):
        x, y, r = rng.uniform(0, w), rng.uniform(0, h), edge * rng.uniform(0.05, 0.3)
        outer, inner, petals, rings = colour(rng, 0.4, 1), colour(rng, 0.2, 0.9), int(rng.integers(5, 14)), int(rng.integers(1, 5))
        pen.line((x, y, x + rng.normal(0, r), y + 4 * r), ints([0.15, rng.uniform(0.3, 0.6), 0.15]), max(1, int(r * 0.12)))
        for ring in range(rings):
            length, turn = r * (1 - ring / rings * 0.8), rng.uniform(0, 6.28)
            for k in range(petals):
                a = turn + 6.283 * k / petals
                side = 2.2 / petals
                tip = [(x + length * q * np.cos(a + s * side), y + length * q * np.sin(a + s * side))
                       for q, s in ((0.1, 0), (0.6, -1), (0.95, -0.5), (1, 0), (0.95, 0.5), (0.6, 1))]  # fmt: skip
                f = ring / rings
                shade = (outer * (1 - f) + inner * f) * (0.85 + 0.2 * np.cos(a))
                pen.polygon(tip, ints(shade), outline=ints(shade * 0.7))
        pen.ellipse((x - r * 0.2, y - r * 0.2, x + r * 0.2, y + r * 0.2), ints(colour(rng)))
    return image


def animal(rng, h, w):
    """A four-legged animal, furred, on a ground with a far line of hills."""
    edge, line = min(h, w), h * rng.uniform(0.35, 0.65)
    sky, ground = colour(rng, 0.5, 1), colour(rng, 0.15, 0.8)
    canvas = np.where((np.arange(h) < line)[:, None, None], sky, ground) * (0.75 + 0.5 * clouds(rng, h, w, 6)[..., None])
    image = pixels(canvas).filter(ImageFilter.GaussianBlur(edge * 0.004))
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        layer = Image.new("L", (w, h))
        pen = ImageDraw.Draw(layer)
        s, x, y = edge * rng.uniform(0.12, 0.3), rng.uniform(0.2, 0.8) * w, rng.uniform(0.45, 0.75) * h
        way, thick, leg = rng.choice([-1, 1]), rng.uniform(0.4, 0.8), rng.uniform(0.5, 1.3)
        pen.ellipse((x - s, y - s * thick, x + s, y + s * thick), 255)
        for k in (-0.8, -0.5, 0.4, 0.75):
            pen.line((x + k * s, y, x + k * s + rng.normal(0, 0.1) * s, y + s * (thick + leg)), 255, max(2, int(s * 0.17)))
        hx, hy, r = x + way * s * rng.uniform(1, 1.4), y - s * rng.uniform(0.2, 1.2), s * rng.uniform(0.3, 0.5)
        pen.line((x + way * s * 0.7, y, hx, hy), 255, max(2, int(s * 0.4)))
        pen.ellipse((hx - r, hy - r * 0.85, hx + r * 1.1, hy + r * 0.85), 255)
        for k in (-0.6, 0.4):
            pen.polygon([(hx + k * r, hy - r * 0.6), (hx + k * r + r * 0.3, hy - r * rng.uniform(1.2, 2.2)), (hx + (k + 0.5) * r, hy - r * 0.6)], 255)
        pen.arc((x - way * s - s * 0.7, y - s, x - way * s + s * 0.7, y + s * 0.5), 60, 300, 255, max(2, int(s * 0.1)))
        fur = clouds(rng, h, w, 7, 0.75)[..., None]
        coat = colour(rng, 0.1, 0.8) * (1 - fur) + colour(rng, 0.1, 1) * fur
        coat = coat * np.clip(1.2 - 0.5 * (np.arange(h)[:, None, None] - y + s) / (2 * s), 0.4, 1.2)
        image.paste(pixels(coat), mask=layer.filter(ImageFilter.GaussianBlur(edge * 0.003)))
        ImageDraw.Draw(image).ellipse((hx + way * r * 0.4, hy - r * 0.3, hx + way * r * 0.4 + r * 0.25, hy - r * 0.05), (10, 10, 10))
    return image


def lights(rng, h, w):
    """Lamps out of focus at night."""
    edge = min(h, w)
    canvas = np.ones((h, w, 3), np.float32) * colour(rng, 0.02, 0.2) + 0.1 * clouds(rng, h, w)[..., None]
    hues = [colour(rng, 0.5, 0.9) for _ in range(4)]
    for _ in range(int(rng.integers(8, 70))):
        r, x, y = edge * rng.uniform(0.015, 0.11), rng.uniform(0, w), rng.normal(0.55, 0.2) * h
        y0, y1, x0, x1 = int(max(0, y - r - 2)), int(min(h, y + r + 2)), int(max(0, x - r - 2)), int(min(w, x + r + 2))
        if y1 <= y0 or x1 <= x0:
            continue
        yy, xx = np.mgrid[y0:y1, x0:x1]
        disc = np.clip(r - np.hypot(yy - y, xx - x), 0, 1) * (0.6 + 0.4 * np.hypot(yy - y, xx - x) / r)
        canvas[y0:y1, x0:x1] += disc[..., None] * hues[rng.integers(4)] * rng.uniform(0.2, 0.8)
    return pixels(canvas)


def galaxy(rng, h, w):
    edge = min(h, w)
    canvas = np.zeros((h, w, 3), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        n = 20000
        t = rng.exponential(1.0, n)
        arms, wind = int(rng.integers(2, 5)), rng.uniform(1, 4)
        a = t * wind + 6.283 * rng.integers(0, arms, n) / arms + rng.normal(0, 0.3, n)
        r, tilt, turn = t * edge * rng.uniform(0.05, 0.16), rng.uniform(0.25, 1), rng.uniform(0, 3.14)
        u, v = r * np.cos(a), r * np.sin(a) * tilt
        x = (rng.uniform(0.2, 0.8) * w + u * np.cos(turn) - v * np.sin(turn)).astype(int)
        y = (rng.uniform(0.2, 0.8) * h + u * np.sin(turn) + v * np.cos(turn)).astype(int)
        ok = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        np.add.at(canvas, (y[ok], x[ok]), colour(rng, 0.5, 1) * 0.4)
    canvas = sum(gaussian_filter(canvas, (s, s, 0)) * g for s, g in ((1, 1), (4, 2), (12, 4)))
    canvas += colour(rng, 0.05, 0.3) * clouds(rng, h, w, 5)[..., None] * 0.6
    for _ in range(int(rng.integers(50, 500))):
        canvas[rng.integers(h), rng.integers(w)] += rng.uniform(0.3, 1)
    return pixels(canvas)


def cloth(rng, h, w):
    """Plaid, folded: stripes of warp and weft over a shading."""
    def threads(n):
        widths = rng.integers(2, 40, 14)
        return np.stack([np.resize(np.repeat([colour(rng)[c] for _ in range(14)], widths), n) for c in range(3)], -1)

    folds = clouds(rng, h, w, 3)
    shift = (folds * rng.uniform(0, 60)).astype(int)
    y, x = np.mgrid[0:h, 0:w]
    warp, weft = threads(w + 80), threads(h + 80)
    weave = ((x + y) // int(rng.integers(1, 5)) % 2)[..., None]
    canvas = warp[(x + shift)] * weave + weft[(y + shift)] * (1 - weave)
    return pixels(gaussian_filter(canvas, (0.7, 0.7, 0)) * (0.6 + 0.7 * clouds(rng, h, w, 3)[..., None]))


# ---------------------------------------------------------------- graphics


def street_map(rng, h, w):
    edge = min(h, w)
    land, water, road = colour(rng, 0.8, 1), colour(rng, 0.5, 0.8), colour(rng, 0.9, 1)
    image = pixels(np.where((clouds(rng, h, w, 3) > rng.uniform(0.6, 0.9))[..., None], water, land))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 7))):
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        corners = [(x + rng.normal(0, 0.12) * edge, y + rng.normal(0, 0.12) * edge) for _ in range(5)]
        pen.polygon(corners, ints([rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.9), 0.6]))
    for _ in range(int(rng.integers(10, 50))):
        x, y, a = rng.uniform(0, w), rng.uniform(0, h), rng.choice([0.2, 0.2 + 1.571]) + rng.normal(0, 0.15)
        path = [(x, y)]
        for _ in range(12):
            a += rng.normal(0, 0.12)
            x, y = x + np.cos(a) * edge * 0.09, y + np.sin(a) * edge * 0.09
            path.append((x, y))
        width = int(rng.choice([2, 3, 4, 8]) * edge / 360) + 1
        pen.line(path, (150, 150, 150), width + 2)
        pen.line(path, ints(road) if width < 6 else (245, 200, 90), width)
    for _ in range(int(rng.integers(2, 14))):
        pen.text((rng.uniform(0, 0.9) * w, rng.uniform(0, 0.95) * h), words(rng, 1).title(), (60, 60, 60), ImageFont.load_default(edge * 0.035))
    return image


def chart(rng, h, w):
    """A diagram: bars, lines, shares or points, with axes and words."""
    dark = rng.random() < 0.25
    ground, ink = ((28, 30, 36), (220, 220, 220)) if dark else ((255, 255, 255), (40, 40, 40))
    image, edge = Image.new("RGB", (w, h), ground), min(h, w)
    pen, small, big = ImageDraw.Draw(image), ImageFont.load_default(edge * 0.035), ImageFont.load_default(edge * 0.06)
    pen.text((w * rng.uniform(0.05, 0.4), h * 0.02), words(rng, int(rng.integers(2, 5))).title(), ink, big)
    x0, y0, x1, y1 = w * 0.1, h * 0.9, w * 0.95, h * 0.14
    series = [ints(colour(rng, 0.3, 0.7)) for _ in range(int(rng.integers(1, 5)))]
    kind = rng.integers(4)
    if kind != 2:
        for k in range(6):
            y = y0 + (y1 - y0) * k / 5
            pen.line((x0, y, x1, y), (128, 128, 128), 1)
            pen.text((2, y - edge * 0.02), str(int(k * rng.integers(1, 90))), ink, small)
    if kind == 0:
        n = int(rng.integers(3, 14))
        for i in range(n):
            for j, c in enumerate(series):
                left = x0 + (x1 - x0) * (i + 0.1 + 0.8 * j / len(series)) / n
                pen.rectangle((left, y0 + (y1 - y0) * rng.random(), left + (x1 - x0) * 0.75 / n / len(series), y0), c)
    elif kind == 1:
        for c in series:
            values = np.cumsum(rng.normal(0, 1, 40))
            values = (values - values.min()) / (np.ptp(values) + 1e-9)
            pen.line([(x0 + (x1 - x0) * i / 39, y0 + (y1 - y0) * v) for i, v in enumerate(values)], c, max(2, edge // 120))
    elif kind == 2:
        cuts = np.concatenate([[0], np.cumsum(rng.dirichlet(np.ones(int(rng.integers(3, 8))) * 2))]) * 360
        r, turn = edge * 0.36, rng.uniform(0, 360)
        for a, b in zip(cuts, cuts[1:]):
            pen.pieslice((w / 2 - r, h * 0.53 - r, w / 2 + r, h * 0.53 + r), a + turn, b + turn, ints(colour(rng, 0.3, 0.8)))
    else:
        for c in series:
            middle, spread = rng.uniform(0.2, 0.8, 2), rng.uniform(0.03, 0.2)
            for px, py in np.clip(rng.normal(middle, spread, (60, 2)), 0, 1):
                x, y, r = x0 + (x1 - x0) * px, y0 + (y1 - y0) * py, edge * 0.012
                pen.ellipse((x - r, y - r, x + r, y + r), c)
    return image


def document(rng, h, w):
    """A page of words: a title now and then, paragraphs, sometimes a table."""
    paper = int(rng.integers(235, 256))
    image, size = Image.new("RGB", (w, h), (paper, paper, paper - int(rng.integers(0, 12)))), min(h, w) * rng.uniform(0.03, 0.045)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    y, margin = h * rng.uniform(0.04, 0.1), w * rng.uniform(0.06, 0.12)
    if rng.random() < 0.6:
        pen.text((margin, y), words(rng, int(rng.integers(2, 4))).title(), (15, 15, 15), ImageFont.load_default(size * 1.8))
        y += size * 3
    while y < h * 0.94:
        if rng.random() < 0.05:
            for _ in range(int(rng.integers(2, 5))):
                for k in range(4):
                    left = margin + (w - 2 * margin) * k / 4
                    pen.rectangle((left, y, left + (w - 2 * margin) / 4, y + size * 1.4), outline=(90, 90, 90))
                    pen.text((left + 3, y), words(rng, 1), (30, 30, 30), font)
                y += size * 1.4
        text = ""
        limit = (w - 2 * margin) * (1 if rng.random() < 0.85 else rng.uniform(0.2, 0.9))
        while pen.textlength(text, font) < limit - size * 4:
            text += words(rng, 1) + " "
        pen.text((margin, y), text, (25, 25, 25), font)
        y += size * (1.35 if rng.random() < 0.85 else 2.4)
    return image


def near_blank(rng, h, w):
    """Almost nothing: one flat colour with a speck, a faint gradient, or a dim word."""
    ground = rng.choice([0.0, 1.0, 0.95, 0.5]) * np.ones(3)
    kind = rng.integers(3)
    if kind == 0:
        v = np.linspace(0, rng.uniform(0.01, 0.06), h)[:, None, None]
        return pixels(np.broadcast_to(np.abs(ground - v), (h, w, 3)))
    image = Image.new("RGB", (w, h), ints(ground))
    x, y, r = rng.uniform(0.1, 0.85) * w, rng.uniform(0.1, 0.85) * h, min(h, w) * rng.uniform(0.01, 0.04)
    if kind == 1:
        ImageDraw.Draw(image).ellipse((x, y, x + r, y + r), ints(colour(rng)))
    else:
        ImageDraw.Draw(image).text((x, y), words(rng, 1), ints(np.abs(ground - 0.4)), ImageFont.load_default(r * 1.5))
    return image


SCENES = (
    [ray_traced] * 6 + [terrain] * 4 + [strokes] * 2 + [low_poly] * 2 + [flowers] * 3 + [animal] * 4 + [lights] * 1 + [galaxy] * 1
    + [cloth] * 1 + [street_map] * 2 + [chart] * 2 + [document] * 2
)  # fmt: skip


def draw(seed, edge, scene=None):
    """One picture, RGB, its shortest edge `edge`: a scene, then what a camera adds (defocus, tone, grain)."""
    rng = np.random.default_rng(seed)
    ratio = rng.choice([1, 4 / 3, 3 / 2, 16 / 9, 5 / 4])
    w, h = (int(edge * ratio), edge) if rng.random() < 0.7 else (edge, int(edge * ratio))
    scene = scene or SCENES[int(rng.integers(len(SCENES)))]
    image = scene(rng, h, w)
    if scene in (document, chart, street_map, near_blank):
        return image
    canvas = np.asarray(image, np.float32) / 255
    if rng.random() < 0.3:
        canvas = gaussian_filter(canvas, (rng.uniform(0.3, 2),) * 2 + (0,))
    canvas = canvas ** rng.uniform(0.7, 1.4) * rng.uniform(0.9, 1.1, 3)
    if rng.random() < 0.1:
        canvas = canvas.mean(-1, keepdims=True).repeat(3, -1)
    return pixels(canvas + rng.normal(0, rng.uniform(0, 0.03), canvas.shape))

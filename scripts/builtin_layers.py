"""What the embedded tower's training lays over pictures and makes them of: overlays of the pool, stickers, soft spots; and the affine maps
that place them. Tensors in luminance, many pictures at once.

Letters: m or k pictures, e the edge of a picture.
"""

import numpy as np
import torch
import torch.nn.functional as F


def affine(rows):
    """[n, 2, 3] float32 tensor of six arrays [n]."""
    return torch.from_numpy(np.stack(rows, -1).reshape(-1, 2, 3).astype(np.float32))


_GRIDS = {}


def grid(theta, edge):
    """Where each output pixel lies in the source, float32 [n, edge, edge, 2]; the source spans -1 to 1."""
    if edge not in _GRIDS:
        u = (torch.arange(edge) * 2 + 1) / edge - 1
        _GRIDS[edge] = torch.stack([u.expand(edge, edge), u[:, None].expand(edge, edge), torch.ones(edge, edge)], -1).view(1, -1, 3)
    return torch.matmul(_GRIDS[edge], theta.transpose(1, 2)).view(-1, edge, edge, 2)


def sample(images, where):
    return F.grid_sample(images, where, "bilinear", "border", align_corners=False)


def column(values):
    return torch.from_numpy(np.asarray(values, np.float32)).view(-1, 1, 1, 1)


def placed(rng, overlays, m, edge):
    """m of the pool's overlays, moved, scaled and mirrored at random, half of them not: luminance 0..255 and opacity 0..1, each float32
    [m, 1, edge, edge]."""
    layers = torch.from_numpy(overlays[rng.integers(0, len(overlays), m)]).float()
    scale, kept = np.exp(rng.uniform(-0.35, 0.25, (2, m))), rng.random(m) < 0.5
    scale = np.where(kept, 1, scale)
    move = np.where(kept, 0, rng.uniform(-0.3, 0.3, (2, m)))
    zero = np.zeros(m)
    where = grid(affine([scale[0] * rng.choice([-1.0, 1.0], m), zero, move[0], zero, scale[1], move[1]]), edge)
    layers = F.grid_sample(layers, where, "bilinear", "zeros", align_corners=False)
    ink = layers[:, :1]
    ink = torch.where(torch.from_numpy(rng.random(m) < 0.25).view(-1, 1, 1, 1), 255 - ink, ink)
    return ink, layers[:, 1:] / 255 * column(rng.uniform(0.65, 1.0, m))


def stickers(rng, views, share):
    """Lays a disc, box or blot, often with marks inside and an edge, sometimes two, over a share of views uint8 [n, e, e]."""
    n, e = views.shape[:2]
    rows = np.flatnonzero(rng.random(n) < share)
    for rows in (rows, rows[rng.random(len(rows)) < 0.15]):
        if len(rows):
            ink, alpha = sticker(rng, len(rows), e)
            views = views.index_copy(0, torch.from_numpy(rows), torch.lerp(views[rows].float(), ink, alpha).add(0.5).to(torch.uint8))
    return views


def recoloured(rng, views, share):
    """Gives a share of views uint8 [n, e, e] another tone for each tone: a smooth curve that need not rise, or one that is clipped. A turned
    hue or a clipped colour channel does that to the luminance of pictures of few colours."""
    rows = np.flatnonzero(rng.random(len(views)) < share)
    if not len(rows):
        return views
    k, at = len(rows), torch.linspace(0, 255, 8)
    bend = rng.normal(0, 1, (k, 1, 8)) * rng.uniform(5, 45, (k, 1, 1)) * (rng.random((k, 1, 1)) < 0.75)
    gain = np.where(rng.random((k, 1, 1)) < 0.5, rng.uniform(1, 2, (k, 1, 1)), 1)
    curves = F.interpolate((at + torch.from_numpy(bend.astype(np.float32))) * torch.from_numpy(gain.astype(np.float32)), 256, mode="linear", align_corners=True)
    curves = F.avg_pool1d(F.pad(curves, (12, 12), "replicate"), 25, 1).add(0.5).clamp(0, 255).to(torch.uint8)[:, 0]
    toned = torch.gather(curves, 1, views[rows].flatten(1).long()).view_as(views[rows])
    return views.index_copy(0, torch.from_numpy(rows), toned)


def sticker(rng, k, e):
    """Luminance 0..255 and opacity 0..1, each float32 [k, e, e]."""
    u = (torch.arange(e) * 2 + 1) / e - 1

    def each(values):
        return torch.from_numpy(np.asarray(values, np.float32)).view(-1, 1, 1)

    angle, power = rng.uniform(0, np.pi, k), rng.choice([1, 1, 1, 3], k)
    c, s = np.cos(angle), np.sin(angle)
    x, y, r, skew = rng.uniform(-0.95, 0.95, k), rng.uniform(-0.95, 0.95, k), rng.uniform(0.1, 0.38, k), np.exp(rng.normal(0, 0.25, k))

    def inside(dx, dy, rx, ry, power=1):
        """A superellipse at (dx, dy) of the sticker's own axes, its rim a pixel wide."""
        px, py = u.view(1, 1, -1) - each(x + dx * c - dy * s), u.view(1, -1, 1) - each(y + dx * s + dy * c)
        p, q = (px * each(c) + py * each(s)) / each(rx), (py * each(c) - px * each(s)) / each(ry)
        d = p.abs() ** (2 * each(power)) + q.abs() ** (2 * each(power))
        return ((1 - d) * each(np.minimum(rx, ry)) * e / 4 + 0.5).clamp(0, 1)

    tone = np.where(rng.random(k) < 0.3, rng.choice([0, 255], k), rng.uniform(0, 255, k))
    against = np.where(tone > 128, rng.uniform(0, 90, k), rng.uniform(165, 255, k))
    ink = np.where(rng.random(k) < 0.7, against, rng.uniform(0, 255, k))
    marked, edged = each(rng.random(k) < 0.6), each(rng.random(k) < 0.5)
    parts = [(1 - inside(0, 0, 0.88 * r * skew, 0.88 * r / skew, power)) * edged]
    parts += [inside(side * r, -0.2 * r, 0.16 * r, 0.2 * r) * marked for side in (-0.38, 0.38)]
    parts.append(inside(0, 0.35 * r, 0.5 * r, 0.12 * r) * marked)
    paint = each(tone).expand(k, e, e)
    for part in parts:
        paint = torch.lerp(paint, each(ink).expand(k, e, e), part)
    opacity = np.where(rng.random(k) < 0.8, 1, rng.uniform(0.5, 1, k))
    return paint, inside(0, 0, r * skew, r / skew, power) * each(opacity)


def spots(rng, x):
    """One to eight soft spots and bars, and sometimes a slope, added to x float32 [e, e]; the result lies about 0..1."""
    u = (torch.arange(len(x)) * 2 + 1) / len(x) - 1
    v = u[:, None]
    if rng.random() < 0.5:
        x = x + u * float(rng.normal(0, 0.4)) + v * float(rng.normal(0, 0.4))
    for _ in range(int(rng.integers(1, 9))):
        cx, cy, angle = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9), rng.uniform(0, np.pi)
        c, s = np.cos(angle), np.sin(angle)
        p, q = (u - cx) * c + (v - cy) * s, (v - cy) * c - (u - cx) * s
        d = (p / float(np.exp(rng.uniform(-3.2, 0)))) ** 2 + (q / float(np.exp(rng.uniform(-3.2, -0.3)))) ** 2
        x = x + float(rng.choice([-1, 1, 1]) * rng.uniform(0.2, 1.5)) * torch.exp(-(d ** float(rng.choice([1, 1, 4]))))
    return x + float(rng.uniform(0, 1)) if rng.random() < 0.5 else (x - x.min()) / (x.max() - x.min())

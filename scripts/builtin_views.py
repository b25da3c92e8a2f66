"""Pairs of views for the embedded tower's training: fresh originals from the drawn pool, and edited copies of them.

All in luminance, on tensors, many images at once. An original is a window of a pool image under some mix of its channels, a picture of
nothing (`synthetic`), or a blend of both; a copy is one affine map from the view's square to the original: crop, rotation, border, bars,
screen, and a crop of that again, composed. What lies outside is filled with a tone or a screen. Then overlays, resize, blur and JPEG (through Pillow, for those
images that have them), tone and noise. Pictures are squashed to a square, as the tower's preprocessing has it, so that a stretched
copy needs nothing here; nor does a mirrored one, since the tower is symmetric.

`draw` writes batches to disk, for a training that goes over them more than once. What is made anew each time: stickers over the second
views (builtin_layers.py), and `in_place`, third views of the first ones in which nothing moved.

Letters: n originals, s the edge of a view.
"""

import io
import multiprocessing
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from builtin_layers import affine, column, grid, placed, recoloured, sample, spots, stickers
from builtin_pool import LAYER_EDGE, Pool

ORIGINAL_EDGE = 160  # edge of an original, before it is edited
NEIGHBOURS = "neighbours.npy"  # in the pool's folder: for each image the nearest of other families, int64 [size, k]
CHUNK = 32  # images handled at once: small enough for the caches
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# The kinds of edit and how often each is drawn.
KINDS = {
    "crop": 2.8, "side": 1.4, "border": 1.6, "bars": 1.2, "overlay": 5.5, "blur": 1.8, "noise": 0.5, "tone": 3.6,
    "hue": 1.6, "rotation": 1.4, "screen": 2.0, "jpeg": 0.6, "small": 0.4,
}  # fmt: skip


class Views:
    """Draws batches; with the same neighbours, batch k of a seed is the same wherever and in whatever order it is drawn."""

    def __init__(self, folder, size):
        self.pool, self.size = Pool(folder), size
        members = np.argsort(self.pool.families, kind="stable")
        starts = np.flatnonzero(np.diff(self.pool.families[members], prepend=-1))
        self.members = np.split(members, starts[1:])
        near = Path(folder) / NEIGHBOURS
        self.neighbours = np.load(near) if near.exists() else None

    def indices(self, rng, n):
        """n pool indices, families together, and images that an earlier tower takes for alike one after the other."""
        picked = {}  # in order, each once
        while len(picked) < n:
            if self.neighbours is not None and picked and rng.random() < 0.5:
                picked[int(rng.choice(self.neighbours[next(reversed(picked))]))] = True
            else:
                picked.update(dict.fromkeys(self.members[rng.integers(len(self.members))].tolist(), True))
        return np.array(list(picked)[:n])

    def batch(self, seed, n):
        """Two views uint8 [2, n, s, s], thumbnails float32 [n, 64] of the originals, less their means, and pool indices [n]."""
        rng = np.random.default_rng(seed)
        indices, parts = self.indices(rng, n), []
        for i in range(0, n, CHUNK):
            images, other, aspects = self.originals(rng, indices[i : i + CHUNK])
            k = len(images)
            counts = np.where(rng.random(k) < 0.6, 0, rng.choice([1, 2, 3], k, p=[0.6, 0.25, 0.15]))
            first = self.copies(rng, images, other, aspects, self.chosen(rng, counts), np.full(k, 0.7))
            counts = rng.choice([1, 2, 3, 4, 5], k, p=[0.42, 0.26, 0.16, 0.1, 0.06])
            does = self.chosen(rng, counts)
            does["tone"] |= rng.random(k) < 0.35
            second = self.copies(rng, images, other, aspects, does, np.ones(k))
            thumbs = F.adaptive_avg_pool2d(images, 8).flatten(1)
            parts.append((torch.stack([first, second]), thumbs - thumbs.mean(1, keepdim=True)))
        views, thumbs = zip(*parts)
        return torch.cat(views, 1), torch.cat(thumbs), torch.from_numpy(indices)

    @staticmethod
    def chosen(rng, counts):
        """{kind: bool [n]}: `counts` different kinds for each image, by weight."""
        weights = np.log(np.array(list(KINDS.values())))
        order = np.argsort(-(weights + rng.gumbel(size=(len(counts), len(KINDS)))), 1)
        rank = np.argsort(order, 1)
        return {kind: rank[:, i] < counts for i, kind in enumerate(KINDS)}

    # ------------------------------------------------------------ originals

    def windows(self, rng, n):
        """Crops of pool images as centre and half extent: half of them whole, half with 5 to 60 % of the area cut away."""
        lost = np.where(rng.random(n) < 0.5, 0.0, rng.uniform(0.05, 0.6, n))
        side, skew = np.sqrt(1 - lost), np.sqrt(1 - lost) ** rng.uniform(-0.7, 0.7, n)
        hx, hy = np.minimum(1, side * skew), np.minimum(1, side / skew)
        return rng.uniform(-1, 1, n) * (1 - hx), rng.uniform(-1, 1, n) * (1 - hy), hx, hy

    def mixed(self, index, weights):
        """Weighted sums of the channels of pool images: weights [n, k, 3] give float32 [n, k, EDGE, EDGE]."""
        images = torch.from_numpy(self.pool.images[index]).float().flatten(2)
        return torch.bmm(torch.from_numpy(weights.astype(np.float32)), images).view(len(index), weights.shape[1], *self.pool.images.shape[2:])

    def originals(self, rng, index):
        """Originals float32 [n, 1, ORIGINAL_EDGE, ORIGINAL_EDGE] in 0..255, the difference that another mix of the channels makes
        (as a turned hue does), and their aspects [n]."""
        n, index = len(index), index.copy()
        x, y, hx, hy = self.windows(rng, n)
        mirror = rng.choice([-1.0, 1.0], n)
        weights = np.zeros((n, 2, 3))
        weights[:, 0] = [rng.permutation(LUMA) if rng.random() < 0.5 else LUMA for _ in range(n)]
        shift = rng.normal(0, 0.17, (n, 3))
        weights[:, 1] = shift - shift.mean(1, keepdims=True)
        negative = rng.random(n) < 0.05
        # Twins: neighbours of one drawing. Either they share the frame and differ in a patch blended in below, or they are
        # disjoint parts of it: different images of the same tones and texture.
        blended = rng.random(n) < 0.15
        for i in np.flatnonzero(rng.random(n - 1) < 0.06):
            index[i + 1] = index[i]
            for a in (x, y, hx, hy, mirror, weights, negative):
                a[i + 1] = a[i]
            if rng.random() < 0.15:
                blended[i + 1] = True
            else:
                cut = rng.uniform(-0.15, 0.15)
                if rng.random() < 0.5:
                    x[i], hx[i], x[i + 1], hx[i + 1] = (cut - 1) / 2, (1 + cut) / 2, (1 + cut) / 2, (1 - cut) / 2
                else:
                    y[i], hy[i], y[i + 1], hy[i + 1] = (cut - 1) / 2, (1 + cut) / 2, (1 + cut) / 2, (1 - cut) / 2
        zero = np.zeros(n)
        both = sample(self.mixed(index, weights), grid(affine([mirror * hx, zero, x, zero, hy, y]), ORIGINAL_EDGE))
        images, other = both[:, :1], both[:, 1:]
        made = np.flatnonzero(rng.random(n) < 0.4)
        if len(made):
            share = column(np.where(rng.random(len(made)) < 0.5, 1, rng.uniform(0.25, 0.75, len(made))))
            images[made], other[made] = torch.lerp(images[made], self.synthetic(rng, len(made)), share), other[made] * (1 - share)
        flipped = np.flatnonzero(negative)
        images[flipped] = 255 - images[flipped]
        chosen = np.flatnonzero(blended)
        if len(chosen):
            k = len(chosen)
            x2, y2, hx2, hy2 = self.windows(rng, k)
            zero = np.zeros(k)
            patch = self.mixed(rng.integers(0, len(self.pool.images), k), np.tile(LUMA, (k, 1, 1)))
            patch = sample(patch, grid(affine([hx2, zero, x2, zero, hy2, y2]), ORIGINAL_EDGE))
            images[chosen] = torch.lerp(images[chosen], patch, self.patches(rng, k))
        return images, other, self.pool.aspects[index] * hx / hy

    @staticmethod
    def synthetic(rng, n):
        """Pictures of nothing, float32 [n, 1, ORIGINAL_EDGE, ORIGINAL_EDGE] in 0..255: noise of some spectrum under some tone curve, or a
        few soft spots and bars on a ground. All of a kind have the same statistics: only where things are tells them apart."""
        e = ORIGINAL_EDGE
        skew = np.exp(rng.normal(0, 0.4, (n, 1, 1)))
        f = np.hypot(np.fft.fftfreq(e)[None, :, None] * skew, np.fft.rfftfreq(e)[None, None] / skew)
        f[:, 0, 0] = 1
        amplitude = f ** -rng.uniform(0.7, 2.4, (n, 1, 1))
        amplitude[:, 0, 0] = 0
        parts = rng.standard_normal((2, *amplitude.shape), np.float32) * amplitude.astype(np.float32)
        fields = torch.fft.irfft2(torch.complex(*torch.from_numpy(parts)), s=(e, e))
        out = []
        for x in fields / fields.std((1, 2), keepdim=True):
            kind = rng.random()
            if kind < 0.35:
                x = torch.sigmoid(x * float(np.exp(rng.uniform(-0.3, 2.5))))
            elif kind < 0.6:  # little that is bright on much that is dark
                x = torch.exp(x * float(rng.uniform(0.5, 1.8)))
                x = x / torch.quantile(x[::4, ::4].flatten(), float(rng.uniform(0.9, 1)))
            else:
                x = spots(rng, x * float(rng.choice([0, 0, 0.02, 0.1])))
            low, high = sorted(rng.uniform(0, 255, 2)) if rng.random() < 0.4 else (0, 255)
            x = x.clamp(0, 1) * float(high - low) + float(low)
            out.append(255 - x if rng.random() < 0.3 else x)
        return torch.stack(out)[:, None].float()

    def patches(self, rng, n):
        """Masks float32 [n, 1, ORIGINAL_EDGE, ORIGINAL_EDGE] along level lines of smooth noise, 35 to 70 % of the area."""
        masks = []
        for _ in range(n):
            cells = int(rng.integers(3, 8))
            coarse = torch.from_numpy(rng.standard_normal((1, 1, cells, cells), np.float32))
            field = F.interpolate(coarse, ORIGINAL_EDGE, mode="bilinear")
            level = torch.quantile(field[..., ::8, ::8].flatten(), 1 - rng.uniform(0.35, 0.7))
            masks.append(((field - level) * float(np.exp(rng.uniform(0.5, 4.5)))).clamp_(-0.5, 0.5).add_(0.5))
        return torch.cat(masks)

    # ------------------------------------------------------------ copies

    def copies(self, rng, images, other, aspects, does, strength):
        """Edited copies uint8 [n, s, s] of originals [n, 1, e, e]; `does`: {kind: bool [n]}; strength [n] in 0..1."""
        n, k = len(images), strength
        images = images + other * column(np.where(does["hue"], rng.choice([-1.0, 1.0], n) * rng.uniform(0.3, 1.2, n) * k, 0))
        early = rng.random(n) < 0.6  # tone before what is laid around and over the picture, else after it
        # The crop of the picture: centre and half extents within it.
        lost = np.where(does["crop"], np.where(rng.random(n) < 0.5, rng.uniform(0.02, 0.25, n), rng.uniform(0.1, 0.52, n)) * k, 0)
        side, skew = np.sqrt(1 - lost), np.sqrt(1 - lost) ** (rng.uniform(-0.7, 0.7, n) * (rng.random(n) < 0.5))
        hx, hy = np.minimum(1, side * skew), np.minimum(1, side / skew)
        x, y = rng.uniform(-1, 1, n) * (1 - hx), rng.uniform(-1, 1, n) * (1 - hy)
        for i in np.flatnonzero(does["side"]):
            cut, at = rng.uniform(0.02, 0.3) * k[i], rng.integers(4)
            if at < 2:
                x[i], hx[i] = x[i] + (1 - 2 * at) * cut * hx[i], hx[i] * (1 - cut)
            else:
                y[i], hy[i] = y[i] + (5 - 2 * at) * cut * hy[i], hy[i] * (1 - cut)
        aspect = aspects * hx / hy
        angle = np.radians(np.where(does["rotation"], rng.choice([-1, 1], n) * rng.uniform(0.5, 8, n) * k, 0))
        c, s = np.cos(angle), np.sin(angle)
        zoomed = rng.random(n) < 0.5
        zoom = np.where(does["rotation"] & zoomed, 1 / (c + np.maximum(aspect, 1 / aspect) * np.abs(s)), 1)
        # Frames around it: an output of half extents g about o, where the picture spans -1 to 1.
        bx, by, ox, oy = np.ones(n), np.ones(n), np.zeros(n), np.zeros(n)
        for i in np.flatnonzero(does["border"]):
            share = rng.uniform(0.01, 0.17) * k[i] * np.array([1, 1, 1, 1] if rng.random() < 0.65 else rng.integers(0, 2, 4))
            left, right, top, bottom = share * min(aspect[i], 1)
            bx[i], ox[i] = 1 + (left + right) / aspect[i], (right - left) / aspect[i]
            by[i], oy[i] = 1 + top + bottom, bottom - top
        for i in np.flatnonzero(does["bars"]):
            grow = 1 + rng.uniform(0.03, 0.85) * k[i]
            at = 0.0 if rng.random() < 0.85 else rng.uniform(-1, 1)
            if rng.random() < 0.5:
                bx[i], ox[i] = bx[i] * grow, ox[i] + at * (grow - 1)
            else:
                by[i], oy[i] = by[i] * grow, oy[i] + at * (grow - 1)
        sx, sy, px, py = np.ones(n), np.ones(n), np.zeros(n), np.zeros(n)
        for i in np.flatnonzero(does["screen"]):
            kind = rng.random()
            if kind < 0.25:  # a window's frame
                sx[i], sy[i] = 1 + rng.uniform(0.02, 0.22) * k[i], 1 + rng.uniform(0.02, 0.25) * k[i]
            elif kind < 0.6:  # a post on a telephone
                sx[i], sy[i] = 1 + rng.choice([0, rng.uniform(0, 0.15)]), 1 + rng.uniform(0.1, 0.9) * k[i]
            else:  # on a page
                sx[i], sy[i] = (1 / rng.uniform(1 - 0.62 * k[i], 0.97) for _ in range(2))
            px[i], py[i] = rng.uniform(-1, 1) * (sx[i] - 1), rng.uniform(-1, 1) * (sy[i] - 1)
        # A crop of that again, sometimes.
        framed = does["border"] | does["bars"] | does["screen"]
        again = np.where(framed & does["crop"], rng.uniform(0.85, 1, n), 1)
        qx, qy = rng.uniform(-1, 1, n) * (1 - again), rng.uniform(-1, 1, n) * (1 - again)
        gx, gy = again * sx * bx, again * sy * by
        tx, ty = ox + bx * (px + sx * qx), oy + by * (py + sy * qy)
        a11, a12, a21, a22 = c * zoom, -s / aspect * zoom, s * aspect * zoom, c * zoom
        theta = affine([
            hx * a11 * gx, hx * a12 * gy, x + hx * (a11 * tx + a12 * ty), hy * a21 * gx, hy * a22 * gy, y + hy * (a21 * tx + a22 * ty),
        ])  # fmt: skip
        moved = framed | does["crop"] | does["side"] | does["rotation"]
        layered = moved | does["overlay"] | does["blur"] | does["jpeg"] | does["small"]
        out = torch.empty(n, 1, self.size, self.size)
        plain = torch.from_numpy(~layered)
        if plain.any():
            out[plain] = F.interpolate(images[plain], (self.size, self.size), mode="bicubic", antialias=True)
        rows = np.flatnonzero(layered)
        if len(rows):
            views = torch.empty(len(rows), 1, LAYER_EDGE, LAYER_EDGE)
            still, shrunk = ~moved[rows], moved[rows] & (np.maximum(gx * hx, gy * hy)[rows] > 1.5)
            if still.any():
                views[still] = F.interpolate(images[rows[still]], (LAYER_EDGE, LAYER_EDGE), mode="bicubic", antialias=True)
            for part, source in ((shrunk, lambda a: F.avg_pool2d(a, 2)), (~still & ~shrunk, lambda a: a)):
                if part.any():
                    views[part] = sample(source(images[rows[part]]), grid(theta[rows[part]], LAYER_EDGE))
            toned = np.flatnonzero((does["tone"] & early)[rows])
            views[toned] = self.toned(rng, views[toned], k[rows[toned]])
            u = (torch.arange(LAYER_EDGE) * 2 + 1) / LAYER_EDGE - 1
            for j, i in enumerate(rows):
                if does["rotation"][i] and not zoomed[i]:
                    ux, uy = tx[i] + gx[i] * u, ty[i] + gy[i] * u[:, None]
                    outside = torch.maximum((a11[i] * ux + a12[i] * uy).abs(), (a21[i] * ux + a22[i] * uy).abs()) > 1
                    views[j, 0][outside] = float(rng.choice([0, 0, 0, 255, 255 * rng.random()]))
                if does["border"][i] or does["bars"][i]:
                    views[j, 0][outer((tx[i] + gx[i] * u).abs() > 1, (ty[i] + gy[i] * u).abs() > 1)] = self.fill(rng)
                if does["screen"][i]:
                    outside = outer(((px + sx * qx)[i] + again[i] * sx[i] * u).abs() > 1, ((py + sy * qy)[i] + again[i] * sy[i] * u).abs() > 1)
                    views[j, 0][outside] = self.screen(rng)[outside]
            views = self.overlaid(rng, views, np.flatnonzero(does["overlay"][rows]))
            views = views.add_(0.5).clamp_(0, 255)
            out[rows] = self.degraded(rng, views, {kind: does[kind][rows] for kind in ("blur", "jpeg", "small")}, k[rows])
        late = np.flatnonzero(does["tone"] & ~(early & layered))
        out[late] = self.toned(rng, out[late].clamp(0, 255), k[late])
        for i in np.flatnonzero(does["noise"]):
            out[i] += torch.from_numpy(rng.standard_normal(out[i].shape, np.float32)) * float(rng.uniform(1, 24) * k[i])
        return out.add_(0.5).clamp_(0, 255).to(torch.uint8)[:, 0]

    @staticmethod
    def fill(rng):
        return float(rng.choice([0.0, 0.0, 255.0, 255.0, 255 * rng.random(), 255 * rng.random()]))

    def screen(self, rng):
        """A page, window or wall [LAYER_EDGE, LAYER_EDGE]; mirrored, negated or of other contrast at random."""
        if rng.random() < 0.12:
            return torch.full((LAYER_EDGE, LAYER_EDGE), self.fill(rng))
        x = torch.from_numpy(self.pool.screens[rng.integers(len(self.pool.screens))].copy())
        if rng.random() < 0.5:
            x = x.flip(-1)
        x = x.float()
        return 255 - x if rng.random() < 0.25 else x

    def overlaid(self, rng, views, rows):
        """Lays one of the overlays, sometimes two, over views[rows]: moved, scaled and mirrored at random."""
        todo = np.concatenate([rows, rows[rng.random(len(rows)) < 0.15]])
        if not len(todo):
            return views
        m = len(todo)
        ink, alpha = placed(rng, self.pool.overlays, m, LAYER_EDGE)
        for part in (slice(0, len(rows)), slice(len(rows), m)):
            views[todo[part]] = torch.lerp(views[todo[part]], ink[part], alpha[part])
        return views

    def degraded(self, rng, views, does, strength):
        """Down to the size of a view; some by way of a smaller size, a blur, or JPEG."""
        size = (self.size, self.size)
        out = torch.empty(len(views), 1, *size)
        treated = does["small"] | does["blur"] | does["jpeg"]
        plain = torch.from_numpy(~treated)
        if plain.any():
            out[plain] = F.interpolate(views[plain], size, mode="bicubic", antialias=True)
        for i in np.flatnonzero(treated):
            image = Image.fromarray(views[i, 0].to(torch.uint8).numpy())
            if does["small"][i]:
                edge = max(24, int(LAYER_EDGE * rng.uniform(0.22, 0.9) ** strength[i]))
                image = image.resize((edge, edge), Image.Resampling(int(rng.choice([1, 2, 3, 3, 4]))))
            if does["blur"][i]:
                image = image.filter(ImageFilter.GaussianBlur(float(image.width * rng.uniform(0.004, 0.029) * strength[i])))
            if does["jpeg"][i]:
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=int(rng.integers(5, 80)))
                image = Image.open(buffer)
            out[i, 0] = torch.from_numpy(np.asarray(image.resize(size, Image.Resampling.BICUBIC)).copy())
        return out

    @staticmethod
    def toned(rng, x, strength):
        """Brightness, contrast and gamma, one to three of them, each clipped as 8-bit pictures are; x float [n, 1, e, e] in 0..255."""
        n = len(x)
        if not n:
            return x
        which = rng.random((3, n)) < 0.45
        which[rng.integers(0, 3, n), np.arange(n)] = True
        bright = np.where(which[0], np.exp(rng.uniform(-0.75, 0.6, n) * strength), 1)
        offset = np.where(which[0] & (rng.random(n) < 0.35), rng.uniform(-0.2, 0.2, n) * strength, 0)
        contrast = np.where(which[1], np.exp(rng.uniform(-0.95, 0.65, n) * strength), 1)
        bent = np.where(which[2], np.exp(rng.uniform(-0.85, 0.85, n) * strength), 1)
        x = (x / 255 * column(bright) + column(offset)).clamp_(0, 1)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = ((x - mean) * column(contrast) + mean).clamp_(0, 1)
        rows = np.flatnonzero(bent != 1)
        x[rows] = x[rows] ** column(bent[rows])
        return x * 255


def outer(columns, rows):
    """bool [e, e]: where either the column or the row is marked."""
    return columns[None, :] | rows[:, None]


def in_place(rng, views, overlays):
    """Copies of views uint8 [n, e, e] in which nothing moved: other tones, overlays, stickers, blur and noise, each for some of them.
    `overlays`: those of a pool."""
    n = len(views)
    x = recoloured(rng, views, 0.3).float()

    def some(share):
        return np.flatnonzero(rng.random(n) < share)

    if len(rows := some(0.35)):
        x[rows] = Views.toned(rng, x[rows][:, None], np.ones(len(rows)))[:, 0]
    if len(rows := some(0.55)):
        ink, alpha = placed(rng, overlays, len(rows), x.shape[-1])
        x[rows] = torch.lerp(x[rows], ink[:, 0], alpha[:, 0])
    x = stickers(rng, x.clamp_(0, 255).to(torch.uint8), 0.4).float()
    if len(rows := some(0.2)):
        edge = int(rng.integers(20, 60))
        small = F.interpolate(x[rows][:, None], (edge, edge), mode="bilinear", antialias=True)
        x[rows] = F.interpolate(small, x.shape[1:], mode="bicubic")[:, 0]
    if len(rows := some(0.15)):
        x[rows] += torch.from_numpy(rng.standard_normal((len(rows), *x.shape[1:]), np.float32)) * float(rng.uniform(2, 24))
    return x.add_(0.5).clamp_(0, 255).to(torch.uint8)


# ---------------------------------------------------------------- on disk


def batches(folder):
    """The files of drawn batches, in order."""
    return sorted(file for file in folder.glob("[0-9]*.npz") if file.stem.isdigit())


def _draw(job):
    pool, out, size, seed, n, numbers = job
    torch.set_num_threads(1)
    views = Views(pool, size)
    for number in numbers:
        pictures, thumbs, indices = views.batch((seed, 5, number), n)
        part = out / f"{number:05}.part.npz"
        np.savez(part, views=pictures.numpy(), thumbs=thumbs.numpy(), indices=indices.numpy())
        part.replace(out / f"{number:05}.npz")


def draw(pool, out, size, seed, n, count, processes):
    """Fills `out` with `count` batches of n originals: views uint8 [2, n, size, size], thumbs and indices, as `Views.batch` gives them. What
    is there stays."""
    out.mkdir(parents=True, exist_ok=True)
    there = {int(file.stem) for file in batches(out)}
    missing = [number for number in range(count) if number not in there]
    jobs = [(pool, out, size, seed, n, missing[at : at + 8]) for at in range(0, len(missing), 8)]
    with multiprocessing.Pool(processes) as workers:
        for done, _ in enumerate(workers.imap(_draw, jobs)):
            if done % 25 == 0:
                print(f"views: {min(8 * done + 8, len(missing))} of {len(missing)} batches", flush=True)

#!/usr/bin/env python3
"""Put the signs of cosine coefficients beside what the embedded tower has learned: the last step of its making.

    python scripts/builtin_signs.py --work work --start smooth --out models/builtin

A perceptual hash such as PDQ keeps of each low DCT coefficient of a picture the sign alone. Small coefficients count as much as large
ones then: a sticker, which is large in all of them, turns few signs. Gradient descent from smooth weights does not come to that. Here
it is written into weights: from a trained tower of two layers (train_builtin.py) and fixed signs comes one CLIP tower, with both side by
side in its residual stream, and nothing is trained.

Patch filters of the signs are DCT basis functions times their frequency, so that pictures are white in them. The first layer's MLP makes a
step of each: quick_gelu(g x + 1) - quick_gelu(g x - 1) - 1 is about the sign of x. Heads of the last layer that look at the patch token alone
bring the signs to the class token. A mirrored picture has its odd coefficients negated, so the last MLP makes the products of pairs of odd signs, and
leaves them in the odd channels, which have no more to do. The even signs and these products are the last 2 SIGNS dims of a row; the first are
the trained tower's, in the directions in which its rows are.

A turned hue changes the luminance of a picture. So what was trained is given another mix of R, G and B than the signs: few edits change both.

The layer norms' sizes and means are taken over both parts. So the signs are kept small in the stream, the even channels of what was trained
are given the mean 0, and the weights after the norms are set to what the parts had alone, on average over the pool's pictures.

Letters: n pictures, h pairs of channels, s of them those of the trained tower, p = 0 for even and 1 for odd channels.

Requirements (pinned): as train_builtin.py.
"""

import argparse
import functools
import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from builtin_pool import Pool
from builtin_tower import ROOT2, Tower, flops, load, parity, save
from builtin_views import LUMA

SIGNS = 128  # pairs of channels of the signs, and half of their dims
TRAINED = 64  # dims of the trained tower's rows that stay
EDGE = 16  # coefficients along an edge: 16 x 16, half of them even
STEEP = 25.0  # of the steps, over the typical size of a coefficient
COEFFICIENT, SIGN = 0.1, 0.25  # their sizes in the residual stream beside that of a trained channel
BROUGHT = 0.06, 0.01  # of even and odd ones in the class token's: f16 weights leave even channels a mean beside which the even ones are to be large
SHARE = 0.44  # of a row's squared length that the signs have
MIX = tuple(0.35 * weight + 0.65 / 3 for weight in LUMA)  # of R, G and B, that the trained part sees
PICTURES = 2048  # of the pool, to which the parts are fitted


@functools.cache
def cosines(e):
    """DCT basis functions of pictures [e, e], times their frequency: EDGE^2 / 2 that are even from left to right, and as many odd ones,
    each [SIGNS, e * e]. The first even one, the constant, and the last two of both are left at 0."""
    at, k = torch.arange(e) + 0.5, torch.arange(EDGE).float()
    waves = torch.cos(math.pi / e * at * k[:, None])
    functions = torch.einsum("ay,bx->abyx", waves, waves) * torch.hypot(k[:, None], k)[..., None, None] * 2 / e
    even, odd = (functions[:, p::2].reshape(SIGNS, e * e) for p in (0, 1))
    even[0], even[-2:], odd[-2:] = 0, 0, 0
    return even, odd


@functools.cache
def partners():
    """[SIGNS]: which other odd sign each is multiplied with."""
    return torch.randperm(SIGNS, generator=torch.Generator().manual_seed(0))


def signs(x):
    """Unit rows [n, 2 SIGNS] of the signs of luminance 0..255 [n, e, e], as the joined tower has them."""
    e, x = x.shape[-1], x.float().flatten(1) / 255
    x = torch.stack([x @ functions.T for functions in cosines(e)], 1)
    x = STEEP * x / x.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-4)
    even, odd = (quick_gelu(x + 1) - quick_gelu(x - 1) - 1).unbind(1)
    products = ((odd + odd[:, partners()]).abs() - (odd - odd[:, partners()]).abs()) / 2
    return F.normalize(torch.cat([even, products], 1), dim=-1)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def stages(tower, x):
    """The residual stream of a tower of two layers, each [n, t, 2, h]: before the first norm, behind it, and behind each attention and MLP."""
    out = [tower.tokens(x)]
    out.append(tower.pre(out[0]))
    for layer in tower.layers:
        x = out[-1]
        out.append((x[:, :1] if layer.last else x) + layer.read(*layer.attention(x)))
        out.append(out[-1] + layer.inner(out[-1]))
    return out


def centre(x):
    """Less the mean over the first axis."""
    return x - x.mean(0)


def centred(x):
    """[.., 2, h] less the mean of all channels, which is in the even ones."""
    return torch.stack([x[..., 0, :] - x[..., 0, :].mean(-1, keepdim=True), x[..., 1, :]], -2)


def normal(x):
    """A layer norm without weights of [.., 2, h]."""
    x = centred(x)
    return x / (x.square().mean((-1, -2), keepdim=True) + 1e-5).sqrt()


def size(x):
    return x.square().mean().sqrt()


def balance(x, weights):
    """For the last two of x [h, ..], which are 0: what makes its sum, and its sum by weights [h], 0."""
    missing, weighted = -x.sum(0), -torch.tensordot(weights, x, 1)
    last = (weighted - weights[-2] * missing) / (weights[-1] - weights[-2])
    return torch.stack([missing - last, last])


class Join:
    """The tower with signs: `new`."""

    def __init__(self, part, pictures):
        self.part, self.pictures, self.was, c = part, pictures, stages(part, pictures), part.c
        self.s, self.inner = len(part.classes), c["intermediate_size"] // 2
        self.h = self.s + SIGNS
        changes = {"hidden_size": 2 * self.h, "num_attention_heads": self.h // part.layers[0].of_head, "projection_dim": TRAINED + 2 * SIGNS}
        self.new = Tower(c | changes | {"intermediate_size": 2 * (self.inner + 4 * SIGNS)})
        for parameter in self.new.parameters():
            parameter.zero_()
        self.patch()
        for i in range(2):
            self.trained(i)
            (self.steps if i == 0 else self.products)()
        self.rows()

    def fit(self, norm, old, stage):
        """Sets `norm`, which comes after a stage, to `old`'s weights over what was trained, and to 1 over the size of the signs."""
        there = centred(stages(self.new, self.pictures)[stage])
        scale = (there.square().mean((2, 3)) / centred(self.was[stage]).square().mean((2, 3))).log().mean().div(2).exp()
        norm.weight[: self.s], norm.bias[: self.s] = old.weight * scale, old.bias
        norm.weight[self.s :] = 1 / size(normal(there)[:, -1, :, self.s + 1 : -2])
        norm.weight[-2:] = 0  # nothing reads them

    def patch(self):
        """Filters, positions, class token and the first norm, which leaves the signs' coefficients small. The even channels have the mean 0
        before that norm and behind it, here and after each layer: else it would move the signs. Three of them are no signs: s tells the two
        tokens apart, the last two balance what there is of a mean."""
        part, new, s = self.part, self.new, self.s
        even, odd = (x.flatten(1) for x in parity(part.patch))
        cosine, first = cosines(part.c["image_size"]), centred(self.was[0][0, 0])[0]
        new.patch.copy_((torch.cat([centre(even) + odd, sum(cosine)]) / ROOT2).view_as(new.patch))
        new.positions[1, :, :s] = centred(part.places()[1])
        trained, signs = (x[:, 1] for x in new.tokens(self.pictures).split([s, SIGNS], -1))
        new.patch[s:] *= COEFFICIENT * size(trained) / size(signs[..., 1:-2])
        new.positions[1, 0, s] = -0.3 * size(trained)
        new.classes[:s], new.classes[s] = first / ROOT2, size(first) / ROOT2
        weights = torch.cat([part.pre.weight, torch.ones(SIGNS)])
        weights[-1] = 10
        new.chroma = torch.zeros(self.h, 3, *new.patch.shape[1:])
        new.chroma[:s] = new.patch[:s, None] * (torch.tensor(MIX) - torch.tensor(LUMA)).view(3, 1, 1)
        for filters in (new.patch, new.chroma):
            filters[-2:] += balance((filters + filters.flip(-1)) / 2, weights)
        new.positions[1, 0, -2:], new.classes[-2:] = balance(new.positions[1, 0], weights), balance(new.classes, weights)
        self.fit(new.pre, part.pre, 0)
        new.pre.weight[s:] = weights[s:] * (new.pre.weight[:s] / part.pre.weight).mean()
        new.pre.bias[-1] = -part.pre.bias.sum()

    def trained(self, i):
        part, new, s, h = self.part.layers[i], self.new.layers[i], self.s, self.h
        rows = part.heads * part.of_head
        self.fit(new.norm1, part.norm1, 1 + 2 * i)
        for at, (weight, bias) in enumerate(zip(part.qkv.weight.chunk(3, 1), part.qkv.bias.chunk(3))):
            new.qkv.weight[:, at * h : at * h + rows, :s], new.qkv.bias[at * h : at * h + rows] = weight, bias
        new.out.weight[0, :s, :rows], new.out.weight[1, :s, :rows] = centre(part.out.weight[0]), part.out.weight[1]
        new.out.bias[:s] = centre(part.out.bias)
        if i == 1:
            self.heads(new)
        self.fit(new.norm2, part.norm2, 2 + 2 * i)
        new.fc1.weight[:, : self.inner, :s], new.fc1.bias[: self.inner] = part.fc1.weight, part.fc1.bias
        new.fc2.weight[0, :s, : self.inner], new.fc2.weight[1, :s, : self.inner] = centre(part.fc2.weight[0]), part.fc2.weight[1]
        new.fc2.bias[:s] = centre(part.fc2.bias)

    def steps(self):
        """The first MLP. An even coefficient has two inner pairs whose two members are alike; an odd one, which is negated in the pairs' second
        member, has its bias from the even channels."""
        layer, s = self.new.layers[0], self.s
        for at in range(SIGNS):
            for p in (0, 1):
                plus = self.inner + 4 * at + 2 * p
                layer.fc1.bias[plus], layer.fc1.bias[plus + 1] = ROOT2, -ROOT2
                if 1 - p <= at < SIGNS - 2:
                    layer.fc1.weight[p, plus : plus + 2, s + at] = ROOT2 * STEEP
                    layer.fc2.weight[p, s + at, plus], layer.fc2.weight[p, s + at, plus + 1] = 1 / ROOT2, -1 / ROOT2
            layer.fc2.bias[s + at] = -float(0 < at < SIGNS - 2)
        layer.fc2.weight[0, -1], layer.fc2.bias[-1] = -layer.fc2.weight[0, s:].sum(0), -layer.fc2.bias[s:].sum()
        # Their size in the stream: small beside what was trained, and not lost in it.
        amount = SIGN * size(self.was[3][:, 1])
        layer.fc2.weight[:, s:] *= amount
        layer.fc2.bias[s:] *= amount

    def heads(self, layer):
        """Heads that ask for the patch token, whatever the picture, and bring its signs."""
        s, h, logit = self.s, self.h, 32.0
        x = layer.norm1(stages(self.new, self.pictures)[3])[:, :, 0, s]
        apart = (x[:, 0] - x[:, 1]).min()
        assert apart > 0
        brought = [amount * size(self.was[4]) for amount in BROUGHT]
        # What told the tokens apart, and the balance of the class token's mean, never change and are no longer wanted.
        spent = stages(self.new, self.pictures[:1])[1][0, 0, 0, [s, -2, -1]]
        layer.out.bias[[s, -2, -1]] = -spent
        layer.out.bias[:s] += spent.sum() / s
        for at in range(s, h):
            if (at - s) % layer.of_head == 0:
                layer.qkv.bias[at] = 4
                layer.qkv.weight[0, h + at, s] = -logit * (2 * layer.of_head) ** 0.5 / 4 / apart
            for p in (0, 1):
                if s + 1 - p <= at < h - 2:
                    layer.qkv.weight[p, 2 * h + at, at], layer.out.weight[p, at, at] = 1, brought[p]

    def products(self):
        """The last MLP. Steps of the even signs once more, so that their size no longer hangs on that of the patch token; and products of odd signs:
        is the sum of two 0, or not? Two inner pairs, whose two members see the sum and its negative, less a threshold, make a step of each. It goes
        to an odd channel, beside which the odd sign that was brought there is small."""
        layer, s, at = self.new.layers[1], self.s, self.inner
        # The signs' size there differs from picture to picture: 0.4 to 2.4, twice that for a sum, or 0.
        steep_even, steep, threshold = *(20 * math.hypot(*BROUGHT) / ROOT2 / amount for amount in BROUGHT), 12.0
        sign = SIGN * size(self.was[5])
        both = (torch.arange(SIGNS) < SIGNS - 2) & (partners() < SIGNS - 2)
        layer.fc2.across = torch.zeros_like(layer.fc2.weight[0]), torch.zeros(self.h)
        products, constant = layer.fc2.across
        for a, b in enumerate(partners()):
            for side in (1, -1):
                if both[a]:
                    layer.fc1.weight[1, at, s + a] += ROOT2 * steep
                    layer.fc1.weight[1, at, s + b] += ROOT2 * steep
                    layer.fc1.bias[at] = (side - threshold) * ROOT2
                    products[s + a, at] = side * sign * ROOT2
                    constant[s + a] = -sign
                if 0 < a < SIGNS - 2:
                    even = at + 2 * SIGNS
                    layer.fc1.weight[0, even, s + a] = ROOT2 * steep_even / 2
                    layer.fc1.bias[even] = side * ROOT2
                    layer.fc2.weight[0, s + a, even] = side * sign / ROOT2
                at += 1
        layer.fc2.bias[s + 1 : -2] -= sign

    def rows(self):
        part, new, s = self.part, self.new, self.s
        self.fit(new.post, part.post, 5)
        new.post.weight[-2:] = new.post.weight[-3]
        new.projection[:TRAINED, :s] = narrowed(part.projection, part.rows(self.was[5]), TRAINED)
        new.odd_projection = torch.zeros_like(new.projection)
        new.projection[TRAINED:-SIGNS, s:] = new.odd_projection[-SIGNS:, s:] = torch.eye(SIGNS)
        rows = new(self.pictures).square()
        scale = (SHARE / (1 - SHARE) * rows[:, :TRAINED].sum() / rows[:, TRAINED:].sum()).sqrt()
        new.projection[TRAINED:] *= scale
        new.odd_projection *= scale


def narrowed(projection, rows, dims):
    """[dims, h]: a projection onto those directions in which rows [n, d], which it gave, mostly are."""
    return torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :dims].T @ projection


def joined(tower, pictures):
    """A trained tower of one patch with signs, fitted to pictures uint8 [n, e, e]."""
    with torch.no_grad():
        return Join(tower, pictures).new


def pictures(folder, n, e):
    """The first n images of a pool in luminance, uint8 [n, e, e]."""
    x = torch.from_numpy(Pool(folder).images[:n].copy()).permute(0, 2, 3, 1).float() @ torch.from_numpy(LUMA)
    return F.interpolate(x[:, None], (e, e), mode="bicubic", antialias=True)[:, 0].add(0.5).clamp(0, 255).to(torch.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="model folder that train_builtin.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="its --work, where the pool is")
    parser.add_argument("--out", type=Path, default=Path("models/builtin"), help="model folder to write")
    args = parser.parse_args()
    tower = load(args.start)
    tower = joined(tower, pictures(args.work, PICTURES, tower.c["image_size"]))
    save(tower, args.out)
    weights = (args.out / "model.safetensors").read_bytes()
    print(f"model.safetensors: {len(weights):,} bytes, sha256 {hashlib.sha256(weights).hexdigest()}; {flops(tower.c)['total']:,} FLOP an image")


if __name__ == "__main__":
    main()

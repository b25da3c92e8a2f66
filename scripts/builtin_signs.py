"""Puts the signs of cosine coefficients beside what the embedded tower has learned: the last step of its training.

A perceptual hash such as PDQ keeps of each low DCT coefficient of a picture the sign alone. Small coefficients count as much as large
ones then: a sticker, which is large in all of them, turns few signs, and two charts of one layout, alike in what is large, differ in
what is small. Gradient descent from smooth weights did not come to that in the time it had. Here it is written into the weights.

1. `Signs` are the rows of a picture's signs, as the finished tower will have them; nothing in them is trained.
2. `cut` makes of a trained tower one of half the width. Of its pairs of channels the SMOOTH directions that are in use stay, found by a singular
   value decomposition at all stages; the stream is turned and cut to them, and its layer norms' weights go into the
   matrices that follow. In the last layer, two heads of like attention become one. That costs a point of recall, and more training, with
   the signs beside it, makes up for it.
3. `joined` makes one CLIP tower of both, side by side in the residual stream. Patch filters of the signs are DCT basis functions times their
   frequency, so that pictures are white in them. The first layer's MLP makes a step of each: quick_gelu(g x + 1) - quick_gelu(g x - 1) - 1 is
   about the sign of x. Heads of the last layer that look at the patch token alone bring the steps to the class token. A mirrored picture has
   its odd coefficients negated, so the last MLP makes of pairs of odd signs a and b the product, as (|a + b| - |a - b|) / 2 with
   |x| = quick_gelu(x) + quick_gelu(-x) for a large x. The even signs and random sums of these products are the last SIGNS dims. The
   layer norms' sizes are taken over both parts; the weights after them are set to what the parts had alone, on average over pictures.

Letters: n pictures, h pairs of channels, s = SMOOTH of them, p = 0 for even and 1 for odd channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from builtin_tower import ROOT2, Tower, parity

SMOOTH = 128  # pairs of channels of the trained tower, when cut
SIGNS = 128  # pairs of channels of the signs, and dims of theirs
EDGE = 16  # coefficients along an edge: 16 x 16, half of them even
STEEP = 15.0  # of the steps, over the typical size of a coefficient
SMALL = 0.1  # size of a coefficient beside that of a trained channel in the residual stream, and half that of a sign
PRODUCTS = 2  # that each odd sign is part of
SHARE = 0.3  # of a row's squared length that the signs have


def cosines(e):
    """DCT basis functions of pictures [e, e], times their frequency: EDGE^2 / 2 that are even from left to right, and as many odd ones,
    each [SIGNS, e * e]. The first and the last even one, the constant and a very fine one, are left at 0."""
    at, k = torch.arange(e) + 0.5, torch.arange(EDGE).float()
    waves = torch.cos(math.pi / e * at * k[:, None])
    functions = torch.einsum("ay,bx->abyx", waves, waves) * torch.hypot(k[:, None], k)[..., None, None] * 2 / e
    even, odd = (functions[:, p::2].reshape(SIGNS, e * e) for p in (0, 1))
    return torch.cat([even[:1] * 0, even[1:-1], even[-1:] * 0]), odd


def partners():
    """[PRODUCTS, SIGNS]: which odd sign each is multiplied with."""
    return torch.stack([torch.randperm(SIGNS, generator=torch.Generator().manual_seed(i)) for i in range(PRODUCTS)])


def sums():
    """[SIGNS, PRODUCTS * SIGNS]: the random sums of products in each dim; together of the size of an even sign."""
    draw = torch.randn(PRODUCTS * SIGNS, SIGNS, generator=torch.Generator().manual_seed(PRODUCTS))
    return torch.linalg.qr(draw)[0].T


class Signs(nn.Module):
    """Unit rows [n, SIGNS] of luminance 0..255 [n, e, e]."""

    def __init__(self, e):
        super().__init__()
        self.functions, self.partners, self.sums = cosines(e), partners(), sums()

    def forward(self, x):
        x = x.float().flatten(1) / 255
        coefficients = torch.stack([x @ functions.T for functions in self.functions], 1)
        x = STEEP * coefficients / coefficients.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-4)
        even, odd = (both(x + 1) - both(x - 1) - 1).unbind(1)
        products = torch.cat([((odd + odd[:, i]).abs() - (odd - odd[:, i]).abs()) / 2 for i in self.partners], 1)
        return F.normalize(even + products @ self.sums.T, dim=-1)


def both(x):
    return x * torch.sigmoid(1.702 * x)


# ---------------------------------------------------------------- the trained tower, cut


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


def directions(x, k):
    """The k directions [k, h] in which rows [.., h] are largest."""
    return torch.linalg.eigh(x.flatten(0, -2).T @ x.flatten(0, -2))[1].flip(1)[:, :k].T


def low_rank(matrix, k):
    """Two factors, of rank k, of [a, b]."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] * s[:k].sqrt(), s[:k].sqrt()[:, None] * v[:k]


class Cut:
    def __init__(self, old, pictures):
        self.old, self.pictures, self.draw, c = old, pictures, torch.Generator().manual_seed(0), old.c
        heads = c["num_attention_heads"]
        of_head = c["hidden_size"] // 2 // heads
        self.kept = (c["hidden_size"] / 2 / SMOOTH) ** 0.5  # a norm divides by the size of a channel, and fewer channels hold as much
        self.was = stages(old, pictures)
        self.new = Tower(
            c | {"hidden_size": 2 * SMOOTH, "projection_dim": SMOOTH, "num_attention_heads": SMOOTH // of_head}, [heads, SMOOTH // of_head]
        )
        self.turn()
        self.patch()
        for i, (before, after) in enumerate(zip(old.layers, self.new.layers)):
            self.attention(i, before, after)
            after.norm2.weight.fill_(self.kept)
            after.norm2.bias.zero_()
            after.fc1.weight.copy_(self.read(before.fc1.weight, before.norm2))
            after.fc1.bias.copy_(before.fc1.bias + before.fc1.weight[0] @ before.norm2.bias * ROOT2)
            after.fc2.weight.copy_(torch.stack([self.basis[p] @ before.fc2.weight[p] for p in (0, 1)]))
            after.fc2.bias.copy_(self.basis[0] @ before.fc2.bias)
        self.rows()

    def turn(self):
        """The basis of the new stream, even [s, h] and odd [s, h]. The even channels of whatever is in it have the sum 0: no mean is left for
        a layer norm to take out."""
        tokens = torch.cat([normal(x).flatten(0, 1) for x in self.was[1:]])
        even, odd = directions(tokens[:, 0], SMOOTH - 1), directions(tokens[:, 1], SMOOTH)
        ones = torch.cat([torch.ones(SMOOTH, 1), torch.randn(SMOOTH, SMOOTH - 1, generator=self.draw)], 1)
        any_ = torch.randn(SMOOTH, SMOOTH, generator=self.draw)
        self.basis = torch.linalg.qr(ones)[0][:, 1:] @ even, torch.linalg.qr(any_)[0] @ odd

    def patch(self):
        """Filters, positions, class token and the first norm, whose weights differ by channel, so they go into the filters. What that changes
        in the length of the patch token, some percent from picture to picture, is left."""
        old, new, (even, odd) = self.old, self.new, self.basis
        weight, place, filters = old.pre.weight, centred(old.places()[1]), [part.flatten(1) for part in parity(old.patch)]
        filters = even @ (weight[:, None] * centre(filters[0])), odd @ (weight[:, None] * filters[1])
        new.patch.copy_((sum(filters) / ROOT2).view_as(new.patch))
        new.positions.zero_()
        new.positions[1, 0], new.positions[1, 1] = even @ (weight * place[0]), odd @ (weight * place[1])
        lengths = [centred(x)[:, 1].square().mean((1, 2)).sqrt() for x in (new.tokens(self.pictures), self.was[0])]
        scale = (lengths[0] / lengths[1]).log().mean().exp()
        new.pre.weight.fill_(scale)
        new.pre.bias.copy_(even @ old.pre.bias)
        new.classes.copy_(even @ (normal(self.was[0][0, 0])[0] * weight) / scale / ROOT2)

    def read(self, matrix, norm):
        """A matrix [2, outputs, h] after `norm`, over the new stream's normal channels."""
        return torch.stack([(matrix[p] * norm.weight) @ self.basis[p].T for p in (0, 1)])

    def attention(self, i, old, new):
        new.norm1.weight.fill_(self.kept)
        new.norm1.bias.zero_()
        q, k, v = (part.unflatten(1, (old.heads, -1)) for part in self.read(old.qkv.weight, old.norm1).chunk(3, 1))
        bias = old.qkv.bias + old.qkv.weight[0] @ old.norm1.bias * ROOT2
        of_q, _, of_v = (part.unflatten(0, (old.heads, -1)) for part in bias.chunk(3))  # a key's bias changes no softmax
        out = torch.stack([self.basis[p] @ old.out.weight[p] for p in (0, 1)]).unflatten(2, (old.heads, -1))
        new.qkv.bias.zero_()
        new.out.bias.copy_(self.basis[0] @ old.out.bias)
        groups = [[head] for head in range(old.heads)] if new.heads == old.heads else self.alike(i, old)
        queries, keys, values = (part.unflatten(1, (new.heads, -1)) for part in new.qkv.weight.chunk(3, 1))
        of_queries, _, of_values = (part.unflatten(0, (new.heads, -1)) for part in new.qkv.bias.chunk(3))
        writes = new.out.weight.unflatten(2, (new.heads, -1))
        for at, group in enumerate(groups):
            if len(group) == 1:
                queries[:, at], keys[:, at], values[:, at], writes[:, :, at] = q[:, group[0]], k[:, group[0]], v[:, group[0]], out[:, :, group[0]]
                of_queries[at], of_values[at] = of_q[group[0]], of_v[group[0]]
                continue
            for p in (0, 1):
                writes[p, :, at], values[p, at] = low_rank(sum(out[p, :, head] @ v[p, head] for head in group), new.of_head)
                queries[p, at], keys[p, at], constant = self.mean_logits(i, p, q[p, group], k[p, group], of_q[group], new.of_head)
                if p == 0:
                    of_queries[at] = constant
            new.out.bias += sum(out[0, :, head] @ of_v[head] for head in group)

    def alike(self, i, layer):
        """The heads of layer i in pairs; those first whose attention goes most together."""
        attention = layer.attention(self.was[1 + 2 * i])[0].softmax(-1)[:, :, 0, 1]
        together, left, groups = torch.corrcoef(attention.T), list(range(layer.heads)), []
        while left:
            pair = max(((a, b) for a in left for b in left if a < b), key=lambda pair: together[pair])
            groups.append(list(pair))
            left = [head for head in left if head not in pair]
        return groups

    def mean_logits(self, i, p, q, k, bias, rank):
        """Query and key matrices [rank, s] of one head whose logits are about the mean of those of a group, as the class token asks, and the
        queries' bias. Of low rank where tokens are, not anywhere."""
        q = q.flatten(0, 1)
        tokens = normal(self.was[1 + 2 * i])[:, :, p] @ self.basis[p].T
        asking, asked = tokens[:, 0], tokens[:, 1] - tokens[:, 0]
        if p == 0:
            q = torch.cat([q, bias.flatten()[:, None]], 1)
            asking = torch.cat([asking, torch.ones(len(asking), 1)], 1)
        roots = []
        for x in (asking, asked):
            values, vectors = torch.linalg.eigh(x.T @ x / len(x) + 1e-3 * torch.eye(x.shape[1]))
            roots.append([(vectors * values.clamp_min(1e-6) ** power) @ vectors.T for power in (0.5, -0.5)])
        u, v = low_rank(roots[0][0] @ (q.T @ k.flatten(0, 1) / len(bias)) @ roots[1][0], rank)
        asks, answers = (roots[0][1] @ u).T, v @ roots[1][1]
        return (asks[:, :-1], answers, asks[:, -1]) if p == 0 else (asks, answers, None)

    def rows(self):
        old, new = self.old, self.new
        u, sizes, v = torch.linalg.svd((old.projection * old.post.weight) @ self.basis[0].T, full_matrices=False)
        new.post.weight.fill_(self.kept)
        new.projection.copy_(sizes[:SMOOTH, None] * v[:SMOOTH])
        new.post.bias.copy_(v.T @ ((u.T @ (old.projection @ old.post.bias)) / sizes.clamp_min(sizes[0] * 0.03)))


def cut(tower, pictures):
    """A tower of half the width that computes about the same; pictures uint8 [n, e, e] are what it is fitted to."""
    with torch.no_grad():
        return Cut(tower, pictures).new


# ---------------------------------------------------------------- both, joined


class Join:
    def __init__(self, part, pictures):
        self.part, self.pictures, self.was, c = part, pictures, stages(part, pictures), part.c
        of_head, self.inner = part.layers[0].of_head, c["intermediate_size"] // 2
        changes = {"hidden_size": 2 * (SMOOTH + SIGNS), "num_attention_heads": (SMOOTH + SIGNS) // of_head, "projection_dim": SMOOTH + SIGNS}
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
        norm.weight[:SMOOTH], norm.bias[:SMOOTH] = old.weight * scale, old.bias
        norm.weight[SMOOTH:] = 1 / size(normal(there)[:, -1, :, SMOOTH + 1 : -1])

    def patch(self):
        """Filters, positions, class token and the first norm, which leaves the signs' coefficients small. As in `Cut`, its weights go into the
        filters, and the even channels of what was trained have the sum 0, here and after each layer: else its mean would move the signs'."""
        part, new, s = self.part, self.new, SMOOTH
        weight, tokens = part.pre.weight, self.was[0]
        even, odd = (x.flatten(1) for x in parity(part.patch))
        filters = centre(weight[:, None] * centre(even)), weight[:, None] * odd
        new.patch[:s] = (sum(filters) / ROOT2).view_as(part.patch)
        place = centred(part.places()[1]) * weight
        new.positions[1, :, :s] = centred(place)
        new.patch[s:] = (sum(cosines(part.c["image_size"])) / ROOT2).view_as(new.patch[s:])
        trained, signs = (x[:, 1] for x in new.tokens(self.pictures).split([s, SIGNS], -1))
        new.patch[s:] *= SMALL * size(trained) / size(signs[..., 1:-1])
        # Two channels that are no signs tell the two tokens apart; their sum is 0 too.
        first, sides = centre(normal(tokens[0, 0])[0] * weight), torch.tensor([3.0, -3.0])
        new.classes[:s], new.classes[[s, -1]] = first / ROOT2, sides * size(first) / ROOT2
        new.positions[1, 0, [s, -1]] = -sides * size(trained)
        lengths = centred(new.tokens(self.pictures))[:, 1].square().mean((1, 2)).sqrt(), centred(tokens)[:, 1].square().mean((1, 2)).sqrt()
        new.pre.weight[:s] = (lengths[0] / lengths[1]).log().mean().exp()
        new.pre.weight[s:] = new.pre.weight[0]
        new.pre.bias[:s] = centre(part.pre.bias)

    def trained(self, i):
        part, new, s, h = self.part.layers[i], self.new.layers[i], SMOOTH, SMOOTH + SIGNS
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
        layer, s = self.new.layers[0], SMOOTH
        for at in range(SIGNS):
            for p in (0, 1):
                plus = self.inner + 4 * at + 2 * p
                layer.fc1.bias[plus], layer.fc1.bias[plus + 1] = ROOT2, -ROOT2
                if p == 1 or 0 < at < SIGNS - 1:
                    layer.fc1.weight[p, plus : plus + 2, s + at] = ROOT2 * STEEP
                    layer.fc2.weight[p, s + at, plus], layer.fc2.weight[p, s + at, plus + 1] = 1 / ROOT2, -1 / ROOT2
            layer.fc2.bias[s + at] = -float(0 < at < SIGNS - 1)
        # Their size in the stream: small beside what was trained, and not lost in it.
        amount = 2 * SMALL * size(self.was[3][:, 1])
        layer.fc2.weight[:, s:] *= amount
        layer.fc2.bias[s:] *= amount

    def heads(self, layer):
        """Heads that ask for the patch token, whatever the picture, and bring its signs."""
        s, h, logit = SMOOTH, SMOOTH + SIGNS, 32.0
        x = layer.norm1(stages(self.new, self.pictures)[3])[:, :, 0, s]
        apart = (x[:, 0] - x[:, 1]).min()
        assert apart > 0
        brought = 2 * SMALL * size(self.was[4])
        for at in range(s, h):
            if (at - s) % layer.of_head == 0:
                layer.qkv.bias[at] = 4
                layer.qkv.weight[0, h + at, s] = -logit * (2 * layer.of_head) ** 0.5 / 4 / apart
            for p in (0, 1):
                if p == 1 or s < at < h - 1:
                    layer.qkv.weight[p, 2 * h + at, at], layer.out.weight[p, at, at] = 1, brought

    def products(self):
        """The last MLP. The inputs of its inner pairs are odd: their two members are x and -x."""
        layer, s, steep, at = self.new.layers[1], SMOOTH, 12.0, self.inner
        sign = size(stages(self.new, self.pictures)[4][:, 0, 1, s + 1 : -1])  # the size of one in the stream
        weights = sums() * sign * ROOT2 / (2 * steep)
        for i, others in enumerate(partners()):
            for a, b in enumerate(others):
                for side in (1, -1):
                    layer.fc1.weight[1, at, s + a] += ROOT2 * steep
                    layer.fc1.weight[1, at, s + b] += side * ROOT2 * steep
                    layer.fc2.weight[0, s:, at] = side * weights[:, i * SIGNS + a]
                    at += 1

    def rows(self):
        part, new, s = self.part, self.new, SMOOTH
        self.fit(new.post, part.post, 5)
        new.projection[:s, :s] = part.projection
        new.projection[s:, s:] = torch.eye(SIGNS)
        new.post.bias[[s, -1]] = -new.post.weight[[s, -1]] * normal(stages(new, self.pictures)[5])[:, 0, 0, [s, -1]].mean(0) / ROOT2
        rows = new(self.pictures).square()
        new.projection[s:] *= (SHARE / (1 - SHARE) * rows[:, :s].sum() / rows[:, s:].sum()).sqrt()


def joined(tower, pictures):
    """The tower on disk: a cut tower's rows and the signs', SHARE of the squared length; fitted to pictures uint8 [n, e, e]."""
    with torch.no_grad():
        return Join(tower, pictures).new

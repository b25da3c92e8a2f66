"""The embedded tower in PyTorch: a CLIP vision tower of one patch, symmetric under mirroring, and its way to and from disk.

One patch is the whole picture, 32 x 32: the patch filters are filters over all of it, LayerNorm takes their common size out (so that
contrast and exposure change little), and what follows is an MLP with residuals in CLIP's clothes. Positions need not be learned:
a filter has its own. A tower of four patches, trained as long, found fewer copies: see models/builtin/README.md.

It sees luminance alone, on one channel here; what is written has three, which builtin_signs.py may weigh otherwise. It is
symmetric by construction: channels come in pairs (a, b) that a mirrored picture swaps. Here they are kept as sum and difference, (a + b) / sqrt 2 and (a - b) / sqrt 2, the even and
the odd ones: a matrix that commutes with the swap is then one matrix for each, which halves its work, and only the activation needs the
pairs (the mean over the group, as in Cohen and Welling 2016). The projection takes even channels alone, so that a mirrored
picture has the same row. While it is trained it has more dims than it can fill: those at the end are also trained alone (train_builtin.py). They
are rotated into w / 2 when it is written.

Letters: n images, t tokens, w width, h = w / 2 pairs of channels, m inner width of the MLP, d dims, s edge of the picture, p of a patch.
"""

import json

import torch
import torch.nn.functional as F
from torch import nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LUMA = (0.299, 0.587, 0.114)
LUMA_MEAN = sum(l * m for l, m in zip(LUMA, CLIP_MEAN))
ARCHITECTURE = dict(
    hidden_size=512,
    intermediate_size=1024,
    num_hidden_layers=2,
    num_attention_heads=8,
    image_size=32,
    patch_size=32,
    num_channels=3,
    projection_dim=384,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
ROOT2 = 2**0.5


def flops(c):
    """Floating-point operations of one image, a multiply-add as two, by part; in the last layer only the class token goes through the
    output product and the MLP. Elementwise work is counted an operation at a time: layer norm 8 an element, softmax 5, quick-GELU 5
    (exponential and division as one each)."""
    patches = (c["image_size"] // c["patch_size"]) ** 2
    t, w, m, n = patches + 1, c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    heads, rows = c["num_attention_heads"], (n - 1) * t + 1
    parts = {
        "normalise pixels": 3 * c["image_size"] ** 2 * 3,
        "patch embedding": 2 * patches * 3 * c["patch_size"] ** 2 * w,
        "attention projections": n * t * 3 * w * (2 * w + 1) + rows * w * (2 * w + 1),
        "attention": n * (2 * 2 * t * t * w + heads * t * t * (5 + 1)),
        "mlp": rows * (2 * 2 * w * m + (m + w) + 5 * m),
        "norms, residuals, positions": 8 * w * (t + n * t + rows) + rows * 2 * w + t * w,
        "projection": 2 * w * c["projection_dim"],
    }
    return parts | {"total": sum(parts.values())}


def parity(filters):
    """The even and the odd part of filters [h, p, p] and their mirror images."""
    mirrored = filters.flip(-1)
    return (filters + mirrored) / ROOT2, (filters - mirrored) / ROOT2


class Norm(nn.Module):
    """LayerNorm over the pairs; their two channels share weight and bias."""

    def __init__(self, h, eps):
        super().__init__()
        self.eps, self.weight, self.bias = eps, nn.Parameter(torch.ones(h)), nn.Parameter(torch.zeros(h))

    def forward(self, x):
        even, odd = x.unbind(-2)
        w = 2 * even.shape[-1]
        even = even - even.sum(-1, keepdim=True) * (2 / w)
        scale = torch.rsqrt((even.square().sum(-1, keepdim=True) + odd.square().sum(-1, keepdim=True)) / w + self.eps)
        return torch.stack([even * scale * self.weight + self.bias * ROOT2, odd * scale * self.weight], -2)


class Linear(nn.Module):
    """[.., 2, inputs] -> [.., 2, outputs]: a matrix for even channels with a bias, and one for odd ones. `across`, where there is one, is a
    matrix and a bias for odd outputs from even inputs. What it writes is the same for a mirrored picture, so only the projection may read it."""

    def __init__(self, inputs, outputs, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, outputs, inputs) * gain * inputs**-0.5)
        self.bias, self.across = nn.Parameter(torch.zeros(outputs)), None

    def forward(self, x):
        even, odd = x.unbind(-2)
        odd = F.linear(odd, self.weight[1])
        if self.across:
            odd = odd + F.linear(even, *self.across)
        return torch.stack([F.linear(even, self.weight[0], self.bias), odd], -2)


def quick_gelu(x):
    """Applied to the pairs."""
    even, odd = x.unbind(-2)
    a, b = (even + odd) / ROOT2, (even - odd) / ROOT2
    a, b = a * torch.sigmoid(1.702 * a), b * torch.sigmoid(1.702 * b)
    return torch.stack([(a + b) / ROOT2, (a - b) / ROOT2], -2)


class Layer(nn.Module):
    """A transformer layer; `heads` heads of `of_head` pairs each, as many as there are channels on disk, or some of them in training."""

    def __init__(self, c, heads, of_head, last):
        super().__init__()
        h, m, deep = c["hidden_size"] // 2, c["intermediate_size"] // 2, (2 * c["num_hidden_layers"]) ** -0.5
        self.heads, self.of_head, self.last = heads, of_head, last
        self.norm1, self.norm2 = (Norm(h, c["layer_norm_eps"]) for _ in range(2))
        self.qkv, self.out = Linear(h, 3 * heads * of_head), Linear(heads * of_head, h, deep)
        self.fc1, self.fc2 = Linear(h, m), Linear(m, h, deep)

    def attention(self, x):
        """Logits [n, heads, queries, t] and values [n, heads, t, 2 of_head] of a stream [n, t, 2, h]; the last layer asks for the class token alone."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, self.of_head)).permute(3, 0, 4, 1, 2, 5).flatten(4)
        if self.last:
            q = q[:, :, :1]
        return q @ k.transpose(-1, -2) * (2 * self.of_head) ** -0.5, v

    def read(self, logits, values):
        """What the heads read, [n, queries, 2, h]."""
        return self.out((logits.softmax(-1) @ values).unflatten(-1, (2, self.of_head)).permute(0, 2, 3, 1, 4).flatten(3))

    def inner(self, x):
        return self.fc2(quick_gelu(self.fc1(self.norm2(x))))

    def forward(self, x):
        read = self.read(*self.attention(x))
        x = (x[:, :1] if self.last else x) + read
        return x + self.inner(x)


class Tower(nn.Module):
    """With CLIPVisionModelWithProjection's arithmetic, for one channel of luminance; `hugging_face` gives its weights in full."""

    def __init__(self, c, heads=None):
        super().__init__()
        self.c, h, p = c, c["hidden_size"] // 2, c["patch_size"]
        self.side, layers = c["image_size"] // p, c["num_hidden_layers"]
        coarse = p // 4 + 1  # values along a random filter's edge: smooth ones at first
        smooth = F.interpolate(torch.randn(h, 1, coarse, coarse) * 2.4 / p, (p, p), mode="bicubic")[:, 0]
        self.patch = nn.Parameter(smooth - smooth.mean((1, 2), keepdim=True))  # of a; that of b is its mirror image
        self.classes = nn.Parameter(torch.randn(h) * 0.3)
        self.positions = nn.Parameter(torch.randn(self.side**2 + 1, 2, h) * 0.1)
        self.pre, self.post = (Norm(h, c["layer_norm_eps"]) for _ in range(2))
        of_head = h // c["num_attention_heads"]
        heads = heads or [c["num_attention_heads"]] * layers  # in each layer
        self.layers = nn.ModuleList(Layer(c, count, of_head, i == layers - 1) for i, count in enumerate(heads))
        self.projection = nn.Parameter(torch.randn(c["projection_dim"], h) * c["hidden_size"] ** -0.5)
        # What builtin_signs.py alone gives a tower: dims from odd channels, and filters [h, 3, p, p] of what R, G and B have beside luminance.
        self.odd_projection, self.chroma = None, None

    def places(self):
        """[t, 2, h]: the positions, where the class token's has nothing odd and mirrored columns mirrored ones."""
        first = self.positions[:1] * self.positions.new_tensor([1.0, 0.0]).view(1, 2, 1)
        grid = self.positions[1:].unflatten(0, (self.side, self.side))
        mirrored = grid.flip(1) * grid.new_tensor([1.0, -1.0]).view(1, 1, 2, 1)
        return torch.cat([first, ((grid + mirrored) / 2).flatten(0, 1)])

    def tokens(self, x):
        """Class and patch tokens [n, t, 2, h], before the first norm, of luminance 0..255 [n, s, s]."""
        n, g, p = len(x), self.side, self.c["patch_size"]
        x = (x.float() / 255 - LUMA_MEAN).reshape(n, g, p, g, p).permute(0, 1, 3, 2, 4).reshape(n, g * g, p * p)
        x = F.linear(x, torch.cat(parity(self.patch)).flatten(1)).view(n, g * g, 2, -1)
        first = torch.stack([self.classes * ROOT2, torch.zeros_like(self.classes)]).to(x.dtype)
        return torch.cat([first.expand(n, 1, 2, -1), x], 1) + self.places()

    def rows(self, x):
        """Rows [n, d], not normalised, of what the last layer gives."""
        even, odd = self.post(x)[:, 0].unbind(1)
        rows = F.linear(even, self.projection)
        return (rows if self.odd_projection is None else rows + F.linear(odd, self.odd_projection)) * ROOT2

    def sized(self, x):
        """Rows, and the size [n] of the class token's residual stream before the last norm."""
        x = self.pre(self.tokens(x))
        for layer in self.layers:
            x = layer(x)
        even, odd = x[:, 0].float().unbind(1)
        even = even - even.mean(-1, keepdim=True)
        return self.rows(x), (even.square().mean(-1) + odd.square().mean(-1)).sqrt()

    def forward(self, x):
        return self.sized(x)[0]

    def matrices(self):
        """The parameters that are pairs of matrices: the layers'."""
        return [p for p in self.layers.parameters() if p.ndim == 3]


# ---------------------------------------------------------------- on disk
#
# There, all channels stand in full: a0 b0 a1 b1 ..., and a head owns whole pairs.

LAYER_NAMES = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
NORM_NAMES = {"pre_layrnorm": "pre", "post_layernorm": "post"}
EMBEDDINGS = "vision_model.embeddings."


def tied(x):
    """[.., h] -> [.., 2h]: the same number for both of a pair."""
    return x.repeat_interleave(2, -1)


def pairs(even, odd):
    """Two of [.., h] -> [.., 2h]."""
    return torch.stack([even + odd, even - odd], -1).flatten(-2) / ROOT2


def untied(x):
    """[.., h] -> [.., 2h]: a number and its negative for a pair."""
    return torch.stack([x, -x], -1).flatten(-2)


def commuting(weight):
    """[2, outputs, inputs] of even and odd channels -> [2 outputs, 2 inputs]."""
    same, other = (weight[0] + weight[1]) / 2, (weight[0] - weight[1]) / 2
    return torch.stack([torch.stack([same, other], -1).flatten(-2), torch.stack([other, same], -1).flatten(-2)], 1).flatten(0, 1)


def crossing(weight):
    """[outputs, inputs] of odd outputs from even inputs -> [2 outputs, 2 inputs]."""
    return untied(tied(weight).T).T / 2


def parted(weight):
    """The reverse of `commuting`."""
    same, other = weight[::2, ::2], weight[::2, 1::2]
    return torch.stack([same + other, same - other])


def hugging_face(model):
    """The state dictionary under CLIPVisionModelWithProjection's names."""
    luma, mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (LUMA, CLIP_MEAN, CLIP_STD))
    places, patch, projection = model.places(), model.patch[:, None] * luma, tied(rotated(model.projection))
    places = pairs(places[:, 0], places[:, 1])
    if model.chroma is not None:
        patch = patch + model.chroma
        places[1:] += tied((model.chroma * mean).sum((1, 2, 3)))
    if model.odd_projection is not None:
        projection = projection + untied(model.odd_projection)
    out = {
        EMBEDDINGS + "class_embedding": tied(model.classes),
        EMBEDDINGS + "position_embedding.weight": places,
        EMBEDDINGS + "patch_embedding.weight": torch.stack([patch, patch.flip(-1)], 1).flatten(0, 1) * std,
        "visual_projection.weight": projection,
    }
    for theirs, ours in NORM_NAMES.items():
        norm = getattr(model, ours)
        out[f"vision_model.{theirs}.weight"], out[f"vision_model.{theirs}.bias"] = tied(norm.weight), tied(norm.bias)
    for i, layer in enumerate(model.layers):
        there = f"vision_model.encoder.layers.{i}."
        for theirs, ours in LAYER_NAMES.items():
            part = getattr(layer, ours)
            norm = isinstance(part, Norm)
            out[f"{there}{theirs}.weight"] = tied(part.weight) if norm else commuting(part.weight)
            out[f"{there}{theirs}.bias"] = tied(part.bias) if norm else tied(part.bias) / ROOT2
            if not norm and part.across:
                weight, bias = part.across
                out[f"{there}{theirs}.weight"] += crossing(weight)
                out[f"{there}{theirs}.bias"] += untied(bias) / ROOT2
        for letter, weight, bias in zip("qkv", layer.qkv.weight.chunk(3, 1), layer.qkv.bias.chunk(3)):
            out[f"{there}self_attn.{letter}_proj.weight"] = commuting(weight)
            out[f"{there}self_attn.{letter}_proj.bias"] = tied(bias) / ROOT2
    return out


def load(folder, dims=0):
    """A tower from a model folder that `save` wrote, with random dims added at the end up to `dims`."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    model = Tower({key: config[key] for key in ARCHITECTURE} | {"projection_dim": max(dims, config["projection_dim"])})
    t = {name: x.float() for name, x in load_file(folder / "model.safetensors").items()}
    patch, places = t[EMBEDDINGS + "patch_embedding.weight"], t[EMBEDDINGS + "position_embedding.weight"]
    if not torch.equal(t["visual_projection.weight"][:, ::2], t["visual_projection.weight"][:, 1::2]):
        raise ValueError(f"{folder}: a tower with signs is not trained further; give the one that it was made from")
    a, b = places[:, ::2], places[:, 1::2]
    state = {
        "patch": (patch / torch.tensor(CLIP_STD).view(1, 3, 1, 1)).sum(1)[::2] / sum(LUMA),
        "classes": t[EMBEDDINGS + "class_embedding"][::2],
        "positions": torch.stack([a + b, a - b], 1) / ROOT2,
        "projection": t["visual_projection.weight"][:, ::2],
    }
    there = state["projection"]
    if dims > len(there):
        added = model.projection.detach()[len(there) :]
        state["projection"] = torch.cat([there, added / added.std() * there.std()])
    for theirs, ours in NORM_NAMES.items():
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = t[f"vision_model.{theirs}.{kind}"][::2]
    for i in range(config["num_hidden_layers"]):
        there, here = f"vision_model.encoder.layers.{i}.", f"layers.{i}."
        for theirs, ours in LAYER_NAMES.items():
            weight, bias = t[f"{there}{theirs}.weight"], t[f"{there}{theirs}.bias"][::2]
            norm = ours.startswith("norm")
            state[f"{here}{ours}.weight"], state[f"{here}{ours}.bias"] = (weight[::2], bias) if norm else (parted(weight), bias * ROOT2)
        names = [f"{there}self_attn.{letter}_proj." for letter in "qkv"]
        state[f"{here}qkv.weight"] = torch.cat([parted(t[name + "weight"]) for name in names], 1)
        state[f"{here}qkv.bias"] = torch.cat([t[name + "bias"][::2] for name in names]) * ROOT2
    model.load_state_dict(state)
    return model


def rotated(projection):
    """[d, h] -> [min(d, h), h] with the same inner products: rows of d > h dims span h of them."""
    return projection if len(projection) <= projection.shape[1] else torch.linalg.qr(projection, "r")[1]


def save(model, out):
    """config.json, preprocessor_config.json and model.safetensors (f16, Hugging Face names), each by rename."""
    from safetensors.torch import save as serialise

    out.mkdir(parents=True, exist_ok=True)
    c, state = model.c, hugging_face(model)
    tensors = {name: t.detach().to(torch.float16).contiguous() for name, t in sorted(state.items())}
    config = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", **c}
    config["projection_dim"] = len(state["visual_projection.weight"])
    config |= {"attention_dropout": 0.0, "dtype": "float16"}
    if model.odd_projection is not None:
        config["int8"] = False  # clipsift's: signs of small numbers, which 8 bits lose
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": c["image_size"], "width": c["image_size"]},
        "resample": 3,
        "do_center_crop": False,
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

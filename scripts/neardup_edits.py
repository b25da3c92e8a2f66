"""The edits that compare_neardup.py measures: what people and platforms do to a picture before it comes back.

Each edit is (kind, name, function); a function takes an RGB image and a generator and gives (image, file suffix, save options):
the copy is written in that format and read back by every method. Written apart from the training's edits (builtin_views.py),
with Pillow, at the picture's full size.
"""

import math

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
import numpy as np

LOSSLESS = (".bmp", {})


def scaled(image, factor, stretch=1.0):
    return image.resize((max(16, round(image.width * factor * stretch)), max(16, round(image.height * factor))), Image.Resampling.LANCZOS)


def crop(image, rng, lost):
    """A window of 1 - lost of the area, of the picture's shape, anywhere."""
    side = math.sqrt(1 - lost)
    w, h = round(image.width * side), round(image.height * side)
    x, y = rng.integers(0, image.width - w + 1), rng.integers(0, image.height - h + 1)
    return image.crop((x, y, x + w, y + h))


def cut_side(image, rng, share):
    """One side cut off."""
    side, w, h = rng.integers(4), image.width, image.height
    dx, dy = round(w * share), round(h * share)
    return image.crop([(dx, 0, w, h), (0, dy, w, h), (0, 0, w - dx, h), (0, 0, w, h - dy)][side])


def border(image, rng, share):
    fill = [(0, 0, 0), (255, 255, 255), tuple(int(x) for x in rng.integers(0, 256, 3))][rng.integers(3)]
    return ImageOps.expand(image, round(min(image.size) * share), fill)


def padded(image, rng):
    """Bars on two sides, up to a square (or, from a square, to 4:3)."""
    edge = max(image.size)
    size = (edge, edge) if image.width != image.height else (edge * 4 // 3, edge)
    return ImageOps.pad(image, size, color=(0, 0, 0) if rng.random() < 0.5 else (255, 255, 255))


def typed(image, rng, text, size, place, opacity=255, angle=0, stroke=0):
    layer = Image.new("RGBA", image.size)
    light = rng.random() < 0.6
    ink, edge = ((255, 255, 255), (0, 0, 0)) if light else ((0, 0, 0), (255, 255, 255))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(layer).text(place, text, (*ink, opacity), font, stroke_width=stroke, stroke_fill=(*edge, opacity))
    if angle:
        layer = layer.rotate(angle, Image.Resampling.BICUBIC)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def stock_mark(image, rng):
    """A half transparent word across the middle."""
    size = min(image.size) * 0.17
    return typed(image, rng, "PREVIEW", size, (image.width / 2 - size * 2.1, image.height / 2 - size / 2), 120, int(rng.integers(-30, 31)))


def caption(image, rng):
    """A line of text in a bar at the foot, over the picture."""
    image, bar = image.copy(), round(image.height * 0.1)
    pen = ImageDraw.Draw(image)
    dark = rng.random() < 0.5
    pen.rectangle((0, image.height - bar, image.width, image.height), (0, 0, 0) if dark else (255, 255, 255))
    pen.text((bar * 0.4, image.height - bar), "as seen on a Tuesday, 14:02", (255, 255, 255) if dark else (0, 0, 0), ImageFont.load_default(bar * 0.6))
    return image


def meme(image, rng):
    """Two lines of big edged letters, at the head and the foot."""
    size = min(image.size) * 0.13
    for text, y in (("WHEN YOU SEE", 0.01), ("THE SAME AGAIN", 0.99)):
        image = typed(image, np.random.default_rng(0), text, size, (image.width * 0.04, (image.height - size * 1.3) * y), stroke=max(1, round(size / 15)))
    return image


def sticker(image, rng):
    """A face of a sixth of the shorter edge's square, anywhere."""
    image, r = image.copy(), min(image.size) * rng.uniform(0.1, 0.16)
    x, y = rng.uniform(r, image.width - r), rng.uniform(r, image.height - r)
    pen = ImageDraw.Draw(image)
    pen.ellipse((x - r, y - r, x + r, y + r), (255, 205, 60), (90, 60, 0), max(1, round(r / 12)))
    for k in (-0.35, 0.35):
        pen.ellipse((x + k * r - r / 8, y - r * 0.35, x + k * r + r / 8, y - r * 0.05), (60, 40, 0))
    pen.arc((x - r * 0.55, y - r * 0.4, x + r * 0.55, y + r * 0.6), 20, 160, (60, 40, 0), max(1, round(r / 8)))
    return image


def logo(image, rng):
    image, n = image.copy(), round(min(image.size) * 0.14)
    pen, gap = ImageDraw.Draw(image), n // 4
    x = gap if rng.random() < 0.5 else image.width - n - gap
    y = gap if rng.random() < 0.5 else image.height - n - gap
    pen.rounded_rectangle((x, y, x + n, y + n), n // 5, (20, 110, 220))
    pen.polygon([(x + n * 0.3, y + n * 0.2), (x + n * 0.3, y + n * 0.8), (x + n * 0.8, y + n * 0.5)], (255, 255, 255))
    return image


def lines(pen, rng, box, size, ink):
    """Grey bars of the length of words, as a page of text looks from afar."""
    x0, y, x1, y1 = box
    while y + size < y1:
        x, end = x0, x1 if rng.random() < 0.8 else x0 + (x1 - x0) * rng.uniform(0.2, 0.8)
        while x < end:
            word = size * rng.uniform(1, 5)
            pen.rectangle((x, y, min(x + word, end), y + size * 0.6), ink)
            x += word + size * 0.5
        y += size * 1.5


def phone(image, rng):
    """A post on a telephone: the picture at full width, bars above, buttons and words below; not much taller than wide."""
    w = image.width
    head, foot = round(w * rng.uniform(0.1, 0.18)), round(w * rng.uniform(0.12, 0.3))
    dark = rng.random() < 0.5
    ground, ink = ((18, 18, 20), (205, 205, 205)) if dark else ((255, 255, 255), (50, 50, 50))
    page = Image.new("RGB", (w, head + image.height + foot), ground)
    page.paste(image, (0, head))
    pen = ImageDraw.Draw(page)
    pen.ellipse((w * 0.03, head * 0.3, w * 0.03 + head * 0.6, head * 0.9), tuple(int(c) for c in rng.integers(60, 220, 3)))
    pen.text((w * 0.05 + head * 0.6, head * 0.35), "someone_somewhere", ink, ImageFont.load_default(head * 0.3))
    for k in range(4):
        x, n = w * (0.04 + 0.09 * k), w * 0.05
        pen.ellipse((x, head + image.height + n * 0.3, x + n, head + image.height + n * 1.3), outline=ink, width=max(1, w // 180))
    lines(pen, rng, (w * 0.04, head + image.height + w * 0.09, w * 0.9, page.height), w * 0.025, ink)
    return page


def web_page(image, rng):
    """The picture at six tenths of the width of a page, with a bar on top, a column beside it and words below."""
    w = round(image.width / 0.6)
    h = round(image.height * rng.uniform(1.25, 1.5))
    page = Image.new("RGB", (w, h), (255, 255, 255) if rng.random() < 0.7 else (32, 33, 36))
    pen, ink = ImageDraw.Draw(page), (110, 110, 110)
    bar = round(h * 0.08)
    pen.rectangle((0, 0, w, bar), tuple(int(c) for c in rng.integers(30, 230, 3)))
    x, y = round(w * rng.uniform(0.03, 0.1)), round(bar * 1.5)
    page.paste(image, (x, y))
    lines(pen, rng, (x + image.width + w * 0.03, y, w * 0.98, h * 0.97), h * 0.02, ink)
    lines(pen, rng, (x, y + image.height + h * 0.03, x + image.width, h * 0.97), h * 0.02, ink)
    return page


def viewer(image, rng):
    """A picture viewer's window: a title bar and a dark frame around."""
    frame, title = round(min(image.size) * 0.06), round(min(image.size) * 0.08)
    page = ImageOps.expand(image, (frame, frame + title, frame, frame), (40, 40, 42))
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, page.width, title), (225, 225, 228))
    for k, fill in enumerate(((237, 106, 94), (245, 191, 79), (98, 197, 84))):
        pen.ellipse((title * (0.3 + k), title * 0.25, title * (0.8 + k), title * 0.75), fill)
    pen.text((page.width * 0.4, title * 0.1), "IMG_0417.jpg", (60, 60, 60), ImageFont.load_default(title * 0.6))
    return page


def hue(image, degrees):
    h, s, v = image.convert("HSV").split()
    return Image.merge("HSV", (h.point(lambda x: (x + round(degrees * 256 / 360)) % 256), s, v)).convert("RGB")


def gamma(image, g):
    return image.point([round(255 * (x / 255) ** g) for x in range(256)] * 3)


def sepia(image):
    return ImageOps.colorize(image.convert("L"), (30, 15, 5), (255, 240, 200))


def noisy(image, rng, sigma):
    x = np.asarray(image, np.float32)
    return Image.fromarray(np.clip(x + rng.normal(0, sigma, x.shape), 0, 255).astype(np.uint8))


def turned(image, rng, degrees, inside=False):
    """Turned by +-degrees: with black corners, or zoomed until none is left."""
    out = image.rotate(degrees * rng.choice([-1, 1]), Image.Resampling.BICUBIC)
    if not inside:
        return out
    a, (w, h) = math.radians(degrees), image.size
    side = 1 / (math.cos(a) + max(w / h, h / w) * math.sin(a))
    return out.crop((round(w * (1 - side) / 2), round(h * (1 - side) / 2), round(w * (1 + side) / 2), round(h * (1 + side) / 2)))


def posted(image, rng):
    """Cropped a little, recoloured, shrunk, a line of text on it."""
    image = scaled(crop(image, rng, 0.1), 0.5)
    image = ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(1.15)).enhance(1.3)
    return typed(image, rng, "look at this", image.height * 0.1, (image.width * 0.08, image.height * 0.8), stroke=1)


def passed_on(image, rng):
    """A screenshot of a post of a darker, shrunk, much compressed copy, cropped by hand."""
    image = ImageEnhance.Contrast(ImageEnhance.Brightness(scaled(image, 0.6)).enhance(0.85)).enhance(0.9)
    return crop(phone(image, rng), rng, 0.12)


def disguised(image, rng):
    """Mirrored, cropped, in grey, with a border."""
    return border(crop(ImageOps.mirror(image), rng, 0.15).convert("L").convert("RGB"), rng, 0.04)


def plain(f):
    """An edit that is kept without loss."""
    return lambda image, rng: (f(image, rng), *LOSSLESS)


def jpeg(f, quality):
    return lambda image, rng: (f(image, rng), ".jpg", {"quality": quality})


def same(image, rng):
    return image


EDITS = [
    ("resize", "to 1/2", plain(lambda i, r: scaled(i, 0.5))),
    ("resize", "to 1/4", plain(lambda i, r: scaled(i, 0.25))),
    ("resize", "to 64 pixels", plain(lambda i, r: scaled(i, 64 / min(i.size)))),
    ("JPEG", "quality 50", jpeg(same, 50)),
    ("JPEG", "quality 20", jpeg(same, 20)),
    ("JPEG", "quality 8", jpeg(same, 8)),
    ("WebP", "quality 20", lambda i, r: (i, ".webp", {"quality": 20})),
    ("crop, light", "5 % of the area away", plain(lambda i, r: crop(i, r, 0.05))),
    ("crop, light", "15 % away", plain(lambda i, r: crop(i, r, 0.15))),
    ("crop, light", "a tenth cut off one side", plain(lambda i, r: cut_side(i, r, 0.1))),
    ("crop, strong", "30 % away", plain(lambda i, r: crop(i, r, 0.30))),
    ("crop, strong", "50 % away", plain(lambda i, r: crop(i, r, 0.50))),
    ("crop, strong", "a quarter cut off one side", plain(lambda i, r: cut_side(i, r, 0.25))),
    ("border", "4 % on each side", plain(lambda i, r: border(i, r, 0.04))),
    ("border", "12 % on each side", plain(lambda i, r: border(i, r, 0.12))),
    ("border", "bars to a square", plain(padded)),
    ("overlay", "logo in a corner", plain(logo)),
    ("overlay", "sticker", plain(sticker)),
    ("overlay", "watermark across", plain(stock_mark)),
    ("text", "caption bar", plain(caption)),
    ("text", "two big lines", plain(meme)),
    ("mirror", "left and right", plain(lambda i, r: ImageOps.mirror(i))),
    ("blur", "1 % of the edge", plain(lambda i, r: i.filter(ImageFilter.GaussianBlur(min(i.size) * 0.01)))),
    ("blur", "2 %", plain(lambda i, r: i.filter(ImageFilter.GaussianBlur(min(i.size) * 0.02)))),
    ("noise", "sigma 20 of 255", plain(lambda i, r: noisy(i, r, 20))),
    ("noise", "sigma 50", plain(lambda i, r: noisy(i, r, 50))),
    ("colour", "brightness x 1.4", plain(lambda i, r: ImageEnhance.Brightness(i).enhance(1.4))),
    ("colour", "brightness x 0.6", plain(lambda i, r: ImageEnhance.Brightness(i).enhance(0.6))),
    ("colour", "contrast x 0.6", plain(lambda i, r: ImageEnhance.Contrast(i).enhance(0.6))),
    ("colour", "contrast x 1.5", plain(lambda i, r: ImageEnhance.Contrast(i).enhance(1.5))),
    ("colour", "gamma 0.6", plain(lambda i, r: gamma(i, 0.6))),
    ("colour", "gamma 1.7", plain(lambda i, r: gamma(i, 1.7))),
    ("colour", "saturation x 0.3", plain(lambda i, r: ImageEnhance.Color(i).enhance(0.3))),
    ("colour", "saturation x 1.8", plain(lambda i, r: ImageEnhance.Color(i).enhance(1.8))),
    ("colour", "hue by 25 degrees", plain(lambda i, r: hue(i, 25))),
    ("greyscale", "grey", plain(lambda i, r: i.convert("L").convert("RGB"))),
    ("greyscale", "sepia", plain(lambda i, r: sepia(i))),
    ("rotation", "2 degrees, black corners", plain(lambda i, r: turned(i, r, 2))),
    ("rotation", "5 degrees, black corners", plain(lambda i, r: turned(i, r, 5))),
    ("rotation", "5 degrees, no corners", plain(lambda i, r: turned(i, r, 5, inside=True))),
    ("stretch", "10 % wider", plain(lambda i, r: scaled(i, 1, 1.1))),
    ("stretch", "25 % wider", plain(lambda i, r: scaled(i, 1, 1.25))),
    ("screenshot", "in a viewer's window", plain(viewer)),
    ("screenshot", "post on a telephone", plain(phone)),
    ("screenshot", "on a web page", plain(web_page)),
    ("combination", "crop, colour, half size, text, JPEG 40", jpeg(posted, 40)),
    ("combination", "darker, shrunk, screenshot of a post, crop, JPEG 30", jpeg(passed_on, 30)),
    ("combination", "mirror, crop, grey, border, JPEG 60", jpeg(disguised, 60)),
]

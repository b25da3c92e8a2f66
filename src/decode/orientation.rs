//! Which way is up: the EXIF orientation, where it stands in a file, and how to apply it.

use crate::sample::Rgb8;

/// The EXIF tag.
const ORIENTATION: u16 = 0x0112;

/// The EXIF orientation, 1 to 8, from EXIF data and XMP: XMP counts only where EXIF does not have the tag. Values outside 1 to 8
/// turn nothing.
pub(super) fn from_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> u32 {
    exif.and_then(from_exif)
        .or_else(|| xmp.and_then(from_xmp))
        .unwrap_or(1)
}

/// The tag's value in EXIF data: a TIFF header and directory, with or without `Exif\0\0` before it.
fn from_exif(exif: &[u8]) -> Option<u32> {
    let mut exif = exif;
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    Directory::first(exif)?.number(ORIENTATION)
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`, wherever it stands.
fn from_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = xmp;
    loop {
        let at = rest.windows(NAME.len()).position(|w| w == NAME)?;
        rest = &rest[at + NAME.len()..];
        match rest {
            [b'=', b'"', digit, ..] | [b'>', digit, ..] if digit.is_ascii_digit() => {
                return Some(u32::from(digit - b'0'));
            }
            _ => {}
        }
    }
}

/// The first directory of a (classic) TIFF structure. Everything is looked up within the bytes; nothing is followed blindly.
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    /// Where its entries begin.
    start: usize,
    count: usize,
}

impl<'a> Directory<'a> {
    /// Finds it.
    pub(super) fn first(bytes: &'a [u8]) -> Option<Directory<'a>> {
        let big_endian = match bytes.get(..4)? {
            [b'I', b'I', 42, 0] => false,
            [b'M', b'M', 0, 42] => true,
            _ => return None,
        };
        let mut directory = Directory {
            bytes,
            big_endian,
            start: 0,
            count: 0,
        };
        let offset = directory.u32(4)? as usize;
        directory.count = usize::from(directory.u16(offset)?);
        directory.start = offset + 2;
        Some(directory)
    }

    /// Where the value of a tag that holds a single whole number stands, and its size in bytes.
    pub(super) fn position(&self, tag: u16) -> Option<(usize, usize)> {
        let entries = (0..self.count).map(|i| self.start + i * 12);
        let entry = entries
            .take_while(|entry| entry + 12 <= self.bytes.len())
            .find(|&entry| self.u16(entry) == Some(tag))?;
        let size = match (self.u16(entry + 2)?, self.u32(entry + 4)?) {
            (1, 1) => 1,
            (3, 1) => 2,
            (4, 1) => 4,
            _ => return None,
        };
        Some((entry + 8, size))
    }

    /// The value of a tag that holds a single whole number.
    fn number(&self, tag: u16) -> Option<u32> {
        match self.position(tag)? {
            (at, 1) => self.bytes.get(at).map(|&b| u32::from(b)),
            (at, 2) => self.u16(at).map(u32::from),
            (at, _) => self.u32(at),
        }
    }

    /// Whether numbers begin with their high byte.
    pub(super) fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian {
            u16::from_be_bytes(*bytes)
        } else {
            u16::from_le_bytes(*bytes)
        })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian {
            u32::from_be_bytes(*bytes)
        } else {
            u32::from_le_bytes(*bytes)
        })
    }
}

/// Whether width and height change places.
pub(super) fn lies(orientation: u32) -> bool {
    (5..=8).contains(&orientation)
}

/// Turns and mirrors an image as its orientation asks, so that it stands upright.
pub(super) fn apply(image: Rgb8, orientation: u32) -> Rgb8 {
    let (w, h) = (image.width as isize, image.height as isize);
    // In pixels of the source: where the upright image begins, and what a step right and a step down is there.
    let (start, right, down) = match orientation {
        2 => (w - 1, -1, w),
        3 => (w * h - 1, -1, -w),
        4 => (w * (h - 1), 1, -w),
        5 => (0, w, 1),
        6 => (w * (h - 1), -w, 1),
        7 => (w * h - 1, -w, -1),
        8 => (w - 1, w, -1),
        _ => return image,
    };
    let (width, height) = if lies(orientation) {
        (image.height, image.width)
    } else {
        (image.width, image.height)
    };
    let (source, _) = image.pixels.as_chunks::<3>();
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..height as isize {
        let row = start + y * down;
        for x in 0..width as isize {
            pixels.extend_from_slice(&source[(row + x * right) as usize]);
        }
    }
    Rgb8 {
        width,
        height,
        pixels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 x 2 pixels, numbered.
    fn numbered() -> Rgb8 {
        Rgb8 {
            width: 3,
            height: 2,
            pixels: (0..6).flat_map(|i| [i; 3]).collect(),
        }
    }

    #[test]
    fn each_orientation_turns_as_exif_says() {
        let expected: [(u32, [u8; 6]); 9] = [
            (1, [0, 1, 2, 3, 4, 5]),
            (2, [2, 1, 0, 5, 4, 3]),
            (3, [5, 4, 3, 2, 1, 0]),
            (4, [3, 4, 5, 0, 1, 2]),
            (5, [0, 3, 1, 4, 2, 5]),
            (6, [3, 0, 4, 1, 5, 2]),
            (7, [5, 2, 4, 1, 3, 0]),
            (8, [2, 5, 1, 4, 0, 3]),
            (9, [0, 1, 2, 3, 4, 5]),
        ];
        for (orientation, order) in expected {
            let upright = apply(numbered(), orientation);
            let size = if (5..9).contains(&orientation) {
                (2, 3)
            } else {
                (3, 2)
            };
            assert_eq!((upright.width, upright.height), size, "{orientation}");
            let got: Vec<u8> = upright.pixels.chunks(3).map(|p| p[0]).collect();
            assert_eq!(got, order, "orientation {orientation}");
        }
    }

    #[test]
    fn exif_goes_before_xmp_and_damage_is_ignored() {
        let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0";
        let attribute = b"<x tiff:Orientation=\"3\"/>";
        let element = b"tiff:Orientation tiff:Orientation>8<";
        assert_eq!(from_metadata(Some(exif), Some(attribute)), 6);
        assert_eq!(from_metadata(Some(&exif[..20]), Some(attribute)), 3);
        assert_eq!(from_metadata(None, Some(element)), 8);
        assert_eq!(from_metadata(None, None), 1);
    }
}

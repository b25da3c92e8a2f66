//! JPEG at a fraction of its size: the inverse transform over the lowest 4 x 4, 2 x 2 or 1 x 1 frequencies of each block, by
//! `jpeg-decoder`.
//!
//! The Huffman codes are read all the same, so what is saved is the transform, the colours, and the resize of many pixels.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jpeg_decoder::{Decoder, PixelFormat};

use super::jpeg::{MAX_SCANS, Markers};
use super::samples::grey_to_rgb;
use crate::sample::Rgb8;

/// The largest divisor that leaves the shorter edge `edge` pixels: 8, 4 or 2; none where there is none, or for a kind of image that
/// is decoded whole.
///
/// A last row or column that stands for less than `divisor` of the whole ones has to stay the last, as
/// [`crate::resize::Fit::square_of_reduced`] takes it; an orientation that puts it first wants edges that divide.
pub(super) fn fraction(markers: &Markers, orientation: u32, edge: u32) -> Option<u16> {
    // Inks go through Pillow's own conversion, more than 8 bits and endless scans through the whole decoder's refusal.
    if !matches!(markers.components, 1 | 3) || markers.precision != 8 || markers.scans > MAX_SCANS {
        return None;
    }
    let shorter = u32::from(markers.width.min(markers.height));
    let turned = matches!(orientation, 2..=4 | 6..=8);
    let fits = |divisor: &u16| {
        let divides = [markers.width, markers.height]
            .iter()
            .all(|edge| edge.is_multiple_of(*divisor));
        shorter / u32::from(*divisor) >= edge.max(1) && (divides || !turned)
    };
    [8, 4, 2].into_iter().find(fits)
}

/// The image at a fraction of its size, each edge rounded up; none where the decoder refuses the file.
pub(super) fn decode(bytes: &[u8], markers: &Markers, divisor: u16) -> Option<Rgb8> {
    let width = markers.width.div_ceil(divisor);
    let height = markers.height.div_ceil(divisor);
    // A file that this decoder trips over may still be one for the other.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let mut decoder = Decoder::new(bytes);
        if decoder.scale(width, height).ok()? != (width, height) {
            return None;
        }
        let samples = decoder.decode().ok()?;
        match decoder.info()?.pixel_format {
            PixelFormat::RGB24 => Some(samples),
            PixelFormat::L8 => Some(grey_to_rgb(&samples)),
            _ => None,
        }
    }));
    let pixels = decoded.ok()??;
    let expected = usize::from(width) * usize::from(height) * 3;
    (pixels.len() == expected).then_some(Rgb8 {
        width: u32::from(width),
        height: u32::from(height),
        pixels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers(width: u16, height: u16) -> Markers<'static> {
        Markers {
            width,
            height,
            components: 3,
            precision: 8,
            scans: 1,
            ..Markers::default()
        }
    }

    #[test]
    fn the_largest_fraction_that_leaves_the_edge_is_taken() {
        for (short, edge, divisor) in [
            (3000, 448, Some(4)),
            (3584, 448, Some(8)),
            (3583, 448, Some(4)),
            (896, 448, Some(2)),
            (895, 448, None),
            (8, 0, Some(8)),
            (1, 1, None),
        ] {
            assert_eq!(fraction(&markers(4000, short), 1, edge), divisor, "{short}");
            assert_eq!(fraction(&markers(short, 4000), 1, edge), divisor, "{short}");
        }
    }

    #[test]
    fn a_turned_image_wants_edges_that_divide() {
        for (orientation, divisor) in [
            (1, 8),
            (5, 8),
            (2, 4),
            (3, 4),
            (4, 4),
            (6, 4),
            (7, 4),
            (8, 4),
        ] {
            let markers = markers(4000, 3004);
            assert_eq!(
                fraction(&markers, orientation, 224),
                Some(divisor),
                "{orientation}"
            );
        }
        assert_eq!(fraction(&markers(4001, 3004), 6, 224), None);
    }

    #[test]
    fn inks_and_other_precisions_and_endless_scans_are_decoded_whole() {
        for other in [
            Markers {
                components: 4,
                ..markers(4000, 3000)
            },
            Markers {
                precision: 12,
                ..markers(4000, 3000)
            },
            Markers {
                scans: MAX_SCANS + 1,
                ..markers(4000, 3000)
            },
        ] {
            assert_eq!(fraction(&other, 1, 224), None);
        }
    }
}

//! From samples in a file's own colour mode to RGB, by Pillow's integer rules.

/// A palette of 256 colours: those of the file, then the grey ramp that Pillow starts from.
pub(super) struct Palette([[u8; 3]; 256]);

impl Palette {
    pub(super) fn new(colours: impl IntoIterator<Item = [u8; 3]>) -> Palette {
        let mut palette = std::array::from_fn(|i| [i as u8; 3]);
        for (entry, colour) in palette.iter_mut().zip(colours) {
            *entry = colour;
        }
        Palette(palette)
    }

    pub(super) fn rgb(&self, indices: &[u8]) -> Vec<u8> {
        let colours = indices.iter().map(|&i| self.0[usize::from(i)]);
        colours.flatten().collect()
    }
}

/// Grey of 8 bits.
pub(super) fn grey_to_rgb(samples: &[u8]) -> Vec<u8> {
    samples.iter().flat_map(|&v| [v; 3]).collect()
}

/// The first three of `channels` 8-bit channels.
pub(super) fn first_three(samples: &[u8], channels: usize) -> Vec<u8> {
    let pixels = samples.chunks_exact(channels);
    pixels
        .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
        .collect()
}

/// `a * b / 255`, rounded.
fn multiply(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// CMYK, 0 for no ink: each colour takes its share from what black leaves.
pub(super) fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - k;
    [c, m, y].map(|ink| white.saturating_sub(multiply(ink, white)))
}

/// JFIF's YCbCr in 16 fractional bits, as libjpeg rounds it.
pub(super) fn ycc_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    // 1.402, 0.344136, 0.714136 and 1.772, times 65,536.
    let r = y + ((91_881 * cr + HALF) >> 16);
    let g = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let b = y + ((116_130 * cb + HALF) >> 16);
    [r, g, b].map(|v| v.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ink_is_white_and_black_is_black() {
        assert_eq!(cmyk_to_rgb([0; 4]), [255; 3]);
        assert_eq!(cmyk_to_rgb([0, 0, 0, 255]), [0; 3]);
        assert_eq!(cmyk_to_rgb([255, 0, 0, 0]), [0, 255, 255]);
    }

    #[test]
    fn colours_past_the_palette_are_grey() {
        let palette = Palette::new([[9, 8, 7]]);
        assert_eq!(palette.rgb(&[0, 1, 255]), [9, 8, 7, 1, 1, 1, 255, 255, 255]);
    }

    #[test]
    fn neutral_chroma_is_grey() {
        for y in 0..=255 {
            assert_eq!(ycc_to_rgb([y, 128, 128]), [y; 3]);
        }
    }
}

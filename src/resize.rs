//! Bicubic resize to a square, by the shortest edge with a centre crop or by squashing, equal to Pillow's bytes, at the cost of what
//! the square shows.
//!
//! Vision towers are trained on what Pillow makes: bicubic (a = -0.5) whose support grows with the downscale factor, fixed-point
//! weights with 22 fractional bits, and 8-bit values between the horizontal and the vertical pass. Each of these moves the
//! embedding, so this module follows the algorithm to the last bit instead of approximating it.
//!
//! Only what a crop shows is computed: the horizontal pass makes the crop's columns, of those source rows that the crop's
//! rows draw on. An image of 1 x 60,000 pixels, which Pillow would first resize to 224 x 13,440,000, costs no more than any other.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod passes;
mod weights;

use std::cell::Cell;
use std::ops::Range;

use self::passes::{Tile, resize_height, resize_width};
use self::weights::Weights;
use crate::sample::Rgb8;

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// How an image of any shape becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The shorter edge to `shortest_edge` pixels, then `crop x crop` from the middle: the picture keeps its proportions, and what
    /// lies outside the middle is not seen.
    Crop {
        /// The shorter edge after the resize.
        shortest_edge: u32,
        /// Edge of the square.
        crop: u32,
    },
    /// The whole image to `edge x edge`: everything is seen, in other proportions.
    Squash {
        /// Edge of the square.
        edge: u32,
    },
}

/// Resizes so that the shorter edge has `shortest_edge` pixels, then cuts `crop x crop` pixels from the centre: [`Fit::Crop`].
///
/// # Panics
/// As [`Fit::square`].
pub fn resize_and_crop(image: &Rgb8, shortest_edge: u32, crop: u32) -> Vec<u8> {
    let fit = Fit::Crop {
        shortest_edge,
        crop,
    };
    fit.square(image)
}

impl Fit {
    /// Edge of the square, in pixels.
    pub fn edge(self) -> u32 {
        match self {
            Fit::Crop { crop, .. } => crop,
            Fit::Squash { edge } => edge,
        }
    }

    /// The pixels that the shorter edge of the image is reduced to.
    pub fn shortest_edge(self) -> u32 {
        match self {
            Fit::Crop { shortest_edge, .. } => shortest_edge,
            Fit::Squash { edge } => edge,
        }
    }

    /// The square of an image: `edge * edge * 3` bytes, row by row, RGB.
    ///
    /// Equals, byte for byte, Pillow 13's `resize(size, BICUBIC)` followed, for [`Fit::Crop`], by Hugging Face's `center_crop`:
    ///
    /// - the longer edge becomes `floor(shortest_edge * long / short)`,
    /// - the crop begins at `floor((n - crop) / 2)` in each direction (torchvision rounds half to even instead, one pixel apart
    ///   at some odd margins),
    /// - where the crop is larger than the resized image, the image lies in the centre of black; the odd row or column of the
    ///   margin comes before it.
    ///
    /// Memory: the source rows in use times `edge * 3` bytes, and one set of weights a direction.
    ///
    /// # Panics
    /// If the image has no pixels, if `pixels` does not hold `width * height * 3` bytes, or if an edge is 0.
    pub fn square(self, image: &Rgb8) -> Vec<u8> {
        self.square_of_reduced(image, (image.width, image.height))
    }

    /// [`Fit::square`] of an image of `whole` pixels a row and rows, of which `image` is a half, a quarter or an eighth, each edge
    /// rounded up, as [`crate::decode::decode_scaled`] leaves it: the square shows what that of the whole image would show, to
    /// the fraction of a pixel.
    ///
    /// # Panics
    /// As [`Fit::square`], and where `image` has more pixels than the whole.
    pub fn square_of_reduced(self, image: &Rgb8, whole: (u32, u32)) -> Vec<u8> {
        let (width, height) = (image.width as usize, image.height as usize);
        assert!(width > 0 && height > 0, "{image:?} has no pixels");
        assert_eq!(
            image.pixels.len(),
            width * height * CHANNELS,
            "{image:?} with a pixel buffer of another size"
        );
        assert!(
            whole.0 >= image.width && whole.1 >= image.height,
            "{image:?} of {whole:?} pixels"
        );
        assert!(
            self.shortest_edge() > 0 && self.edge() > 0,
            "cannot resize to {self:?}"
        );

        let crop = self.edge() as usize;
        let (resized_width, resized_height) = self.resized_size(whole);
        let columns = Window::centred(resized_width, crop);
        let rows = Window::centred(resized_height, crop);
        // The last block of a reduced image may lie partly outside the whole one.
        let length = |whole: u32, edge: u32| f64::from(whole) / f64::from(whole.div_ceil(edge));
        let (across, down) = (length(whole.0, image.width), length(whole.1, image.height));
        let horizontal = Weights::new(width, across, resized_width, columns.positions);
        let vertical = Weights::new(height, down, resized_height, rows.positions);

        let source = Tile {
            pixels: &image.pixels,
            width,
            left: 0,
            top: 0,
        };
        let mut resized = vec![0; vertical.len() * horizontal.len() * CHANNELS];
        if vertical_first((width, height), (resized_width, resized_height)) {
            let needed = horizontal.needed();
            let mut low = between(vertical.len() * needed.len() * CHANNELS);
            resize_height(source, needed.clone(), &vertical, &mut low);
            let tile = Tile {
                pixels: &low,
                width: needed.len(),
                left: needed.start,
                top: 0,
            };
            resize_width(tile, 0..vertical.len(), &horizontal, &mut resized);
            BETWEEN.set(low);
        } else {
            let needed = vertical.needed();
            let mut narrow = between(needed.len() * horizontal.len() * CHANNELS);
            resize_width(source, needed.clone(), &horizontal, &mut narrow);
            let tile = Tile {
                pixels: &narrow,
                width: horizontal.len(),
                left: 0,
                top: needed.start,
            };
            resize_height(tile, 0..horizontal.len(), &vertical, &mut resized);
            BETWEEN.set(narrow);
        }
        if columns.padding == 0 && rows.padding == 0 && resized.len() == crop * crop * CHANNELS {
            return resized;
        }

        let mut cropped = vec![0; crop * crop * CHANNELS];
        let shown = cropped.chunks_exact_mut(crop * CHANNELS).skip(rows.padding);
        let stride = horizontal.len() * CHANNELS;
        for (out, row) in shown.zip(resized.chunks_exact(stride)) {
            out[columns.padding * CHANNELS..][..stride].copy_from_slice(row);
        }
        cropped
    }

    /// Width and height of the resized image: by the shortest edge, the other one is truncated, as Hugging Face does.
    fn resized_size(self, (width, height): (u32, u32)) -> (u64, u64) {
        let (w, h) = (u64::from(width), u64::from(height));
        match self {
            Fit::Squash { edge } => (edge.into(), edge.into()),
            Fit::Crop { shortest_edge, .. } => {
                let edge = u64::from(shortest_edge);
                if w <= h {
                    (edge, edge * h / w)
                } else {
                    (edge * w / h, edge)
                }
            }
        }
    }
}

thread_local! {
    /// The bytes between the two passes of a thread's last image: a fresh buffer of each image would be cleared, or even mapped, anew.
    static BETWEEN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Larger ones are given back to the system.
const LARGEST_KEPT: usize = 8 << 20;

/// A thread's buffer with `length` bytes of any content.
fn between(length: usize) -> Vec<u8> {
    let mut bytes = BETWEEN.take();
    if bytes.capacity() > LARGEST_KEPT {
        bytes = Vec::new();
    }
    bytes.resize(length, 0);
    bytes
}

/// Whether the height is resized before the width. It shows in the last bit, because the values between are rounded.
///
/// Pillow up to 12 always begins with the width; 13 begins with the height where that loses more than twice as many rows as
/// the width loses columns. (Found by trial: the boundary is exact over some thousand sizes.)
fn vertical_first(from: (usize, usize), to: (u64, u64)) -> bool {
    let lost = |from: usize, to: u64| from as i64 - to as i64;
    let (columns, rows) = (lost(from.0, to.0), lost(from.1, to.1));
    rows > 0 && rows > 2 * columns
}

/// What the crop shows of one direction of the resized image.
struct Window {
    /// The positions of the resized image that are shown.
    positions: Range<u64>,
    /// Black pixels before them.
    padding: usize,
}

impl Window {
    /// The middle `crop` of `length` positions, or all of them with black around.
    fn centred(length: u64, crop: usize) -> Window {
        let crop = crop as u64;
        if crop <= length {
            let start = (length - crop) / 2;
            Window {
                positions: start..start + crop,
                padding: 0,
            }
        } else {
            Window {
                positions: 0..length,
                padding: (crop - length).div_ceil(2) as usize,
            }
        }
    }
}

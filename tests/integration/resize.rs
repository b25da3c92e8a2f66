//! The resize against Hugging Face's processor on Pillow 13, against a plain full-size twin, and on extreme shapes.

use std::path::Path;

use clipsift::Rgb8;
use clipsift::resize::{Fit, resize_and_crop};
use proptest::prelude::*;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

fn image(width: u32, height: u32, value: impl Fn(u64, u64, u64) -> u8) -> Rgb8 {
    let (w, h) = (u64::from(width), u64::from(height));
    let mut pixels = Vec::with_capacity((w * h * 3) as usize);
    for y in 0..h {
        for x in 0..w {
            pixels.extend((0..3).map(|c| value(x, y, c)));
        }
    }
    Rgb8 {
        width,
        height,
        pixels,
    }
}

/// splitmix64 at position `i`, its high byte.
fn noise(seed: u64, i: u64) -> u8 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 56) as u8
}

/// The source of a golden case, as cases.json describes it.
fn pattern(name: &str, width: u32, height: u32, seed: u64) -> Rgb8 {
    let (w, h) = (u64::from(width), u64::from(height));
    let noise = |x, y, c| noise(seed, (y * w + x) * 3 + c);
    let gradient = |x, y, c| match c {
        0 => 255 * x / (w - 1).max(1),
        1 => 255 * y / (h - 1).max(1),
        _ => 255 * (x + y) / (w + h - 2).max(1),
    };
    match name {
        "noise" => image(width, height, noise),
        "gradient" => image(width, height, |x, y, c| gradient(x, y, c) as u8),
        "blend" => image(width, height, |x, y, c| {
            ((3 * gradient(x, y, c) + u64::from(noise(x, y, c))) / 4) as u8
        }),
        "checks" => image(width, height, |x, y, c| {
            if (x / 5 + y / 3 + c) % 2 == 1 { 255 } else { 0 }
        }),
        other => panic!("unknown pattern {other}"),
    }
}

#[test]
fn the_square_is_that_of_the_hugging_face_processor() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resize");
    let cases = std::fs::read(folder.join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_slice(&cases).unwrap();
    let expected = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_u64().unwrap();
        let name = case["name"].as_str().unwrap();
        let source = pattern(
            case["pattern"].as_str().unwrap(),
            number("w") as u32,
            number("h") as u32,
            number("seed"),
        );
        let size = number("size") as usize;
        let edge = size as u32;
        let got = match case.get("squashed") {
            Some(_) => Fit::Squash { edge }.square(&source),
            None => resize_and_crop(&source, edge, edge),
        };
        // The rows first: their difference says more than a hash.
        if let Ok(whole) = expected.tensor(name) {
            assert!(got == whole.data(), "{name}");
        }
        if let Ok(rows) = expected.tensor(&format!("{name}/rows")) {
            let stride = size * 3;
            let shown = [0, size / 2, size - 1];
            for (row, expected) in shown.iter().zip(rows.data().chunks(stride)) {
                assert_eq!(
                    &got[row * stride..][..stride],
                    expected,
                    "{name}, row {row}"
                );
            }
        }
        let hash: String = Sha256::digest(&got)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hash, case["sha256"].as_str().unwrap(), "{name}");
    }
}

/// Keys' kernel, a = -0.5.
fn keys(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// One direction of the whole image, the plain way: `get(position, lane)` of the source, lane-major result.
fn naive_pass(length: usize, to: usize, lanes: usize, get: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let scale = length as f64 / to as f64;
    let widen = scale.max(1.0);
    let mut out = vec![0; lanes * to];
    for position in 0..to {
        let centre = (position as f64 + 0.5) * scale;
        let first = (centre - 2.0 * widen + 0.5).max(0.0) as usize;
        let last = ((centre + 2.0 * widen + 0.5) as usize).min(length);
        let weights: Vec<f64> = (first..last)
            .map(|i| keys((i as f64 - centre + 0.5) / widen))
            .collect();
        let sum: f64 = weights.iter().sum();
        let fixed: Vec<i64> = weights
            .iter()
            .map(|w| (w / sum * f64::from(1 << 22)).round() as i64)
            .collect();
        for lane in 0..lanes {
            let taps = (first..last).zip(&fixed);
            let sum: i64 = taps.map(|(i, w)| i64::from(get(i, lane)) * w).sum();
            out[lane * to + position] = ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8;
        }
    }
    out
}

/// The whole resized image, then the crop.
fn naive(source: &Rgb8, edge: usize, crop: usize) -> Vec<u8> {
    let (w, h) = (source.width as usize, source.height as usize);
    let to = if w <= h {
        (edge, edge * h / w)
    } else {
        (edge * w / h, edge)
    };
    naive_to(source, to, crop)
}

/// Resized to so many columns and rows, then the crop.
fn naive_to(source: &Rgb8, (to_w, to_h): (usize, usize), crop: usize) -> Vec<u8> {
    let (w, h) = (source.width as usize, source.height as usize);
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    let height_first = lost(h, to_h) > 0 && lost(h, to_h) > 2 * lost(w, to_w);
    // Lanes of the horizontal pass are rows and channels, those of the vertical pass columns and channels.
    let at = |x: usize, y: usize, c: usize| source.pixels[(y * w + x) * 3 + c];
    let pixel: Box<dyn Fn(usize, usize, usize) -> u8> = if height_first {
        let low = naive_pass(h, to_h, w * 3, |y, lane| at(lane / 3, y, lane % 3));
        let done = naive_pass(w, to_w, to_h * 3, |x, lane| {
            low[(x * 3 + lane % 3) * to_h + lane / 3]
        });
        Box::new(move |x, y, c| done[(y * 3 + c) * to_w + x])
    } else {
        let narrow = naive_pass(w, to_w, h * 3, |x, lane| at(x, lane / 3, lane % 3));
        let done = naive_pass(h, to_h, to_w * 3, |y, lane| {
            narrow[(y * 3 + lane % 3) * to_w + lane / 3]
        });
        Box::new(move |x, y, c| done[(x * 3 + c) * to_h + y])
    };
    // floor((n - crop) / 2), which is below zero where the crop is larger.
    let start = |n: usize| (n as i64 - crop as i64).div_euclid(2);
    let mut out = Vec::new();
    for y in 0..crop {
        for x in 0..crop {
            let (x, y) = (x as i64 + start(to_w), y as i64 + start(to_h));
            let inside = (0..to_w as i64).contains(&x) && (0..to_h as i64).contains(&y);
            out.extend((0..3).map(|c| {
                if inside {
                    pixel(x as usize, y as usize, c)
                } else {
                    0
                }
            }));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_window_equals_the_whole_image_cropped(
        width in 1u32..70, height in 1u32..70, edge in 1u32..40, crop in 1u32..50, seed in any::<u64>(),
    ) {
        let source = pattern("noise", width, height, seed);
        let got = resize_and_crop(&source, edge, crop);
        prop_assert!(got == naive(&source, edge as usize, crop as usize));
    }

    #[test]
    fn a_squashed_image_is_the_whole_one_in_other_proportions(
        width in 1u32..90, height in 1u32..90, edge in 1u32..50, seed in any::<u64>(),
    ) {
        let source = pattern("noise", width, height, seed);
        let got = Fit::Squash { edge }.square(&source);
        let edge = edge as usize;
        prop_assert!(got == naive_to(&source, (edge, edge), edge));
    }

    #[test]
    fn a_constant_image_stays_constant(
        width in 1u32..200, height in 1u32..200, edge in 1u32..60, value in any::<[u8; 3]>(),
    ) {
        let source = image(width, height, |_, _, c| value[c as usize]);
        for got in [resize_and_crop(&source, edge, edge), Fit::Squash { edge }.square(&source)] {
            prop_assert!(got.chunks(3).all(|pixel| pixel == value));
        }
    }
}

#[test]
fn moderately_long_images_equal_the_whole_image_cropped() {
    for (width, height) in [(3, 900), (900, 3), (40, 1500), (1500, 40), (1, 300)] {
        let source = pattern("noise", width, height, 7);
        let got = resize_and_crop(&source, 32, 32);
        assert!(got == naive(&source, 32, 32), "{width} x {height}");
    }
}

#[test]
fn a_line_of_60000_pixels_costs_its_crop_alone() {
    // Resized, it would be 13,440,000 long; the crop shows one source pixel around the middle, made of six.
    const LENGTH: u32 = 60_000;
    const EDGE: u32 = 224;
    let value = |i: u64| noise(3, i);
    let tall = resize_and_crop(&image(1, LENGTH, |_, y, _| value(y)), EDGE, EDGE);
    let wide = resize_and_crop(&image(LENGTH, 1, |x, _, _| value(x)), EDGE, EDGE);

    let first = u64::from(LENGTH) * u64::from(EDGE) / 2 - u64::from(EDGE) / 2;
    for i in 0..EDGE as usize {
        let centre = ((first + i as u64) as f64 + 0.5) / f64::from(EDGE);
        let near = (centre as u64 - 3)..(centre as u64 + 4);
        let exact: f64 = near
            .map(|s| keys(s as f64 + 0.5 - centre) * f64::from(value(s)))
            .sum();
        let exact = exact.clamp(0.0, 255.0);
        for j in [0, 100, EDGE as usize - 1] {
            let row = tall[(i * EDGE as usize + j) * 3];
            let column = wide[(j * EDGE as usize + i) * 3];
            assert_eq!(row, column, "{i}");
            assert!(
                (f64::from(row) - exact).abs() <= 0.51,
                "{i}: {row}, {exact}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "has no pixels")]
fn an_image_without_pixels_is_a_mistake_of_the_caller() {
    let nothing = Rgb8 {
        width: 0,
        height: 4,
        pixels: Vec::new(),
    };
    resize_and_crop(&nothing, 224, 224);
}

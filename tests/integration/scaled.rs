//! JPEGs at a fraction of their size: what comes out, what it does to embeddings, and how a run keeps to it.

use std::path::Path;

use clipsift::Rgb8;
use clipsift::decode::{DecodeError, Limits, decode, decode_scaled};
use clipsift::ops::dot::cosine;
use clipsift::resize::Fit;
use clipsift::store::tables::Embeddings;
use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;

use crate::common::*;

/// Each pixel the mean of those of the whole image that it stands for.
fn averaged(image: &Rgb8, divisor: u32) -> Rgb8 {
    let (width, height) = (
        image.width.div_ceil(divisor),
        image.height.div_ceil(divisor),
    );
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let rows = y * divisor..((y + 1) * divisor).min(image.height);
                let values = rows.flat_map(|y| {
                    let columns = x * divisor..((x + 1) * divisor).min(image.width);
                    columns.map(move |x| image.pixels[((y * image.width + x) * 3 + c) as usize])
                });
                let (sum, count) = values.fold((0, 0), |(s, n), v| (s + u32::from(v), n + 1));
                pixels.push((sum / count) as u8);
            }
        }
    }
    Rgb8 {
        width,
        height,
        pixels,
    }
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.len() as f64
}

#[test]
fn a_reduced_jpeg_is_the_whole_one_averaged_and_upright() {
    let limits = Limits::default();
    let mut seen = 0;
    for entry in std::fs::read_dir(data("formats")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if !name.starts_with("jpeg-") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let whole = decode(&bytes, &limits).unwrap();
        let size = (whole.image.width, whole.image.height);
        // 27 x 19 pixels: an eighth has two whole ones in the shorter direction.
        let eighth = decode_scaled(&bytes, &limits, 2).unwrap();
        assert_eq!((eighth.width, eighth.height), size, "{name}");
        assert_eq!(decode_scaled(&bytes, &limits, 10).unwrap(), whole, "{name}");
        // Inks, and edges that do not divide where they are turned round.
        let turned = (2..9).filter(|i| *i != 5);
        let mut turned = turned.map(|i| format!("orientation{i}"));
        if name.contains("cmyk") || name.contains("ycck") || turned.any(|t| name.contains(&t)) {
            assert_eq!(eighth, whole, "{name}");
            continue;
        }
        let expected = averaged(&whole.image, 8);
        assert_eq!(
            (eighth.image.width, eighth.image.height),
            (expected.width, expected.height),
            "{name}"
        );
        // Chroma that is stored at half the size is reduced with the rest, so it is twice as coarse here.
        let coarse = ["420", "422", "progressive"]
            .iter()
            .any(|kind| name.contains(kind));
        let allowed = if coarse { 20.0 } else { 3.0 };
        let difference = mean_difference(&eighth.image.pixels, &expected.pixels);
        assert!(difference <= allowed, "{name}: {difference} on average");
        let cut = &bytes[..bytes.len() / 2];
        assert!(
            matches!(
                decode_scaled(cut, &limits, 2),
                Err(DecodeError::Truncated { .. })
            ),
            "{name}"
        );
        seen += 1;
    }
    assert!(seen > 8, "{seen} files");
}

#[test]
fn other_formats_are_decoded_whole() {
    for name in ["png-rgb8.png", "gif-static.gif", "tiff-jpeg.tif"] {
        let bytes = std::fs::read(data("formats").join(name)).unwrap();
        let limits = Limits::default();
        let whole = decode(&bytes, &limits).unwrap();
        assert_eq!(decode_scaled(&bytes, &limits, 1).unwrap(), whole, "{name}");
    }
}

/// A drawn photograph: waves, a disc and grain.
fn photograph(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = (state >> 28) as f32;
            let (u, v) = (x as f32 / height as f32, y as f32 / height as f32);
            let inside = (u - 0.6).powi(2) + (v - 0.4).powi(2) < 0.05;
            for scale in [5.0f32, 9.0, 14.0] {
                let turn = scale + seed as f32;
                let wave = (turn * u).sin() + (scale * v + turn).cos();
                let disc = if inside { 50.0 } else { 0.0 };
                pixels.push((90.0 + 40.0 * wave + disc + grain).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .write_image(&pixels, width, height, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

#[test]
fn the_square_shows_the_same_part_of_the_picture_whatever_the_size_of_the_last_blocks() {
    // At an eighth, the edges are a fraction of a pixel shorter than the pixels there are.
    for (width, height) in [(1200, 900), (1201, 901), (1207, 900), (900, 1203)] {
        let bytes = photograph(width, height, 3);
        let whole = decode(&bytes, &Limits::default()).unwrap();
        let reduced = decode_scaled(&bytes, &Limits::default(), 112).unwrap();
        assert_eq!(reduced.image.width, width.div_ceil(8));
        let cropped = Fit::Crop {
            shortest_edge: 56,
            crop: 56,
        };
        for fit in [cropped, Fit::Squash { edge: 56 }] {
            let expected = fit.square(&whole.image);
            let got = fit.square_of_reduced(&reduced.image, (width, height));
            let difference = mean_difference(&got, &expected);
            // .83 at each of these; 1.0 to 3.5 where the reduced image is taken as a whole one.
            assert!(
                difference < 0.9,
                "{fit:?}, {width} x {height}: {difference}"
            );
        }
    }
}

/// A JPEG with an orientation.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn a_reduced_jpeg_is_turned_like_the_whole_one() {
    let jpeg = photograph(320, 240, 5);
    for orientation in 1..=8 {
        let bytes = turned(&jpeg, orientation);
        let whole = decode(&bytes, &Limits::default()).unwrap();
        let reduced = decode_scaled(&bytes, &Limits::default(), 60).unwrap();
        let expected = averaged(&whole.image, 4);
        assert_eq!((reduced.width, reduced.height), (whole.width, whole.height));
        assert_eq!(whole.width, if orientation < 5 { 320 } else { 240 });
        assert_eq!(reduced.image.width, expected.width, "{orientation}");
        let difference = mean_difference(&reduced.image.pixels, &expected.pixels);
        assert!(difference < 4.0, "{orientation}: {difference}");
    }
}

fn embeddings(run: &Path) -> Embeddings {
    Embeddings::from_batch(&table(run.join("embeddings/part-00000.parquet"))).unwrap()
}

#[test]
fn scaled_decoding_moves_embeddings_little_and_is_part_of_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for (i, (width, height)) in [(1600, 1200), (1601, 1203), (1200, 1600), (150, 100)]
        .into_iter()
        .enumerate()
    {
        let bytes = photograph(width, height, i as u32 + 1);
        std::fs::write(photos.join(format!("{i}.jpg")), bytes).unwrap();
    }
    let (photos, at) = (photos.display(), dir.path().display());
    good(&format!("embed {photos} --out {at}/whole"));
    good(&format!("embed {photos} --out {at}/scaled --scaled-decode"));
    // The embedded tower takes signs, some of numbers near 0, which smaller changes turn than those of a tower without.
    let tiny = data("tiny-clip").display().to_string();
    good(&format!(
        "embed {photos} --out {at}/tiny-whole --model {tiny}"
    ));
    good(&format!(
        "embed {photos} --out {at}/tiny-scaled --model {tiny} --scaled-decode"
    ));
    for (prefix, least) in [("", 0.97), ("tiny-", 0.999)] {
        let run = |how: &str| embeddings(&dir.path().join(format!("{prefix}{how}")));
        let (whole, scaled) = (run("whole"), run("scaled"));
        let d = whole.dims;
        let rows = whole.rows.chunks(d).zip(scaled.rows.chunks(d));
        for (i, (a, b)) in rows.enumerate() {
            let cosine = cosine(a, b);
            assert!(cosine > least, "{prefix}{i}: {cosine}");
            assert_eq!(a == b, i == 3, "only the small picture is decoded whole");
        }
    }

    let (whole, scaled) = (dir.path().join("whole"), dir.path().join("scaled"));
    let samples = |run: &Path| table(run.join("samples/part-00000.parquet"));
    assert_eq!(
        samples(&whole),
        samples(&scaled),
        "sizes are those of the files"
    );

    let said = fails(
        2,
        &format!("embed {photos} --out {at}/whole --scaled-decode"),
    );
    assert!(
        said.contains("its scaled decoding is off, now it is on"),
        "{said}"
    );
    let said = fails(2, &format!("embed {photos} --out {at}/scaled"));
    assert!(
        said.contains("its scaled decoding is on, now it is off"),
        "{said}"
    );
    good(&format!("embed {photos} --out {at}/scaled --scaled-decode"));
}

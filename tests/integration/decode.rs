//! Decoding against what Pillow 13 makes of the same files, and against files that mean harm.

use std::path::{Path, PathBuf};

use clipsift::decode::{DecodeError, Format, Limits, decode};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(folder)
}

fn read(folder: &str, name: &str) -> Vec<u8> {
    std::fs::read(data(folder).join(name)).unwrap()
}

fn index(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(data(path)).unwrap()).unwrap()
}

/// Largest and mean difference.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    let each = || a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = each().map(u64::from).sum();
    (each().max().unwrap_or(0), sum as f64 / a.len() as f64)
}

#[test]
fn every_format_and_colour_mode_gives_the_pixels_of_pillow() {
    let expected = read("formats", "expected.safetensors");
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let index = index("formats/index.json");
    for (name, entry) in index["files"].as_object().unwrap() {
        let decoded = decode(&read("formats", name), &Limits::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decoded.format.as_str(), entry["format"], "{name}");

        let tensor = expected.tensor(name).unwrap();
        let image = &decoded.image;
        let shape = [image.height as usize, image.width as usize, 3];
        assert_eq!(shape, tensor.shape(), "{name}");
        let (largest, mean) = difference(&image.pixels, tensor.data());
        let is_jpeg = decoded.format == Format::Jpeg || name == "tiff-jpeg.tif";
        let (largest_allowed, mean_allowed) = if is_jpeg { (5, 0.5) } else { (0, 0.0) };
        assert!(
            largest <= largest_allowed && mean <= mean_allowed,
            "{name}: expected at most {largest_allowed} and {mean_allowed} on average, got {largest} and {mean}"
        );
    }
}

#[test]
fn hostile_files_are_refused_and_good_ones_are_not() {
    let manifest = index("hostile/manifest.json");
    for (name, entry) in manifest["images"].as_object().unwrap() {
        let decoded = decode(&read("hostile/images", name), &Limits::default());
        let got = if decoded.is_ok() { "good" } else { "bad" };
        assert_eq!(got, entry["expect"], "{name}: {decoded:?}");
    }
}

#[test]
fn a_file_cut_anywhere_in_its_second_half_is_not_a_picture() {
    let cuttable = [
        ("jpeg-420.jpg", 1),
        ("jpeg-progressive.jpg", 1),
        // The end chunk may be missing.
        ("png-rgb8.png", 13),
        // So may the trailer and the terminator before it, and the end-of-data code.
        ("gif-static.gif", 4),
        ("webp-lossless.webp", 1),
        ("webp-lossy.webp", 1),
        ("bmp-rgb24.bmp", 1),
    ];
    for (name, least) in cuttable {
        let bytes = read("formats", name);
        for length in bytes.len() / 2..=bytes.len() - least {
            let decoded = decode(&bytes[..length], &Limits::default());
            assert!(decoded.is_err(), "{name} cut to {length}: {decoded:?}");
        }
    }
    let png = read("formats", "png-rgb8.png");
    assert!(decode(&png[..png.len() - 12], &Limits::default()).is_ok());
}

#[test]
fn what_follows_the_end_is_ignored() {
    for name in [
        "jpeg-420.jpg",
        "png-rgb8.png",
        "gif-static.gif",
        "webp-lossy.webp",
    ] {
        let mut bytes = read("formats", name);
        let clean = decode(&bytes, &Limits::default()).unwrap();
        bytes.extend_from_slice(b"\xff\xd8\xff appended by a careless tool");
        assert_eq!(decode(&bytes, &Limits::default()), Ok(clean), "{name}");
    }
}

#[test]
fn limits_hold_for_every_format() {
    let files = [
        "jpeg-420.jpg",
        "png-rgb8.png",
        "gif-static.gif",
        "webp-lossy.webp",
        "bmp-rgb24.bmp",
        "tiff-rgb8.tif",
    ];
    for name in files {
        let bytes = read("formats", name);
        let image = decode(&bytes, &Limits::default()).unwrap().image;
        let pixels = u64::from(image.width) * u64::from(image.height);
        let with = |change: fn(&mut Limits, u64), value| {
            let mut limits = Limits::default();
            change(&mut limits, value);
            decode(&bytes, &limits)
        };
        let max_pixels = |limits: &mut Limits, value| limits.max_pixels = value;
        assert!(with(max_pixels, pixels).is_ok(), "{name}");
        let refused = with(max_pixels, pixels - 1).unwrap_err();
        assert!(
            matches!(refused, DecodeError::TooManyPixels { limit, .. } if limit == pixels - 1),
            "{name}: {refused}"
        );
        let max_file_bytes = |limits: &mut Limits, value| limits.max_file_bytes = value;
        assert!(with(max_file_bytes, bytes.len() as u64).is_ok(), "{name}");
        let refused = with(max_file_bytes, bytes.len() as u64 - 1).unwrap_err();
        assert!(
            matches!(refused, DecodeError::TooManyBytes { .. }),
            "{name}"
        );
        let refused = with(|limits, value| limits.max_memory = value, 100).unwrap_err();
        assert!(
            matches!(refused, DecodeError::TooMuchMemory { limit: 100, .. }),
            "{name}: {refused}"
        );
    }
}

#[test]
fn messages_say_what_a_person_wants_to_know() {
    let message = |bytes: &[u8]| decode(bytes, &Limits::default()).unwrap_err().to_string();
    assert_eq!(message(b""), "the file is empty");
    assert_eq!(
        message(b"<html><head>"),
        "not an image: it starts like text (`<html><head>`)"
    );
    assert_eq!(message(b"%PDF-1.7"), "not an image: it is a PDF");
    let jpeg = read("formats", "jpeg-444.jpg");
    assert_eq!(
        message(&jpeg[..jpeg.len() - 20]),
        "JPEG ends early: the file is truncated"
    );
    assert_eq!(
        message(&read("hostile/images", "huge-claim.png")),
        "claims 60000 x 60000 pixels, more than the limit of 178956970"
    );
}

/// Small, so that a mutated size costs a refusal and no time.
fn small_limits() -> Limits {
    Limits {
        max_pixels: 1 << 16,
        max_memory: 1 << 22,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn bytes_behind_a_good_start_never_panic(
        start in prop::sample::select(vec![
            &b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II\x2a\0\x08\0\0\0", b"MM\0\x2a\0\0\0\x08",
            b"RIFF\x40\0\0\0WEBPVP8L", b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0", b"",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = decode(&[start, &rest].concat(), &small_limits());
    }

    #[test]
    fn mutated_files_give_a_whole_image_or_an_error(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let index = index("formats/index.json");
        let names: Vec<&String> = index["files"].as_object().unwrap().keys().collect();
        let mut bytes = read("formats", names[pick.index(names.len())]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(decoded) = decode(&bytes, &small_limits()) {
            let image = decoded.image;
            prop_assert!(image.width > 0 && image.height > 0);
            let size = image.width as usize * image.height as usize;
            prop_assert!(size <= 1 << 16);
            prop_assert_eq!(image.pixels.len(), size * 3);
        }
    }
}

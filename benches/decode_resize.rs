//! One JPEG to the square of a tower: decoding, the resize, and both, on one thread.
//!
//! The picture is drawn here (500 x 375, 4:4:4, some 50 KB); for photographs of your own name a folder of JPEGs in
//! `CLIPSIFT_BENCH_JPEGS` (`scripts/make_jpegs.py` makes one with 4:2:0 chroma, as most photographs have it).
#![allow(missing_docs)]

use clipsift::decode::{Limits, decode};
use clipsift::resize::resize_and_crop;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::ExtendedColorType::Rgb8;
use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;

const EDGE: u32 = 224;

/// Smooth waves with a little grain.
fn drawn() -> Vec<u8> {
    let (width, height) = (500u32, 375u32);
    let mut state = 1u32;
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = (state >> 24) as f32 / 9.0;
            for scale in [0.011f32, 0.023, 0.017] {
                let wave = (x as f32 * scale).sin() + (y as f32 * scale * 1.3).cos();
                pixels.push((100.0 + 50.0 * wave + grain).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 85)
        .write_image(&pixels, width, height, Rgb8)
        .unwrap();
    bytes
}

fn jpegs() -> Vec<Vec<u8>> {
    let Some(folder) = std::env::var_os("CLIPSIFT_BENCH_JPEGS") else {
        return vec![drawn()];
    };
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn input(c: &mut Criterion) {
    let jpegs = jpegs();
    let limits = Limits::default();
    let decoded = |bytes: &[u8]| decode(bytes, &limits).unwrap().image;
    let images: Vec<_> = jpegs.iter().map(|bytes| decoded(bytes)).collect();

    let mut group = c.benchmark_group("decode_resize");
    group.throughput(Throughput::Elements(jpegs.len() as u64));
    group.bench_function("decode", |b| {
        b.iter(|| jpegs.iter().map(|bytes| decoded(bytes).width).sum::<u32>())
    });
    group.bench_function("resize", |b| {
        b.iter(|| {
            let squares = images
                .iter()
                .map(|image| resize_and_crop(image, EDGE, EDGE));
            squares.map(|square| usize::from(square[0])).sum::<usize>()
        })
    });
    group.bench_function("both", |b| {
        b.iter(|| {
            let squares = jpegs
                .iter()
                .map(|bytes| resize_and_crop(&decoded(bytes), EDGE, EDGE));
            squares.map(|square| usize::from(square[0])).sum::<usize>()
        })
    });
}

criterion_group!(benches, input);
criterion_main!(benches);

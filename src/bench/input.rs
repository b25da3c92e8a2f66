//! From bytes to squares of pixels, and from decisions to shards.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bench, Stage, params, pictures};
use crate::clip::config::Preprocess;
use crate::decode::{Limits, decode};
use crate::error::{Error, Result};
use crate::read::{Inputs, Options};
use crate::sample::{Rgb8, Sample};
use crate::write::{self, Kept, Layout, Writer};

/// read, decode, resize.
pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    if !["read", "decode", "resize"]
        .iter()
        .any(|stage| bench.wants(stage))
    {
        return Ok(());
    }
    let jpegs = pictures::jpegs(bench.request.pictures)?;
    if bench.wants("read") {
        read(bench, &jpegs)?;
    }
    let images: Vec<Rgb8> = jpegs
        .par_iter()
        .map(|jpeg| decoded(jpeg))
        .collect::<Result<_>>()?;
    if bench.wants("decode") {
        per_image(bench, "decode", &jpegs, |jpeg| decoded(jpeg).map(drop))?;
    }
    if bench.wants("resize") {
        let fit = Preprocess::openai(224).fit;
        per_image(bench, "resize", &images, |image| {
            std::hint::black_box(fit.square(image));
            Ok(())
        })?;
    }
    Ok(())
}

fn decoded(jpeg: &[u8]) -> Result<Rgb8> {
    let decoded = decode(jpeg, &Limits::default());
    Ok(decoded
        .map_err(|e| Error::input("a picture of the bench", e.to_string()))?
        .image)
}

/// On one thread, and on all.
fn per_image<T: Sync>(
    bench: &mut Bench,
    name: &'static str,
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let all = bench.machine.cores;
    let one = bench.time(|| items.iter().try_for_each(&work))?;
    push(bench, name, items.len(), one, &[("threads", json!(1))]);
    if all > 1 {
        let many = bench.time(|| items.par_iter().try_for_each(&work))?;
        push(bench, name, items.len(), many, &[("threads", json!(all))]);
    }
    Ok(())
}

fn push(
    bench: &mut Bench,
    name: &'static str,
    images: usize,
    (seconds, peak_bytes): (f64, Option<u64>),
    more: &[(&str, Value)],
) {
    let rate = images as f64 / seconds;
    let megapixels = (pictures::WIDTH * pictures::HEIGHT) as f64 / 1e6;
    let mut params = params(more);
    params.insert(
        "image".into(),
        json!(format!("{}x{} JPEG", pictures::WIDTH, pictures::HEIGHT)),
    );
    params.insert(
        "megapixels_per_second".into(),
        json!((rate * megapixels * 10.0).round() / 10.0),
    );
    (bench.take)(Stage {
        name,
        value: rate,
        unit: "images/s",
        higher_is_better: true,
        params,
        fraction_of_peak: None,
        peak_bytes,
    });
}

fn read(bench: &mut Bench, jpegs: &[Vec<u8>]) -> Result<()> {
    let dir = scratch()?;
    let path = shard(dir.path(), jpegs)?;
    let inputs = [path.display().to_string()];
    let timed = bench.time(|| {
        for sample in Inputs::open(&inputs, &Options::default())?.samples() {
            let bytes = sample
                .read(u64::MAX)
                .map_err(|e| Error::input(&sample.id, e))?;
            std::hint::black_box(bytes);
        }
        Ok(())
    })?;
    push(
        bench,
        "read",
        jpegs.len(),
        timed,
        &[("from", json!("tar in the page cache"))],
    );
    Ok(())
}

fn scratch() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))
}

/// The pictures as a WebDataset shard.
fn shard(dir: &Path, jpegs: &[Vec<u8>]) -> Result<PathBuf> {
    let path = dir.join("bench.tar");
    let file = std::fs::File::create(&path).map_err(Error::io("create", &path))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    for (i, jpeg) in jpegs.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_size(jpeg.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{i:06}.jpg"), jpeg.as_slice())
            .map_err(Error::io("write", &path))?;
    }
    let done = tar
        .into_inner()
        .and_then(|mut file| std::io::Write::flush(&mut file));
    done.map_err(Error::io("write", &path))?;
    Ok(path)
}

/// write: all pictures of a shard into a new shard, with their checksums checked.
pub(super) fn measure_write(bench: &mut Bench) -> Result<()> {
    if !bench.wants("write") {
        return Ok(());
    }
    let jpegs = pictures::jpegs(bench.request.pictures)?;
    let hashes: Vec<[u8; 32]> = jpegs
        .iter()
        .map(|jpeg| Sha256::digest(jpeg).into())
        .collect();
    let dir = scratch()?;
    let path = shard(dir.path(), &jpegs)?;
    let inputs = Inputs::open(&[path.display().to_string()], &Options::default())?;
    let samples: Vec<Sample> = inputs.samples().collect();
    let mut round = 0;
    let timed = bench.time(|| {
        round += 1;
        let to = dir.path().join(format!("out-{round}"));
        let mut writer = Writer::create(&to, Layout::Tar, write::Options::default())?;
        for (sample, sha256) in samples.iter().zip(&hashes) {
            writer.push(Kept {
                sample,
                sha256: *sha256,
                width: pictures::WIDTH as u32,
                height: pictures::HEIGHT as u32,
                format: "jpeg",
                scores: &[],
            })?;
        }
        writer.finish()?;
        std::fs::remove_dir_all(&to).map_err(Error::io("remove", &to))
    })?;
    push(
        bench,
        "write",
        jpegs.len(),
        timed,
        &[("layout", json!("tar"))],
    );
    Ok(())
}

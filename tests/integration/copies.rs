//! Byte-identical files: found by their sha256 whatever their embeddings, and said so.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::DType;
use clipsift::dedup::decide::Removal;
use clipsift::pipeline::{Clusters, Summary};
use clipsift::{Dedup, Embedded, Embedder, Exact, Pipeline, Result, Rgb8, Semantic};
use tempfile::TempDir;

use crate::common::{data, decisions, good, table, texts};
use crate::embeddings::write_npy;

/// Every picture it is shown is a little different from the one before, whatever is in it: 16 values, turned by a step each time.
struct Turning {
    step: f32,
    shown: AtomicU32,
}

impl Turning {
    fn by(step: f32) -> Turning {
        Turning {
            step,
            shown: AtomicU32::new(0),
        }
    }
}

impl Embedder for Turning {
    fn name(&self) -> &str {
        "turning"
    }

    fn fingerprint(&self) -> String {
        "turning 1".into()
    }

    fn dims(&self) -> usize {
        3
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn batch_size(&self) -> usize {
        2
    }

    fn default_eps(&self) -> f64 {
        0.001
    }

    /// The red of the first pixel.
    fn prepare(&self, image: &Rgb8) -> Vec<u8> {
        vec![image.pixels[0]]
    }

    fn embed(&self, prepared: &[u8]) -> Result<Embedded> {
        let row = |red: &u8| {
            let n = self.shown.fetch_add(1, Ordering::SeqCst);
            let angle = f32::from(*red) / 100.0 + n as f32 * self.step;
            [angle.cos(), angle.sin(), 0.0]
        };
        Ok(Embedded {
            rows: prepared.iter().flat_map(row).collect(),
            good: vec![true; prepared.len()],
        })
    }
}

/// Files of one red each: a and its copies b and e, c alone, d of other bytes but with the red of a, and two that are no images.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    for (name, size, red) in [
        ("a", 8, 10),
        ("b", 8, 10),
        ("c", 8, 200),
        ("d", 9, 10),
        ("e", 8, 10),
    ] {
        let mut bytes = Cursor::new(Vec::new());
        image::RgbImage::from_pixel(size, 8, image::Rgb([red, 0, 0]))
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        std::fs::write(photos.join(format!("{name}.png")), bytes.into_inner()).unwrap();
    }
    for name in ["x.png", "y.png"] {
        std::fs::write(photos.join(name), b"no image at all").unwrap();
    }
    (dir, photos)
}

fn run(photos: &Path, out: &Path, embedder: Turning, dedup: Dedup) -> Summary {
    let pipeline = Pipeline::over([photos.display().to_string()]).unwrap();
    pipeline
        .embed(embedder)
        .dedup(dedup)
        .report()
        .run(out)
        .unwrap()
}

/// (id, kept_id, match) of what was removed, by the names of the files.
fn removed(out: &Path) -> Vec<(String, String, String)> {
    let table = table(out.join("duplicates/removed.parquet"));
    let name = |id: &String| {
        Path::new(id)
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    let rows = texts(&table, "id")
        .into_iter()
        .zip(texts(&table, "kept_id"))
        .zip(texts(&table, "match"));
    rows.map(|((id, kept), word)| (name(&id), name(&kept), word))
        .collect()
}

fn row(id: &str, kept: &str, word: &str) -> (String, String, String) {
    (id.into(), kept.into(), word.into())
}

#[test]
fn copies_fall_at_any_eps_and_in_any_cluster_whatever_their_embeddings() {
    let (dir, photos) = folder();
    let clusters = |k| Clusters {
        clusters: Some(k),
        ..Clusters::default()
    };
    for (at, (step, dedup)) in [
        // Their embeddings differ a little.
        (1e-3, Exact::within(0.0)),
        (1e-3, Semantic::within(0.0).clusters(clusters(2))),
        // And so much that clusters part them.
        (1.0, Exact::within(0.0)),
        (1.0, Semantic::within(0.0).clusters(clusters(5))),
        (
            1.0,
            Semantic::within(0.0)
                .clusters(clusters(5))
                .removal(Removal::Chain),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("run-{at}"));
        let keep = "first".parse().unwrap();
        let summary = run(&photos, &out, Turning::by(step), dedup.clone().keep(keep));
        assert_eq!(
            removed(&out),
            [row("b", "a", "bytes"), row("e", "a", "bytes")],
            "{dedup:?}"
        );
        assert_eq!((summary.duplicates, summary.copies, summary.bad), (2, 2, 2));
        // Files that cannot be decoded are bad, and no copies.
        let bad = decisions(&out)
            .into_values()
            .filter(|(reason, _)| reason == "corrupt");
        assert_eq!(bad.count(), 2);
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains("2 duplicates byte-identical to what they fell to"));
        let pairs = table(out.join("duplicates/pairs-00000.parquet"));
        let named: Vec<_> = texts(&pairs, "a")
            .into_iter()
            .zip(texts(&pairs, "b"))
            .collect();
        let mut once = named.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), named.len(), "each pair stands once");
    }
}

#[test]
fn a_copy_and_a_likeness_are_told_apart() {
    let (dir, photos) = folder();
    let out = dir.path().join("run");
    // The same embedding for all of one red: d falls too, but its bytes are others.
    let keep = "first".parse().unwrap();
    let summary = run(
        &photos,
        &out,
        Turning::by(0.0),
        Exact::within(0.0).keep(keep),
    );
    let expected = [
        row("b", "a", "bytes"),
        row("d", "a", "embedding"),
        row("e", "a", "bytes"),
    ];
    assert_eq!(removed(&out), expected);
    assert_eq!((summary.duplicates, summary.copies), (3, 2));
    // The largest is kept: all of a's copies fall to d, by their embedding.
    let out = dir.path().join("largest");
    let summary = run(&photos, &out, Turning::by(0.0), Exact::within(0.0));
    let expected = ["a", "b", "e"].map(|id| row(id, "d", "embedding"));
    assert_eq!(removed(&out), expected);
    assert_eq!((summary.duplicates, summary.copies), (3, 0));
}

#[test]
fn the_command_counts_copies_and_off_means_off() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    let from = data("gallery/landscapes/desert-dunes.jpg");
    for name in ["one.jpg", "two.jpg"] {
        std::fs::copy(&from, photos.join(name)).unwrap();
    }
    std::fs::copy(
        data("gallery/landscapes/city-dusk.jpg"),
        photos.join("city.jpg"),
    )
    .unwrap();
    let out = dir.path().join("run");
    let (photos, out) = (photos.display(), out.display());
    let count = |stdout: &str, name: &str| {
        let line = stdout.lines().find(|line| line.trim().starts_with(name));
        line.map(|line| line.split_whitespace().last().unwrap().to_string())
    };
    let stdout = good(&format!(
        "curate {photos} --out {out} --dedup semantic --clusters 3 --batch-size 1"
    ));
    assert_eq!(
        count(&stdout, "byte-identical").as_deref(),
        Some("1"),
        "{stdout}"
    );
    let stdout = good(&format!("dedup {out} --dedup off"));
    assert_eq!(count(&stdout, "duplicates").as_deref(), Some("0"));
    assert_eq!(count(&stdout, "byte-identical"), None);
    assert_eq!(count(&stdout, "kept").as_deref(), Some("3"));
}

#[test]
fn rows_of_others_have_no_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, out) = (dir.path().join("rows.npy"), dir.path().join("run"));
    write_npy(
        &rows.display().to_string(),
        &[3, 2],
        &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    );
    let stdout = good(&format!("dedup {} --out {}", rows.display(), out.display()));
    assert!(!stdout.contains("byte-identical"), "{stdout}");
    let removed = table(out.join("duplicates/removed.parquet"));
    assert_eq!(texts(&removed, "match"), ["embedding"]);
}

#[test]
fn copies_of_an_earlier_set_are_found_by_their_bytes_too() {
    let (dir, photos) = folder();
    let earlier = dir.path().join("earlier");
    run(&photos, &earlier, Turning::by(0.0), Exact::within(0.0));
    let more = dir.path().join("more");
    std::fs::create_dir(&more).unwrap();
    for (from, to) in [
        ("d", "again"),
        ("d", "once-more"),
        ("a", "fell-before"),
        ("c", "c"),
    ] {
        std::fs::copy(
            photos.join(format!("{from}.png")),
            more.join(format!("{to}.png")),
        )
        .unwrap();
    }
    for (at, dedup) in [
        Exact::within(0.0),
        Semantic::within(0.0).clusters(Clusters {
            clusters: Some(4),
            ..Clusters::default()
        }),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("run-{at}"));
        // Nothing is near anything by its embedding.
        let summary = run(&more, &out, Turning::by(1.3), dedup.against(&earlier));
        // a is not in the earlier set: d was kept for it.
        let expected = [
            row("again", "d", "bytes"),
            row("c", "c", "bytes"),
            row("once-more", "d", "bytes"),
        ];
        assert_eq!(removed(&out), expected);
        assert_eq!((summary.copies, summary.earlier, summary.kept), (3, 3, 1));
    }
}

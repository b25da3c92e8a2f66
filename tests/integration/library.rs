//! The library put together from Rust: readers, embedders, scorers and tests of one's own, and stages one by one.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::DType;
use clipsift::dedup::decide::{Keep, Removal};
use clipsift::ops::dot::cosine;
use clipsift::pipeline::{Candidate, Clusters, Context, Dedup, Event, Mode, Shards, Stage};
use clipsift::read::Reader;
use clipsift::store::findings;
use clipsift::store::run_file::{Bound, Threshold};
use clipsift::{
    Blob, Embedded, Embedder, Error, Pipeline, Reason, Result, Rgb8, Run, Sample, Scorer, Sidecar,
};
use proptest::prelude::*;

use crate::common::{data, table, texts, tree};

/// A reader over samples in memory.
struct Memory {
    name: &'static str,
    samples: Vec<Sample>,
}

impl Reader for Memory {
    fn name(&self) -> &str {
        self.name
    }

    fn samples(&self) -> Box<dyn Iterator<Item = Sample> + Send + '_> {
        Box::new(self.samples.iter().cloned())
    }
}

/// A PNG of one colour, with a caption.
fn picture(id: &str, width: u32, height: u32, colour: [u8; 3]) -> Sample {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_pixel(width, height, image::Rgb(colour))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    let bytes = bytes.into_inner();
    Sample {
        id: id.into(),
        key: id.into(),
        source: "memory".into(),
        member: format!("{id}.png"),
        offset: 0,
        length: bytes.len() as u64,
        image: Blob::Bytes(bytes.into()),
        sidecars: vec![Sidecar {
            suffix: "txt".into(),
            blob: Blob::Bytes(format!("about {id}").into_bytes().into()),
        }],
        problem: None,
    }
}

/// Embeds an image as its mean colour; black has no direction and is bad.
struct MeanColour;

impl Embedder for MeanColour {
    fn name(&self) -> &str {
        "mean-colour"
    }

    fn fingerprint(&self) -> String {
        "mean-colour 1".into()
    }

    fn dims(&self) -> usize {
        3
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn batch_size(&self) -> usize {
        4
    }

    fn default_eps(&self) -> f64 {
        0.001
    }

    fn prepare(&self, image: &Rgb8) -> Vec<u8> {
        let n = (image.width * image.height) as f32;
        let mean = |c: usize| {
            let channel = image.pixels.iter().skip(c).step_by(3);
            channel.map(|v| f32::from(*v)).sum::<f32>() / n
        };
        (0..3).flat_map(|c| mean(c).to_le_bytes()).collect()
    }

    fn embed(&self, prepared: &[u8]) -> Result<Embedded> {
        let mut rows: Vec<f32> = prepared
            .chunks_exact(4)
            .map(|v| f32::from_le_bytes(v.try_into().unwrap()))
            .collect();
        let mut good = vec![true; rows.len() / 3];
        for bad in clipsift::ops::normalize_rows(&mut rows, 3) {
            good[bad] = false;
        }
        Ok(Embedded { rows, good })
    }
}

/// A scorer of one function over rows.
struct By<F>(F);

impl<F: Fn(&[f32]) -> f32 + Send + Sync> Scorer for By<F> {
    fn fingerprint(&self) -> String {
        "a function of the test".into()
    }

    fn dims(&self) -> Option<usize> {
        None
    }

    fn score(&self, rows: &[f32], d: usize) -> Result<Vec<f32>> {
        Ok(rows.chunks_exact(d).map(&self.0).collect())
    }
}

/// How red a row is.
fn red() -> By<impl Fn(&[f32]) -> f32 + Send + Sync> {
    By(|row: &[f32]| row[0])
}

fn over(samples: Vec<Sample>) -> Pipeline {
    let reader = Memory {
        name: "memory",
        samples,
    };
    Pipeline::over_readers(vec![Box::new(reader)]).unwrap()
}

/// Reds of several sizes, one of them twice, greens, a black one and one that is no image.
fn colours() -> Vec<Sample> {
    let mut broken = picture("broken", 1, 1, [1, 1, 1]);
    broken.image = Blob::Bytes(b"no image".to_vec().into());
    vec![
        picture("red-small", 8, 8, [200, 0, 0]),
        picture("red-large", 20, 20, [200, 0, 0]),
        picture("orange", 16, 16, [200, 100, 0]),
        broken,
        picture("green", 16, 16, [0, 200, 0]),
        picture("black", 16, 16, [0, 0, 0]),
        picture("pink", 16, 16, [200, 100, 120]),
        picture("strip", 40, 2, [200, 40, 0]),
        picture("wine", 16, 16, [90, 0, 30]),
    ]
}

/// id -> (reason, duplicate_of).
fn decided(run: &Path) -> BTreeMap<String, (String, String)> {
    let decisions = Run::open(run).unwrap().decisions().unwrap();
    let rows = decisions.into_iter().map(|d| {
        let reason = d.reason.as_str().to_string();
        (d.id, (reason, d.duplicate_of.unwrap_or_default()))
    });
    rows.collect()
}

fn quiet(_: Event<'_>) {}

static GO: AtomicBool = AtomicBool::new(false);

/// A context that says nothing and never stops.
const QUIET: Context<'static> = Context {
    observer: &quiet,
    stop: &GO,
};

#[test]
fn readers_embedders_scorers_and_tests_of_ones_own_make_a_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let summary = over(colours())
        .embed(MeanColour)
        .score("red", red())
        .min("red", 0.5)
        .keep_if_named("shape", |c| c.sample.width < 2 * c.sample.height)
        .keep_if_named("hue", |c| c.score("red") > 0.8 || c.sample.id == "pink")
        .dedup(Dedup::default())
        .write(Shards::of(2))
        .run(&run)
        .unwrap();
    let expected = [
        ("black", "corrupt", ""),
        ("broken", "corrupt", ""),
        ("green", "red", ""),
        ("orange", "kept", ""),
        ("pink", "kept", ""),
        ("red-large", "kept", ""),
        ("red-small", "duplicate", "red-large"),
        ("strip", "shape", ""),
        ("wine", "kept", ""),
    ];
    let expected: BTreeMap<_, _> = expected
        .map(|(id, reason, of)| (id.to_string(), (reason.to_string(), of.to_string())))
        .into();
    assert_eq!(decided(&run), expected);
    assert_eq!(
        (
            summary.read,
            summary.bad,
            summary.duplicates,
            summary.kept,
            summary.decided
        ),
        (9, 2, 1, 4, true)
    );
    let below = [("red", 1), ("shape", 1), ("hue", 0)].map(|(name, n)| (name.to_string(), n));
    assert_eq!(summary.below, below);

    // Shards of two, in reading order, with the original bytes and captions.
    let mut found = Vec::new();
    for shard in ["00000", "00001"] {
        let path = run.join(format!("curated/{shard}.tar"));
        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            found.push((format!("{shard}/{name}"), bytes));
        }
    }
    let mut wanted = Vec::new();
    let kept = ["red-large", "orange", "pink", "wine"];
    for (at, id) in kept.iter().enumerate() {
        let samples = colours();
        let sample = samples.iter().find(|s| s.id == *id).unwrap();
        let shard = at / 2;
        wanted.push((
            format!("{shard:05}/{id}.png"),
            sample.read(1 << 20).unwrap(),
        ));
        wanted.push((
            format!("{shard:05}/{id}.txt"),
            format!("about {id}").into_bytes(),
        ));
    }
    assert_eq!(
        found.iter().map(|f| &f.0).collect::<Vec<_>>(),
        wanted.iter().map(|f| &f.0).collect::<Vec<_>>()
    );
    assert!(found == wanted, "the bytes are the original ones");
    assert!(!run.join("curated/00002.tar").exists());
}

#[test]
fn several_readers_have_their_names_before_the_ids() {
    let dir = tempfile::tempdir().unwrap();
    let reader = |name, id| -> Box<dyn Reader> {
        Box::new(Memory {
            name,
            samples: vec![
                picture(id, 8, 8, [200, 0, 0]),
                picture(id, 9, 9, [0, 200, 0]),
            ],
        })
    };
    let run = dir.path().join("run");
    let readers = vec![reader("at/left", "x"), reader("at/right", "x")];
    Pipeline::over_readers(readers)
        .unwrap()
        .embed(MeanColour)
        .dedup(Dedup::default())
        .run(&run)
        .unwrap();
    let expected = [
        ("left/x", "kept", ""),
        ("left/x#2", "corrupt", ""),
        ("right/x", "duplicate", "left/x"),
        ("right/x#2", "corrupt", ""),
    ];
    let expected: BTreeMap<_, _> = expected
        .map(|(id, reason, of)| (id.to_string(), (reason.to_string(), of.to_string())))
        .into();
    assert_eq!(decided(&run), expected);
    let same = Pipeline::over_readers(vec![reader("a/x", "x"), reader("b/x", "y")]);
    assert!(matches!(same, Err(Error::Usage(_))));
    assert!(matches!(
        Pipeline::over_readers(Vec::new()),
        Err(Error::Usage(_))
    ));
}

#[test]
fn an_observer_sees_every_stage_from_its_start_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    over(colours())
        .embed(MeanColour)
        .score("red", red())
        .dedup(Dedup::default())
        .write(Shards::of(2))
        .batch_size(2)
        .on_event(move |event| {
            let line = match event {
                Event::Started { stage, .. } => Some((stage, "started", 0)),
                Event::Advanced { stage, done } => Some((stage, "advanced", done)),
                Event::Finished { stage, done, .. } => Some((stage, "finished", done)),
                _ => None,
            };
            log.lock().unwrap().extend(line);
        })
        .run(dir.path().join("run"))
        .unwrap();
    let seen = seen.lock().unwrap();
    let begun: Vec<Stage> = seen
        .iter()
        .filter(|e| e.1 == "started")
        .map(|e| e.0)
        .collect();
    let stages = [
        Stage::Embed,
        Stage::Score,
        Stage::Dedup,
        Stage::Decide,
        Stage::Write,
    ];
    assert_eq!(begun, stages);
    for stage in stages {
        let of: Vec<_> = seen.iter().filter(|e| e.0 == stage).collect();
        assert_eq!(of.first().unwrap().1, "started", "{stage:?}");
        assert_eq!(of.last().unwrap().1, "finished", "{stage:?}");
        assert!(of.windows(2).all(|w| w[0].2 <= w[1].2), "{of:?}");
        let advanced = of.iter().filter(|e| e.1 == "advanced").map(|e| e.2).max();
        if let Some(done) = advanced {
            assert_eq!(of.last().unwrap().2, done, "{stage:?}");
        }
    }
    let done = |stage| seen.iter().rfind(|e| e.0 == stage).unwrap().2;
    assert_eq!(done(Stage::Embed), 9);
    assert_eq!(done(Stage::Score), 7);
    assert_eq!(done(Stage::Write), 6);
}

#[test]
fn a_stopped_pipeline_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = || {
        over(colours())
            .embed(MeanColour)
            .score("red", red())
            .min("red", 0.5)
            .dedup(Dedup::default())
            .write(Shards::of(2))
            .part_size(2)
            .batch_size(1)
    };
    let whole = dir.path().join("whole");
    pipeline().run(&whole).unwrap();

    for (stage, after) in [
        (Stage::Embed, 0),
        (Stage::Embed, 5),
        (Stage::Score, 1),
        (Stage::Write, 1),
    ] {
        let cut = dir.path().join(format!("{stage:?}-{after}"));
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let stopped = pipeline()
            .stop_when(stop)
            .on_event(move |event| match event {
                Event::Advanced { stage: at, done } if at == stage && done >= after => {
                    stop.store(true, Ordering::Relaxed);
                }
                _ => {}
            })
            .run(&cut);
        assert!(
            matches!(stopped, Err(Error::Interrupted)),
            "{stage:?} {after}: {stopped:?}"
        );
        if stage == Stage::Embed {
            assert!(matches!(Run::open(&cut), Err(Error::Usage(_))));
        }
        pipeline().run(&cut).unwrap();
        assert!(tree(&cut) == tree(&whole), "{stage:?} {after}");
    }
}

#[test]
fn stages_that_are_not_asked_for_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let names = |run: &Path| -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(run)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    };

    let run = dir.path().join("embed");
    let summary = over(colours()).embed(MeanColour).run(&run).unwrap();
    assert_eq!((summary.read, summary.bad), (9, 2));
    assert!(!summary.decided);
    assert_eq!(names(&run), ["embeddings", "run.json", "samples"]);
    assert!(matches!(
        Run::open(&run).unwrap().decisions(),
        Err(Error::Usage(_))
    ));

    let run = dir.path().join("score");
    let summary = over(colours())
        .embed(MeanColour)
        .score("red", red())
        .run(&run)
        .unwrap();
    assert!(!summary.decided);
    assert_eq!(names(&run), ["embeddings", "run.json", "samples", "scores"]);

    let run = dir.path().join("no-dedup");
    let summary = over(colours())
        .embed(MeanColour)
        .score("red", red())
        .min("red", 0.5)
        .run(&run)
        .unwrap();
    assert_eq!((summary.duplicates, summary.kept), (0, 6));
    assert_eq!(
        names(&run),
        [
            "decisions.parquet",
            "embeddings",
            "run.json",
            "samples",
            "scores"
        ]
    );

    let run = dir.path().join("no-write");
    let summary = over(colours())
        .embed(MeanColour)
        .dedup(Dedup::default())
        .run(&run)
        .unwrap();
    assert_eq!((summary.duplicates, summary.kept), (1, 6));
    assert_eq!(
        names(&run),
        [
            "decisions.parquet",
            "duplicates",
            "embeddings",
            "run.json",
            "samples"
        ]
    );

    let nothing = over(colours()).run(dir.path().join("nothing"));
    assert!(matches!(nothing, Err(Error::Usage(_))), "{nothing:?}");
}

#[test]
fn stages_one_by_one_leave_what_the_pipeline_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = || {
        let folder = data("gallery/patterns").display().to_string();
        Pipeline::over([folder])
            .unwrap()
            .embed(MeanColour)
            .part_size(7)
    };
    let dedup = Dedup {
        eps: Some(0.01),
        keep: Some(Keep::Best {
            score: "red".into(),
            ascending: true,
        }),
        removal: Removal::Chain,
        ..Dedup::default()
    };
    let (whole, staged) = (dir.path().join("whole"), dir.path().join("staged"));
    pipeline()
        .score("red", red())
        .min("red", 0.55)
        .keep_if_named("wide", |c| c.sample.width > 40)
        .dedup(dedup.clone())
        .write(Shards::of(5))
        .run(&whole)
        .unwrap();

    pipeline().run(&staged).unwrap();
    let mut run = Run::open(&staged).unwrap();
    run.score("red", &red(), QUIET).unwrap();
    run.set_thresholds(vec![Threshold {
        score: "red".into(),
        bound: Bound::Min(0.55),
    }])
    .unwrap();
    drop(run);
    let mut run = Run::open(&staged).unwrap();
    let wide = |c: &Candidate| c.sample.width > 40;
    let summary = run
        .dedup(&dedup, &[("wide".into(), Box::new(wide))], QUIET)
        .unwrap();
    assert!(summary.kept > 0 && summary.duplicates > 0 && summary.below[0].1 > 0);
    run.write(&Shards::of(5), None, QUIET).unwrap();
    drop(run);
    assert!(tree(&whole) == tree(&staged));

    // A stage done anew takes the place of the earlier one.
    let mut run = Run::open(&staged).unwrap();
    let all = run.dedup(&Dedup::off(), &[], QUIET).unwrap();
    assert_eq!(all.duplicates, 0);
    run.set_thresholds(Vec::new()).unwrap();
    let all = run.decide(&[], QUIET).unwrap();
    assert_eq!(all.kept, all.read - all.bad);
    run.score("red", &By(|row: &[f32]| -row[0]), QUIET).unwrap();
    assert!(run.decide(&[], QUIET).is_ok());
}

#[test]
fn rows_that_an_embedder_calls_bad_or_should_have_are_bad_samples() {
    /// Gives rows as its function says, whatever the images.
    struct Says(fn(usize) -> Embedded);
    impl Embedder for Says {
        fn name(&self) -> &str {
            "says"
        }
        fn fingerprint(&self) -> String {
            "says".into()
        }
        fn dims(&self) -> usize {
            2
        }
        fn dtype(&self) -> DType {
            DType::F32
        }
        fn batch_size(&self) -> usize {
            64
        }
        fn default_eps(&self) -> f64 {
            0.1
        }
        fn prepare(&self, _: &Rgb8) -> Vec<u8> {
            vec![0]
        }
        fn embed(&self, prepared: &[u8]) -> Result<Embedded> {
            Ok((self.0)(prepared.len()))
        }
    }
    let samples: Vec<_> = (0..5)
        .map(|i| picture(&format!("p{i}"), 4 + i, 4, [9, 9, 9]))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, rows: fn(usize) -> Embedded| {
        let run = dir.path().join(name);
        let summary = over(samples.clone())
            .embed(Says(rows))
            .score("first", By(|row: &[f32]| row[0]))
            .dedup(Dedup::default())
            .run(&run);
        (summary, run)
    };

    let (summary, at) = run("told", |n| Embedded {
        rows: [1.0, 0.0].repeat(n),
        good: (0..n).map(|i| i != 1 && i != 3).collect(),
    });
    let summary = summary.unwrap();
    assert_eq!((summary.bad, summary.duplicates, summary.kept), (2, 2, 1));
    let decided = decided(&at);
    for id in ["p1", "p3"] {
        assert_eq!(decided[id].0, "corrupt");
    }
    let samples = table(at.join("samples/part-00000.parquet"));
    assert!(texts(&samples, "error")[1].contains("embedding"));

    // Not told, but neither a direction nor a number.
    let (summary, _) = run("untold", |n| {
        let mut rows = [1.0, 0.0].repeat(n);
        rows[0] = f32::NAN;
        (rows[2], rows[4]) = (0.0, f32::INFINITY);
        Embedded {
            rows,
            good: vec![true; n],
        }
    });
    let summary = summary.unwrap();
    assert_eq!((summary.bad, summary.duplicates, summary.kept), (3, 1, 1));

    for (name, rows) in [
        (
            "short",
            (|n| Embedded {
                rows: vec![1.0; n],
                good: vec![true; n],
            }) as fn(usize) -> Embedded,
        ),
        ("few", |n| Embedded {
            rows: [1.0, 0.0].repeat(n - 1),
            good: vec![true; n - 1],
        }),
    ] {
        let (result, _) = run(name, rows);
        assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
    }
}

#[test]
fn a_score_that_is_not_a_number_passes_no_threshold() {
    let dir = tempfile::tempdir().unwrap();
    let nan_for_green = || By(|row: &[f32]| if row[1] > 0.9 { f32::NAN } else { row[0] });
    for (name, min, max) in [
        ("min", Some(-9.0), None),
        ("max", None, Some(9.0)),
        ("none", None, None),
    ] {
        let run = dir.path().join(name);
        let mut pipeline = over(colours())
            .embed(MeanColour)
            .score("s", nan_for_green())
            .dedup(Dedup::default());
        if let Some(bound) = min {
            pipeline = pipeline.min("s", bound);
        }
        if let Some(bound) = max {
            pipeline = pipeline.max("s", bound);
        }
        pipeline.run(&run).unwrap();
        let wanted = if name == "none" { "kept" } else { "s" };
        assert_eq!(decided(&run)["green"].0, wanted, "{name}");
        assert_eq!(decided(&run)["red-large"].0, "kept", "{name}");
    }

    struct Short;
    impl Scorer for Short {
        fn fingerprint(&self) -> String {
            "short".into()
        }
        fn dims(&self) -> Option<usize> {
            None
        }
        fn score(&self, _: &[f32], _: usize) -> Result<Vec<f32>> {
            Ok(vec![1.0])
        }
    }
    let short = over(colours())
        .embed(MeanColour)
        .score("s", Short)
        .run(dir.path().join("short"));
    assert!(matches!(short, Err(Error::Shape { .. })), "{short:?}");
}

/// Embeds an image as the row of a table that its red channel names.
#[derive(Clone, Debug)]
struct Lookup {
    dtype: DType,
    d: usize,
    /// Unit rows as they are stored; a row of zeros is bad.
    rows: Vec<Vec<f32>>,
}

impl Lookup {
    fn new(dtype: DType, rows: &[Vec<f32>]) -> Lookup {
        let d = rows[0].len();
        let mut flat = rows.concat();
        for bad in clipsift::ops::normalize_rows(&mut flat, d) {
            flat[bad * d..(bad + 1) * d].fill(0.0);
        }
        if dtype == DType::F16 {
            flat.iter_mut()
                .for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        }
        Lookup {
            dtype,
            d,
            rows: flat.chunks_exact(d).map(<[f32]>::to_vec).collect(),
        }
    }

    fn good(&self, row: usize) -> bool {
        self.rows[row].iter().any(|x| *x != 0.0)
    }
}

impl Embedder for Lookup {
    fn name(&self) -> &str {
        "lookup"
    }

    fn fingerprint(&self) -> String {
        format!("{:?}", self.rows)
    }

    fn dims(&self) -> usize {
        self.d
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn batch_size(&self) -> usize {
        3
    }

    fn default_eps(&self) -> f64 {
        0.05
    }

    fn prepare(&self, image: &Rgb8) -> Vec<u8> {
        vec![image.pixels[0]]
    }

    fn embed(&self, prepared: &[u8]) -> Result<Embedded> {
        let rows = prepared.iter().map(|row| usize::from(*row));
        Ok(Embedded {
            good: rows.clone().map(|row| self.good(row)).collect(),
            rows: rows.flat_map(|row| self.rows[row].clone()).collect(),
        })
    }
}

/// Row i of a table as an image of a size.
fn row_picture(row: usize, id: &str, width: u32, height: u32) -> Sample {
    picture(id, width, height, [row as u8, 0, 0])
}

#[test]
fn where_the_best_copy_fails_the_next_best_that_passes_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    // Three copies, the largest first; the third number is what the score sees. `far` is another picture.
    let near = [
        vec![1.0, 0.0, -0.05],
        vec![1.0, 0.0, 0.05],
        vec![1.0, 0.0, 0.04],
        vec![0.0, 1.0, 0.04],
    ];
    let same = [
        vec![1.0, 0.0, 0.05],
        vec![1.0, 0.0, 0.05],
        vec![1.0, 0.0, 0.05],
        vec![0.0, 1.0, 0.04],
    ];
    let sizes = [("big", 60), ("middle", 40), ("small", 20), ("far", 50)];
    let run = |name: &str, rows: &[Vec<f32>], reversed: bool, dedup: Dedup, by_score: bool| {
        let mut samples: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(row, (id, side))| row_picture(row, id, *side, *side))
            .collect();
        if reversed {
            samples.reverse();
        }
        let run = dir.path().join(name);
        let pipeline = over(samples)
            .embed(Lookup::new(DType::F32, rows))
            .score("third", By(|row: &[f32]| row[2]))
            .dedup(dedup);
        if by_score {
            pipeline.min("third", 0.0).run(&run).unwrap();
        } else {
            let small = |c: &Candidate| c.sample.width <= 40;
            pipeline
                .keep_if_named("third", move |c| small(c) || c.sample.id == "far")
                .run(&run)
                .unwrap();
        }
        (decided(&run), run)
    };
    for (rows_name, rows, by_score) in [
        ("near", &near, true),
        ("near", &near, false),
        ("same", &same, false),
    ] {
        for removal in [Removal::Group, Removal::Chain] {
            for (mode_name, mode) in [("exact", Mode::Exact), ("semantic", Mode::Semantic)] {
                for reversed in [false, true] {
                    let dedup = Dedup {
                        mode,
                        removal,
                        clusters: Clusters {
                            clusters: (mode == Mode::Semantic).then_some(2),
                            ..Clusters::default()
                        },
                        ..Dedup::default()
                    };
                    let name = format!("{rows_name}-{by_score}-{removal}-{mode_name}-{reversed}");
                    let (decided, run) = run(&name, rows, reversed, dedup, by_score);
                    let row = |id: &str| (decided[id].0.as_str(), decided[id].1.as_str());
                    assert_eq!(row("big"), ("third", ""), "{name}");
                    assert_eq!(row("middle"), ("kept", ""), "{name}");
                    assert_eq!(row("small"), ("duplicate", "middle"), "{name}");
                    assert_eq!(row("far"), ("kept", ""), "{name}");
                    let removed = table(run.join("duplicates/removed.parquet"));
                    assert_eq!(texts(&removed, "id"), ["small"], "{name}");
                    assert_eq!(texts(&removed, "kept_id"), ["middle"], "{name}");
                }
            }
        }
    }
}

#[test]
fn pairs_of_identical_rows_hold_for_each_of_them() {
    // `a` stands for its copy `b` in the stored pairs, and fails; what is near to it is near to `b` all the same.
    let rows = [
        vec![1.0, 0.0],
        vec![1.0, 0.0],
        vec![0.98, 0.19],
        vec![0.0, 1.0],
    ];
    let dir = tempfile::tempdir().unwrap();
    for removal in [Removal::Group, Removal::Chain] {
        for (name, failing, expected) in [
            ("a", vec!["a"], [("b", "kept", ""), ("c", "duplicate", "b")]),
            (
                "a-b",
                vec!["a", "b"],
                [("b", "mine", ""), ("c", "kept", "")],
            ),
            (
                "none",
                vec![],
                [("b", "duplicate", "a"), ("c", "duplicate", "a")],
            ),
        ] {
            let samples = ["a", "b", "c", "d"];
            let samples = samples
                .iter()
                .enumerate()
                .map(|(row, id)| row_picture(row, id, 30 - row as u32, 30));
            let run = dir.path().join(format!("{removal}-{name}"));
            over(samples.collect())
                .embed(Lookup::new(DType::F32, &rows))
                .keep_if_named("mine", move |c| !failing.contains(&c.sample.id.as_str()))
                .dedup(Dedup {
                    removal,
                    ..Dedup::default()
                })
                .run(&run)
                .unwrap();
            let decided = decided(&run);
            for (id, reason, of) in expected {
                assert_eq!(
                    (decided[id].0.as_str(), decided[id].1.as_str()),
                    (reason, of),
                    "{removal} {name} {id}"
                );
            }
            assert_eq!(decided["d"].0, "kept");
        }
    }
}

/// A case for the model: small tables with many equal and near rows.
#[derive(Clone, Debug)]
struct Case {
    vectors: Vec<Vec<f32>>,
    sizes: Vec<(u32, u32)>,
    half: bool,
    semantic: Option<usize>,
    eps: Option<f64>,
    /// Instead: the eps at which the first two good rows just match.
    tie: bool,
    removal: Removal,
    keep: &'static str,
    min: Option<f64>,
    max: Option<f64>,
    part_size: usize,
    batch_size: usize,
}

fn cases() -> impl Strategy<Value = Case> {
    let number = prop_oneof![Just(-1.0f32), Just(0.0), Just(0.1), Just(1.0), Just(2.0)];
    let row = (proptest::collection::vec(number, 3), (1..4u32, 1..4u32));
    let bound = |x: f64| prop_oneof![4 => Just(None), 1 => Just(Some(x))];
    (
        (
            proptest::collection::vec(row, 4..24),
            any::<bool>(),
            proptest::option::of(1..4usize),
        ),
        (
            proptest::option::of(proptest::sample::select(vec![
                0.0, 0.001, 0.02, 0.1, 0.5, 1.0, 2.0,
            ])),
            any::<bool>(),
        ),
        prop_oneof![Just(Removal::Group), Just(Removal::Chain)],
        proptest::sample::select(vec![
            "largest",
            "first",
            "hard",
            "easy",
            "best:s",
            "best:s:asc",
        ]),
        (bound(0.0), bound(1.5)),
        (proptest::sample::select(vec![5, 11, 100]), 1..5usize),
    )
        .prop_map(
            |(
                (rows, half, semantic),
                (eps, tie),
                removal,
                keep,
                (min, max),
                (part_size, batch_size),
            )| {
                let (vectors, sizes) = rows.into_iter().unzip();
                Case {
                    vectors,
                    sizes,
                    half,
                    // hard and easy need clusters.
                    semantic: semantic.or(matches!(keep, "hard" | "easy").then_some(2)),
                    eps,
                    tie,
                    removal,
                    keep,
                    min,
                    max,
                    part_size,
                    batch_size,
                }
            },
        )
}

fn score_of(row: &[f32]) -> f32 {
    if row[2] < -0.5 {
        f32::NAN
    } else {
        2.0 * row[0] + row[1]
    }
}

fn passes_shape(width: u32, score: f32) -> bool {
    width != 3 || score > 0.0
}

/// The contract in O(n²): (reason, duplicate of, cosine) of each sample.
fn model(
    case: &Case,
    lookup: &Lookup,
    samples: &[Sample],
    clusters: Option<&(Vec<u32>, Vec<f32>)>,
) -> Vec<(String, String, Option<f64>)> {
    let n = samples.len();
    // Row -> its place among the good ones, as clusters/ has them.
    let place = |i: usize| (0..i).filter(|j| lookup.good(*j)).count();
    let scores: Vec<f32> = lookup.rows.iter().map(|row| score_of(row)).collect();
    let failure = |i: usize| {
        let score = f64::from(scores[i]);
        let within = case.min.is_none_or(|x| score >= x) && case.max.is_none_or(|x| score < x);
        match (lookup.good(i), within) {
            (false, _) => Some("corrupt"),
            (_, false) => Some("s"),
            _ => (!passes_shape(case.sizes[i].0, scores[i])).then_some("shape"),
        }
    };
    let mut order: Vec<usize> = (0..n).filter(|i| lookup.good(*i)).collect();
    let id = |i: usize| samples[i].id.as_str();
    let distance = |i: usize| clusters.unwrap().1[place(i)];
    let nan_last = |a: f32, b: f32, reverse: bool| match a.partial_cmp(&b) {
        Some(o) if reverse => o.reverse(),
        Some(o) => o,
        None => a.is_nan().cmp(&b.is_nan()),
    };
    order.sort_by(|&a, &b| match case.keep {
        "first" => a.cmp(&b),
        "largest" => {
            let size = |i: usize| (case.sizes[i].0 * case.sizes[i].1, samples[i].length);
            size(b).cmp(&size(a)).then(id(a).cmp(id(b)))
        }
        "hard" => nan_last(distance(a), distance(b), true).then(id(b).cmp(id(a))),
        "easy" => nan_last(distance(a), distance(b), false).then(id(a).cmp(id(b))),
        keep => nan_last(scores[a], scores[b], !keep.ends_with("asc")).then(id(a).cmp(id(b))),
    });
    let limit = 1.0 - case.eps.unwrap_or(lookup.default_eps());
    let matches = |a: usize, b: usize| {
        let (x, y) = (&lookup.rows[a], &lookup.rows[b]);
        let together = clusters.is_none_or(|(labels, _)| labels[place(a)] == labels[place(b)]);
        let c = cosine(x, y);
        (together && (x == y || c >= limit)).then_some(c)
    };
    let mut decided: Vec<_> = (0..n)
        .map(|i| {
            (
                failure(i).unwrap_or("kept").to_string(),
                String::new(),
                None,
            )
        })
        .collect();
    let mut earlier: Vec<usize> = Vec::new();
    for i in order.into_iter().filter(|i| failure(*i).is_none()) {
        let mut best: Option<(usize, f64)> = None;
        for &other in &earlier {
            if let Some(c) = matches(i, other)
                && best.is_none_or(|(_, most)| c > most)
            {
                best = Some((other, c));
            }
        }
        if let Some((other, c)) = best {
            decided[i] = ("duplicate".into(), id(other).into(), Some(c));
        }
        if best.is_none() || case.removal == Removal::Chain {
            earlier.push(i);
        }
    }
    decided
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn decisions_are_those_of_the_contract_in_its_plainest_form(mut case in cases()) {
        let dtype = if case.half { DType::F16 } else { DType::F32 };
        let lookup = Lookup::new(dtype, &case.vectors);
        let good: Vec<_> = lookup.rows.iter().filter(|row| row.iter().any(|x| *x != 0.0)).collect();
        prop_assume!(case.semantic.is_none_or(|k| good.len() >= k));
        if case.tie && good.len() > 1 {
            case.eps = Some((1.0 - cosine(good[0], good[1])).clamp(0.0, 2.0));
        }
        let samples: Vec<Sample> = case
            .sizes
            .iter()
            .enumerate()
            // The order of ids is not that of rows.
            .map(|(i, (w, h))| row_picture(i, &format!("{}-{i}", i * 37 % 11), *w, *h))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut pipeline = over(samples.clone())
            .embed(lookup.clone())
            .score("s", By(score_of))
            .keep_if_named("shape", |c| passes_shape(c.sample.width, c.score("s")))
            .dedup(Dedup {
                mode: if case.semantic.is_some() { Mode::Semantic } else { Mode::Auto },
                eps: case.eps,
                clusters: Clusters { clusters: case.semantic, ..Clusters::default() },
                keep: Some(case.keep.parse().unwrap()),
                removal: case.removal,
                ..Dedup::default()
            })
            .part_size(case.part_size)
            .batch_size(case.batch_size);
        if let Some(x) = case.min {
            pipeline = pipeline.min("s", x);
        }
        if let Some(x) = case.max {
            pipeline = pipeline.max("s", x);
        }
        let summary = pipeline.run(&run).unwrap();

        let clusters = case.semantic.map(|_| {
            let mut all = (Vec::new(), Vec::new());
            for part in 0..samples.len().div_ceil(case.part_size) {
                let path = run.join(format!("clusters/part-{part:05}.parquet"));
                let (labels, distances) = findings::clusters_from_batch(&table(path)).unwrap();
                all.0.extend(labels);
                all.1.extend(distances);
            }
            all
        });
        let expected = model(&case, &lookup, &samples, clusters.as_ref());
        let found = Run::open(&run).unwrap().decisions().unwrap();
        prop_assert_eq!(found.len(), expected.len());
        for ((found, expected), sample) in found.iter().zip(&expected).zip(&samples) {
            prop_assert_eq!(&found.id, &sample.id);
            prop_assert_eq!(found.reason.as_str(), &expected.0, "{}", &found.id);
            prop_assert_eq!(found.duplicate_of.as_deref().unwrap_or(""), &expected.1, "{}", &found.id);
        }
        let count = |reason: &str| expected.iter().filter(|e| e.0 == reason).count() as u64;
        prop_assert_eq!(summary.kept, count(Reason::Kept.as_str()));
        prop_assert_eq!(summary.duplicates, count(Reason::Duplicate.as_str()));
        prop_assert_eq!(summary.bad, count(Reason::Corrupt.as_str()));

        let removed = table(run.join("duplicates/removed.parquet"));
        let ids = texts(&removed, "id").into_iter().zip(texts(&removed, "kept_id"));
        let cosines = arrow::array::AsArray::as_primitive_opt::<arrow::datatypes::Float64Type>(
            removed.column_by_name("cosine").unwrap(),
        )
        .unwrap();
        let found: Vec<_> = ids.zip(cosines.values()).map(|((a, b), c)| (a, b, *c)).collect();
        let expected: Vec<_> = expected
            .iter()
            .zip(&samples)
            .filter_map(|(e, sample)| Some((sample.id.clone(), e.1.clone(), e.2?)))
            .collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn scaled_decoding_needs_an_embedder_that_names_its_edge() {
    let dir = tempfile::tempdir().unwrap();
    let refused = over(vec![picture("a", 4, 4, [1, 2, 3])])
        .embed(MeanColour)
        .scaled_decode(true)
        .run(dir.path().join("run"))
        .unwrap_err();
    assert!(matches!(refused, Error::Usage(_)), "{refused}");
    assert!(refused.to_string().contains("mean-colour"), "{refused}");
    assert!(!dir.path().join("run").exists());
}

#[test]
fn an_embedder_that_panics_over_an_image_ends_the_run_with_its_panic() {
    struct Panics;
    impl Embedder for Panics {
        fn name(&self) -> &str {
            "panics"
        }
        fn fingerprint(&self) -> String {
            "panics".into()
        }
        fn dims(&self) -> usize {
            2
        }
        fn dtype(&self) -> DType {
            DType::F32
        }
        fn batch_size(&self) -> usize {
            3
        }
        fn default_eps(&self) -> f64 {
            0.1
        }
        fn prepare(&self, image: &Rgb8) -> Vec<u8> {
            assert!(image.width != 9, "a width of nine");
            vec![0]
        }
        fn embed(&self, prepared: &[u8]) -> Result<Embedded> {
            Ok(Embedded {
                rows: vec![1.0; 2 * prepared.len()],
                good: vec![true; prepared.len()],
            })
        }
    }
    let samples: Vec<_> = (0..40)
        .map(|i| picture(&format!("p{i}"), 1 + i, 4, [9, 9, 9]))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let pipeline = over(samples).embed(Panics);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pipeline.run(dir.path().join("run"))
    }));
    let said = ended.unwrap_err().downcast::<&str>();
    assert!(said.is_ok_and(|said| said.contains("a width of nine")));
}

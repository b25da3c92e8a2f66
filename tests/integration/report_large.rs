//! `report.html` of a run with 100,000 duplicates: it stays readable, and says what it leaves out.

use std::path::Path;

use clipsift::store::RunDir;
use clipsift::store::ids::IdType;
use clipsift::store::run_file::{EmbedRequest, RunFile, ScoreRequest};
use clipsift::store::tables::{Embeddings, SampleRow, scores_to_batch};
use clipsift::store::{Table, run_file::Bound, run_file::Threshold};
use rand::{Rng, SeedableRng};

use crate::common::*;

/// d
const DIMS: usize = 24;

/// A run of `groups` groups of `size` rows that are near to each other, over as many pictures.
fn stored(at: &Path, groups: usize, size: usize) -> String {
    let input = at.join("many.tar");
    let mut shard = tar::Builder::new(std::fs::File::create(&input).unwrap());
    let run = at.join("run");
    let dir = RunDir::create(&run).unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut samples, mut rows, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..groups {
        let centre: Vec<f32> = (0..DIMS).map(|_| random.random_range(-1.0..1.0)).collect();
        let spread = 0.005 + 0.05 * group as f32 / groups as f32;
        for member in 0..size {
            let key = format!("{group:05}-{member:03}");
            let id = format!("many/{key}");
            let bytes = picture(group as u32, member as u8);
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            let name = format!("{key}.bmp");
            shard.append_data(&mut header, name, &bytes[..]).unwrap();
            samples.push(SampleRow {
                id,
                source: input.display().to_string(),
                width: 2,
                height: 2,
                bytes: bytes.len() as u64,
                sha256: sha256(&bytes),
                format: "bmp".into(),
                ..SampleRow::default()
            });
            let noise = || random.random_range(-spread..spread);
            let noise: Vec<f32> = std::iter::repeat_with(noise).take(DIMS).collect();
            let row: Vec<f32> = centre.iter().zip(noise).map(|(x, y)| x + y).collect();
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            rows.extend(row.iter().map(|x| x / norm));
            scores.push(group as f32 / groups as f32);
        }
    }
    shard.finish().unwrap();
    let ids: Vec<String> = samples.iter().map(|s| s.id.clone()).collect();
    for table in [Table::Samples, Table::Embeddings, Table::Scores("mine")] {
        dir.prepare(table).unwrap();
    }
    let part = dir.part(Table::Scores("mine"), 0);
    clipsift::atomic::write_parquet(
        part,
        &scores_to_batch(IdType::String, &ids, &scores).unwrap(),
    )
    .unwrap();
    let embeddings = Embeddings {
        ids,
        id_type: IdType::String,
        dims: DIMS,
        dtype: candle_core::DType::F32,
        rows,
    };
    dir.write_part(0, &samples, &embeddings).unwrap();
    dir.write_run_file(&RunFile {
        embed: Some(EmbedRequest {
            inputs: vec![input.display().to_string()],
            content: Vec::new(),
            partition: None,
            id_column: None,
            embedding_column: None,
            imported: false,
            id_type: IdType::String,
            model: "none".into(),
            fingerprint: String::new(),
            dims: DIMS,
            dtype: "f32".into(),
            device: "cpu".into(),
            part_size: samples.len(),
            batch_size: 1,
            scaled_decode: false,
            default_eps: 0.02,
        }),
        parts: Some(1),
        scores: vec![ScoreRequest {
            name: "mine".into(),
            fingerprint: String::new(),
            complete: true,
        }],
        thresholds: vec![Threshold {
            score: "mine".into(),
            bound: Bound::Min(0.01),
        }],
        ..RunFile::default()
    })
    .unwrap();
    run.display().to_string()
}

/// A picture of four pixels that no other sample has: byte-identical files would be one group.
fn picture(group: u32, member: u8) -> Vec<u8> {
    let mut bytes = b"BM".to_vec();
    // Size, nothing, where the pixels begin, size of the header, width, height.
    for value in [70u32, 0, 54, 40, 2, 2] {
        bytes.extend(value.to_le_bytes());
    }
    // One plane of 24 bits, not compressed.
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    let [low, middle, high, _] = group.to_le_bytes();
    bytes.extend([low, middle, high, member, 90, 120, 0, 0]);
    bytes.extend([200, 40, low, member, 30, low, 0, 0]);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_hundred_thousand_duplicates_are_sampled_and_the_page_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let run = stored(dir.path(), 20_400, 6);
    let stdout = good(&format!(
        "dedup {run} --dedup exact --eps 0.01 --floor 0.012"
    ));
    let duplicates = stdout
        .lines()
        .find(|l| l.starts_with("duplicates"))
        .unwrap();
    let duplicates: u64 = duplicates
        .split_whitespace()
        .last()
        .unwrap()
        .parse()
        .unwrap();
    assert!(duplicates > 100_000, "{duplicates}");
    good(&format!("report {run}"));
    let page = std::fs::read_to_string(Path::new(&run).join("report.html")).unwrap();
    assert!(page.contains("This is a sample: 200 of"));
    assert!(
        page.matches("<img src=").count() > 200,
        "pictures from the shard"
    );
    let groups = page.split_once(r#"<section id="duplicates">"#).unwrap().1;
    let groups = groups.split_once("</section>").unwrap().0;
    assert_eq!(groups.matches(r#"<article class="group">"#).count(), 200);
    assert!(page.len() < 40_000_000, "{} bytes", page.len());
    assert!(!page.contains("No sliders"), "all pairs are in the page");

    // More pairs than a page holds: no slider rather than a false one.
    good(&format!(
        "dedup {run} --dedup exact --eps 0.02 --floor 0.3 --removal chain"
    ));
    good(&format!("report {run}"));
    let page = std::fs::read_to_string(Path::new(&run).join("report.html")).unwrap();
    assert!(page.contains("so its eps slider ends at"));
    let data = page
        .split_once(r#"id="data">"#)
        .unwrap()
        .1
        .split_once("</script>")
        .unwrap()
        .0;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let max = data["eps"]["max"].as_f64().unwrap();
    assert!((0.02..0.3).contains(&max), "{max}");
}

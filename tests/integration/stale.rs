//! What is stored stays good: nothing foreign is touched, nothing half-made is taken for whole, nothing stale is written.

use std::path::Path;

use crate::common::*;

/// A finished run over the gallery, and its path as text.
fn curated(dir: &Path, name: &str, flags: &str) -> String {
    let run = dir.join(name).display().to_string();
    good(&format!(
        "curate {} --out {run} --no-report {flags}",
        data("gallery").display()
    ));
    run
}

fn count(run: &str, reason: &str) -> usize {
    let decisions = decisions(Path::new(run));
    decisions.values().filter(|d| d.0 == reason).count()
}

#[test]
fn a_folder_that_is_no_run_is_left_alone_whatever_its_folders_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let mine = dir.path().join("mine/samples/photo.jpg");
    std::fs::create_dir_all(mine.parent().unwrap()).unwrap();
    std::fs::write(&mine, b"a photograph").unwrap();
    let (gallery, out) = (data("gallery/patterns"), dir.path().join("mine"));
    let line = format!("curate {} --out {}", gallery.display(), out.display());
    assert!(fails(2, &line).contains("not a run directory"));
    assert!(fails(2, &format!("{line} --overwrite")).contains("not a run directory"));
    assert_eq!(std::fs::read(&mine).unwrap(), b"a photograph");
}

#[test]
fn beginning_anew_removes_what_clipsift_made_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = curated(dir.path(), "run", "--write tar");
    let notes = Path::new(&run).join("samples/notes.txt");
    std::fs::write(&notes, b"mine").unwrap();
    curated(dir.path(), "run", "--part-size 30 --overwrite --write tar");
    assert_eq!(std::fs::read(&notes).unwrap(), b"mine");
    std::fs::remove_file(&notes).unwrap();
    curated(dir.path(), "fresh", "--part-size 30 --write tar");
    assert_same_tree(Path::new(&run), &dir.path().join("fresh"));
}

#[test]
fn an_input_inside_the_run_directory_is_refused_before_anything_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run = curated(dir.path(), "run", "--write folder");
    let before = tree(Path::new(&run));
    let message = fails(2, &format!("curate {run}/curated --out {run} --overwrite"));
    assert!(message.contains("lies in the run directory"), "{message}");
    assert_eq!(tree(Path::new(&run)), before);
}

#[test]
fn a_dedup_that_cannot_be_done_leaves_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = curated(dir.path(), "run", "");
    let (before, duplicates) = (tree(Path::new(&run)), count(&run, "duplicate"));
    for flags in [
        "--clusters 1000",
        "--centroids absent.safetensors",
        "--tol inf",
    ] {
        let line = format!("dedup {run} --dedup semantic {flags}");
        let output = clipsift(words(&line));
        assert!(!output.status.success(), "{line}");
        assert_eq!(tree(Path::new(&run)), before, "{line}");
    }
    good(&format!("filter {run}"));
    assert_eq!(count(&run, "duplicate"), duplicates);
}

#[test]
fn pairs_that_are_gone_are_found_again_and_never_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let run = curated(dir.path(), "run", "");
    let duplicates = count(&run, "duplicate");
    let pairs = Path::new(&run).join("duplicates/pairs-00000.parquet");

    std::fs::remove_file(&pairs).unwrap();
    assert!(fails(1, &format!("filter {run}")).contains("clipsift dedup"));
    good(&format!("dedup {run}"));
    assert_eq!(count(&run, "duplicate"), duplicates);

    std::fs::remove_dir_all(Path::new(&run).join("duplicates")).unwrap();
    curated(dir.path(), "run", "");
    assert_eq!(count(&run, "duplicate"), duplicates);

    std::fs::write(&pairs, b"PAR1 and then nothing").unwrap();
    assert!(fails(1, &format!("filter {run}")).contains("damaged"));
    good(&format!("dedup {run}"));
    assert_eq!(count(&run, "duplicate"), duplicates);
}

#[test]
fn a_part_that_is_gone_is_missed_by_every_later_command() {
    let dir = tempfile::tempdir().unwrap();
    let run = curated(dir.path(), "run", "--part-size 20");
    std::fs::remove_file(Path::new(&run).join("samples/part-00001.parquet")).unwrap();
    for command in ["dedup", "filter", "write"] {
        let message = fails(2, &format!("{command} {run}"));
        assert!(
            message.contains("part 1 is not there"),
            "{command}: {message}"
        );
    }
    let read = curated(dir.path(), "run", "--part-size 20");
    assert_eq!(samples(Path::new(&read)).len(), 74);
}

#[test]
fn thresholds_that_no_number_meets_are_refused_and_the_run_stays_usable() {
    let dir = tempfile::tempdir().unwrap();
    let run = curated(dir.path(), "run", "");
    for bound in ["inf", "-inf", "nan"] {
        fails(2, &format!("filter {run} --max a={bound}"));
    }
    good(&format!("filter {run}"));
}

#[test]
fn restarts_and_another_order_are_not_taken_for_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let semantic = "--dedup semantic --clusters 12";
    let first = curated(dir.path(), "first", &format!("{semantic} --keep easy"));
    good(&format!(
        "dedup {first} {semantic} --keep hard --restarts 3"
    ));
    let fresh = curated(
        dir.path(),
        "fresh",
        &format!("{semantic} --keep hard --restarts 3"),
    );
    for file in [
        "clusters/centroids.safetensors",
        "duplicates/matches.parquet",
        "decisions.parquet",
    ] {
        let read = |run: &str| std::fs::read(Path::new(run).join(file)).unwrap();
        assert!(read(&first) == read(&fresh), "{file}");
    }
    // Only the order changes: clusters stay as they are, matches follow.
    let centroids = Path::new(&first).join("clusters/centroids.safetensors");
    let stamp = std::fs::metadata(&centroids).unwrap().modified().unwrap();
    good(&format!(
        "dedup {first} {semantic} --keep easy --restarts 3"
    ));
    let fresh = curated(
        dir.path(),
        "other",
        &format!("{semantic} --keep easy --restarts 3"),
    );
    let read =
        |run: &str| std::fs::read(Path::new(run).join("duplicates/matches.parquet")).unwrap();
    assert!(read(&first) == read(&fresh));
    assert_eq!(
        std::fs::metadata(&centroids).unwrap().modified().unwrap(),
        stamp
    );
}

#[test]
fn a_set_of_runs_notices_when_its_members_change() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, all) = (
        dir.path().join("a"),
        dir.path().join("b"),
        dir.path().join("all"),
    );
    let embed = |out: &Path, folder: &str, flags: &str| {
        good(&format!(
            "embed {}/{folder} --out {} {flags}",
            data("gallery").display(),
            out.display()
        ));
    };
    embed(&a, "portraits", "");
    embed(&b, "patterns", "");
    let dedup = format!(
        "dedup {} {} --out {}",
        a.display(),
        b.display(),
        all.display()
    );
    good(&dedup);
    embed(&b, "landscapes", "--overwrite");
    let message = fails(2, &format!("filter {}", all.display()));
    assert!(message.contains("have changed"), "{message}");
    good(&dedup);
    let ids: Vec<String> = decisions(&all).into_keys().collect();
    assert_eq!(ids.len(), samples(&a).len() + samples(&b).len());
    assert!(
        fails(
            2,
            &format!("dedup {0} {0} --out {1}", a.display(), all.display())
        )
        .contains("named twice")
    );
}

#[test]
fn a_score_that_is_added_later_stands_in_the_decisions_and_its_threshold_holds() {
    let dir = tempfile::tempdir().unwrap();
    let head = head_for_builtin(dir.path());
    let later = curated(dir.path(), "later", "--write none");
    good(&format!("score {later} --head mine={head} --min mine=0.0"));
    let once = curated(
        dir.path(),
        "once",
        &format!("--write none --head mine={head} --min mine=0.0"),
    );
    assert!(count(&once, "mine") > 0);
    assert_eq!(decisions(Path::new(&later)), decisions(Path::new(&once)));
}

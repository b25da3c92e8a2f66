//! `report.html`: what stands in it, for runs of every kind, and that its sliders count as the commands do.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::*;

fn page(run: &str) -> String {
    std::fs::read_to_string(Path::new(run).join("report.html")).unwrap()
}

/// The content of the element that opens with `open`.
fn element<'a>(page: &'a str, open: &str) -> &'a str {
    let (_, rest) = page
        .split_once(open)
        .unwrap_or_else(|| panic!("no {open} in the page"));
    rest.split_once("</script>").unwrap().0
}

fn slider_data(page: &str) -> Value {
    serde_json::from_str(element(
        page,
        r#"<script type="application/json" id="data">"#,
    ))
    .unwrap()
}

/// A number of the table at the end of a command.
fn printed(stdout: &str, name: &str) -> u64 {
    let line = stdout.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{stdout}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn the_gallerys_report_shows_groups_reasons_and_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (at, gallery) = (dir.path().display(), data("gallery").display().to_string());
    let stdout = good(&format!("curate {gallery} --out {at}/run"));
    assert!(stdout.contains("run/report.html"), "{stdout}");
    let page = page(&format!("{at}/run"));
    let run = dir.path().join("run");

    let decisions = decisions(&run);
    let fallen = decisions.values().filter(|d| d.0 == "duplicate").count();
    let (_, groups) = page.split_once(r#"<section id="duplicates">"#).unwrap();
    let groups = groups.split_once("</section>").unwrap().0;
    assert_eq!(groups.matches(r#"<b class="cosine">"#).count(), fallen);
    assert_eq!(
        groups.matches(r#"<b class="mark">kept</b>"#).count(),
        groups.matches(r#"<article class="group">"#).count()
    );
    for (id, (reason, of)) in decisions.iter().filter(|d| d.1.0 == "duplicate") {
        for id in [id, of] {
            assert!(groups.contains(&format!("title=\"{id}\"")), "{id} {reason}");
        }
    }
    for (id, (_, error)) in samples(&run).iter().filter(|s| s.1.0 == "bad") {
        assert!(page.contains(&format!("<bdi>{id}</bdi>")), "{id}: {error}");
    }
    assert!(!page.contains("no picture"), "every picture could be made");
    for outside in [
        "http://", "https://", "src=\"//", "url(", "@import", "<link",
    ] {
        assert!(!page.contains(outside), "the page names {outside}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.len() < 2_000_000, "{} bytes", page.len());

    // Anew, with another number of threads: the same page.
    let before = tree(&run);
    good(&format!("report {at}/run --threads 3"));
    assert_eq!(tree(&run)["report.html"], before["report.html"]);
}

#[test]
fn new_decisions_leave_no_stale_report() {
    let dir = tempfile::tempdir().unwrap();
    let (at, portraits) = (dir.path().display(), data("gallery/portraits"));
    let report = dir.path().join("run/report.html");
    let curate = format!("curate {} --out {at}/run", portraits.display());
    good(&format!("{curate} --no-report"));
    assert!(!report.exists());
    assert_eq!(
        good(&format!("report {at}/run")).trim(),
        report.display().to_string()
    );
    let stderr = clipsift(words(&format!("dedup {at}/run --eps 0.001"))).stderr;
    assert!(!report.exists());
    assert!(String::from_utf8_lossy(&stderr).contains("clipsift report"));
    good(&curate);
    assert!(report.exists());
    good(&format!("{curate} --no-report"));
    assert!(!report.exists());
}

#[test]
fn names_and_reasons_cannot_write_into_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "<img src=x onerror=alert(1)>.jpg",
        "\"><script>alert(1)<%script>.jpg",
        "' onload='x{{style}}.jpg",
        "\u{202e}gpj.exe.jpg",
        "</title>&lt;.jpg",
    ];
    let folder = dir.path().join("<b>in");
    std::fs::create_dir(&folder).unwrap();
    let image = data("gallery/portraits");
    let image = walkdir::WalkDir::new(image)
        .into_iter()
        .map(|e| e.unwrap().into_path());
    let image = image
        .filter(|p| p.extension().is_some_and(|e| e == "jpg"))
        .min()
        .unwrap();
    for name in names {
        std::fs::copy(&image, folder.join(name.replace('/', "%"))).unwrap();
    }
    std::fs::write(folder.join("<script>bad.jpg"), "<script>alert(2)</script>").unwrap();
    let run = dir.path().join("r'<i>un");
    let output = clipsift([
        Path::new("curate"),
        &folder,
        Path::new("--out"),
        &run,
        Path::new("--threads"),
        Path::new("1"),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page = page(&run.display().to_string());
    for raw in [
        "<img src=x",
        "<script>",
        "' onload=",
        "</title>&lt;",
        "<b>in",
        "<i>un",
    ] {
        assert!(!page.contains(raw), "{raw} stands in the page");
    }
    assert_eq!(
        page.matches("<script").count(),
        4,
        "two of data, two of code"
    );
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;.jpg"));
    assert!(
        page.contains("x{{style}}.jpg"),
        "a name opens no hole of the template"
    );
}

#[test]
fn runs_that_lack_a_stage_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (at, portraits) = (dir.path().display(), data("gallery/portraits"));
    let input = dir.path().join("portraits");
    std::fs::create_dir(&input).unwrap();
    for entry in std::fs::read_dir(portraits).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, input.join(path.file_name().unwrap())).unwrap();
    }
    good(&format!("embed {at}/portraits --out {at}/run"));
    good(&format!("report {at}/run"));
    for says in [
        "Nothing has been decided yet",
        "has no scores",
        "were not looked for",
        "No sliders",
    ] {
        assert!(page(&format!("{at}/run")).contains(says), "{says}");
    }
    good(&format!("curate {at}/portraits --out {at}/off --dedup off"));
    assert!(page(&format!("{at}/off")).contains("were not looked for"));
    assert_eq!(slider_data(&page(&format!("{at}/off")))["off"], true);

    // Nothing but a bad sample, and then inputs that are gone.
    std::fs::create_dir(dir.path().join("bad")).unwrap();
    std::fs::write(dir.path().join("bad/a.jpg"), b"").unwrap();
    good(&format!("curate {at}/bad --out {at}/none"));
    let none = page(&format!("{at}/none"));
    assert!(none.contains("the file is empty") && none.contains("No sample is a duplicate"));

    good(&format!("dedup {at}/run"));
    let first = std::fs::read_dir(&input)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&first, b"something else").unwrap();
    good(&format!("report {at}/run"));
    let changed = page(&format!("{at}/run"));
    assert!(
        changed.contains("data:image/jpeg"),
        "the other pictures are there"
    );
    std::fs::remove_dir_all(&input).unwrap();
    good(&format!("report {at}/run"));
    let gone = page(&format!("{at}/run"));
    assert!(gone.contains("No pictures:") && !gone.contains("data:image/jpeg"));
}

#[test]
fn nsfw_pictures_are_veiled() {
    let dir = tempfile::tempdir().unwrap();
    let (at, portraits) = (dir.path().display(), data("gallery/portraits"));
    let head = head_for_builtin(dir.path());
    let run = format!("{at}/run");
    good(&format!(
        "curate {} --out {run} --head nsfw={head}",
        portraits.display()
    ));
    let veils = || page(&run).matches(r#"<label class="frame veil">"#).count();
    let pictures = |page: &str| page.matches(r#"<figure class="card"#).count();
    assert_eq!(veils(), 0, "no score of the head is .5 or more");
    good(&format!("filter {run} --max nsfw=-9"));
    good(&format!("report {run}"));
    assert_eq!(veils(), pictures(&page(&run)));
    good(&format!("filter {run} --max nsfw=9"));
    good(&format!("report {run}"));
    assert_eq!(veils(), 0);
}

#[test]
fn a_set_of_runs_has_a_report_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let (at, gallery) = (dir.path().display(), data("gallery").display().to_string());
    for i in 1..=2 {
        good(&format!(
            "curate {gallery} --out {at}/{i} --partition {i}/2"
        ));
        assert!(!dir.path().join(format!("{i}/report.html")).exists());
    }
    good(&format!("dedup {at}/1 {at}/2 --out {at}/all"));
    good(&format!("report {at}/all"));
    let all = page(&format!("{at}/all"));
    assert!(all.contains("a set of 2 runs") && !all.contains("no picture"));
    good(&format!("curate {gallery} --out {at}/one"));
    let (all, one) = (slider_data(&all), slider_data(&page(&format!("{at}/one"))));
    assert_eq!(all, one, "the sliders work on the same pairs");
}

/// Settings as the page's script takes them -> its counts; None where there is no node.
fn count_in_page(page: &str, settings: &[Value]) -> Option<Vec<Value>> {
    let script = format!(
        "{}\nconst data = {};\nconst set = clipsift.unpack(data);\nconst all = {}.map(s => ({{\n\
         counts: Object.fromEntries(clipsift.count(set, s)),\n\
         commands: clipsift.commands('RUN', data, {{ eps: data.eps ? data.eps.value : null, thresholds: data.thresholds }}, s),\n\
         }}));\nconsole.log(JSON.stringify(all));\n",
        element(page, r#"<script id="decide">"#),
        element(page, r#"<script type="application/json" id="data">"#),
        json!(settings)
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("count.js");
    std::fs::write(&file, script).unwrap();
    let output = match Command::new("node").arg(&file).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: the page's script needs node, which does not start: {error}");
            return None;
        }
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_sliders_count_as_the_commands_do() {
    let dir = tempfile::tempdir().unwrap();
    let (at, gallery) = (dir.path().display(), data("gallery").display().to_string());
    let head = head_for_builtin(dir.path());
    for (name, flags) in [
        ("exact", "--dedup exact --eps 0.03"),
        (
            "chain",
            "--dedup exact --eps 0.05 --removal chain --keep random --seed 7",
        ),
        (
            "clusters",
            "--dedup semantic --clusters 4 --seed 3 --keep hard --eps 0.03",
        ),
        ("best", "--keep best:mine:asc --floor 0.5"),
    ] {
        let run = format!("{at}/{name}");
        good(&format!(
            "curate {gallery} --out {run} --write none --head mine={head} --head other={head} --min mine=-0.2 {flags}"
        ));
        let page = page(&run);
        let data = slider_data(&page);
        let mut settings = Vec::new();
        let max = data["eps"]["max"].as_f64().unwrap();
        for eps in [0.0, 0.0001, 0.004, 0.02, 0.03, 0.05, 0.081, max] {
            for (mine, other) in [
                (None, None),
                (Some(-0.2), None),
                (Some(0.01), Some(0.1)),
                (Some(9.0), None),
            ] {
                settings.push(json!({"eps": eps, "thresholds": [
                    {"score": 0, "bound": "min", "value": mine.unwrap_or(0.0), "on": mine.is_some()},
                    {"score": 1, "bound": "max", "value": other.unwrap_or(0.0), "on": other.is_some()},
                ]}));
            }
        }
        let Some(counted) = count_in_page(&page, &settings) else {
            return;
        };
        let pairs = std::fs::read(format!("{run}/duplicates/pairs-00000.parquet")).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for (settings, in_page) in settings.iter().zip(counted) {
            // The commands that the page shows, from the state it was made in.
            good(&format!("filter {run} --min mine=-0.2"));
            good(&format!(
                "dedup {run} {} --eps {}",
                data["dedup"].as_str().unwrap(),
                data["eps"]["value"]
            ));
            let mut stdout = None;
            for command in in_page["commands"].as_array().unwrap() {
                let command = command.as_str().unwrap().replace("RUN", &run);
                stdout = Some(good(command.strip_prefix("clipsift ").unwrap()));
            }
            let stdout = stdout.unwrap_or_else(|| good(&format!("filter {run} --min mine=-0.2")));
            let counts = &in_page["counts"];
            for name in ["read", "bad", "duplicates", "kept"] {
                assert_eq!(
                    counts[name],
                    printed(&stdout, name),
                    "{name} with {settings} in {name}\n{stdout}"
                );
            }
            for score in ["mine", "other"] {
                if let Some(count) = counts.get(format!("score:{score}")) {
                    assert_eq!(
                        *count,
                        printed(&stdout, &format!("not passing {score}")),
                        "{settings}"
                    );
                }
            }
            seen.insert(counts["duplicates"].as_u64());
        }
        assert!(
            seen.len() > 4,
            "{name}: the settings hardly differ: {seen:?}"
        );
        let after = std::fs::read(format!("{run}/duplicates/pairs-00000.parquet")).unwrap();
        assert!(pairs == after, "{name}: a command compared all pairs anew");
    }
}

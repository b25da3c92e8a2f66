//! `report.html` in a browser: headless Chromium, led by chromedriver over WebDriver (W3C). Where they are absent the tests say that
//! they were skipped.
//!
//! `CLIPSIFT_SCREENSHOTS=DIR` keeps what the pages look like.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::*;

const WIDTH: u32 = 1200;

/// A browser with one page, for as long as the value lives.
struct Browser {
    driver: Child,
    session: String,
}

impl Browser {
    /// None, and a word on it, where there is none. On a busy machine a browser may not come up in time: it is tried again.
    fn open() -> Option<Browser> {
        (0..3).find_map(|_| Browser::try_open())
    }

    fn try_open() -> Option<Browser> {
        let started = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = match started {
            Ok(driver) => driver,
            Err(error) => {
                eprintln!("skipped: chromedriver does not start: {error}");
                return None;
            }
        };
        let said = BufReader::new(driver.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let port = said.filter_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let Some(port) = { port }.next() else {
            eprintln!("skipped: chromedriver names no port");
            let _ = driver.kill();
            return None;
        };
        let root = format!("http://127.0.0.1:{port}/session");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--force-device-scale-factor=1",
            &format!("--window-size={WIDTH},900"),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let mut browser = Browser {
            driver,
            session: root.clone(),
        };
        let opened = match call("POST", &root, Some(&wanted)) {
            Ok(opened) => opened,
            Err(reason) => {
                // The driver is there and the browser is not.
                eprintln!("skipped: Chromium does not start: {reason}");
                return None;
            }
        };
        browser.session = format!("{root}/{}", opened["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn post(&self, path: &str, body: Value) -> Value {
        call("POST", &format!("{}/{path}", self.session), Some(&body)).unwrap()
    }

    fn visit(&self, page: &Path) -> String {
        let url = format!("file://{}", page.display());
        self.post("url", json!({"url": url}));
        url
    }

    fn script(&self, code: &str, args: Value) -> Value {
        self.post("execute/sync", json!({"script": code, "args": args}))
    }

    /// What is on the screen after the page was scrolled to an element, kept where that is asked for. Gives the PNG.
    fn screenshot(&self, name: &str, element: &str) -> Vec<u8> {
        self.script(
            "document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant'})",
            json!([element]),
        );
        let shot = call("GET", &format!("{}/screenshot", self.session), None).unwrap();
        let png = base64(shot.as_str().unwrap());
        if let Some(dir) = std::env::var_os("CLIPSIFT_SCREENSHOTS") {
            std::fs::write(Path::new(&dir).join(format!("{name}.png")), &png).unwrap();
        }
        png
    }

    /// That nothing was complained about, and nothing was loaded but the page.
    fn assert_clean(&self, url: &str) {
        let console = self.post("se/log", json!({"type": "browser"}));
        assert_eq!(console, json!([]), "the console is not empty");
        let log = self.post("se/log", json!({"type": "performance"}));
        for entry in log.as_array().unwrap() {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let loaded = message["params"]["request"]["url"].as_str().unwrap();
                assert!(
                    loaded == url || loaded.starts_with("data:"),
                    "{loaded} was loaded"
                );
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = call("DELETE", &self.session, None);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// One command of WebDriver: its value, or what the driver says against it.
fn call(method: &str, url: &str, body: Option<&Value>) -> Result<Value, String> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None);
    let agent: ureq::Agent = config.build().into();
    let answered = match (method, body) {
        ("POST", Some(body)) => agent
            .post(url)
            .header("Content-Type", "application/json")
            .send(body.to_string()),
        ("DELETE", _) => agent.delete(url).call(),
        _ => agent.get(url).call(),
    };
    let mut response = answered.map_err(|e| e.to_string())?;
    let limit = 1 << 30;
    let text = response
        .body_mut()
        .with_config()
        .limit(limit)
        .read_to_string();
    let mut value: Value =
        serde_json::from_str(&text.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    match response.status().is_success() {
        true => Ok(value["value"].take()),
        false => Err(value["value"]["message"].to_string()),
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let number = four
            .iter()
            .fold(0_u32, |n, c| n << 6 | u32::from(value(*c)));
        let number = number << (6 * (4 - four.len()));
        bytes.extend_from_slice(&number.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// How many different colours a picture has, as far as 50 of them: an empty page has few.
fn colours(png: &[u8]) -> usize {
    let picture = image::load_from_memory(png).unwrap().to_rgb8();
    let mut seen = std::collections::BTreeSet::new();
    for pixel in picture.pixels() {
        seen.insert(pixel.0);
        if seen.len() >= 50 {
            break;
        }
    }
    seen.len()
}

const SLIDERS: &str = "return [...document.querySelectorAll('input[type=range]')].map(e => [e.id, Number(e.min), Number(e.max)])";
const MOVE: &str =
    "const slider = document.getElementById(arguments[0]); slider.value = arguments[1];
    slider.dispatchEvent(new Event('input'));";
const COUNTS: &str = "return Object.fromEntries([...document.querySelectorAll('[data-count]')]
    .map(cell => [cell.dataset.count, Number(cell.dataset.value)]))";
const COMMAND: &str = "return document.getElementById('command').textContent";

/// The counts that the commands of the page print when they are run on a copy of the run.
fn applied(run: &Path, commands: &str) -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("run");
    for (name, bytes) in tree_as_it_is(run) {
        let path = copy.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let mut stdout = String::new();
    for line in commands.lines() {
        let typed = line.strip_prefix("clipsift ").unwrap();
        let here = typed.replace(&run.display().to_string(), &copy.display().to_string());
        assert_ne!(here, typed, "the command names the run");
        stdout = good(&here);
    }
    let rows = stdout.lines().filter_map(|line| {
        let (name, count) = line.rsplit_once(' ')?;
        Some((name.trim().to_string(), count.parse().ok()?))
    });
    rows.collect()
}

fn tree_as_it_is(root: &Path) -> Vec<(String, Vec<u8>)> {
    let files = walkdir::WalkDir::new(root)
        .into_iter()
        .map(|e| e.unwrap().into_path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn sliders_moved_in_a_browser_count_as_the_commands_they_show() {
    let Some(browser) = Browser::open() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let head = head_for_builtin(dir.path());
    let run = dir.path().join("run");
    good(&format!(
        "curate {} --out {} --write none --head mine={head} --head nsfw={head} --min mine=-0.2 --max nsfw=0.1 --eps 0.03",
        data("gallery").display(),
        run.display()
    ));
    let url = browser.visit(&run.join("report.html"));
    let sliders = browser.script(SLIDERS, json!([]));
    let sliders: Vec<(String, f64, f64)> = serde_json::from_value(sliders).unwrap();
    let names: Vec<&str> = sliders.iter().map(|s| s.0.as_str()).collect();
    assert_eq!(names, ["slider-0", "slider-1", "slider-eps"]);

    let mut seen = std::collections::BTreeSet::new();
    for (places, moved) in [
        (vec![2], 0.0),
        (vec![2], 0.1),
        (vec![2], 0.55),
        (vec![2], 1.0),
        (vec![0], 0.3),
        (vec![0], 0.95),
        (vec![1], 0.8),
        (vec![0, 1, 2], 0.5),
        (vec![0, 2], 0.35),
    ] {
        browser.script("document.getElementById('reset').click()", json!([]));
        for at in &places {
            let (id, low, high) = &sliders[*at];
            browser.script(MOVE, json!([id, low + (high - low) * moved]));
        }
        let counts = browser.script(COUNTS, json!([]));
        let commands = browser.script(COMMAND, json!([]));
        let commands = commands.as_str().unwrap();
        let told = applied(&run, commands);
        for (key, count) in counts.as_object().unwrap() {
            let name = match key.strip_prefix("score:") {
                Some(score) => format!("not passing {score}"),
                None => key.clone(),
            };
            let got = told.get(&name).copied().unwrap_or(0);
            assert_eq!(count, got, "{name} in the page and by\n{commands}");
        }
        assert!(
            commands.contains("dedup") == places.contains(&2)
                && commands.contains("filter") == (places[0] < 2),
            "only what is moved is in the commands: {commands}"
        );
        seen.insert(counts.to_string());
    }
    assert!(seen.len() >= 7, "the settings hardly differ: {seen:?}");

    // A click shows what is blurred, and only that.
    let blur = |n: usize| {
        let code =
            "return getComputedStyle(document.querySelectorAll('.veil img')[arguments[0]]).filter";
        browser
            .script(code, json!([n]))
            .as_str()
            .unwrap()
            .to_string()
    };
    assert!(
        blur(0).contains("blur") && blur(1).contains("blur"),
        "{} {}",
        blur(0),
        blur(1)
    );
    browser.script("document.querySelector('.veil').click()", json!([]));
    assert_eq!(blur(0), "none");
    assert!(blur(1).contains("blur"));

    let wide = browser.script(
        "return document.documentElement.scrollWidth <= innerWidth",
        json!([]),
    );
    assert_eq!(wide, true, "the page is wider than its window");
    for (name, element) in [
        ("top", "header"),
        ("scores", "#scores"),
        ("duplicates", "#duplicates"),
        ("bad", "#bad"),
    ] {
        assert_eq!(
            colours(&browser.screenshot(name, element)),
            50,
            "{name} is empty"
        );
    }
    browser.assert_clean(&url);

    // On a telephone, too.
    browser.post("window/rect", json!({"width": 500, "height": 800}));
    let wide = browser.script(
        "return document.documentElement.scrollWidth <= innerWidth",
        json!([]),
    );
    assert_eq!(wide, true, "the page is wider than a narrow window");
    browser.screenshot("narrow", "header");
}

#[test]
fn the_page_of_a_run_without_scores_or_pictures_is_clean_in_a_browser() {
    let Some(browser) = Browser::open() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    good(&format!(
        "embed {} --out {at}/run",
        data("gallery/portraits").display()
    ));
    good(&format!("report {at}/run"));
    let url = browser.visit(&dir.path().join("run/report.html"));
    let hidden = browser.script("return document.getElementById('panel').hidden", json!([]));
    assert_eq!(hidden, true, "no sliders before anything is decided");
    assert_eq!(colours(&browser.screenshot("undecided", "header")), 50);
    browser.assert_clean(&url);
}

//! Models and heads by name: the command against a hub that a thread of the test plays. No other network is touched.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::common::*;

/// A request that the hub saw; header names in lower case.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
}

/// What it answered.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are sent before the connection breaks.
    cut: Option<usize>,
}

impl Answer {
    fn status(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: b"no".to_vec(),
            cut: None,
        }
    }
}

/// A hub on this machine, for as long as the value lives.
struct Hub {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    fn start(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, closing) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::default());
        let (log, close) = (Arc::clone(&asked), Arc::<AtomicBool>::clone(&closing));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if close.load(Ordering::SeqCst) {
                    return;
                }
                // A client that goes away in the middle is no matter of the hub's.
                let _ = stream.and_then(|stream| converse(&stream, &answer, &log));
            }
        });
        Hub {
            address,
            asked,
            closing,
            thread: Some(thread),
        }
    }

    /// A hub with repositories; see [`Place`].
    fn with(places: Vec<Place>) -> Hub {
        Hub::start(move |request| place_answer(&places, request))
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// The files of a repository that were asked for, each once, in order.
    fn files(&self, repo: &str, revision: &str) -> Vec<String> {
        let root = format!("/{repo}/resolve/{revision}/");
        let mut files = Vec::new();
        for request in self.asked() {
            if let Some(file) = request.path.strip_prefix(&root)
                && !files.iter().any(|known| known == file)
            {
                files.push(file.to_string());
            }
        }
        files
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request and its answer on a connection of its own.
fn converse(
    stream: &TcpStream,
    answer: &impl Fn(&Request) -> Answer,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let Some(path) = first.strip_prefix("GET ").and_then(|l| l.split(' ').next()) else {
        return Ok(());
    };
    let mut request = Request {
        path: path.into(),
        headers: BTreeMap::new(),
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        request
            .headers
            .insert(name.to_lowercase(), value.trim().to_string());
    }
    let answer = answer(&request);
    log.lock().unwrap().push(request);
    let mut head = format!(
        "HTTP/1.1 {} -\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut out = stream;
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])?;
    Ok(())
}

/// A repository at a revision: the files of a folder.
struct Place {
    repo: &'static str,
    revision: &'static str,
    folder: PathBuf,
}

fn place(repo: &'static str, revision: &'static str, folder: impl Into<PathBuf>) -> Place {
    Place {
        repo,
        revision,
        folder: folder.into(),
    }
}

/// As the public hub answers: small files from a path of its own, to which it sends on with a relative address; large ones
/// from another place, to which it sends on with a whole one after having said what they are.
fn place_answer(places: &[Place], request: &Request) -> Answer {
    let parts: Vec<&str> = request.path.split('/').skip(1).collect();
    let (at, file, direct) = match parts[..] {
        ["small" | "large", at, file] => (at.parse().ok(), file, true),
        [owner, name, "resolve", revision, file] => {
            let repo = format!("{owner}/{name}");
            let at = places
                .iter()
                .position(|p| p.repo == repo && p.revision == revision);
            (at, file, false)
        }
        _ => (None, "", false),
    };
    let Some(at) = at else {
        return Answer::status(404);
    };
    let Ok(bytes) = std::fs::read(places[at].folder.join(file)) else {
        return Answer::status(404);
    };
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let commit = ("X-Repo-Commit", format!("{:040x}", at + 1));
    let small = file.ends_with(".json");
    if direct {
        let mut answer = ranged(&bytes, request);
        answer.headers.push(("ETag", format!("\"{digest}\"")));
        if small {
            answer.headers.push(commit);
        }
        return answer;
    }
    let mut answer = Answer::status(if small { 307 } else { 302 });
    answer.headers = if small {
        vec![("Location", format!("/small/{at}/{file}"))]
    } else {
        let host = &request.headers["host"];
        vec![
            ("Location", format!("http://{host}/large/{at}/{file}")),
            ("X-Linked-ETag", format!("\"{digest}\"")),
            ("X-Linked-Size", bytes.len().to_string()),
            ("ETag", "\"that of the redirection\"".into()),
            commit,
        ]
    };
    answer
}

/// The part of a file that `Range: bytes=A-[B]` asks for.
fn ranged(bytes: &[u8], request: &Request) -> Answer {
    let total = bytes.len();
    let range = request
        .headers
        .get("range")
        .and_then(|r| r.strip_prefix("bytes="));
    let (first, last) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
    let first: usize = first.parse().unwrap();
    let end = last.parse().map_or(total, |last: usize| last + 1);
    if first >= total {
        return Answer::status(416);
    }
    Answer {
        status: 206,
        headers: vec![(
            "Content-Range",
            format!("bytes {first}-{}/{total}", end - 1),
        )],
        body: bytes[first..end].to_vec(),
        cut: None,
    }
}

/// A home for the cache and a place for runs.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new() -> User {
        User {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.run("huggingface")
    }

    /// The line with `{run}` in front of names of runs, against an endpoint, with more variables.
    fn ask(&self, endpoint: &str, variables: &[(&str, &str)], line: &str) -> Output {
        let mut command = command();
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(proxy).env_remove(proxy.to_lowercase());
        }
        command
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_TOKEN")
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HOME", self.home())
            .envs(variables.iter().copied())
            .args(words(line))
            .output()
            .unwrap()
    }

    /// `curate` of the portraits with a model, into a run of that name.
    fn curate(&self, endpoint: &str, variables: &[(&str, &str)], run: &str, flags: &str) -> Output {
        let line = format!(
            "curate {} --out {} {flags}",
            data("gallery/portraits").display(),
            self.run(run).display()
        );
        self.ask(endpoint, variables, &line)
    }

    /// [`User::curate`] that must end well.
    fn good(&self, endpoint: &str, variables: &[(&str, &str)], run: &str, flags: &str) {
        let output = self.curate(endpoint, variables, run, flags);
        assert!(output.status.success(), "{flags}\n{}", stderr(&output));
    }

    fn embeddings(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        tree(&self.run(run).join("embeddings"))
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const OFFLINE: &[(&str, &str)] = &[("HF_HUB_OFFLINE", "1")];

/// An endpoint that nobody listens at.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn a_model_by_name_is_downloaded_once_and_then_comes_from_the_cache() {
    let user = User::new();
    let hub = Hub::with(vec![place("some/tiny-clip", "main", data("tiny-clip"))]);
    user.good(&hub.endpoint(), &[], "online", "--model some/tiny-clip");
    assert_eq!(
        hub.files("some/tiny-clip", "main"),
        [
            "config.json",
            "preprocessor_config.json",
            "model.safetensors"
        ],
        "what is needed and nothing else"
    );
    let asked = hub.asked().len();
    user.good(&hub.endpoint(), &[], "again", "--model some/tiny-clip");
    assert_eq!(hub.asked().len(), asked, "the cache is asked first");
    drop(hub);

    user.good(NOBODY, OFFLINE, "offline", "--model some/tiny-clip");
    assert_same_tree(&user.run("online"), &user.run("offline"));
    let local = format!("--model {}", data("tiny-clip").display());
    user.good(NOBODY, OFFLINE, "local", &local);
    assert!(user.embeddings("online") == user.embeddings("local"));
}

#[test]
fn an_endpoint_may_end_in_a_slash() {
    let user = User::new();
    let hub = Hub::with(vec![place("some/tiny-clip", "main", data("tiny-clip"))]);
    let endpoint = format!("{}/", hub.endpoint());
    user.good(&endpoint, &[], "run", "--model some/tiny-clip");
}

#[test]
fn sharded_and_pickled_repositories_are_models_too() {
    let user = User::new();
    let hub = Hub::with(vec![
        place("some/sharded", "main", data("tiny-clip-gelu")),
        place("some/pickled", "main", data("tiny-clip-bin")),
    ]);
    for (repo, folder) in [("sharded", "tiny-clip-gelu"), ("pickled", "tiny-clip-bin")] {
        let model = format!("--model some/{repo}");
        user.good(&hub.endpoint(), &[], repo, &model);
        user.good(NOBODY, OFFLINE, &format!("{repo}-offline"), &model);
        assert_same_tree(&user.run(repo), &user.run(&format!("{repo}-offline")));
        let local = format!("--model {}", data(folder).display());
        user.good(NOBODY, OFFLINE, folder, &local);
        assert!(user.embeddings(repo) == user.embeddings(folder), "{repo}");
    }
}

#[test]
fn a_revision_is_asked_for_and_kept_apart() {
    let user = User::new();
    let hub = Hub::with(vec![
        place("some/model", "main", data("tiny-clip")),
        place("some/model", "v2", data("tiny-clip-gelu")),
        place("some/model", "refs%2Fpr%2F3", data("tiny-clip-bin")),
    ]);
    let endpoint = hub.endpoint();
    let model = "--model some/model --revision";
    user.good(&endpoint, &[], "v2", &format!("{model} v2"));
    assert!(hub.files("some/model", "main").is_empty());
    user.good(&endpoint, &[], "main", "--model some/model");
    user.good(&endpoint, &[], "pr", &format!("{model} refs/pr/3"));
    drop(hub);
    for (run, folder) in [
        ("v2", "tiny-clip-gelu"),
        ("main", "tiny-clip"),
        ("pr", "tiny-clip-bin"),
    ] {
        let local = format!("--model {}", data(folder).display());
        user.good(NOBODY, OFFLINE, folder, &local);
        assert!(user.embeddings(run) == user.embeddings(folder), "{run}");
    }
    user.good(NOBODY, OFFLINE, "v2-offline", &format!("{model} v2"));
    assert_same_tree(&user.run("v2"), &user.run("v2-offline"));

    let output = user.curate(NOBODY, OFFLINE, "v9", &format!("{model} v9"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let output = user.curate(NOBODY, OFFLINE, "builtin", "--revision v2");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn the_token_goes_with_every_request() {
    let sent = |user: &User, variables: &[(&str, &str)]| {
        let hub = Hub::start(|request| match request.headers.get("authorization") {
            Some(_) => place_answer(&[place("some/gated", "main", data("tiny-clip"))], request),
            None => Answer::status(401),
        });
        let output = user.curate(&hub.endpoint(), variables, "run", "--model some/gated");
        let mut sent: Vec<Option<String>> = hub
            .asked()
            .iter()
            .map(|request| request.headers.get("authorization").cloned())
            .collect();
        sent.dedup();
        (output, sent)
    };
    let bearer = |token: &str| vec![Some(format!("Bearer {token}"))];

    let user = User::new();
    let (output, tokens) = sent(&user, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("HF_TOKEN"), "{}", stderr(&output));
    assert_eq!(tokens, [None]);
    let (output, tokens) = sent(&user, &[("HF_TOKEN", "hf_secret")]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(tokens, bearer("hf_secret"));
    let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("hf_secret"), "{said}");

    // Python's `hf auth login` leaves it in a file; the variable wins over that.
    for (variables, token) in [
        (&[][..], "hf_stored"),
        (&[("HF_TOKEN", " ")][..], "hf_stored"),
        (&[("HF_TOKEN", "hf_named")][..], "hf_named"),
    ] {
        let user = User::new();
        std::fs::create_dir(user.home()).unwrap();
        std::fs::write(user.home().join("token"), "hf_stored\n").unwrap();
        let (output, tokens) = sent(&user, variables);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(tokens, bearer(token));
    }
}

#[test]
fn a_model_that_is_not_to_be_had_is_refused_at_once_with_what_to_do() {
    let user = User::new();
    let folder = user.run("config-alone");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(data("tiny-clip/config.json"), folder.join("config.json")).unwrap();
    let places = Hub::with(vec![place("some/config-alone", "main", folder)]);
    let status = |status| Hub::start(move |_| Answer::status(status));
    let (closed, forbidden, broken) = (status(401), status(403), status(503));
    let cases = [
        (
            places.endpoint(),
            "some/absent",
            &[][..],
            "no such repository",
        ),
        (
            places.endpoint(),
            "some/config-alone",
            &[],
            "no model.safetensors",
        ),
        (closed.endpoint(), "some/model", &[], "HF_TOKEN"),
        (forbidden.endpoint(), "some/model", &[], "HF_TOKEN"),
        (broken.endpoint(), "some/model", &[], "503"),
        (broken.endpoint(), "some/model", &[], "give its folder"),
        (NOBODY.into(), "some/model", &[], "give its folder"),
        (NOBODY.into(), "some/model", &[], "HF_HUB_OFFLINE=1"),
        (
            NOBODY.into(),
            "some/model",
            OFFLINE,
            "HF_HUB_OFFLINE is set",
        ),
        (NOBODY.into(), "some/model", OFFLINE, "give a folder"),
        ("no address".into(), "some/model", &[], "give its folder"),
    ];
    for (endpoint, model, variables, word) in cases {
        for flags in [format!("--model {model}"), format!("--head mine={model}")] {
            let begun = Instant::now();
            let output = user.curate(&endpoint, variables, "run", &flags);
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{flags}\n{message}");
            assert!(
                message.contains(model) && message.contains(word),
                "{endpoint} {flags}\nsays {message}\nbut not {word}"
            );
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{endpoint} {flags} took long to be refused"
            );
            assert!(
                !user.run("run/samples").exists(),
                "{endpoint} {flags}: an image was decoded first"
            );
        }
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let user = User::new();
    let whole = std::fs::metadata(data("tiny-clip/model.safetensors"))
        .unwrap()
        .len() as usize;
    let half = whole / 2;
    let hub = Hub::start(move |request| {
        let places = [place("some/tiny-clip", "main", data("tiny-clip"))];
        let mut answer = place_answer(&places, request);
        if answer.body.len() == whole {
            answer.cut = Some(half);
        }
        answer
    });
    let model = "--model some/tiny-clip";
    let output = user.curate(&hub.endpoint(), &[], "run", model);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!user.run("run/samples").exists());

    user.good(&hub.endpoint(), &[], "run", model);
    let last = hub.asked().pop().unwrap();
    assert_eq!(last.headers["range"], format!("bytes={half}-"));
    let local = format!("--model {}", data("tiny-clip").display());
    user.good(NOBODY, OFFLINE, "local", &local);
    assert!(user.embeddings("run") == user.embeddings("local"));
}

/// A linear head over tiny-clip's 40 dims, its tensor under a prefix.
fn write_head(path: &Path, prefix: &str) {
    let weight: Vec<f32> = (0..40).map(|i| (i % 7) as f32 - 3.0).collect();
    let weight = candle_core::Tensor::from_vec(weight, (1, 40), &candle_core::Device::Cpu).unwrap();
    let tensors = HashMap::from([(format!("{prefix}weight"), weight)]);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn heads_by_name_are_files_of_a_repository() {
    let user = User::new();
    let plan = r#"{"layers": [{"linear": "fc"}, "sigmoid"]}"#;
    let folder = |name: &str| {
        let folder = user.run(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    let (plain, odd) = (folder("plain"), folder("odd"));
    write_head(&plain.join("model.safetensors"), "");
    for stem in ["model", "other"] {
        write_head(&odd.join(format!("{stem}.safetensors")), "fc.");
        std::fs::write(odd.join(format!("{stem}.json")), plan).unwrap();
    }
    let hub = Hub::with(vec![
        place("some/plain", "main", plain.clone()),
        place("some/odd", "main", odd.clone()),
    ]);
    let tower = format!("--model {}", data("tiny-clip").display());
    let by_name = format!(
        "{tower} --head a=some/plain --head b=some/odd --head c=some/odd:other.safetensors"
    );
    user.good(&hub.endpoint(), &[], "online", &by_name);
    assert_eq!(hub.files("some/plain", "main"), ["model.safetensors"]);
    drop(hub);
    user.good(NOBODY, OFFLINE, "offline", &by_name);
    assert_same_tree(&user.run("online"), &user.run("offline"));

    let (plain, odd) = (plain.display(), odd.display());
    let by_path = format!(
        "{tower} --head a={plain}/model.safetensors --head b={odd}/model.safetensors --head c={odd}/other.safetensors"
    );
    user.good(NOBODY, OFFLINE, "local", &by_path);
    let scores = |run: &str| tree(&user.run(run).join("scores"));
    assert!(scores("online") == scores("local"));
    assert_eq!(scores("local").len(), 3);
}

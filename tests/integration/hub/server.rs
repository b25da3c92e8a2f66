//! A hub that a thread of the test plays, and a user with a cache of their own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::common::*;

/// A request that the hub saw; header names in lower case.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Bytes of the body that are sent before the connection breaks.
    pub(super) cut: Option<usize>,
    /// How long nothing is sent before it breaks.
    pub(super) stall: Duration,
}

impl Answer {
    pub(super) fn status(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: b"no".to_vec(),
            cut: None,
            stall: Duration::ZERO,
        }
    }
}

/// A hub on this machine, for as long as the value lives.
pub(super) struct Hub {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    pub(super) fn start(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Hub {
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
    pub(super) fn with(places: Vec<Place>) -> Hub {
        Hub::start(move |request| place_answer(&places, request))
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    /// The files of a repository that were asked for, each once, in order.
    pub(super) fn files(&self, repo: &str, revision: &str) -> Vec<String> {
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
    std::thread::sleep(answer.stall);
    Ok(())
}

/// A repository at a revision: the files of a folder.
pub(super) struct Place {
    pub(super) repo: &'static str,
    pub(super) revision: &'static str,
    pub(super) folder: PathBuf,
}

pub(super) fn place(
    repo: &'static str,
    revision: &'static str,
    folder: impl Into<PathBuf>,
) -> Place {
    Place {
        repo,
        revision,
        folder: folder.into(),
    }
}

/// As the public hub answers: small files from a path of its own, to which it sends on with a relative address; large ones
/// from another place, to which it sends on with a whole one after having said what they are.
pub(super) fn place_answer(places: &[Place], request: &Request) -> Answer {
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
pub(super) fn ranged(bytes: &[u8], request: &Request) -> Answer {
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
        stall: Duration::ZERO,
    }
}

/// A home for the cache and a place for runs.
pub(super) struct User {
    pub(super) dir: tempfile::TempDir,
}

impl User {
    pub(super) fn new() -> User {
        User {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn home(&self) -> PathBuf {
        self.run("huggingface")
    }

    /// The line with `{run}` in front of names of runs, against an endpoint, with more variables.
    pub(super) fn ask(&self, endpoint: &str, variables: &[(&str, &str)], line: &str) -> Output {
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
    pub(super) fn curate(
        &self,
        endpoint: &str,
        variables: &[(&str, &str)],
        run: &str,
        flags: &str,
    ) -> Output {
        let line = format!(
            "curate {} --out {} {flags}",
            data("gallery/portraits").display(),
            self.run(run).display()
        );
        self.ask(endpoint, variables, &line)
    }

    /// [`User::curate`] that must end well.
    pub(super) fn good(&self, endpoint: &str, variables: &[(&str, &str)], run: &str, flags: &str) {
        let output = self.curate(endpoint, variables, run, flags);
        assert!(output.status.success(), "{flags}\n{}", stderr(&output));
    }

    pub(super) fn embeddings(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        tree(&self.run(run).join("embeddings"))
    }
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(super) const OFFLINE: &[(&str, &str)] = &[("HF_HUB_OFFLINE", "1")];

/// An endpoint that nobody listens at.
pub(super) const NOBODY: &str = "http://127.0.0.1:1";

/// The sha256 by which the hub names a file.
pub(super) fn place_sum(file: &std::path::Path) -> String {
    let bytes = std::fs::read(file).unwrap();
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

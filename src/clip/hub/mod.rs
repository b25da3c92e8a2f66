//! Files of a Hugging Face hub repository, in the cache that is shared with Python.
//!
//! `HF_HOME` says where the cache is, `HF_ENDPOINT` which hub, `HF_TOKEN` (else the token file in `HF_HOME`) who asks;
//! `HF_HUB_OFFLINE=1` forbids the network; `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT` are seconds that a connection and a
//! byte may take. What is in the cache is used without asking.
//!
//! The layout is hf-hub's: `blobs/ETAG`, `snapshots/COMMIT/FILE` that points there, `refs/REVISION`. A download grows as
//! `blobs/ETAG.part` under a lock, is gone on with where it broke off, and gets its name once its checksum is right: the manifest's,
//! or the sha256 by which a hub names large files.

mod download;
mod place;

use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::weights;
use crate::digest::sha256_file;
use crate::error::{Error, Result};
use crate::manifest;
use download::{Client, Failure};

/// The hub, unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";

/// The weights of a model, in the order in which they are looked for.
const WEIGHTS: [&str; 3] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
];

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer<'a> {
    /// The file.
    pub name: &'a str,
    /// Bytes that are here, those of earlier tries among them.
    pub done: u64,
    /// Bytes in all, where known.
    pub size: Option<u64>,
}

/// Is told of downloads, some times a megabyte; an error ends them, and what has come is kept.
pub type Watch<'a> = dyn Fn(&Transfer) -> Result<()> + 'a;

/// Nobody watches.
pub(crate) const UNWATCHED: &Watch = &|_| Ok(());

/// One repository at one revision.
pub struct HubRepo<'a> {
    id: String,
    revision: Option<String>,
    /// The repository's folder in the cache.
    folder: PathBuf,
    cached: CacheRepo,
    endpoint: String,
    /// None when offline.
    client: Option<Client>,
    watch: &'a Watch<'a>,
}

impl HubRepo<'_> {
    /// A repository such as `openai/clip-vit-base-patch32`; the revision (branch, tag or commit) is `main` by default.
    /// Nothing is asked of the network yet.
    pub fn new(id: &str, revision: Option<&str>) -> HubRepo<'static> {
        HubRepo::watched(id, revision, UNWATCHED)
    }

    /// [`HubRepo::new`], with somebody to watch its downloads.
    pub fn watched<'a>(id: &str, revision: Option<&str>, watch: &'a Watch<'a>) -> HubRepo<'a> {
        let repo = Repo::with_revision(
            id.into(),
            RepoType::Model,
            revision.unwrap_or("main").into(),
        );
        let cache = Cache::from_env();
        // Python's client, too, takes an endpoint with a slash at its end.
        let endpoint = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|e| !e.trim().is_empty());
        let endpoint = endpoint.unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim().trim_end_matches('/').to_string();
        let token = std::env::var("HF_TOKEN").ok();
        let token = token
            .map(|t| t.trim().to_string())
            .filter(|t| !t.is_empty());
        let client = (!offline()).then(|| {
            let token = token.or_else(|| cache.token());
            Client::new(token, Some(&endpoint))
        });
        HubRepo {
            id: id.into(),
            revision: revision.map(String::from),
            folder: cache.path().join(repo.folder_name()),
            cached: cache.repo(repo),
            endpoint,
            client,
            watch,
        }
    }

    /// The same repository, of which only the cache is looked at.
    pub fn cache_only(mut self) -> Self {
        self.client = None;
        self
    }

    /// A file of the repository, from the cache, else downloaded; None where the repository does not have it.
    ///
    /// # Errors
    /// [`Error::Model`] that says what to do: no such repository, no access, no connection, another content than was promised.
    pub fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        if let Some(path) = self.cached.get(file) {
            return Ok(Some(path));
        }
        match &self.client {
            Some(client) => self.download(client, file),
            None => Ok(None),
        }
    }

    /// A file that must be there.
    ///
    /// # Errors
    /// As [`HubRepo::find`], and where the repository does not have it.
    pub fn get(&self, file: &str) -> Result<PathBuf> {
        self.find(file)?.ok_or_else(|| self.missing(file))
    }

    /// The error that a file is neither in the cache nor to be had.
    pub fn missing(&self, file: &str) -> Error {
        let reason = match self.client {
            None => format!(
                "HF_HUB_OFFLINE is set and {file} is not in the cache at {}; unset it, or give a folder",
                self.folder.display()
            ),
            Some(_) => format!("the hub has no such repository, or no {file} in it"),
        };
        Error::model(&self.id, reason)
    }

    /// The files of a CLIP: its config, how it wants its pixels, and its weights. Gives the folder that they are in.
    ///
    /// # Errors
    /// As [`HubRepo::get`].
    pub fn model(&self) -> Result<PathBuf> {
        let config = self.get("config.json")?;
        // An optional file; the folder is read by the names of its files.
        self.find("preprocessor_config.json")?;
        for name in WEIGHTS {
            let Some(path) = self.find(name)? else {
                continue;
            };
            if name.ends_with(".index.json") {
                for part in weights::parts_of(&self.id, &path)? {
                    self.get(&file_name(&part))?;
                }
            }
            return Ok(config.parent().unwrap_or(Path::new(".")).into());
        }
        Err(self.missing("model.safetensors (or its index, or pytorch_model.bin)"))
    }

    fn download(&self, client: &Client, file: &str) -> Result<Option<PathBuf>> {
        let revision = place::encode(self.revision.as_deref().unwrap_or("main"), "");
        let url = format!(
            "{}/{}/resolve/{revision}/{}",
            self.endpoint,
            self.id,
            place::encode(file, "/")
        );
        let about = match client.about(&url) {
            Ok(about) => about,
            Err(Failure::Status(404)) => return Ok(None),
            Err(failure) => return Err(self.failed(file, failure, None)),
        };
        let named = |header: &str, value: Option<String>| {
            let value = value.filter(|value| place::is_plain(value));
            let reason = format!(
                "cannot download {file}: {} sent no usable {header}",
                self.endpoint
            );
            value.ok_or_else(|| Error::model(&self.id, reason))
        };
        let etag = named("ETag", about.etag)?;
        let commit = named("X-Repo-Commit", about.commit)?;
        if !place::stays_below(file) {
            let reason = format!("{file:?} is not a file of a repository");
            return Err(Error::model(&self.id, reason));
        }
        let expected = self.expected(file, &etag)?;
        let blobs = self.folder.join("blobs");
        std::fs::create_dir_all(&blobs).map_err(Error::io("create", &blobs))?;
        let blob = blobs.join(&etag);
        let part = blobs.join(format!("{etag}.part"));
        let lock = place::lock(&blobs.join(format!("{etag}.lock")), || {
            let done = std::fs::metadata(&part).map_or(0, |m| m.len());
            let size = about.size;
            (self.watch)(&Transfer {
                name: file,
                done,
                size,
            })
        })?;
        if !blob.is_file() {
            client
                .complete(&url, &part, file, about.size, self.watch)
                .map_err(|failure| self.failed(file, failure, Some(&part)))?;
            if let Some((expected, by)) = expected {
                let found = sha256_file(&part).map_err(Error::io("read", &part))?;
                if found != expected {
                    crate::atomic::remove_file(&part)?;
                    let reason = format!(
                        "{file} came with sha256 {found}, {by} says {expected}; nothing was kept, once more begins anew"
                    );
                    return Err(Error::model(&self.id, reason));
                }
            }
            place::name(&part, &blob)?;
        }
        drop(lock);
        let pointer = self.cached.pointer_path(&commit).join(file);
        place::point(&pointer, &blob)?;
        self.cached
            .create_ref(&commit)
            .map_err(Error::io("write", self.folder.join("refs")))?;
        Ok(Some(pointer))
    }

    /// The sha256 that a file must have, and who says so: the manifest, else a hub that names large files by it.
    fn expected(&self, file: &str, etag: &str) -> Result<Option<(String, &'static str)>> {
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        let of_hub = is_sha256.then(|| etag.to_lowercase());
        // Another revision than the usual one may well have other weights.
        let known = match self.revision {
            None => manifest::sha256(&self.id, file),
            Some(_) => None,
        };
        match (known, of_hub) {
            (Some(known), Some(of_hub)) if known != of_hub => {
                let reason = format!(
                    "the hub has a {file} with sha256 {of_hub}, the manifest of this clipsift {known}; it was replaced or is not \
                     the real one. --revision main takes it as it is"
                );
                Err(Error::model(&self.id, reason))
            }
            (Some(known), _) => Ok(Some((known.into(), "the manifest of this clipsift"))),
            (None, of_hub) => Ok(of_hub.map(|sha256| (sha256, "the hub"))),
        }
    }

    /// Why a file did not come, and what is kept of it.
    fn failed(&self, file: &str, failure: Failure, part: Option<&Path>) -> Error {
        let reason = match failure {
            Failure::Own(error) => return error,
            Failure::Status(code @ (401 | 403)) => {
                let reason = format!(
                    "the hub answered {code}: the repository is private, gated or misspelt; set HF_TOKEN to a token with access"
                );
                return Error::model(&self.id, reason);
            }
            Failure::Status(code) => format!("{} answered {code}", self.endpoint),
            Failure::Broken(reason) => format!("{}: {reason}", self.endpoint),
        };
        let kept = part.and_then(|part| std::fs::metadata(part).ok());
        let kept = match kept.map(|m| m.len()).filter(|bytes| *bytes > 0) {
            Some(bytes) => format!("; {bytes} bytes are kept, the same command goes on from there"),
            None => String::new(),
        };
        let reason = format!(
            "cannot download {file}: {reason}{kept}; with a copy at hand give its folder instead, or set HF_HUB_OFFLINE=1 to use {}",
            self.folder.display()
        );
        Error::model(&self.id, reason)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|f| f.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether a text is a hub's name for a repository: OWNER/NAME.
pub fn is_id(spec: &str) -> bool {
    let mut parts = spec.split('/');
    let good = |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && !p.starts_with('.'));
    good(parts.next()) && good(parts.next()) && parts.next().is_none()
}

/// Where the file of a plain URL is kept: `HF_HOME/clipsift`.
pub fn kept(file: &str) -> PathBuf {
    let home = Cache::from_env();
    let home = home.path().parent().unwrap_or(Path::new("."));
    home.join("clipsift").join(file)
}

/// A file at a plain URL, from `HF_HOME/clipsift` where it was kept before, else downloaded and checked.
///
/// # Errors
/// [`Error::Model`] with `name` where the network is forbidden or fails, or the file is not the one that was published.
pub fn fetch(name: &str, url: &str, file: &str, sha256: &str, watch: &Watch) -> Result<PathBuf> {
    let path = kept(file);
    if sha256_file(&path).is_ok_and(|found| found == sha256) {
        return Ok(path);
    }
    if offline() {
        let reason = format!(
            "HF_HUB_OFFLINE is set and {} is not there; put the file from {url} there",
            path.display()
        );
        return Err(Error::model(name, reason));
    }
    fetch_into(&path, name, url, sha256, watch)
}

/// The file of a URL to a path, once it has the right checksum.
fn fetch_into(path: &Path, name: &str, url: &str, sha256: &str, watch: &Watch) -> Result<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = file_name(path);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let part = folder.join(format!("{file}.part"));
    let lock = place::lock(&folder.join(format!("{file}.lock")), || Ok(()))?;
    let client = Client::new(None, None);
    let complete = client.complete(url, &part, &file, None, watch);
    complete.map_err(|failure| {
        let reason = match failure {
            Failure::Own(error) => return error,
            Failure::Status(code) => format!("it answered {code}"),
            Failure::Broken(reason) => reason,
        };
        let reason = format!(
            "cannot download {url}: {reason}; or put the file at {}",
            path.display()
        );
        Error::model(name, reason)
    })?;
    let found = sha256_file(&part).map_err(Error::io("read", &part))?;
    if found != sha256 {
        crate::atomic::remove_file(&part)?;
        let reason = format!(
            "the file at {url} has sha256 {found}, the published one {sha256}; nothing was kept"
        );
        return Err(Error::model(name, reason));
    }
    place::name(&part, path)?;
    drop(lock);
    Ok(path.into())
}

/// Whether `HF_HUB_OFFLINE` forbids the network, by the values that Python's hub client takes for true.
fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| matches!(v.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::digest::sha256_hex;

    /// Answers as many requests as there are answers, each with the bytes from where it was asked to a point.
    fn serve(content: &'static [u8], ends: Vec<usize>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/head.pth", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for end in ends {
                let (mut stream, _) = listener.accept().unwrap();
                let mut first = 0;
                for line in BufReader::new(&stream).lines() {
                    let line = line.unwrap().to_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        first = range.trim_end_matches('-').parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let (total, last) = (content.len(), content.len() - 1);
                let head = format!(
                    "HTTP/1.1 206 -\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{total}\r\n\r\n",
                    total - first
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&content[first..end.max(first)]);
            }
        });
        url
    }

    #[test]
    fn a_file_of_a_plain_url_is_gone_on_with_and_kept_only_with_its_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clipsift/head.pth");
        let content = b"what a head is made of";
        let url = serve(content, vec![5, 12, content.len()]);
        let fetched = fetch_into(&path, "head", &url, &sha256_hex(content), UNWATCHED);
        assert_eq!(fetched.unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), content);

        std::fs::remove_file(&path).unwrap();
        let url = serve(content, vec![content.len()]);
        let wrong = fetch_into(&path, "head", &url, &sha256_hex("other"), UNWATCHED);
        let message = wrong.unwrap_err().to_string();
        assert!(message.contains("nothing was kept"), "{message}");
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["head.pth.lock"]);
    }

    #[test]
    fn whoever_watches_can_end_a_download_and_what_has_come_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.pth");
        let content = b"what a head is made of";
        let url = serve(content, vec![content.len()]);
        let stop = |transfer: &Transfer| match transfer.done {
            0 => Ok(()),
            _ => Err(Error::Interrupted),
        };
        let ended = fetch_into(&path, "head", &url, "0", &stop);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert!(!path.exists());
        assert_eq!(
            std::fs::read(dir.path().join("head.pth.part")).unwrap(),
            content
        );
    }
}

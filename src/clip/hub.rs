//! Files of a Hugging Face hub repository, through hf-hub and the cache that it shares with Python.
//!
//! `HF_HOME` says where the cache is, `HF_ENDPOINT` which hub, `HF_TOKEN` (else the token file in `HF_HOME`) who asks;
//! `HF_HUB_OFFLINE=1` forbids the network. What is in the cache is used without asking.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::atomic;
use crate::digest::sha256_hex;
use crate::error::{Error, Result};

/// The largest head that is downloaded from a plain URL.
const MOST_HEAD_BYTES: u64 = 1 << 30;

/// One repository at one revision.
pub struct HubRepo {
    id: String,
    cache: Cache,
    cached: CacheRepo,
    /// None when offline.
    api: Option<ApiRepo>,
}

impl HubRepo {
    /// A repository such as `openai/clip-vit-base-patch32`; the revision (branch, tag or commit) is `main` by default.
    /// Nothing is asked of the network yet.
    ///
    /// # Errors
    /// [`Error::Model`] where no client can be made.
    pub fn new(id: &str, revision: Option<&str>) -> Result<HubRepo> {
        let repo = Repo::with_revision(
            id.into(),
            RepoType::Model,
            revision.unwrap_or("main").into(),
        );
        let cache = Cache::from_env();
        let api = if offline() {
            None
        } else {
            let mut builder = ApiBuilder::from_env()
                .with_progress(std::io::IsTerminal::is_terminal(&std::io::stderr()));
            if let Some(token) = std::env::var("HF_TOKEN")
                .ok()
                .filter(|t| !t.trim().is_empty())
            {
                builder = builder.with_token(Some(token.trim().into()));
            }
            // Python's client, too, takes an endpoint with a slash at its end.
            if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
                builder = builder.with_endpoint(endpoint.trim_end_matches('/').into());
            }
            let api = builder
                .build()
                .map_err(|e| Error::model(id, format!("no hub client: {e}")))?;
            Some(api.repo(repo.clone()))
        };
        Ok(HubRepo {
            id: id.into(),
            cached: cache.repo(repo),
            cache,
            api,
        })
    }

    /// A file of the repository, from the cache, else downloaded; None where the repository does not have it.
    ///
    /// # Errors
    /// [`Error::Model`] that says what to do: offline and not in the cache, no such repository, no access, no connection.
    pub fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        if let Some(path) = self.cached.get(file) {
            return Ok(Some(path));
        }
        let Some(api) = &self.api else {
            return Ok(None);
        };
        match api.download(file) {
            Ok(path) => Ok(Some(path)),
            Err(error) => match status(&error) {
                Some(404) => Ok(None),
                Some(code @ (401 | 403)) => Err(Error::model(
                    &self.id,
                    format!(
                        "the hub answered {code}: the repository is private, gated or misspelt; set HF_TOKEN to a token with access"
                    ),
                )),
                _ => Err(Error::model(
                    &self.id,
                    format!(
                        "cannot download {file}: {error}; with a copy at hand give its folder instead, or set HF_HUB_OFFLINE=1 to use {}",
                        self.cache.path().display()
                    ),
                )),
            },
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
        let reason = match self.api {
            None => format!(
                "HF_HUB_OFFLINE is set and {file} is not in the cache at {}; unset it, or give a folder",
                self.cache.path().display()
            ),
            Some(_) => format!("the hub has no such repository, or no {file} in it"),
        };
        Error::model(&self.id, reason)
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(inner) => status(inner),
        _ => None,
    }
}

/// A file at a plain URL, from `HF_HOME/clipsift` where it was kept before, else downloaded and checked.
///
/// # Errors
/// [`Error::Model`] with `name` where the network is forbidden or fails, or the file is not the one that was published.
pub fn fetch(name: &str, url: &str, file: &str, sha256: &str) -> Result<PathBuf> {
    let folder = Cache::from_env()
        .path()
        .parent()
        .map(|home| home.join("clipsift"))
        .unwrap_or_default();
    let path = folder.join(file);
    if let Ok(bytes) = std::fs::read(&path)
        && sha256_hex(&bytes) == sha256
    {
        return Ok(path);
    }
    if offline() {
        let reason = format!(
            "HF_HUB_OFFLINE is set and {} is not there; put the file from {url} there",
            path.display()
        );
        return Err(Error::model(name, reason));
    }
    let failed = |e: ureq::Error| {
        Error::model(
            name,
            format!(
                "cannot download {url}: {e}; or put the file at {}",
                path.display()
            ),
        )
    };
    let mut response = ureq::get(url).call().map_err(failed)?;
    let bytes = response
        .body_mut()
        .with_config()
        .limit(MOST_HEAD_BYTES)
        .read_to_vec()
        .map_err(failed)?;
    let found = sha256_hex(&bytes);
    if found != sha256 {
        return Err(Error::model(
            name,
            format!(
                "the file at {url} has sha256 {found}, the published one {sha256}; nothing was kept"
            ),
        ));
    }
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    atomic::write(&path, |out| std::io::Write::write_all(out, &bytes))?;
    Ok(path)
}

/// Whether `HF_HUB_OFFLINE` forbids the network, by the values that Python's hub client takes for true.
fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| matches!(v.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

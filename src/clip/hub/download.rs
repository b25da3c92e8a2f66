//! Bytes of a URL -> a file: redirects, time-outs, a connection that breaks off and is gone on with.
//!
//! A file grows under a name of its own (`.part`) until it is whole; whoever calls checks it and gives it its name. The token goes
//! to the hub it is for and to no other place that the hub sends on to.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Timeout};

use super::{Transfer, Watch};
use crate::error::Error;

/// Seconds until a place must have taken the connection, unless `HF_HUB_ETAG_TIMEOUT` says otherwise; Python's own.
const CONNECT_SECONDS: u64 = 10;

/// Seconds that may pass without a byte, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const READ_SECONDS: u64 = 30;

/// Times that a connection may break off in a row without having brought a byte.
const FRUITLESS: u32 = 4;

/// Places that one request may be sent on to.
const REDIRECTS: usize = 10;

/// Bytes that are taken at a time, and between two looks at whether to go on.
const BLOCK: usize = 1 << 18;

/// Why a file did not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// The place answered with this status.
    Status(u16),
    /// The connection failed or broke off, or the answer makes no sense; once more may do.
    Broken(String),
    /// Once more would not do: this machine's own failure, or the user's wish to stop.
    Own(Error),
}

/// Asks for files.
pub(super) struct Client {
    agent: Agent,
    token: Option<String>,
    /// Where the token may go: scheme and authority.
    home: Option<String>,
}

/// What a place says of a file.
pub(super) struct About {
    /// Commit of the repository that it is of.
    pub commit: Option<String>,
    /// What names its content: of large files the sha256.
    pub etag: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
}

impl Client {
    /// One that shows the token to `endpoint` alone.
    pub(super) fn new(token: Option<String>, endpoint: Option<&str>) -> Client {
        let [connect, read] = [
            ("HF_HUB_ETAG_TIMEOUT", CONNECT_SECONDS),
            ("HF_HUB_DOWNLOAD_TIMEOUT", READ_SECONDS),
        ]
        .map(|(variable, usual)| seconds(variable).unwrap_or(Duration::from_secs(usual)));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, for what the hub says on the way and for the token.
            .max_redirects(0)
            .user_agent(concat!("clipsift/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(read))
            .timeout_per_read(Some(read));
        Client {
            agent: config.build().into(),
            token,
            home: endpoint.and_then(origin),
        }
    }

    /// What the hub says of a file, from one byte of it.
    pub(super) fn about(&self, url: &str) -> Result<About, Failure> {
        let (response, mut about) = self.get(url, "bytes=0-0")?;
        match response.status().as_u16() {
            200 => about.size = about.size.or(response.body().content_length()),
            206 | 416 => about.size = about.size.or(range(&response).map(|(_, total)| total)),
            other => return Err(Failure::Status(other)),
        }
        Ok(about)
    }

    /// Completes the file at `part`, of which an earlier try may have left the beginning.
    ///
    /// `size` is what the file must come to, where it is known.
    pub(super) fn complete(
        &self,
        url: &str,
        part: &Path,
        name: &str,
        size: Option<u64>,
        watch: &Watch,
    ) -> Result<(), Failure> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(part)
            .map_err(|e| Failure::Own(Error::io("write", part)(e)))?;
        let mut fruitless = 0;
        loop {
            let before = length(&file, part)?;
            let reason = match self.append(url, &mut file, part, name, size, watch) {
                Err(Failure::Broken(reason)) => reason,
                Err(Failure::Status(code @ (429 | 500..=599))) => format!("it answered {code}"),
                done => return done,
            };
            fruitless = match length(&file, part)? > before {
                true => 1,
                false => fruitless + 1,
            };
            if fruitless >= FRUITLESS {
                return Err(Failure::Broken(reason));
            }
            std::thread::sleep(Duration::from_millis(150 << fruitless));
            // Waiting, too, ends where the user wants it to.
            let done = length(&file, part)?;
            watch(&Transfer { name, done, size }).map_err(Failure::Own)?;
        }
    }

    /// One try: what the file lacks, as far as the connection lasts.
    fn append(
        &self,
        url: &str,
        file: &mut File,
        part: &Path,
        name: &str,
        size: Option<u64>,
        watch: &Watch,
    ) -> Result<(), Failure> {
        let own = |e: std::io::Error| Failure::Own(Error::io("write", part)(e));
        let begin_at = |file: &mut File, start: u64| {
            file.set_len(start)?;
            file.seek(SeekFrom::Start(start)).map(|_| ())
        };
        let mut done = length(file, part)?;
        if size.is_some_and(|size| done > size) {
            done = 0;
        }
        if size == Some(done) {
            return Ok(());
        }
        let (response, _) = self.get(url, &format!("bytes={done}-"))?;
        let total = match (response.status().as_u16(), range(&response)) {
            (206, Some((first, total))) if first == done => Some(total),
            // All of it, whatever was asked for.
            (200, _) => {
                done = 0;
                response.body().content_length()
            }
            (206 | 416, _) => {
                begin_at(file, 0).map_err(own)?;
                return Err(Failure::Broken(format!("it does not go on at byte {done}")));
            }
            (code, _) => return Err(Failure::Status(code)),
        };
        if let (Some(size), Some(total)) = (size, total)
            && size != total
        {
            let reason = format!("{total} bytes came for a file of {size}");
            return Err(Failure::Broken(reason));
        }
        begin_at(file, done).map_err(own)?;
        let size = size.or(total);
        let mut body = response.into_body().into_reader();
        let mut block = vec![0; BLOCK];
        watch(&Transfer { name, done, size }).map_err(Failure::Own)?;
        loop {
            let read = body.read(&mut block).map_err(|e| said(&e.into()))?;
            if read == 0 {
                break;
            }
            file.write_all(&block[..read]).map_err(own)?;
            done += read as u64;
            if size.is_some_and(|size| done > size) {
                begin_at(file, 0).map_err(own)?;
                return Err(Failure::Broken("more bytes came than the file has".into()));
            }
            watch(&Transfer { name, done, size }).map_err(Failure::Own)?;
        }
        match size {
            Some(size) if done < size => Err(Failure::Broken(format!(
                "the connection broke off after {done} of {size} bytes"
            ))),
            _ => Ok(()),
        }
    }

    /// The answer at the end of all redirections, and what the hub said on the way.
    fn get(&self, url: &str, bytes: &str) -> Result<(Response<Body>, About), Failure> {
        let mut url = url.to_string();
        let mut about = About {
            commit: None,
            etag: None,
            size: None,
        };
        let mut linked = false;
        for _ in 0..=REDIRECTS {
            let at_home = self.home.is_some() && origin(&url) == self.home;
            let mut request = self.agent.get(&url).header("Range", bytes);
            if let (Some(token), true) = (&self.token, at_home) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| said(&e))?;
            let header = |name: &str| {
                let value = response.headers().get(name)?.to_str().ok()?;
                Some(value.trim().to_string())
            };
            if at_home {
                about.commit = header("x-repo-commit").or(about.commit);
                // The redirection to a large file has an etag of its own; the file's is the linked one.
                if let Some(etag) = header("x-linked-etag") {
                    (about.etag, linked) = (Some(etag), true);
                } else if !linked {
                    about.etag = header("etag").or(about.etag);
                }
                let size = header("x-linked-size").and_then(|size| size.parse().ok());
                about.size = size.or(about.size);
            }
            if !response.status().is_redirection() {
                about.etag = about.etag.map(|etag| {
                    let strong = etag.strip_prefix("W/").unwrap_or(&etag);
                    strong.trim_matches('"').to_string()
                });
                return Ok((response, about));
            }
            let to = header("location")
                .ok_or_else(|| Failure::Broken("it sends on to nowhere".into()))?;
            url = resolve(&url, &to).ok_or_else(|| {
                Failure::Broken(format!("it sends on to {to:?}, which is no place"))
            })?;
        }
        Err(Failure::Broken(format!(
            "it sends on more than {REDIRECTS} times"
        )))
    }
}

fn length(file: &File, part: &Path) -> Result<u64, Failure> {
    let metadata = file.metadata();
    metadata
        .map(|m| m.len())
        .map_err(|e| Failure::Own(Error::io("read", part)(e)))
}

/// First byte and size of `Content-Range: bytes A-B/SIZE`, or `bytes */SIZE`.
fn range(response: &Response<Body>) -> Option<(u64, u64)> {
    let value = response.headers().get("content-range")?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split('-').next()?.parse().unwrap_or(0);
    Some((first, total.trim().parse().ok()?))
}

/// Scheme and authority of a URL.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

/// Where a redirection leads, by RFC 3986 as far as it is met: whole addresses and absolute paths, with or without a host.
fn resolve(from: &str, to: &str) -> Option<String> {
    let known = |url: &str| origin(url).filter(|o| o.starts_with("http"));
    if to.contains("://") {
        return known(to).map(|_| to.into());
    }
    let home = known(from)?;
    if let Some(rest) = to.strip_prefix("//") {
        let scheme = home.split("//").next()?;
        return Some(format!("{scheme}//{rest}"));
    }
    to.starts_with('/').then(|| format!("{home}{to}"))
}

/// A transport's error in words.
fn said(error: &ureq::Error) -> Failure {
    let reason = match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            "no connection in time (HF_HUB_ETAG_TIMEOUT sets the seconds)".into()
        }
        ureq::Error::Timeout(_) => {
            "nothing came for too long (HF_HUB_DOWNLOAD_TIMEOUT sets the seconds)".into()
        }
        ureq::Error::HostNotFound => "its name is not known to the network".into(),
        // A body's time-out comes in the clothes of the reader.
        ureq::Error::Io(e) => match e.get_ref().and_then(|e| e.downcast_ref::<ureq::Error>()) {
            Some(inner) => return said(inner),
            None => e.to_string(),
        },
        other => other.to_string(),
    };
    Failure::Broken(reason)
}

/// A time-out that a variable sets, in seconds above 0.
fn seconds(variable: &str) -> Option<Duration> {
    let value: f64 = std::env::var(variable).ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|time| !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_where_they_say() {
        let from = "https://hub.example:8443/a/b/resolve/main/f?x=1";
        for (to, leads) in [
            ("/c/d?y", Some("https://hub.example:8443/c/d?y")),
            (
                "https://cdn.example/f?sig=1",
                Some("https://cdn.example/f?sig=1"),
            ),
            ("//cdn.example/f", Some("https://cdn.example/f")),
            ("file:///etc/passwd", None),
            ("ftp://cdn.example/f", None),
            ("f", None),
        ] {
            assert_eq!(resolve(from, to).as_deref(), leads, "{to}");
        }
        assert_eq!(origin(from).as_deref(), Some("https://hub.example:8443"));
    }
}

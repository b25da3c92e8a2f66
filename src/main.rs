//! The `clipsift` command: what was typed becomes a request, the request runs, its outcome becomes an exit code.
//!
//! stdout is data, stderr is talk. Exit codes: 0 done, 1 failed (or bad samples with `--strict`), 2 wrong usage, 130
//! interrupted.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Request::from_args() {
        Ok(request) => request.run(),
        Err(exit) => exit,
    }
}

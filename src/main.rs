//! The `clipsift` command: what was typed becomes a request, the request runs, its outcome becomes an exit code.
//!
//! stdout is data, stderr is talk. Exit codes: 0 done, 1 failed (or bad samples with `--strict`), 2 wrong usage, 130
//! interrupted.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let request = match cli::Request::from_args() {
        Ok(request) => request,
        Err(exit) => return exit,
    };
    cli::stop_on_ctrl_c();
    match request.run() {
        Ok(exit) => exit,
        Err(error) => cli::report(&error),
    }
}

//! What a shell and `man` want to know of the command, made of the same definitions as `--help`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clipsift::{Error, Result};

use super::args::Cli;

/// The completion script of a shell, on stdout.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "clipsift", &mut script);
    print(&script);
    Ok(ExitCode::SUCCESS)
}

/// Manual pages: `clipsift.1` on stdout, or that and one for each command into a folder.
pub(crate) fn man(dir: Option<&Path>) -> Result<ExitCode> {
    match dir {
        None => {
            let mut page = Vec::new();
            let rendered = Man::new(Cli::command()).render(&mut page);
            rendered.map_err(Error::io("write", "clipsift.1"))?;
            print(&page);
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
            let written = clap_mangen::generate_to(Cli::command(), dir);
            written.map_err(Error::io("write", dir))?;
            eprintln!(
                "manual pages are in {}; man finds them by MANPATH, or in ~/.local/share/man/man1",
                dir.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes to stdout; a reader that has gone away is no failure.
fn print(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

//! A run directory for a request: a new one, or the same request's.

use std::path::{Path, PathBuf};

use super::progress::Context;
use crate::error::{Error, Result};
use crate::store::RunDir;
use crate::store::run_file::{EmbedRequest, RunFile};
use crate::write::{self, Layout, Writer};

/// Opens the directory for a request: a new one, the same request's, or with `overwrite` one that is cleared.
/// The last value says whether it begins anew.
///
/// # Errors
/// [`Error::Usage`] where it holds another run, or one of the paths that are read.
pub(super) fn open(
    out: &Path,
    request: EmbedRequest,
    inputs: &[PathBuf],
    overwrite: bool,
    context: Context,
) -> Result<(RunDir, RunFile, bool)> {
    let dir = RunDir::create(out)?;
    let root = dir.root().display().to_string();
    check_outside(dir.root(), inputs)?;
    let earlier = dir.read_run_file()?.unwrap_or_default();
    let blank = earlier.embed.is_none() && earlier.members.is_empty();
    let difference = match &earlier.embed {
        Some(earlier) => earlier.difference(&request),
        None => Some("it is a set of other runs".into()),
    };
    match difference {
        _ if blank || overwrite => {}
        Some(difference) => {
            return Err(Error::usage(format!(
                "{root} holds another run: {difference}; give a new --out, or --overwrite to begin anew"
            )));
        }
        None => {
            let parts = dir.parts();
            if parts > 0 {
                context.note(&format!("{root}: going on after {parts} finished parts"));
            }
            return Ok((dir, earlier, false));
        }
    }
    dir.clear()?;
    // The writer knows which files of an earlier set are its own.
    let options = write::Options {
        overwrite: true,
        inputs: inputs.to_vec(),
        ..write::Options::default()
    };
    Writer::create(dir.path("curated"), Layout::None, options)?.finish()?;
    let file = RunFile {
        embed: Some(request),
        ..RunFile::default()
    };
    Ok((dir, file, true))
}

/// # Errors
/// [`Error::Usage`] where an input lies in the run directory, whose files come and go.
fn check_outside(root: &Path, inputs: &[PathBuf]) -> Result<()> {
    let Ok(root) = root.canonicalize() else {
        return Ok(());
    };
    let inside = |path: &&PathBuf| {
        path.canonicalize()
            .is_ok_and(|path| path.starts_with(&root))
    };
    match inputs.iter().find(inside) {
        None => Ok(()),
        Some(path) => Err(Error::usage(format!(
            "the input {} lies in the run directory {}; give another --out",
            path.display(),
            root.display()
        ))),
    }
}

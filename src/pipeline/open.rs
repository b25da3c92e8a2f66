//! A run directory for a request: a new one, or the same request's.

use std::path::Path;

use super::progress::Context;
use crate::error::{Error, Result};
use crate::store::RunDir;
use crate::store::run_file::{EmbedRequest, RunFile};

/// Opens the directory for a request: a new one, the same request's, or with `overwrite` one that is cleared.
/// The last value says whether it begins anew.
///
/// # Errors
/// [`Error::Usage`] where it holds another run.
pub(super) fn open(
    out: &Path,
    request: EmbedRequest,
    overwrite: bool,
    context: Context,
) -> Result<(RunDir, RunFile, bool)> {
    let dir = RunDir::create(out)?;
    if let Some(file) = dir.read_run_file()? {
        let difference = match &file.embed {
            Some(earlier) => earlier.difference(&request),
            None => Some("it is a set of other runs".into()),
        };
        match difference {
            None => {
                let parts = dir.parts();
                if parts > 0 {
                    context.note(&format!(
                        "{}: going on after {parts} finished parts",
                        out.display()
                    ));
                }
                return Ok((dir, file, false));
            }
            Some(difference) if !overwrite => {
                return Err(Error::usage(format!(
                    "{} holds another run: {difference}; give a new --out, or --overwrite to begin anew",
                    out.display()
                )));
            }
            Some(_) => {}
        }
    }
    dir.clear()?;
    let file = RunFile {
        embed: Some(request),
        ..RunFile::default()
    };
    Ok((dir, file, true))
}

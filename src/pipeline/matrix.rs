//! The embedding matrix `[n, d]` of a set: in memory while it is small, else in a scratch file that is mapped.
//!
//! The parts of a run are compressed tables; k-means and the tiles want rows at any place, many times over. A matrix that is
//! too large to hold is therefore unpacked once, part by part, into a file of plain f32 in the run directory, and read
//! through a map: its pages come and go as the system has room for them, and never count as memory that must be there. The
//! file has no name, so it is gone with the process, however that ends.
//!
//! Memory: held, `4 n d` bytes; mapped, one part while it is written. Disk: mapped, `4 n d` bytes as long as the search lasts.

use std::fs::File;
use std::io::Write;
use std::ops::Deref;

use memmap2::Mmap;

use super::against::Against;
use super::progress::Context;
use super::set::Samples;
use crate::error::{Error, Result};
use crate::mmap::map_file;
use crate::store::{RunDir, Table};

/// What a matrix may take of memory whatever the machine: more goes to a scratch file.
const MOST_HELD: u64 = 512 << 20;

/// `[n, d]` in row order, as a slice.
pub(super) enum Matrix {
    Held(Vec<f32>),
    Mapped(Mmap),
}

impl Deref for Matrix {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Matrix::Held(values) => values,
            // A map begins on a page and was written as whole values.
            Matrix::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl Matrix {
    /// Reads the embeddings of all runs' good samples, and then of the rows of earlier sets. Above `held` bytes they go to a scratch file in `home`; without a number,
    /// above 512 MiB or a quarter of the memory that is free, whichever is less. The values are the same.
    ///
    /// # Errors
    /// [`Error::Run`] where a table is damaged or does not fit its samples; [`Error::Io`] where the scratch file cannot be
    /// made or the disk is full; [`Error::Interrupted`].
    pub(super) fn read(
        home: &RunDir,
        dirs: &[&RunDir],
        samples: &Samples,
        against: &Against,
        d: usize,
        held: Option<u64>,
        context: Context,
    ) -> Result<Matrix> {
        let values = (samples.len() + against.len()) * d;
        let bytes = values as u64 * 4;
        let for_each = |each: &mut dyn FnMut(&[f32]) -> Result<()>| {
            for_each_part(dirs, samples, d, &mut *each)?;
            against.for_each_embedding(d, each)
        };
        if bytes <= held.unwrap_or_else(most_held) {
            let mut matrix = Vec::with_capacity(values);
            for_each(&mut |rows| {
                context.check()?;
                matrix.extend_from_slice(rows);
                Ok(())
            })?;
            return Ok(Matrix::Held(matrix));
        }
        // Without a name from the start where the system can do that, else its name is taken at once.
        let mut file = tempfile::tempfile_in(home.root()).map_err(scratch(home, bytes))?;
        for_each(&mut |rows| {
            context.check()?;
            file.write_all(bytemuck::cast_slice(rows))
                .map_err(scratch(home, bytes))
        })?;
        Matrix::map(&file, bytes).map_err(scratch(home, bytes))
    }

    fn map(file: &File, bytes: u64) -> std::io::Result<Matrix> {
        // Nothing can be mapped of an empty file.
        if bytes == 0 {
            return Ok(Matrix::Held(Vec::new()));
        }
        map_file(file).map(Matrix::Mapped)
    }
}

/// Names the folder and the room that is needed, since the file itself has no name.
fn scratch(home: &RunDir, bytes: u64) -> impl FnOnce(std::io::Error) -> Error {
    let mib = bytes.div_ceil(1 << 20);
    let what = home.path(&format!("a scratch file of {mib} MiB for the embeddings"));
    Error::io("write", what)
}

/// Calls `each` with the rows of one part after another.
pub(super) fn for_each_part(
    dirs: &[&RunDir],
    samples: &Samples,
    d: usize,
    mut each: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let mut row = 0;
    for dir in dirs {
        for part in 0..dir.parts() {
            let embeddings = dir.read_embeddings(part)?;
            let fits = embeddings.dims == d
                && embeddings.rows.len() == embeddings.ids.len() * d
                && row + embeddings.ids.len() <= samples.len()
                && (row..)
                    .zip(&embeddings.ids)
                    .all(|(row, id)| *id == samples.id(row));
            if !fits {
                let path = dir.part(Table::Embeddings, part);
                return Err(Error::run(
                    path,
                    "does not hold the embeddings of its samples; remove the part and embed again",
                ));
            }
            row += embeddings.ids.len();
            each(&embeddings.rows)?;
        }
    }
    if row < samples.len() {
        let root = dirs
            .last()
            .map_or_else(Default::default, |dir| dir.root().to_path_buf());
        let reason = format!("{row} embeddings of {} samples", samples.len());
        return Err(Error::run(root, reason));
    }
    Ok(())
}

/// Bytes that a matrix may take of this machine's memory.
fn most_held() -> u64 {
    free_memory().map_or(MOST_HELD, |free| MOST_HELD.min(free / 4))
}

/// Bytes that new work can have without swapping: what the kernel says is available, or less where a control group allows
/// less. None where the system does not say.
fn free_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let group = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let within_group = group("max")
        .zip(group("current"))
        .map(|(most, taken)| most.saturating_sub(taken));
    Some(within_group.map_or(available, |group| group.min(available)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_says_what_is_free() {
        let free = free_memory().unwrap();
        assert!((1 << 20..1 << 50).contains(&free), "{free}");
        assert!(most_held() <= MOST_HELD);
    }
}

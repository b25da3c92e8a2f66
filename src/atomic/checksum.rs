//! The checksum that a table carries: XXH3 of 128 bits over the whole file, its own 32 digits taken as zeros.
//!
//! It stands in the footer's key-value metadata, so a table is one file still, appears at once, and can be copied and read by
//! others like any parquet. It tells faults of disks and copies, not intent. Hash: <https://xxhash.com>.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher;

/// The key in the footer.
pub(super) const KEY: &str = "clipsift.xxh3_128";

/// Hexadecimal digits of a checksum.
const DIGITS: usize = 32;

/// What stands in its place until it is known.
pub(super) fn blank() -> String {
    "0".repeat(DIGITS)
}

/// Footers are a few kilobytes.
const TAIL: u64 = 1 << 20;

/// The checksum of bytes in memory.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

/// Writes the checksum of a finished file into its place.
///
/// # Errors
/// What the system says; that there is no place for it.
pub(super) fn seal(file: &mut File) -> io::Result<()> {
    let place = place(file)?.ok_or_else(|| io::Error::other("no place for the checksum"))?;
    let sum = sum(file, place)?;
    file.seek(SeekFrom::Start(place))?;
    file.write_all(sum.as_bytes())
}

/// Whether a file's checksum is that of its bytes; none where it carries none.
///
/// # Errors
/// What the system says.
pub(super) fn holds(path: &Path) -> io::Result<Option<bool>> {
    let mut file = File::open(path)?;
    let Some(place) = place(&mut file)? else {
        return Ok(None);
    };
    let mut found = [0; DIGITS];
    file.seek(SeekFrom::Start(place))?;
    file.read_exact(&mut found)?;
    Ok(Some(sum(&mut file, place)?.as_bytes() == found))
}

/// The first of the digits, found by the key before them. Between the two stand the type and length of the value, in the
/// footer's encoding (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>): field 2, binary.
fn place(file: &mut File) -> io::Result<Option<u64>> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let before = [KEY.as_bytes(), &[0x18, DIGITS as u8]].concat();
    let found = tail.windows(before.len()).rposition(|w| w == before);
    let place = found.map(|at| at + before.len());
    Ok(place
        .filter(|at| at + DIGITS <= tail.len())
        .map(|at| start + at as u64))
}

/// The checksum with the digits at `place` taken as zeros.
fn sum(file: &mut File, place: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0u64;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let (from, to) = (place.max(at), (place + DIGITS as u64).min(at + read as u64));
        if from < to {
            buffer[(from - at) as usize..(to - at) as usize].fill(b'0');
        }
        hash.write(&buffer[..read]);
        at += read as u64;
    }
    Ok(format!("{:032x}", hash.finish_128()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(padding: usize) -> Vec<u8> {
        let mut bytes = vec![7; padding];
        bytes.extend(KEY.as_bytes());
        bytes.extend([0x18, 32]);
        bytes.extend(blank().bytes());
        bytes.extend(b"and what follows");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let handle = File::options().read(true).write(true).open(file.path());
        seal(&mut handle.unwrap()).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn check(bytes: &[u8]) -> Option<bool> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        holds(file.path()).unwrap()
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sealed(300);
        assert_eq!(check(&bytes), Some(true));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Without its key a file is one from before there were checksums; what it holds is right then.
            let in_key = (300..300 + KEY.len() + 2).contains(&(bit / 8));
            let expected = if in_key { None } else { Some(false) };
            assert_eq!(check(&flipped), expected, "bit {bit}");
        }
    }

    #[test]
    fn the_digits_may_lie_across_two_blocks() {
        // The key begins so that the digits lie on both sides of the first MiB.
        for shift in [0, 1, 16, 31, 32] {
            let bytes = sealed((1 << 20) - KEY.len() - 2 - shift);
            assert_eq!(check(&bytes), Some(true), "{shift}");
        }
        assert_eq!(check(b"no checksum here"), None);
        assert_eq!(check(b""), None);
    }
}

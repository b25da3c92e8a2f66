//! A matrix in a `.npy` file: `[n, d]` of f16, f32 or f64 in C order, as `numpy.save` writes it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};

use super::parquet::guarded;
use super::unreadable;

/// The first bytes of every `.npy`.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// A plain matrix has a header of 128 bytes.
const LONGEST_HEADER: usize = 1024;
/// Brackets in brackets: that of a plain matrix is a dictionary with a tuple in it, one of records has two more. The time that
/// npyz takes for a header may double with each.
const DEEPEST_HEADER: usize = 6;

/// More dims than any model gives.
pub(super) const MOST_DIMS: u64 = 1 << 20;

/// A `.npy` whose header fits its length.
pub(super) struct Npy {
    path: PathBuf,
    /// Where the values begin.
    start: u64,
    pub(super) rows: u64,
    pub(super) dims: usize,
    /// Bytes of a value: 2, 4 or 8.
    pub(super) width: usize,
    big_endian: bool,
}

impl Npy {
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn open(path: &Path) -> Result<Npy, String> {
        let mut file = File::open(path).map_err(|e| unreadable(&e))?;
        let length = file.metadata().map_err(|e| unreadable(&e))?.len();
        let mut head = Vec::new();
        let most = 12 + LONGEST_HEADER as u64;
        file.by_ref()
            .take(most)
            .read_to_end(&mut head)
            .map_err(|e| unreadable(&e))?;
        let (header, start) = header(&head)?;
        let kind = match header.dtype() {
            DType::Plain(kind) if kind.type_char() == TypeChar::Float => kind,
            other => return Err(wrong_type(&other.descr())),
        };
        let width = match kind.size_field() {
            width @ (2 | 4 | 8) => width as usize,
            _ => return Err(wrong_type(&kind.to_string())),
        };
        let &[rows, dims] = header.shape() else {
            return Err(format!(
                "holds an array of shape {:?}: a matrix [n, d] is expected, a row for each image",
                header.shape()
            ));
        };
        if dims == 0 || dims > MOST_DIMS {
            return Err(format!(
                "holds rows of {dims} values: 1 to {MOST_DIMS} are expected"
            ));
        }
        // Of a single row or column both orders are the same, and NumPy calls it C.
        if header.order() == Order::Fortran && rows > 1 && dims > 1 {
            return Err(
                "is in Fortran order: numpy.ascontiguousarray before numpy.save puts it right"
                    .to_string(),
            );
        }
        let expected = rows
            .checked_mul(dims)
            .and_then(|values| values.checked_mul(width as u64))
            .and_then(|bytes| bytes.checked_add(start));
        if expected != Some(length) {
            let what = match expected {
                Some(expected) if length > expected => "has more in it than",
                _ => "is cut off:",
            };
            let expected = expected.map_or("too many".to_string(), |bytes| bytes.to_string());
            return Err(format!(
                "{what} its header says, {rows} rows of {dims} values of {width} bytes, are {expected} bytes, and the file has {length}"
            ));
        }
        Ok(Npy {
            path: path.to_path_buf(),
            start,
            rows,
            dims: dims as usize,
            width,
            big_endian: kind.endianness() == Endianness::Big,
        })
    }

    /// Hands blocks of at most `block` rows to `visit`, as f32, with the number of their first row.
    ///
    /// # Errors
    /// What the system says, and what `visit` refuses.
    pub(super) fn for_each(
        &self,
        block: usize,
        mut visit: impl FnMut(u64, Vec<f32>) -> crate::Result<()>,
    ) -> crate::Result<()> {
        let failed = |e| crate::Error::io("read", &self.path)(e);
        let mut file = BufReader::new(File::open(&self.path).map_err(failed)?);
        let failed = |e| crate::Error::io("read", &self.path)(e);
        file.seek(SeekFrom::Start(self.start)).map_err(failed)?;
        let mut bytes = Vec::new();
        let mut row = 0;
        while row < self.rows {
            let rows = (self.rows - row).min(block as u64);
            bytes.resize(rows as usize * self.dims * self.width, 0);
            let failed = |e| crate::Error::io("read", &self.path)(e);
            file.read_exact(&mut bytes).map_err(failed)?;
            visit(row, self.values(&bytes))?;
            row += rows;
        }
        Ok(())
    }

    fn values(&self, bytes: &[u8]) -> Vec<f32> {
        fn read<const N: usize>(
            bytes: &[u8],
            big_endian: bool,
            value: impl Fn([u8; N]) -> f32,
        ) -> Vec<f32> {
            let chunks = bytes.chunks_exact(N).map(|chunk| {
                let mut one = [0; N];
                one.copy_from_slice(chunk);
                if big_endian {
                    one.reverse();
                }
                value(one)
            });
            chunks.collect()
        }
        match self.width {
            2 => read(bytes, self.big_endian, |b| f16::from_le_bytes(b).to_f32()),
            4 => read(bytes, self.big_endian, f32::from_le_bytes),
            _ => read(bytes, self.big_endian, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

/// The header, and where the values begin.
fn header(head: &[u8]) -> Result<(NpyHeader, u64), String> {
    if !head.starts_with(MAGIC) {
        return Err("is not a .npy file: it does not begin as one".to_string());
    }
    let cut = || "is cut off in its header".to_string();
    let byte = |at: usize| head.get(at).copied().ok_or_else(cut);
    let (begin, length) = match byte(6)? {
        1 => (10, u64::from(u16::from_le_bytes([byte(8)?, byte(9)?]))),
        2 | 3 => {
            let length = [byte(8)?, byte(9)?, byte(10)?, byte(11)?];
            (12, u64::from(u32::from_le_bytes(length)))
        }
        version => {
            return Err(format!(
                "is a .npy file of version {version}, 1 to 3 are known"
            ));
        }
    };
    if length > LONGEST_HEADER as u64 {
        return Err(format!(
            "has a header of {length} bytes, which is not that of a plain matrix"
        ));
    }
    let end = begin + length as usize;
    let whole = head.get(..end).ok_or_else(cut)?;
    let mut depth = 0usize;
    for byte in &whole[begin..] {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST_HEADER {
            return Err("has a damaged .npy header: too many brackets".to_string());
        }
    }
    let header = guarded(|| NpyHeader::from_reader(whole))
        .map_err(|e| format!("has a damaged .npy header: {e}"))?;
    Ok((header, end as u64))
}

fn wrong_type(kind: &str) -> String {
    format!("holds values of type {kind}: f16, f32 and f64 are read")
}

/// A small matrix `[n, d]` in a `.npy` as f32, with n and d.
///
/// # Errors
/// [`crate::Error::Input`] where it is none.
pub fn read_matrix(path: &Path) -> crate::Result<(usize, usize, Vec<f32>)> {
    let refuse = |reason| crate::Error::input(path.display().to_string(), reason);
    let npy = Npy::open(path).map_err(refuse)?;
    let mut values = Vec::new();
    npy.for_each((1 << 22) / npy.dims.max(1) + 1, |_, block| {
        values.extend(block);
        Ok(())
    })?;
    Ok((npy.rows as usize, npy.dims, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, order: &str, data: &[u8]) -> Vec<u8> {
        let dict = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.bytes());
        bytes.extend(data);
        bytes
    }

    fn matrix(bytes: &[u8]) -> Result<(usize, usize, Vec<f32>), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_matrix(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_width_and_byte_order_reads_alike() {
        let values = [1.0f32, -0.5, 2.0, 0.25];
        let f16s = values.map(f16::from_f32);
        let le = |n: usize| -> Vec<u8> {
            match n {
                2 => f16s.iter().flat_map(|x| x.to_le_bytes()).collect(),
                4 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                _ => values
                    .iter()
                    .flat_map(|x| f64::from(*x).to_le_bytes())
                    .collect(),
            }
        };
        for n in [2, 4, 8] {
            let little = le(n);
            let big: Vec<u8> = little
                .chunks(n)
                .flat_map(|c| c.iter().rev().copied())
                .collect();
            for (order, data) in [("<", little), (">", big)] {
                let bytes = npy(&format!("'{order}f{n}'"), "(2, 2)", "False", &data);
                assert_eq!(matrix(&bytes), Ok((2, 2, values.to_vec())));
            }
        }
    }

    #[test]
    fn what_is_no_matrix_is_refused_with_the_reason() {
        let zeros = [0u8; 64];
        let huge = "(4611686018427387904, 16)";
        for (bytes, part) in [
            (b"not a npy".to_vec(), "not a .npy"),
            (MAGIC.to_vec(), "cut off"),
            (npy("'<i8'", "(2, 2)", "False", &zeros[..32]), "<i8"),
            (npy("'|O'", "(2, 2)", "False", &zeros[..32]), "|O"),
            (npy("'<f4'", "(4,)", "False", &zeros[..16]), "[4]"),
            (npy("'<f4'", "(2, 0)", "False", &[]), "rows of 0"),
            (npy("'<f4'", "(2, 2)", "True", &zeros[..16]), "Fortran"),
            (npy("'<f4'", "(2, 2)", "False", &zeros[..15]), "cut off"),
            (npy("'<f4'", "(2, 2)", "False", &zeros[..17]), "more in it"),
            (npy("'<f4'", huge, "False", &zeros[..16]), "cut off"),
            (npy("'<f4'", &"(".repeat(900), "False", &[]), "damaged"),
            (npy("'<f4'", &"(".repeat(9000), "False", &[]), "header of"),
        ] {
            let reason = matrix(&bytes).unwrap_err();
            assert!(reason.contains(part), "expected {part}, got {reason}");
        }
    }
}

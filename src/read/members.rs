//! The headers of a tar, one after the other, without reading what is between them.
//!
//! POSIX ustar with PAX paths and sizes, GNU long names, base-256 sizes, and what came before (V7). Layout:
//! <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>, <https://www.gnu.org/software/tar/manual/html_node/Standard.html>.
//! The fields of a header are taken apart by the `tar` crate; the walk is our own, as a cut archive has to give what it has,
//! and no length that an archive claims may be allocated or read because it claims it.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tar::Header;

use super::unreadable;

/// Headers and padding come in blocks of so many bytes.
const BLOCK: u64 = 512;

/// A name or a set of PAX records longer than this is damage, not a name.
const NAME_LIMIT: u64 = 1 << 20;

/// How far to look behind the end marker for another archive. Tars are padded to 10 KiB, seldom to more.
const TAIL: u64 = 1 << 20;

/// A file in a tar, or what stands in a file's place.
pub(super) struct Member {
    /// The whole name, as in the archive.
    pub(super) name: Vec<u8>,
    /// First byte of the content.
    pub(super) offset: u64,
    /// Bytes of content.
    pub(super) length: u64,
    /// Why the content cannot be used.
    pub(super) problem: Option<String>,
}

/// Walks over the members. Folders are passed over. An error is the last item: the rest of the archive cannot be read.
pub(super) struct Members {
    file: BufReader<File>,
    /// Where the next header is.
    at: u64,
    /// The length of the file.
    end: u64,
    done: bool,
}

/// What the extended headers before a header say about it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Members {
    pub(super) fn open(path: &Path) -> Result<Members, String> {
        let file = File::open(path).map_err(|e| unreadable(&e))?;
        let end = file.metadata().map_err(|e| unreadable(&e))?.len();
        Ok(Members {
            file: BufReader::new(file),
            at: 0,
            end,
            done: false,
        })
    }

    /// The bytes at `from`, which must be in the file. What is buffered is used.
    fn read(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), String> {
        let trouble = |e: std::io::Error| format!("cannot be read at byte {from}: {e}");
        let here = self.file.stream_position().map_err(trouble)?;
        match i64::try_from(i128::from(from) - i128::from(here)) {
            Ok(step) => self.file.seek_relative(step),
            Err(_) => self.file.seek(SeekFrom::Start(from)).map(|_| ()),
        }
        .and_then(|()| self.file.read_exact(bytes))
        .map_err(trouble)
    }

    /// The content of an extended header.
    fn content(&mut self, from: u64, length: u64) -> Result<Vec<u8>, String> {
        if length > NAME_LIMIT {
            return Err(format!(
                "damaged at byte {from}: an extended header claims {length} bytes, and the rest cannot be read"
            ));
        }
        if from + length > self.end {
            return Err(cut(from));
        }
        let mut bytes = vec![0; length as usize];
        self.read(from, &mut bytes)?;
        Ok(bytes)
    }

    fn step(&mut self) -> Result<Option<Member>, String> {
        let mut extended = Extended::default();
        let mut announced = false;
        loop {
            let here = self.at;
            if here >= self.end {
                // Many writers leave out the end marker. But what is announced has to come.
                return if announced {
                    Err(cut(self.end))
                } else {
                    Ok(None)
                };
            }
            let mut block = [0; BLOCK as usize];
            let there = BLOCK.min(self.end - here);
            self.read(here, &mut block[..there as usize])?;
            if there < BLOCK && block != [0; BLOCK as usize] {
                return Err(cut(here));
            }
            if block == [0; BLOCK as usize] {
                return self.tail(here).map(|()| None);
            }
            if !is_header(&block) {
                return Err(format!(
                    "damaged at byte {here}: no header where one belongs, and the rest cannot be read"
                ));
            }
            let header = Header::from_byte_slice(&block);
            let kind = header.entry_type();
            // Links, devices, folders and pipes have no content, whatever their size says.
            let bare = matches!(kind.as_byte(), b'1'..=b'6');
            let size = match extended.size.filter(|_| !is_extended(kind.as_byte())) {
                _ if bare => 0,
                Some(size) => size,
                None => header.entry_size().map_err(|_| {
                    format!("damaged at byte {here}: no size, and the rest cannot be read")
                })?,
            };
            let mut from = here + BLOCK;
            if kind.is_gnu_sparse() {
                from = self.skip_sparse_map(&block, from)?;
            }
            let next = size
                .checked_next_multiple_of(BLOCK)
                .and_then(|padded| from.checked_add(padded))
                .ok_or_else(|| {
                    format!(
                        "damaged at byte {here}: claims {size} bytes, and the rest cannot be read"
                    )
                })?;
            match kind.as_byte() {
                b'L' => {
                    let mut name = self.content(from, size)?;
                    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
                    extended.name = Some(name);
                }
                b'x' | b'X' => {
                    let content = self.content(from, size)?;
                    extended.pax(&content);
                }
                // A long link name, global records, a volume label, a folder, GNU's list of a folder.
                b'K' | b'g' | b'V' | b'5' | b'D' => {}
                _ => {
                    let name = extended
                        .name
                        .take()
                        .unwrap_or_else(|| header.path_bytes().into_owned());
                    if !name.ends_with(b"/") {
                        let problem = problem(header, extended.sparse);
                        return Ok(Some(self.member(name, from, size, next, problem)));
                    }
                }
            }
            announced = is_extended(kind.as_byte()) || from + size > self.end;
            if !is_extended(kind.as_byte()) {
                extended = Extended::default();
            }
            self.at = next;
        }
    }

    fn member(
        &mut self,
        name: Vec<u8>,
        offset: u64,
        length: u64,
        next: u64,
        mut problem: Option<String>,
    ) -> Member {
        self.at = next;
        let there = self.end - offset.min(self.end);
        if there < length {
            self.done = true;
            problem = Some(format!(
                "the archive is cut off: {there} of {length} bytes are there"
            ));
        }
        Member {
            name,
            offset,
            length,
            problem,
        }
    }

    /// The byte after a sparse member's map, which goes on in blocks of its own.
    fn skip_sparse_map(&mut self, header: &[u8], mut from: u64) -> Result<u64, String> {
        let mut more = header[482] != 0;
        while more {
            if from + BLOCK > self.end {
                return Err(cut(from));
            }
            let mut block = [0; BLOCK as usize];
            self.read(from, &mut block)?;
            more = block[504] != 0;
            from += BLOCK;
        }
        Ok(from)
    }

    /// Looks at what follows the end marker at `from`: nothing, unless archives were joined with `cat`.
    fn tail(&mut self, from: u64) -> Result<(), String> {
        let mut block = [0; BLOCK as usize];
        let mut at = from + BLOCK;
        while at + BLOCK <= self.end.min(from.saturating_add(TAIL)) {
            self.read(at, &mut block)?;
            if is_header(&block) {
                return Err(format!(
                    "another archive follows the end marker at byte {from} and is not read: give the archives one by one"
                ));
            }
            if block != [0; BLOCK as usize] {
                return Ok(());
            }
            at += BLOCK;
        }
        Ok(())
    }
}

impl Iterator for Members {
    type Item = Result<Member, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done |= !matches!(step, Some(Ok(_)));
        step
    }
}

impl Extended {
    /// Takes what is of use from PAX records: `LENGTH KEY=VALUE\n`, the length being that of the record.
    fn pax(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|&b| b == b' ') {
            let length = std::str::from_utf8(&records[..space])
                .ok()
                .and_then(|l| l.parse::<usize>().ok());
            let Some(record) = length.and_then(|length| records.get(space + 1..length)) else {
                return;
            };
            records = &records[space + 1 + record.len()..];
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            let Some(equals) = record.iter().position(|&b| b == b'=') else {
                continue;
            };
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"GNU.sparse.name" => self.name = Some(value.to_vec()),
                b"size" => self.size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()),
                _ => {}
            }
            self.sparse |= key.starts_with(b"GNU.sparse.");
        }
    }
}

/// Whether a header of this type belongs to the one after it.
fn is_extended(kind: u8) -> bool {
    matches!(kind, b'L' | b'K' | b'x' | b'X')
}

/// Why a member cannot be used, told by its header.
fn problem(header: &Header, sparse: bool) -> Option<String> {
    let target = || {
        let name = header.link_name_bytes().unwrap_or_default();
        super::printable(&name)
    };
    match header.entry_type().as_byte() {
        b'1' => Some(format!(
            "is a link to {}: links in archives are not followed",
            target()
        )),
        b'2' => Some(format!(
            "is a symbolic link to {}: links in archives are not followed",
            target()
        )),
        b'3' | b'4' => Some("is a device, not a file".to_string()),
        b'6' => Some("is a pipe, not a file".to_string()),
        b'S' => Some("is stored with holes (sparse), which is not read".to_string()),
        _ if sparse => Some("is stored with holes (sparse), which is not read".to_string()),
        b'M' => Some("goes on from another volume, which is not read".to_string()),
        _ => None,
    }
}

fn cut(at: u64) -> String {
    format!("the archive is cut off at byte {at}: more belongs there, and cannot be read")
}

/// Whether a block is a header: its checksum holds.
pub(super) fn is_header(block: &[u8]) -> bool {
    if block.len() != BLOCK as usize {
        return false;
    }
    let blanks = 8 * u32::from(b' ');
    let sum =
        |range: std::ops::Range<usize>| block[range].iter().map(|&b| u32::from(b)).sum::<u32>();
    let expected = sum(0..148) + blanks + sum(156..512);
    Header::from_byte_slice(block)
        .cksum()
        .is_ok_and(|found| found == expected)
}

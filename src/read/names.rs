//! Names: which ones look like images, how to print any of them, and how to tell a file by its first bytes.

use std::path::{Path, PathBuf};

/// Suffixes of the formats that are decoded. A file that has one is a candidate whatever it holds.
const IMAGES: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
];

/// Suffixes of images that are not decoded: named in the ledger, so that a folder full of them is not lost silently.
const OTHER_IMAGES: &[&str] = &["heic", "heif", "avif", "jxl", "jp2"];

/// Suffixes of files that are common beside images and are no images: not worth opening to find out.
const NOT_IMAGES: &[&str] = &[
    "txt",
    "json",
    "jsonl",
    "ndjson",
    "csv",
    "tsv",
    "xml",
    "yaml",
    "yml",
    "toml",
    "md",
    "html",
    "htm",
    "js",
    "css",
    "py",
    "ipynb",
    "log",
    "ini",
    "cfg",
    "pdf",
    "npy",
    "npz",
    "pt",
    "pth",
    "safetensors",
    "onnx",
    "pkl",
    "parquet",
    "arrow",
    "feather",
    "lance",
    "h5",
    "hdf5",
    "db",
    "sqlite",
    "tar",
    "tgz",
    "gz",
    "zip",
    "zst",
    "bz2",
    "xz",
    "7z",
    "rar",
    "mp4",
    "mov",
    "avi",
    "mkv",
    "webm",
    "mp3",
    "wav",
    "flac",
    "aae",
    "xmp",
    "idx",
];

/// Whether a lower-cased suffix is that of an image format that is decoded.
pub(super) fn is_image_suffix(suffix: &str) -> bool {
    IMAGES.contains(&suffix)
}

/// Whether a lower-cased suffix is that of an image format that is not decoded.
pub(super) fn is_other_image_suffix(suffix: &str) -> bool {
    OTHER_IMAGES.contains(&suffix)
}

/// Whether a file with this lower-cased suffix (empty for none) should be opened to see if it is an image.
pub(super) fn is_unknown_suffix(suffix: &str) -> bool {
    !NOT_IMAGES.contains(&suffix)
}

/// The extension of a path, lower-cased, without the dot; empty where it has none.
pub(super) fn suffix(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_lowercase())
        .unwrap_or_default()
}

/// Why an image with such a suffix is bad.
pub(super) fn not_readable(suffix: &str) -> String {
    format!(
        "{} images are not decoded: convert to JPEG, PNG or WebP",
        suffix.to_uppercase()
    )
}

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Image,
    Parquet,
    /// Compressed or packed in a way that is not read: its name and the remedy.
    Packed(&'static str),
    Unknown,
}

/// Tells a file by its first bytes; 18 or more are enough.
pub(super) fn sniff(head: &[u8]) -> Content {
    let starts = |magic: &[u8]| head.starts_with(magic);
    let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|b| b.starts_with(magic));
    // The two reserved words of a BMP are zero, and its second header has one of a few lengths.
    let bmp = starts(b"BM")
        && at(6, &[0; 4])
        && matches!(
            head.get(14..18),
            Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])
        );
    if starts(&[0xFF, 0xD8, 0xFF])
        || starts(b"\x89PNG\r\n\x1a\n")
        || starts(b"GIF87a")
        || starts(b"GIF89a")
        || (starts(b"RIFF") && at(8, b"WEBP"))
        || starts(b"II*\0")
        || starts(b"MM\0*")
        || bmp
    {
        return Content::Image;
    }
    if starts(b"PAR1") {
        return Content::Parquet;
    }
    for (magic, what) in [
        (
            &[0x1F, 0x8B][..],
            "gzip-compressed: unpack it with gunzip first",
        ),
        (
            &[0x28, 0xB5, 0x2F, 0xFD],
            "zstd-compressed: unpack it with unzstd first",
        ),
        (b"BZh", "bzip2-compressed: unpack it with bunzip2 first"),
        (b"\xFD7zXZ\0", "xz-compressed: unpack it with unxz first"),
        (
            b"PK\x03\x04",
            "a zip archive: unpack it and give the folder",
        ),
        (
            b"7z\xBC\xAF\x27\x1C",
            "a 7z archive: unpack it and give the folder",
        ),
        (b"Rar!", "a rar archive: unpack it and give the folder"),
        (b"PARE", "an encrypted parquet file, which is not read"),
    ] {
        if starts(magic) {
            return Content::Packed(what);
        }
    }
    Content::Unknown
}

/// A name as text that can be printed and is different for different names: what is not UTF-8 and every control character
/// stands as `\xNN` a byte; a `\xNN` that was there before has its backslash written as `\x5C`.
pub(super) fn printable(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    let escape = |out: &mut String, bytes: &[u8]| {
        for byte in bytes {
            out.push_str(&format!("\\x{byte:02X}"));
        }
    };
    for chunk in name.utf8_chunks() {
        let valid = chunk.valid();
        for (at, c) in valid.char_indices() {
            let mimics = c == '\\' && is_escape(&valid.as_bytes()[at..]);
            if mimics || c.is_control() {
                escape(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(c);
            }
        }
        escape(&mut out, chunk.invalid());
    }
    out
}

/// The bytes of a [`printable`] name.
fn unprintable(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| char::from(bytes[at]).to_digit(16).unwrap_or(0) as u8;
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if is_escape(&bytes[at..]) {
            out.push(digit(at + 2) << 4 | digit(at + 3));
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// The path that a [`printable`] name stands for; `None` for one that this system cannot have.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    let bytes = unprintable(text);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        Some(std::ffi::OsString::from_vec(bytes).into())
    }
    #[cfg(not(unix))]
    {
        String::from_utf8(bytes).ok().map(PathBuf::from)
    }
}

/// Whether `\xNN` stands at the beginning.
fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'\\', b'x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

/// A relative path as bytes with `/` between its parts on every platform.
pub(super) fn slashed(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if cfg!(windows) {
        bytes
            .iter()
            .map(|&b| if b == b'\\' { b'/' } else { b })
            .collect()
    } else {
        bytes.to_vec()
    }
}

/// The part of a `/`-separated name before the extension of its last component: `a.b/c.tar.jpg` gives `a.b/c.tar`.
pub(super) fn without_extension(name: &str) -> &str {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[base..].rfind('.') {
        Some(dot) if dot > 0 => &name[..base + dot],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        assert_eq!(sniff(b"\xFF\xD8\xFF\xE0"), Content::Image);
        assert_eq!(sniff(b"RIFF\0\0\0\0WEBPVP8 "), Content::Image);
        assert_eq!(sniff(b"RIFF\0\0\0\0WAVEfmt "), Content::Unknown);
        assert_eq!(
            sniff(b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"),
            Content::Image
        );
        assert_eq!(sniff(b"BMW is a car maker"), Content::Unknown);
        assert_eq!(sniff(b"PAR1"), Content::Parquet);
        assert!(matches!(sniff(&[0x1F, 0x8B, 8]), Content::Packed(_)));
        assert_eq!(sniff(b""), Content::Unknown);
    }

    #[test]
    fn the_extension_is_what_follows_the_last_dot() {
        assert_eq!(without_extension("a.b/c.tar.jpg"), "a.b/c.tar");
        assert_eq!(without_extension("a.b/c"), "a.b/c");
        assert_eq!(without_extension("a/.jpg"), "a/.jpg");
        assert_eq!(without_extension("x.jpg"), "x");
    }

    #[test]
    fn ordinary_names_are_printed_as_they_are() {
        for name in ["cat.jpg", "Füße/猫.png", r"back\slash", r"\x", r"\xZZ"] {
            assert_eq!(printable(name.as_bytes()), name);
        }
        assert_eq!(printable(b"a\nb\xFF"), r"a\x0Ab\xFF");
        assert_eq!(printable(br"a\xFF"), r"a\x5CxFF");
    }

    proptest! {
        #[test]
        fn printing_loses_nothing(name: Vec<u8>) {
            let text = printable(&name);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(unprintable(&text), name);
        }

        #[test]
        fn printing_keeps_names_that_look_like_escapes_apart(name in r"[\\xX0-9AaFf\n]{0,12}") {
            prop_assert_eq!(unprintable(&printable(name.as_bytes())), name.as_bytes());
        }
    }
}

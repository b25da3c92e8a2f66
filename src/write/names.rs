//! Names that are safe in an archive and on a disk, made from names that nobody vouches for.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::sample::{Blob, Sample};

/// Bytes of one path component, so that a suffix still fits into the 255 that file systems allow.
const COMPONENT_LIMIT: usize = 240;
/// Bytes of a whole key.
const KEY_LIMIT: usize = 1000;
/// Bytes of a suffix.
const SUFFIX_LIMIT: usize = 100;

/// The suffixes by which the readers of shards know an image.
const IMAGE_SUFFIXES: [&str; 10] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
];

/// A relative path without `..`, `.`, empty, hidden or over-long components, control characters and backslashes.
///
/// WebDataset's own reader passes over folders named like `__this__`; they become `_this__`.
pub(super) fn safe_path(name: &str) -> String {
    safe_path_within(name, COMPONENT_LIMIT)
}

/// [`safe_path`] with at most `limit` bytes a component.
pub(super) fn safe_path_within(name: &str, limit: usize) -> String {
    let mut components: Vec<String> = name
        .split('/')
        .filter(|component| !matches!(*component, "" | "." | ".."))
        .map(|component| shorten(&safe_component(component), limit))
        .collect();
    let last = components.len().saturating_sub(1);
    for folder in &mut components[..last] {
        if folder.starts_with("__") && folder.ends_with("__") {
            *folder = format!("_{}", folder.trim_start_matches('_'));
        }
    }
    let path = components.join("/");
    if path.is_empty() {
        return "_".to_string();
    }
    // The cut may fall behind a slash; what follows it is never empty, as the digest comes behind.
    shorten(&path, KEY_LIMIT)
}

/// The key of a sample in a tar. Readers cut a member's name at the first dot of its basename, hence no dot there.
///
/// A parquet row's key is often the stored path, `cat.jpg`; its image suffix goes rather than becoming `cat_jpg`.
pub(super) fn tar_key(sample: &Sample) -> String {
    let mut key = sample.key.as_str();
    if matches!(sample.image, Blob::Bytes(_))
        && let Some((stem, suffix)) = key.rsplit_once('.')
        && is_image_suffix(&suffix.to_lowercase())
    {
        key = stem;
    }
    let path = safe_path(key);
    match path.rsplit_once('/') {
        Some((folder, basename)) => format!("{folder}/{}", basename.replace('.', "_")),
        None => path.replace('.', "_"),
    }
}

/// What follows the key in the image's name: the original suffix, lower-cased, where readers take it for an image's, else
/// the usual one of the format. Never two parts: readers know `png`, but not `rgb.png`.
pub(super) fn image_suffix(sample: &Sample, format: &str) -> String {
    let name = match &sample.image {
        Blob::File(path) => path.to_string_lossy(),
        _ => sample.member.as_str().into(),
    };
    if let Some((_, extension)) = name.rsplit_once('.')
        && is_image_suffix(&extension.to_lowercase())
    {
        return extension.to_lowercase();
    }
    match format.to_lowercase().as_str() {
        "jpeg" => "jpg".to_string(),
        other => safe_suffix(other),
    }
}

/// Stem and suffix of an image's file in the folder layout; the suffix is empty where the original name has none.
///
/// The path is the id. A file keeps its name, whatever its suffix; an image from a tar or a table gets its suffix.
pub(super) fn folder_stem(sample: &Sample, format: &str) -> (String, String) {
    let id = sample.id.as_str();
    let basename = id.rsplit('/').next().unwrap_or_default();
    if let Blob::File(path) = &sample.image
        && path.file_name().is_some_and(|name| name == basename)
    {
        return match basename.rsplit_once('.') {
            Some((stem, suffix)) if !stem.is_empty() && !suffix.is_empty() => (
                id[..id.len() - suffix.len() - 1].to_string(),
                safe_component(suffix),
            ),
            _ => (id.to_string(), String::new()),
        };
    }
    let suffix = image_suffix(sample, format);
    let bare = match id.rsplit_once('.') {
        Some((bare, end)) if !end.contains('/') && end.to_lowercase() == suffix => bare,
        _ => id,
    };
    (bare.to_string(), suffix)
}

/// The sidecars' suffixes, each made safe and none twice nor equal to the image's.
pub(super) fn sidecar_suffixes(sample: &Sample, image: &str) -> Vec<String> {
    let mut taken = Taken::default();
    taken.claim(image.to_string());
    let suffixes = sample.sidecars.iter();
    suffixes
        .map(|sidecar| taken.claim(safe_suffix(&sidecar.suffix.to_lowercase())))
        .collect()
}

/// `stem.suffix`, or the stem alone.
pub(super) fn with_suffix(stem: &str, suffix: &str) -> String {
    match suffix {
        "" => stem.to_string(),
        suffix => format!("{stem}.{suffix}"),
    }
}

/// Names that stand already. A second equal one gets `_2`, the next `_3`, ...
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The name, and the last number given behind it.
    numbers: HashMap<String, u64>,
}

impl Taken {
    /// The name to use for what would like to be called `name`.
    pub(super) fn claim(&mut self, name: String) -> String {
        let Some(&last) = self.numbers.get(&name) else {
            self.numbers.insert(name.clone(), 1);
            return name;
        };
        let (number, free) = (last + 1..)
            .map(|number| (number, format!("{name}_{number}")))
            .find(|(_, candidate)| !self.numbers.contains_key(candidate))
            .expect("there are more numbers than names");
        self.numbers.insert(name, number);
        self.numbers.insert(free.clone(), 1);
        free
    }
}

fn is_image_suffix(suffix: &str) -> bool {
    IMAGE_SUFFIXES.contains(&suffix)
}

fn safe_component(component: &str) -> String {
    let mut safe: String = component
        .chars()
        .map(|c| match c {
            '/' | '\\' => '_',
            c if c.is_control() => '_',
            c => c,
        })
        .collect();
    if safe.starts_with('.') {
        safe.replace_range(..1, "_");
    }
    safe
}

fn safe_suffix(suffix: &str) -> String {
    let safe = safe_component(suffix.trim_start_matches('.'));
    match safe.as_str() {
        "" => "bin".to_string(),
        safe => shorten(safe, SUFFIX_LIMIT),
    }
}

/// Cuts `name` to `limit` bytes; the end is then a digest of the whole, so that different names stay different.
fn shorten(name: &str, limit: usize) -> String {
    if name.len() <= limit {
        return name.to_string();
    }
    let digest = Sha256::digest(name.as_bytes());
    let digest: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut cut = limit - digest.len() - 1;
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}-{digest}", &name[..cut])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sample::Sidecar;

    fn sample(id: &str, key: &str, member: &str, image: Blob) -> Sample {
        Sample {
            id: id.to_string(),
            key: key.to_string(),
            source: "in".into(),
            member: member.to_string(),
            offset: 0,
            length: 0,
            image,
            sidecars: Vec::new(),
            problem: None,
        }
    }

    fn bytes() -> Blob {
        Blob::Bytes(Vec::new().into())
    }

    fn span() -> Blob {
        let path = Path::new("in.tar").into();
        let (offset, length) = (0, 0);
        Blob::Span {
            path,
            offset,
            length,
        }
    }

    fn file(path: &str) -> Blob {
        Blob::File(Path::new(path).into())
    }

    #[test]
    fn paths_are_relative_and_plain() {
        for (name, safe) in [
            ("a/b c/ü", "a/b c/ü"),
            ("/etc/passwd", "etc/passwd"),
            ("../../a/./b//c/..", "a/b/c"),
            ("..", "_"),
            ("", "_"),
            ("///", "_"),
            ("a\\..\\b\n\0", "a_.._b__"),
            (".hidden/.x", "_hidden/_x"),
            ("...", "_.."),
            ("__MACOSX__/__a__", "_MACOSX__/__a__"),
            ("____/a", "_/a"),
        ] {
            assert_eq!(safe_path(name), safe, "{name:?}");
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) = ("é".repeat(500) + "a", "é".repeat(500) + "b");
        assert!(safe_path(&a).len() <= COMPONENT_LIMIT);
        assert_ne!(safe_path(&a), safe_path(&b));
        assert_eq!(safe_path(&"x".repeat(240)), "x".repeat(240));
        let deep = "0123456789/".repeat(200);
        assert!(safe_path(&deep).len() <= KEY_LIMIT);
        assert!(!safe_path(&deep).contains("//"));
    }

    #[test]
    fn tar_keys_have_no_dot_in_the_basename() {
        for (key, image, safe) in [
            ("v1.0/my.photo", file("my.photo.jpg"), "v1.0/my_photo"),
            ("a/0001", span(), "a/0001"),
            ("cat.jpg", bytes(), "cat"),
            ("https://x.org/c.d.JPEG", bytes(), "https:/x.org/c_d"),
            (".jpg", bytes(), "_"),
        ] {
            assert_eq!(tar_key(&sample(key, key, key, image)), safe, "{key:?}");
        }
    }

    #[test]
    fn the_image_keeps_its_suffix_where_readers_know_it() {
        for (key, member, image, suffix) in [
            ("0001", "0001.JPG", span(), "jpg"),
            ("0001", "0001.rgb.png", span(), "png"),
            ("0001", "x.jpg/0001", span(), "webp"),
            ("my.photo", "my.photo.jpeg", file("my.photo.jpeg"), "jpeg"),
            ("scan", "scan.dat", file("scan.dat"), "webp"),
            ("scan", "scan", file("scan"), "webp"),
            ("17", "17", bytes(), "webp"),
            ("17", "17", file("/x/a.tif"), "tif"),
        ] {
            let sample = sample(key, key, member, image);
            assert_eq!(image_suffix(&sample, "webp"), suffix, "{member}");
        }
        let nameless = sample("17", "17", "17", bytes());
        assert_eq!(image_suffix(&nameless, "jpeg"), "jpg");
    }

    #[test]
    fn a_file_keeps_its_path_and_others_get_a_suffix() {
        for (id, member, image, stem, suffix) in [
            (
                "a/b.c.JPG",
                "b.c.JPG",
                file("/in/a/b.c.JPG"),
                "a/b.c",
                "JPG",
            ),
            (
                "a/scan.dat",
                "scan.dat",
                file("/in/a/scan.dat"),
                "a/scan",
                "dat",
            ),
            ("a.b/scan", "scan", file("/in/a.b/scan"), "a.b/scan", ""),
            ("00000/0001", "0001.PNG", span(), "00000/0001", "png"),
            ("cat.png", "3", bytes(), "cat.png", "jpg"),
            ("cat.JPG", "3", bytes(), "cat", "jpg"),
            ("3", "3", bytes(), "3", "jpg"),
        ] {
            let key = id.rsplit('/').next().unwrap();
            let sample = sample(id, key, member, image);
            let expected = (stem.to_string(), suffix.to_string());
            assert_eq!(folder_stem(&sample, "jpeg"), expected, "{id}");
        }
    }

    #[test]
    fn sidecar_suffixes_are_safe_and_single() {
        let mut sample = sample("a", "a", "a.jpg", span());
        for suffix in ["txt", "TXT", "../x", "", "jpg", "seg.png"] {
            let suffix = suffix.to_string();
            let blob = bytes();
            sample.sidecars.push(Sidecar { suffix, blob });
        }
        assert_eq!(
            sidecar_suffixes(&sample, "jpg"),
            ["txt", "txt_2", "_x", "bin", "jpg_2", "seg.png"]
        );
    }

    #[test]
    fn equal_names_are_numbered_around_those_that_stand() {
        let mut taken = Taken::default();
        let names = ["a", "a_2", "a", "a", "a_2", "b"];
        let given: Vec<_> = names.map(|name| taken.claim(name.to_string())).into();
        assert_eq!(given, ["a", "a_2", "a_3", "a_4", "a_2_2", "b"]);
    }
}

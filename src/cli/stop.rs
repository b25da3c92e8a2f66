//! Ctrl-C: the first one asks the work to stop where nothing is lost, a second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the first Ctrl-C.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// Exit code of what was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether the work is to stop.
pub(crate) fn asked() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Listens for Ctrl-C from now on.
pub(crate) fn on_ctrl_c() {
    let stop = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("clipsift: stopping where nothing is lost; Ctrl-C once more stops at once");
    };
    if let Err(error) = ctrlc::set_handler(stop) {
        eprintln!("clipsift: Ctrl-C will end the process at once: {error}");
    }
}

/// The command line of this process, to be typed again.
pub(crate) fn same_command() -> String {
    let words = std::env::args_os().map(|word| quoted(&word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them_otherwise() {
        for (word, typed) in [
            ("run", "run"),
            ("shards/{0..4}.tar", "'shards/{0..4}.tar'"),
            ("my photos", "'my photos'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("größe.tar", "größe.tar"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(word), typed);
        }
    }
}

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
    let words: Vec<_> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    typed(&words)
}

/// Words as a shell reads them back.
fn typed(words: &[String]) -> String {
    // No argument of a process holds a NUL, which is all that cannot be typed.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_back_word_for_word() {
        let words = [
            "clipsift",
            "shards/{0..4}.tar",
            "my photos",
            "it's",
            "",
            "größe.tar",
            "$HOME",
            "a\\b^c",
        ];
        let words = words.map(String::from);
        let line = typed(&words);
        assert_eq!(shlex::split(&line).unwrap(), words);
        assert!(
            line.starts_with("clipsift 'shards/{0..4}.tar' 'my photos' "),
            "{line}"
        );
    }
}

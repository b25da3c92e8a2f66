//! The command line: [`args`] is what can be typed, the other modules do it with the library.

/// `println!`, but a reader that has gone away, as `| head` does, ends the process quietly.
macro_rules! out {
    ($($text:tt)*) => {
        if writeln!(std::io::stdout(), $($text)*).is_err() {
            std::process::exit(0);
        }
    };
}

mod args;
mod commands;
mod flags;
mod measure;
mod terminal;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, FromArgMatches};
use clipsift::{Error, Result};

use args::{Cli, Command};

/// Set by the first Ctrl-C; stages look at it after every batch.
static STOP: AtomicBool = AtomicBool::new(false);

/// A command with its arguments, valid as far as that can be told without looking at files.
pub(crate) struct Request {
    cli: Cli,
    /// Thresholds in the order that they were typed in, across flags.
    thresholds: flags::Thresholds,
}

impl Request {
    /// Reads the process's arguments. Help and mistakes are printed here; the exit code says which it was.
    pub(crate) fn from_args() -> std::result::Result<Request, ExitCode> {
        let matches = Cli::command().get_matches();
        let cli = Cli::from_arg_matches(&matches).map_err(|e| {
            let _ = e.print();
            ExitCode::from(2)
        })?;
        let typed = matches.subcommand().map(|(_, sub)| sub);
        let thresholds = typed.map_or_else(
            || Ok(flags::Thresholds::default()),
            flags::Thresholds::from_matches,
        );
        let request = thresholds.map(|thresholds| Request { cli, thresholds });
        request.map_err(|error| report(&error))
    }

    /// Does it.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Request {
            cli: Cli { command, common },
            thresholds,
        } = self;
        common.start_threads()?;
        let terminal = terminal::Terminal::new(common.quiet);
        match command {
            Command::Curate(args) => commands::curate(*args, thresholds, terminal),
            Command::Embed(args) => commands::embed(args, terminal),
            Command::Score(args) => commands::score(args, thresholds, &terminal),
            Command::Dedup(args) => commands::dedup(args, thresholds, &terminal),
            Command::Filter(args) => commands::filter(args, thresholds, &terminal),
            Command::Write(args) => commands::write(args, &terminal),
            Command::Report(args) => commands::report(&args, &terminal),
            Command::Verify(args) => measure::verify(&args),
            Command::Bench(args) => measure::bench(args),
            Command::Models(args) => commands::models(args),
        }
    }
}

/// Prints an error and gives its exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    eprintln!("clipsift: {error}");
    ExitCode::from(match error {
        Error::Usage(_) => 2,
        Error::Interrupted => 130,
        _ => 1,
    })
}

/// The first Ctrl-C ends the work after the batch at hand; the second ends the process.
pub(crate) fn stop_on_ctrl_c() {
    let stop = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("clipsift: stopping after this batch; once more to stop at once");
    };
    if let Err(error) = ctrlc::set_handler(stop) {
        eprintln!("clipsift: Ctrl-C will end the process at once: {error}");
    }
}

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
mod models;
mod shell;
mod stop;
mod summary;
mod terminal;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use clipsift::{Error, Result};

use serde_json::json;

use args::{Cli, Command};
use terminal::Terminal;

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
        request.map_err(|error| {
            eprintln!("clipsift: {error}");
            ExitCode::from(exit_code(&error))
        })
    }

    /// Does it, says what went wrong, and gives the exit code.
    pub(crate) fn run(self) -> ExitCode {
        stop::on_ctrl_c();
        let terminal = Arc::new(Terminal::new(self.cli.common.quiet, self.cli.common.json));
        let name = self.cli.command.name();
        // These give one result, with no stages before it.
        if !matches!(name, "bench" | "verify" | "models" | "completions" | "man") {
            terminal.tell(json!({
                "event": "start",
                "clipsift": env!("CARGO_PKG_VERSION"),
                "command": name,
                "arguments": std::env::args().skip(1).collect::<Vec<_>>(),
            }));
        }
        let done = self.work(&terminal);
        done.unwrap_or_else(|error| {
            if let Error::Interrupted = error {
                let command = stop::same_command();
                terminal.tell(json!({"event": "interrupted", "continue": command}));
                eprintln!("clipsift: interrupted; to go on where it stopped:\n    {command}");
            } else {
                let (exit, text) = (exit_code(&error), error.to_string());
                terminal.tell(json!({"event": "error", "message": text, "exit": exit}));
                eprintln!("clipsift: {error}");
            }
            ExitCode::from(exit_code(&error))
        })
    }

    fn work(self, terminal: &Arc<Terminal>) -> Result<ExitCode> {
        let Request {
            cli: Cli { command, common },
            thresholds,
        } = self;
        common.start_threads()?;
        match command {
            Command::Curate(args) => commands::curate(*args, thresholds, terminal),
            Command::Embed(args) => commands::embed(&args, terminal),
            Command::Score(args) => commands::score(args, thresholds, terminal),
            Command::Dedup(args) => commands::dedup(args, thresholds, terminal),
            Command::Filter(args) => commands::filter(args, thresholds, terminal),
            Command::Write(args) => commands::write(args, terminal),
            Command::Report(args) => commands::report(&args, terminal),
            Command::Verify(args) => measure::verify(&args, terminal.is_json()),
            Command::Bench(args) => measure::bench(args, terminal.is_json()),
            Command::Models(args) => models::models(args, terminal),
            Command::Completions(args) => shell::completions(args.shell),
            Command::Man(args) => shell::man(args.dir.as_deref()),
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Usage(_) => 2,
        Error::Interrupted => stop::INTERRUPTED,
        _ => 1,
    }
}

//! What a person or a program sees while the work goes on: bars on a terminal, plain lines elsewhere, JSON for programs.
//!
//! Bars and lines are talk and go to stderr. With `--json` nothing is said there but errors, and stdout has one JSON object a line.

mod json;
mod pace;

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clipsift::clip::hub::Transfer;
use clipsift::pipeline::{Event, Stage};
use clipsift::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::{Value, json};

use super::stop;
use pace::{Pace, span};

/// How often a plain line is printed while a stage goes on.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often a program is told of progress.
const JSON_EVERY: Duration = Duration::from_millis(500);

/// Shows events.
pub(crate) struct Terminal {
    mode: Mode,
    quiet: bool,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Bars { colours: bool },
    Lines,
    Json,
}

#[derive(Default)]
struct State {
    under_way: Option<UnderWay>,
    finished: Vec<Done>,
}

/// The stage or download that goes on now.
struct UnderWay {
    name: String,
    unit: Unit,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    pace: Pace,
    shown: Instant,
}

/// What numbers count.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Items(&'static str),
    Bytes,
}

/// A stage that is over; one that was run several times is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Done {
    pub stage: Stage,
    /// Items in all, and those of them that an earlier run had done.
    pub items: u64,
    pub passed: u64,
    pub seconds: f64,
}

impl Done {
    /// Items a second, where any were done now.
    pub(crate) fn rate(&self) -> Option<f64> {
        let made = self.items - self.passed;
        (made > 0 && self.seconds > 0.0).then(|| made as f64 / self.seconds)
    }
}

impl Terminal {
    pub(crate) fn new(quiet: bool, json: bool) -> Terminal {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        // A terminal that cannot move its cursor gets lines.
        let bars = std::io::stderr().is_terminal()
            && std::env::var("TERM").is_ok_and(|term| term != "dumb" && !term.is_empty());
        Terminal {
            mode: match (json, bars) {
                (true, _) => Mode::Json,
                (false, true) => Mode::Bars {
                    colours: !set("NO_COLOR"),
                },
                (false, false) => Mode::Lines,
            },
            quiet,
            state: Mutex::default(),
        }
    }

    /// Whether stdout is for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.mode == Mode::Json
    }

    /// A sentence for the user.
    pub(crate) fn say(&self, text: &str) {
        self.show(Event::Note(text));
    }

    /// An object for a program, on stdout.
    pub(crate) fn tell(&self, object: Value) {
        if self.is_json() {
            out!("{object}");
        }
    }

    /// The stages so far, in the order in which they ended first.
    pub(crate) fn finished(&self) -> Vec<Done> {
        self.state().finished.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A thread that panicked while it printed leaves nothing here that could not be used.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn show(&self, event: Event) {
        let mut state = self.state();
        match event {
            Event::Note(text) => {
                if self.quiet {
                    return;
                }
                match (self.mode, state.bar()) {
                    (Mode::Json, _) => self.tell(json!({"event": "note", "text": text})),
                    (_, Some(bar)) => bar.suspend(|| eprintln!("{text}")),
                    _ => eprintln!("{text}"),
                }
            }
            Event::Started { stage, total } => {
                self.tell(json::stage_start(stage, total));
                let unit = Unit::Items(unit(stage));
                state.under_way = Some(self.begin(stage.as_str(), unit, total));
            }
            Event::Advanced { stage, done } => {
                if let Some(under_way) = &mut state.under_way {
                    let told = |pace: &Pace, total| json::progress(stage, done, total, pace);
                    self.advance(under_way, done, told);
                }
            }
            Event::Bad { id, source, reason } => self.tell(json::bad_sample(id, source, reason)),
            Event::Finished {
                stage,
                done,
                passed,
                seconds,
            } => {
                state.end_bar();
                state.under_way = None;
                let done = Done {
                    stage,
                    items: done,
                    passed,
                    seconds,
                };
                self.tell(json::stage_end(&done));
                if !self.quiet && !self.is_json() {
                    eprintln!("{}", sentence(&done));
                }
                state.finish(done);
            }
            _ => {}
        }
    }

    /// Shows how far a download is.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C: what has come is kept.
    pub(crate) fn transfer(&self, transfer: &Transfer) -> Result<()> {
        let Transfer { name, done, size } = *transfer;
        let mut state = self.state();
        if state.under_way.as_ref().is_none_or(|now| now.name != name) {
            state.end_bar();
            let mut begun = self.begin(name, Unit::Bytes, size);
            begun.pace.passed(done);
            if let (Some(bar), true) = (&begun.bar, done > 0) {
                // What an earlier try left does not count as quick.
                bar.set_position(done);
                bar.reset_eta();
            }
            state.under_way = Some(begun);
        }
        let over = size == Some(done);
        if let Some(under_way) = &mut state.under_way {
            let told = |pace: &Pace, total| json::download(name, done, total, pace);
            if over {
                self.tell(told(&under_way.pace, size));
            } else {
                self.advance(under_way, done, told);
            }
        }
        if over {
            state.end_bar();
            let seconds = state.under_way.take().map_or(0.0, |now| now.pace.seconds());
            if !self.quiet && !self.is_json() {
                eprintln!("{name}: {} in {seconds:.1} s", bytes(done));
            }
        }
        match stop::asked() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }

    /// Downloads are over, or one of them has failed.
    pub(crate) fn no_more_transfers(&self) {
        let mut state = self.state();
        state.end_bar();
        state.under_way = None;
    }

    fn begin(&self, name: &str, unit: Unit, total: Option<u64>) -> UnderWay {
        let bar = match self.mode {
            Mode::Bars { colours } if !self.quiet => Some(bar(name, unit, total, colours)),
            _ => None,
        };
        UnderWay {
            name: name.into(),
            unit,
            total,
            bar,
            pace: Pace::new(),
            shown: Instant::now(),
        }
    }

    fn advance(&self, now: &mut UnderWay, done: u64, told: impl Fn(&Pace, Option<u64>) -> Value) {
        now.pace.at(done);
        if self.quiet {
            return;
        }
        match (self.mode, &now.bar) {
            (_, Some(bar)) => bar.set_position(done),
            (Mode::Json, _) if now.shown.elapsed() >= JSON_EVERY => {
                self.tell(told(&now.pace, now.total));
                now.shown = Instant::now();
            }
            (Mode::Lines, _) if now.shown.elapsed() >= LINE_EVERY => {
                eprintln!("{}", line(now, done));
                now.shown = Instant::now();
            }
            _ => {}
        }
    }
}

impl State {
    fn bar(&self) -> Option<&ProgressBar> {
        self.under_way.as_ref()?.bar.as_ref()
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar() {
            bar.finish_and_clear();
        }
    }

    fn finish(&mut self, done: Done) {
        match self.finished.iter_mut().find(|d| d.stage == done.stage) {
            Some(known) => {
                known.items += done.items;
                known.passed += done.passed;
                known.seconds += done.seconds;
            }
            None => self.finished.push(done),
        }
    }
}

/// How far a stage is, as a line of its own.
fn line(now: &UnderWay, done: u64) -> String {
    let of = |of: &str, count: fn(u64) -> String| match now.total {
        Some(total) => format!("{}{of}{}", count(done), count(total)),
        None => count(done),
    };
    let rate = now.pace.rate();
    let left = match now.pace.left(done, now.total) {
        Some(left) => format!(", {} left", span(left)),
        None => String::new(),
    };
    match now.unit {
        Unit::Items(unit) => format!(
            "{}: {} {unit}, {rate:.1} a second{left}",
            now.name,
            of(" of ", |n| n.to_string())
        ),
        Unit::Bytes => format!(
            "{}: {}, {} a second{left}",
            now.name,
            of(" of ", bytes),
            bytes(rate as u64)
        ),
    }
}

/// What a stage did, as a line of its own.
fn sentence(done: &Done) -> String {
    let Done {
        stage,
        items,
        passed,
        seconds,
    } = done;
    let rate = match done.rate() {
        Some(rate) if *seconds >= 0.1 => format!(", {rate:.1} a second"),
        _ => String::new(),
    };
    let passed = match passed {
        0 => String::new(),
        passed => format!(" ({passed} done before)"),
    };
    let (stage, unit) = (stage.as_str(), unit(*stage));
    format!("{stage}: {items} {unit}{passed} in {seconds:.1} s{rate}")
}

fn bar(name: &str, unit: Unit, total: Option<u64>, colours: bool) -> ProgressBar {
    let (prefix, bar) = match colours {
        true => ("{prefix:>8.bold}", "{bar:30.cyan/dim}"),
        false => ("{prefix:>8}", "{bar:30}"),
    };
    let (of, alone, rate) = match unit {
        Unit::Items(_) => (
            "{human_pos}/{human_len} {msg}",
            "{human_pos} {msg}",
            "{rate}/s",
        ),
        Unit::Bytes => (
            "{decimal_bytes}/{decimal_total_bytes}",
            "{decimal_bytes}",
            "{decimal_bytes_per_sec}",
        ),
    };
    let template = match total {
        Some(_) => format!("{prefix} {bar} {of}, {rate}, {{eta}} left"),
        None => format!("{prefix} {{spinner}} {alone}, {rate}, {{elapsed}}"),
    };
    let shown = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(&template) {
        // Its own key has four decimals.
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.1}", state.per_sec());
        };
        shown.set_style(style.with_key("rate", rate));
    }
    shown.set_prefix(name.to_string());
    if let Unit::Items(unit) = unit {
        shown.set_message(unit);
    }
    shown
}

/// Bytes as a person says them, in thousands and millions.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..100_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

pub(crate) fn unit(stage: Stage) -> &'static str {
    match stage {
        Stage::Embed | Stage::Decide | Stage::Write => "samples",
        Stage::Import | Stage::Audit => "rows",
        Stage::Score => "scores",
        Stage::Seed => "steps",
        Stage::KMeans => "rows compared",
        Stage::Dedup => "pairs compared",
        Stage::Report => "pictures",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_is_run_twice_is_one_line_of_the_table() {
        let terminal = Terminal::new(true, false);
        for (items, passed) in [(100, 0), (50, 40)] {
            terminal.show(Event::Finished {
                stage: Stage::Score,
                done: items,
                passed,
                seconds: 2.0,
            });
        }
        let [done] = &terminal.finished()[..] else {
            panic!("one stage");
        };
        assert_eq!((done.items, done.passed, done.seconds), (150, 40, 4.0));
        assert_eq!(done.rate(), Some(110.0 / 4.0));
    }

    #[test]
    fn a_line_says_how_much_is_done_and_how_long_it_will_take() {
        let mut now = UnderWay {
            name: "embed".into(),
            unit: Unit::Items("samples"),
            total: Some(300),
            bar: None,
            pace: Pace::new(),
            shown: Instant::now(),
        };
        now.pace.at_time(100, Duration::from_secs(10));
        assert_eq!(
            line(&now, 100),
            "embed: 100 of 300 samples, 10.0 a second, 20 s left"
        );
        (now.unit, now.name) = (Unit::Bytes, "model.safetensors".into());
        now.total = None;
        now.pace.at_time(25_000_000, Duration::from_secs(10));
        assert!(
            line(&now, 25_000_000).starts_with("model.safetensors: 25.0 MB, 2.5 MB a second"),
            "{}",
            line(&now, 25_000_000)
        );
    }
}

//! Progress on stderr: a bar with rate and time left on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clipsift::pipeline::{Event, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is printed while a stage goes on.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows events.
pub(crate) struct Terminal {
    quiet: bool,
    bars: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bar: Option<ProgressBar>,
    begun: Option<Instant>,
    total: Option<u64>,
    printed: Option<Instant>,
}

impl Terminal {
    pub(crate) fn new(quiet: bool) -> Terminal {
        Terminal {
            quiet,
            bars: std::io::stderr().is_terminal(),
            state: Mutex::default(),
        }
    }

    /// A sentence for the user.
    pub(crate) fn say(&self, text: &str) {
        self.show(Event::Note(text));
    }

    pub(crate) fn show(&self, event: Event) {
        if self.quiet {
            return;
        }
        // A thread that panicked while it printed leaves nothing here that could not be used.
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::Note(text) => match &state.bar {
                Some(bar) => bar.suspend(|| eprintln!("{text}")),
                None => eprintln!("{text}"),
            },
            Event::Started { stage, total } => {
                state.begun = Some(Instant::now());
                state.printed = state.begun;
                state.total = total;
                state.bar = self.bars.then(|| bar(stage, total));
            }
            Event::Advanced { stage, done } => match &state.bar {
                Some(bar) => bar.set_position(done),
                None => {
                    if state.printed.is_some_and(|at| at.elapsed() >= LINE_EVERY) {
                        let seconds = state.begun.map_or(0.0, |at| at.elapsed().as_secs_f64());
                        let rate = done as f64 / seconds;
                        let (of, left) = match state.total {
                            Some(total) if done > 0 => {
                                let left = total.saturating_sub(done) as f64 / rate;
                                (format!(" of {total}"), format!(", {} left", span(left)))
                            }
                            _ => Default::default(),
                        };
                        eprintln!(
                            "{}: {done}{of} {}, {rate:.1} a second{left}",
                            stage.as_str(),
                            unit(stage),
                        );
                        state.printed = Some(Instant::now());
                    }
                }
            },
            Event::Finished {
                stage,
                done,
                seconds,
            } => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
                eprintln!(
                    "{}: {done} {} in {seconds:.1} s",
                    stage.as_str(),
                    unit(stage)
                );
            }
            _ => {}
        }
    }
}

fn bar(stage: Stage, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{prefix:>7} {bar:30} {human_pos}/{human_len} {msg}, {per_sec}, {eta} left",
        None => "{prefix:>7} {spinner} {human_pos} {msg}, {per_sec}, {elapsed}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(stage.as_str());
    bar.set_message(unit(stage));
    bar
}

/// Seconds as a person says them.
fn span(seconds: f64) -> String {
    match seconds.round() as u64 {
        s @ 0..=99 => format!("{s} s"),
        s @ 100..=5999 => format!("{} min", (s + 30) / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

fn unit(stage: Stage) -> &'static str {
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

//! A histogram as SVG: bars, and lines where something is decided.

use super::html::{number, push};

/// Bars between two values.
pub(super) struct Histogram {
    pub low: f64,
    pub high: f64,
    pub bins: Vec<u64>,
    /// Heights by the square root, where few and many have to be seen together.
    pub root: bool,
}

/// A line, which the control of the same name moves.
pub(super) struct Mark {
    pub at: f64,
    pub control: String,
    pub on: bool,
}

impl Histogram {
    /// Of finite values; others are passed over.
    pub(super) fn of(values: &[f32], low: f64, high: f64, bins: usize) -> Histogram {
        let mut counts = vec![0; bins];
        for value in values.iter().filter(|value| value.is_finite()) {
            let place = (f64::from(*value) - low) / (high - low) * bins as f64;
            counts[(place.max(0.0) as usize).min(bins - 1)] += 1;
        }
        Histogram {
            low,
            high,
            bins: counts,
            root: false,
        }
    }

    /// The drawing; `marked` tells the bars, by their middle, that stand for what falls.
    pub(super) fn svg(
        &self,
        name: &str,
        label: &str,
        marks: &[Mark],
        marked: impl Fn(f64) -> bool,
    ) -> String {
        const HEIGHT: f64 = 100.0;
        let most = self.bins.iter().copied().max().unwrap_or(0).max(1) as f64;
        let width = 1000.0 / self.bins.len() as f64;
        let mut out = String::new();
        push(
            &mut out,
            format_args!(
                r#"<div class="chart"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{label}" data-histogram="{name}" data-low="{}" data-high="{}">"#,
                self.low, self.high
            ),
        );
        for (i, count) in self.bins.iter().enumerate() {
            let share = *count as f64 / most;
            let share = if self.root { share.sqrt() } else { share };
            // A bar of one among thousands is still to be seen.
            let height = if *count == 0 {
                0.0
            } else {
                (share * HEIGHT).max(1.5)
            };
            let middle =
                self.low + (i as f64 + 0.5) / self.bins.len() as f64 * (self.high - self.low);
            let class = if marked(middle) {
                r#" class="out""#
            } else {
                ""
            };
            push(
                &mut out,
                format_args!(
                    r#"<rect{class} x="{:.2}" y="{:.2}" width="{:.2}" height="{height:.2}"><title>{count} near {}</title></rect>"#,
                    i as f64 * width + 1.0,
                    HEIGHT - height,
                    width - 2.0,
                    number(middle)
                ),
            );
        }
        for mark in marks {
            let x = ((mark.at - self.low) / (self.high - self.low) * 1000.0).clamp(0.0, 1000.0);
            let off = if mark.on { "" } else { " off" };
            push(
                &mut out,
                format_args!(
                    r#"<line class="bound{off}" data-control="{}" x1="{x:.2}" x2="{x:.2}" y1="0" y2="100"/>"#,
                    mark.control
                ),
            );
        }
        push(
            &mut out,
            format_args!(
                r#"</svg><div class="axis"><span>{}</span><span>{}</span><span>{}</span></div></div>"#,
                number(self.low),
                number((self.low + self.high) / 2.0),
                number(self.high)
            ),
        );
        out
    }
}

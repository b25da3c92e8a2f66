//! What each stage does a second on this machine, beside what the machine can do at most.
//!
//! Everything that is needed is made on the spot (pictures, random weights, rows), so the binary alone is enough. Each figure is
//! the median of repetitions after a warm-up. `fraction_of_peak` sets the floating-point operations of a stage against this
//! device's own matrix product in the tower's precision, measured in the same call; candidates of duplicates are found in
//! narrower numbers than f32 where the machine has them, so on a CPU that fraction can exceed 1.

mod input;
mod machine;
mod pictures;
mod tower;
mod vectors;

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::device::Device;
use crate::error::{Error, Result};

pub use machine::Machine;
pub use tower::MODELS;

/// The stages that can be measured, in the order of the pipeline.
pub const STAGES: [&str; 9] = [
    "read", "decode", "resize", "upload", "tower", "heads", "kmeans", "pairs", "write",
];

/// What to measure.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Names of [`STAGES`].
    pub stages: Vec<String>,
    /// Towers: `builtin`, one of [`MODELS`] (random weights of that shape), a folder or a hub id.
    pub models: Vec<String>,
    /// Images a batch; each tower is measured at each.
    pub batch_sizes: Vec<usize>,
    /// n: rows for heads, k-means and pairs.
    pub rows: usize,
    /// d: dims of these rows.
    pub dims: usize,
    /// k: clusters of these rows.
    pub clusters: usize,
    /// Pictures for read, decode, resize and write.
    pub pictures: usize,
    /// Seconds that a figure is repeated for, at least three times.
    pub seconds: f64,
}

impl Request {
    /// What is measured where nothing is asked for: minutes on a CPU, the sizes of the published figures on a GPU.
    pub fn for_device(device: &Device) -> Request {
        let gpu = device.kind() == "cuda";
        let strings = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        Request {
            stages: strings(&STAGES),
            models: strings(if gpu {
                &["vit-b-32", "vit-l-14"]
            } else {
                &["builtin", "vit-b-32"]
            }),
            batch_sizes: if gpu {
                vec![1, 16, 64, 256, 1024]
            } else {
                vec![1, 16]
            },
            rows: if gpu { 1_000_000 } else { 20_000 },
            dims: if gpu { 768 } else { 512 },
            clusters: if gpu { 1_000 } else { 200 },
            pictures: 128,
            seconds: 1.0,
        }
    }

    fn check(&self) -> Result<()> {
        if let Some(stage) = self
            .stages
            .iter()
            .find(|stage| !STAGES.contains(&stage.as_str()))
        {
            let known = STAGES.join(", ");
            return Err(Error::usage(format!(
                "no stage {stage:?}; the stages are {known}"
            )));
        }
        let positive = [
            ("rows", self.rows),
            ("dims", self.dims),
            ("clusters", self.clusters),
            ("pictures", self.pictures),
            (
                "batch size",
                self.batch_sizes.iter().copied().min().unwrap_or(0),
            ),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::usage(format!("{name}: give at least 1")));
        }
        if self.clusters > self.rows {
            return Err(Error::usage("more clusters than rows"));
        }
        Ok(())
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// One of [`STAGES`].
    pub name: &'static str,
    /// The figure.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What it was measured with: model, dtype, batch size, sizes, threads.
    pub params: Map<String, Value>,
    /// Operations a second over those of the device's own matrix product.
    pub fraction_of_peak: Option<f64>,
    /// The most memory of the process (CPU) while it was measured.
    pub peak_bytes: Option<u64>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What was asked for.
    pub request: Request,
    /// A figure for each stage, model, precision and batch size.
    pub stages: Vec<Stage>,
}

/// Measures; `each` sees a figure as soon as it is there.
///
/// # Errors
/// [`Error::Usage`] for a request that makes no sense; those of the stages.
pub fn bench(request: &Request, device: &Device, mut each: impl FnMut(&Stage)) -> Result<Report> {
    request.check()?;
    let machine = Machine::measure(device)?;
    let mut stages = Vec::new();
    let mut bench = Bench {
        request,
        device,
        machine: &machine,
        take: &mut |stage| {
            each(&stage);
            stages.push(stage);
        },
    };
    input::measure(&mut bench)?;
    tower::measure(&mut bench)?;
    vectors::measure(&mut bench)?;
    input::measure_write(&mut bench)?;
    Ok(Report {
        machine: machine.clone(),
        request: request.clone(),
        stages,
    })
}

/// What the stages' files share.
struct Bench<'a> {
    request: &'a Request,
    device: &'a Device,
    machine: &'a Machine,
    take: &'a mut dyn FnMut(Stage),
}

impl Bench<'_> {
    fn wants(&self, stage: &str) -> bool {
        self.request.stages.iter().any(|s| s == stage)
    }

    /// Median seconds of a call, after one that does not count, and the peak of memory meanwhile.
    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<(f64, Option<u64>)> {
        machine::forget_peak();
        work()?;
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.len() < 3 || begun.elapsed() < Duration::from_secs_f64(self.request.seconds) {
            let start = Instant::now();
            work()?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok((median(times), machine::peak_bytes()))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn params(entries: &[(&str, Value)]) -> Map<String, Value> {
    entries
        .iter()
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect()
}

/// The heading of the table that [`Stage`]s are the lines of.
pub const HEADING: &str = "stage            value  unit           of peak  memory   with";

/// One line of the table.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peak = self
            .fraction_of_peak
            .map_or("-".into(), |x| format!("{:.1} %", 100.0 * x));
        let memory = self
            .peak_bytes
            .map_or("-".into(), |x| format!("{} MB", x / 1_000_000));
        let digits = match self.value {
            v if v >= 1000.0 => 0,
            v if v >= 10.0 => 1,
            _ => 3,
        };
        let with: Vec<String> = self
            .params
            .iter()
            .map(|(key, value)| match value.as_str() {
                Some(text) => format!("{key} {text}"),
                None => format!("{key} {value}"),
            })
            .collect();
        write!(
            f,
            "{:<8} {:>13.digits$}  {:<13} {peak:>8}  {memory:>7}  {}",
            self.name,
            self.value,
            self.unit,
            with.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        let device = Device::cpu();
        let refused = |change: fn(&mut Request)| {
            let mut request = Request::for_device(&device);
            change(&mut request);
            bench(&request, &device, |_| ()).unwrap_err().to_string()
        };
        assert!(refused(|r| r.stages = vec!["tour".into()]).contains("the stages are read,"));
        assert!(refused(|r| r.rows = 0).contains("rows: give at least 1"));
        assert!(refused(|r| r.batch_sizes = vec![4, 0]).contains("batch size"));
        assert!(refused(|r| r.clusters = r.rows + 1).contains("more clusters"));
    }
}

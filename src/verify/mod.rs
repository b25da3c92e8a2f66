//! Every op on a device held to its CPU twin and to plain f64 loops, as one table: what a stranger runs to see whether the
//! numbers of this build, on this machine, can be trusted.
//!
//! Inputs are drawn at random in odd sizes and rounded to the precision in question first, so that only the op's own error is
//! seen. Ops of the tower may differ by a stated bound, relative to the largest value of the expected result; whatever decides
//! about duplicates (labels, distances, pairs, cosines) must be equal bit for bit.

mod plain;
mod row_ops;
mod tower_ops;

use std::fmt;

use crate::device::Device;
use crate::error::Result;
use crate::ops::Precision;
use crate::ops::cuda::{Backend, CudaBackend};

/// One op in one precision.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The op, or what is made of several.
    pub op: &'static str,
    /// The precision of inputs and results.
    pub dtype: &'static str,
    /// Shapes that were tried.
    pub cases: usize,
    /// The largest error found against the plain loops.
    pub from_plain: f64,
    /// The largest error found against the CPU twin in f32.
    pub from_twin: f64,
    /// What the errors may be. 0: equal bit for bit.
    pub bound: f64,
    /// The first case that missed the bound.
    pub miss: Option<String>,
}

impl Check {
    /// Whether every case kept within the bound.
    pub fn passed(&self) -> bool {
        self.miss.is_none()
    }

    fn new(op: &'static str, dtype: &'static str, bound: f64) -> Check {
        Check {
            op,
            dtype,
            cases: 0,
            from_plain: 0.0,
            from_twin: 0.0,
            bound,
            miss: None,
        }
    }

    /// Takes the errors of a case in; a NaN is a miss.
    fn add(&mut self, case: &str, from_plain: f64, from_twin: f64) {
        self.cases += 1;
        // max() passes over a NaN, which must stay to be seen.
        let larger = |a: f64, b: f64| if b.is_nan() { b } else { a.max(b) };
        self.from_plain = larger(self.from_plain, from_plain);
        self.from_twin = larger(self.from_twin, from_twin);
        let within = from_plain <= self.bound && from_twin <= self.bound;
        if !within && self.miss.is_none() {
            self.miss = Some(case.to_string());
        }
    }
}

/// One line of the table.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match &self.miss {
            None => "ok".to_string(),
            Some(case) => format!("MISS at {case}"),
        };
        if self.bound == 0.0 {
            let word = |error: f64| if error == 0.0 { "equal" } else { "differs" };
            let (plain, twin) = (word(self.from_plain), word(self.from_twin));
            return write!(
                f,
                "{:<18} {:<5} {:>5}  {plain:>9}  {twin:>9}  {:>9}  {verdict}",
                self.op, self.dtype, self.cases, "equal"
            );
        }
        write!(
            f,
            "{:<18} {:<5} {:>5}  {:>9.1e}  {:>9.1e}  {:>9.1e}  {verdict}",
            self.op, self.dtype, self.cases, self.from_plain, self.from_twin, self.bound
        )
    }
}

/// The heading of the table that [`Check`]s are the lines of.
pub const HEADING: &str = "op                 dtype cases   vs plain    vs twin      bound";

/// Checks every op on a device, in every precision that it has there; `each` sees a check as soon as it is made.
///
/// # Errors
/// Where an op fails instead of giving a wrong result.
pub fn verify(device: &Device, mut each: impl FnMut(&Check)) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut take = |check: Check| {
        each(&check);
        checks.push(check);
    };
    let precisions = match device.candle().is_cuda() {
        true => vec![Precision::F32, Precision::F16, Precision::Bf16],
        false => Precision::on_this_cpu(),
    };
    for precision in precisions {
        tower_ops::check_all(device, precision, &mut take)?;
    }
    match device.candle().is_cuda() {
        true => row_ops::check_card(
            CudaBackend::of(device.candle())?,
            &row_ops::SIZES,
            &mut take,
        )?,
        false => row_ops::check_cpu(&mut take)?,
    }
    Ok(checks)
}

/// The part of [`verify`] that is about rows, with the kernels run by any backend, at sizes (n, d).
///
/// # Errors
/// As [`verify`].
pub fn verify_rows<B: Backend>(backend: &B, sizes: &[(usize, usize)]) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    row_ops::check_card(backend, sizes, &mut |check| checks.push(check))?;
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_and_an_error_past_the_bound_are_misses() {
        let mut check = Check::new("op", "f32", 1e-3);
        check.add("first", 1e-4, 1e-3);
        assert!(check.passed());
        check.add("second", f64::NAN, 0.0);
        check.add("third", 1.0, 0.0);
        assert_eq!((check.cases, check.miss.as_deref()), (3, Some("second")));
        assert!(check.to_string().ends_with("MISS at second"), "{check}");
    }
}

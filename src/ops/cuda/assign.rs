//! The nearest centroid of each row, on the device: the assignment step of k-means.

use super::launch::{Arg, Backend, Launch};
use super::margin::{Bounds, UNIT, product_error};
use super::matrix::{DeviceMatrix, Precision, grid_for, stride_of};
use super::nearest::{Best, Columns, ITEM_ROWS, Item, Metric, nearest};
use super::values::{allocate, download};
use super::view::{Budget, View};
use crate::ops::assign::Assignment;
use crate::{Error, Result};

/// Values beyond this could overflow f32 when multiplied, as in [`crate::ops::assign`].
const LONGEST: f64 = 1e18;

/// Where each row belongs, in device memory.
pub struct DeviceAssignment<B: Backend> {
    /// `[n]` u32: the nearest centroid.
    pub labels: B::Buffer,
    /// `[n]` f64: the squared Euclidean distance to it, canonical.
    pub squared_distances: B::Buffer,
    /// n.
    pub rows: usize,
}

impl<B: Backend> DeviceAssignment<B> {
    /// The same in host memory: 12 bytes a row. Waits for the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn download(&self, backend: &B) -> Result<Assignment> {
        Ok(Assignment {
            labels: download(backend, &self.labels, self.rows)?,
            squared_distances: download(backend, &self.squared_distances, self.rows)?,
        })
    }
}

/// What [`crate::ops::assign::assign`] finds, bit for bit, for the rows of a view and centroids `[k, d]` kept in
/// [`Precision::Single`].
///
/// Device memory beyond rows and centroids: 84 bytes a row and 4 a centroid.
///
/// # Errors
/// [`Error::Shape`] when there are no centroids, more than 2^31, of another d or precision, or when values are not finite or rows
/// longer than 1e18; those of the device.
pub fn assign<B: Backend>(
    view: View<'_, '_, B>,
    centroids: &DeviceMatrix<'_, B>,
    budget: &Budget,
) -> Result<Assignment> {
    let step = check(&view, centroids).and_then(|()| view.block_rows(budget, 1))?;
    let bounds = view.bounds(budget)?;
    let mut all = Assignment {
        labels: Vec::with_capacity(view.len()),
        squared_distances: Vec::with_capacity(view.len()),
    };
    for start in (0..view.len()).step_by(step) {
        let positions = start..(start + step).min(view.len());
        let found = assign_block(&view, positions, bounds, centroids)?.download(view.backend())?;
        all.labels.extend(found.labels);
        all.squared_distances.extend(found.squared_distances);
    }
    Ok(all)
}

/// [`assign`] for a matrix on the device, with the results left there.
///
/// # Errors
/// As [`assign`].
pub fn assign_resident<B: Backend>(
    matrix: &DeviceMatrix<'_, B>,
    centroids: &DeviceMatrix<'_, B>,
) -> Result<DeviceAssignment<B>> {
    let view = View::all(matrix);
    check(&view, centroids)?;
    assign_block(&view, 0..view.len(), matrix.bounds()?, centroids)
}

fn check<B: Backend>(view: &View<'_, '_, B>, centroids: &DeviceMatrix<'_, B>) -> Result<()> {
    let k = centroids.len();
    if k == 0 || k > i32::MAX as usize || centroids.d() != view.d() {
        return Err(Error::shape(
            "assign on CUDA",
            format!("1 to 2147483647 centroids of {} values", view.d()),
            format!("{k} of {}", centroids.d()),
        ));
    }
    if centroids.precision() != Precision::Single {
        return Err(Error::shape(
            "assign on CUDA",
            "centroids kept in f32",
            "centroids kept in f16 (make their matrix with Precision::Single)",
        ));
    }
    Ok(())
}

fn assign_block<B: Backend>(
    view: &View<'_, '_, B>,
    positions: std::ops::Range<usize>,
    bounds: Bounds,
    centroids: &DeviceMatrix<'_, B>,
) -> Result<DeviceAssignment<B>> {
    let (backend, d, k) = (view.backend(), view.d(), centroids.len());
    let of_centroids = centroids.bounds()?;
    for (name, bounds) in [("rows", bounds), ("centroids", of_centroids)] {
        if bounds.longest > LONGEST {
            return Err(Error::shape(
                "assign",
                format!("{name} no longer than {LONGEST:e}"),
                format!("one of length {:e}", bounds.longest),
            ));
        }
    }
    let block = view.block(positions.clone())?;
    let columns = View::all(centroids).block(0..k)?;
    let squared = allocate::<B, f32>(backend, k)?;
    backend.launch(&Launch {
        module: "matrix",
        function: "squared_lengths_f32",
        grid: [grid_for(backend, k, 16), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            Arg::Pointer(centroids.exact_at(0)),
            Arg::I64(k as i64),
            Arg::I32(d as i32),
            Arg::Pointer(backend.address(&squared)),
        ],
    })?;
    let n = positions.len();
    let items: Vec<Item> = (0..n)
        .step_by(ITEM_ROWS)
        .map(|row| [row as i32, (row + ITEM_ROWS).min(n) as i32, 0, k as i32])
        .collect();
    let best = Best::none(backend, n)?;
    let columns = Columns {
        part: columns.part,
        metric: Metric::Distance,
        bias: backend.address(&squared),
        positions: 0,
        row_position: 0,
        margin: margin(d, bounds, of_centroids),
    };
    nearest(
        backend,
        block.part,
        view.precision(),
        d,
        columns,
        &items,
        &best,
    )?;
    Ok(DeviceAssignment {
        labels: best.nearest,
        squared_distances: best.costs,
        rows: n,
    })
}

/// How much greater than the least the score of the truly nearest centroid can be: twice what one score can be off, as in the CPU
/// twin. A score is `|c|² - 2 x·c` with a product off by [`product_error`], `|c|²` rounded to f32 and one f32 subtraction; the
/// canonical distance that decides has an error of its own, relative to `(|x| + |c|)²`. Rounded up.
fn margin(d: usize, rows: Bounds, centroids: Bounds) -> f32 {
    let (x, c) = (rows.longest, centroids.longest);
    let error = product_error(stride_of(d), rows, centroids);
    let (product, largest) = (2.0 * error, x * c + error);
    let rounding = UNIT * (3.0 * c * c + 4.0 * largest);
    let canonical = (d + 4) as f64 * f64::EPSILON * (x + c).powi(2);
    // The last term is for adding the margin to the least score in f32.
    let margin = 2.0 * (product + rounding + canonical) + 2.0 * UNIT * (c * c + 2.0 * largest);
    ((1.0 + 2.0 * UNIT) * margin) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_grows_with_what_f16_takes_away() {
        let bounds = |farthest| Bounds {
            longest: 1.0,
            farthest,
        };
        let exact = margin(768, bounds(0.0), bounds(0.0));
        let rounded = margin(768, bounds(0.0), bounds(2e-4));
        assert!(exact > 7e-4 && exact < 1e-3, "{exact}");
        // Two scores, each with twice the product's error.
        assert!(
            (f64::from(rounded - exact) / 8e-4 - 1.0).abs() < 0.1,
            "{rounded}"
        );
    }
}

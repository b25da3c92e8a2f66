//! Rows for the benches of the duplicate engine: unit rows around 100 directions, the same at every run.

/// n unit rows of d values.
pub(crate) fn unit_rows(n: usize, d: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let directions: Vec<f32> = (0..100 * d).map(|_| uniform()).collect();
    let mut rows: Vec<f32> = (0..n * d)
        .map(|i| directions[i / d % 100 * d + i % d] + 2.0 * uniform())
        .collect();
    clipsift::ops::normalize_rows(&mut rows, d);
    rows
}

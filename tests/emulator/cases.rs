//! Which kernel ran at which size and dtype: counted, and told on standard error when a family of tests is done.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

/// The families that make up the whole; the last one to end prints the sum.
const FAMILIES: &[&str] = &[
    "accumulate",
    "activation",
    "assign",
    "attention",
    "hash_rows",
    "layer_norm",
    "normalize",
    "prepare_rows",
    "preprocess",
    "tile",
];

struct Cases {
    kernels: BTreeMap<String, BTreeSet<(String, String)>>,
    ended: BTreeSet<String>,
}

static CASES: Mutex<Cases> = Mutex::new(Cases {
    kernels: BTreeMap::new(),
    ended: BTreeSet::new(),
});

thread_local! {
    /// The kernels that the test on this thread has recorded.
    static OWN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Notes that a kernel ran, and was compared, with elements of a dtype at a size (in words; one size counts once).
pub(crate) fn record(kernel_name: &str, dtype: &str, size: impl std::fmt::Display) {
    let mut cases = CASES.lock().unwrap_or_else(|e| e.into_inner());
    let kernel = cases.kernels.entry(kernel_name.to_string()).or_default();
    kernel.insert((dtype.to_string(), size.to_string()));
    OWN.with_borrow_mut(|own| own.insert(kernel_name.to_string()));
}

/// Runs the tests of a kernel file, a family, and prints how many cases its kernels ran.
pub(crate) fn family(name: &str, tests: impl FnOnce()) {
    let start = Instant::now();
    tests();
    let seconds = start.elapsed().as_secs_f64();
    let mut cases = CASES.lock().unwrap_or_else(|e| e.into_inner());
    let mut text = String::new();
    let own = OWN.take();
    for (kernel, ran) in cases.kernels.iter().filter(|(k, _)| own.contains(*k)) {
        let dtypes: BTreeSet<&str> = ran.iter().map(|(dtype, _)| dtype.as_str()).collect();
        let dtypes = dtypes.into_iter().collect::<Vec<_>>().join(" ");
        text += &format!(
            "emulator: {kernel:<28} {:>4} cases of size x dtype ({dtypes})\n",
            ran.len()
        );
    }
    text += &format!("emulator: {name} done in {seconds:.1} s\n");
    cases.ended.insert(name.to_string());
    if FAMILIES.iter().all(|family| cases.ended.contains(*family)) {
        let sum: usize = cases.kernels.values().map(BTreeSet::len).sum();
        let kernels = cases.kernels.len();
        text += &format!(
            "emulator: {sum} cases of kernel x size x dtype ran, over {kernels} kernels\n"
        );
    }
    // The handle itself: what print! and eprint! write is kept back for tests that pass.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

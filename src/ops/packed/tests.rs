use super::encode::{digits, fixed_step};
use super::*;
use crate::ops::simd::blocks::{Format, Unit};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Every scheme on every unit of this machine.
fn schemes() -> Vec<Scheme> {
    let units = |format| Unit::available(format).into_iter();
    let mut all: Vec<Scheme> = units(Format::F32).map(Scheme::F32).collect();
    all.extend(units(Format::Signed8).map(Scheme::Fixed));
    all.extend(units(Format::Bf16).map(Scheme::Bf16));
    all.extend(units(Format::Int8).map(Scheme::Int8));
    all
}

fn uniform(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)
        .collect()
}

/// All products, through `multiply` in blocks of `at_once` rows.
fn product(packed: &Packed, x: &[f32], at_once: usize) -> Vec<f32> {
    let (n, depth) = (packed.rows(), packed.depth());
    let mut out = vec![f32::NAN; x.len() / depth * n];
    let mut scratch = Scratch::default();
    for (x, out) in x.chunks(at_once * depth).zip(out.chunks_mut(at_once * n)) {
        packed.multiply(x, &mut scratch, |row, column, sums| {
            let valid = EDGE.min(n - column);
            out[row * n + column..][..valid].copy_from_slice(&sums[..valid]);
        });
    }
    out
}

/// The largest error of each sum, relative to the sum of the magnitudes of its products.
fn error(x: &[f32], matrix: &[f32], depth: usize, got: &[f32]) -> f64 {
    let n = matrix.len() / depth;
    let mut worst = 0f64;
    for (i, x) in x.chunks_exact(depth).enumerate() {
        for (j, y) in matrix.chunks_exact(depth).enumerate() {
            let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
            let size: f64 = products.clone().map(f64::abs).sum();
            let off = (f64::from(got[i * n + j]) - products.sum::<f64>()).abs();
            assert!(off.is_finite(), "{}", got[i * n + j]);
            worst = worst.max(off / size.max(1e-30));
        }
    }
    worst
}

#[test]
fn every_scheme_is_as_exact_as_its_values_are() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (m, n, depth) in [
        (1, 1, 1),
        (33, 31, 65),
        (70, 100, 192),
        (5, 64, 588),
        (40, 33, 3072),
    ] {
        let (x, matrix) = (uniform(&mut rng, m * depth), uniform(&mut rng, n * depth));
        for scheme in schemes() {
            let packed = Packed::new(scheme, &matrix, depth);
            let got = error(&x, &matrix, depth, &product(&packed, &x, 64));
            let bound = match scheme {
                Scheme::F32(_) | Scheme::Fixed(_) => 1e-6,
                Scheme::Bf16(_) => 6e-3,
                Scheme::Int8(_) => 1e-2,
            };
            assert!(got < bound, "{scheme:?} at {m} x {n} x {depth}: {got:e}");
            if scheme.has_steps() {
                continue;
            }
            let expected = product(&packed, &x, 64);
            let mut refilled = Packed::new(scheme, &[1.0; 77], 7);
            refilled.refill(&matrix, depth);
            assert!(
                product(&refilled, &x, 64) == expected,
                "{scheme:?} refilled"
            );
            let transpose: Vec<f32> = (0..n * depth)
                .map(|i| matrix[i % n * depth + i / n])
                .collect();
            refilled.refill_transposed(&transpose, n);
            assert!(
                product(&refilled, &x, 64) == expected,
                "{scheme:?} from the transpose"
            );
        }
    }
}

/// The root mean square of the errors, relative to the lengths of the rows.
fn mean_error(x: &[f32], matrix: &[f32], depth: usize, got: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    let mut squares = 0.0;
    for (got, x) in got
        .chunks_exact(matrix.len() / depth)
        .zip(x.chunks_exact(depth))
    {
        for (got, y) in got.iter().zip(matrix.chunks_exact(depth)) {
            let lengths = (dot(x, x) * dot(y, y)).sqrt();
            squares += ((f64::from(*got) - dot(x, y)) / lengths).powi(2);
        }
    }
    (squares / got.len() as f64).sqrt()
}

#[test]
fn fixed_products_are_as_exact_as_those_of_f32() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let (m, n) = (64, 96);
    for (depth, more_of_depth) in [(64, 2.5), (768, 1.0), (3072, 1.0)] {
        let plain = uniform(&mut rng, m * depth);
        let changed = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
            plain.iter().enumerate().map(|(i, x)| f(i, *x)).collect()
        };
        // How much more of an error is let pass: none, but where a sum in f32 is short, or one value is nearly all of a row.
        let kinds = [
            ("uniform", changed(&|_, x| x), 1.0),
            ("of one sign", changed(&|_, x| x.abs()), 1.0),
            (
                "of many sizes",
                changed(&|i, x| x * 10f32.powi(i as i32 % 7 - 3)),
                1.0,
            ),
            (
                "with an outlier",
                changed(&|i, x| if i % depth == 5 { 1000.0 } else { x }),
                4.0,
            ),
        ];
        let matrix = uniform(&mut rng, n * depth);
        for (kind, x, more) in kinds {
            let of = |scheme| {
                let packed = Packed::new(scheme, &matrix, depth);
                mean_error(&x, &matrix, depth, &product(&packed, &x, 64))
            };
            let plain = of(Scheme::F32(Unit::Portable));
            for unit in Unit::available(Format::Signed8) {
                let fixed = of(Scheme::Fixed(unit));
                println!("{kind}, depth {depth}, {unit:?}: {fixed:e}, in f32 {plain:e}");
                assert!(
                    fixed <= more * more_of_depth * plain,
                    "{fixed:e} > {plain:e}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn three_digits_are_the_number_to_half_a_step(bits in any::<u32>(), greatest in any::<u32>()) {
        let (x, greatest) = (f32::from_bits(bits), f32::from_bits(greatest).abs());
        prop_assume!(x.abs() <= greatest && greatest.is_finite());
        let step = fixed_step(greatest);
        prop_assert_eq!(step.to_bits() & 0x007f_ffff, 0, "a power of two");
        let [low, middle, high, nothing] = digits(x, 1.0 / step).to_le_bytes();
        prop_assert_eq!(nothing, 0);
        let of = |digit: u8| f64::from(digit as i8);
        let got = (of(high) * 65_536.0 + of(middle) * 256.0 + of(low)) * f64::from(step);
        prop_assert!((got - f64::from(x)).abs() <= 0.5 * f64::from(step), "{x:e} in steps of {step:e}: {got:e}");
    }

    #[test]
    fn a_sum_does_not_depend_on_the_rows_beside_it(
        m in 1usize..100, n in 1usize..70, depth in 1usize..900, at_once in 1usize..100, seed in any::<u64>()
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (x, matrix) = (uniform(&mut rng, m * depth), uniform(&mut rng, n * depth));
        for scheme in [Scheme::f32(), Scheme::bf16().unwrap_or(Scheme::f32()), Scheme::int8().unwrap_or(Scheme::f32())] {
            let packed = Packed::new(scheme, &matrix, depth);
            prop_assert!(product(&packed, &x, at_once) == product(&packed, &x, m), "{scheme:?}");
        }
    }
}

#[test]
fn what_is_not_finite_does_not_come_out_finite() {
    for scheme in schemes() {
        let packed = Packed::new(scheme, &[1.0; 2 * 40], 40);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![0.25; 2 * 40];
            x[40 + 7] = bad;
            let got = product(&packed, &x, 2);
            assert!(
                got[..2].iter().all(|x| (x - 10.0).abs() < 0.1),
                "{scheme:?}: {got:?}"
            );
            assert!(
                got[2..].iter().all(|x| !x.is_finite()),
                "{scheme:?} of {bad}: {got:?}"
            );
        }
    }
}

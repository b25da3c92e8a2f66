//! Pairs and matches against all cosines one by one, in every precision.

use super::*;
use crate::ops::normalize::normalize_rows;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Unit rows around a few directions, most of them a few last places apart, some identical.
fn draw(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let directions: Vec<f32> = (0..3 * d)
        .map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)
        .collect();
    let mut rows = Vec::new();
    for _ in 0..n {
        let which = rng.next_u32() as usize % 3;
        let noise = [0.0, 0.0, 1e-6, 1e-2][rng.next_u32() as usize % 4];
        for &x in &directions[which * d..(which + 1) * d] {
            rows.push(x + noise * (rng.next_u32() as f32 / u32::MAX as f32 - 0.5));
        }
    }
    assert!(normalize_rows(&mut rows, d).is_empty());
    rows
}

fn collect(
    precision: Precision,
    rows: Rows,
    threshold: f64,
    tile: usize,
    held: usize,
) -> Vec<Pair> {
    let (mut all, mut next) = (Vec::new(), 0);
    pairs_above_in(
        precision,
        rows,
        threshold,
        tile,
        held,
        |positions, pairs| {
            assert_eq!(positions.start, next, "blocks follow one another");
            next = positions.end;
            all.append(pairs);
            Ok::<(), ()>(())
        },
    )
    .unwrap();
    assert_eq!(next, rows.len());
    all
}

fn brute(rows: Rows, threshold: f64) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for i in 0..rows.len() {
        for j in i + 1..rows.len() {
            let cosine = dot::cosine(rows.values(i), rows.values(j));
            if cosine >= threshold {
                pairs.push(Pair {
                    a: rows.row_at(i),
                    b: rows.row_at(j),
                    cosine,
                    identical: false,
                });
            }
        }
    }
    pairs
}

proptest! {
    #[test]
    fn pairs_are_those_of_all_cosines_one_by_one(
        seed in any::<u64>(),
        n in 0usize..40,
        d in 2usize..40,
        tile in 1usize..12,
        held in 1usize..50,
        from_a_pair in any::<bool>(),
    ) {
        let data = draw(seed, n, d);
        let rows = Rows::all(&data, d).unwrap();
        // A threshold that is some pair's own cosine: a last place decides.
        let threshold = if from_a_pair && n > 1 {
            dot::cosine(rows.values(0), rows.values(n - 1))
        } else {
            0.999
        };
        let expected = brute(rows, threshold);
        let index: Vec<u64> = (0..n as u64).step_by(2).collect();
        let some = rows.select(&index).unwrap();
        let of_some = brute(some, threshold);
        for precision in Precision::available() {
            prop_assert_eq!(&collect(precision, rows, threshold, tile, held), &expected, "{:?}", precision);
            prop_assert_eq!(&collect(precision, some, threshold, tile, held), &of_some, "{:?}", precision);
        }
    }

    #[test]
    fn the_best_earlier_row_is_that_of_all_cosines_one_by_one(
        seed in any::<u64>(),
        n in 0usize..40,
        d in 2usize..40,
        tile in 1usize..12,
    ) {
        let data = draw(seed, n, d);
        let rows = Rows::all(&data, d).unwrap();
        let index: Vec<u64> = (0..n as u64).rev().collect();
        let rows = rows.select(&index).unwrap();
        let mut expected = Vec::new();
        for p in 0..n {
            let mut best = (Match { row: rows.row_at(p), cosine: 0.0 }, f64::NEG_INFINITY);
            for q in 0..p {
                let cosine = dot::cosine(rows.values(p), rows.values(q));
                if cosine > best.1 {
                    best = (Match { row: rows.row_at(q), cosine }, cosine);
                }
            }
            expected.push(best.0);
        }
        for precision in Precision::available() {
            prop_assert_eq!(&best_earlier_in(precision, rows, tile), &expected, "{:?}", precision);
        }
    }
}

/// Rows that are hard to round: with one value that outweighs all others, sparse ones, tiny values beside large ones, values
/// that all rows share, and rows that are the same.
fn draw_hard(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let shared: Vec<f32> = (0..d)
        .map(|_| rng.next_u32() as f32 / u32::MAX as f32)
        .collect();
    let mut rows: Vec<f32> = Vec::new();
    for row in 0..n {
        let kind = rng.next_u32() % 6;
        if kind == 0 && row > 0 {
            let from = rng.next_u32() as usize % row;
            rows.extend_from_within(from * d..(from + 1) * d);
            continue;
        }
        let outlier = rng.next_u32() as usize % d;
        for (l, &shared) in shared.iter().enumerate() {
            let x = rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
            rows.push(match kind {
                1 if l == outlier => 1e3,
                2 if l % 7 != outlier % 7 => 0.0,
                3 if l != outlier => x * 1e-41,
                4 => shared + 1e-3 * x,
                5 if l % 2 == 0 => x * 1e-6,
                _ => x,
            });
        }
    }
    // A row of zeros, where d is 1 and so on.
    for bad in normalize_rows(&mut rows, d) {
        rows[bad * d] = 1.0;
    }
    rows
}

proptest! {
    #[test]
    fn rows_that_are_hard_to_round_have_the_same_pairs_and_matches(
        seed in any::<u64>(),
        n in 0usize..50,
        d in 1usize..70,
        tile in 1usize..7,
        threads in 1usize..5,
        picked in any::<(u16, u16)>(),
        wide in any::<bool>(),
    ) {
        let data = draw_hard(seed, n, d);
        let rows = Rows::all(&data, d).unwrap();
        let threshold = match (n, wide) {
            (0, _) | (_, true) => 0.2,
            _ => dot::cosine(rows.values(picked.0 as usize % n), rows.values(picked.1 as usize % n)),
        };
        let expected = brute(rows, threshold);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let matches = best_earlier_in(Precision::F32, rows, tile);
        for precision in Precision::available() {
            let (pairs, best) = pool.install(|| {
                (collect(precision, rows, threshold, tile, 1 << 20), best_earlier_in(precision, rows, tile))
            });
            prop_assert_eq!(&pairs, &expected, "{:?}", precision);
            prop_assert_eq!(&best, &matches, "{:?}", precision);
        }
    }
}

#[test]
fn an_error_of_the_visitor_ends_the_walk() {
    let data = draw(7, 100, 4);
    let rows = Rows::all(&data, 4).unwrap();
    let mut calls = 0;
    let result = pairs_above(rows, -1.0, 4, |_, _| {
        calls += 1;
        if calls == 2 { Err("full") } else { Ok(()) }
    });
    assert_eq!((result, calls), (Err("full"), 2));
}

#[test]
fn rows_that_8_bits_are_too_few_for_are_compared_in_f32() {
    let (n, d) = (2000, 64);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
    let mut data: Vec<f32> = (0..n * d).map(|_| uniform()).collect();
    normalize_rows(&mut data, d);
    let fastest = Precision::fastest(d);
    assert!(fits(fastest, Rows::all(&data, d).unwrap(), 0.9));
    // One value a row outweighs all others: what is left of them is less than a step of 8 bits.
    for (row, values) in data.chunks_exact_mut(d).enumerate() {
        values[row % d] += 60.0;
    }
    normalize_rows(&mut data, d);
    let rows = Rows::all(&data, d).unwrap();
    assert_eq!(fits(fastest, rows, 0.01), fastest == Precision::F32);
    let mut found = Vec::new();
    pairs_above(rows, 0.01, 512, |_, pairs| {
        found.append(pairs);
        Ok::<(), ()>(())
    })
    .unwrap();
    assert_eq!(found, brute(rows, 0.01));
}

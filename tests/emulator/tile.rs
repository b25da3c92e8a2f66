//! tile.cu, and the pairwise rule of assign.cu, against their CPU twins: the same bytes.

use clipsift::ops::cuda::tile::{best_earlier, cosines, pairs_above_in_groups};
use clipsift::ops::cuda::{Arg, Backend, Budget, DeviceMatrix, Launch, View};
use clipsift::ops::dot;
use clipsift::ops::rows::Rows;
use clipsift::ops::tile::{self, Match, Pair};

use super::rows::{Rounding, group_ends, unit_rows};
use super::{Emulator, Placement, both_ways, cases};

fn starts(groups: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let starts = std::iter::once(&0).chain(groups);
    starts.zip(groups).map(|(&start, &end)| (start, end))
}

fn pairs(view: View<Emulator>, groups: &[usize], threshold: f64, budget: &Budget) -> Vec<Pair> {
    let (mut all, mut next) = (Vec::new(), 0);
    pairs_above_in_groups(view, groups, threshold, budget, |positions, pairs| {
        assert_eq!(positions.start, next, "blocks follow one another");
        next = positions.end;
        all.append(pairs);
        Ok::<(), clipsift::Error>(())
    })
    .unwrap();
    assert_eq!(next, view.len());
    all
}

fn twin_pairs(rows: Rows, index: &[u64], groups: &[usize], threshold: f64) -> Vec<Pair> {
    let mut all = Vec::new();
    for (start, end) in starts(groups) {
        let group = rows.select(&index[start..end]).unwrap();
        tile::pairs_above(group, threshold, 512, |_, pairs| {
            all.append(pairs);
            Ok::<(), ()>(())
        })
        .unwrap();
    }
    all
}

fn twin_best(rows: Rows, index: &[u64], groups: &[usize]) -> Vec<Match> {
    starts(groups)
        .flat_map(|(start, end)| tile::best_earlier(rows.select(&index[start..end]).unwrap(), 512))
        .collect()
}

/// Budgets that leave everything in one piece, and that cut everything up.
fn budgets(n: usize, d: usize) -> [Budget; 3] {
    let whole = Budget::default();
    [
        whole,
        Budget {
            candidates: n.div_ceil(4),
            pairs: 60,
            ..whole
        },
        Budget {
            block_bytes: Some(2 * 150 * 6 * d.next_multiple_of(8)),
            band: 90,
            ..whole
        },
    ]
}

/// Both ops over all rows, a selection of them and groups; whole, cut up, streamed.
fn check(emulator: &Emulator, n: usize, d: usize, rounding: Rounding) {
    let data = unit_rows(n, d, rounding, (n * 7 + d) as u64);
    let rows = Rows::all(&data, d).unwrap();
    let matrix = DeviceMatrix::from_rows(emulator, &data, d).unwrap();
    let all: Vec<u64> = (0..n as u64).collect();
    let some: Vec<u64> = (0..n as u64).filter(|row| row % 3 != 1).collect();
    let backwards: Vec<u64> = all.iter().rev().copied().collect();
    let what = format!("n {n}, d {d}, {rounding:?}");
    // A threshold that is some pair's own cosine: a last place decides.
    let own = dot::cosine(rows.values(0), rows.values(n / 2));
    let [whole, tight, blocks] = budgets(n, d);

    let one = |n: usize| vec![n];
    let many = |n: usize| group_ends(n, 60, d as u64);
    type Case<'a> = (&'a [u64], Vec<usize>, f64, Budget, bool);
    // With a threshold below 0, what lies past the ends would pass too.
    let below = if n <= 65 { -0.5 } else { 0.97 };
    let checks: [Case; 7] = [
        (&all, many(n), below, whole, false),
        (&all, one(n), own, whole, false),
        (&some, one(some.len()), 0.999, tight, false),
        (&some, many(some.len()), own, tight, false),
        (&all, many(n), 0.99, whole, false),
        (&some, one(some.len()), own, blocks, true),
        (&all, many(n), 0.9, blocks, true),
    ];
    for (index, groups, threshold, budget, streamed) in checks {
        let selected = rows.select(index).unwrap();
        let view = if streamed {
            View::streamed(emulator, selected)
        } else if index.len() == n {
            View::all(&matrix)
        } else {
            View::select(&matrix, index).unwrap()
        };
        let expected = twin_pairs(rows, index, &groups, threshold);
        let got = pairs(view, &groups, threshold, &budget);
        assert!(
            got == expected,
            "{what}, {} groups, threshold {threshold}, {budget:?}: {} pairs, expected {}",
            groups.len(),
            got.len(),
            expected.len()
        );
    }
    for (index, groups, budget, streamed) in [
        (&all, one(n), whole, false),
        (&backwards, many(n), whole, false),
        (&backwards, one(n), blocks, false),
        (&backwards, many(n), blocks, true),
    ] {
        let selected = rows.select(index).unwrap();
        let view = match streamed {
            true => View::streamed(emulator, selected),
            false => View::select(&matrix, index).unwrap(),
        };
        let got = best_earlier(view, &groups, &budget).unwrap();
        let expected = twin_best(rows, index, &groups);
        let wrong = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            got.len() == expected.len() && wrong.is_none(),
            "{what}, {} groups, {budget:?}: {:?}",
            groups.len(),
            wrong.map(|p| (p, got[p], expected[p]))
        );
    }
    for kernel in ["tile_pairs", "tile_pairs_listed", "nearest_candidates"] {
        cases::record(kernel, rounding.name(), format!("n {n}, d {d}"));
    }
    for kernel in ["pair_cosines", "settle_cosine"] {
        let name = format!("{kernel}_{}", rounding.name());
        cases::record(&name, rounding.name(), format!("n {n}, d {d}"));
    }
}

#[test]
fn pairs_and_best_matches_on_the_device_are_those_of_the_cpu() {
    cases::family("tile", || {
        both_ways(|emulator| {
            for (n, d) in [
                (1, 64),
                (31, 1),
                (33, 31),
                (257, 100),
                (129, 512),
                (40, 768),
            ] {
                check(emulator, n, d, Rounding::Single);
                check(emulator, n, d, Rounding::Half);
            }
        });
        // More rows than a group of tiles has.
        let emulator = Emulator::new(Placement::End, 3);
        check(&emulator, 1025, 17, Rounding::Half);
    });
}

#[test]
fn a_large_matrix_is_walked_tile_by_tile() {
    // Three groups of sixteen rows of tiles; pairs only where they are put.
    let emulator = Emulator::new(Placement::End, 4);
    let (n, d) = (4200, 16);
    let mut data = unit_rows(n, d, Rounding::Single, 1);
    for (row, values) in data.chunks_exact_mut(d).enumerate() {
        values.fill(0.0);
        values[row % d] = 1.0;
        // Rows of one axis are told apart by their second largest value.
        let angle = (row / d) as f32 * 0.02;
        (values[row % d], values[(row + 1) % d]) = (angle.cos(), angle.sin());
    }
    let rows = Rows::all(&data, d).unwrap();
    let matrix = DeviceMatrix::from_rows(&emulator, &data, d).unwrap();
    let index: Vec<u64> = (0..n as u64).collect();
    let threshold = 0.9997;
    let expected = twin_pairs(rows, &index, &[n], threshold);
    assert!(expected.len() > 4000, "{}", expected.len());
    let budget = Budget::default();
    assert!(pairs(View::all(&matrix), &[n], threshold, &budget) == expected);
    let banded = Budget {
        band: 1000,
        ..budget
    };
    assert!(pairs(View::all(&matrix), &[n], threshold, &banded) == expected);
}

#[test]
fn listed_pairs_get_their_canonical_cosine() {
    both_ways(|emulator| {
        for rounding in [Rounding::Single, Rounding::Half] {
            let (n, d) = (37, 75);
            let data = unit_rows(n, d, rounding, 9);
            let rows = Rows::all(&data, d).unwrap();
            let matrix = DeviceMatrix::from_rows(emulator, &data, d).unwrap();
            let listed: Vec<(u64, u64)> = (0..n as u64).map(|a| (a, a * 5 % n as u64)).collect();
            let got = cosines(View::all(&matrix), &listed).unwrap();
            let expected: Vec<f64> = listed
                .iter()
                .map(|&(a, b)| dot::cosine(rows.values(a as usize), rows.values(b as usize)))
                .collect();
            assert_eq!(got, expected);
        }
    });
}

/// Rows of -1, 0 and 1: their products are exact however they are summed.
fn small_integers(n: usize, d: usize, seed: u64) -> Vec<f32> {
    super::numbers::noise(n * d, seed)
        .into_iter()
        .map(|x| if x.abs() < 0.7 { 0.0 } else { x.signum() })
        .collect()
}

fn halves(values: &[f32]) -> Vec<half::f16> {
    values.iter().map(|x| half::f16::from_f32(*x)).collect()
}

#[test]
fn candidates_are_the_pairs_at_the_limit_and_no_others() {
    both_ways(|emulator| {
        let d = 24;
        for (rows, columns, offset, limit) in [
            (130, 300, 0, 9.0),
            (130, 130, 0, -40.0),
            (3, 257, 0, -40.0),
            (40, 130, 40, -40.0),
            (130, 70, 61, 7.0),
            (1, 1, 0, 0.0),
        ] {
            let (a, b) = (small_integers(rows, d, 1), small_integers(columns, d, 2));
            let mut expected = Vec::new();
            for (i, x) in a.chunks_exact(d).enumerate() {
                for (j, y) in b.chunks_exact(d).enumerate() {
                    if i < j + offset && dot::cosine(x, y) >= limit {
                        expected.push((i as i32, j as i32));
                    }
                }
            }
            let (left, right) = (emulator.buffer(&halves(&a)), emulator.buffer(&halves(&b)));
            for capacity in [expected.len(), expected.len() / 2] {
                let found = emulator.buffer(&vec![-1i32; capacity.max(1) * 2]);
                let count = emulator.buffer(&[0u64]);
                let launch = Launch {
                    module: "tile",
                    function: "tile_pairs",
                    grid: [2, 1, 1],
                    block: [256, 1, 1],
                    shared_bytes: 73_728,
                    args: vec![
                        Arg::Pointer(emulator.address(&left)),
                        Arg::Pointer(emulator.address(&right)),
                        Arg::I32(d as i32),
                        Arg::I64(rows as i64),
                        Arg::I64(columns as i64),
                        Arg::I64(offset as i64),
                        Arg::F32(limit as f32),
                        Arg::Pointer(emulator.address(&found)),
                        Arg::I64(capacity as i64),
                        Arg::Pointer(emulator.address(&count)),
                    ],
                };
                emulator.launch(&launch).unwrap();
                let what = format!("{rows} x {columns}, offset {offset}, limit {limit}");
                let counted = emulator.elements::<u64>(&count)[0] as usize;
                assert_eq!(counted, expected.len(), "{what}");
                let found: Vec<i32> = emulator.elements(&found);
                let mut found: Vec<(i32, i32)> = found[..capacity * 2]
                    .chunks_exact(2)
                    .map(|pair| (pair[0], pair[1]))
                    .collect();
                found.sort_unstable();
                found.dedup();
                assert_eq!(found.len(), capacity, "{what}: each pair once");
                assert!(found.iter().all(|pair| expected.contains(pair)), "{what}");
            }
        }
    });
}

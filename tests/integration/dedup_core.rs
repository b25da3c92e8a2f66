//! The duplicate engine against cases with known answers (the reference system's own) and against one-by-one computation.

use clipsift::dedup::decide::{
    DuplicateOf, Keep, PairGraph, RankKeys, Removal, decide, id_hash, rank,
};
use clipsift::dedup::exact::{self, ExactPairs, Pair};
use clipsift::dedup::kmeans::{self, Init, KMeans, cosine_dist_to_cent, l2_dist_to_cent};
use clipsift::dedup::semantic::{self, Match, SemanticDedup};
use clipsift::ops::dot::cosine;
use clipsift::ops::normalize::normalize_rows;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Runs with a pool of that many threads.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(work)
}

/// All rows in one cluster around the first.
fn one_cluster(rows: &[f32], d: usize, tile: usize) -> SemanticDedup<'_> {
    let params = semantic::Params {
        tile,
        ..Default::default()
    };
    let labels = vec![0; rows.len() / d];
    SemanticDedup::with_clusters(rows, d, rows[..d].to_vec(), labels, params).unwrap()
}

fn assert_matches(got: &[Match], rows: &[u64], cosines: &[f64], within: f64) {
    let found: Vec<u64> = got.iter().map(|m| m.row).collect();
    assert_eq!(found, rows);
    for (m, expected) in got.iter().zip(cosines) {
        assert!(
            (m.cosine - expected).abs() <= within,
            "expected {expected}, got {}",
            m.cosine
        );
    }
}

/// The reference system's six rows, normalised: rows 0, 4 and 5 are the same.
fn six_rows() -> Vec<f32> {
    let mut rows = vec![
        1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0,
    ];
    assert!(normalize_rows(&mut rows, 3).is_empty());
    rows
}

/// Each element of a vector by the given rows.
fn at<T: Copy>(values: &[T], rows: &[u64]) -> Vec<T> {
    rows.iter().map(|&row| values[row as usize]).collect()
}

#[test]
fn pairwise_matches_in_file_order_are_known_for_every_tile_and_thread_count() {
    let rows = six_rows();
    let cosines = [0.0, 0.974631, 0.998190, 0.999618, 1.0, 1.0];
    let mut half = rows.clone();
    half.iter_mut()
        .for_each(|x| *x = half::f16::from_f32(*x).to_f32());
    for threads in 1..=4 {
        for tile in 1..=6 {
            let order = [0, 1, 2, 3, 4, 5];
            let of = |rows: &[f32]| {
                on_threads(threads, || {
                    one_cluster(rows, 3, tile).matches(&order).unwrap()
                })
            };
            assert_matches(&of(&rows), &[0, 0, 1, 2, 0, 0], &cosines, 1e-6);
            for (m, expected) in of(&half).iter().zip(cosines) {
                assert!((m.cosine - expected).abs() <= 2e-3);
            }
        }
    }
}

#[test]
fn hard_and_easy_orders_and_their_matches_are_known() {
    let rows = six_rows();
    let distances = cosine_dist_to_cent(&rows, 3, &rows[..3], &[0; 6]).unwrap();
    let keys = RankKeys {
        rows: 6,
        cosine_dist_to_cent: &distances,
        ..RankKeys::default()
    };
    let clusters = one_cluster(&rows, 3, 2);

    let hard = rank(&Keep::Hard, &keys).unwrap();
    assert_eq!(hard, [3, 2, 1, 5, 4, 0]);
    let matches = at(&clusters.matches(&hard).unwrap(), &hard);
    let cosines = [0.0, 0.99961, 0.99819, 0.974631, 1.0, 1.0];
    assert_matches(&matches, &[3, 3, 2, 1, 5, 5], &cosines, 1e-5);

    let easy = rank(&Keep::Easy, &keys).unwrap();
    assert_eq!(easy, [0, 4, 5, 1, 2, 3]);
    let matches = at(&clusters.matches(&easy).unwrap(), &easy);
    let cosines = [0.0, 1.0, 1.0, 0.97464, 0.99819, 0.999618];
    assert_matches(&matches, &[0, 0, 0, 0, 1, 2], &cosines, 1e-5);
}

#[test]
fn a_ranking_by_a_column_is_known() {
    let column: &[f32] = &[0.1, 0.8, 0.3, 0.9, 0.2, 0.15];
    let keys = RankKeys {
        rows: 6,
        scores: &[("column", column)],
        ..RankKeys::default()
    };
    let order = rank(&"best:column".parse().unwrap(), &keys).unwrap();
    assert_eq!(order, [3, 1, 2, 4, 5, 0]);
    let order = rank(&"best:column:asc".parse().unwrap(), &keys).unwrap();
    assert_eq!(order, [0, 5, 4, 2, 1, 3]);
}

#[test]
fn five_rows_lose_the_two_that_have_a_near_earlier_one() {
    let rows = [
        1.0, 0.0, 0.0, 0.0, // A
        0.96, 0.28, 0.0, 0.0, // B
        0.0, 1.0, 0.0, 0.0, // C
        0.0, 0.0, 1.0, 0.0, // D
        0.0, 0.96, 0.0, 0.28, // E
    ];
    let order = [0, 1, 2, 3, 4];
    let clusters = one_cluster(&rows, 4, 2);
    let matches = clusters.matches(&order).unwrap();
    assert_matches(
        &matches,
        &[0, 0, 1, 0, 2],
        &[0.0, 0.96, 0.28, 0.0, 0.96],
        1e-6,
    );
    let (pairs, _) = clusters.collect().unwrap();
    for removal in [Removal::Group, Removal::Chain] {
        let decided = decide(5, &[true; 5], &order, &pairs, 0.1, removal).unwrap();
        let fell_to: Vec<_> = decided.iter().map(|d| d.map(|d| d.row)).collect();
        assert_eq!(fell_to, [None, Some(0), None, None, Some(2)]);
    }
}

#[test]
fn opposite_rows_keep_their_negative_cosine() {
    let rows = [1.0, 0.0, -1.0, 0.0];
    let matches = one_cluster(&rows, 2, 1).matches(&[0, 1]).unwrap();
    assert_matches(&matches, &[0, 0], &[0.0, -1.0], 0.0);
}

#[test]
fn distances_to_centroids_are_known() {
    let (rows, labels) = ([1.0, 0.0, 0.0, 1.0, 0.6, 0.8], [0, 1, 0]);
    let centroids = [1.0, 0.0, 0.0, 1.0];
    let l2 = l2_dist_to_cent(&rows, 2, &centroids, &labels).unwrap();
    let cosine = cosine_dist_to_cent(&rows, 2, &centroids, &labels).unwrap();
    for (got, expected) in l2.iter().zip([0.0, 0.0, 0.8f32.sqrt()]) {
        assert!((got - expected).abs() < 1e-6);
    }
    for (got, expected) in cosine.iter().zip([0.0, 0.0, 0.4]) {
        assert!((got - expected).abs() < 1e-6);
    }
    // The raw centroid counts for the one, its direction for the other.
    let far = [2.0, 0.0, 0.0, 0.0];
    assert_eq!(
        l2_dist_to_cent(&rows[..4], 2, &far, &[0, 1]).unwrap(),
        [1.0, 1.0]
    );
    assert_eq!(
        cosine_dist_to_cent(&rows[..4], 2, &far, &[0, 1]).unwrap(),
        [0.0, 1.0]
    );
    assert!(l2_dist_to_cent(&rows, 2, &far, &[0, 1, 2]).is_err());
    assert!(cosine_dist_to_cent(&rows, 2, &far, &[0, 1]).is_err());
}

/// How far two labellings agree beyond chance, 1 at best (Hubert and Arabie 1985).
fn adjusted_rand_index(a: &[u32], b: &[u32]) -> f64 {
    let k = 1 + *a.iter().chain(b).max().unwrap() as usize;
    let mut table = vec![0u64; k * k];
    a.iter()
        .zip(b)
        .for_each(|(&x, &y)| table[x as usize * k + y as usize] += 1);
    let pairs = |m: u64| (m * m.saturating_sub(1)) as f64 / 2.0;
    let together: f64 = table.iter().map(|&m| pairs(m)).sum();
    let of_rows: f64 = table.chunks(k).map(|row| pairs(row.iter().sum())).sum();
    let of_columns: f64 = (0..k)
        .map(|j| pairs(table[j..].iter().step_by(k).sum()))
        .sum();
    let by_chance = of_rows * of_columns / pairs(a.len() as u64);
    (together - by_chance) / ((of_rows + of_columns) / 2.0 - by_chance)
}

#[test]
fn k_means_finds_four_blobs_also_from_half_of_the_rows() {
    let (blobs, each, d, std) = (4, 10_000, 1024, 0.5f32);
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let mut uniform = || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
    let centers: Vec<f32> = (0..blobs * d)
        .map(|_| (uniform() * 20.0 - 10.0) as f32)
        .collect();
    let mut rows = Vec::with_capacity(blobs * each * d);
    let mut truth = Vec::new();
    for row in 0..blobs * each {
        let blob = row % blobs;
        truth.push(blob as u32);
        for pair in centers[blob * d..(blob + 1) * d].chunks_exact(2) {
            // Box-Muller: two normal numbers of two uniform ones.
            let (length, angle) = (
                (-2.0 * uniform().ln()).sqrt(),
                uniform() * std::f64::consts::TAU,
            );
            rows.push(pair[0] + std * (length * angle.cos()) as f32);
            rows.push(pair[1] + std * (length * angle.sin()) as f32);
        }
    }
    assert!(normalize_rows(&mut rows, d).is_empty());
    for (init, fit_fraction, at_least) in [
        (Init::KMeansPlusPlus, 1.0, 0.99),
        (Init::KMeansPlusPlus, 0.5, 0.95),
        (Init::KMeansParallel, 0.5, 0.95),
    ] {
        let params = kmeans::Params {
            clusters: Some(blobs),
            init,
            fit_fraction,
            ..Default::default()
        };
        let fit = KMeans::fit(&rows, d, &params).unwrap();
        assert_eq!(fit.labels.len(), blobs * each);
        assert_eq!(
            fit.info.fitted_rows,
            (fit_fraction * (blobs * each) as f64) as usize
        );
        assert!(fit.info.converged);
        let index = adjusted_rand_index(&truth, &fit.labels);
        assert!(index > at_least, "{params:?}: adjusted Rand index {index}");
    }
}

/// Unit rows around four directions, some identical, some a few last places apart.
fn draw(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || rng.next_u32() as f32 / u32::MAX as f32;
    let directions: Vec<f32> = (0..4 * d).map(|_| uniform() - 0.3).collect();
    let mut rows = Vec::new();
    for _ in 0..n {
        let which = (uniform() * 3.999) as usize;
        let noise = [0.0, 0.0, 1e-7, 0.2][(uniform() * 3.999) as usize];
        rows.extend(
            directions[which * d..(which + 1) * d]
                .iter()
                .map(|x| x + noise * (uniform() - 0.5)),
        );
    }
    assert!(normalize_rows(&mut rows, d).is_empty());
    rows
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Pairs as they are stored, row by row; `together` says which rows are compared at all.
fn pairs_one_by_one(
    rows: &[f32],
    d: usize,
    floor: f64,
    together: impl Fn(usize, usize) -> bool,
) -> Vec<Pair> {
    let values: Vec<&[f32]> = rows.chunks_exact(d).collect();
    let n = values.len();
    let first = |b: usize| {
        (0..b)
            .find(|&a| together(a, b) && same(values[a], values[b]))
            .unwrap_or(b)
    };
    let mut pairs = Vec::new();
    for a in 0..n {
        for b in a + 1..n {
            let identical = first(b) == a;
            let cosine = cosine(values[a], values[b]);
            let both_first = first(a) == a && first(b) == b;
            if together(a, b) && (identical || both_first && cosine >= 1.0 - floor) {
                pairs.push(Pair {
                    a: a as u64,
                    b: b as u64,
                    cosine,
                    identical,
                });
            }
        }
    }
    pairs
}

/// The two rules as they are worded, over all rows.
fn decide_one_by_one(
    rows: &[f32],
    d: usize,
    survivors: &[bool],
    earlier_set: &[bool],
    order: &[u64],
    eps: f64,
    removal: Removal,
) -> Vec<Option<DuplicateOf>> {
    let values: Vec<&[f32]> = rows.chunks_exact(d).collect();
    let mut decided: Vec<Option<DuplicateOf>> = vec![None; values.len()];
    let mut before: Vec<usize> = Vec::new();
    for row in order.iter().map(|&row| row as usize) {
        if !survivors[row] {
            continue;
        }
        let mut best: Option<DuplicateOf> = None;
        for &other in before.iter().filter(|_| !earlier_set[row]) {
            if removal == Removal::Group && decided[other].is_some() {
                continue;
            }
            let cosine = cosine(values[row], values[other]);
            let matched = cosine >= 1.0 - eps || same(values[row], values[other]);
            if matched && best.is_none_or(|best| cosine > best.cosine) {
                let row = other as u64;
                best = Some(DuplicateOf { row, cosine });
            }
        }
        decided[row] = best;
        before.push(row);
    }
    decided
}

/// Row numbers in random order.
fn shuffled(n: usize, seed: u64) -> Vec<u64> {
    let hashes: Vec<u64> = (0..n).map(|row| id_hash(&row.to_string())).collect();
    let keys = RankKeys {
        rows: n,
        id_hash: &hashes,
        seed,
        ..RankKeys::default()
    };
    rank(&Keep::Random, &keys).unwrap()
}

proptest! {
    #[test]
    fn exact_pairs_and_both_removals_are_those_of_one_by_one_computation(
        seed in any::<u64>(),
        n in 0usize..40,
        d in 2usize..20,
        tile in 1usize..50,
        threads in 1usize..4,
        eps in prop::sample::select(vec![0.0, 1e-7, 0.001, 0.02, 0.3, 2.0]),
        survival in 1u32..5,
        with_earlier_set in any::<bool>(),
    ) {
        let rows = draw(seed, n, d);
        let floor = f64::min(4.0 * eps, 2.0);
        let params = exact::Params { floor, tile };
        let (pairs, info) = on_threads(threads, || {
            ExactPairs::new(&rows, d, params).unwrap().collect().unwrap()
        });
        prop_assert_eq!(&pairs, &pairs_one_by_one(&rows, d, floor, |_, _| true));
        prop_assert_eq!(info.pairs, pairs.len() as u64);

        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 1);
        let survivors: Vec<bool> = (0..n).map(|_| rng.next_u32() % 5 < survival).collect();
        let earlier_set: Vec<bool> = (0..n).map(|_| with_earlier_set && rng.next_u32() % 4 == 0).collect();
        let mut order = shuffled(n, seed);
        if with_earlier_set {
            order.sort_by_key(|&row| !earlier_set[row as usize]);
        }
        let mut graph = PairGraph::new(n, eps).unwrap();
        let mut backwards = pairs.clone();
        backwards.reverse();
        backwards.chunks(3).for_each(|block| graph.add(block).unwrap());
        for removal in [Removal::Group, Removal::Chain] {
            let expected =
                decide_one_by_one(&rows, d, &survivors, &earlier_set, &order, eps, removal);
            let decided = graph.decide(&survivors, &earlier_set, &order, removal).unwrap();
            prop_assert_eq!(&decided, &expected);
            if !with_earlier_set {
                // Only survivors need be named.
                let only: Vec<u64> =
                    order.iter().copied().filter(|&row| survivors[row as usize]).collect();
                prop_assert_eq!(decide(n, &survivors, &only, &pairs, eps, removal).unwrap(), expected);
            }
        }
    }

    #[test]
    fn semantic_pairs_and_matches_are_those_of_one_by_one_computation(
        seed in any::<u64>(),
        n in 1usize..40,
        d in 2usize..20,
        k in 1usize..6,
        tile in 1usize..50,
        threads in 1usize..4,
    ) {
        let rows = draw(seed, n, d);
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 2);
        let labels: Vec<u32> = (0..n).map(|_| rng.next_u32() % k as u32).collect();
        let together = |a: usize, b: usize| labels[a] == labels[b];
        let params = semantic::Params { floor: 0.1, tile, ..Default::default() };
        let semantic =
            SemanticDedup::with_clusters(&rows, d, vec![0.0; k * d], labels.clone(), params).unwrap();
        let order = shuffled(n, seed);
        let (pairs, matches) = on_threads(threads, || {
            (semantic.collect().unwrap().0, semantic.matches(&order).unwrap())
        });
        let mut expected = pairs_one_by_one(&rows, d, 0.1, together);
        expected.sort_by_key(|pair| (labels[pair.a as usize], pair.a, pair.b));
        prop_assert_eq!(&pairs, &expected);

        // The reference's rule of removal reads off the matches; identical rows fall as well.
        let decided = decide(n, &vec![true; n], &order, &pairs, 0.05, Removal::Chain).unwrap();
        let values: Vec<&[f32]> = rows.chunks_exact(d).collect();
        for (place, &row) in order.iter().enumerate() {
            let mut best = Match { row, cosine: 0.0 };
            let mut greatest = f64::NEG_INFINITY;
            for &other in order[..place].iter().filter(|&&other| together(row as usize, other as usize)) {
                let cosine = cosine(values[row as usize], values[other as usize]);
                if cosine > greatest {
                    greatest = cosine;
                    best = Match { row: other, cosine };
                }
            }
            prop_assert_eq!(matches[row as usize], best);
            let expected = (best.cosine >= 0.95).then_some(DuplicateOf { row: best.row, cosine: best.cosine });
            prop_assert_eq!(decided[row as usize], expected);
        }
    }
}

#[test]
fn k_means_gives_the_same_bytes_on_any_number_of_threads() {
    // More than one block of rows, tiles that do not divide them, more clusters than fit one tile's worth of blobs.
    let (n, d) = (9001, 24);
    let rows = draw(5, n, d);
    for init in [Init::KMeansPlusPlus, Init::KMeansParallel, Init::Random] {
        let params = kmeans::Params {
            clusters: Some(37),
            init,
            fit_fraction: 0.8,
            restarts: 2,
            max_iterations: 15,
            ..Default::default()
        };
        let fits: Vec<KMeans> = (1..=4)
            .map(|threads| on_threads(threads, || KMeans::fit(&rows, d, &params).unwrap()))
            .collect();
        for fit in &fits[1..] {
            assert!(same(&fit.centroids, &fits[0].centroids));
            assert_eq!(fit, &fits[0]);
        }
        let other = kmeans::Params { seed: 43, ..params };
        assert_ne!(
            KMeans::fit(&rows, d, &other).unwrap().centroids,
            fits[0].centroids
        );
    }
}

#[test]
fn pairs_are_the_same_bytes_for_any_tile_and_number_of_threads() {
    let (n, d) = (3000, 24);
    let rows = draw(6, n, d);
    let all = |threads: usize, tile: usize| {
        on_threads(threads, || {
            let params = exact::Params { floor: 0.01, tile };
            let exact = ExactPairs::new(&rows, d, params)
                .unwrap()
                .collect()
                .unwrap();
            let params = semantic::Params {
                kmeans: kmeans::Params {
                    clusters: Some(7),
                    ..Default::default()
                },
                floor: 0.01,
                tile,
            };
            let semantic = SemanticDedup::fit(&rows, d, params).unwrap();
            (exact, semantic.collect().unwrap())
        })
    };
    let expected = all(1, 512);
    assert!(expected.0.0.len() > 1000 && expected.1.0.len() > 1000);
    assert!(expected.0.1.distinct < n as u64);
    for (threads, tile) in [(2, 512), (3, 100), (4, 4096)] {
        let got = all(threads, tile);
        let bits = |pairs: &[Pair]| -> Vec<(u64, u64, u64, bool)> {
            let bits = |p: &Pair| (p.a, p.b, p.cosine.to_bits(), p.identical);
            pairs.iter().map(bits).collect()
        };
        assert_eq!(bits(&got.0.0), bits(&expected.0.0));
        assert_eq!(bits(&got.1.0), bits(&expected.1.0));
        assert_eq!((got.0.1, got.1.1), (expected.0.1, expected.1.1));
    }
}

#[test]
fn a_million_identical_rows_are_cheap() {
    let (n, d) = (1_000_000, 4);
    let mut rows: Vec<f32> = [0.5; 4].repeat(n);
    // A second class near the first, as large as half of it.
    rows.chunks_exact_mut(d)
        .step_by(3)
        .for_each(|row| row.copy_from_slice(&[0.6, 0.6, 0.374_165_74, 0.374_165_74]));
    let exact = ExactPairs::new(&rows, d, exact::Params::default()).unwrap();
    let (pairs, info) = exact.collect().unwrap();
    assert_eq!((info.distinct, info.pairs), (2, n as u64 - 2 + 1));
    let survivors: Vec<bool> = (0..n).map(|row| row != 0).collect();
    let order: Vec<u64> = (0..n as u64).collect();
    for (eps, kept) in [(0.08, 1), (0.02, 2)] {
        for removal in [Removal::Group, Removal::Chain] {
            let decided = decide(n, &survivors, &order, &pairs, eps, removal).unwrap();
            let fallen = decided.iter().flatten().count();
            assert_eq!(fallen, n - 1 - kept, "eps {eps}, {removal}");
        }
    }
    let semantic = one_cluster(&rows, d, 512);
    let matches = semantic.matches(&order).unwrap();
    assert_eq!((matches[n - 1].row, matches[n - 2].row), (0, 1));
}

#[test]
fn what_cannot_be_decided_is_refused() {
    let pair = Pair {
        a: 0,
        b: 2,
        cosine: 1.0,
        identical: false,
    };
    let refused = |survivors: &[bool], order: &[u64], pairs: &[Pair], eps: f64| {
        decide(2, survivors, order, pairs, eps, Removal::Group)
            .unwrap_err()
            .to_string()
    };
    let both = [true, true];
    assert!(refused(&both, &[0, 1], &[pair], 0.1).contains("pair (0, 2)"));
    assert!(refused(&both, &[0, 1], &[], f64::NAN).contains("eps"));
    assert!(refused(&both, &[0, 1], &[], -0.1).contains("eps of -0.1"));
    assert!(refused(&both, &[0], &[], 0.1).contains("not the survivor 1"));
    assert!(refused(&both, &[0, 0], &[], 0.1).contains("row 0 twice"));
    assert!(refused(&both, &[0, 1, 2], &[], 0.1).contains("row 2"));
    assert!(refused(&[true], &[0], &[], 0.1).contains("survivors"));
}

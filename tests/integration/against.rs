//! Growing sets: new rows against those of an earlier set, which are never compared with each other.

use clipsift::dedup::decide::{PairGraph, Removal};
use clipsift::dedup::exact::{self, ExactPairs, Pair};
use clipsift::dedup::kmeans;
use clipsift::dedup::semantic::{self, SemanticDedup};
use clipsift::ops::dot::cosine;
use clipsift::ops::normalize_rows;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Unit rows around a few directions: near ones, some identical.
fn draw(seed: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
    let directions: Vec<f32> = (0..4 * d).map(|_| uniform()).collect();
    let mut rows = Vec::new();
    for _ in 0..n {
        let which = ((uniform() + 0.5) * 3.99) as usize;
        let noise = [0.0, 0.0, 0.1, 0.3][((uniform() + 0.5) * 3.99) as usize];
        rows.extend(
            directions[which * d..(which + 1) * d]
                .iter()
                .map(|x| x + noise * uniform()),
        );
    }
    assert!(normalize_rows(&mut rows, d).is_empty());
    rows
}

/// What each new row falls to, from the definitions, one cosine at a time. `related` says which rows a search compares.
fn brute(
    rows: &[f32],
    d: usize,
    own: usize,
    eps: f64,
    removal: Removal,
    related: impl Fn(usize, usize) -> bool,
) -> Vec<Option<(u64, f64)>> {
    let n = rows.len() / d;
    let row = |i: usize| &rows[i * d..(i + 1) * d];
    let mut fallen: Vec<Option<(u64, f64)>> = vec![None; own];
    for new in 0..own {
        let before = (own..n).chain(0..new);
        for other in before.filter(|&other| related(new, other)) {
            let counts = removal == Removal::Chain || other >= own || fallen[other].is_none();
            let c = cosine(row(new), row(other));
            let alike = c >= 1.0 - eps || row(new) == row(other);
            if counts && alike && fallen[new].is_none_or(|(_, best)| c > best) {
                fallen[new] = Some((other as u64, c));
            }
        }
    }
    fallen
}

fn decided(
    pairs: &[Pair],
    n: usize,
    own: usize,
    eps: f64,
    removal: Removal,
) -> Vec<Option<(u64, f64)>> {
    let mut graph = PairGraph::new(n, eps).unwrap();
    graph.add(pairs).unwrap();
    let earlier: Vec<bool> = (0..n).map(|row| row >= own).collect();
    let order: Vec<u64> = (own as u64..n as u64).chain(0..own as u64).collect();
    let fallen = graph
        .decide(&vec![true; n], &earlier, &order, removal)
        .unwrap();
    assert!(
        fallen[own..].iter().all(Option::is_none),
        "an earlier set stays whole"
    );
    fallen[..own]
        .iter()
        .map(|fell| fell.map(|fell| (fell.row, fell.cosine)))
        .collect()
}

proptest! {
    #[test]
    fn decisions_against_an_earlier_set_are_those_of_all_cosines_one_by_one(
        seed in any::<u64>(),
        n in 0usize..50,
        share in 0.0f64..=1.0,
        d in 2usize..12,
        tile in 1usize..12,
        eps in prop::sample::select(vec![0.0, 0.001, 0.02, 0.1]),
        clusters in 1usize..4,
        chain in any::<bool>(),
    ) {
        let rows = draw(seed, n, d);
        let own = (n as f64 * share) as usize;
        let removal = if chain { Removal::Chain } else { Removal::Group };
        let search = ExactPairs::new(&rows, d, exact::Params { floor: 0.1, tile }).unwrap();
        let (pairs, info) = search.against(own).unwrap().collect().unwrap();
        prop_assert_eq!(info.rows, n as u64);
        prop_assert_eq!(info.pairs, pairs.len() as u64);
        prop_assert!(pairs.iter().all(|p| p.a < own as u64 && p.a < p.b), "never old with old");
        let expected = brute(&rows, d, own, eps, removal, |_, _| true);
        prop_assert_eq!(decided(&pairs, n, own, eps, removal), expected);

        prop_assume!(n >= clusters);
        let params = semantic::Params {
            kmeans: kmeans::Params { clusters: Some(clusters), ..Default::default() },
            floor: 0.1,
            tile,
        };
        let semantic = SemanticDedup::fit(&rows, d, params).unwrap().against(own).unwrap();
        let labels = semantic.kmeans().labels.clone();
        let (pairs, _) = semantic.collect().unwrap();
        prop_assert!(pairs.iter().all(|p| p.a < own as u64 && p.a < p.b), "never old with old");
        let expected = brute(&rows, d, own, eps, removal, |a, b| labels[a] == labels[b]);
        prop_assert_eq!(decided(&pairs, n, own, eps, removal), expected);

        // The best earlier match: the earlier set first, then new rows in their order.
        let order: Vec<u64> = (0..n as u64).rev().collect();
        let matches = semantic.matches(&order).unwrap();
        let row = |i: u64| &rows[i as usize * d..(i as usize + 1) * d];
        for new in 0..n as u64 {
            let mut best = (new, 0.0, f64::NEG_INFINITY);
            let before = order.iter().filter(|&&o| o >= own as u64).chain(order.iter().filter(|&&o| o < own as u64 && o > new));
            for &other in before.filter(|&&o| new < own as u64 && labels[o as usize] == labels[new as usize]) {
                let c = cosine(row(new), row(other));
                if c > best.2 {
                    best = (other, c, c);
                }
            }
            let got = matches[new as usize];
            prop_assert_eq!((got.row, got.cosine), (best.0, best.1), "row {}", new);
        }
    }
}

#[test]
fn an_earlier_set_beyond_the_rows_is_refused() {
    let rows = [1.0, 0.0, 0.0, 1.0];
    let exact = ExactPairs::new(&rows, 2, exact::Params::default()).unwrap();
    assert!(
        exact
            .clone()
            .against(3)
            .unwrap_err()
            .to_string()
            .contains("at most 2")
    );
    assert!(exact.against(2).is_ok());
    let semantic = SemanticDedup::fit(&rows, 2, semantic::Params::default()).unwrap();
    assert!(semantic.against(3).is_err());
}

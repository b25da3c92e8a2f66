//! The duplicate engine on a device, from end to end: the same pairs, matches and clusters as on the CPU, whether the rows are on the
//! device or streamed to it.

use clipsift::dedup::exact::{self, ExactPairs};
use clipsift::dedup::kmeans::{self, Init, KMeans};
use clipsift::dedup::on_device::{self, OnDevice};
use clipsift::dedup::semantic::{self, SemanticDedup};
use clipsift::ops::accumulate::Groups;
use clipsift::ops::cuda::DeviceMatrix;
use clipsift::ops::rows::Rows;
use clipsift::ops::tile::Pair;

use super::rows::{Rounding, unit_rows};
use super::{Emulator, Placement};

/// Pairs, comparisons told, and the counts.
fn found(
    device: OnDevice<Emulator>,
    rows: Rows,
    index: &[u64],
    ends: &[usize],
    floor: f64,
) -> (Vec<Pair>, u64, exact::Info) {
    let (mut pairs, mut told) = (Vec::new(), 0);
    let info = on_device::visit_pairs(device, rows, index, ends, 1.0 - floor, |block, more| {
        pairs.extend_from_slice(block);
        told += more;
        Ok(())
    })
    .unwrap();
    (pairs, told, info)
}

#[test]
fn pairs_and_matches_are_those_of_the_cpu_in_the_same_order() {
    let emulator = Emulator::new(Placement::End, 5);
    for (n, d, rounding) in [(97, 33, Rounding::Half), (60, 24, Rounding::Single)] {
        let data = unit_rows(n, d, rounding, 11);
        let rows = Rows::all(&data, d).unwrap();
        let matrix = DeviceMatrix::from_rows(&emulator, &data, d).unwrap();
        let floor = 0.2;
        let params = exact::Params {
            floor,
            ..exact::Params::default()
        };
        let exact = ExactPairs::new(&data, d, params).unwrap();
        let (expected, info) = exact.collect().unwrap();
        assert!(
            expected.iter().any(|pair| pair.identical)
                && expected.iter().any(|pair| !pair.identical)
        );

        let clusters = kmeans::Params {
            clusters: Some(4),
            ..kmeans::Params::default()
        };
        let fit = KMeans::fit(&data, d, &clusters).unwrap();
        let groups = Groups::new(&fit.labels, 4).unwrap();
        let params = semantic::Params {
            floor,
            ..semantic::Params::default()
        };
        let dedup = SemanticDedup::with_clusters(
            &data,
            d,
            fit.centroids.clone(),
            fit.labels.clone(),
            params,
        )
        .unwrap();
        let (in_clusters, of_clusters) = dedup.collect().unwrap();
        let order: Vec<u64> = (0..n as u64).rev().collect();
        let matches = dedup.matches(&order).unwrap();

        for device in [OnDevice::Resident(&matrix), OnDevice::Streamed(&emulator)] {
            let case = format!("{n} x {d} {rounding:?}, {device:?}");
            let index: Vec<u64> = (0..n as u64).collect();
            let (pairs, told, counts) = found(device, rows, &index, &[n], floor);
            assert_eq!(pairs, expected, "exact, {case}");
            assert_eq!(counts, info, "exact, {case}");
            assert_eq!(
                told,
                info.distinct * (info.distinct - 1) / 2,
                "exact, {case}"
            );

            let (pairs, _, counts) = found(device, rows, &groups.rows, &groups.offsets[1..], floor);
            assert_eq!(pairs, in_clusters, "semantic, {case}");
            assert_eq!(
                (counts.rows, counts.distinct, counts.pairs),
                (of_clusters.rows, of_clusters.distinct, of_clusters.pairs),
                "semantic, {case}"
            );

            let labels: Vec<u32> = order.iter().map(|&row| fit.labels[row as usize]).collect();
            let ranked = Groups::new(&labels, 4).unwrap();
            let listed: Vec<u64> = ranked
                .rows
                .iter()
                .map(|&place| order[place as usize])
                .collect();
            let best =
                on_device::best_earlier(device, rows, &listed, &ranked.offsets[1..]).unwrap();
            for (row, best) in listed.iter().zip(best) {
                assert_eq!(best, matches[*row as usize], "match of row {row}, {case}");
            }
        }
    }
}

#[test]
fn k_means_gives_the_bytes_of_the_cpu_whole_and_on_a_fraction() {
    let emulator = Emulator::new(Placement::End, 6);
    let (n, d) = (130, 20);
    for rounding in [Rounding::Half, Rounding::Single] {
        let data = unit_rows(n, d, rounding, 21);
        let matrix = DeviceMatrix::from_rows(&emulator, &data, d).unwrap();
        for (init, fit_fraction) in [
            (Init::KMeansPlusPlus, 1.0),
            (Init::Random, 0.5),
            // Two of the three are far from everything: mended clusters too.
            (
                Init::Given([vec![0.1; d], vec![50.0; d], vec![-70.0; d]].concat()),
                1.0,
            ),
        ] {
            let params = kmeans::Params {
                clusters: Some(3),
                init,
                fit_fraction,
                max_iterations: 5,
                ..kmeans::Params::default()
            };
            let expected = KMeans::fit(&data, d, &params).unwrap();
            for device in [OnDevice::Resident(&matrix), OnDevice::Streamed(&emulator)] {
                let got = KMeans::fit_on(&data, d, &params, Some(device), |_| Ok(())).unwrap();
                let case = format!(
                    "{rounding:?}, {device:?}, {:?}, {fit_fraction}",
                    params.init
                );
                assert_eq!(got.labels, expected.labels, "{case}");
                assert_eq!(got.centroids, expected.centroids, "{case}");
                assert_eq!(got.info, expected.info, "{case}");
            }
        }
    }
}

#[test]
fn a_matrix_of_other_rows_is_refused() {
    let emulator = Emulator::new(Placement::End, 7);
    let data = unit_rows(10, 8, Rounding::Half, 1);
    let matrix = DeviceMatrix::from_rows(&emulator, &data[..72], 8).unwrap();
    let params = kmeans::Params {
        clusters: Some(2),
        ..kmeans::Params::default()
    };
    let device = Some(OnDevice::Resident(&matrix));
    let message = KMeans::fit_on(&data, 8, &params, device, |_| Ok(()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("[10, 8]") && message.contains("[9, 8]"),
        "{message}"
    );
}

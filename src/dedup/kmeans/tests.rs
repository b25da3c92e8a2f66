//! Known answers of k-means, and what must not change its result.

use super::*;
use crate::dedup::seeding::uniform;
use rand_chacha::rand_core::RngCore;

fn params(clusters: usize) -> Params {
    Params {
        clusters: Some(clusters),
        ..Params::default()
    }
}

#[test]
fn one_cluster_is_the_mean_and_is_not_normalised() {
    let fit = KMeans::fit(&[1.0, 0.0, 0.0, 1.0], 2, &params(1)).unwrap();
    assert_eq!(fit.centroids, [0.5, 0.5]);
    assert_eq!(fit.info.inertia, 1.0);
    assert!(fit.info.converged);
    assert_eq!(fit.info.shifts.last(), Some(&0.0));
}

#[test]
fn as_many_clusters_as_rows_hold_one_each() {
    let rows = [1.0, 0.0, 0.6, 0.8, 0.0, 1.0];
    for init in [Init::KMeansPlusPlus, Init::KMeansParallel, Init::Random] {
        let fit = KMeans::fit(&rows, 2, &Params { init, ..params(3) }).unwrap();
        let mut labels = fit.labels.clone();
        labels.sort_unstable();
        assert_eq!(labels, [0, 1, 2]);
        assert_eq!(fit.info.inertia, 0.0);
    }
}

#[test]
fn an_empty_cluster_takes_the_farthest_row() {
    // The third centroid is nobody's; row 2 is the farthest from its own.
    let rows = [0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 10.0, 0.0];
    let init = Init::Given(vec![0.0, 0.0, 10.0, 0.0, 100.0, 0.0]);
    let fit = KMeans::fit(&rows, 2, &Params { init, ..params(3) }).unwrap();
    assert_eq!(fit.labels, [0, 0, 2, 1]);
    assert_eq!(fit.centroids, [0.5, 0.0, 10.0, 0.0, 3.0, 0.0]);
}

#[test]
fn fewer_different_rows_than_clusters_leave_clusters_empty_and_end() {
    let rows: Vec<f32> = [[1.0, 0.0], [0.0, 1.0]].repeat(5).concat();
    for init in [Init::KMeansPlusPlus, Init::KMeansParallel, Init::Random] {
        let fit = KMeans::fit(&rows, 2, &Params { init, ..params(4) }).unwrap();
        assert_eq!(fit.info.inertia, 0.0);
        assert!(fit.info.converged);
        assert_ne!(fit.labels[0], fit.labels[1]);
    }
}

#[test]
fn what_cannot_be_fitted_is_refused_in_clear_words() {
    let rows = [1.0, 0.0, 0.0, 1.0];
    let refused = |params: Params| KMeans::fit(&rows, 2, &params).unwrap_err().to_string();
    assert_eq!(
        refused(params(3)),
        "3 clusters of 2 rows: ask for at most as many clusters as there are rows"
    );
    assert!(refused(params(0)).contains("clusters is 0"));
    let base = params(1);
    assert!(
        refused(Params {
            fit_fraction: 0.0,
            ..base.clone()
        })
        .contains("fit_fraction is 0")
    );
    assert!(
        refused(Params {
            fit_fraction: f64::NAN,
            ..base.clone()
        })
        .contains("fit_fraction")
    );
    assert!(
        refused(Params {
            tolerance: -1.0,
            ..base.clone()
        })
        .contains("tolerance is -1")
    );
    assert!(
        refused(Params {
            restarts: 0,
            ..base.clone()
        })
        .contains("restarts is 0")
    );
    let init = Init::Given(vec![1.0; 4]);
    assert!(refused(Params { init, ..base }).contains("2, the number of given centroids"));
    let bad = KMeans::fit(&[1.0, f32::NAN], 1, &params(1)).unwrap_err();
    assert!(bad.to_string().contains("row 1 is not finite"));
}

#[test]
fn given_centroids_and_no_iterations_only_label() {
    let init = Init::Given(vec![1.0, 0.0, 0.0, 1.0]);
    let only_label = Params {
        init,
        max_iterations: 0,
        ..Params::default()
    };
    let fit = KMeans::fit(&[0.6, 0.8], 2, &only_label).unwrap();
    assert_eq!(
        (fit.labels.as_slice(), fit.centroids.as_slice()),
        (&[1][..], &[1.0, 0.0, 0.0, 1.0][..])
    );
    assert!(!fit.info.converged);
}

#[test]
fn more_restarts_are_never_worse_and_the_watcher_can_stop_them() {
    let mut rng = random(9, 0);
    let rows: Vec<f32> = (0..600).map(|_| uniform(rng.next_u64()) as f32).collect();
    let once = KMeans::fit(&rows, 2, &params(12)).unwrap();
    let five = KMeans::fit(
        &rows,
        2,
        &Params {
            restarts: 5,
            ..params(12)
        },
    )
    .unwrap();
    assert!(five.info.inertia <= once.info.inertia);
    assert!(
        once.info
            .inertias
            .windows(2)
            .all(|w| w[1] <= w[0] * (1.0 + 1e-9))
    );
    let stopped = KMeans::fit_watched(&rows, 2, &params(12), |progress| {
        if progress.iteration == 2 {
            Err(crate::Error::Interrupted)
        } else {
            Ok(())
        }
    });
    assert!(matches!(
        stopped,
        Err(Error::Other(crate::Error::Interrupted))
    ));
}

#[test]
fn about_a_thousand_rows_make_a_cluster() {
    assert_eq!(
        [0, 1, 1499, 1500, 10_000].map(clusters_auto),
        [1, 1, 1, 2, 10]
    );
}

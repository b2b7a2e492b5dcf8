//! Compares all statistics with the values of SciPy, statsmodels and krippendorff, as written by
//! `tests/peers/statistics_fixtures.py`.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Fixtures {
    wilson: Vec<Wilson>,
    mcnemar: Vec<Discordant>,
    difference: Vec<Difference>,
    smallest: Vec<Smallest>,
    holm: Vec<Family>,
    t: Vec<Differences>,
    welch: Vec<Apart>,
    sign: Vec<Signs>,
    clustered: Vec<Attempts>,
    kappa: Vec<Table>,
    alpha: Vec<Labels>,
    bootstrap: Vec<Prompts>,
}

#[derive(Deserialize)]
struct Wilson {
    hits: u64,
    count: u64,
    interval: (f64, f64),
}

#[derive(Deserialize)]
struct Discordant {
    b: u64,
    c: u64,
    p: f64,
}

#[derive(Deserialize)]
struct Difference {
    gained: u64,
    lost: u64,
    count: u64,
    interval: (f64, f64),
}

#[derive(Deserialize)]
struct Smallest {
    discordant: f64,
    count: u64,
    smallest: f64,
}

#[derive(Deserialize)]
struct Family {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct Differences {
    values: Vec<f64>,
    p: f64,
    interval: (f64, f64),
    detectable: f64,
}

#[derive(Deserialize)]
struct Apart {
    a: Vec<f64>,
    b: Vec<f64>,
    p: f64,
    interval: (f64, f64),
    detectable: f64,
}

#[derive(Deserialize)]
struct Signs {
    values: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct Attempts {
    clusters: Vec<[f64; 4]>,
    difference: f64,
    p: f64,
    interval: (f64, f64),
    /// For the rate of B.
    rate: (f64, f64),
}

#[derive(Deserialize)]
struct Table {
    table: Vec<Vec<u64>>,
    value: f64,
    error: f64,
}

#[derive(Deserialize)]
struct Labels {
    items: Vec<Vec<u32>>,
    value: f64,
}

#[derive(Deserialize)]
struct Prompts {
    clusters: Vec<[f64; 4]>,
    interval: (f64, f64),
    error: f64,
    p: f64,
}

fn clusters(cases: &[[f64; 4]]) -> Vec<Cluster> {
    let side = |sum, count| Side { sum, count };
    cases
        .iter()
        .map(|[a, a_count, b, b_count]| Cluster { a: side(*a, *a_count), b: side(*b, *b_count) })
        .collect()
}

fn fixtures() -> Fixtures {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/statistics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64, relative: f64, what: &str) {
    // Smaller numbers are rounding errors.
    let away = (found - expected).abs();
    assert!(away <= relative * expected.abs() || away < 1e-15, "{what}: {found} instead of {expected}");
}

#[track_caller]
fn same(found: Interval, expected: (f64, f64), tolerance: f64, what: &str) {
    let away = (found.low - expected.0).abs().max((found.high - expected.1).abs());
    assert!(away <= tolerance, "{what}: {found:?} instead of {expected:?}");
}

#[test]
fn rates_have_the_interval_of_statsmodels() {
    for case in fixtures().wilson {
        let what = format!("{} of {}", case.hits, case.count);
        same(wilson(case.hits, case.count).unwrap(), case.interval, 1e-14, &what);
    }
}

#[test]
fn mcnemar_has_the_p_of_statsmodels() {
    for case in fixtures().mcnemar {
        close(mcnemar(case.b, case.c), case.p, 1e-9, &format!("{} against {}", case.b, case.c));
    }
}

#[test]
fn paired_differences_have_the_interval_of_the_likelihood() {
    for case in fixtures().difference {
        let what = format!("+{} −{} of {}", case.gained, case.lost, case.count);
        // The reference maximises a likelihood numerically, with this precision.
        same(difference(case.gained, case.lost, case.count).unwrap(), case.interval, 1e-7, &what);
    }
}

#[test]
fn the_smallest_difference_solves_the_formula_for_the_sample_size() {
    for case in fixtures().smallest {
        let found = smallest_difference(case.discordant, case.count).unwrap();
        close(found, case.smallest, 1e-9, &format!("{} of {}", case.discordant, case.count));
    }
}

#[test]
fn holm_adjusts_as_statsmodels_does() {
    for case in fixtures().holm {
        for (found, expected) in holm(&case.p).into_iter().zip(case.adjusted) {
            close(found, expected, 1e-12, &format!("{:?}", case.p));
        }
    }
}

#[test]
fn student_s_t_is_that_of_scipy() {
    for case in fixtures().t {
        let (found, what) = (paired_t(&case.values).unwrap(), format!("{:?}", case.values));
        close(found.p, case.p, 1e-10, &what);
        same(found.interval, case.interval, 1e-11, &what);
        close(found.detectable, case.detectable, 1e-10, &what);
    }
}

#[test]
fn welch_s_t_is_that_of_scipy() {
    for case in fixtures().welch {
        let (found, what) = (welch_t(&case.a, &case.b).unwrap(), format!("{:?} {:?}", case.a, case.b));
        close(found.p, case.p, 1e-10, &what);
        same(found.interval, case.interval, 1e-10, &what);
        close(found.detectable, case.detectable, 1e-10, &what);
    }
}

#[test]
fn the_sign_test_is_that_of_scipy() {
    for case in fixtures().sign {
        close(sign_test(&case.values), case.p, 1e-9, &format!("{:?}", case.values));
    }
}

#[test]
fn hazards_have_the_error_of_statsmodels_for_clusters() {
    for case in fixtures().clustered {
        let (hazards, what) = (clusters(&case.clusters), format!("{} hazards", case.clusters.len()));
        let found = paired_t(&values(&hazards)).unwrap();
        close((found.interval.low + found.interval.high) / 2.0, case.difference, 1e-10, &what);
        close(found.p, case.p, 1e-9, &what);
        same(found.interval, case.interval, 1e-10, &what);
        let of_b: Vec<Side> = hazards.iter().map(|hazard| hazard.b).collect();
        same(rate_interval(&of_b).unwrap(), case.rate, 1e-9, &what);
        if hazards.len() < FEW {
            let tested = clustered(&hazards).unwrap();
            assert_eq!((tested.p, tested.by), (found.p, TestMethod::StudentT), "{what}");
        }
    }
}

#[test]
fn kappa_is_that_of_statsmodels_with_its_error() {
    for case in fixtures().kappa {
        let (found, what) = (kappa(&case.table).unwrap(), format!("{:?}", case.table));
        close(found.value, case.value, 1e-12, &what);
        close(found.error, case.error, 1e-12, &what);
    }
}

#[test]
fn alpha_is_that_of_krippendorff() {
    for case in fixtures().alpha {
        let found = alpha(case.items.iter().map(Vec::as_slice)).unwrap();
        close(found, case.value, 1e-12, &format!("{:?}", case.items));
    }
}

#[test]
fn the_bootstrap_has_the_interval_of_scipy() {
    for case in fixtures().bootstrap {
        let found = bootstrap(&clusters(&case.clusters)).unwrap();
        // The end of an interval, a 2.5th percentile of 10,000 resamples, has a standard error of 0.027 standard errors, and that
        // of SciPy's 200,000 a fifth of it. The tolerance is four of these.
        let what = format!("{} prompts", case.clusters.len());
        same(found.interval, case.interval, 0.11 * case.error, &what);
        close(found.detectable / 2.801_585, case.error, 0.03, &what);
        assert!((found.p - case.p).abs() < 0.025, "{what}: {} instead of {}", found.p, case.p);
    }
}

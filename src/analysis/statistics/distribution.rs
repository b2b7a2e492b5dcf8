//! Student's t from the incomplete beta function, and the required quantiles of the normal distribution.

/// The 0.975 quantile of the normal distribution.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// Its 0.8 quantile.
pub(crate) const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// The probability of a |t| at least as large, with this many degrees of freedom (Abramowitz and Stegun 26.7.1).
pub(crate) fn t_tails(t: f64, degrees: f64) -> f64 {
    match t.is_finite() {
        true => incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t)),
        false => 0.0,
    }
}

/// The quantile of Student's t at `share`, which must be at least 0.5 and less than 1.
pub(crate) fn t_quantile(share: f64, degrees: f64) -> f64 {
    let tails = 2.0 * (1.0 - share);
    let (mut low, mut high) = (0.0, 1.0);
    while t_tails(high, degrees) > tails && high < 1e300 {
        (low, high) = (high, 2.0 * high);
    }
    // A double has 53 bits of precision.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if t_tails(middle, degrees) > tails { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (Abramowitz and Stegun 26.5.8),
/// evaluated by Lentz's method on the side where it converges fast.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    let step = |term: f64, d: f64, c: f64| {
        let away = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
        (1.0 / away(1.0 + term * d), away(1.0 + term / c))
    };
    let mut c = 1.0;
    let (mut d, _) = step(-(a + b) * x / (a + 1.0), 1.0, 1.0);
    let mut value = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        (d, c) = step(even, d, c);
        value *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        (d, c) = step(odd, d, c);
        value *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front.exp() * value / a
}

/// ln Γ(x) for x > 0, by Lanczos' approximation with g = 7 and nine terms.
fn ln_gamma(x: f64) -> f64 {
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let sum = (TERMS.iter().enumerate())
        .fold(0.999_999_999_999_809_9, |sum, (index, term)| sum + term / (x + index as f64 + 1.0));
    let base = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * base.ln() - base + sum.ln()
}

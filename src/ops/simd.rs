//! Vectorised building blocks. Rust compiles for any x86-64, which means 4 lanes; a kernel declared with
//! [`kernel!`] is compiled a second time for AVX2 and chosen at run time. Both versions do the same
//! operations in the same order, so they give the same bits.

/// Declares `fn $name`, whose body is compiled twice.
macro_rules! kernel {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($arg: $type),*) $(-> $result)? {
                    plain($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, as just asked.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use kernel;

/// Partial sums kept side by side: what a vector register or two hold.
const LANES: usize = 8;

/// Σ f(x_i, y_i), in an order that depends on the length alone.
#[inline(always)]
fn reduce(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (x_chunks, y_chunks) = (xs.chunks_exact(LANES), ys.chunks_exact(LANES));
    let (x_rest, y_rest) = (x_chunks.remainder(), y_chunks.remainder());
    for (x, y) in x_chunks.zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(&x, &y)| f(x, y)).sum();
    ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7])) + rest
}

#[inline(always)]
pub fn dot(xs: &[f32], ys: &[f32]) -> f32 {
    reduce(xs, ys, |x, y| x * y)
}

#[inline(always)]
pub fn sum(xs: &[f32]) -> f32 {
    reduce(xs, xs, |x, _| x)
}

#[inline(always)]
pub fn max(xs: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = xs.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most })
}

/// e^x to about 1e-7 relative, without a branch: 2^n · e^r with n = round(x / ln 2) and a polynomial in r.
/// Below −87 it stays at e^−87, above 88 at e^88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2^23 leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits, so that r loses nothing.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let series = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0));
    let series = 0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * series));
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    power * (1.0 + r * (1.0 + r * series))
}

/// 1 / (1 + e^−x)
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Turns scores into probabilities in place and returns log Σ e^score.
#[inline(always)]
pub fn softmax(scores: &mut [f32]) -> f32 {
    let most = max(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - most);
    }
    let total = sum(scores);
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
    most + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_float_precision() {
        let mut x = -86.0f32;
        while x < 87.0 {
            let (mine, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((mine - exact).abs() < 4e-7 * exact, "e^{x}: {mine} against {exact}");
            x += 0.01037;
        }
        assert!(exp(-1e9) < 1e-37 && exp(-1e9) >= 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn reductions_take_any_length() {
        for length in [0, 1, 7, 8, 9, 24, 65] {
            let xs: Vec<f32> = (0..length).map(|i| i as f32).collect();
            assert_eq!(sum(&xs), xs.iter().sum::<f32>());
            assert_eq!(dot(&xs, &xs), xs.iter().map(|x| x * x).sum::<f32>());
            assert_eq!(max(&xs), xs.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

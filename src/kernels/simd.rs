//! Vectorised building blocks. Rust compiles for any x86-64, which means 4 lanes. A kernel declared with `kernel!` is
//! compiled a second time for AVX2 with fused multiply-adds, and one of the two is chosen at run time. (A third version for
//! AVX-512 gained nothing where its two halves go through the same units.)

/// Declares `fn $name`, whose body is compiled twice. The constant `FUSED` tells the body whether multiply-adds are one
/// instruction.
#[macro_export]
macro_rules! kernel {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            fn plain<const FUSED: bool>($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($arg: $type),*) $(-> $result)? {
                    plain::<true>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has AVX2 and FMA, as just checked.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}

/// a·b + c, in one instruction where that is `FUSED`.
#[inline(always)]
pub fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Partial sums kept side by side, as many as one or two vector registers hold.
const LANES: usize = 16;

/// Sums with `f`, in an order that depends on the length alone.
#[inline(always)]
fn reduce(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (x_chunks, y_chunks) = (xs.chunks_exact(LANES), ys.chunks_exact(LANES));
    let (x_rest, y_rest) = (x_chunks.remainder(), y_chunks.remainder());
    for (x, y) in x_chunks.zip(y_chunks) {
        for lane in 0..LANES {
            lanes[lane] = f(x[lane], y[lane], lanes[lane]);
        }
    }
    let rest = x_rest.iter().zip(y_rest).fold(0.0, |rest, (&x, &y)| f(x, y, rest));
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0] + rest
}

/// The scalar product of two slices of one length, in an order that depends on the length alone.
#[inline(always)]
pub fn dot<const FUSED: bool>(xs: &[f32], ys: &[f32]) -> f32 {
    reduce(xs, ys, multiply_add::<FUSED>)
}

/// The sum, in an order that depends on the length alone.
#[inline(always)]
pub fn sum(xs: &[f32]) -> f32 {
    reduce(xs, xs, |x, _, sum| sum + x)
}

/// Two sums over `xs`, in an order that depends on the length alone; `f` adds a number to both.
#[inline(always)]
pub fn fold(xs: &[f32], f: impl Fn(f32, [f32; 2]) -> [f32; 2]) -> [f32; 2] {
    let (mut firsts, mut seconds) = ([0f32; LANES], [0f32; LANES]);
    let chunks = xs.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold([0.0; 2], |sums, x| f(*x, sums));
    for chunk in chunks {
        for lane in 0..LANES {
            [firsts[lane], seconds[lane]] = f(chunk[lane], [firsts[lane], seconds[lane]]);
        }
    }
    [sum(&firsts) + rest[0], sum(&seconds) + rest[1]]
}

/// The greatest number; −∞ of an empty slice. NaN are passed over.
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
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5·2^23 leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits, so that r loses nothing.
    let r = multiply_add::<FUSED>(n, -0.693_359_4, x);
    let r = multiply_add::<FUSED>(n, 2.121_944_4e-4, r);
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = multiply_add::<FUSED>(series, r, coefficient);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    power * series
}

/// 1 / (1 + e^−x)
#[inline(always)]
pub fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// Turns scores into probabilities in place.
#[inline(always)]
pub fn softmax<const FUSED: bool>(scores: &mut [f32]) {
    let most = max(scores);
    for score in scores.iter_mut() {
        *score = exp::<FUSED>(*score - most);
    }
    let total = sum(scores);
    let scale = 1.0 / total;
    for score in scores.iter_mut() {
        *score *= scale;
    }
}

kernel! {
    /// Replaces a row of logits by e^(score − most): score is logit · `sharpness`, most is the largest score. Returns
    /// log Σ e^score, most, and the sum of the new numbers.
    pub fn exponentials(logits: &mut [f32], sharpness: f32) -> (f32, f32, f32) {
        for logit in logits.iter_mut() {
            *logit *= sharpness;
        }
        let most = max(logits);
        for logit in logits.iter_mut() {
            *logit = exp::<FUSED>(*logit - most);
        }
        let total = sum(logits);
        (most + total.ln(), most, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_float_precision() {
        let mut x = -86.0f32;
        while x < 87.0 {
            let (mine, exact) = (f64::from(exp::<false>(x)), f64::from(x).exp());
            assert!((mine - exact).abs() < 4e-7 * exact, "e^{x}: {mine} against {exact}");
            x += 0.01037;
        }
        assert!(exp::<true>(-1e9) < 1e-37 && exp::<true>(-1e9) >= 0.0);
        assert_eq!(exp::<true>(0.0), 1.0);
    }

    #[test]
    fn reductions_take_any_length() {
        for length in [0, 1, 15, 16, 17, 40, 65] {
            let xs: Vec<f32> = (0..length).map(|i| i as f32).collect();
            assert_eq!(sum(&xs), xs.iter().sum::<f32>());
            assert_eq!(dot::<false>(&xs, &xs), xs.iter().map(|x| x * x).sum::<f32>());
            let (total, squares) = (xs.iter().sum::<f32>(), xs.iter().map(|x| x * x).sum::<f32>());
            assert_eq!(fold(&xs, |x, [sum, square]| [sum + x, square + x * x]), [total, squares]);
            assert_eq!(max(&xs), xs.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn exponentials_and_their_sum_are_probabilities() {
        let logits: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let mut weights = logits.clone();
        let (log_total, most, total) = exponentials(&mut weights, 2.0);
        for (weight, logit) in weights.iter().zip(logits) {
            assert!((weight / total - (2.0 * logit - log_total).exp()).abs() < 1e-6);
            assert!((weight.ln() + most - 2.0 * logit).abs() < 1e-5);
        }
    }
}

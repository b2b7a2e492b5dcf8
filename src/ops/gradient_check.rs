//! Compares a fused operation with the plain composition, and its gradient with finite differences.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::value::{Gradients, Value};
use store::Seed;

/// Numbers between −1 and 1.
pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    use rand::Rng;
    let mut stream = Seed::from_u64(seed).stream("gradient check");
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Rotary frequencies θ^(−2i / size) at θ = 10,000.
pub(crate) fn frequencies(size: usize) -> Vec<f64> {
    (0..size / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / size as f64)).collect()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b.to_dtype(a.dtype()).unwrap())
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

/// Compares values and gradients of two functions of the same inputs, under a random weighting of the outputs, and a few
/// entries of the gradient with central differences. The first function runs in f32, by the fused kernels, and in f64, by the
/// composition that other devices use.
pub(crate) fn check(
    inputs: &[Tensor],
    fused: impl Fn(&[Value]) -> Result<Value>,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let values: Vec<Value> = inputs.iter().map(|input| Value::parameter(input.clone())).collect();
    let (fused_result, b) = (fused(&values).unwrap(), plain(&tensors).unwrap());
    let a = fused_result.tensor().clone();
    assert_eq!(a.dims(), b.dims());
    assert!(largest_difference(&a, &b) < 2e-5, "values differ by {}", largest_difference(&a, &b));
    let weighting = random(a.dims(), 99);
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let wide_values: Vec<Value> = inputs.iter().map(|input| Value::parameter(wide(input))).collect();
    let wide_result = fused(&wide_values).unwrap();
    assert!(largest_difference(&b, wide_result.tensor()) < 2e-5, "values differ in f64");
    let mut wide_gradients = Gradients::default();
    wide_result.backward(wide(&weighting), &mut wide_gradients).unwrap();
    let mut gradients = Gradients::default();
    fused_result.backward(weighting.clone(), &mut gradients).unwrap();
    let plain_gradients = (b * &weighting).unwrap().sum_all().unwrap().backward().unwrap();
    for (index, (var, value)) in vars.iter().zip(&values).enumerate() {
        let (mine, plain) = (&gradients.take(value).expect("a gradient"), plain_gradients.get(var).unwrap());
        let scale: f32 = plain.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
        let difference = largest_difference(mine, plain);
        assert!(difference < 1e-4 * scale.max(1.0), "gradient {index} differs by {difference} of {scale}");
        let wide = &wide_gradients.take(&wide_values[index]).expect("a gradient in f64");
        let difference = largest_difference(plain, wide);
        assert!(difference < 1e-4 * scale.max(1.0), "gradient {index} differs by {difference} in f64");
        let values: Vec<f32> = inputs[index].flatten_all().unwrap().to_vec1().unwrap();
        let gradient: Vec<f32> = mine.flatten_all().unwrap().to_vec1().unwrap();
        for entry in (0..values.len()).step_by(values.len() / 3 + 1) {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[entry] += by;
                let mut moved: Vec<Value> = inputs.iter().cloned().map(Value::constant).collect();
                let tensor = Tensor::from_vec(values, inputs[index].shape(), &Device::Cpu).unwrap();
                moved[index] = Value::constant(tensor);
                let value = fused(&moved).unwrap();
                let products =
                    (value.tensor() * &weighting).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                products.into_iter().map(f64::from).sum::<f64>()
            };
            let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let exact = f64::from(gradient[entry]);
            assert!(
                (numeric - exact).abs() < 2e-2 * exact.abs().max(1.0),
                "finite difference {numeric}, gradient {exact}"
            );
        }
    }
}

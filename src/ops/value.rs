//! Reverse-mode differentiation. candle has its own, but its backward pass fills a tensor with zeros and adds to it for every
//! use of every tensor, on a pool of threads that spin beside rayon's. At the sizes trained here that took longer than the
//! matrix products. Here, a gradient moves to its one owner or is added to in place, an operation has any number of inputs
//! and keeps what its backward pass needs, and no gradient is computed that nothing needs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::cpu::{on_cpu_f32, read, tensor, write};
use kernels::{Matrix, Panels};

/// Numbers that one task adds.
const BLOCK: usize = 1 << 14;

/// Values are numbered in the order in which they are made, so a result has a greater number than its inputs.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A tensor and, if it has a gradient, the operation that made it. Its numbers never change while it lives.
#[derive(Clone)]
pub struct Value {
    tensor: Tensor,
    node: Option<Arc<Node>>,
    /// The transpose of a weight in panels for matrix products; made for the first product.
    panels: Arc<OnceLock<Panels>>,
}

struct Node {
    number: u64,
    inputs: Vec<Arc<Node>>,
    /// Adds to the gradients of the inputs, given that of the result; `None` for a parameter.
    backward: Option<Backward>,
}

type Backward = Box<dyn Fn(Tensor, &mut Gradients) -> Result<()> + Send + Sync>;

impl Node {
    fn make(inputs: Vec<Arc<Node>>, backward: Option<Backward>) -> Option<Arc<Node>> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Node { number, inputs, backward }))
    }
}

impl Value {
    /// A value without a gradient.
    pub fn constant(tensor: Tensor) -> Value {
        Value::of(tensor, None)
    }

    /// A value that gets a gradient.
    pub fn parameter(tensor: Tensor) -> Value {
        Value::of(tensor, Node::make(Vec::new(), None))
    }

    /// The result of an operation. `backward` is kept if any of the inputs has a gradient.
    pub(super) fn result(
        tensor: Tensor,
        inputs: &[&Value],
        backward: impl Fn(Tensor, &mut Gradients) -> Result<()> + Send + Sync + 'static,
    ) -> Value {
        let inputs: Vec<Arc<Node>> = inputs.iter().filter_map(|input| input.node.clone()).collect();
        if inputs.is_empty() {
            Value::constant(tensor)
        } else {
            Value::of(tensor, Node::make(inputs, Some(Box::new(backward))))
        }
    }

    fn of(tensor: Tensor, node: Option<Arc<Node>>) -> Value {
        Value { tensor, node, panels: Arc::default() }
    }

    /// The panels of Wᵀ for a matrix W \[out, in\]; made once and kept.
    pub(super) fn panels(&self) -> Result<&Panels> {
        if let Some(panels) = self.panels.get() {
            return Ok(panels);
        }
        let (outputs, inputs) = self.tensor.dims2()?;
        let panels = Panels::of(Matrix::new(&read(&self.tensor)?, outputs, inputs).t());
        Ok(self.panels.get_or_init(|| panels))
    }

    /// The numbers, without their graph.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Computes `f(self)` and keeps only the result; the backward pass recomputes the rest. `f` also depends on `parameters`.
    /// Saves memory at the cost of a second forward pass (Chen et al. 2016).
    pub fn checkpoint(
        &self,
        parameters: &[&Value],
        f: impl Fn(&Value) -> Result<Value> + Send + Sync + 'static,
    ) -> Result<Value> {
        let out = f(&Value::constant(self.tensor.clone()))?.tensor;
        let inputs: Vec<&Value> = [self].into_iter().chain(parameters.iter().copied()).collect();
        let kept = self.clone();
        Ok(Value::result(out, &inputs, move |grad, gradients| {
            let again = Value::parameter(kept.tensor.clone());
            f(&again)?.backward(grad, gradients)?;
            match gradients.take(&again) {
                Some(gradient) => gradients.add(&kept, gradient),
                None => Ok(()),
            }
        }))
    }

    /// Adds the gradients of Σ gradient · self to `gradients`, for every parameter that self depends on. What was kept for the
    /// backward pass is freed as soon as it has been used.
    pub fn backward(self, gradient: Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some(root) = self.node else { return Ok(()) };
        gradients.by_number.insert(root.number, gradient);
        let mut pending = BTreeMap::from([(root.number, root)]);
        while let Some((number, node)) = pending.pop_last() {
            let Some(backward) = &node.backward else { continue };
            if let Some(gradient) = gradients.by_number.remove(&number) {
                backward(gradient, gradients)?;
            }
            pending.extend(node.inputs.iter().map(|input| (input.number, input.clone())));
        }
        Ok(())
    }
}

/// Gradients by value. Those of several backward passes add up.
#[derive(Default)]
pub struct Gradients {
    by_number: BTreeMap<u64, Tensor>,
}

impl Gradients {
    /// The gradient of a parameter, if any operation gave it one.
    pub fn take(&mut self, value: &Value) -> Option<Tensor> {
        self.by_number.remove(&value.node.as_ref()?.number)
    }

    /// Adds the gradients of another backward pass.
    pub fn merge(&mut self, other: Gradients) -> Result<()> {
        for (number, gradient) in other.by_number {
            self.add_to(number, gradient)?;
        }
        Ok(())
    }

    /// Whether `value` has a gradient.
    pub(super) fn wants(&self, value: &Value) -> bool {
        value.node.is_some()
    }

    /// Adds `gradient`, which nobody else holds, to that of `value`.
    pub(super) fn add(&mut self, value: &Value, gradient: Tensor) -> Result<()> {
        let Some(node) = &value.node else { return Ok(()) };
        self.add_to(node.number, gradient)
    }

    fn add_to(&mut self, number: u64, gradient: Tensor) -> Result<()> {
        let Some(sum) = self.by_number.get(&number) else {
            self.by_number.insert(number, gradient);
            return Ok(());
        };
        if !on_cpu_f32(sum) {
            let total = (sum + gradient)?;
            self.by_number.insert(number, total);
            return Ok(());
        }
        let gradient = read(&gradient)?;
        write(sum, |sum| {
            let blocks = sum.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK));
            blocks.for_each(|(sum, gradient)| sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g));
        })
    }

    /// Calls `f` to add to the gradient of `value`, and tells it whether there is one already; if not, `f` gets zeros. `f` is
    /// not called if `value` has no gradient.
    pub(super) fn add_with(&mut self, value: &Value, f: impl FnOnce(&mut [f32], bool)) -> Result<()> {
        let Some(node) = &value.node else { return Ok(()) };
        if let Some(sum) = self.by_number.get(&node.number) {
            return write(sum, |sum| f(sum, true));
        }
        let mut fresh = vec![0f32; value.tensor.elem_count()];
        f(&mut fresh, false);
        self.by_number.insert(node.number, tensor(fresh, value.tensor.shape())?);
        Ok(())
    }
}

//! The device and the number type in which models are computed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};

/// A device and the type of the numbers that pass through a model there. Trained parameters are kept in f32, or in f64 if
/// models are computed in f64.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The CPU or a GPU.
    pub device: Device,
    /// The number type of activations.
    pub dtype: DType,
    /// Whether quantised weights are unpacked when they are read, and then used like any others.
    pub dequantize: bool,
}

/// The ending of a number type that asks for unpacked weights.
const DEQUANTIZED: &str = "-dequantized";

impl Default for Compute {
    /// f32 on the CPU.
    fn default() -> Self {
        Compute { device: Device::Cpu, dtype: DType::F32, dequantize: false }
    }
}

impl Compute {
    /// Parses a device (`auto`, `cpu`, `cuda`, `cuda:1`, `metal`) and a number type (`f32`, `bf16` or `f64`, or one of these
    /// with `-dequantized`). `auto` takes a GPU if the machine has one and this build supports it.
    pub fn parse(device: &str, dtype: &str) -> Result<Compute, String> {
        let (kind, ordinal) = match device.split_once(':') {
            Some((kind, number)) => {
                let ordinal = number.parse::<usize>();
                (
                    kind,
                    ordinal.map_err(|_| {
                        format!("`device` must have a number after the colon, found `{device}`")
                    })?,
                )
            }
            None => (device, 0),
        };
        let device = match kind {
            "auto" => cuda(0).or_else(|_| metal(0)).unwrap_or(Device::Cpu),
            "cpu" if ordinal == 0 => Device::Cpu,
            "cuda" => cuda(ordinal)?,
            "metal" => metal(ordinal)?,
            _ => {
                return Err(format!("`device` must be auto, cpu, cuda, cuda:N or metal, found `{device}`"));
            }
        };
        let (number_type, dequantize) = match dtype.strip_suffix(DEQUANTIZED) {
            Some(number_type) => (number_type, true),
            None => (dtype, false),
        };
        let dtype = match number_type {
            "f32" => DType::F32,
            "bf16" if device.is_cpu() => {
                return Err(
                    "`dtype` must be f32 or f64 on the CPU, found bf16 (weights on disk may be bf16)".into(),
                );
            }
            "bf16" => DType::BF16,
            "f64" if !device.is_metal() => DType::F64,
            _ => {
                return Err(format!(
                    "`dtype` must be f32, bf16 (on a GPU), f64 (not on Metal), or one of these with {DEQUANTIZED}, found \
                     `{dtype}`"
                ));
            }
        };
        Ok(Compute { device, dtype, dequantize })
    }

    /// Whether the fused kernels of the CPU apply.
    pub fn fused(&self) -> bool {
        self.device.is_cpu() && self.dtype == DType::F32
    }

    /// The number type of trained parameters.
    pub fn trained(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }
}

impl fmt::Display for Compute {
    /// The kind of device and the number type, on which results depend.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        write!(f, "{device} {}{}", self.dtype.as_str(), if self.dequantize { DEQUANTIZED } else { "" })
    }
}

fn cuda(ordinal: usize) -> Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no CUDA: build with `--features cuda`, or set `device: cpu`".into());
    }
    opened(format!("cuda:{ordinal}"), || Device::new_cuda(ordinal))
}

fn metal(ordinal: usize) -> Result<Device, String> {
    if !candle_core::utils::metal_is_available() {
        return Err("this build has no Metal: build with `--features metal`, or set `device: cpu`".into());
    }
    opened(format!("metal:{ordinal}"), || Device::new_metal(ordinal))
}

/// A device, opened once per process: tensors of a GPU that was opened twice cannot be combined.
fn opened(name: String, open: impl FnOnce() -> candle_core::Result<Device>) -> Result<Device, String> {
    static OPENED: Mutex<BTreeMap<String, Device>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&name) {
        return Ok(device.clone());
    }
    let device = open().map_err(|error| format!("cannot use {name}: {error}"))?;
    opened.insert(name, device.clone());
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_types_are_named_and_what_is_missing_is_explained() {
        assert_eq!(Compute::parse("cpu", "f32").unwrap().to_string(), "cpu f32");
        assert_eq!(Compute::parse("cpu", "f64").unwrap().to_string(), "cpu f64");
        assert_eq!(Compute::parse("cpu", "f32-dequantized").unwrap().to_string(), "cpu f32-dequantized");
        let error = |device, dtype| Compute::parse(device, dtype).unwrap_err();
        assert!(error("tpu", "f32").contains("must be auto, cpu, cuda, cuda:N or metal, found `tpu`"));
        assert!(error("cuda:x", "f32").contains("must have a number after the colon, found `cuda:x`"));
        assert!(error("cpu", "bf16").contains("must be f32 or f64 on the CPU, found bf16"));
        assert!(error("cpu", "f8").contains("found `f8`"));
        if !candle_core::utils::cuda_is_available() {
            assert!(error("cuda:0", "f32").contains("--features cuda"));
        }
    }
}

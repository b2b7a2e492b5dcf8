//! The tensors of a job's files: what is written for the worker, and what it wrote, checked whole.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View};

use super::trouble::Trouble;

/// The names of tensors that a file must have, and their shapes.
pub type Wanted = BTreeMap<String, Vec<usize>>;

/// A tensor to be written.
pub(crate) struct Written {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Written {
    pub(crate) fn i64(shape: Vec<usize>, values: &[i64]) -> Written {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Written { dtype: Dtype::I64, shape, bytes }
    }

    pub(crate) fn f32(values: &[f32]) -> Written {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Written { dtype: Dtype::F32, shape: vec![values.len()], bytes }
    }
}

impl View for &Written {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Reads a file that the worker wrote: exactly the wanted tensors, in f32, and every number finite. Those `besides` may be there
/// and are not read.
pub fn read(path: &Path, wanted: &Wanted, besides: &[&str]) -> Result<BTreeMap<String, Vec<f32>>, Trouble> {
    let wrong = |what: String| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let help = "the worker must be the one that triplay brings along: check PYTHONPATH, and `torch.python` in triplay.yaml";
        Trouble::new(format!("the worker's {name} {what}; nothing of it is used")).help(help)
    };
    let numbers: usize = wanted.values().map(|shape| shape.iter().product::<usize>()).sum();
    let most = store::read::MAX_TEXT_BYTES + 4 * numbers as u64;
    let bytes = store::read::bytes(path, most).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| wrong(format!("must be a complete safetensors file, found {error}")))?;
    if let Some(name) =
        tensors.names().into_iter().find(|name| !wanted.contains_key(*name) && !besides.contains(name))
    {
        return Err(wrong(format!("must have only what was trained, found `{name}`")));
    }
    let mut read = BTreeMap::new();
    for (name, shape) in wanted {
        let tensor = tensors.tensor(name).map_err(|_| wrong(format!("must have `{name}`, found none")))?;
        if tensor.shape() != shape || tensor.dtype() != Dtype::F32 {
            let found = format!("{:?} in {:?}", tensor.shape(), tensor.dtype());
            return Err(wrong(format!("must have `{name}` with the shape {shape:?} in F32, found {found}")));
        }
        let (chunks, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let help = "lower the learning rate";
            return Err(wrong(format!("must have finite numbers, found {value} in `{name}`")).help(help));
        }
        read.insert(name.clone(), values);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_used_only_if_all_of_it_is_as_it_must_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let said = |tensors: &[(&str, Written)]| {
            let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor));
            safetensors::serialize_to_file(tensors, None, &path).unwrap();
            let wanted = Wanted::from([("a".to_owned(), vec![2])]);
            read(&path, &wanted, &[]).map_err(|trouble| trouble.to_string())
        };
        let good = Written::f32(&[1.0, -2.5]);
        assert_eq!(said(&[("a", good)]).unwrap()["a"], [1.0, -2.5]);
        let cases = [
            (vec![("b", Written::f32(&[1.0]))], "must have only what was trained, found `b`"),
            (vec![], "must have `a`, found none"),
            (vec![("a", Written::f32(&[1.0]))], "must have `a` with the shape [2] in F32, found [1] in F32"),
            (vec![("a", Written::i64(vec![2], &[1, 2]))], "in F32, found [2] in I64"),
            (vec![("a", Written::f32(&[1.0, f32::NAN]))], "must have finite numbers, found NaN in `a`"),
        ];
        for (tensors, expected) in cases {
            let error = said(&tensors).unwrap_err();
            assert!(
                error.starts_with("the worker's weights.safetensors ") && error.contains(expected),
                "{error}"
            );
        }
        std::fs::write(&path, b"not one").unwrap();
        assert!(
            read(&path, &Wanted::new(), &[])
                .unwrap_err()
                .to_string()
                .contains("must be a complete safetensors file")
        );
    }
}

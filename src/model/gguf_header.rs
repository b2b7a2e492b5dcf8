//! The header of a GGUF file: metadata and the places of tensors. Reading is strict and knows the length of the file. A
//! duplicate key or tensor, a value of a wrong type, and a tensor that exceeds the file, overlaps another or is not aligned
//! are refused before memory is allocated for them.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

use candle_core::Shape;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, DEFAULT_ALIGNMENT, TensorInfo, Value, VersionedMagic};

use super::keys::ConfigResult as HeaderResult;

/// Most bytes of a header; with a vocabulary of 256,000 tokens it takes 16 MiB.
const MOST_BYTES: u64 = 1 << 28;

/// Most elements of all arrays together; such a vocabulary has 1.3 million.
const MOST_ELEMENTS: u64 = 1 << 23;

const ALIGNMENT: &str = "general.alignment";

/// The number of the type of arrays.
const ARRAY: u32 = 9;

/// Reads the header of a file of `length` bytes.
pub(crate) fn read(reader: &mut (impl Read + Seek), length: u64) -> HeaderResult<Content> {
    let (mut header, magic) = Header::begin(reader, length)?;
    let (tensors, keys) = (header.u64("the number of tensors")?, header.u64("the number of keys")?);
    let mut metadata = HashMap::new();
    for number in 0..keys {
        let key = header.text(&format!("key {number} of its metadata"))?;
        let kind = header.u32(&key)?;
        let value = header.value(&key, kind)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("has the key `{key}` twice"));
        }
    }
    let alignment = alignment(&metadata)?;
    let mut tensor_infos = HashMap::new();
    for number in 0..tensors {
        let name = header.text(&format!("the name of tensor {number}"))?;
        let info = header.tensor(&name)?;
        if tensor_infos.insert(name.clone(), info).is_some() {
            return Err(format!("has the tensor `{name}` twice"));
        }
    }
    let tensor_data_offset = header.at.next_multiple_of(alignment);
    ensure_places(&tensor_infos, alignment, length.saturating_sub(tensor_data_offset))?;
    reader.seek(SeekFrom::Start(tensor_data_offset)).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(Content { magic, metadata, tensor_infos, tensor_data_offset })
}

/// The value of the first key with this ending, if it is a whole number. Nothing after it is read.
pub(crate) fn first_number(reader: &mut impl Read, length: u64, ending: &str) -> HeaderResult<Option<u64>> {
    let (mut header, _) = Header::begin(reader, length)?;
    header.u64("the number of tensors")?;
    for number in 0..header.u64("the number of keys")? {
        let key = header.text(&format!("key {number} of its metadata"))?;
        let kind = header.u32(&key)?;
        let value = header.value(&key, kind)?;
        if key.ends_with(ending) {
            return Ok(match value {
                Value::U32(number) => Some(number.into()),
                Value::U64(number) => Some(number),
                _ => None,
            });
        }
    }
    Ok(None)
}

/// The bytes of which the offset of each tensor must be a multiple.
fn alignment(metadata: &HashMap<String, Value>) -> HeaderResult<u64> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(alignment)) if alignment.is_power_of_two() && (8..=1 << 16).contains(alignment) => {
            Ok((*alignment).into())
        }
        Some(other) => {
            Err(format!("`{ALIGNMENT}` must be a power of two from 8 to 65536, as U32, found {other:?}"))
        }
    }
}

/// Checks that the tensors are within the file, aligned and apart from each other; `length` is that of the tensors' data.
fn ensure_places(tensors: &HashMap<String, TensorInfo>, alignment: u64, length: u64) -> HeaderResult<()> {
    let mut places = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let bytes =
            (info.shape.elem_count() / info.ggml_dtype.block_size() * info.ggml_dtype.type_size()) as u64;
        let end = info.offset.checked_add(bytes).filter(|end| *end <= length).ok_or_else(|| {
            format!(
                "tensor `{name}` has {bytes} bytes at offset {}, but the file has {length} bytes of tensors: it may be cut short",
                info.offset
            )
        })?;
        if !info.offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor `{name}` must begin at a multiple of {alignment} bytes, found {}",
                info.offset
            ));
        }
        places.push((info.offset, end, name));
    }
    places.sort();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        None => Ok(()),
        Some(pair) => Err(format!("the tensors `{}` and `{}` share bytes", pair[0].2, pair[1].2)),
    }
}

struct Header<'a, R> {
    reader: &'a mut R,
    /// Bytes read so far.
    at: u64,
    /// Where the header must end at the latest.
    end: u64,
    /// Array elements read so far.
    elements: u64,
}

impl<'a, R: Read> Header<'a, R> {
    /// Reads the magic number and the version.
    fn begin(reader: &'a mut R, length: u64) -> HeaderResult<(Header<'a, R>, VersionedMagic)> {
        let mut header = Header { reader, at: 0, end: length.min(MOST_BYTES), elements: 0 };
        let magic = header.bytes::<4>("its first word")?;
        if magic != *b"GGUF" {
            return Err(match &magic {
                b"FUGG" => "is a GGUF file for big-endian machines, which is not supported".into(),
                _ => "does not begin with GGUF".into(),
            });
        }
        match header.u32("its version")? {
            2 => Ok((header, VersionedMagic::GgufV2)),
            3 => Ok((header, VersionedMagic::GgufV3)),
            version => Err(format!("must have version 2 or 3, found {version}")),
        }
    }

    /// Checks that the file can have as many more bytes.
    fn reserve(&mut self, bytes: u64, what: &str) -> HeaderResult<()> {
        match self.at.checked_add(bytes).filter(|at| *at <= self.end) {
            Some(at) => self.at = at,
            None => {
                return Err(format!(
                    "is not a complete GGUF file: {what} exceeds the file, or the limit of {MOST_BYTES} bytes"
                ));
            }
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> HeaderResult<[u8; N]> {
        self.reserve(N as u64, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("{what} cannot be read: {error}"))?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> HeaderResult<u32> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> HeaderResult<u64> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> HeaderResult<String> {
        let length = self.u64(what)?;
        self.reserve(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("{what} cannot be read: {error}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
    }

    fn value(&mut self, key: &str, kind: u32) -> HeaderResult<Value> {
        Ok(match kind {
            0 => Value::U8(self.bytes::<1>(key)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.bytes(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes(key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(i32::from_le_bytes(self.bytes(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes(key)?)),
            7 => match self.bytes::<1>(key)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                byte => return Err(format!("`{key}` must be 0 or 1, found {byte}")),
            },
            8 => Value::String(self.text(key)?),
            ARRAY => self.array(key)?,
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(key)?)),
            _ => return Err(format!("`{key}` must have a type from 0 to 12, found {kind}")),
        })
    }

    fn array(&mut self, key: &str) -> HeaderResult<Value> {
        let (kind, count) = (self.u32(key)?, self.u64(key)?);
        if kind == ARRAY {
            return Err(format!("`{key}` is an array of arrays, which is not supported"));
        }
        self.elements = self.elements.saturating_add(count);
        if self.elements > MOST_ELEMENTS {
            return Err(format!(
                "all arrays together must have at most {MOST_ELEMENTS} elements, found more in `{key}` ({count})"
            ));
        }
        // Memory grows with the elements that are read, not with the count that the file states.
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.value(key, kind)?);
        }
        Ok(Value::Array(all))
    }

    fn tensor(&mut self, name: &str) -> HeaderResult<TensorInfo> {
        let dimensions = self.u32(name)?;
        if !(1..=4).contains(&dimensions) {
            return Err(format!("tensor `{name}` must have 1 to 4 dimensions, found {dimensions}"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape
                .push(usize::try_from(self.u64(name)?).map_err(|_| format!("tensor `{name}` is too large"))?);
        }
        let ggml_dtype = dtype(name, self.u32(name)?)?;
        let offset = self.u64(name)?;
        let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
        let bytes =
            count.and_then(|count| (count / ggml_dtype.block_size()).checked_mul(ggml_dtype.type_size()));
        if count.is_none_or(|count| count == 0) || bytes.is_none() {
            return Err(format!("tensor `{name}` has the impossible shape {shape:?}"));
        }
        let (row, block) = (shape[0], ggml_dtype.block_size());
        if !row.is_multiple_of(block) {
            return Err(format!(
                "tensor `{name}` must have rows of a multiple of {block} numbers for {ggml_dtype:?}, found {row}"
            ));
        }
        // The file has the innermost dimension first.
        shape.reverse();
        Ok(TensorInfo { ggml_dtype, shape: Shape::from(shape), offset })
    }
}

/// The type of tensor `name` by ggml's number of it.
fn dtype(name: &str, number: u32) -> HeaderResult<GgmlDType> {
    Ok(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => {
            return Err(format!(
                "tensor `{name}` must have the type F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or \
                 Q6_K, found ggml's type {number}"
            ));
        }
    })
}

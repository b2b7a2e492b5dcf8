//! Metrics as event files of TensorBoard: a folder with one file for each variant of a run. A file is a sequence of TFRecords,
//! each an `Event` in the wire format of protocol buffers. The few fields that scalars need are encoded by hand.

use std::path::Path;

use anyhow::ensure;

use super::scalars::{Scalar, scalars};
use super::{Source, create, safe};

pub(crate) fn write(sources: &[Source], folder: &Path) -> anyhow::Result<()> {
    let mut any = false;
    for source in sources {
        let record = &source.run.record;
        for (variant, scalars) in scalars(source)? {
            any = true;
            let mut place = folder.join(safe(&record.run));
            if !variant.is_empty() {
                place = place.join(safe(&variant));
            }
            // TensorBoard recognises event files by this part of their names.
            let seconds = scalars.first().map_or(0, |scalar| scalar.time / 1000);
            let path = place.join(format!("events.out.tfevents.{seconds}.triplay"));
            create(&path, &events(&scalars))?;
        }
    }
    ensure!(any, "these runs have no metrics (yet)");
    Ok(())
}

fn events(scalars: &[Scalar]) -> Vec<u8> {
    let mut file = Vec::new();
    let first = scalars.first().map_or(0, |scalar| scalar.time);
    // Event: 1 wall_time, 2 step, 3 file_version, 5 summary.
    let mut version = double(1, first as f64 / 1e3);
    version.extend(bytes(3, b"brain.Event:2"));
    file.extend(framed(&version));
    for scalar in scalars {
        // Summary: 1 value; Value: 1 tag, 2 simple_value.
        let mut value = bytes(1, scalar.tag.as_bytes());
        value.extend(key(2, FIXED32));
        value.extend((scalar.value as f32).to_le_bytes());
        let mut event = double(1, scalar.time as f64 / 1e3);
        event.extend(key(2, VARINT));
        event.extend(varint(scalar.step));
        event.extend(bytes(5, &bytes(1, &value)));
        file.extend(framed(&event));
    }
    file
}

// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

fn key(field: u8, wire: u8) -> [u8; 1] {
    [field << 3 | wire]
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [&key(field, FIXED64)[..], &value.to_le_bytes()].concat()
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    [&key(field, DELIMITED)[..], &varint(value.len() as u64), value].concat()
}

/// A TFRecord: length, its checksum, data, their checksum.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The masked checksum of TFRecords: rotated and offset, so that data that contain checksums cause no errors.
fn masked(data: &[u8]) -> [u8; 4] {
    let crc = crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), bit by bit: event files are small.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        // RFC 3720, B.4, and the customary check value.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_are_written_in_groups_of_seven_bits() {
        assert_eq!((varint(0), varint(300)), (vec![0], vec![0xac, 0x02]));
    }
}

//! TensorBoard event files: scalars as length-prefixed protobuf records with CRC-32C.

/// The record that must open an event file.
pub fn file_version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    field_f64(&mut event, 1, wall_time);
    field_bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// A record of scalars at one step.
pub fn scalars(wall_time: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        field_bytes(&mut entry, 1, tag.as_bytes());
        entry.push(2 << 3 | 5); // simple_value, a 32-bit float
        entry.extend((*value as f32).to_le_bytes());
        field_bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    field_f64(&mut event, 1, wall_time);
    event.push(2 << 3); // step, a varint
    varint(&mut event, step);
    field_bytes(&mut event, 5, &summary);
    record(&event)
}

fn field_f64(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length, its masked checksum, data, its masked checksum: the TFRecord format.
fn record(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(len);
    out.extend(masked_crc(&len).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with the Castagnoli polynomial, bit by bit: a few hundred bytes a step.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_scalar_record_follows_the_event_schema_byte_for_byte() {
        // By the field numbers of TensorFlow's event.proto: wall time 1.0, step 300, tag "loss", value 0.5.
        let expected: [u8; 25] = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 0xac, 0x02, 0x2a, 0x0d, 0x0a, 0x0b, 0x0a, 0x04, b'l', b'o', b's',
            b's', 0x15, 0, 0,
        ];
        let record = scalars(1.0, 300, &[("loss".to_owned(), 0.5)]);
        assert_eq!(record[..8], 27u64.to_le_bytes());
        assert_eq!(record[12..37], expected);
        assert_eq!(record[37..39], [0, 0x3f]);
        assert_eq!(record.len(), 8 + 4 + 27 + 4);
    }
}

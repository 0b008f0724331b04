//! A small reader of zip archives in memory: what PyTorch files and Python wheels need, and nothing that could unpack to
//! more than was allowed.
//!
//! Layout of the format: APPNOTE.TXT of PKWARE, sections 4.3 and 4.5.3 (zip64).

use std::collections::BTreeMap;
#[cfg(feature = "hub")]
use std::io::{self, Read};
use std::ops::Range;

use super::ZipError;

const STORED: u16 = 0;
#[cfg(feature = "hub")]
const DEFLATED: u16 = 8;
const ENCRYPTED_FLAG: u16 = 1;

const END_RECORD: (u32, usize) = (0x0605_4b50, 22);
const ZIP64_LOCATOR: (u32, usize) = (0x0706_4b50, 20);
const ZIP64_END_RECORD: u32 = 0x0606_4b50;
const CENTRAL_HEADER: (u32, usize) = (0x0201_4b50, 46);
const LOCAL_HEADER: (u32, usize) = (0x0403_4b50, 30);
const ZIP64_EXTRA: u16 = 1;

/// The longest comment that may follow the end record.
const MAX_COMMENT: usize = 0xffff;

/// The directory of an archive over its bytes.
#[derive(Debug)]
pub(crate) struct ZipArchive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    encrypted: bool,
    method: u16,
    crc32: u32,
    /// Size unpacked, as declared.
    size_bytes: u64,
    /// The packed bytes within the archive.
    packed: Range<usize>,
}

impl<'a> ZipArchive<'a> {
    /// Reads the directory; every entry's bytes are checked to lie within `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ZipError> {
        let (count, mut at) = find_directory(bytes)?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (name, entry, next) = central_entry(bytes, at)?;
            if entries.contains_key(&name) {
                return Err(ZipError::Duplicate(name));
            }
            entries.insert(name, entry);
            at = next;
        }
        Ok(Self { bytes, entries })
    }

    /// Entry names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where the bytes of an uncompressed entry lie, its checksum verified; [`ZipError::Method`] if it is compressed.
    pub fn stored(&self, name: &str) -> Result<Range<usize>, ZipError> {
        let entry = self.entry(name)?;
        if entry.method != STORED {
            return Err(ZipError::Method { name: name.to_owned(), method: entry.method });
        }
        let bytes = &self.bytes[entry.packed.clone()];
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        if entry.size_bytes != bytes.len() as u64 || entry.crc32 != crc.sum() {
            return Err(ZipError::Corrupt(name.to_owned()));
        }
        Ok(entry.packed.clone())
    }

    /// Size and content of an entry, stored or deflated. The reader never gives more than that size, and ends in an error
    /// if there is less or the checksum differs; [`ZipError::TooLarge`] if the size is above `limit_bytes`.
    #[cfg(feature = "hub")]
    pub fn unpack(&self, name: &str, limit_bytes: u64) -> Result<(u64, impl Read + use<'a>), ZipError> {
        let entry = self.entry(name)?;
        let size_bytes = entry.size_bytes;
        if size_bytes > limit_bytes {
            return Err(ZipError::TooLarge { name: name.to_owned(), size_bytes, limit_bytes });
        }
        let packed = &self.bytes[entry.packed.clone()];
        let source: Box<dyn Read + 'a> = match entry.method {
            STORED => Box::new(packed),
            DEFLATED => Box::new(flate2::read::DeflateDecoder::new(packed)),
            method => return Err(ZipError::Method { name: name.to_owned(), method }),
        };
        let (left_bytes, crc32) = (size_bytes, entry.crc32);
        Ok((size_bytes, EntryReader { source, left_bytes, crc: flate2::Crc::new(), crc32, name: name.to_owned() }))
    }

    fn entry(&self, name: &str) -> Result<&Entry, ZipError> {
        let entry = self.entries.get(name).ok_or_else(|| ZipError::Missing(name.to_owned()))?;
        if entry.encrypted {
            return Err(ZipError::Encrypted(name.to_owned()));
        }
        Ok(entry)
    }
}

/// Unpacks one entry, checking as it goes.
#[cfg(feature = "hub")]
struct EntryReader<'a> {
    source: Box<dyn Read + 'a>,
    left_bytes: u64,
    crc: flate2::Crc,
    crc32: u32,
    name: String,
}

#[cfg(feature = "hub")]
impl Read for EntryReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let corrupt = || io::Error::new(io::ErrorKind::InvalidData, ZipError::Corrupt(self.name.clone()));
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.source.read(buffer)?;
        let left_bytes = self.left_bytes.checked_sub(count as u64).ok_or_else(corrupt)?;
        self.crc.update(&buffer[..count]);
        if count == 0 && (left_bytes > 0 || self.crc.sum() != self.crc32) {
            return Err(corrupt());
        }
        self.left_bytes = left_bytes;
        Ok(count)
    }
}

/// Number of entries and position of the central directory.
fn find_directory(bytes: &[u8]) -> Result<(u64, usize), ZipError> {
    let broken = ZipError::Broken("no end record");
    let (signature, length) = END_RECORD;
    let Some(last) = bytes.len().checked_sub(length) else { return Err(broken) };
    let first = last.saturating_sub(MAX_COMMENT);
    let end = (first..=last).rev().find(|&at| u32_at(bytes, at) == Some(signature)).ok_or(broken)?;

    let (signature, length) = ZIP64_LOCATOR;
    let locator = end.checked_sub(length).filter(|&at| u32_at(bytes, at) == Some(signature));
    let directory = match locator {
        Some(locator) => zip64_directory(bytes, locator),
        None => u16_at(bytes, end + 10).map(u64::from).zip(u32_at(bytes, end + 16).map(u64::from)),
    };
    let (count, offset) = directory.ok_or(ZipError::Broken("the end record points outside the file"))?;
    let offset = usize::try_from(offset).map_err(|_| ZipError::Broken("the directory lies outside the file"))?;
    Ok((count, offset))
}

fn zip64_directory(bytes: &[u8], locator: usize) -> Option<(u64, u64)> {
    let end = usize::try_from(u64_at(bytes, locator + 8)?).ok()?;
    if u32_at(bytes, end)? != ZIP64_END_RECORD {
        return None;
    }
    Some((u64_at(bytes, end.checked_add(32)?)?, u64_at(bytes, end.checked_add(48)?)?))
}

/// The entry whose central header stands at `at`, its name, and where the next header stands.
fn central_entry(bytes: &[u8], at: usize) -> Result<(String, Entry, usize), ZipError> {
    let cut = ZipError::Broken("the directory is cut off");
    let (signature, length) = CENTRAL_HEADER;
    let Some(header) = slice(bytes, at, length) else { return Err(cut) };
    if u32_at(header, 0) != Some(signature) {
        return Err(ZipError::Broken("no entry where the directory says"));
    }
    // The header has its full length, so the fields are there.
    let u16_field = |offset| u16_at(header, offset).unwrap_or_default();
    let u32_field = |offset| u32_at(header, offset).unwrap_or_default();
    let [name_length, extra_length, comment_length] = [28, 30, 32].map(|offset| usize::from(u16_field(offset)));

    let name_at = at + length;
    let extra_at = name_at + name_length;
    let next = extra_at + extra_length + comment_length;
    let Some((name, extra)) = slice(bytes, name_at, name_length).zip(slice(bytes, extra_at, extra_length)) else {
        return Err(cut);
    };
    let name = str::from_utf8(name).map_err(|_| ZipError::Broken("an entry's name is not UTF-8"))?.to_owned();

    let sizes = [24, 20, 42].map(u32_field); // unpacked, packed, position of the local header
    let [size_bytes, packed_bytes, local] =
        zip64_sizes(sizes, extra).ok_or(ZipError::Broken("an entry lacks its 64-bit sizes"))?;
    let packed = local_data(bytes, local, packed_bytes).ok_or(ZipError::Broken("an entry lies outside the file"))?;
    let encrypted = u16_field(8) & ENCRYPTED_FLAG != 0;
    Ok((name, Entry { encrypted, method: u16_field(10), crc32: u32_field(16), size_bytes, packed }, next))
}

/// Fields that are all ones in the header stand, in this order, in the zip64 extra field.
fn zip64_sizes(fields: [u32; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut sizes = fields.map(u64::from);
    if !fields.contains(&u32::MAX) {
        return Some(sizes);
    }
    loop {
        let (id, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let body = slice(extra, 4, length)?;
        if id == ZIP64_EXTRA {
            let mut at = 0;
            for (size, field) in sizes.iter_mut().zip(fields) {
                if field == u32::MAX {
                    *size = u64_at(body, at)?;
                    at += 8;
                }
            }
            return Some(sizes);
        }
        extra = &extra[4 + length..];
    }
}

/// Range of the entry's packed bytes behind its local header.
fn local_data(bytes: &[u8], local: u64, packed_bytes: u64) -> Option<Range<usize>> {
    let local = usize::try_from(local).ok()?;
    let (signature, length) = LOCAL_HEADER;
    let header = slice(bytes, local, length)?;
    if u32_at(header, 0)? != signature {
        return None;
    }
    let names = usize::from(u16_at(header, 26)?) + usize::from(u16_at(header, 28)?);
    let start = local.checked_add(length + names)?;
    let end = start.checked_add(usize::try_from(packed_bytes).ok()?)?;
    (end <= bytes.len()).then_some(start..end)
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes archives for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::io::Write;

    /// An archive of `entries` (name, content), deflated or stored.
    pub fn archive(entries: &[(&str, &[u8])], deflate: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut directory = Vec::new();
        for (name, content) in entries {
            let packed = if deflate {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            } else {
                content.to_vec()
            };
            let mut crc = flate2::Crc::new();
            crc.update(content);

            let mut common = Vec::new(); // the part that local and central headers share
            common.extend(20u16.to_le_bytes());
            common.extend(0u16.to_le_bytes());
            common.extend(if deflate { 8u16 } else { 0 }.to_le_bytes());
            common.extend([0; 4]);
            common.extend(crc.sum().to_le_bytes());
            common.extend((packed.len() as u32).to_le_bytes());
            common.extend((content.len() as u32).to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            common.extend(0u16.to_le_bytes());

            let local = bytes.len() as u32;
            directory.extend(super::CENTRAL_HEADER.0.to_le_bytes());
            directory.extend(20u16.to_le_bytes());
            directory.extend(&common);
            directory.extend([0; 10]);
            directory.extend(local.to_le_bytes());
            directory.extend(name.as_bytes());

            bytes.extend(super::LOCAL_HEADER.0.to_le_bytes());
            bytes.extend(&common);
            bytes.extend(name.as_bytes());
            bytes.extend(packed);
        }
        let start = bytes.len() as u32;
        bytes.extend(&directory);
        bytes.extend(super::END_RECORD.0.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((entries.len() as u16).to_le_bytes());
        bytes.extend((entries.len() as u16).to_le_bytes());
        bytes.extend((directory.len() as u32).to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend(0u16.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_entry_is_found_where_it_lies() {
        let bytes = testing::archive(&[("a", b"first"), ("b/c", b"second")], false);
        let archive = ZipArchive::parse(&bytes).unwrap();
        assert_eq!(archive.names().collect::<Vec<_>>(), ["a", "b/c"]);
        assert_eq!(&bytes[archive.stored("b/c").unwrap()], b"second");
        assert_eq!(archive.stored("d").unwrap_err(), ZipError::Missing("d".into()));
    }

    #[test]
    fn a_compressed_entry_is_refused_where_plain_bytes_are_needed() {
        let bytes = testing::archive(&[("a", &[0; 1000])], true);
        let error = ZipArchive::parse(&bytes).unwrap().stored("a").unwrap_err();
        assert_eq!(error, ZipError::Method { name: "a".into(), method: 8 });
    }

    #[cfg(feature = "hub")]
    fn unpack(bytes: &[u8], limit_bytes: u64) -> Result<Vec<u8>, String> {
        let archive = ZipArchive::parse(bytes).unwrap();
        let (_, mut reader) = archive.unpack("a", limit_bytes).map_err(|error| error.to_string())?;
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(|error| error.to_string())?;
        Ok(content)
    }

    #[cfg(feature = "hub")]
    #[test]
    fn stored_and_deflated_entries_unpack_to_their_content() {
        for deflate in [false, true] {
            for content in [&b""[..], b"hello", &[7; 100_000]] {
                assert_eq!(unpack(&testing::archive(&[("a", content)], deflate), 100_000).unwrap(), content);
            }
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn an_entry_above_the_limit_is_refused_before_it_is_unpacked() {
        let bomb = testing::archive(&[("a", &[0; 1_000_000])], true);
        assert!(bomb.len() < 2000);
        let error = unpack(&bomb, 999_999).unwrap_err();
        assert_eq!(error, "zip entry `a`: 1000000 bytes unpacked, more than the limit of 999999");
    }

    #[cfg(feature = "hub")]
    #[test]
    fn an_entry_that_unpacks_to_more_or_less_than_it_declares_is_corrupt() {
        for declared in [999u32, 1001] {
            let mut bytes = testing::archive(&[("a", &[0; 1000])], true);
            let directory = bytes.len() - 22 - 47;
            bytes[directory + 24..directory + 28].copy_from_slice(&declared.to_le_bytes());
            assert!(unpack(&bytes, 2000).unwrap_err().contains("`a` is corrupt"), "{declared}");
        }
    }

    #[test]
    fn every_cut_of_an_archive_is_an_error() {
        let bytes = testing::archive(&[("a", b"first"), ("b", b"second")], false);
        for length in 0..bytes.len() {
            ZipArchive::parse(&bytes[..length]).unwrap_err();
        }
    }

    #[test]
    fn every_altered_byte_is_an_error_or_leaves_the_content_alone() {
        let bytes = testing::archive(&[("a", b"first"), ("b", b"second")], false);
        for at in 0..bytes.len() {
            for value in [0, 1, 0x50, 0x7f, 0xff] {
                let mut altered = bytes.clone();
                altered[at] = value;
                let Ok(archive) = ZipArchive::parse(&altered) else { continue };
                if let Ok(range) = archive.stored("a") {
                    assert_eq!(&altered[range], b"first", "byte {at} = {value}");
                }
            }
        }
    }

    #[test]
    fn an_altered_entry_is_corrupt() {
        let mut bytes = testing::archive(&[("a", b"first")], false);
        bytes[31] ^= 1;
        assert_eq!(ZipArchive::parse(&bytes).unwrap().stored("a").unwrap_err(), ZipError::Corrupt("a".into()));
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let bytes = testing::archive(&[("a", b"1"), ("a", b"2")], false);
        assert_eq!(ZipArchive::parse(&bytes).unwrap_err(), ZipError::Duplicate("a".into()));
    }

    #[test]
    fn an_encrypted_entry_is_refused() {
        let mut bytes = testing::archive(&[("a", b"1")], false);
        let directory = bytes.len() - 22 - 47;
        bytes[directory + 8] |= 1;
        assert_eq!(ZipArchive::parse(&bytes).unwrap().stored("a").unwrap_err(), ZipError::Encrypted("a".into()));
    }

    #[test]
    fn a_zip64_archive_is_read() {
        // One stored entry `a` = "hello" whose sizes and position stand only in 64-bit fields.
        let mut bytes = testing::archive(&[("a", b"hello")], false);
        let end = bytes.len() - 22;
        let directory = end - 47;
        let mut zip64 = bytes[..end].to_vec();
        for field in [20, 24, 42] {
            zip64[directory + field..directory + field + 4].fill(0xff);
        }
        zip64[directory + 30] = 28;
        zip64.extend([1, 0, 24, 0]);
        for size in [5u64, 5, 0] {
            zip64.extend(size.to_le_bytes());
        }
        let record = zip64.len() as u64;
        zip64.extend(ZIP64_END_RECORD.to_le_bytes());
        zip64.extend([0; 20]);
        for field in [1u64, 1, 75, directory as u64] {
            zip64.extend(field.to_le_bytes());
        }
        zip64.extend(ZIP64_LOCATOR.0.to_le_bytes());
        zip64.extend([0; 4]);
        zip64.extend(record.to_le_bytes());
        zip64.extend([0; 4]);
        bytes[end + 8..end + 20].fill(0xff);
        zip64.extend(&bytes[end..]);
        let archive = ZipArchive::parse(&zip64).unwrap();
        assert_eq!(&zip64[archive.stored("a").unwrap()], b"hello");
    }
}

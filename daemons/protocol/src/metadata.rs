//! The metadata of a file: names with values, as the protocol and the `-m` files pack them.
//!
//! `name 0x02 value 0x01 name 0x02 value`: no separator at the end, sorted by name in byte order.

/// Between records.
pub const RECORD_SEPARATOR: u8 = 0x01;
/// Between a name and its value.
pub const FIELD_SEPARATOR: u8 = 0x02;
/// Longest name; longer ones are cut.
pub const MAX_NAME: usize = 64;
/// Longest value; longer ones are cut.
pub const MAX_VALUE: usize = 256;

/// Why an item cannot be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The name or value holds a separator byte (0x01 or 0x02).
    #[error("metadata must not contain the bytes 0x01 and 0x02")]
    Separator,
    /// The name is longer than [`MAX_NAME`].
    #[error("a metadata name must not be longer than 64 bytes")]
    NameTooLong,
    /// The value is longer than [`MAX_VALUE`].
    #[error("a metadata value must not be longer than 256 bytes")]
    ValueTooLong,
}

/// Names with values, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    items: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// No metadata.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Reads packed metadata as a storage does: records without a field separator are dropped,
    /// long names and values cut, the rest sorted by name. Items with the same name all stay, in
    /// their order.
    pub fn parse(packed: &[u8]) -> Metadata {
        let mut items: Vec<_> = packed
            .split(|&b| b == RECORD_SEPARATOR)
            .filter_map(|record| {
                let at = record.iter().position(|&b| b == FIELD_SEPARATOR)?;
                let (name, value) = (&record[..at], &record[at + 1..]);
                let name = name[..name.len().min(MAX_NAME)].to_vec();
                Some((name, value[..value.len().min(MAX_VALUE)].to_vec()))
            })
            .collect();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        Metadata { items }
    }

    /// Sets one item, replacing items of the same name. Refuses what could not be read back.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) -> Result<(), MetadataError> {
        let separator = |b: &u8| matches!(*b, RECORD_SEPARATOR | FIELD_SEPARATOR);
        if name.iter().any(separator) || value.iter().any(separator) {
            return Err(MetadataError::Separator);
        }
        if name.len() > MAX_NAME {
            return Err(MetadataError::NameTooLong);
        }
        if value.len() > MAX_VALUE {
            return Err(MetadataError::ValueTooLong);
        }
        let new = Metadata { items: vec![(name.to_vec(), value.to_vec())] };
        *self = std::mem::take(self).merge(new);
        Ok(())
    }

    /// The union with `newer`; where both have a name, `newer` wins.
    pub fn merge(mut self, newer: Metadata) -> Metadata {
        let replaced = |name: &Vec<u8>| newer.items.binary_search_by(|n| n.0.cmp(name)).is_ok();
        self.items.retain(|(name, _)| !replaced(name));
        self.items.extend(newer.items);
        self.items.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    /// The packed form.
    pub fn pack(&self) -> Vec<u8> {
        let len = self.items.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        let mut packed = Vec::with_capacity(len);
        for (i, (name, value)) in self.items.iter().enumerate() {
            if i > 0 {
                packed.push(RECORD_SEPARATOR);
            }
            packed.extend_from_slice(name);
            packed.push(FIELD_SEPARATOR);
            packed.extend_from_slice(value);
        }
        packed
    }

    /// The value of a name; of several, the last.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().rev().find(|item| item.0 == name).map(|item| item.1)
    }

    /// All items, sorted by name.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        self.items.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_a_storage_reads_it() {
        let m = Metadata::parse(b"width\x02800\x01height\x02600\x01junk\x01eq\x02a\x02b");
        assert_eq!(m.pack(), b"eq\x02a\x02b\x01height\x02600\x01width\x02800");
        assert_eq!((m.len(), m.is_empty()), (3, false));
        assert_eq!(m.get(b"width"), Some(b"800".as_slice()));
        assert_eq!(m.get(b"junk"), None);
        assert!(Metadata::parse(b"").is_empty());
        assert_eq!(Metadata::parse(b"junk\x01k\x02v").pack(), b"k\x02v");
    }

    #[test]
    fn long_items_are_cut() {
        let packed = [vec![b'n'; 70], vec![FIELD_SEPARATOR], vec![b'v'; 300]].concat();
        let m = Metadata::parse(&packed);
        let (name, value) = m.iter().next().unwrap();
        assert_eq!((name.len(), value.len()), (64, 256));
    }

    #[test]
    fn merging() {
        let old = Metadata::parse(b"a\x021\x01b\x022");
        let new = Metadata::parse(b"b\x023\x01c\x024");
        assert_eq!(old.clone().merge(new).pack(), b"a\x021\x01b\x023\x01c\x024");
        assert_eq!(old.clone().merge(Metadata::new()), old);
        assert_eq!(Metadata::new().merge(old.clone()), old);
    }

    #[test]
    fn duplicates_of_one_request_stay() {
        let m = Metadata::parse(b"k\x021\x01k\x022");
        assert_eq!(m.pack(), b"k\x021\x01k\x022");
        assert_eq!(m.get(b"k"), Some(b"2".as_slice()));
    }

    #[test]
    fn inserting() {
        let mut m = Metadata::new();
        m.insert(b"k", b"1").unwrap();
        m.insert(b"a", b"").unwrap();
        m.insert(b"k", b"2").unwrap();
        assert_eq!(m.pack(), b"a\x02\x01k\x022");
        assert_eq!(m.insert(b"k\x01", b""), Err(MetadataError::Separator));
        assert_eq!(m.insert(&[b'n'; 65], b""), Err(MetadataError::NameTooLong));
        assert_eq!(m.insert(b"n", &[b'v'; 257]), Err(MetadataError::ValueTooLong));
    }

    proptest! {
        #[test]
        fn any_bytes(packed in proptest::collection::vec(0u8..6, 0..100)) {
            let m = Metadata::parse(&packed);
            prop_assert_eq!(Metadata::parse(&m.pack()), m);
        }
    }
}

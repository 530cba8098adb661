//! The values of one `LowCardinality(String)` column: each distinct word once, and an index a value.
//!
//! Words are numbered as they first appear, so the same values always give the same bytes.

use super::super::row::{put_bytes, put_length};
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

#[derive(Debug, Clone)]
pub(super) struct Dictionary {
    /// The distinct words as a String column has them, and where each lies, without its length.
    words: Vec<u8>,
    spans: Vec<(u32, u32)>,
    table: HashTable<u32>,
    hasher: RandomState,
    indexes: Vec<u32>,
    /// The index put before: many columns repeat themselves.
    last: u32,
    nullable: bool,
    /// How many words and indexes there were at the mark.
    mark: (usize, usize),
}

/// The index of null, where there is one.
const NULL: u32 = 0;

impl Dictionary {
    pub fn new(nullable: bool) -> Self {
        let mut dictionary = Self {
            words: Vec::new(),
            spans: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            indexes: Vec::new(),
            last: 0,
            nullable,
            mark: (0, 0),
        };
        dictionary.clear();
        dictionary
    }

    /// Forgets everything but its capacity.
    pub fn clear(&mut self) {
        self.words.clear();
        self.spans.clear();
        self.table.clear();
        self.indexes.clear();
        if self.nullable {
            self.push(b""); // null's place; an empty text gets its own
        }
        self.mark();
    }

    #[inline]
    pub fn put(&mut self, word: &[u8]) {
        let index = match self.is_last(word) {
            true => self.last,
            false => self.index(word),
        };
        self.last = index;
        self.indexes.push(index);
    }

    pub fn put_null(&mut self) {
        self.indexes.push(NULL);
    }

    /// The value at a place; none is null.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let index = self.indexes[at];
        (!self.nullable || index != NULL).then(|| word(&self.words, &self.spans, index))
    }

    #[inline]
    pub fn mark(&mut self) {
        self.mark = (self.spans.len(), self.indexes.len());
    }

    /// Back to the mark.
    pub fn rewind(&mut self) {
        let (count, indexes) = self.mark;
        self.indexes.truncate(indexes);
        for index in (count..self.spans.len()).rev() {
            self.forget(index as u32);
        }
        self.last = 0;
    }

    pub fn weight(&self) -> usize {
        self.words.len() + self.indexes.len() * size_of::<u32>()
    }

    /// As Native has it behind its version: the indexes' width and that words follow, words, indexes. A column
    /// without values, such as one of empty arrays, has nothing.
    pub fn finish(&self, block: &mut Vec<u8>) {
        if self.indexes.is_empty() {
            return;
        }
        let width = match self.spans.len() {
            0..=0x100 => Width::Bytes,
            0x101..=0x1_0000 => Width::Shorts,
            _ => Width::Words,
        };
        block.extend((HAS_WORDS | width as u64).to_le_bytes());
        block.extend((self.spans.len() as u64).to_le_bytes());
        block.extend_from_slice(&self.words);
        block.extend((self.indexes.len() as u64).to_le_bytes());
        match width {
            Width::Bytes => block.extend(self.indexes.iter().map(|index| *index as u8)),
            Width::Shorts => block.extend(self.indexes.iter().flat_map(|index| (*index as u16).to_le_bytes())),
            Width::Words => block.extend(self.indexes.iter().flat_map(|index| index.to_le_bytes())),
        }
    }

    #[inline]
    fn is_last(&self, wanted: &[u8]) -> bool {
        let null = self.nullable && self.last == NULL;
        !null && (self.last as usize) < self.spans.len() && word(&self.words, &self.spans, self.last) == wanted
    }

    fn index(&mut self, wanted: &[u8]) -> u32 {
        let (hash, words, spans) = (self.hasher.hash_one(wanted), &self.words, &self.spans);
        if let Some(index) = self.table.find(hash, |index| word(words, spans, *index) == wanted) {
            return *index;
        }
        let index = self.push(wanted);
        let (words, spans, hasher) = (&self.words, &self.spans, &self.hasher);
        self.table.insert_unique(hash, index, |index| hasher.hash_one(word(words, spans, *index)));
        index
    }

    fn push(&mut self, word: &[u8]) -> u32 {
        put_bytes(word, &mut self.words);
        let end = self.words.len();
        // Blocks are some megabytes, so that 32 bits are plenty for places within.
        self.spans.push(((end - word.len()) as u32, end as u32));
        self.spans.len() as u32 - 1
    }

    /// Removes the last word.
    fn forget(&mut self, index: u32) {
        let hash = self.hasher.hash_one(word(&self.words, &self.spans, index));
        if let Ok(entry) = self.table.find_entry(hash, |found| *found == index) {
            entry.remove();
        }
        if let Some((start, end)) = self.spans.pop() {
            let mut length = Vec::new();
            put_length((end - start) as usize, &mut length);
            self.words.truncate(start as usize - length.len());
        }
    }
}

/// `SharedDictionariesWithAdditionalKeys`, before anything else of the column.
pub(super) const VERSION: u64 = 1;

/// The block brings its own words and none are shared (`HasAdditionalKeysBit`, `NeedUpdateDictionary`).
const HAS_WORDS: u64 = 1 << 9 | 1 << 10;

#[derive(Clone, Copy)]
enum Width {
    Bytes = 0,
    Shorts = 1,
    Words = 2,
}

#[inline]
fn word<'w>(words: &'w [u8], spans: &[(u32, u32)], index: u32) -> &'w [u8] {
    let (start, end) = spans[index as usize];
    &words[start as usize..end as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(dictionary: &Dictionary) -> Vec<u8> {
        let mut block = Vec::new();
        dictionary.finish(&mut block);
        block
    }

    #[test]
    fn each_word_is_there_once_and_null_comes_first() {
        let mut dictionary = Dictionary::new(true);
        dictionary.put(b"a");
        dictionary.put_null();
        dictionary.put(b"");
        dictionary.put(b"a");
        let values: Vec<_> = (0..4).map(|at| dictionary.get(at)).collect();
        assert_eq!(values, [Some(&b"a"[..]), None, Some(b""), Some(b"a")]);
        let header = [0x0600_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat();
        let expected = [&header, &b"\0\x01a\0"[..], &4_u64.to_le_bytes(), &[1, 0, 2, 1]].concat();
        assert_eq!(finished(&dictionary), expected);
    }

    #[test]
    fn a_rewound_dictionary_is_as_if_nothing_had_been_put() {
        let long = vec![b'x'; 300];
        let (mut dictionary, mut other) = (Dictionary::new(false), Dictionary::new(false));
        for dictionary in [&mut dictionary, &mut other] {
            dictionary.put(b"a");
            dictionary.mark();
        }
        [&b"b"[..], &long, b"a", b""].iter().for_each(|word| dictionary.put(word));
        dictionary.rewind();
        assert_eq!(finished(&dictionary), finished(&other));
        for dictionary in [&mut dictionary, &mut other] {
            [&b"c"[..], &long, b"b", b"a"].iter().for_each(|word| dictionary.put(word));
        }
        assert_eq!(finished(&dictionary), finished(&other));
        dictionary.clear();
        dictionary.put(b"a");
        assert_eq!(dictionary.spans.len(), 1);
    }

    #[test]
    fn indexes_are_as_wide_as_the_words_are_many() {
        for (words, width) in [(256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let mut dictionary = Dictionary::new(false);
            (0..words).for_each(|word: u32| dictionary.put(&word.to_le_bytes()));
            let lengths = 8 + 8 + words as usize * 5 + 8 + words as usize * width;
            assert_eq!(finished(&dictionary).len(), lengths, "{words}");
        }
    }
}

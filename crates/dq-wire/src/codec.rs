//! Words, texts and blobs: the few encodings that every format here is made of.
//!
//! Everything is little-endian and everything is a whole number of 8-byte words:
//!
//! ```text
//! text  "dqlite"    64 71 6c 69 74 65 00 00              bytes, one NUL, zeros up to a word
//! text  "12345678"  31 32 33 34 35 36 37 38 | 00 × 8     the NUL may cost a word of its own
//! blob  01 02 03    03 00 00 00 00 00 00 00 | 01 02 03 00 00 00 00 00
//! ```
//!
//! Texts are bytes. No implementation of dqlite checks that they are UTF-8, so neither does this
//! one; what a text may hold is decided where it is used.
//!
//! Decoders tell two failures apart. [`DecodeError::Incomplete`]: the bytes may be the beginning of
//! something valid, more of them are needed. [`DecodeError::Malformed`]: no continuation can make
//! them valid. A decoder that is given a complete message treats both as the peer's fault.

use std::ffi::CStr;
use std::fmt;

/// Size in bytes of the unit that all formats are aligned to.
pub const WORD: usize = 8;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The input ends too early: at least `more` further bytes are needed (never 0).
    Incomplete {
        /// A lower bound for the number of missing bytes.
        more: usize,
    },
    /// The input is wrong whatever may follow.
    Malformed {
        /// The field that is wrong.
        field: &'static str,
        /// Where it begins, in bytes from the start of the decoder's input.
        offset: usize,
    },
}

impl DecodeError {
    /// The same error, seen from a decoder whose input begins `by` bytes earlier.
    pub(crate) fn shifted(self, by: usize) -> DecodeError {
        match self {
            DecodeError::Incomplete { .. } => self,
            DecodeError::Malformed { field, offset } => DecodeError::Malformed {
                field,
                offset: by + offset,
            },
        }
    }

    /// An error in a part that begins at `start` and is known to be complete, seen from the whole:
    /// there the part is malformed, since no further bytes will become a part of it.
    pub(crate) fn inside(self, field: &'static str, start: usize) -> DecodeError {
        match self {
            DecodeError::Incomplete { .. } => DecodeError::Malformed {
                field,
                offset: start,
            },
            DecodeError::Malformed { .. } => self.shifted(start),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Incomplete { more } => write!(f, "at least {more} bytes are missing"),
            DecodeError::Malformed { field, offset } => {
                write!(f, "malformed {field} at byte {offset}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// A cursor over bytes that are being decoded. After an error the position is that of the field
/// that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, offset: 0 }
    }

    /// A reader of `bytes` that stands at `offset`, or at the end if that lies beyond it.
    pub fn at(bytes: &'a [u8], offset: usize) -> Reader<'a> {
        Reader {
            bytes,
            offset: offset.min(bytes.len()),
        }
    }

    /// Bytes consumed so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// What is left, without consuming it.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    /// A [`DecodeError::Malformed`] for a field that begins `back` bytes before the current
    /// position.
    pub fn malformed(&self, field: &'static str, back: usize) -> DecodeError {
        DecodeError::Malformed {
            field,
            offset: self.offset.saturating_sub(back),
        }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// `Incomplete` if fewer are left.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.rest();
        match rest.get(..n) {
            Some(bytes) => {
                self.offset += n;
                Ok(bytes)
            }
            None => Err(DecodeError::Incomplete {
                more: n - rest.len(),
            }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// `Incomplete` if nothing is left.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes as an unsigned number.
    ///
    /// # Errors
    /// `Incomplete` if fewer are left.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes as an unsigned number.
    ///
    /// # Errors
    /// `Incomplete` if fewer are left.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A word as an unsigned number.
    ///
    /// # Errors
    /// `Incomplete` if fewer than 8 bytes are left.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A word as a signed number.
    ///
    /// # Errors
    /// `Incomplete` if fewer than 8 bytes are left.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A word as an IEEE-754 number; every bit pattern is accepted and kept.
    ///
    /// # Errors
    /// `Incomplete` if fewer than 8 bytes are left.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// A padded text, without its NUL. What the padding holds is not looked at.
    ///
    /// # Errors
    /// `Incomplete` if there is no NUL in what is left, or the padding after it is cut short.
    pub fn text(&mut self) -> Result<&'a [u8], DecodeError> {
        let rest = self.rest();
        // How far away the NUL is cannot be known; the word that is begun has to be whole at least.
        let text = CStr::from_bytes_until_nul(rest)
            .map_err(|_| DecodeError::Incomplete {
                more: padding(rest.len()).max(1),
            })?
            .to_bytes();
        self.bytes((text.len() + 1).next_multiple_of(WORD))?;
        Ok(text)
    }

    /// A blob: its length as a word, its bytes, padding. What the padding holds is not looked at.
    ///
    /// # Errors
    /// `Malformed` if no buffer could ever hold that length, `Incomplete` if length, bytes or
    /// padding are cut short.
    pub fn blob(&mut self) -> Result<&'a [u8], DecodeError> {
        let mut ahead = self.clone();
        let len = ahead.u64()?;
        let size = length(len).ok_or(self.malformed("blob length", 0))?;
        let padded = ahead.bytes(size.next_multiple_of(WORD))?;
        *self = ahead;
        Ok(&padded[..size])
    }
}

/// A length from the wire as a length in memory: `None` if no slice can be that long with padding.
/// This is what makes lengths within a few bytes of 2^64 wrong, instead of wrapping to a small sum.
fn length(len: u64) -> Option<usize> {
    usize::try_from(len)
        .ok()
        .filter(|&n| n <= isize::MAX as usize - WORD)
}

/// How many bytes make `len` a multiple of a word.
fn padding(len: usize) -> usize {
    len.next_multiple_of(WORD) - len
}

/// Appends one byte.
pub fn put_u8(out: &mut Vec<u8>, value: u8) {
    out.push(value);
}

/// Appends two bytes.
pub fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends four bytes.
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a word.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a signed word.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a floating-point word, bit for bit.
pub fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a padded text. A text on the wire ends at its first NUL, so what follows one in `text`
/// is left out, as it is by the original.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let text = CStr::from_bytes_until_nul(text).map_or(text, CStr::to_bytes);
    out.extend_from_slice(text);
    put_zeros(out, 1 + padding(text.len() + 1));
}

/// Appends a blob: length, bytes, zero padding.
pub fn put_blob(out: &mut Vec<u8>, blob: &[u8]) {
    put_u64(out, blob.len() as u64);
    out.extend_from_slice(blob);
    put_zeros(out, padding(blob.len()));
}

/// Appends `n` zero bytes.
pub fn put_zeros(out: &mut Vec<u8>, n: usize) {
    out.resize(out.len() + n, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_that_fills_its_words_takes_one_more_for_the_nul() {
        let mut out = Vec::new();
        put_text(&mut out, b"12345678");
        assert_eq!(out, b"12345678\0\0\0\0\0\0\0\0");
        assert_eq!(Reader::new(&out).text(), Ok(&b"12345678"[..]));
    }

    #[test]
    fn an_empty_text_is_one_zero_word() {
        let mut out = Vec::new();
        put_text(&mut out, b"");
        assert_eq!(out, [0; 8]);
    }

    #[test]
    fn a_text_is_written_up_to_its_first_nul() {
        let mut out = Vec::new();
        put_text(&mut out, b"a\0b");
        assert_eq!(out, b"a\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_text_without_nul_is_incomplete_and_not_consumed() {
        let mut reader = Reader::new(b"abcdefgh");
        assert_eq!(reader.text(), Err(DecodeError::Incomplete { more: 1 }));
        assert_eq!(reader.offset(), 0);
    }

    #[test]
    fn blob_padding_is_zero_and_an_empty_blob_is_its_length_only() {
        let mut out = Vec::new();
        put_blob(&mut out, &[1, 2, 3]);
        put_blob(&mut out, &[]);
        assert_eq!(out[8..16], [1, 2, 3, 0, 0, 0, 0, 0]);
        assert_eq!(out[16..], [0; 8]);
    }

    #[test]
    fn blob_lengths_that_would_wrap_are_malformed() {
        for len in [u64::MAX, u64::MAX - 6, u64::MAX - 7, 1 << 63] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[0; 16]);
            let mut reader = Reader::new(&bytes);
            assert_eq!(
                reader.blob(),
                Err(DecodeError::Malformed {
                    field: "blob length",
                    offset: 0
                })
            );
            assert_eq!(reader.offset(), 0);
        }
    }

    #[test]
    fn a_blob_longer_than_the_input_says_how_much_is_missing() {
        let mut bytes = 100u64.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 8]);
        assert_eq!(
            Reader::new(&bytes).blob(),
            Err(DecodeError::Incomplete { more: 96 })
        );
    }

    proptest! {
        #[test]
        fn everything_put_is_read_back(
            a: u8, b: u16, c: u32, d: u64, e: i64, f: u64,
            text in proptest::collection::vec(1u8.., 0..40),
            blob: Vec<u8>,
        ) {
            let mut out = Vec::new();
            put_text(&mut out, &text);
            put_blob(&mut out, &blob);
            put_f64(&mut out, f64::from_bits(f));
            put_i64(&mut out, e);
            put_u64(&mut out, d);
            put_u32(&mut out, c);
            put_u16(&mut out, b);
            put_u8(&mut out, a);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.text(), Ok(&text[..]));
            prop_assert_eq!(reader.blob(), Ok(&blob[..]));
            prop_assert_eq!(reader.f64().map(f64::to_bits), Ok(f));
            prop_assert_eq!(reader.i64(), Ok(e));
            prop_assert_eq!(reader.u64(), Ok(d));
            prop_assert_eq!(reader.u32(), Ok(c));
            prop_assert_eq!(reader.u16(), Ok(b));
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert!(reader.is_empty());
        }
    }
}

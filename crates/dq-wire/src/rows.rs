//! Rows: the answer to a query.
//!
//! The body of a ROWS message is one batch of rows:
//!
//! ```text
//! u64 number of columns, one text per column: its name
//! row*    codes:  4 bits per column, low half of a byte first, zeros up to a word
//!         values: in order
//! end     ee × 8: another ROWS message follows unasked    [`RowsEnd::Part`]
//!         ff × 8: that was all                            [`RowsEnd::Done`]
//! ```
//!
//! No type has the code 14 or 15, so the first byte of a row is never that of an end. Each batch
//! repeats the columns.
//!
//! [`RowsEncoder`] writes straight from where SQLite keeps the values into the buffer that goes to
//! the socket: the types of a row first, then its values, without a list of them in between.

use crate::codec::{DecodeError, Reader, WORD, put_text, put_u64, put_zeros};
use crate::header::{begin_message, finish_message, response_type};
use crate::value::{ValueRef, ValueType};

/// How a batch of rows ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsEnd {
    /// More rows follow in another message.
    Part,
    /// These were the last ones.
    Done,
}

impl RowsEnd {
    const PART: u64 = 0xeeee_eeee_eeee_eeee;
    const DONE: u64 = 0xffff_ffff_ffff_ffff;

    fn from_marker(word: u64) -> Option<RowsEnd> {
        match word {
            RowsEnd::PART => Some(RowsEnd::Part),
            RowsEnd::DONE => Some(RowsEnd::Done),
            _ => None,
        }
    }

    fn marker(self) -> u64 {
        match self {
            RowsEnd::Part => RowsEnd::PART,
            RowsEnd::Done => RowsEnd::DONE,
        }
    }
}

/// Size in bytes of the codes in front of a row's values.
fn codes_size(columns: usize) -> usize {
    columns.div_ceil(2).next_multiple_of(WORD)
}

/// Writes one ROWS message at the end of a buffer.
///
/// ```
/// use dq_wire::{RowsEncoder, RowsEnd, ValueRef};
///
/// let mut rows = RowsEncoder::begin(Vec::new(), [&b"n"[..]]);
/// rows.push_row(&[ValueRef::Integer(1)]);
/// let message = rows.finish(RowsEnd::Done);
/// assert_eq!(message.len(), 8 + 5 * 8); // header; count, name, codes, value, end
/// ```
#[derive(Debug)]
pub struct RowsEncoder {
    out: Vec<u8>,
    /// Where the message begins in `out`.
    start: usize,
    columns: usize,
    rows: usize,
    /// Values that the current row still lacks.
    missing: usize,
}

impl RowsEncoder {
    /// Begins a batch at the end of `out`: leaves room for the header and writes the columns.
    pub fn begin<'n>(
        mut out: Vec<u8>,
        names: impl IntoIterator<Item = &'n [u8], IntoIter: ExactSizeIterator>,
    ) -> RowsEncoder {
        let names = names.into_iter();
        let columns = names.len();
        let start = begin_message(&mut out);
        put_u64(&mut out, columns as u64);
        for name in names {
            put_text(&mut out, name);
        }
        RowsEncoder {
            out,
            start,
            columns,
            rows: 0,
            missing: 0,
        }
    }

    /// Begins a row: writes the types of its values, to be followed by one
    /// [`put_value`](RowsEncoder::put_value) per type.
    ///
    /// # Panics
    /// If there is not one type per column, if there are no columns at all (a row of nothing cannot
    /// be told from the absence of one), or if the last row lacks values.
    pub fn begin_row(&mut self, types: impl IntoIterator<Item = ValueType>) {
        assert_eq!(self.missing, 0, "the last row is complete");
        assert_ne!(self.columns, 0, "a row has columns");
        let start = self.out.len();
        put_zeros(&mut self.out, codes_size(self.columns));
        let codes = &mut self.out[start..];
        let mut count = 0;
        for value_type in types {
            assert!(count < self.columns, "one type per column");
            codes[count / 2] |= value_type.code() << (count % 2 * 4);
            count += 1;
        }
        assert_eq!(count, self.columns, "one type per column");
        self.missing = self.columns;
        self.rows += 1;
    }

    /// Writes the next value of the current row, whose type must be the one announced.
    ///
    /// # Panics
    /// If the row has all its values.
    pub fn put_value(&mut self, value: ValueRef<'_>) {
        assert_ne!(self.missing, 0, "the row has room for a value");
        self.missing -= 1;
        value.encode(&mut self.out);
    }

    /// Writes a row.
    ///
    /// # Panics
    /// As [`begin_row`](RowsEncoder::begin_row).
    pub fn push_row(&mut self, row: &[ValueRef<'_>]) {
        self.begin_row(row.iter().map(ValueRef::value_type));
        for &value in row {
            self.put_value(value);
        }
    }

    /// Size of the message so far in bytes, with its header.
    pub fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// True while the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Number of rows begun.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Ends the batch and gives back the buffer, with the message at its end.
    ///
    /// # Panics
    /// If the last row lacks values, or the message is larger than 32 GiB: a server stops far
    /// earlier.
    pub fn finish(mut self, end: RowsEnd) -> Vec<u8> {
        assert_eq!(self.missing, 0, "the last row is complete");
        put_u64(&mut self.out, end.marker());
        finish_message(&mut self.out, self.start, response_type::ROWS, 0);
        self.out
    }

    /// Gives up the batch, and gives back the buffer as it was before: for a statement that fails
    /// halfway, whose failure must be a message of its own.
    pub fn discard(mut self) -> Vec<u8> {
        self.out.truncate(self.start);
        self.out
    }
}

/// A batch of rows, borrowed from a message's body.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<'a> {
    body: &'a [u8],
    columns: Vec<&'a [u8]>,
    /// Where the next row, or the end, begins.
    offset: usize,
    end: Option<RowsEnd>,
}

impl<'a> Rows<'a> {
    /// Reads the columns of a batch.
    ///
    /// # Errors
    /// The columns are cut short.
    pub fn decode(body: &'a [u8]) -> Result<Rows<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.u64()?;
        // A name takes a word at least: a count beyond that is refused before room is made for it.
        let room = (reader.remaining() / WORD) as u64;
        if count > room {
            let more = (count - room).saturating_mul(WORD as u64);
            return Err(DecodeError::Incomplete {
                more: usize::try_from(more).unwrap_or(usize::MAX),
            });
        }
        let mut columns = Vec::with_capacity(count as usize);
        for _ in 0..count {
            columns.push(reader.text()?);
        }
        Ok(Rows {
            body,
            columns,
            offset: reader.offset(),
            end: None,
        })
    }

    /// The names of the columns. They may be empty, and need not differ.
    pub fn columns(&self) -> &[&'a [u8]] {
        &self.columns
    }

    /// The encoded batch.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.body
    }

    /// Takes the next row into `row`, replacing what was there. False when there is no other; from
    /// then on [`end`](Rows::end) tells how the batch ended.
    ///
    /// # Errors
    /// The row has a code without a meaning, or it or the end of the batch is cut short.
    pub fn next_row(&mut self, row: &mut Vec<ValueRef<'a>>) -> Result<bool, DecodeError> {
        row.clear();
        if self.end.is_some() {
            return Ok(false);
        }
        let mut reader = Reader::at(self.body, self.offset);
        self.end = RowsEnd::from_marker(reader.clone().u64()?);
        if self.end.is_some() {
            return Ok(false);
        }
        if self.columns.is_empty() {
            return Err(reader.malformed("end of rows", 0));
        }
        let codes = reader.bytes(codes_size(self.columns.len()))?;
        for i in 0..self.columns.len() {
            let code = codes[i / 2] >> (i % 2 * 4) & 0xf;
            let value_type = ValueType::from_code(code).ok_or(DecodeError::Malformed {
                field: "column type",
                offset: self.offset + i / 2,
            })?;
            row.push(ValueRef::decode(value_type, &mut reader)?);
        }
        self.offset = reader.offset();
        Ok(true)
    }

    /// How the batch ended, once all rows have been taken.
    pub fn end(&self) -> Option<RowsEnd> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Header;
    use crate::value::Value;
    use crate::value::tests::any_value;
    use proptest::prelude::*;

    fn all_rows(body: &[u8]) -> Result<(Vec<Vec<Value>>, Option<RowsEnd>), DecodeError> {
        let mut rows = Rows::decode(body)?;
        let mut row = Vec::new();
        let mut all = Vec::new();
        while rows.next_row(&mut row)? {
            all.push(row.iter().map(|v| v.to_value()).collect());
        }
        Ok((all, rows.end()))
    }

    fn names(n: usize) -> Vec<&'static [u8]> {
        vec![b"n"; n]
    }

    #[test]
    fn a_result_without_columns_is_two_words() {
        let message = RowsEncoder::begin(Vec::new(), []).finish(RowsEnd::Done);
        assert_eq!(Header::decode(&message).unwrap().body_size(), 16);
        assert_eq!(all_rows(&message[8..]), Ok((vec![], Some(RowsEnd::Done))));
    }

    #[test]
    fn seventeen_columns_need_two_words_of_codes() {
        let mut rows = RowsEncoder::begin(Vec::new(), names(17));
        let before = rows.len();
        rows.push_row(&[ValueRef::Integer(7); 17]);
        assert_eq!(rows.len() - before, 16 + 17 * 8);
    }

    #[test]
    fn codes_are_packed_low_half_first() {
        for (row, byte) in [
            ([ValueRef::UnixTime(5), ValueRef::Boolean(1)], 0xb9),
            (
                [ValueRef::Iso8601(b"2020-01-02"), ValueRef::Boolean(0)],
                0xba,
            ),
        ] {
            let mut rows = RowsEncoder::begin(Vec::new(), names(2));
            let before = rows.len();
            rows.push_row(&row);
            assert_eq!(rows.finish(RowsEnd::Done)[before], byte);
        }
    }

    #[test]
    fn batches_have_the_sizes_that_the_original_sends() {
        // One integer per row in a column with a short name: 16 bytes each, 24 without rows.
        for (count, body) in [(253, 4072), (254, 4088), (255, 4104), (0, 24)] {
            let mut rows = RowsEncoder::begin(Vec::new(), names(1));
            for i in 0..count {
                rows.push_row(&[ValueRef::Integer(i)]);
            }
            let message = rows.finish(RowsEnd::Done);
            assert_eq!(message.len() - Header::SIZE, body);
        }
    }

    #[test]
    fn a_batch_goes_to_the_end_of_the_buffer_and_can_be_taken_back() {
        let mut rows = RowsEncoder::begin(b"before".to_vec(), names(1));
        rows.push_row(&[ValueRef::Null]);
        assert_eq!(rows.len(), 8 + 16 + 16);
        assert_eq!(rows.rows(), 1);
        assert!(!rows.is_empty());
        assert_eq!(rows.discard(), b"before");
    }

    #[test]
    fn a_count_of_columns_that_cannot_be_there_is_refused() {
        for count in [2, u64::MAX / 8, u64::MAX] {
            let mut body = count.to_le_bytes().to_vec();
            body.extend_from_slice(&[0; 8]);
            assert!(matches!(
                Rows::decode(&body),
                Err(DecodeError::Incomplete { .. })
            ));
        }
    }

    #[test]
    fn a_batch_without_columns_has_nothing_but_an_end() {
        assert_eq!(
            all_rows(&[0; 16]),
            Err(DecodeError::Malformed {
                field: "end of rows",
                offset: 8
            })
        );
    }

    #[test]
    fn a_code_without_a_meaning_is_malformed() {
        let mut rows = RowsEncoder::begin(Vec::new(), names(1));
        rows.push_row(&[ValueRef::Integer(1)]);
        let mut message = rows.finish(RowsEnd::Done);
        for code in [0, 6, 7, 8, 12, 13, 14, 15] {
            message[8 + 16] = code;
            assert_eq!(
                all_rows(&message[8..]),
                Err(DecodeError::Malformed {
                    field: "column type",
                    offset: 16
                })
            );
        }
    }

    proptest! {
        #[test]
        fn rows_decode_to_what_was_encoded_and_no_truncation_does(
            columns in 1usize..20,
            values in proptest::collection::vec(any_value(), 0..60),
            part: bool,
        ) {
            let end = if part { RowsEnd::Part } else { RowsEnd::Done };
            let mut encoder = RowsEncoder::begin(Vec::new(), names(columns));
            let want: Vec<Vec<Value>> =
                values.chunks_exact(columns).map(<[Value]>::to_vec).collect();
            for row in &want {
                let row: Vec<ValueRef<'_>> = row.iter().map(Value::as_value_ref).collect();
                encoder.push_row(&row);
            }
            let message = encoder.finish(end);
            let body = &message[Header::SIZE..];
            prop_assert_eq!(
                Header::decode(&message).map(|h| h.body_size()),
                Ok(body.len() as u64)
            );
            prop_assert_eq!(all_rows(body), Ok((want, Some(end))));
            for len in 0..body.len() {
                prop_assert!(all_rows(&body[..len]).is_err());
            }
        }
    }
}

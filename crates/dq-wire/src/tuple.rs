//! Parameter tuples: the values that a request binds to its statements.
//!
//! ```text
//! schema 0   u8  count, one code per value, zeros up to a word, the values
//! schema 1   u32 count, one code per value, zeros up to a word, the values
//! ```
//!
//! A tuple is the tail of a request's body; when the body ends before it there are no parameters.
//! Two kinds of mistakes have different consequences, so they are found at different times: a head
//! (count and codes) that is larger than the body makes the whole request malformed and is reported
//! by [`Params::decode`]; a wrong value is the statement's failure and is reported when the value
//! is taken. The statements of one request share a tuple: each takes as many values as it has
//! parameters, so [`Params`] is a cursor that is consumed from left to right.

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, WORD, put_u8, put_u32, put_zeros};
use crate::value::{ValueRef, ValueType};

/// A position in a tuple. The tuple's bytes are kept beside it, borrowed or owned, and are the same
/// ones in every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cursor {
    /// Where the codes begin.
    codes: usize,
    /// Number of values in the tuple.
    count: usize,
    /// Number of values taken.
    taken: usize,
    /// Where the next value begins.
    offset: usize,
}

impl Cursor {
    fn decode(bytes: &[u8], schema: u8) -> Result<Cursor, DecodeError> {
        if bytes.is_empty() {
            return Ok(Cursor::default());
        }
        let mut reader = Reader::new(bytes);
        let count = match schema {
            0 => u64::from(reader.u8()?),
            1 => u64::from(reader.u32()?),
            _ => return Err(reader.malformed("tuple schema", 0)),
        };
        let codes = reader.offset();
        // At most 2^32 + 11: exact in 64 bits, and compared before it becomes a length.
        let size = (codes as u64 + count).next_multiple_of(WORD as u64);
        let have = bytes.len() as u64;
        if size > have {
            let more = usize::try_from(size - have).unwrap_or(usize::MAX);
            return Err(DecodeError::Incomplete { more });
        }
        // Both are at most `bytes.len()` now.
        Ok(Cursor {
            codes,
            count: count as usize,
            taken: 0,
            offset: size as usize,
        })
    }

    fn next_value<'a>(&mut self, bytes: &'a [u8]) -> Option<Result<ValueRef<'a>, DecodeError>> {
        if self.taken == self.count {
            return None;
        }
        let at = self.codes + self.taken;
        // Dates travel as Iso8601; UnixTime is for rows only.
        let value_type =
            ValueType::from_code(bytes[at]).filter(|&code| code != ValueType::UnixTime);
        let Some(value_type) = value_type else {
            return Some(Err(DecodeError::Malformed {
                field: "parameter type",
                offset: at,
            }));
        };
        let mut reader = Reader::at(bytes, self.offset);
        let value = ValueRef::decode(value_type, &mut reader);
        if value.is_ok() {
            self.taken += 1;
            self.offset = reader.offset();
        }
        Some(value)
    }
}

/// The parameters of a request, borrowed from its body, and how many of them have been taken.
/// The default value is a tuple of none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params<'a> {
    bytes: &'a [u8],
    schema: u8,
    cursor: Cursor,
}

impl<'a> Params<'a> {
    /// Reads the head of a tuple. `rest` is what follows the fixed fields of the request's body; if
    /// that is nothing there are no parameters. Bytes after the last value are ignored.
    ///
    /// # Errors
    /// `Incomplete` if the head does not fit in `rest`, which closes the connection; `Malformed`
    /// for a schema other than 0 and 1.
    pub fn decode(rest: &'a [u8], schema: u8) -> Result<Params<'a>, DecodeError> {
        Ok(Params {
            bytes: rest,
            schema,
            cursor: Cursor::decode(rest, schema)?,
        })
    }

    /// Number of values in the tuple, including those already taken.
    pub fn count(&self) -> usize {
        self.cursor.count
    }

    /// Number of values not yet taken.
    pub fn remaining(&self) -> usize {
        self.cursor.count - self.cursor.taken
    }

    /// The schema of the request, 0 or 1.
    pub fn schema(&self) -> u8 {
        self.schema
    }

    /// The encoded tuple, whatever has been taken from it.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Takes the next value, or `None` if there is no other.
    ///
    /// # Errors
    /// The value's type is none for parameters, or its bytes are wrong or cut short. The value
    /// stays, and so does the error: nothing after it can be taken.
    pub fn next_value(&mut self) -> Option<Result<ValueRef<'a>, DecodeError>> {
        self.cursor.next_value(self.bytes)
    }
}

/// The parameters of a request together with their bytes, to be kept while a statement waits or
/// runs elsewhere. Making one from [`Bytes`] copies nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParamsBuf {
    bytes: Bytes,
    schema: u8,
    cursor: Cursor,
}

impl ParamsBuf {
    /// The same as [`Params::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(rest: Bytes, schema: u8) -> Result<ParamsBuf, DecodeError> {
        let cursor = Cursor::decode(&rest, schema)?;
        Ok(ParamsBuf {
            bytes: rest,
            schema,
            cursor,
        })
    }

    /// A tuple of the given values, in the smallest schema that has room for them.
    ///
    /// # Panics
    /// As [`encode_params`] with schema 1.
    pub fn from_values(values: &[ValueRef<'_>]) -> ParamsBuf {
        let schema = params_schema(values.len());
        let mut out = Vec::new();
        encode_params(&mut out, values, schema);
        let cursor = Cursor::decode(&out, schema).expect("an encoded tuple has its whole head");
        ParamsBuf {
            bytes: out.into(),
            schema,
            cursor,
        }
    }

    /// The same parameters, borrowed, with as many taken.
    pub fn as_params(&self) -> Params<'_> {
        Params {
            bytes: &self.bytes,
            schema: self.schema,
            cursor: self.cursor,
        }
    }

    /// Number of values in the tuple, including those already taken.
    pub fn count(&self) -> usize {
        self.cursor.count
    }

    /// Number of values not yet taken.
    pub fn remaining(&self) -> usize {
        self.cursor.count - self.cursor.taken
    }

    /// The same as [`Params::next_value`].
    ///
    /// # Errors
    /// As there.
    pub fn next_value(&mut self) -> Option<Result<ValueRef<'_>, DecodeError>> {
        self.cursor.next_value(&self.bytes)
    }
}

impl From<Params<'_>> for ParamsBuf {
    fn from(params: Params<'_>) -> ParamsBuf {
        ParamsBuf {
            bytes: Bytes::copy_from_slice(params.bytes),
            schema: params.schema,
            cursor: params.cursor,
        }
    }
}

/// The schema that a request needs for `count` parameters. Servers before 1.12 know only 0.
pub fn params_schema(count: usize) -> u8 {
    if count > usize::from(u8::MAX) { 1 } else { 0 }
}

/// Appends a tuple. Without values it appends nothing, which means the same and is what clients do.
///
/// # Panics
/// If the number of values does not fit: 255 in schema 0 ([`params_schema`] chooses), 2^32 - 1 in
/// schema 1.
pub fn encode_params(out: &mut Vec<u8>, values: &[ValueRef<'_>], schema: u8) {
    if values.is_empty() {
        return;
    }
    let start = out.len();
    if schema == 0 {
        put_u8(
            out,
            u8::try_from(values.len()).expect("schema 0 is for up to 255 values"),
        );
    } else {
        put_u32(
            out,
            u32::try_from(values.len()).expect("schema 1 is for up to 2^32 - 1 values"),
        );
    }
    out.extend(values.iter().map(|value| value.value_type().code()));
    let size = out.len() - start;
    put_zeros(out, size.next_multiple_of(WORD) - size);
    for value in values {
        value.encode(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use crate::value::tests::any_value;
    use proptest::prelude::*;

    fn collect(params: &mut Params<'_>) -> Vec<Result<Value, DecodeError>> {
        let mut values = Vec::new();
        while let Some(value) = params.next_value() {
            let failed = value.is_err();
            values.push(value.map(|v| v.to_value()));
            if failed {
                break;
            }
        }
        values
    }

    #[test]
    fn nothing_is_no_parameters() {
        let mut params = Params::decode(&[], 0).unwrap();
        assert_eq!(params.count(), 0);
        assert_eq!(params.next_value(), None);
        assert_eq!(params, Params::default());
    }

    #[test]
    fn a_tuple_of_none_is_legal() {
        for schema in [0, 1] {
            let mut params = Params::decode(&[0; 8], schema).unwrap();
            assert_eq!(params.count(), 0);
            assert_eq!(params.next_value(), None);
        }
    }

    #[test]
    fn a_head_larger_than_the_body_is_an_error_at_once() {
        let mut bytes = [1u8; 8];
        bytes[0] = 200;
        assert_eq!(
            Params::decode(&bytes, 0),
            Err(DecodeError::Incomplete { more: 208 - 8 })
        );
        assert!(Params::decode(&[0xff; 8], 1).is_err());
    }

    #[test]
    fn codes_that_are_no_parameters_are_reported_when_their_value_is_taken() {
        for code in [0, 6, 9, 12, 255] {
            let mut bytes = vec![2, 1, code, 0, 0, 0, 0, 0];
            bytes.extend_from_slice(&[0; 16]);
            let mut params = Params::decode(&bytes, 0).unwrap();
            assert_eq!(params.next_value(), Some(Ok(ValueRef::Integer(0))));
            let error = DecodeError::Malformed {
                field: "parameter type",
                offset: 2,
            };
            assert_eq!(params.next_value(), Some(Err(error)));
            assert_eq!(params.next_value(), Some(Err(error)), "the error stays");
            assert_eq!(params.remaining(), 1);
        }
    }

    #[test]
    fn a_missing_value_is_reported_when_it_is_taken() {
        let mut params = Params::decode(&[1, 1, 0, 0, 0, 0, 0, 0], 0).unwrap();
        assert_eq!(
            params.next_value(),
            Some(Err(DecodeError::Incomplete { more: 8 }))
        );
    }

    #[test]
    fn a_blob_length_that_would_wrap_is_malformed() {
        let mut bytes = vec![1, 4, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&[0xff; 8]);
        bytes.extend_from_slice(&[7; 8]);
        let mut params = Params::decode(&bytes, 0).unwrap();
        assert_eq!(
            params.next_value(),
            Some(Err(DecodeError::Malformed {
                field: "blob length",
                offset: 8
            }))
        );
    }

    #[test]
    fn owned_parameters_go_on_where_the_borrowed_ones_stopped() {
        let values = [ValueRef::Integer(1), ValueRef::Text(b"two"), ValueRef::Null];
        let buf = ParamsBuf::from_values(&values);
        let mut params = buf.as_params();
        assert_eq!(params.next_value(), Some(Ok(values[0])));
        let mut kept = ParamsBuf::from(params);
        assert_eq!(kept.remaining(), 2);
        assert_eq!(kept.next_value(), Some(Ok(values[1])));
        assert_eq!(kept.next_value(), Some(Ok(values[2])));
        assert_eq!(kept.next_value(), None);
        assert_eq!(kept.count(), 3);
    }

    #[test]
    fn more_than_255_values_take_schema_1() {
        let values = vec![ValueRef::Null; 256];
        let buf = ParamsBuf::from_values(&values);
        assert_eq!(buf.as_params().schema(), 1);
        assert_eq!(buf.count(), 256);
        assert_eq!(buf.as_params().as_bytes().len(), 264 + 256 * 8);
        assert_eq!(
            ParamsBuf::from_values(&values[..255]).as_params().schema(),
            0
        );
    }

    proptest! {
        #[test]
        fn a_tuple_decodes_to_what_was_encoded(
            values in proptest::collection::vec(any_value(), 0..20),
            schema in 0u8..2,
        ) {
            // UnixTime is the one type that parameters cannot have.
            let values: Vec<Value> =
                values.into_iter().filter(|v| !matches!(v, Value::UnixTime(_))).collect();
            let refs: Vec<ValueRef<'_>> = values.iter().map(Value::as_value_ref).collect();
            let mut out = Vec::new();
            encode_params(&mut out, &refs, schema);
            let mut params = Params::decode(&out, schema).unwrap();
            prop_assert_eq!(params.count(), values.len());
            let back: Result<Vec<Value>, DecodeError> = collect(&mut params).into_iter().collect();
            prop_assert_eq!(back, Ok(values));
        }

        #[test]
        fn a_truncated_tuple_fails_at_its_head_or_at_a_value(
            values in proptest::collection::vec(any_value(), 1..10),
            schema in 0u8..2,
        ) {
            let refs: Vec<ValueRef<'_>> = values.iter().map(Value::as_value_ref).collect();
            let mut out = Vec::new();
            encode_params(&mut out, &refs, schema);
            for len in 1..out.len() {
                if let Ok(mut params) = Params::decode(&out[..len], schema) {
                    prop_assert!(collect(&mut params).last().is_some_and(Result::is_err));
                }
            }
        }
    }
}

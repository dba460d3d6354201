//! Values: what a statement's parameters and a row's columns hold.
//!
//! A value is encoded in whole words, and its type is told elsewhere (in the head of the tuple that
//! it belongs to, see [`crate::tuple`]): numbers and NULL take one word, texts and blobs are as in
//! [`crate::codec`].

use crate::codec::{DecodeError, Reader, put_blob, put_f64, put_i64, put_text, put_u64};

/// What a value is on the wire; the discriminants are the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ValueType {
    /// Signed 64-bit number.
    Integer = 1,
    /// IEEE-754 double.
    Float = 2,
    /// Text.
    Text = 3,
    /// Blob.
    Blob = 4,
    /// NULL.
    Null = 5,
    /// Integer in a column declared as a date; never a parameter.
    UnixTime = 9,
    /// Text in a column declared as a date; as a parameter, a text.
    Iso8601 = 10,
    /// Integer in a column declared BOOLEAN; as a parameter, 0 or 1.
    Boolean = 11,
}

impl ValueType {
    /// The type that a code stands for, or `None` for the codes that have no meaning.
    pub fn from_code(code: u8) -> Option<ValueType> {
        Some(match code {
            1 => ValueType::Integer,
            2 => ValueType::Float,
            3 => ValueType::Text,
            4 => ValueType::Blob,
            5 => ValueType::Null,
            9 => ValueType::UnixTime,
            10 => ValueType::Iso8601,
            11 => ValueType::Boolean,
            _ => return None,
        })
    }

    /// The code, at most 11: it fits in the four bits that a row has for it.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A value whose bytes are somewhere else: in a message, or in SQLite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// See [`ValueType::Integer`].
    Integer(i64),
    /// See [`ValueType::Float`].
    Float(f64),
    /// See [`ValueType::Text`]; not necessarily UTF-8. On the wire it ends at its first NUL.
    Text(&'a [u8]),
    /// See [`ValueType::Blob`].
    Blob(&'a [u8]),
    /// See [`ValueType::Null`].
    Null,
    /// See [`ValueType::UnixTime`]: seconds by convention, whatever was stored in fact.
    UnixTime(i64),
    /// See [`ValueType::Iso8601`]; any text, empty for NULL in answers of some servers.
    Iso8601(&'a [u8]),
    /// See [`ValueType::Boolean`]. In a row this is the stored integer, bit for bit, and need not
    /// be 0 or 1.
    Boolean(u64),
}

impl<'a> ValueRef<'a> {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            ValueRef::Integer(_) => ValueType::Integer,
            ValueRef::Float(_) => ValueType::Float,
            ValueRef::Text(_) => ValueType::Text,
            ValueRef::Blob(_) => ValueType::Blob,
            ValueRef::Null => ValueType::Null,
            ValueRef::UnixTime(_) => ValueType::UnixTime,
            ValueRef::Iso8601(_) => ValueType::Iso8601,
            ValueRef::Boolean(_) => ValueType::Boolean,
        }
    }

    /// Appends the value, without its type.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            ValueRef::Integer(n) | ValueRef::UnixTime(n) => put_i64(out, n),
            ValueRef::Float(x) => put_f64(out, x),
            ValueRef::Text(text) | ValueRef::Iso8601(text) => put_text(out, text),
            ValueRef::Blob(blob) => put_blob(out, blob),
            ValueRef::Null => put_u64(out, 0),
            ValueRef::Boolean(word) => put_u64(out, word),
        }
    }

    /// Reads a value of the given type. The word that NULL takes may hold anything.
    ///
    /// # Errors
    /// `Incomplete` if the value is cut short, `Malformed` for an impossible blob length.
    pub fn decode(
        value_type: ValueType,
        reader: &mut Reader<'a>,
    ) -> Result<ValueRef<'a>, DecodeError> {
        Ok(match value_type {
            ValueType::Integer => ValueRef::Integer(reader.i64()?),
            ValueType::Float => ValueRef::Float(reader.f64()?),
            ValueType::Text => ValueRef::Text(reader.text()?),
            ValueType::Blob => ValueRef::Blob(reader.blob()?),
            ValueType::Null => {
                reader.u64()?;
                ValueRef::Null
            }
            ValueType::UnixTime => ValueRef::UnixTime(reader.i64()?),
            ValueType::Iso8601 => ValueRef::Iso8601(reader.text()?),
            ValueType::Boolean => ValueRef::Boolean(reader.u64()?),
        })
    }

    /// A copy that owns its bytes.
    pub fn to_value(&self) -> Value {
        match *self {
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Float(x) => Value::Float(x),
            ValueRef::Text(text) => Value::Text(text.to_vec()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
            ValueRef::Null => Value::Null,
            ValueRef::UnixTime(n) => Value::UnixTime(n),
            ValueRef::Iso8601(text) => Value::Iso8601(text.to_vec()),
            ValueRef::Boolean(word) => Value::Boolean(word),
        }
    }
}

/// A value that owns its bytes; otherwise the same as [`ValueRef`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`ValueRef::Integer`].
    Integer(i64),
    /// See [`ValueRef::Float`].
    Float(f64),
    /// See [`ValueRef::Text`].
    Text(Vec<u8>),
    /// See [`ValueRef::Blob`].
    Blob(Vec<u8>),
    /// See [`ValueRef::Null`].
    Null,
    /// See [`ValueRef::UnixTime`].
    UnixTime(i64),
    /// See [`ValueRef::Iso8601`].
    Iso8601(Vec<u8>),
    /// See [`ValueRef::Boolean`].
    Boolean(u64),
}

impl Value {
    /// The same value, borrowed.
    pub fn as_value_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Float(x) => ValueRef::Float(*x),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(blob) => ValueRef::Blob(blob),
            Value::Null => ValueRef::Null,
            Value::UnixTime(n) => ValueRef::UnixTime(*n),
            Value::Iso8601(text) => ValueRef::Iso8601(text),
            Value::Boolean(word) => ValueRef::Boolean(*word),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Value {
        value.to_value()
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> ValueRef<'a> {
        value.as_value_ref()
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Integer(n)
    }
}

impl From<f64> for Value {
    fn from(x: f64) -> Value {
        Value::Float(x)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Boolean(u64::from(b))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into_bytes())
    }
}

impl From<Vec<u8>> for Value {
    fn from(blob: Vec<u8>) -> Value {
        Value::Blob(blob)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of every type; floats without NaN, which is not equal to itself.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("NaN", |x| !x.is_nan())
                .prop_map(Value::Float),
            text().prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
            Just(Value::Null),
            any::<i64>().prop_map(Value::UnixTime),
            text().prop_map(Value::Iso8601),
            any::<u64>().prop_map(Value::Boolean),
        ]
    }

    /// Bytes without a NUL.
    pub(crate) fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8.., 0..20)
    }

    #[test]
    fn only_the_eight_codes_have_a_meaning() {
        let known: Vec<u8> = (0..=255)
            .filter(|&c| ValueType::from_code(c).is_some())
            .collect();
        assert_eq!(known, [1, 2, 3, 4, 5, 9, 10, 11]);
        for code in known {
            assert_eq!(ValueType::from_code(code).map(ValueType::code), Some(code));
        }
    }

    #[test]
    fn the_bits_of_a_nan_survive() {
        let nan = f64::from_bits(0x7ff8_0000_dead_beef);
        let mut out = Vec::new();
        ValueRef::Float(nan).encode(&mut out);
        let back = ValueRef::decode(ValueType::Float, &mut Reader::new(&out));
        assert!(matches!(back, Ok(ValueRef::Float(x)) if x.to_bits() == nan.to_bits()));
    }

    #[test]
    fn the_word_of_a_null_may_hold_anything() {
        let mut reader = Reader::new(b"whatever");
        assert_eq!(
            ValueRef::decode(ValueType::Null, &mut reader),
            Ok(ValueRef::Null)
        );
        assert!(reader.is_empty());
    }

    proptest! {
        #[test]
        fn a_value_decodes_to_what_was_encoded(value in any_value()) {
            let mut out = Vec::new();
            value.as_value_ref().encode(&mut out);
            let mut reader = Reader::new(&out);
            let back = ValueRef::decode(value.as_value_ref().value_type(), &mut reader);
            prop_assert_eq!(back.map(|v| v.to_value()), Ok(value));
            prop_assert!(reader.is_empty());
        }
    }
}

//! Values: what goes into parameters and comes out of columns.
//!
//! The server has eight types on the wire. Five are SQLite's; the others say that a column was
//! declared as DATETIME, DATE, TIMESTAMP ([`Value::UnixTime`], [`Value::Iso8601`]) or BOOLEAN
//! ([`Value::Bool`]), and carry what is stored. [`FromValue`] looks through the difference: an `i64`
//! can be had from a date column that holds a number.
//!
//! Two things cannot be sent and are refused here rather than cut off or changed by the encoding:
//! texts with a NUL inside (a text on the wire ends at its first NUL), and numbers above
//! `i64::MAX`.

use std::fmt;
use std::time::{Duration, SystemTime};

pub use dq_wire::ValueRef;

use crate::error::{Error, ErrorKind, Result};

/// A value that owns its bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A signed 64-bit number.
    Integer(i64),
    /// A floating-point number; never NaN, which SQLite stores as NULL.
    Real(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
    /// A number in a column declared as BOOLEAN: whether it is not zero.
    Bool(bool),
    /// A number in a column declared as DATETIME, DATE or TIMESTAMP: seconds since 1970, by
    /// convention. Sent as an integer.
    UnixTime(i64),
    /// A text in such a column; empty for NULL with servers up to 1.18.
    Iso8601(String),
}

/// A value that can be bound to a parameter.
pub trait ToValue {
    /// The value to send.
    ///
    /// # Errors
    /// [`ErrorKind::Type`] if it has none.
    fn to_value(&self) -> Result<ValueRef<'_>>;
}

/// A type that a column's value can be turned into.
pub trait FromValue: Sized {
    /// Turns the value into this type.
    ///
    /// # Errors
    /// The value is of another type, or out of range.
    fn from_value(value: ValueRef<'_>) -> Result<Self, FromValueError>;
}

/// Why a value could not be turned into a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromValueError {
    message: String,
}

impl FromValueError {
    /// An error with a message such as "out of range".
    pub fn new(message: impl Into<String>) -> FromValueError {
        FromValueError {
            message: message.into(),
        }
    }

    fn mismatch(value: ValueRef<'_>, wanted: &str) -> FromValueError {
        FromValueError::new(format!("{:?} is no {wanted}", value.value_type()))
    }
}

impl fmt::Display for FromValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FromValueError {}

impl ToValue for Value {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        match self {
            Value::Null => Ok(ValueRef::Null),
            Value::Integer(n) | Value::UnixTime(n) => Ok(ValueRef::Integer(*n)),
            Value::Real(x) => Ok(ValueRef::Float(*x)),
            Value::Text(text) => text.to_value(),
            Value::Blob(blob) => Ok(ValueRef::Blob(blob)),
            Value::Bool(b) => b.to_value(),
            Value::Iso8601(text) => Ok(ValueRef::Iso8601(without_nul(text)?)),
        }
    }
}

impl FromValue for Value {
    fn from_value(value: ValueRef<'_>) -> Result<Value, FromValueError> {
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Float(x) => Value::Real(x),
            ValueRef::Text(text) => Value::Text(utf8(text)?),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
            ValueRef::Boolean(word) => Value::Bool(word != 0),
            ValueRef::UnixTime(n) => Value::UnixTime(n),
            ValueRef::Iso8601(text) => Value::Iso8601(utf8(text)?),
        })
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl ToValue for $t {
            fn to_value(&self) -> Result<ValueRef<'_>> {
                i64::try_from(*self).map(ValueRef::Integer).map_err(|_| {
                    Error::new(ErrorKind::Type, format!("parameter {self} is above i64::MAX"))
                })
            }
        }

        impl FromValue for $t {
            fn from_value(value: ValueRef<'_>) -> Result<$t, FromValueError> {
                let n = integer(value)?;
                <$t>::try_from(n).map_err(|_| {
                    FromValueError::new(format!("{n} is out of range for {}", stringify!($t)))
                })
            }
        }
    )*};
}

integers!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

fn integer(value: ValueRef<'_>) -> Result<i64, FromValueError> {
    match value {
        ValueRef::Integer(n) | ValueRef::UnixTime(n) => Ok(n),
        // The stored number, bit for bit.
        ValueRef::Boolean(word) => Ok(word as i64),
        _ => Err(FromValueError::mismatch(value, "integer")),
    }
}

impl ToValue for f64 {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        Ok(ValueRef::Float(*self))
    }
}

impl FromValue for f64 {
    fn from_value(value: ValueRef<'_>) -> Result<f64, FromValueError> {
        match value {
            ValueRef::Float(x) => Ok(x),
            // SQLite gives back 2.0 from an INTEGER column as an integer.
            ValueRef::Integer(n) => Ok(n as f64),
            _ => Err(FromValueError::mismatch(value, "number")),
        }
    }
}

impl ToValue for bool {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        Ok(ValueRef::Boolean(u64::from(*self)))
    }
}

impl FromValue for bool {
    fn from_value(value: ValueRef<'_>) -> Result<bool, FromValueError> {
        Ok(integer(value)? != 0)
    }
}

impl ToValue for str {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        without_nul(self).map(ValueRef::Text)
    }
}

impl ToValue for String {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        self.as_str().to_value()
    }
}

impl FromValue for String {
    fn from_value(value: ValueRef<'_>) -> Result<String, FromValueError> {
        match value {
            ValueRef::Text(text) | ValueRef::Iso8601(text) => utf8(text),
            _ => Err(FromValueError::mismatch(value, "text")),
        }
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        Ok(ValueRef::Blob(self))
    }
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        Ok(ValueRef::Blob(self))
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        Ok(ValueRef::Blob(self))
    }
}

/// The bytes of a blob, or of a text, which need not be UTF-8.
impl FromValue for Vec<u8> {
    fn from_value(value: ValueRef<'_>) -> Result<Vec<u8>, FromValueError> {
        match value {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) | ValueRef::Iso8601(bytes) => {
                Ok(bytes.to_vec())
            }
            _ => Err(FromValueError::mismatch(value, "blob")),
        }
    }
}

/// Seconds since 1970 in a column declared as a date, or any integer.
impl FromValue for SystemTime {
    fn from_value(value: ValueRef<'_>) -> Result<SystemTime, FromValueError> {
        let seconds = integer(value)?;
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        };
        time.ok_or_else(|| FromValueError::new(format!("{seconds} is out of range for a time")))
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        self.as_ref().map_or(Ok(ValueRef::Null), T::to_value)
    }
}

/// `None` for NULL, also for what servers up to 1.18 send in place of NULL from date columns.
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: ValueRef<'_>) -> Result<Option<T>, FromValueError> {
        match value {
            ValueRef::Null | ValueRef::Iso8601(b"") => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Result<ValueRef<'_>> {
        (**self).to_value()
    }
}

fn utf8(text: &[u8]) -> Result<String, FromValueError> {
    match str::from_utf8(text) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(FromValueError::new("the text is not UTF-8")),
    }
}

/// The bytes of a text that can be sent whole.
pub(crate) fn without_nul(text: &str) -> Result<&[u8]> {
    match text.as_bytes() {
        bytes if bytes.contains(&0) => Err(Error::new(ErrorKind::Type, "text contains a NUL")),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_out_as_their_wire_types() {
        assert_eq!(7i32.to_value().unwrap(), ValueRef::Integer(7));
        assert_eq!(
            u64::from(u32::MAX).to_value().unwrap(),
            ValueRef::Integer(4_294_967_295)
        );
        assert_eq!(true.to_value().unwrap(), ValueRef::Boolean(1));
        assert_eq!("x".to_value().unwrap(), ValueRef::Text(b"x"));
        assert_eq!([1u8, 2].to_value().unwrap(), ValueRef::Blob(&[1, 2]));
        assert_eq!(None::<i64>.to_value().unwrap(), ValueRef::Null);
        assert_eq!(Some("x").to_value().unwrap(), ValueRef::Text(b"x"));
        // The server takes no UNIXTIME as a parameter.
        assert_eq!(Value::UnixTime(5).to_value().unwrap(), ValueRef::Integer(5));
    }

    #[test]
    fn what_cannot_be_sent_whole_is_refused() {
        assert_eq!("a\0b".to_value().unwrap_err().kind(), ErrorKind::Type);
        assert_eq!(u64::MAX.to_value().unwrap_err().kind(), ErrorKind::Type);
    }

    #[test]
    fn columns_turn_into_types_that_fit() {
        assert_eq!(i64::from_value(ValueRef::UnixTime(-7)), Ok(-7));
        assert_eq!(i64::from_value(ValueRef::Boolean(u64::MAX)), Ok(-1));
        assert_eq!(bool::from_value(ValueRef::Integer(5)), Ok(true));
        assert_eq!(f64::from_value(ValueRef::Integer(2)), Ok(2.0));
        assert_eq!(
            String::from_value(ValueRef::Iso8601(b"2020")),
            Ok("2020".to_owned())
        );
        assert_eq!(
            Vec::<u8>::from_value(ValueRef::Text(b"\xff")),
            Ok(vec![0xff])
        );
        assert_eq!(
            Option::<String>::from_value(ValueRef::Iso8601(b"")),
            Ok(None)
        );
        assert_eq!(Option::<i64>::from_value(ValueRef::Null), Ok(None));
        assert_eq!(
            Value::from_value(ValueRef::Boolean(2)),
            Ok(Value::Bool(true))
        );
        let hour_before = SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(3600));
        assert_eq!(
            SystemTime::from_value(ValueRef::UnixTime(-3600)).ok(),
            hour_before
        );
    }

    #[test]
    fn columns_that_do_not_fit_are_errors() {
        assert!(i64::from_value(ValueRef::Null).is_err());
        assert!(u8::from_value(ValueRef::Integer(256)).is_err());
        assert!(i64::from_value(ValueRef::Text(b"7")).is_err());
        assert!(String::from_value(ValueRef::Text(b"\xff")).is_err());
        assert!(Value::from_value(ValueRef::Text(b"\xff")).is_err());
    }
}

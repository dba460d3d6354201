//! Parameters of a statement: tuples, slices, and `params![]`.

use dq_wire::ValueRef;

use crate::error::Result;
use crate::value::ToValue;

/// Values for a statement's parameters, in order.
///
/// Implemented for `()`, tuples of up to twelve values, slices and arrays of values, and what
/// [`params!`](crate::params) makes.
///
/// Parameters are bound by their index, named ones too: the first value goes to `?1`. A statement
/// that is not prepared binds NULL to parameters that are left over.
pub trait Params {
    /// The values to bind.
    ///
    /// # Errors
    /// One of them cannot be sent.
    fn values(&self) -> Result<Vec<ValueRef<'_>>>;
}

impl Params for () {
    fn values(&self) -> Result<Vec<ValueRef<'_>>> {
        Ok(Vec::new())
    }
}

impl<T: ToValue> Params for [T] {
    fn values(&self) -> Result<Vec<ValueRef<'_>>> {
        self.iter().map(ToValue::to_value).collect()
    }
}

impl<T: ToValue, const N: usize> Params for [T; N] {
    fn values(&self) -> Result<Vec<ValueRef<'_>>> {
        self.as_slice().values()
    }
}

impl<T: ToValue> Params for Vec<T> {
    fn values(&self) -> Result<Vec<ValueRef<'_>>> {
        self.as_slice().values()
    }
}

impl<P: Params + ?Sized> Params for &P {
    fn values(&self) -> Result<Vec<ValueRef<'_>>> {
        (**self).values()
    }
}

macro_rules! tuples {
    ($($t:ident)*; $($i:tt)*) => {
        impl<$($t: ToValue),*> Params for ($($t,)*) {
            fn values(&self) -> Result<Vec<ValueRef<'_>>> {
                Ok(vec![$(self.$i.to_value()?),*])
            }
        }
    };
}

tuples!(A; 0);
tuples!(A B; 0 1);
tuples!(A B C; 0 1 2);
tuples!(A B C D; 0 1 2 3);
tuples!(A B C D E; 0 1 2 3 4);
tuples!(A B C D E F; 0 1 2 3 4 5);
tuples!(A B C D E F G; 0 1 2 3 4 5 6);
tuples!(A B C D E F G H; 0 1 2 3 4 5 6 7);
tuples!(A B C D E F G H I; 0 1 2 3 4 5 6 7 8);
tuples!(A B C D E F G H I J; 0 1 2 3 4 5 6 7 8 9);
tuples!(A B C D E F G H I J K; 0 1 2 3 4 5 6 7 8 9 10);
tuples!(A B C D E F G H I J K L; 0 1 2 3 4 5 6 7 8 9 10 11);

/// Parameters of different types, any number of them.
///
/// ```
/// use dq_client::{Params, params};
///
/// let name = String::from("x");
/// let params = params![1, name, None::<f64>];
/// assert_eq!(params.values().unwrap().len(), 3);
/// ```
#[macro_export]
macro_rules! params {
    () => { [] as [&dyn $crate::ToValue; 0] };
    ($($value:expr),+ $(,)?) => { [$(&$value as &dyn $crate::ToValue),+] };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_parameters_bind_in_order() {
        let want = [ValueRef::Integer(1), ValueRef::Text(b"two"), ValueRef::Null];
        assert_eq!((1, "two", None::<i64>).values().unwrap(), want);
        assert_eq!(params![1, "two", None::<i64>].values().unwrap(), want);
        assert_eq!(
            [1, 2].values().unwrap(),
            [ValueRef::Integer(1), ValueRef::Integer(2)]
        );
        assert_eq!(vec!["x"].values().unwrap(), [ValueRef::Text(b"x")]);
        assert_eq!(().values().unwrap(), []);
        assert_eq!(params![].values().unwrap(), []);
    }

    #[test]
    fn one_bad_value_spoils_them_all() {
        assert!((1, "a\0b").values().is_err());
    }
}

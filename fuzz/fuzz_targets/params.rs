//! Parameters are taken to the end or to the first error, borrowed and owned alike.

#![no_main]

use dq_wire::{Params, ParamsBuf, ValueType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((schema, tuple)) = input.split_first() else {
        return;
    };
    let Ok(mut params) = Params::decode(tuple, *schema) else {
        return;
    };
    assert!(params.count() <= tuple.len());
    let mut kept = ParamsBuf::from(params.clone());
    let mut taken = 0;
    while let Some(value) = params.next_value() {
        let same = kept.next_value().expect("as many values in the copy");
        // By text, since NaN is not equal to itself.
        assert_eq!(format!("{value:?}"), format!("{same:?}"));
        let Ok(value) = value else {
            return;
        };
        assert_ne!(value.value_type(), ValueType::UnixTime);
        taken += 1;
    }
    assert_eq!(taken, params.count());
});

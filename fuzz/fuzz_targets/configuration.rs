//! A configuration that decodes is encoded to something that decodes to the same.

#![no_main]

use std::collections::BTreeSet;

use dq_wire::Configuration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(configuration) = Configuration::decode(input) {
        let ids: BTreeSet<u64> = configuration
            .servers
            .iter()
            .map(|server| server.id)
            .collect();
        assert_eq!(ids.len(), configuration.servers.len());
        assert!(!ids.contains(&0));
        let mut out = Vec::new();
        configuration.encode(&mut out);
        assert_eq!(Configuration::decode(&out), Ok(configuration));
    }
});

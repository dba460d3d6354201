//! Node ids made from an address and the time.

use sha1::{Digest, Sha1};

/// The last 8 bytes of SHA-1 over the address and the time in nanoseconds, both little-endian. As
/// ids, 0 stands for none and 1 starts a new cluster, so neither is ever made.
pub(crate) fn node_id(address: &[u8], nanos: u64) -> u64 {
    (0..)
        .map(|step: u64| hash(address, nanos.wrapping_add(step)))
        .find(|id| *id > 1)
        .unwrap_or(u64::MAX)
}

fn hash(address: &[u8], nanos: u64) -> u64 {
    let mut sha = Sha1::new();
    sha.update(address);
    sha.update(nanos.to_le_bytes());
    let digest = sha.finalize();
    let mut last = [0; 8];
    last.copy_from_slice(&digest[12..20]);
    u64::from_le_bytes(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_the_original_makes() {
        assert_eq!(node_id(b"1", 0), 0x2dc1_7185_8c31_55be);
        assert_eq!(
            node_id(b"127.0.0.1:9001", 1_700_000_000_000_000_000),
            0x3fa7_7a5c_410f_094a
        );
    }
}

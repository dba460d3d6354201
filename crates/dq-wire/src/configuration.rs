//! The cluster configuration: who is a member, where, in which role.
//!
//! It is the content of a CHANGE entry (always the whole configuration, never a difference), a part
//! of InstallSnapshot and of a snapshot's `.meta` file:
//!
//! ```text
//! u8  1            version
//! u64 count
//! per server: u64 id, address, NUL, u8 role       nothing is aligned
//! zeros up to a word
//! ```
//!
//! **Roles have two numberings.** Raft's, used here: standby 0, voter 1, spare 2. The client
//! protocol's: voter 0, standby 1, spare 2. Mixing them up takes the vote from every voter, so
//! [`Role`] has two pairs of conversions and no others.
//!
//! The original leaves garbage in the last padding; it is ignored when reading and zero when
//! writing, and encoded configurations must never be compared as bytes.

use std::collections::BTreeSet;
use std::fmt;

use crate::codec::{DecodeError, Reader, WORD, put_u8, put_u64, put_zeros};

/// What a member does. The client protocol and raft number the roles differently; the two
/// conversions are explicit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes, counts for the quorum, gets entries.
    Voter,
    /// Gets entries, does not count.
    Standby,
    /// Gets nothing.
    Spare,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Voter => "voter",
            Role::Standby => "standby",
            Role::Spare => "spare",
        })
    }
}

impl Role {
    /// The role that a code of the client protocol stands for.
    pub fn from_wire(code: u64) -> Option<Role> {
        match code {
            0 => Some(Role::Voter),
            1 => Some(Role::Standby),
            2 => Some(Role::Spare),
            _ => None,
        }
    }

    /// The role's code in the client protocol.
    pub fn to_wire(self) -> u64 {
        match self {
            Role::Voter => 0,
            Role::Standby => 1,
            Role::Spare => 2,
        }
    }

    /// The role that a code in raft's numbering stands for.
    pub fn from_raft(code: u8) -> Option<Role> {
        match code {
            0 => Some(Role::Standby),
            1 => Some(Role::Voter),
            2 => Some(Role::Spare),
            _ => None,
        }
    }

    /// The role's code in raft's numbering.
    pub fn to_raft(self) -> u8 {
        match self {
            Role::Standby => 0,
            Role::Voter => 1,
            Role::Spare => 2,
        }
    }
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Node id, never 0.
    pub id: u64,
    /// Address as it was configured, byte for byte; opaque to the protocol. No NUL in it.
    pub address: String,
    /// Its role.
    pub role: Role,
}

/// The members of a cluster, in the order in which they were added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The members; ids and addresses are unique.
    pub servers: Vec<Server>,
}

impl Configuration {
    const VERSION: u8 = 1;
    /// Id, the NUL of an empty address, role.
    const SERVER_SIZE_MIN: usize = 8 + 1 + 1;

    /// Reads a configuration. What follows the last server is ignored.
    ///
    /// # Errors
    /// It is cut short, has another version, an id of 0, an address that is not UTF-8, a role
    /// without a meaning, or two servers with the same id or address.
    pub fn decode(bytes: &[u8]) -> Result<Configuration, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != Configuration::VERSION {
            return Err(r.malformed("configuration version", 1));
        }
        let count = r.u64()?;
        let room = (r.remaining() / Configuration::SERVER_SIZE_MIN) as u64;
        if count > room {
            let more = (count - room).saturating_mul(Configuration::SERVER_SIZE_MIN as u64);
            // A part of a server may be there already.
            let more = usize::try_from(more).unwrap_or(usize::MAX);
            let begun = r.remaining() % Configuration::SERVER_SIZE_MIN;
            return Err(DecodeError::Incomplete { more: more - begun });
        }
        let mut servers = Vec::with_capacity(count as usize);
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for _ in 0..count {
            let id = r.u64()?;
            if id == 0 || !ids.insert(id) {
                return Err(r.malformed("server id", WORD));
            }
            let address = unaligned_text(&mut r)?;
            let back = address.len() + 1;
            let address =
                str::from_utf8(address).map_err(|_| r.malformed("server address", back))?;
            if !addresses.insert(address) {
                return Err(r.malformed("server address", back));
            }
            let role = Role::from_raft(r.u8()?).ok_or(r.malformed("server role", 1))?;
            servers.push(Server {
                id,
                address: address.to_owned(),
                role,
            });
        }
        Ok(Configuration { servers })
    }

    /// Appends the configuration, a whole number of words.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        put_u8(out, Configuration::VERSION);
        put_u64(out, self.servers.len() as u64);
        for server in &self.servers {
            put_u64(out, server.id);
            out.extend_from_slice(server.address.as_bytes());
            put_u8(out, 0);
            put_u8(out, server.role.to_raft());
        }
        let size = out.len() - start;
        put_zeros(out, size.next_multiple_of(WORD) - size);
    }

    /// The member with the given id.
    pub fn server(&self, id: u64) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }
}

/// A text with a NUL but without padding.
fn unaligned_text<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = r
        .rest()
        .iter()
        .position(|&b| b == 0)
        .ok_or(DecodeError::Incomplete { more: 1 })?;
    let text = r.bytes(len + 1)?;
    Ok(&text[..len])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Configurations with unique ids and addresses.
    pub(crate) fn any_configuration() -> impl Strategy<Value = Configuration> {
        let role = prop_oneof![Just(Role::Voter), Just(Role::Standby), Just(Role::Spare)];
        let server = (1u64.., "[a-z0-9.:@é]{0,20}", role);
        proptest::collection::vec(server, 0..6).prop_map(|servers| {
            let mut configuration = Configuration::default();
            for (id, address, role) in servers {
                let known = configuration
                    .servers
                    .iter()
                    .any(|s| s.id == id || s.address == address);
                if !known {
                    configuration.servers.push(Server { id, address, role });
                }
            }
            configuration
        })
    }

    fn encoded(servers: &[(u64, &str, Role)]) -> Vec<u8> {
        let servers = servers
            .iter()
            .map(|&(id, address, role)| Server {
                id,
                address: address.to_owned(),
                role,
            })
            .collect();
        let mut out = Vec::new();
        Configuration { servers }.encode(&mut out);
        out
    }

    #[test]
    fn the_two_numberings_of_roles_differ_and_both_convert_back() {
        let codes = |role: Role| (role.to_wire(), role.to_raft());
        assert_eq!(codes(Role::Voter), (0, 1));
        assert_eq!(codes(Role::Standby), (1, 0));
        assert_eq!(codes(Role::Spare), (2, 2));
        for role in [Role::Voter, Role::Standby, Role::Spare] {
            assert_eq!(Role::from_wire(role.to_wire()), Some(role));
            assert_eq!(Role::from_raft(role.to_raft()), Some(role));
        }
        assert_eq!(Role::from_wire(3), None);
        assert_eq!(Role::from_raft(3), None);
    }

    #[test]
    fn garbage_in_the_last_padding_is_ignored() {
        let mut bytes = encoded(&[(1, "1", Role::Voter)]);
        assert_eq!(bytes.len(), 24);
        let clean = Configuration::decode(&bytes);
        bytes[20..].fill(0xaa);
        assert!(clean.is_ok());
        assert_eq!(Configuration::decode(&bytes), clean);
    }

    #[test]
    fn duplicates_and_impossible_servers_are_malformed() {
        let malformed = |bytes: &[u8]| match Configuration::decode(bytes) {
            Err(DecodeError::Malformed { field, .. }) => field,
            other => panic!("decoded to {other:?}"),
        };
        let twice = encoded(&[(1, "a", Role::Voter), (1, "b", Role::Spare)]);
        assert_eq!(malformed(&twice), "server id");
        let twice = encoded(&[(1, "a", Role::Voter), (2, "a", Role::Spare)]);
        assert_eq!(malformed(&twice), "server address");
        assert_eq!(malformed(&encoded(&[(0, "a", Role::Voter)])), "server id");
        let mut bytes = encoded(&[(1, "a", Role::Voter)]);
        bytes[17] = 0xff;
        assert_eq!(malformed(&bytes), "server address");
        bytes[17] = b'a';
        bytes[19] = 3;
        assert_eq!(malformed(&bytes), "server role");
        bytes[0] = 2;
        assert_eq!(malformed(&bytes), "configuration version");
    }

    #[test]
    fn a_count_that_cannot_be_there_is_refused_before_room_is_made() {
        let mut bytes = encoded(&[(1, "a", Role::Voter)]);
        bytes[1..9].fill(0xff);
        assert!(matches!(
            Configuration::decode(&bytes),
            Err(DecodeError::Incomplete { .. })
        ));
    }

    proptest! {
        #[test]
        fn a_configuration_decodes_to_what_was_encoded(configuration in any_configuration()) {
            let mut out = Vec::new();
            configuration.encode(&mut out);
            prop_assert_eq!(out.len() % WORD, 0);
            prop_assert_eq!(Configuration::decode(&out), Ok(configuration.clone()));
            let used = 9 + configuration
                .servers
                .iter()
                .map(|s| 8 + s.address.len() + 2)
                .sum::<usize>();
            for len in 0..used {
                prop_assert!(Configuration::decode(&out[..len]).is_err());
            }
        }
    }
}

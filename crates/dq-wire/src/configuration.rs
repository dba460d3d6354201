//! The cluster configuration: who is a member, where, in which role.

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

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Node id, never 0.
    pub id: u64,
    /// Address as it was configured, byte for byte; opaque to the protocol.
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

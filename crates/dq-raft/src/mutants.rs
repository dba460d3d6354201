//! Rules that can be broken on request, one at a time, to test that the tests notice.
//!
//! Without the feature `mutants`, which nothing that is released turns on, no rule can be broken and
//! the questions cost nothing.

/// A rule, named by what happens without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Messages of a new term leave before the term is durable.
    SendBeforeTerm,
    /// Votes and acknowledgements leave before what they say is durable.
    SayBeforeDurable,
    /// A node stands for election while disk work is outstanding.
    CampaignBeforeDurable,
    /// What is read at a start is not made durable first.
    NoSyncAtStart,
    /// Reads are answered by whoever believes to lead.
    NoProof,
    /// A statement in a transaction, and one that writes, needs no proof of leadership.
    NoProofForWrites,
    /// A restarted node forgets what it promised.
    ForgetPromise,
    /// A promise does not keep a node from voting.
    VoteDespitePromise,
    /// A promise counts from when its answer is received.
    CoverFromAnswer,
    /// A leader serves from the moment of its election.
    GateOpensAtElection,
    /// Answers leave before what they say is committed.
    AnswerBeforeCommit,
    /// Errors leave before what they say is committed.
    ErrorsAtOnce,
    /// A write of which nobody knows is said to be not done.
    CertainlyNotDone,
    /// Reads see only what is committed, also the client's own writes.
    ForgetOwnWrites,
    /// Statements that shrink a database share an entry with others.
    ShrinkInBatch,
    /// What has executed survives the end of the leadership that it belongs to.
    HeadSurvives,
    /// An AppendEntries may end before the first entry of the leader's term.
    AppendStopsShort,
    /// An AppendEntries may commit more than it reaches.
    CommitBeyondEnd,
    /// A heartbeat may stand before the first entry of the leader's term.
    HeartbeatAnywhere,
    /// The term of a refused pre-vote is taken for a real one.
    AdoptEchoedTerm,
    /// A configuration stays in effect whose entry was cut off.
    KeepCutConfiguration,
    /// Segments that a start leaves out of its log stay on disk.
    KeepForgottenSegments,
    /// A truncation removes segments from the front.
    TruncateFromTheFront,
    /// An early answer acknowledges what is not stored.
    AcknowledgeUnstored,
    /// Answers of earlier terms count as echoes.
    EchoOfAnyTerm,
    /// A leader without a vote counts itself in majorities.
    CountOneself,
    /// Promises count that were given back for a transfer.
    LeaseAfterRelease,
    /// Promises are believed to the last millisecond.
    NoMargin,
    /// A leadership has not ended if the node leads again when it looks.
    SameRoleSameEpoch,
    /// Entries of an ended leadership stay in the table of what is in flight.
    KeepInFlight,
    /// Connections live on when the leadership ends in which they were opened.
    KeepSessions,
    /// A database is as large as the highest page of an entry.
    SizeFromHighestPage,
    /// The clock is read once a turn, not after each input.
    ClockPerTurn,
    /// The end of a lease is kept, although the configuration changes.
    StoredLease,
    /// A restarted node waits for as long as it would promise now.
    WaitNewPromise,
    /// A sole voter elects itself although it has promised not to.
    SoleVoterAtOnce,
    /// A promise does not hold against a request that claims to be the leader's wish.
    ObeyDisrupt,
    /// Promises count again after a transfer was given up.
    ReleaseEnds,
    /// An entry that was under way when a request arrived is its proof.
    OldEntryProves,
    /// What a server has said counts although it was removed since.
    KeepStrangers,
    /// A promise is given before its length is durable.
    PromiseUnstored,
    /// The bound on promises is lowered while longer ones may be running.
    LowerBoundAtOnce,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 42] = [
        Mutant::SendBeforeTerm,
        Mutant::SayBeforeDurable,
        Mutant::CampaignBeforeDurable,
        Mutant::NoSyncAtStart,
        Mutant::NoProof,
        Mutant::NoProofForWrites,
        Mutant::ForgetPromise,
        Mutant::VoteDespitePromise,
        Mutant::CoverFromAnswer,
        Mutant::GateOpensAtElection,
        Mutant::AnswerBeforeCommit,
        Mutant::ErrorsAtOnce,
        Mutant::CertainlyNotDone,
        Mutant::ForgetOwnWrites,
        Mutant::ShrinkInBatch,
        Mutant::HeadSurvives,
        Mutant::AppendStopsShort,
        Mutant::CommitBeyondEnd,
        Mutant::HeartbeatAnywhere,
        Mutant::AdoptEchoedTerm,
        Mutant::KeepCutConfiguration,
        Mutant::KeepForgottenSegments,
        Mutant::TruncateFromTheFront,
        Mutant::AcknowledgeUnstored,
        Mutant::EchoOfAnyTerm,
        Mutant::CountOneself,
        Mutant::LeaseAfterRelease,
        Mutant::NoMargin,
        Mutant::SameRoleSameEpoch,
        Mutant::KeepInFlight,
        Mutant::KeepSessions,
        Mutant::SizeFromHighestPage,
        Mutant::ClockPerTurn,
        Mutant::StoredLease,
        Mutant::WaitNewPromise,
        Mutant::SoleVoterAtOnce,
        Mutant::ObeyDisrupt,
        Mutant::ReleaseEnds,
        Mutant::OldEntryProves,
        Mutant::KeepStrangers,
        Mutant::PromiseUnstored,
        Mutant::LowerBoundAtOnce,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule, or none, for the calling thread.
#[cfg(feature = "mutants")]
pub fn break_rule(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}

/// Whether this rule is broken.
#[cfg(feature = "mutants")]
pub fn is_broken(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

/// Whether this rule is broken: never.
#[cfg(not(feature = "mutants"))]
pub const fn is_broken(_: Mutant) -> bool {
    false
}

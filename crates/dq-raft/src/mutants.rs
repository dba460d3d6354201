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
    /// A text that is refused in its middle is said to be not done, although its beginning is.
    PartlyDoneRefused,
    /// Reads see only what is committed, also the client's own writes.
    ForgetOwnWrites,
    /// Statements that shrink a database share an entry with others.
    ShrinkInBatch,
    /// What a job committed becomes a version whatever has become of its session, slot and base.
    PublishUnchecked,
    /// Of several writes of a request the last one tells whether it may have been carried out.
    LastWriteDecides,
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
    /// A start goes by the configuration that it knows to be committed, not by the log's last one.
    StartFromCommitted,
    /// Segments that a start leaves out of its log stay on disk.
    KeepForgottenSegments,
    /// A truncation removes segments from the front.
    TruncateFromTheFront,
    /// An early answer acknowledges what is not stored.
    AcknowledgeUnstored,
    /// raft-rs is told that an entry is durable although it is being replaced.
    PersistedThoughReplaced,
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
    /// Whether leadership has ended is looked at when somebody leads, not after every call into raft.
    LookSeldom,
    /// Entries of an ended leadership stay in the table of what is in flight.
    KeepInFlight,
    /// Entries in flight are known by their index alone.
    InFlightByIndex,
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
    /// A follower takes entries however much is not durable yet.
    TakeUnstored,
    /// All entries of the log stay in memory.
    KeepAllEntries,
    /// A leader executes however much is not applied yet.
    RunAhead,
    /// A text of many statements looks for room only before its first.
    TextRunsAhead,
    /// Readers keep as many old pages as they like.
    KeepReaders,
    /// Segments stay on disk that a snapshot has made unnecessary.
    KeepOldSegments,
    /// Files of a snapshot that is not wanted stay on disk.
    ForgetDiscarded,
    /// Whatever is wrong behind the valid batches of a segment is taken for a torn write.
    DamageIsTorn,
    /// Entries that are read back for a follower are not held against their checksum.
    ReadBackUnchecked,
    /// Writers that wait for room are not woken when there is some.
    ForgetCrowded,
    /// A node stands for election once in its life.
    StandOnce,
    /// What a read has pinned does not count as seen by its client.
    ForgetPinned,
    /// An INTERRUPT ends rows of statements that write, too.
    InterruptWrites,
    /// An INTERRUPT is answered at once, whatever is still to be said before.
    InterruptOvertakes,
    /// The first rows of a stream leave at once, the rest when they may.
    StreamAtOnce,
    /// A client that leaves takes the write slot with it.
    KeepSlot,
    /// A snapshot holds what has executed, committed or not.
    SnapshotOfHead,
    /// Every result answers a heartbeat, whether one was sent or not.
    HeartbeatPerResult,
    /// Empty appends are raft-rs's heartbeats, which look at no log.
    HeartbeatsAsSuch,
    /// A change of the membership begins before the last one is committed.
    SecondChange,
    /// A node that is no member is not in its own tracker.
    ForgetSelf,
    /// The first entry read from disk counts although its predecessor's term is unknown.
    FirstTermUnknown,
    /// A log stays that contradicts the snapshot.
    KeepOldLog,
    /// An installation removes the log before the snapshot is in place.
    LogBeforeSnapshot,
    /// A segment is closed before it is durable.
    CloseUnsynced,
    /// Entries leave memory that are not applied.
    EvictAboveApplied,
    /// A leadership is proven before its first entry is applied.
    ProofBeforeOwnEntry,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 76] = [
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
        Mutant::PartlyDoneRefused,
        Mutant::ForgetOwnWrites,
        Mutant::ShrinkInBatch,
        Mutant::PublishUnchecked,
        Mutant::LastWriteDecides,
        Mutant::HeadSurvives,
        Mutant::AppendStopsShort,
        Mutant::CommitBeyondEnd,
        Mutant::HeartbeatAnywhere,
        Mutant::AdoptEchoedTerm,
        Mutant::KeepCutConfiguration,
        Mutant::StartFromCommitted,
        Mutant::KeepForgottenSegments,
        Mutant::TruncateFromTheFront,
        Mutant::AcknowledgeUnstored,
        Mutant::PersistedThoughReplaced,
        Mutant::EchoOfAnyTerm,
        Mutant::CountOneself,
        Mutant::LeaseAfterRelease,
        Mutant::NoMargin,
        Mutant::SameRoleSameEpoch,
        Mutant::LookSeldom,
        Mutant::KeepInFlight,
        Mutant::InFlightByIndex,
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
        Mutant::TakeUnstored,
        Mutant::KeepAllEntries,
        Mutant::RunAhead,
        Mutant::TextRunsAhead,
        Mutant::KeepReaders,
        Mutant::KeepOldSegments,
        Mutant::ForgetDiscarded,
        Mutant::DamageIsTorn,
        Mutant::ReadBackUnchecked,
        Mutant::ForgetCrowded,
        Mutant::StandOnce,
        Mutant::ForgetPinned,
        Mutant::InterruptWrites,
        Mutant::InterruptOvertakes,
        Mutant::StreamAtOnce,
        Mutant::KeepSlot,
        Mutant::SnapshotOfHead,
        Mutant::HeartbeatPerResult,
        Mutant::HeartbeatsAsSuch,
        Mutant::SecondChange,
        Mutant::ForgetSelf,
        Mutant::FirstTermUnknown,
        Mutant::KeepOldLog,
        Mutant::LogBeforeSnapshot,
        Mutant::CloseUnsynced,
        Mutant::EvictAboveApplied,
        Mutant::ProofBeforeOwnEntry,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    /// A bit for each.
    static BROKEN: std::cell::Cell<u128> = const { std::cell::Cell::new(0) };
}

/// Breaks a rule, or none, for the calling thread.
#[cfg(feature = "mutants")]
pub fn break_rule(mutant: Option<Mutant>) {
    break_rules(mutant.as_slice());
}

/// Breaks several rules at once for the calling thread: one may stand behind another.
#[cfg(feature = "mutants")]
pub fn break_rules(mutants: &[Mutant]) {
    let bits = mutants.iter().map(|mutant| 1 << *mutant as u32);
    BROKEN.set(bits.fold(0, |all, bit: u128| all | bit));
}

/// Whether this rule is broken.
#[cfg(feature = "mutants")]
pub fn is_broken(mutant: Mutant) -> bool {
    BROKEN.get() & (1 << mutant as u32) != 0
}

/// Whether this rule is broken: never.
#[cfg(not(feature = "mutants"))]
pub const fn is_broken(_: Mutant) -> bool {
    false
}

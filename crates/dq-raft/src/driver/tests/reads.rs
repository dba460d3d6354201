//! Proof of leadership, promises.

use dq_wire::{EntryKind, Role};

use super::bench::*;
use super::network::*;
use crate::driver::bounds::STAMPS_MAX;
use crate::driver::{Driver, Proof, RaftRole, ReadMode, ReadOptions};
use crate::message::*;

fn lease(found: u64) -> ReadOptions {
    let bound = ReadOptions::promise_ms(&options(1));
    ReadOptions {
        mode: ReadMode::Lease,
        promise_found_ms: found,
        promise_bound_ms: bound,
    }
}

/// The leader of three, its first entry applied, with peers known to be of its kind.
fn leader(reads: ReadOptions) -> Bench {
    let mut bench = Bench::of_three_with(reads, &[1, 1]);
    bench.elect();
    for id in [2, 3] {
        bench.echo(id, 4, 0, 0);
    }
    bench.durable();
    assert_eq!(bench.driver.applied_index(), 4);
    bench.sent();
    bench
}

fn ticket(bench: &Bench) -> crate::driver::ReadTicket {
    bench.driver.read_ticket(bench.now).expect("leads")
}

fn stamps(bench: &mut Bench, to: u64) -> Vec<Stamp> {
    bench
        .appends_to(to)
        .iter()
        .map(|append| append.stamp)
        .collect()
}

fn stamped(term: u64, prev: (u64, u64), seq: u32, release: bool) -> Message {
    let Message::AppendEntries(message) = append(term, prev, 1, &[]) else {
        unreachable!("made so")
    };
    Message::AppendEntries(AppendEntries {
        stamp: Stamp { seq, release },
        ..message
    })
}

#[test]
fn a_read_waits_for_an_echo_that_was_asked_for_after_it() {
    let mut bench = leader(ReadOptions::default());
    let first = ticket(&bench);
    assert_eq!(bench.driver.proof(&first), Proof::Unasked);
    bench.driver.confirm(bench.now);
    assert_eq!(bench.driver.proof(&first), Proof::Waiting);
    bench.take();
    let asked = stamps(&mut bench, 2);
    assert_eq!(
        asked,
        [Stamp {
            seq: 1,
            release: false
        }]
    );
    let second = ticket(&bench);
    bench.echo(2, 4, 1, 0);
    assert_eq!(bench.driver.proof(&first), Proof::Proven);
    assert_eq!(
        bench.driver.proof(&second),
        Proof::Unasked,
        "asked before it arrived"
    );
    bench.driver.confirm(bench.now);
    bench.echo(3, 4, 2, 0);
    assert_eq!(bench.driver.proof(&second), Proof::Proven);
}

#[test]
fn questions_without_answers_are_remembered_up_to_a_bound() {
    let mut bench = leader(ReadOptions::default());
    for _ in 0..STAMPS_MAX + 10 {
        bench.driver.confirm(bench.now);
        bench.driver.ready(&mut Vec::new());
    }
    let first = ticket(&bench);
    let held = bench.driver.usage().into_iter();
    for usage in held {
        assert!(usage.held <= usage.bound, "{usage:?}");
    }
    // The oldest are as good as never asked, and the newest count.
    bench.echo(2, 4, 3, 0);
    bench.driver.confirm(bench.now);
    bench.echo(3, 4, STAMPS_MAX as u32 + 11, 0);
    assert_eq!(bench.driver.proof(&first), Proof::Proven);
}

#[test]
fn echoes_of_another_term_or_of_numbers_never_sent_prove_nothing() {
    let mut bench = leader(ReadOptions::default());
    let ticket = ticket(&bench);
    bench.driver.confirm(bench.now);
    let echo = Some(Echo {
        seq: 1,
        promise_ms: 0,
    });
    let old = AppendEntriesResult {
        term: 1,
        rejected: 0,
        last_index: 4,
        echo,
    };
    bench.receive(2, Message::AppendEntriesResult(old));
    bench.echo(2, 4, 77, 0);
    assert_eq!(bench.driver.proof(&ticket), Proof::Waiting);
    let rejection = AppendEntriesResult {
        term: 2,
        rejected: 900,
        last_index: 4,
        echo,
    };
    bench.receive(2, Message::AppendEntriesResult(rejection));
    assert_eq!(
        bench.driver.proof(&ticket),
        Proof::Proven,
        "only the term matters"
    );
}

#[test]
fn a_peer_whose_kind_is_learnt_later_is_asked_then() {
    let mut bench = Bench::of_three_with(ReadOptions::default(), &[1, 1]);
    bench.elect();
    bench.echo(2, 4, 0, 0);
    bench.durable();
    let ticket = ticket(&bench);
    bench.driver.confirm(bench.now);
    assert_eq!(bench.driver.proof(&ticket), Proof::Waiting);
    bench.echo(3, 4, 0, 0);
    assert_eq!(bench.driver.proof(&ticket), Proof::Unasked);
    bench.driver.confirm(bench.now);
    bench.take();
    let seq = stamps(&mut bench, 3).last().expect("a question").seq;
    bench.echo(3, 4, seq, 0);
    assert_eq!(bench.driver.proof(&ticket), Proof::Proven);
}

#[test]
fn a_lost_question_is_repeated_with_the_heartbeats() {
    let mut bench = leader(ReadOptions::default());
    let ticket = ticket(&bench);
    bench.driver.confirm(bench.now);
    bench.take();
    bench.sent();
    bench.pass(60);
    let seq = stamps(&mut bench, 3).last().expect("a heartbeat").seq;
    assert!(seq > 1);
    bench.echo(3, 4, seq, 0);
    assert_eq!(bench.driver.proof(&ticket), Proof::Proven);
    bench.pass(60);
    assert_eq!(
        stamps(&mut bench, 3),
        [Stamp::default()],
        "nobody asks any more"
    );
}

#[test]
fn with_nodes_that_do_not_echo_a_fresh_entry_is_the_proof() {
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.acknowledge(2, 4);
    bench.durable();
    let ticket = ticket(&bench);
    assert_eq!(bench.driver.proof(&ticket), Proof::FreshEntry);
    bench
        .driver
        .propose(bench.now, vec![(EntryKind::Barrier, command(0))])
        .expect("leads");
    bench.take();
    assert_eq!(bench.driver.proof(&ticket), Proof::Waiting);
    bench.durable();
    bench.acknowledge(2, 5);
    assert_eq!(bench.driver.proof(&ticket), Proof::Proven);
}

#[test]
fn nothing_is_proven_before_the_first_entry_of_the_term_is_applied_or_after_the_epoch() {
    let mut bench = Bench::of_three_with(
        ReadOptions {
            mode: ReadMode::Leader,
            ..lease(0)
        },
        &[1],
    );
    assert_eq!(bench.driver.read_ticket(bench.now), None);
    bench.elect();
    let ticket = ticket(&bench);
    assert_eq!(bench.driver.proof(&ticket), Proof::Waiting);
    bench.acknowledge(2, 3);
    bench.durable();
    assert_eq!(
        bench.driver.proof(&ticket),
        Proof::Proven,
        "the mode asks for no more"
    );
    bench.receive(2, rejected(9, 1, 0));
    assert_eq!(bench.driver.proof(&ticket), Proof::Lost);
}

#[test]
fn a_sole_voter_needs_no_proof() {
    let mut bench = Bench::new(log(&voters(1), &[1]));
    bench.durable();
    let ticket = ticket(&bench);
    assert_eq!(bench.driver.proof(&ticket), Proof::Proven);
}

#[test]
fn a_lease_lasts_for_nine_tenths_of_the_promise_from_the_question() {
    let mut bench = leader(lease(0));
    bench.propose(1);
    let asked = bench.now;
    let seq = stamps(&mut bench, 2)[0].seq;
    bench.echo(2, 5, seq, 150);
    let now = |bench: &Bench, at| {
        bench
            .driver
            .proof(&bench.driver.read_ticket(at).expect("leads"))
    };
    assert_eq!(now(&bench, asked + 134), Proof::Proven);
    assert_eq!(now(&bench, asked + 135), Proof::Unasked);
    bench.driver.transfer(bench.now, 2).expect("leads");
    assert_eq!(now(&bench, asked + 1), Proof::Unasked, "released for good");
}

#[test]
fn the_majority_is_that_of_the_configuration_in_effect() {
    let mut bench = leader(lease(0));
    bench.propose(1);
    let seq = stamps(&mut bench, 2)[0].seq;
    bench.echo(2, 5, seq, 150);
    bench.durable();
    let at = bench.now + 1;
    assert_eq!(
        bench
            .driver
            .proof(&bench.driver.read_ticket(at).expect("leads")),
        Proof::Proven
    );
    bench.driver.remove(bench.now, 2).expect("may");
    bench.take();
    let proof = bench
        .driver
        .proof(&bench.driver.read_ticket(at).expect("leads"));
    assert_eq!(proof, Proof::Unasked, "its promise went with it");
}

#[test]
fn numbers_go_only_to_peers_that_echo_on_the_present_connection() {
    let mut bench = leader(ReadOptions::default());
    bench.driver.connected(2);
    bench.driver.confirm(bench.now);
    bench.take();
    let sent = bench.sent();
    let to = |id| {
        sent.iter().any(|(to, message)| {
            *to == id && matches!(message, Message::AppendEntries(a) if a.stamp.seq > 0)
        })
    };
    assert!(!to(2) && to(3));
}

#[test]
fn the_last_words_of_a_peer_do_not_show_of_what_kind_the_next_one_is() {
    let mut bench = leader(ReadOptions::default());
    let is_asked = |bench: &mut Bench| {
        bench.driver.confirm(bench.now);
        bench.take();
        stamps(bench, 2).iter().any(|stamp| stamp.seq > 0)
    };
    assert!(is_asked(&mut bench));
    // What it had acknowledged arrives after its end, and once more after that.
    bench.driver.unreachable(2);
    bench.echo(2, 4, 0, 0);
    assert!(!is_asked(&mut bench));
    bench.driver.connected(2);
    bench.echo(2, 4, 1, 0);
    assert!(!is_asked(&mut bench));
    let refusal = AppendEntriesResult {
        term: bench.driver.term(),
        rejected: 5,
        last_index: 9,
        echo: Some(Echo::default()),
    };
    bench.receive(2, Message::AppendEntriesResult(refusal));
    assert!(!is_asked(&mut bench));
    // An entry that is made now can only have gone to whoever is there now.
    let index = bench.propose(1);
    bench.echo(2, index, 0, 0);
    assert!(is_asked(&mut bench));
}

#[test]
fn a_follower_echoes_at_once_although_its_disk_is_busy() {
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, append(1, (3, 1), 1, &[1]));
    bench.receive(2, stamped(1, (4, 1), 9, false));
    let results = bench.results();
    assert_eq!(results.len(), 1);
    assert_eq!(
        results[0].echo,
        Some(Echo {
            seq: 9,
            promise_ms: 0
        })
    );
    assert_eq!(results[0].last_index, 3);
    bench.durable();
    for result in bench.results() {
        assert_eq!(
            result.echo,
            Some(Echo::default()),
            "marked, and nothing echoed twice"
        );
    }
}

#[test]
fn an_echo_in_a_term_that_is_not_durable_waits_for_it() {
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, stamped(5, (3, 1), 9, false));
    assert_eq!(bench.results(), []);
    bench.durable();
    let results = bench.results();
    assert_eq!(results.len(), 1);
    assert_eq!(
        results[0].echo,
        Some(Echo {
            seq: 9,
            promise_ms: 0
        })
    );
}

#[test]
fn while_it_has_promised_a_node_neither_votes_nor_stands_whatever_the_flags() {
    let mut bench = Bench::of_three_with(lease(0), &[1, 1]);
    bench.receive(3, stamped(1, (3, 1), 9, false));
    let promise = bench.results()[0].echo.expect("ours").promise_ms;
    assert_eq!(promise, 150, "three heartbeats");
    let until = bench.driver.promised_until();
    assert_eq!(until, bench.now + 150);
    bench.pass(100);
    bench.receive(2, ask(2, (9, 1), false, true));
    bench.receive(2, ask(2, (9, 1), true, true));
    assert_eq!((bench.sent(), bench.driver.term()), (vec![], 1));
    bench.pass(60);
    bench.receive(2, ask(2, (9, 1), false, true));
    bench.durable();
    let granted = vote(2, true, false);
    assert_eq!(bench.sent(), [(2, granted)]);
}

#[test]
fn a_restarted_node_holds_the_longest_promise_of_the_process_before() {
    let driver = Driver::new(options(1), log(&voters(1), &[1])).expect("valid");
    let mut driver = driver.with_reads(lease(400));
    driver.start(1000);
    assert_eq!(driver.role(), RaftRole::Follower, "also as sole voter");
    assert_eq!(driver.promised_until(), 1400);
    driver.tick(1390);
    assert_eq!(driver.role(), RaftRole::Follower);
    let deadline = driver.deadline();
    assert!(deadline <= 1400, "{deadline}");
    driver.tick(1400);
    assert_eq!(driver.role(), RaftRole::Leader);
}

#[test]
fn a_leader_releases_promises_only_of_its_own_term() {
    let mut bench = Bench::of_three_with(lease(0), &[1, 1]);
    bench.receive(3, stamped(1, (3, 1), 9, false));
    let until = bench.driver.promised_until();
    bench.receive(3, stamped(1, (3, 1), 10, true));
    assert_eq!(
        bench.driver.promised_until(),
        bench.now,
        "{until} is given back"
    );

    bench.receive(3, stamped(1, (3, 1), 11, false));
    let until = bench.driver.promised_until();
    bench.receive(2, stamped(2, (3, 1), 1, false));
    bench.durable();
    let now = Message::TimeoutNow {
        term: 2,
        last_index: 3,
        last_term: 1,
    };
    bench.receive(2, stamped(2, (3, 1), 2, true));
    assert!(
        bench.driver.promised_until() >= until,
        "what was promised to 3 stands"
    );
    bench.receive(2, now.clone());
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    bench.pass(160);
    bench.receive(2, now);
    assert_eq!(bench.driver.role(), RaftRole::Candidate);
}

#[test]
fn before_a_transfer_a_majority_hears_that_its_promises_are_given_back() {
    let mut bench = leader(lease(0));
    bench.propose(1);
    let seq = stamps(&mut bench, 2)[0].seq;
    bench.echo(2, 5, seq, 150);
    bench.durable();
    bench.sent();
    bench.driver.transfer(bench.now, 2).expect("leads");
    bench.take();
    let released = stamps(&mut bench, 2);
    assert_eq!(
        released,
        [Stamp {
            seq: seq + 1,
            release: true
        }]
    );
    bench.echo(2, 5, seq + 1, 0);
    let asked = |(_, message): &(u64, Message)| matches!(message, Message::TimeoutNow { .. });
    assert!(bench.sent().iter().any(asked));

    // Nobody answers: it is asked all the same, a heartbeat later.
    let mut bench = leader(lease(0));
    bench.propose(1);
    let seq = stamps(&mut bench, 2)[0].seq;
    bench.echo(2, 5, seq, 150);
    bench.driver.transfer(bench.now, 2).expect("leads");
    bench.pass(40);
    assert!(!bench.sent().iter().any(asked));
    bench.pass(15);
    assert!(bench.sent().iter().any(asked));
}

#[test]
fn a_leader_that_is_cut_off_proves_nothing_to_a_reader_although_it_believes_to_lead() {
    let mut network = Network::of_voters(3, 11, World::KIND);
    assert!(network.run_until(2000, |n| n.leader().is_some()));
    network.run(50);
    let old = network.leader().expect("elected");
    network.cut.insert(old);
    let other = old % 3 + 1;
    let (term, last_index) = (network.driver(old).term(), network.driver(old).last_index());
    // Another is told to stand, so that nobody waits for the old leader's silence.
    let now = Message::TimeoutNow {
        term,
        last_index,
        last_term: term,
    };
    network
        .with(other, |driver, at| driver.receive(at, &peer(old), now))
        .expect("well formed");
    assert!(network.run_until(40, |n| n.leader() == Some(other)));
    assert!(network.driver(old).epoch().is_some(), "it believes to lead");
    let ticket = network.driver(old).read_ticket(network.now).expect("leads");
    network.with(old, |driver, now| driver.confirm(now));
    network.run(20);
    assert_ne!(network.driver(old).proof(&ticket), Proof::Proven);
    assert!(network.driver(old).epoch().is_some());
}

#[test]
fn standbys_do_not_count_for_a_proof() {
    let servers = configuration(&[
        (1, Role::Voter),
        (2, Role::Voter),
        (3, Role::Voter),
        (4, Role::Standby),
        (5, Role::Standby),
    ]);
    let mut bench = Bench::new(log(&servers, &[1, 1]));
    bench.elect();
    for id in [2, 3, 4, 5] {
        bench.echo(id, 4, 0, 0);
    }
    bench.durable();
    let ticket = ticket(&bench);
    bench.driver.confirm(bench.now);
    bench.echo(4, 4, 1, 0);
    bench.echo(5, 4, 1, 0);
    assert_eq!(bench.driver.proof(&ticket), Proof::Waiting);
}

#[test]
fn no_promise_is_given_before_its_length_is_durable() {
    let none = ReadOptions {
        promise_bound_ms: 0,
        ..lease(0)
    };
    let mut bench = Bench::of_three_with(none, &[1, 1]);
    assert_eq!(bench.driver.promise_bound_wanted(), None, "nobody asks yet");
    bench.receive(3, stamped(1, (3, 1), 9, false));
    let echo = bench.results()[0].echo.expect("ours");
    assert_eq!((echo.seq, echo.promise_ms), (9, 0));
    assert!(bench.driver.promised_until() <= bench.now);
    assert_eq!(bench.driver.promise_bound_wanted(), Some(150));
    bench.driver.set_promise_bound(150);
    assert_eq!(bench.driver.promise_bound_wanted(), None);
    bench.receive(3, stamped(1, (3, 1), 10, false));
    assert_eq!(bench.results()[0].echo.expect("ours").promise_ms, 150);
}

#[test]
fn a_longer_bound_is_lowered_when_what_was_promised_under_it_has_run_out() {
    let longer = |mode| ReadOptions {
        mode,
        promise_found_ms: 400,
        promise_bound_ms: 400,
    };
    for (mode, enough) in [
        (ReadMode::Lease, 150),
        (ReadMode::Quorum, 0),
        (ReadMode::Leader, 0),
    ] {
        let mut bench = Bench::of_three_with(longer(mode), &[1, 1]);
        bench.pass(395);
        assert_eq!(bench.driver.promise_bound_wanted(), None);
        bench.pass(5);
        assert_eq!(
            bench.driver.promise_bound_wanted(),
            Some(enough),
            "{mode:?}"
        );
        bench.driver.set_promise_bound(enough);
        assert_eq!(bench.driver.promise_bound_wanted(), None);
    }
}

#[test]
fn who_leads_alone_needs_no_bound() {
    let driver = Driver::new(options(1), log(&voters(1), &[1])).expect("valid");
    let mut bench = Bench::of(driver.with_reads(lease(400)));
    bench.pass(390);
    assert_eq!(
        bench.driver.promise_bound_wanted(),
        None,
        "it may have promised"
    );
    bench.pass(20);
    bench.durable();
    assert_eq!(bench.driver.role(), RaftRole::Leader);
    assert_eq!(bench.driver.promise_bound_wanted(), Some(0));
}

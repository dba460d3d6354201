//! Several voters.

use super::network::*;

#[test]
fn three_voters_elect_a_leader_and_all_apply_what_it_proposes() {
    let mut network = Network::of_voters(3, 1, World::KIND);
    assert!(network.run_until(2000, |n| n.leader().is_some()));
    for number in 0..20 {
        network.propose(number).expect("leads");
        network.run(3);
    }
    network.run(200);
    for id in 1..=3 {
        assert_eq!(network.applied(id), 22, "node {id}");
    }
}

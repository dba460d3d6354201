//! The harness itself: what it starts runs, what it drops is gone.

use std::net::TcpStream;

use compat_tests::servers::{self, Kind, Options, Server};

fn lives_restarts_and_dies(kind: Kind) {
    if !kind.available_or_skip() {
        return;
    }
    let mut server = Server::start_single(kind).expect("starts");
    let address = server.address().to_owned();
    assert_eq!(servers::probe_leader(&address).expect("answers"), address);

    server.stop().expect("stops cleanly");
    assert!(
        TcpStream::connect(&address).is_err(),
        "nobody listens after a stop"
    );
    server.start_again().expect("starts on the same directory");
    server.wait_leader(&address).expect("leads again");

    server.kill().expect("can be killed");
    assert!(
        TcpStream::connect(&address).is_err(),
        "nobody listens after a kill"
    );
    server.start_again().expect("starts after a crash");
    server.wait_leader(&address).expect("leads after a crash");

    let data_dir = server.data_dir();
    drop(server);
    assert!(
        TcpStream::connect(&address).is_err(),
        "drop kills the process"
    );
    assert!(!data_dir.exists(), "drop removes the directory");
}

#[test]
fn a_c_node_lives_restarts_and_dies() {
    lives_restarts_and_dies(Kind::C);
}

#[test]
fn our_node_lives_restarts_and_dies() {
    lives_restarts_and_dies(Kind::Ours);
}

#[test]
fn a_node_that_fails_to_start_is_an_error_with_its_log() {
    let options = Options {
        address: Some("256.0.0.1:1".to_owned()),
        ..Options::default()
    };
    let error = Server::start(Kind::C, options).expect_err("no such address");
    let text = error.to_string();
    assert!(text.contains("dqlite_node_set_bind_address"), "{text}");
}

#[test]
fn free_addresses_differ() {
    let first = servers::free_address().expect("a port");
    let second = servers::free_address().expect("a port");
    assert_ne!(first, second);
}

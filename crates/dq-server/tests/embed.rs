//! A node inside a program: started, used and stopped through the library.

use dq_client::{MemStore, Pool};
use dq_server::{BindAddr, Node, StartError};

fn use_it(node: &Node) {
    let store = MemStore::new([node.address()]);
    let pool = Pool::connect(store, "embedded").expect("the settings are fine");
    pool.execute("CREATE TABLE IF NOT EXISTS t (x)", ())
        .expect("created");
    pool.execute("INSERT INTO t VALUES (1)", ())
        .expect("inserted");
    let count: Vec<i64> = pool
        .query("SELECT count(*) FROM t", (), |row| row.get(0))
        .expect("read");
    assert!(count[0] >= 1);
}

#[test]
fn a_node_listens_on_ipv4_ipv6_host_names_and_abstract_sockets() {
    let abstract_name = format!("@dq-embed-{}", std::process::id());
    for address in ["127.0.0.1:0", "[::1]:0", "localhost:0", &abstract_name] {
        let dir = tempfile::tempdir().expect("a directory");
        // Clients are told this address, so it has to be the real one: find a free port first.
        let address = match BindAddr::parse(address).expect("an address") {
            BindAddr::Tcp(addr) => {
                let listener = std::net::TcpListener::bind(addr).expect("it can be bound");
                let port = listener.local_addr().expect("it is bound").port();
                address.replace(":0", &format!(":{port}"))
            }
            _ => address.to_owned(),
        };
        let node = Node::builder(1, &address, dir.path())
            .start()
            .expect("it starts");
        assert_eq!(node.address(), address);
        assert!(
            node.status().expect("it answers").leading,
            "a sole voter leads at once"
        );
        use_it(&node);
        node.stop().expect("it stops");
        // Everything is free again, and what was written is there.
        let node = Node::builder(1, &address, dir.path())
            .start()
            .expect("it starts again");
        use_it(&node);
    }
}

#[test]
fn a_directory_in_use_or_missing_and_bad_settings_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::builder(1, "127.0.0.1:0", dir.path())
        .start()
        .expect("it starts");
    let error = Node::builder(1, "127.0.0.1:0", dir.path())
        .start()
        .expect_err("it is in use");
    assert!(matches!(error, StartError::Directory(_)), "{error}");
    assert!(error.to_string().contains("lock"), "{error}");
    drop(node);

    let missing = dir.path().join("missing");
    let error = Node::builder(1, "127.0.0.1:0", &missing)
        .start()
        .expect_err("it is missing");
    assert!(error.to_string().contains("does not exist"), "{error}");

    let error = Node::builder(0, "127.0.0.1:0", dir.path())
        .start()
        .expect_err("id 0");
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let error = Node::builder(1, "127.0.0.1:0", dir.path())
        .snapshots(10, 5)
        .start();
    assert!(matches!(error, Err(StartError::Config(_))));
}

//! A start as programs start a node: with threads, on files.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use dq_server::{BOOTSTRAP_ID, BindAddr, Dial, Node, StartError};
use dq_wire::ParamsBuf;
use dq_wire::header::{Header, PROTOCOL_V1};
use dq_wire::request::Request;
use dq_wire::response::Response;

use super::begun::Files;
use crate::reached::Reached;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody is reached.
#[derive(Debug)]
struct Alone;

impl Dial for Alone {
    fn dial(&self, _: &str, _: Duration) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Starts a node on files, and asks it something.
pub(super) fn start(files: &Files, recovery: bool, reached: &mut Reached) {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a directory can be made");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).expect("a file can be made");
    }
    let started = Node::builder(BOOTSTRAP_ID, "127.0.0.1:9131", dir.path())
        .bind(BindAddr::Abstract(Vec::new()))
        .network_latency(Duration::from_millis(20))
        .auto_recovery(recovery)
        .dialer(Alone)
        .start();
    match started {
        Ok(node) => {
            reached.note("a real start");
            look(&node);
            // It may have given up by itself, on an entry that cannot be applied.
            let _ = node.stop();
        }
        Err(error) => {
            reached.note("a real start is refused");
            assert!(!error.to_string().is_empty());
            if matches!(error, StartError::Directory(_) | StartError::Recover(_)) && !recovery {
                for (name, content) in files {
                    let now = std::fs::read(dir.path().join(name)).unwrap_or_default();
                    assert!(now == *content, "{name} was changed, and then: {error}");
                }
            }
        }
    }
}

/// Asks who leads, and reads a database if it is this node.
fn look(node: &Node) {
    let BindAddr::Abstract(name) = node.local_addr() else {
        return;
    };
    let Ok(mut stream) =
        SocketAddr::from_abstract_name(name).and_then(|addr| UnixStream::connect_addr(&addr))
    else {
        return;
    };
    let patient = stream.set_read_timeout(Some(PATIENCE));
    patient.expect("a socket has this option");
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    let none = ParamsBuf::default();
    let params = none.as_params();
    let (name, vfs): (&[u8], &[u8]) = (b"test.db", b"");
    let open = Request::Open {
        name,
        flags: 0,
        vfs,
    };
    let sql = b"SELECT * FROM sqlite_schema";
    let tables = Request::QuerySql {
        db: 0,
        sql,
        params: params.clone(),
    };
    let sql = b"PRAGMA integrity_check(1)";
    let check = Request::QuerySql { db: 0, sql, params };
    let requests = [Request::Leader, open, tables, check];
    for request in &requests {
        request.encode(&mut bytes);
    }
    if stream.write_all(&bytes).is_err() {
        return;
    }
    for _ in &requests {
        let mut head = [0; Header::SIZE];
        if let Err(error) = stream.read_exact(&mut head) {
            // The node gives up if what it has cannot be applied; silence is another matter.
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no answer");
            return;
        }
        let header = Header::decode(&head).expect("8 bytes");
        let mut body = Vec::new();
        let size = header.body_size();
        if (&stream).take(size).read_to_end(&mut body).is_err() || body.len() as u64 != size {
            return;
        }
        Response::decode(&header, &body).expect("answers can be decoded");
    }
}

//! Asks members how they are, over the client protocol, on a thread per question.

use std::io::{self, Read, Write};
use std::time::Duration;

use dq_wire::header::{Header, PROTOCOL_V1};
use dq_wire::{Request, Response};

use super::dial::Way;
use super::mailbox::{Mail, Mailbox};
use crate::node::Polled;

/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Starts a round of questions; the answers arrive as mail, together.
pub fn start(way: Way, mailbox: Mailbox, members: Vec<(u64, String)>) {
    let silent = members
        .iter()
        .map(|(id, _)| Polled {
            id: *id,
            answer: None,
        })
        .collect();
    let failed = mailbox.clone();
    let round = move || {
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = members
                .iter()
                .map(|(id, address)| (*id, scope.spawn(|| describe(&way, address))))
                .collect();
            asked
                .into_iter()
                .map(|(id, thread)| {
                    let answer = thread.join().ok().and_then(Result::ok);
                    Polled { id, answer }
                })
                .collect()
        });
        mailbox.send(Mail::Polled(answers));
    };
    if std::thread::Builder::new()
        .name("dq-poll".to_owned())
        .spawn(round)
        .is_err()
    {
        failed.send(Mail::Polled(silent));
    }
}

/// Failure domain and weight of the node at `address`.
fn describe(way: &Way, address: &str) -> io::Result<(u64, u64)> {
    let mut stream = way.open(address, PATIENCE)?;
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Describe { format: 0 }.encode(&mut bytes);
    stream.write_all(&bytes)?;
    let mut head = [0; Header::SIZE];
    stream.read_exact(&mut head)?;
    let header = Header::decode(&head).map_err(io::Error::other)?;
    let size = header.checked_body_size(4096).map_err(io::Error::other)?;
    let mut body = vec![0; size];
    stream.read_exact(&mut body)?;
    match Response::decode(&header, &body).map_err(io::Error::other)? {
        Response::Metadata {
            failure_domain,
            weight,
        } => Ok((failure_domain, weight)),
        _ => Err(io::Error::other("not an answer to DESCRIBE")),
    }
}

//! The outbound side of raft: one stream to each other node, written to and never read.
//!
//! ```text
//!   idle ──message──▶ dialling ──▶ connected ──write fails──▶ idle
//!                        └──fails──▶ waiting, a second ──▶ dialling
//! ```
//!
//! Raft repeats what is lost, so nothing here tries hard: while there is no stream only the newest
//! messages are kept, and a peer that takes nothing for long is cut off when its queue is full. A
//! snapshot goes over a stream of its own, so that heartbeats overtake it.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::dial::{Introduction, Link, Way};
use super::listener::Stream;
use super::mailbox::{Mail, Mailbox};
use super::poll;
use super::socket::Socket;
use crate::conn::ConnId;

/// Wait between two attempts to reach a node, as with C dqlite.
const RETRY_MS: u64 = 1000;

/// Messages kept for a node that is not connected.
const MESSAGES_UNCONNECTED: usize = 8;

/// Bytes queued for a connected node above which it is cut off, and kept for one that is not connected; a
/// single larger message passes.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// What an event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// Of no stream of ours.
    Other,
    /// There is nothing to do.
    Nothing,
    /// The stream to this peer has ended.
    Lost(u64),
}

/// All peers.
#[derive(Debug)]
pub struct Peers {
    way: Way,
    us: Introduction,
    mailbox: Mailbox,
    peers: BTreeMap<u64, Peer>,
    tokens: BTreeMap<ConnId, u64>,
    attempts: u64,
}

#[derive(Debug)]
struct Peer {
    address: String,
    state: State,
    waiting: VecDeque<Vec<Bytes>>,
    /// What the log was last told about its TLS.
    complaint: String,
}

#[derive(Debug)]
enum State {
    Idle {
        retry_at: u64,
    },
    Dialling {
        attempt: u64,
    },
    Connected {
        token: ConnId,
        socket: Socket,
        since: u64,
    },
}

impl Peer {
    /// Tells the log what is wrong: once, if it is TLS, which somebody has to mend.
    fn complain(&mut self, id: u64, error: &io::Error) {
        let complaint = error.to_string();
        let is_news = error.kind() == io::ErrorKind::InvalidData && complaint != self.complaint;
        let level = if is_news {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        log::log!(level, "peer {id} at {}: {complaint}", self.address);
        if is_news {
            self.complaint = complaint;
        }
    }
}

impl Peers {
    /// Peers, none of them known yet.
    pub fn new(way: Way, us: Introduction, mailbox: Mailbox) -> Peers {
        Peers {
            way,
            us,
            mailbox,
            peers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            attempts: 0,
        }
    }

    /// Queues a message for a peer. False if it was cut off because its queue is full. One that is
    /// `numbered` is made for whoever is at the other end now: it does not wait for the next stream.
    pub fn send(
        &mut self,
        now: u64,
        to: u64,
        address: &str,
        pieces: Vec<Bytes>,
        numbered: bool,
    ) -> bool {
        let changed = self
            .peers
            .get(&to)
            .is_some_and(|peer| peer.address != address);
        if changed {
            self.drop_peer(to);
        }
        let peer = self.peers.entry(to).or_insert_with(|| Peer {
            address: address.to_owned(),
            state: State::Idle { retry_at: now },
            waiting: VecDeque::new(),
            complaint: String::new(),
        });
        match &mut peer.state {
            State::Connected { socket, .. } => {
                let size: usize = pieces.iter().map(Bytes::len).sum();
                if !socket.is_flushed() && socket.queued_bytes() + size > QUEUE_BYTES_MAX {
                    log::warn!("peer {to} at {address} takes nothing: cut off");
                    self.disconnect(to, now);
                    return false;
                }
                for piece in pieces {
                    socket.push(piece);
                }
            }
            State::Idle { .. } | State::Dialling { .. } if numbered => {}
            State::Idle { .. } | State::Dialling { .. } => {
                peer.waiting.push_back(pieces);
                limit(&mut peer.waiting);
            }
        }
        self.dial_if_due(to, now);
        true
    }

    /// When [`tick`](Peers::tick) has something to do.
    pub fn deadline(&self) -> Option<u64> {
        let due = |peer: &Peer| match peer.state {
            State::Idle { retry_at } if !peer.waiting.is_empty() => Some(retry_at),
            _ => None,
        };
        self.peers.values().filter_map(due).min()
    }

    /// Dials who is due.
    pub fn tick(&mut self, now: u64) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        for id in ids {
            self.dial_if_due(id, now);
        }
    }

    fn dial_if_due(&mut self, id: u64, now: u64) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match peer.state {
            State::Idle { retry_at } if retry_at <= now && !peer.waiting.is_empty() => {}
            _ => return,
        }
        self.attempts += 1;
        let attempt = self.attempts;
        peer.state = State::Dialling { attempt };
        let (way, us) = (self.way.clone(), self.us.clone());
        let (address, mailbox) = (peer.address.clone(), self.mailbox.clone());
        // A dial may take as long as the application's function likes; when we no longer wait for
        // it, its stream is closed as it arrives.
        let spawned = std::thread::Builder::new()
            .name(format!("dq-dial-{id}"))
            .spawn(move || {
                let stream = way.introduce(&address, &us);
                mailbox.send(Mail::Dialled(id, attempt, stream));
            });
        if let Err(error) = spawned {
            log::warn!("cannot dial peer {id}: {error}");
            peer.state = State::Idle {
                retry_at: now + RETRY_MS,
            };
        }
    }

    /// A dial has ended. `token` is for the stream, if there is one. True if there is a new one.
    pub fn dialled(
        &mut self,
        now: u64,
        id: u64,
        attempt: u64,
        link: io::Result<Link>,
        token: ConnId,
        registry: &Registry,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        if !matches!(peer.state, State::Dialling { attempt: current } if current == attempt) {
            return false;
        }
        let connected = link.and_then(|link| {
            let (stream, tls) = link.into_parts()?;
            let stream = mio::net::TcpStream::from_std(stream);
            let mut socket = Socket::new(Stream::Tcp(stream), tls);
            let token = usize::try_from(token).map_err(io::Error::other)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(socket.source(), Token(token), interest)?;
            Ok(socket)
        });
        match connected {
            Ok(mut socket) => {
                log::debug!("connected to peer {id} at {}", peer.address);
                for piece in peer.waiting.drain(..).flatten() {
                    socket.push(piece);
                }
                peer.state = State::Connected {
                    token,
                    socket,
                    since: now,
                };
                self.tokens.insert(token, id);
                true
            }
            Err(error) => {
                peer.complain(id, &error);
                peer.state = State::Idle {
                    retry_at: now + RETRY_MS,
                };
                false
            }
        }
    }

    /// Sends what is queued. Returns the peers that were lost.
    pub fn flush(&mut self, now: u64) -> Vec<u64> {
        let mut lost = Vec::new();
        for (&id, peer) in &mut self.peers {
            if let State::Connected { socket, .. } = &mut peer.state
                && !socket.is_flushed()
                && socket.flush().is_err()
            {
                lost.push(id);
            }
        }
        for &id in &lost {
            self.disconnect(id, now);
        }
        lost
    }

    /// Something happened on a stream, perhaps one of ours.
    pub fn event(&mut self, now: u64, token: ConnId, event: &Event) -> Noticed {
        let Some(&id) = self.tokens.get(&token) else {
            return Noticed::Other;
        };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            // Peers never send on a stream that we have opened: all there can be is its end.
            let Some(Peer {
                state: State::Connected { socket, .. },
                ..
            }) = self.peers.get_mut(&id)
            else {
                return Noticed::Nothing;
            };
            let mut byte = [0; 64];
            match socket.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.complain(id, &error);
                    }
                    self.disconnect(id, now);
                    return Noticed::Lost(id);
                }
                Ok(_) => {
                    self.disconnect(id, now);
                    return Noticed::Lost(id);
                }
            }
        }
        Noticed::Nothing
    }

    fn disconnect(&mut self, id: u64, now: u64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let mut retry_at = now;
            if let State::Connected {
                token,
                socket,
                since,
            } = &peer.state
            {
                self.tokens.remove(token);
                // The other side may judge our certificate after we have connected: what ends at once is
                // not tried again at once.
                if socket.is_secured() {
                    retry_at = now.max(since + RETRY_MS);
                }
            }
            peer.state = State::Idle { retry_at };
        }
    }

    fn drop_peer(&mut self, id: u64) {
        self.disconnect(id, 0);
        self.peers.remove(&id);
    }

    /// Asks members how they are.
    pub fn poll(&self, members: Vec<(u64, String)>) {
        poll::start(self.way.clone(), self.mailbox.clone(), members);
    }

    /// Opens a stream of its own for a snapshot; the returned parts go to a thread.
    pub fn snapshot_stream(&self) -> (Way, Introduction, Mailbox) {
        (self.way.clone(), self.us.clone(), self.mailbox.clone())
    }
}

/// Forgets the oldest of too many messages.
fn limit(waiting: &mut VecDeque<Vec<Bytes>>) {
    let mut bytes: usize = waiting.iter().flatten().map(Bytes::len).sum();
    while waiting.len() > MESSAGES_UNCONNECTED || waiting.len() > 1 && bytes > QUEUE_BYTES_MAX {
        let oldest = waiting.pop_front().unwrap_or_default();
        bytes -= oldest.iter().map(Bytes::len).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::dial::PlainDialer;
    use super::*;

    #[test]
    fn a_numbered_message_does_not_wait_for_the_next_stream() {
        let poll = mio::Poll::new().expect("made");
        let waker = mio::Waker::new(poll.registry(), Token(0)).expect("made");
        let (mailbox, _mail) = Mailbox::new(waker);
        let us = Introduction::new(1, "127.0.0.1:1");
        let way = Way::new(Arc::new(PlainDialer), None);
        let mut peers = Peers::new(way, us, mailbox);
        for numbered in [true, false, true] {
            let pieces = vec![Bytes::from_static(b"append")];
            // Nobody listens at this port, but nobody looks at the outcome of the dial either.
            assert!(peers.send(0, 2, "127.0.0.1:1", pieces, numbered));
        }
        assert_eq!(peers.peers[&2].waiting.len(), 1);
    }

    #[test]
    fn few_messages_and_bytes_wait_for_a_node_that_is_not_there() {
        let large = Bytes::from(vec![0; QUEUE_BYTES_MAX / 2]);
        let mut waiting = VecDeque::new();
        for count in 1..20 {
            waiting.push_back(vec![Bytes::from_static(b"heartbeat"); 2]);
            limit(&mut waiting);
            assert_eq!(waiting.len(), count.min(MESSAGES_UNCONNECTED));
        }
        for _ in 0..3 {
            waiting.push_back(vec![large.clone()]);
            limit(&mut waiting);
        }
        assert_eq!(waiting.len(), 2, "as many as fit");
        waiting.push_back(vec![large.clone(), large.clone(), large]);
        limit(&mut waiting);
        assert_eq!(waiting.len(), 1, "the newest, however large");
    }
}

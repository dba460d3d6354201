//! What connections hold of this node's memory, and who has to give when it is too much.
//!
//! Three sums over all connections of clients, each with the bound [`Settings::client_memory_max`]:
//! bytes of requests, from the first byte of one until its answer is there; bytes of answers, until they
//! have left; and what prepared statements take, about. None can be bounded per connection alone:
//! thousands of connections that are each allowed one large request, sent in part, hold thousands of
//! large requests. Messages that arrive from other nodes are a sum of their own, with the bound
//! [`Settings::peer_memory_max`]: a large entry is as large as a transaction may be, and must arrive
//! whatever clients do.
//!
//! Whoever holds most gives first, so small requests go on next to hoarders. Who is still sending a
//! request is told that it is refused, and the rest of it is skipped as it comes: the connection
//! stays in step and can go on. Everybody else who has to give is cut. Of answers, and of messages, a
//! single one is let through, however large.
//!
//! Not counted: pages of databases, which are shared, and what SQLite needs. Nor the first 16 KiB of
//! answers per connection: of those the node does not ask whether they have left.
//!
//! [`Settings::client_memory_max`]: crate::config::Settings::client_memory_max
//! [`Settings::peer_memory_max`]: crate::config::Settings::peer_memory_max

use std::collections::VecDeque;

use bytes::BytesMut;
use dq_wire::header::Header;

use super::{Machine, Output};
use crate::conn::{Conn, ConnId, Held, Stage, UNSENT_BYTES};
use crate::error::CROWDED;

impl Machine {
    /// Counts a connection's bytes anew, after they may have changed.
    pub(super) fn recount(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let now = conn.held();
        let before = std::mem::replace(&mut conn.counted, now);
        self.uncount(before);
        self.held.requests += now.requests;
        self.held.answers += now.answers;
        self.held.peers += now.peers;
        self.held.statements += now.statements;
    }

    /// A connection holds this no more.
    pub(super) fn uncount(&mut self, held: Held) {
        self.held.requests -= held.requests;
        self.held.answers -= held.answers;
        self.held.peers -= held.peers;
        self.held.statements -= held.statements;
    }

    /// Makes those who hold most give, until what is left is within bounds.
    pub(super) fn make_room(&mut self, out: &mut VecDeque<Output>) {
        let max = self.settings.client_memory_max;
        while self.held.requests > max {
            let waiting = |conn: &Conn| match conn.stage {
                Stage::Peer { .. } => 0,
                Stage::Handshake | Stage::Client { .. } => conn.buffer.len(),
            };
            let largest = self.conns.iter().max_by_key(|(_, conn)| waiting(conn));
            let Some((id, conn)) = largest.filter(|(_, conn)| waiting(conn) > 0) else {
                // The requests at work alone: these end by themselves, and no large one joins them.
                break;
            };
            let id = *id;
            let sending = conn.request.is_none() && !conn.is_backed_up();
            match (&conn.stage, Header::decode(&conn.buffer)) {
                (Stage::Client { .. }, Ok(header)) if sending => self.skip(id, &header, out),
                _ => self.cut(id, "unread requests", out),
            }
        }
        while self.held.answers > max {
            let Some(id) = self.too_large(max, |held| held.answers) else {
                break;
            };
            self.cut(id, "answers that are not read", out);
        }
        while self.held.peers > self.settings.peer_memory_max {
            let Some(id) = self.too_large(self.settings.peer_memory_max, |held| held.peers) else {
                break;
            };
            self.cut(id, "messages of other nodes", out);
        }
        while self.held.statements > max {
            let held = |conn: &Conn| conn.counted.statements;
            let largest = self.conns.iter().max_by_key(|(_, conn)| held(conn));
            let Some(id) = largest.map(|(id, _)| *id) else {
                break;
            };
            self.cut(id, "prepared statements", out);
        }
    }

    /// Who holds most, unless that is the only large thing, and the rest is within bounds.
    fn too_large(&self, max: usize, of: impl Fn(&Held) -> usize) -> Option<ConnId> {
        let largest = self.conns.iter().max_by_key(|(_, conn)| of(&conn.counted));
        let (id, conn) = largest?;
        let sizes = || self.conns.values().map(|conn| of(&conn.counted));
        let rest = sizes().sum::<usize>() - of(&conn.counted);
        let others = sizes().filter(|size| *size > UNSENT_BYTES).nth(1).is_some();
        (others || rest > max).then_some(*id)
    }

    /// Refuses the request that is arriving on a connection, of which the header is here.
    fn skip(&mut self, id: ConnId, header: &Header, out: &mut VecDeque<Output>) {
        log::warn!(
            "node {}: a request of {} bytes is refused: requests fill the memory set aside for them",
            self.settings.id,
            header.body_size()
        );
        if let Some(conn) = self.conns.get_mut(&id) {
            let here = conn.buffer.len().saturating_sub(Header::SIZE) as u64;
            conn.skip = header.body_size().saturating_sub(here);
            conn.buffer = BytesMut::new();
        }
        self.refuse_with(id, &CROWDED, out);
        self.recount(id);
    }

    /// Ends a connection at once, with all that waits on it. A request at work goes on for its effect.
    fn cut(&mut self, id: ConnId, of: &str, out: &mut VecDeque<Output>) {
        log::warn!(
            "node {}: connection {id} is cut: {of} fill the memory set aside for them",
            self.settings.id
        );
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.buffer = BytesMut::new();
            conn.owed = 0;
            if let Some(session) = &mut conn.session {
                // They go with the session, which a request at work may still need.
                session.statements = 0;
            }
            if let Some(crate::conn::Phase::Held { answer, .. }) =
                conn.request.as_mut().map(|request| &mut request.phase)
            {
                answer.clear();
            }
        }
        out.push_back(Output::Cut(id));
        self.recount(id);
        self.closed(id, out);
    }
}

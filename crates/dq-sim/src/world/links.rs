//! Bytes under way: delays, cuts, ends.

use super::*;
use crate::c_node::CMail;

impl World {
    pub(super) fn node_at(&self, address: &str) -> Option<usize> {
        self.nodes
            .iter()
            .position(|slot| slot.us.address == address)
    }

    pub(super) fn is_reachable(&self, from: Site, to: usize) -> bool {
        self.nodes[to].runs() && self.net.reaches(from, to) && self.net.reaches(to, from)
    }

    pub(super) fn delay(&mut self) -> u64 {
        let (shortest, longest) = self.plan.delay;
        // Now and then a message is much later than the others.
        let factor = if self.rng.chance(10) { 10 } else { 1 };
        self.rng.between(shortest, longest.max(shortest)) * factor
    }

    pub(super) fn open_link(&mut self, ours: End, site: Site, there: usize) -> LinkId {
        let theirs = End::Accepted {
            node: there,
            life: self.nodes[there].life,
            conn: 0,
        };
        let link = self.net.open([ours, theirs], [site, there]);
        self.send(link, 0, Item::Open);
        link
    }

    pub(super) fn send(&mut self, id: LinkId, lane: usize, item: Item) {
        let delay = self.delay();
        let Some(link) = self.net.links.get_mut(id) else {
            return;
        };
        let lane_state = &mut link.lanes[lane];
        let before = lane_state.items.back().map_or(0, |(at, _)| *at);
        let at = before.max(self.now + delay);
        lane_state.items.push_back((at, item));
        if !lane_state.scheduled {
            lane_state.scheduled = true;
            self.at(at, Event::Deliver(id, lane));
        }
    }

    /// Whoever was at `end` has closed the link; the other side gets what was sent, then its end.
    pub(super) fn hang_up(&mut self, id: LinkId, end: usize) {
        self.send(id, end, Item::Eof);
        if let Some(link) = self.net.links.get_mut(id) {
            link.ends[end] = End::Gone;
        }
    }

    pub(super) fn pause(&mut self, id: Option<LinkId>, paused: bool) {
        let Some(id) = id else { return };
        let Some(link) = self.net.links.get_mut(id) else {
            return;
        };
        link.lanes[0].paused = paused;
        if !paused && !link.lanes[0].scheduled && !link.lanes[0].items.is_empty() {
            link.lanes[0].scheduled = true;
            self.after(1, Event::Deliver(id, 0));
        }
    }

    pub(super) fn deliver(&mut self, id: LinkId, lane: usize) {
        let Some(link) = self.net.links.get_mut(id) else {
            return;
        };
        let (from, to) = (link.sites[lane], link.sites[1 - lane]);
        let state = &mut link.lanes[lane];
        state.scheduled = false;
        if state.paused {
            return;
        }
        let Some(&(ready, _)) = state.items.front() else {
            return;
        };
        if !self.net.reaches(from, to) {
            // As TCP sends again and again.
            let later = self.rng.between(20, 300) * MS;
            if let Some(link) = self.net.links.get_mut(id) {
                link.lanes[lane].scheduled = true;
            }
            return self.after(later, Event::Deliver(id, lane));
        }
        let Some(link) = self.net.links.get_mut(id) else {
            return;
        };
        let state = &mut link.lanes[lane];
        if ready > self.now {
            state.scheduled = true;
            return self.at(ready, Event::Deliver(id, lane));
        }
        let Some((_, item)) = state.items.pop_front() else {
            return;
        };
        if let Some((next, _)) = state.items.front() {
            let next = *next;
            state.scheduled = true;
            self.at(next, Event::Deliver(id, lane));
        }
        self.arrive(id, 1 - lane, item);
    }

    /// Something has come to an end of a link.
    pub(super) fn arrive(&mut self, id: LinkId, end: usize, item: Item) {
        let Some(link) = self.net.links.get_mut(id) else {
            return;
        };
        match link.ends[end] {
            End::Accepted { node, life, conn } => {
                if self.nodes[node].life != life || !self.nodes[node].runs() {
                    return self.after(0, Event::Broken(id, 1 - end));
                }
                if self.nodes[node].is_c {
                    return self.c_arrive(node, id, end, conn, item);
                }
                let mail = match item {
                    Item::Open => {
                        let Some(process) = &mut self.nodes[node].process else {
                            return;
                        };
                        let conn = process.next_conn;
                        process.next_conn += 1;
                        process.accepted.insert(conn, id);
                        if let Some(link) = self.net.links.get_mut(id) {
                            link.ends[end] = End::Accepted { node, life, conn };
                        }
                        Mail::Accepted(conn)
                    }
                    Item::Bytes(bytes) => {
                        self.hash = hash(self.hash, &bytes);
                        if bytes.len() > 1 && self.rng.chance(30) {
                            // A read may end anywhere.
                            let cut = self.rng.between(1, bytes.len() as u64 - 1) as usize;
                            self.post(node, Mail::Bytes(conn, bytes.slice(..cut)));
                            let rest = bytes.slice(cut..);
                            return self.post(node, Mail::Bytes(conn, rest));
                        }
                        Mail::Bytes(conn, bytes)
                    }
                    Item::Eof => Mail::Eof(conn),
                };
                self.post(node, mail);
            }
            End::Client(client) => {
                let incoming = match item {
                    Item::Bytes(bytes) => {
                        self.hash = hash(self.hash, &bytes);
                        Incoming::Bytes(bytes)
                    }
                    Item::Open => return,
                    Item::Eof => {
                        self.net.links.remove(id);
                        Incoming::Broken
                    }
                };
                self.tell(client, id, incoming);
            }
            // Nothing is ever sent to it, but the end.
            End::Outbound { .. } => self.broken(id, end),
            End::Gone => self.after(0, Event::Broken(id, 1 - end)),
        }
    }

    /// An end learns that its link broke.
    pub(crate) fn broken(&mut self, id: LinkId, end: usize) {
        let Some(link) = self.net.links.get_mut(id) else {
            return;
        };
        let there = std::mem::replace(&mut link.ends[end], End::Gone);
        if link.ends == [End::Gone, End::Gone] {
            self.net.links.remove(id);
        }
        match there {
            End::Accepted { node, life, conn } => {
                if self.nodes[node].life == life && conn != 0 {
                    self.post(node, Mail::Closed(conn));
                    self.c_post(node, CMail::Closed(conn));
                }
            }
            End::Outbound { node, life, peer } => {
                let local = self.nodes[node].clock.millis(self.now);
                let slot = &mut self.nodes[node];
                if slot.life == life
                    && let Some(process) = &mut slot.process
                    && let Some(known) = process.peers.get_mut(&peer)
                    && known.state == PeerState::Connected(id)
                {
                    known.state = PeerState::Idle(local);
                    self.post(node, Mail::PeerLost(peer));
                } else if slot.life == life {
                    self.c_broken(node, peer, id);
                }
            }
            End::Client(client) => self.tell(client, id, Incoming::Broken),
            End::Gone => {}
        }
    }
}

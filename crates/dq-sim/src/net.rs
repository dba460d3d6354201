//! The network: links between nodes and from clients, each a pair of byte streams.
//!
//! A link delivers what is sent in order, later, or breaks: as TCP does. What is sent into a cut
//! waits until the cut ends or the link breaks. Links do not wait for each other, so messages on
//! different links overtake each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

/// Names a link; never used again in a run.
pub(crate) type LinkId = u64;

/// An end of a link, and what it means there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A client.
    Client(usize),
    /// A connection that a node has accepted, or is about to.
    Accepted {
        /// The node.
        node: usize,
        /// Which of its lives.
        life: u64,
        /// The connection's id there; 0 while it has not arrived.
        conn: u64,
    },
    /// A stream that a node has opened to send raft messages to a peer.
    Outbound {
        /// The node.
        node: usize,
        /// Which of its lives.
        life: u64,
        /// The peer's id.
        peer: u64,
    },
    /// Nobody is there any more, or somebody who has sent all there was.
    Gone,
}

/// A place in the network: nodes first, then clients.
pub(crate) type Site = usize;

/// What travels on a link.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// The link is being opened.
    Open,
    /// Bytes.
    Bytes(Bytes),
    /// This side sends no more.
    Eof,
}

/// One direction of a link.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// What is under way, and when it is there at the earliest.
    pub(crate) items: VecDeque<(u64, Item)>,
    /// The receiver does not read.
    pub(crate) paused: bool,
    /// A delivery is scheduled.
    pub(crate) scheduled: bool,
}

/// Two lanes between two ends: lane 0 from the one who opened it, lane 1 back.
#[derive(Debug)]
pub(crate) struct Link {
    /// Who opened it, and who accepted it.
    pub(crate) ends: [End; 2],
    /// Where they are.
    pub(crate) sites: [Site; 2],
    /// The lanes.
    pub(crate) lanes: [Lane; 2],
}

/// Links by their ids: the first one's is 1.
#[derive(Debug, Default)]
pub(crate) struct Links {
    all: Vec<Option<Box<Link>>>,
    /// What those that are no more leave for the next ones.
    #[expect(clippy::vec_box, reason = "they move between the two")]
    spare: Vec<Box<Link>>,
}

impl Links {
    fn add(&mut self, ends: [End; 2], sites: [Site; 2]) -> LinkId {
        let link = match self.spare.pop() {
            Some(mut link) => {
                (link.ends, link.sites) = (ends, sites);
                link
            }
            None => Box::new(Link {
                ends,
                sites,
                lanes: Default::default(),
            }),
        };
        self.all.push(Some(link));
        self.all.len() as LinkId
    }

    /// One of those that are.
    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.all.get_mut(id as usize - 1)?.as_deref_mut()
    }

    /// It is no more.
    pub(crate) fn remove(&mut self, id: LinkId) {
        let link = self.all.get_mut(id as usize - 1).and_then(Option::take);
        if let Some(mut link) = link {
            for lane in &mut link.lanes {
                lane.items.clear();
                (lane.paused, lane.scheduled) = (false, false);
            }
            self.spare.push(link);
        }
    }

    /// Ids of those that are, ascending.
    pub(crate) fn ids(&self) -> Vec<LinkId> {
        let ids = self.all.iter().zip(1..);
        ids.filter_map(|(link, id)| link.as_ref().map(|_| id))
            .collect()
    }
}

/// All links, and the cuts between sites.
#[derive(Debug, Default)]
pub(crate) struct Net {
    /// The links that are.
    pub(crate) links: Links,
    cuts: BTreeMap<u64, BTreeSet<(Site, Site)>>,
    next_cut: u64,
}

impl Net {
    /// A new link.
    pub(crate) fn open(&mut self, ends: [End; 2], sites: [Site; 2]) -> LinkId {
        self.links.add(ends, sites)
    }

    /// Whether bytes get from one site to another.
    pub(crate) fn reaches(&self, from: Site, to: Site) -> bool {
        !self.cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    /// Cuts these ways; the result names the cut.
    pub(crate) fn cut(&mut self, ways: BTreeSet<(Site, Site)>) -> u64 {
        self.next_cut += 1;
        self.cuts.insert(self.next_cut, ways);
        self.next_cut
    }

    /// Ends a cut.
    pub(crate) fn mend(&mut self, cut: u64) {
        self.cuts.remove(&cut);
    }

    /// Ends all cuts.
    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }
}

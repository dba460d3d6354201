//! Handing over a node's duties before it stops: leadership, then its vote.
//!
//! 1. If it leads, another voter that answers is made the leader. If there is none, a member that
//!    answers is made a voter first.
//! 2. If it is a voter, the new leader makes a voter of a member that is none and answers, and a
//!    spare of this node.
//!
//! As in the original, it is a failure if nobody is there to take something over; what could be
//! handed over has been by then.

use std::thread;
use std::time::{Duration, Instant};

use dq_server::Dial;
use dq_wire::{Role, Server};

use crate::client::{Client, Error, find_leader};
use crate::code::{self, error};

/// How long a new leader may take to come forth.
const ELECTION: Duration = Duration::from_secs(10);

/// Between two questions for the new leader.
const PAUSE: Duration = Duration::from_millis(50);

/// The handover of a node that runs.
#[derive(Debug)]
pub(crate) struct Handover {
    /// How to reach it and the others.
    pub(crate) dialer: Box<dyn Dial>,
    pub(crate) id: u64,
    pub(crate) address: String,
}

impl Handover {
    pub(crate) fn run(self) -> code::Result<()> {
        hand_over(&*self.dialer, self.id, &self.address)
            .map_err(|why| error(format!("handover: {why}")))
    }
}

/// Hands over what the node with this id and address does for its cluster.
fn hand_over(dialer: &dyn Dial, id: u64, address: &str) -> Result<(), Error> {
    let mut own = Client::connect(dialer, address)?;
    let mut leads = own.leader()?.is_some_and(|(leader, _)| leader == id);
    let mut members = own.members()?;
    if role_of(&members, id) != Some(Role::Voter) {
        return Ok(());
    }
    let mut promoted = false;
    if leads {
        let voter = |server: &&Server| server.role == Role::Voter;
        let next = match answering(dialer, members.iter().filter(voter), id) {
            Some(next) => next,
            None => {
                let next = candidate(dialer, &members, id)?;
                own.assign(next.id, Role::Voter)?;
                promoted = true;
                next
            }
        };
        own.transfer(next.id)?;
        leads = false;
    }
    let deadline = Instant::now() + ELECTION;
    let (mut leader, found) = loop {
        let others = members.iter().map(|server| server.address.as_str());
        match find_leader(dialer, others) {
            // Its word may be older than the transfer.
            Ok((leader, client)) if leader != id || leads => break (client, leader),
            Ok(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            Ok(_) => return Err("no other server has become leader".to_owned()),
            Err(error) => return Err(error),
        }
    };
    log::info!("node {id}: {found} leads now");
    if !promoted {
        members = leader.members()?;
        let next = candidate(dialer, &members, id)?;
        retry(deadline, || leader.assign(next.id, Role::Voter))?;
    }
    retry(deadline, || leader.assign(id, Role::Spare))
}

/// A leader takes no change before it has committed an entry of its term.
fn retry(deadline: Instant, mut step: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    loop {
        match step() {
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// Who can become a voter in place of this node; standbys first, since they have the data.
fn candidate(dialer: &dyn Dial, members: &[Server], id: u64) -> Result<Server, Error> {
    let with = |role: Role| members.iter().filter(move |server| server.role == role);
    answering(dialer, with(Role::Standby).chain(with(Role::Spare)), id)
        .ok_or_else(|| "no other server can become a voter".to_owned())
}

/// The first of these servers, other than this node, that answers.
fn answering<'a>(
    dialer: &dyn Dial,
    mut servers: impl Iterator<Item = &'a Server>,
    id: u64,
) -> Option<Server> {
    servers
        .find(|server| {
            server.id != id
                && Client::connect(dialer, &server.address)
                    .and_then(|mut client| client.leader())
                    .is_ok()
        })
        .cloned()
}

fn role_of(members: &[Server], id: u64) -> Option<Role> {
    let own = members.iter().find(|server| server.id == id);
    own.map(|server| server.role)
}

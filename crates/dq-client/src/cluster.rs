//! The cluster itself: who is in it, and changing that.

use std::time::{Duration, Instant};

use dq_wire::{Request, Response, Role};

use crate::config::Config;
use crate::conn::Conn;
use crate::error::{Error, ErrorKind, Result};
use crate::leader::{self, Connector, Leader};
use crate::store::{Member, NodeStore};
use crate::value::without_nul;

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Nodes with the same number are likely to fail together.
    pub failure_domain: u64,
    /// Nodes with a lower weight are preferred for roles.
    pub weight: u64,
}

/// A file of a database: the database itself, or its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFile {
    /// Its name; that of the WAL ends in `-wal`. A key, not to be taken for a path.
    pub name: String,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// The cluster that a node store leads to. Each call finds the leader anew and uses a connection of
/// its own.
pub struct Cluster<'c> {
    connector: Source<'c>,
    timeout: Option<Duration>,
}

enum Source<'c> {
    Owned(Box<Connector>),
    Borrowed(&'c Connector),
}

impl Cluster<'static> {
    /// The cluster whose members are in `store`. Connects to nothing yet.
    pub fn new(config: Config, store: impl NodeStore + 'static) -> Cluster<'static> {
        let timeout = config.request_timeout;
        let connector = Box::new(Connector::new(config, Box::new(store)));
        Cluster {
            connector: Source::Owned(connector),
            timeout,
        }
    }
}

impl<'c> Cluster<'c> {
    pub(crate) fn of(connector: &'c Connector) -> Cluster<'c> {
        Cluster {
            connector: Source::Borrowed(connector),
            timeout: connector.config.request_timeout,
        }
    }

    /// Changes the limit on how long a request may see no progress. Making a voter of a node that
    /// lags behind is answered when it has caught up, without a sign of life until then.
    #[must_use]
    pub fn timeout(self, timeout: Option<Duration>) -> Cluster<'c> {
        Cluster { timeout, ..self }
    }

    /// Who leads.
    ///
    /// # Errors
    /// [`ErrorKind::NoLeader`] if nobody says so in time.
    pub fn leader(&self) -> Result<Leader> {
        let mut conn = self.connect()?;
        leader::leader(&mut conn)?
            .ok_or_else(|| Error::new(ErrorKind::NoLeader, "leadership has just moved"))
    }

    /// The members, in the order in which they were added. Also puts them into the node store.
    ///
    /// # Errors
    /// No leader, or the store cannot be written.
    pub fn members(&self) -> Result<Vec<Member>> {
        let members = members(&mut self.connect()?)?;
        self.connector().store.set(&members)?;
        Ok(members)
    }

    /// Adds a node and gives it its role. It joins as a spare first, and stays one if the second
    /// step fails.
    ///
    /// # Errors
    /// The id or address is in use, another change is under way (BUSY), or the node cannot catch
    /// up.
    pub fn add(&self, id: u64, address: &str, role: Role) -> Result<()> {
        let mut conn = self.connect()?;
        empty(
            &mut conn,
            &Request::Add {
                id,
                address: without_nul(address)?,
            },
        )?;
        if role != Role::Spare {
            empty(
                &mut conn,
                &Request::Assign {
                    id,
                    role: role.to_wire(),
                },
            )?;
        }
        Ok(())
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// There is no such member, it has that role, another change is under way (BUSY), or it cannot
    /// catch up.
    pub fn assign(&self, id: u64, role: Role) -> Result<()> {
        empty(
            &mut self.connect()?,
            &Request::Assign {
                id,
                role: role.to_wire(),
            },
        )
    }

    /// Removes a member.
    ///
    /// # Errors
    /// There is no such member, or another change is under way (BUSY).
    pub fn remove(&self, id: u64) -> Result<()> {
        empty(&mut self.connect()?, &Request::Remove { id })
    }

    /// Moves leadership to a voter, or to any other voter.
    ///
    /// # Errors
    /// There is no such voter, it leads already, or it does not take over in time.
    pub fn transfer(&self, id: Option<u64>) -> Result<()> {
        // 0 is no node's id: the leader chooses.
        let result = empty(
            &mut self.connect()?,
            &Request::Transfer {
                id: id.unwrap_or(0),
            },
        );
        self.connector().forget_leader();
        result
    }

    /// What the node at `address` says of itself.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn describe(&self, address: &str) -> Result<Metadata> {
        let mut conn = self.connect_to(address)?;
        match conn.call(&Request::Describe { format: 0 })?.response {
            Response::Metadata {
                failure_domain,
                weight,
            } => Ok(Metadata {
                failure_domain,
                weight,
            }),
            _ => Err(protocol_error()),
        }
    }

    /// Sets the weight of the node at `address`, until it restarts.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn set_weight(&self, address: &str, weight: u64) -> Result<()> {
        empty(&mut self.connect_to(address)?, &Request::Weight { weight })
    }

    /// The committed state of a database, as the leader has it.
    ///
    /// # Errors
    /// There is no such database. C servers up to 1.18.2 give two empty files instead.
    pub fn dump(&self, database: &str) -> Result<Vec<DatabaseFile>> {
        dump(&mut self.connect()?, database)
    }

    /// The committed state of a database, as the node at `address` has it.
    ///
    /// # Errors
    /// It cannot be reached; else as [`Cluster::dump`].
    pub fn dump_from(&self, address: &str, database: &str) -> Result<Vec<DatabaseFile>> {
        dump(&mut self.connect_to(address)?, database)
    }

    fn connector(&self) -> &Connector {
        match &self.connector {
            Source::Owned(connector) => connector,
            Source::Borrowed(connector) => connector,
        }
    }

    fn connect(&self) -> Result<Conn> {
        let deadline: Instant = leader::deadline(self.connector().config.acquire_timeout);
        let mut conn = self.connector().connect(deadline)?;
        conn.set_timeout(self.timeout)?;
        Ok(conn)
    }

    fn connect_to(&self, address: &str) -> Result<Conn> {
        let config = &self.connector().config;
        Conn::connect(
            address,
            config.dial_timeout,
            self.timeout,
            config.tls.as_ref(),
        )
    }
}

/// Asks a server for the members.
pub(crate) fn members(conn: &mut Conn) -> Result<Vec<Member>> {
    let Response::Servers { list } = conn.call(&Request::Cluster { format: 1 })?.response else {
        return Err(protocol_error());
    };
    list.iter()
        .map(|server| {
            let address = str::from_utf8(server.address).map_err(|_| protocol_error())?;
            Ok(Member {
                id: server.id,
                address: address.to_owned(),
                role: server.role,
            })
        })
        .collect()
}

fn dump(conn: &mut Conn, database: &str) -> Result<Vec<DatabaseFile>> {
    let name = without_nul(database)?;
    let Response::Files { list } = conn.call(&Request::Dump { name })?.response else {
        return Err(protocol_error());
    };
    let file = |file: &dq_wire::response::File<'_>| DatabaseFile {
        name: String::from_utf8_lossy(file.name).into_owned(),
        data: file.data.to_vec(),
    };
    Ok(list.iter().map(file).collect())
}

/// A request that is answered with EMPTY.
fn empty(conn: &mut Conn, request: &Request<'_>) -> Result<()> {
    conn.call(request).map(|_| ())
}

fn protocol_error() -> Error {
    Error::new(ErrorKind::Protocol, "the response does not fit the request")
}

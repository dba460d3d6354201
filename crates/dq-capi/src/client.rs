//! A client of the cluster, for what a node asks of the others: one connection, one request at a
//! time, each with a limit.
//!
//! Streams come from the same function that the node reaches its peers with, which only this library
//! knows; hence a client of its own on the protocol of `dq-client`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dq_client::protocol::Protocol;
use dq_server::Dial;
use dq_wire::{Request, Response, Role, Server};

/// Time for a connection, and for each request.
pub(crate) const STEP: Duration = Duration::from_secs(5);

/// Why a request has no answer.
pub(crate) type Error = String;

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    protocol: Protocol,
    out: Vec<u8>,
}

impl Client {
    /// Connects to the server at an address.
    pub(crate) fn connect(dialer: &dyn Dial, address: &str) -> Result<Client, Error> {
        let fd = dialer.dial(address, STEP).map_err(text)?;
        // Any stream socket is read, written and closed alike; this type's writes raise no signal.
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(false).map_err(text)?;
        stream.set_write_timeout(Some(STEP)).map_err(text)?;
        let mut out = Vec::new();
        let protocol = Protocol::new(&mut out);
        Ok(Client {
            stream,
            protocol,
            out,
        })
    }

    /// The leader that this server knows: id and address.
    pub(crate) fn leader(&mut self) -> Result<Option<(u64, String)>, Error> {
        self.call(&Request::Leader, |response| match response {
            Response::Server { id: 0, .. } => Some(None),
            Response::Server { id, address } => Some(Some((*id, lossy(address)))),
            _ => None,
        })
    }

    /// The members, as this server knows them.
    pub(crate) fn members(&mut self) -> Result<Vec<Server>, Error> {
        self.call(&Request::Cluster { format: 1 }, |response| match response {
            Response::Servers { list } => Some(
                list.iter()
                    .map(|entry| Server {
                        id: entry.id,
                        address: lossy(entry.address),
                        role: entry.role,
                    })
                    .collect(),
            ),
            _ => None,
        })
    }

    /// Adds a member, a spare. Leader only.
    pub(crate) fn add(&mut self, id: u64, address: &str) -> Result<(), Error> {
        let address = address.as_bytes();
        self.command(&Request::Add { id, address })
    }

    /// Gives a member a role. Leader only.
    pub(crate) fn assign(&mut self, id: u64, role: Role) -> Result<(), Error> {
        let role = role.to_wire();
        self.command(&Request::Assign { id, role })
    }

    /// Makes another voter the leader. Leader only.
    pub(crate) fn transfer(&mut self, id: u64) -> Result<(), Error> {
        self.command(&Request::Transfer { id })
    }

    fn command(&mut self, request: &Request<'_>) -> Result<(), Error> {
        self.call(request, |response| {
            matches!(response, Response::Empty).then_some(())
        })
    }

    fn call<T>(
        &mut self,
        request: &Request<'_>,
        read: impl FnOnce(&Response<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + STEP;
        self.protocol.send(request, &mut self.out);
        self.stream.write_all(&self.out).map_err(text)?;
        self.out.clear();
        while !self.protocol.is_ready().map_err(text)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("no answer in time".to_owned());
            }
            self.stream.set_read_timeout(Some(left)).map_err(text)?;
            match self.stream.read(self.protocol.spare()).map_err(text)? {
                0 => return Err("the connection was closed".to_owned()),
                count => self.protocol.filled(count),
            }
        }
        let reply = self.protocol.reply().map_err(text)?;
        match reply.map(|reply| reply.response) {
            Some(Response::Failure { message, .. }) => Err(lossy(message)),
            Some(response) => read(&response).ok_or_else(|| "an unexpected answer".to_owned()),
            None => Err("no answer".to_owned()),
        }
    }
}

/// The leader according to the first of these servers that knows one, and a connection to it.
pub(crate) fn find_leader<'a>(
    dialer: &dyn Dial,
    addresses: impl IntoIterator<Item = &'a str>,
) -> Result<(u64, Client), Error> {
    let mut last = "no server is known".to_owned();
    for address in addresses {
        match leader_through(dialer, address) {
            Ok(found) => return Ok(found),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

fn leader_through(dialer: &dyn Dial, address: &str) -> Result<(u64, Client), Error> {
    let mut client = Client::connect(dialer, address)?;
    let (id, leader) = client.leader()?.ok_or("no leader is known")?;
    if leader != address {
        client = Client::connect(dialer, &leader)?;
        // It may have stopped leading since.
        match client.leader()? {
            Some((now, _)) if now == id => {}
            _ => return Err("leadership has just moved".to_owned()),
        }
    }
    Ok((id, client))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn text(error: impl std::fmt::Display) -> Error {
    error.to_string()
}

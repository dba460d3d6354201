//! One `dqlite_server`: a node that remembers who it is, and who the others are.
//!
//! ```text
//!   server-info   v1, address, id              written once, before the cluster hears of us
//!   node-store    v1, (address, id, role) ...  the members as heard last, renewed every 30 s
//! ```
//!
//! The files are the original's. What is done differently:
//!
//! - Servers manage their roles: a server that joins does not stay a spare while voters are missing.
//! - A restart does not wait for a leader, of which there is none when a whole cluster starts.
//! - A start that was cut short is gone on with: the bootstrap server knows the cluster from its log,
//!   and a server that has no list of members has yet to join.
//! - The list is renewed after a second start of the same object too.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dq_client::{FileStore, Member, NodeStore};
use dq_server::{BOOTSTRAP_ID, Dial};
use dq_wire::Role;

use crate::client::{self, find_leader};
use crate::code::{Result, error, misuse};
use crate::dial::{ConnectFn, Dialer};
use crate::handover::Handover;
use crate::ident;
use crate::node::{NodeObject, wall_nanos};

/// Between two looks at the list of members.
const REFRESH: Duration = Duration::from_secs(30);

/// Between two attempts to get it while there is no leader.
const RETRY: Duration = Duration::from_millis(500);

/// How long a new server tries to join before its start fails.
const JOIN: Duration = Duration::from_secs(5);

/// A server as C sees it.
#[derive(Debug)]
pub(crate) struct ServerObject {
    dir: PathBuf,
    address: Option<String>,
    bootstrap: bool,
    join: Vec<String>,
    bind: Option<String>,
    connect: Option<Connect>,
    /// Read by others while a start is under way.
    id: Arc<AtomicU64>,
    running: Option<Running>,
    /// Stopped nodes: calls of the connect function for them may still be under way.
    stopped: Vec<NodeObject>,
}

#[derive(Debug, Clone, Copy)]
struct Connect {
    function: ConnectFn,
    arg: *mut c_void,
}

// SAFETY: the header says that the function is called from any thread with this argument.
unsafe impl Send for Connect {}

#[derive(Debug)]
struct Running {
    node: NodeObject,
    refresher: Refresher,
}

/// What `server-info` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Info {
    address: String,
    id: u64,
}

impl ServerObject {
    pub(crate) fn new(dir: PathBuf) -> ServerObject {
        ServerObject {
            dir,
            address: None,
            bootstrap: false,
            join: Vec::new(),
            bind: None,
            connect: None,
            id: Arc::default(),
            running: None,
            stopped: Vec::new(),
        }
    }

    pub(crate) fn set_address(&mut self, address: String) -> Result<()> {
        self.must_not_run()?;
        self.address = Some(address);
        Ok(())
    }

    pub(crate) fn set_bootstrap(&mut self, on: bool) -> Result<()> {
        self.must_not_run()?;
        self.bootstrap = on;
        Ok(())
    }

    pub(crate) fn add_to_join(&mut self, addresses: Vec<String>) -> Result<()> {
        self.must_not_run()?;
        self.join.extend(addresses);
        Ok(())
    }

    pub(crate) fn set_bind(&mut self, address: String) -> Result<()> {
        self.must_not_run()?;
        self.bind = Some(address);
        Ok(())
    }

    pub(crate) fn set_connect(&mut self, function: ConnectFn, arg: *mut c_void) -> Result<()> {
        self.must_not_run()?;
        self.connect = Some(Connect { function, arg });
        Ok(())
    }

    /// Its id, as it will be: 0 before the first start.
    pub(crate) fn id(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.id)
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.must_not_run()?;
        let store = FileStore::new(self.dir.join("node-store"));
        let mut members = store.get().map_err(|why| error(why.to_string()))?;
        let found = read_info(&self.dir)?;
        if found.is_none() && (!members.is_empty() || (self.bootstrap && !self.join.is_empty())) {
            return Err(error("a new server has no list of members"));
        }
        let info = match &found {
            Some(info) => info.clone(),
            None => self.make_info()?,
        };
        let mut node = NodeObject::new(info.id, info.address.clone(), self.dir.clone());
        node.probe()?;
        node.bind(self.bind.as_deref().unwrap_or(&info.address))?;
        node.set_dialer(self.connect.map(|c| Dialer::new(c.function, c.arg)))?;
        node.enable_role_management()?;
        node.start()?;
        self.id.store(info.id, Ordering::Relaxed);

        let joins = info.id != BOOTSTRAP_ID && members.is_empty();
        let made = (|| {
            if found.is_none() {
                write_info(&self.dir, &info)
                    .map_err(|why| error(format!("cannot write server-info: {why}")))?;
            }
            if joins {
                members = join(&*node.dialing(), &info, &self.join)?;
            } else if members.is_empty() {
                members = vec![Member {
                    id: info.id,
                    address: info.address.clone(),
                    role: Role::Voter,
                }];
            }
            store
                .set(&members)
                .map_err(|why| error(format!("cannot write node-store: {why}")))
        })();
        if let Err(failure) = made {
            // Why it did not start matters more than how it stopped.
            let _ = node.stop();
            self.stopped.push(node);
            return Err(failure);
        }
        let refresher = Refresher::start(node.dialing(), store, info);
        self.running = Some(Running { node, refresher });
        Ok(())
    }

    pub(crate) fn handover(&self) -> Result<Handover> {
        match &self.running {
            Some(running) => running.node.handover(),
            None => Err(misuse("the server does not run")),
        }
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else {
            return Err(misuse("the server does not run"));
        };
        running.refresher.stop();
        let result = running.node.stop();
        self.stopped.push(running.node);
        result
    }

    /// Stops it if it runs, and waits until the program's connect function has returned.
    pub(crate) fn end(mut self) {
        if self.running.is_some()
            && let Err(failure) = self.stop()
        {
            let id = self.id.load(Ordering::Relaxed);
            log::error!("server {id}: {}", failure.message);
        }
        for node in self.stopped {
            node.end();
        }
    }

    fn make_info(&self) -> Result<Info> {
        let address = match &self.address {
            Some(address) if !address.is_empty() && !address.contains('\n') => address.clone(),
            _ => return Err(misuse("a new server needs an address")),
        };
        let id = if self.bootstrap {
            BOOTSTRAP_ID
        } else {
            ident::node_id(address.as_bytes(), wall_nanos())
        };
        Ok(Info { address, id })
    }

    fn must_not_run(&self) -> Result<()> {
        match self.running {
            Some(_) => Err(misuse("the server runs")),
            None => Ok(()),
        }
    }
}

/// Has a new server added to the cluster that one of these addresses belongs to. Returns its
/// members.
fn join(dialer: &dyn Dial, info: &Info, contacts: &[String]) -> Result<Vec<Member>> {
    let deadline = Instant::now() + JOIN;
    loop {
        match fetch(dialer, info, contacts, true) {
            Ok(members) => return Ok(members),
            Err(why) if Instant::now() + RETRY > deadline => {
                return Err(error(format!("cannot join: {why}")));
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
}

/// Asks the leader for the members and, if `add`, to add us if we are none.
fn fetch(
    dialer: &dyn Dial,
    info: &Info,
    contacts: &[String],
    add: bool,
) -> std::result::Result<Vec<Member>, client::Error> {
    let (_, mut leader) = find_leader(dialer, contacts.iter().map(String::as_str))?;
    let mut servers = leader.members()?;
    if add && !servers.iter().any(|server| server.id == info.id) {
        leader.add(info.id, &info.address)?;
        servers = leader.members()?;
    }
    Ok(servers
        .into_iter()
        .map(|server| Member {
            id: server.id,
            address: server.address,
            role: server.role,
        })
        .collect())
}

/// Renews the list of members, on a thread of its own.
#[derive(Debug)]
struct Refresher {
    stop: Sender<()>,
    /// False once the server is stopped. The thread may still wait for a connection then, but it
    /// leaves the file alone, which the next start may be writing to.
    may_write: Arc<Mutex<bool>>,
}

impl Refresher {
    fn start(dialer: Box<dyn Dial>, store: FileStore, info: Info) -> Refresher {
        let (stop, stopped) = mpsc::channel();
        let may_write = Arc::new(Mutex::new(true));
        let allowed = Arc::clone(&may_write);
        let run = move || {
            let mut pause = Duration::ZERO;
            // Whoever removed us later wants us to be gone.
            let mut add = true;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
                pause = match refresh(&*dialer, &store, &info, add, &allowed) {
                    Ok(()) => {
                        add = false;
                        REFRESH
                    }
                    Err(why) => {
                        log::debug!("server {}: list of members: {why}", info.id);
                        RETRY
                    }
                };
            }
        };
        let spawned = thread::Builder::new()
            .name("dq-refresh".to_owned())
            .spawn(run);
        if let Err(why) = spawned {
            log::warn!("the list of members is not renewed: {why}");
        }
        Refresher { stop, may_write }
    }

    fn stop(&self) {
        // A thread that could not be started takes no notice.
        let _ = self.stop.send(());
        *self
            .may_write
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = false;
    }
}

fn refresh(
    dialer: &dyn Dial,
    store: &FileStore,
    info: &Info,
    add: bool,
    may_write: &Mutex<bool>,
) -> std::result::Result<(), client::Error> {
    let known = store.get().map_err(|why| why.to_string())?;
    let contacts: Vec<String> = known.into_iter().map(|member| member.address).collect();
    let members = fetch(dialer, info, &contacts, add)?;
    let may_write = may_write.lock().unwrap_or_else(PoisonError::into_inner);
    if *may_write {
        store.set(&members).map_err(|why| why.to_string())?;
    }
    Ok(())
}

const INFO: &str = "server-info";

fn read_info(dir: &Path) -> Result<Option<Info>> {
    let text = match fs::read_to_string(dir.join(INFO)) {
        Ok(text) if text.is_empty() => return Ok(None),
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(error(format!("cannot read {INFO}: {why}"))),
    };
    match parse_info(&text) {
        Some(info) => Ok(Some(info)),
        None => Err(error(format!("{INFO} is damaged"))),
    }
}

fn parse_info(text: &str) -> Option<Info> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let (version, address, id) = (lines.next()?, lines.next()?, lines.next()?);
    let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    if version != "v1" || address.is_empty() || !is_number || lines.next().is_some() {
        return None;
    }
    Some(Info {
        address: address.to_owned(),
        id: id.parse().ok().filter(|id| *id != 0)?,
    })
}

/// After a crash there is the whole file, or none.
fn write_info(dir: &Path, info: &Info) -> io::Result<()> {
    let temporary = dir.join(format!("{INFO}-tmp"));
    let mut file = File::create(&temporary)?;
    write!(file, "v1\n{}\n{}\n", info.address, info.id)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(INFO))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_info_is_read_as_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_info(dir.path()).unwrap(), None);
        let info = Info {
            address: "127.0.0.1:8888".to_owned(),
            id: BOOTSTRAP_ID,
        };
        write_info(dir.path(), &info).unwrap();
        let text = fs::read_to_string(dir.path().join(INFO)).unwrap();
        assert_eq!(text, "v1\n127.0.0.1:8888\n3297041220608546238\n");
        assert_eq!(read_info(dir.path()).unwrap(), Some(info));
    }

    #[test]
    fn a_damaged_server_info_is_refused() {
        for text in [
            "v1\n",
            "v2\na\n1\n",
            "v1\na\n1",
            "v1\na\n-1\n",
            "v1\na\n0\n",
            "v1\n\n1\n",
            "v1\na\n1\nmore\n",
            "v1\na\n99999999999999999999999\n",
        ] {
            assert_eq!(parse_info(text), None, "{text:?}");
        }
    }
}

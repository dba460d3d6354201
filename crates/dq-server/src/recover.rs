//! `dq-server recover`: other members for a cluster that has lost its majority, written into the
//! directory of a survivor.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use dq_client::{NodeStore, YamlStore};
use dq_raft::log::data_dir::check_members;
use dq_raft::log::{identity, recover::analyze};
use dq_raft::{DataDir, OpenError, RecoverError, RecoverOptions};
use dq_server::fsm;
use dq_wire::disk::names::LOCK_FILE;
use dq_wire::{Configuration, Role, Server};

use crate::check;

#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The data directory of the survivor that has most; its node is stopped.
    dir: PathBuf,
    /// A member from now on, voter unless a role is given; the option can be repeated.
    #[arg(long = "member", value_name = "ID=ADDRESS[=voter|standby|spare]")]
    list: Vec<Member>,
    /// The members from now on, in a file of the form of go-dqlite's cluster.yaml.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "list",
        required_unless_present = "list"
    )]
    members: Option<PathBuf>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A member as it is written on the command line.
#[derive(Debug, Clone)]
struct Member(Server);

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Member, String> {
        let (id, rest) = text.split_once('=').ok_or("ID=ADDRESS is wanted")?;
        let id = id.parse().map_err(|_| format!("{id:?} is no id"))?;
        let (address, role) = match rest.rsplit_once('=') {
            None => (rest, Role::Voter),
            Some((address, role)) => {
                let role = match role {
                    "voter" => Role::Voter,
                    "standby" | "stand-by" => Role::Standby,
                    "spare" => Role::Spare,
                    other => return Err(format!("{other:?} is no role")),
                };
                (address, role)
            }
        };
        let address = address.to_owned();
        Ok(Member(Server { id, address, role }))
    }
}

impl Recover {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let wanted = self.wanted()?;
        let path = self.dir.display();
        let dir = DataDir::open(&self.dir).map_err(|error| locked(&error, &self.dir))?;
        let options = RecoverOptions::default();
        let analysis = analyze(dir.disk(), &options).map_err(|error| damaged(&error, &self.dir))?;
        if analysis.recovered.term == 0 {
            return Err(format!("{path}: {}", RecoverError::NeverStarted).into());
        }
        // A start reads the newest one.
        if let Some(name) = analysis.snapshots().last() {
            let examined = fsm::examine_snapshot(dir.disk(), *name);
            examined.map_err(|error| damaged(&error, &self.dir))?;
        }
        let node = identity::read(dir.disk())?;
        if let Some(id) = node
            && !wanted.servers.iter().any(|server| server.id == id)
        {
            return Err(format!(
                "{path}: this is the directory of node {id}, which is not among the new members: it \
                 has to be one of them (nothing was changed)"
            )
            .into());
        }

        let (index, term) = analysis.last_entry();
        let mut text = String::new();
        if let Some(id) = node {
            writeln!(text, "node {id}")?;
        }
        writeln!(text, "last entry: term {term}, index {index}")?;
        let old = identity::configuration(&analysis.recovered).unwrap_or(Configuration {
            servers: Vec::new(),
        });
        for (word, servers) in [("was", &old.servers), ("will be", &wanted.servers)] {
            for Server { id, address, role } in servers {
                writeln!(text, "{word}: node {id} at {address}, {role}")?;
            }
        }
        io::stdout().write_all(text.as_bytes())?;
        if self.dry_run {
            return Ok(writeln!(io::stdout(), "nothing was changed")?);
        }
        let (index, term) = dir
            .force_configuration(&wanted, &options)
            .map_err(|error| damaged(&error, &self.dir))?;
        writeln!(
            io::stdout(),
            "done: the members are entry {index}, term {term}; the other members start on copies of \
             this directory, or on empty ones"
        )?;
        Ok(())
    }

    fn wanted(&self) -> Result<Configuration, Box<dyn Error>> {
        let servers: Vec<Server> = match &self.members {
            None => self.list.iter().map(|member| member.0.clone()).collect(),
            Some(file) => {
                let members = YamlStore::new(file).get()?;
                if members.is_empty() {
                    return Err(format!("{}: no members", file.display()).into());
                }
                let server = |member: dq_client::Member| Server {
                    id: member.id,
                    address: member.address,
                    role: member.role,
                };
                members.into_iter().map(server).collect()
            }
        };
        let wanted = Configuration { servers };
        check_members(&wanted)?;
        Ok(wanted)
    }
}

/// Who uses a directory, if that is what is wrong.
pub(crate) fn locked(error: &OpenError, dir: &Path) -> String {
    let path = dir.display();
    match (error, check::holder(dir)) {
        (OpenError::Locked, Some(process)) => format!(
            "{error}: {path}/{LOCK_FILE} is locked by process {process}: stop that node first"
        ),
        (OpenError::Locked, None) => format!("{error}: {path}: stop the node there first"),
        _ => error.to_string(),
    }
}

fn damaged(error: &dyn std::fmt::Display, dir: &Path) -> String {
    format!(
        "{error} (in {}); nothing was changed; take another survivor, or see `dq-server check`",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_id_address_and_role() {
        let read = |text: &str| text.parse::<Member>().map(|member| member.0);
        let server = |id, address: &str, role| Server {
            id,
            address: address.to_owned(),
            role,
        };
        assert_eq!(read("1=a:1"), Ok(server(1, "a:1", Role::Voter)));
        assert_eq!(
            read("2=[::1]:9=spare"),
            Ok(server(2, "[::1]:9", Role::Spare))
        );
        assert_eq!(read("3=@x=stand-by"), Ok(server(3, "@x", Role::Standby)));
        for text in ["", "1", "x=a:1", "1=a:1=king", "-1=a:1"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}

//! Debian's `dqlite-demo` and `dqlite` as processes, on our library or on Debian's own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use compat_tests::servers::{find_in_path_or_skip, free_address};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::library;

/// How long anything may take, a whole election on a busy machine included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Whose `libdqlite.so.0` a program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    Ours,
    /// The one that is installed.
    Debians,
}

/// A program of Debian's on one of the libraries.
pub(crate) fn command(program: &Path, library_of: Library) -> Command {
    let mut command = Command::new(program);
    match library_of {
        Library::Ours => command.env("LD_LIBRARY_PATH", library().join("lib")),
        Library::Debians => command.env_remove("LD_LIBRARY_PATH"),
    };
    command
}

/// The programs that a cluster takes.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    demo: PathBuf,
    shell: PathBuf,
    pub(crate) library: Library,
}

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    /// The first line; what follows is how to use the program.
    pub(crate) error: String,
    pub(crate) code: Option<i32>,
}

impl Programs {
    pub(crate) fn find_or_skip(library: Library) -> Option<Programs> {
        Some(Programs {
            demo: find_in_path_or_skip("dqlite-demo")?,
            shell: find_in_path_or_skip("dqlite")?,
            library,
        })
    }

    /// The shell, asked one thing, with a directory to work in.
    pub(crate) fn ask(&self, dir: &Path, servers: &str, line: &str) -> Said {
        let output = command(&self.shell, self.library)
            .current_dir(dir)
            .args(["-s", servers, "demo", line])
            .output()
            .expect("the shell starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: errors.lines().next().unwrap_or_default().to_owned(),
            code: output.status.code(),
        }
    }

    /// What the shell prints.
    pub(crate) fn shell(&self, servers: &str, line: &str) -> String {
        self.ask(Path::new("/"), servers, line).out
    }

    /// Waits until what the shell prints is as wanted.
    #[track_caller]
    pub(crate) fn wait(&self, servers: &str, line: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.shell(servers, line);
            if wanted(&said) {
                return said;
            }
            assert!(Instant::now() < end, "{line}: {said}");
            thread::sleep(PAUSE);
        }
    }

    /// Waits until so many members are voters.
    #[track_caller]
    pub(crate) fn wait_voters(&self, servers: &str, count: usize) {
        self.wait(servers, ".cluster", |members| {
            members.matches("|voter").count() == count
        });
    }
}

/// A `dqlite-demo`: a node and a key-value store over HTTP on it.
pub(crate) struct Demo {
    programs: Programs,
    dir: PathBuf,
    pub(crate) db: String,
    api: String,
    child: Child,
}

impl Demo {
    pub(crate) fn start(programs: &Programs, dir: PathBuf, join: Option<&str>) -> Demo {
        fs::create_dir(&dir).expect("a new directory");
        let (db, api) = (
            free_address().expect("a free port"),
            free_address().expect("a free port"),
        );
        let child = spawn(programs, &dir, &db, &api, join);
        Demo {
            programs: programs.clone(),
            dir,
            db,
            api,
            child,
        }
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.programs, &self.dir, &self.db, &self.api, None);
    }

    /// Where the node keeps its files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join(&self.db)
    }

    pub(crate) fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("it runs");
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < end, "{} does not end", self.db);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it, if it has not ended already.
    pub(crate) fn kill(&mut self) {
        // It fails if it has ended.
        let _ = self.child.kill();
        self.child.wait().expect("our child");
    }

    /// The body that the API answers with, or an empty one if it does not answer.
    pub(crate) fn request(&self, method: &str, key: &str, body: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.api)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let size = body.len();
            write!(
                stream,
                "{method} /{key} HTTP/1.0\r\nContent-Length: {size}\r\n\r\n{body}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
            Ok(body.unwrap_or_default().trim_end().to_owned())
        };
        ask().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn wait(&self, method: &str, key: &str, body: &str, want: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let got = self.request(method, key, body);
            if got == want {
                return;
            }
            assert!(Instant::now() < end, "{method} {key}: {got:?}");
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(programs: &Programs, dir: &Path, db: &str, api: &str, join: Option<&str>) -> Child {
    let mut command = command(&programs.demo, programs.library);
    command.args(["--db", db, "--api", api, "--dir"]).arg(dir);
    if let Some(join) = join {
        command.args(["--join", join]);
    }
    command
        .stdout(Stdio::null())
        .spawn()
        .expect("the demo starts")
}

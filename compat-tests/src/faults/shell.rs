//! The stock `dqlite` shell as a client, a process per request.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::history::{Action, Operation, Told};
use super::load::{DATABASE, Load};
use super::seen::Seen;
use crate::differential::rng::Rng;

/// After how long a call of the shell is given up.
const SHELL_PATIENCE: Duration = Duration::from_secs(5);

impl Load {
    /// The stock shell as a client, until it is told to stop: adds an element, asks for one.
    pub(crate) fn shell(&self, process: usize, program: &Path, seed: u64) -> Seen {
        let mut rng = Rng::new(seed);
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::Relaxed) {
            let element = self.next.fetch_add(1, Ordering::Relaxed);
            let invoked = self.history.now();
            let sql = format!("INSERT INTO elements VALUES ({element})");
            let told = match self.call(program, &sql) {
                Some(_) => Told::Ok,
                None => Told::Unknown,
            };
            self.note(element, told, &mut seen);
            let mut operation = Operation {
                process,
                action: Action::Add,
                key: element,
                told,
                old: false,
                invoked,
                returned: self.history.now(),
            };
            self.history.record(&operation);

            let Some(element) = self.one_of_lately(&mut rng) else {
                continue;
            };
            // It does not say who has answered.
            operation.old = !self.addresses.iter().all(|address| self.proves(address));
            operation.invoked = self.history.now();
            let answer = self.call(
                program,
                &format!("SELECT id FROM elements WHERE id = {element}"),
            );
            operation.returned = self.history.now();
            operation.key = element;
            let there = answer
                .as_ref()
                .is_some_and(|text| text.trim() == element.to_string());
            operation.action = Action::Has(there);
            operation.told = match answer {
                Some(_) => Told::Ok,
                None => Told::Fail,
            };
            operation.old |= !self.addresses.iter().all(|address| self.proves(address));
            if operation.told == Told::Ok && !there {
                seen.missing(element, "the shell", operation.old);
            }
            self.history.record(&operation);
        }
        seen
    }

    /// What the shell prints, if it ends well and in time.
    fn call(&self, program: &Path, sql: &str) -> Option<String> {
        let mut child = Command::new(program)
            .args(["-s", &self.addresses.join(","), DATABASE, sql])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the shell can be started");
        let deadline = Instant::now() + SHELL_PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                break child.wait().expect("it is our child");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut text = String::new();
        child.stdout.take()?.read_to_string(&mut text).ok()?;
        status.success().then_some(text)
    }
}

//! Plays cases to servers.
//!
//! One node per setting serves all cases that need no more; each case has a database of its own on
//! it. Cases of a cluster get a fresh one each, since most of them leave it changed. A node that
//! dies costs the case that killed it, which is reported; the next one gets a new node.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use dq_wire::header::response_type;
use dq_wire::{PROTOCOL_V1, Response, RowsEnd};

use super::bed::{Bed, POLL};
use super::compare::{Mismatch, compare_dump, compare_reply};
use super::connection::{Connection, Received};
use super::frame::{Frame, hex, show_frame};
use super::message::{Message, Request, put_raw};
use super::print::print_step;
use super::script::{Action, Case, Expected, Needs, Settings, Step, Target};
use super::text::Names;
use crate::servers::{self, Kind};

/// How long a case waits for any one answer.
pub const CASE_DEADLINE: Duration = Duration::from_secs(30);

/// How a case went.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// As it says.
    Passed,
    /// Not run, and why.
    Skipped(String),
    /// Otherwise: step, expected, got.
    Failed(String),
}

/// A case and how it went.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The case's number and letter.
    pub id: String,
    /// Its sentence.
    pub title: String,
    /// How it went.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict {
            id, title, took, ..
        } = self;
        match &self.outcome {
            Outcome::Passed => write!(f, "ok      {id:>5}  {title} ({:.2} s)", took.as_secs_f64()),
            Outcome::Skipped(why) => write!(f, "skipped {id:>5}  {title}: {why}"),
            Outcome::Failed(how) => write!(f, "FAILED  {id:>5}  {title}\n    {how}"),
        }
    }
}

/// Runs cases against servers of one kind, which it starts when they are needed.
#[derive(Debug)]
pub struct Runner {
    kind: Kind,
    target: Target,
    singles: BTreeMap<Settings, Bed>,
    databases: u64,
}

impl Runner {
    /// A runner without servers. `target` is the name that cases know these servers by.
    pub fn new(kind: Kind, target: &str) -> Runner {
        Runner {
            kind,
            target: Target(target.to_owned()),
            singles: BTreeMap::new(),
            databases: 0,
        }
    }

    /// Runs a case.
    pub fn run(&mut self, case: &Case) -> Verdict {
        let start = Instant::now();
        let outcome = match self.reason_to_skip(case) {
            Some(why) => Outcome::Skipped(why),
            None => match self.run_steps(case) {
                Ok(()) => Outcome::Passed,
                Err(how) => Outcome::Failed(how),
            },
        };
        Verdict {
            id: case.id.clone(),
            title: case.title.clone(),
            outcome,
            took: start.elapsed(),
        }
    }

    fn reason_to_skip(&self, case: &Case) -> Option<String> {
        if case.needs == Needs::Clients {
            return Some("run by the tests that drive client software".to_owned());
        }
        let skip = |targets: &[Target]| targets.iter().any(|t| t.covers(&self.target));
        let found = case.skips.iter().find(|(targets, _)| skip(targets));
        found.map(|(_, why)| why.clone())
    }

    fn run_steps(&mut self, case: &Case) -> Result<(), String> {
        self.databases += 1;
        let database = format!("case{}-{}", case.id, self.databases);
        let mut bed = self.bed(case)?;
        let mut play = Play {
            names: bed.names(database),
            bed: &mut bed,
            connections: BTreeMap::new(),
            target: &self.target,
        };
        let result = play.steps(&case.steps, &case.place);
        drop(play);
        let result = match (result, bed.dead()) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(death)) => Err(death),
            (Err(how), None) => Err(how),
            (Err(how), Some(death)) => Err(format!("{how}\n    {death}")),
        };
        if result.is_ok() && case.needs != Needs::Cluster {
            self.singles.insert(case.settings, bed);
        }
        result
    }

    /// The nodes for a case: those of the last one if they are still well.
    fn bed(&mut self, case: &Case) -> Result<Bed, String> {
        let failed = |error: std::io::Error| format!("nodes do not start: {error}");
        // 1.11.1 has neither a write queue nor the setting.
        let mut settings = case.settings;
        if self.target.0 == "c-1.11.1" {
            settings.busy_timeout_ms = None;
        }
        if case.needs == Needs::Cluster {
            return Bed::cluster(self.kind, settings).map_err(failed);
        }
        if let Some(mut bed) = self.singles.remove(&case.settings) {
            let well = bed.dead().is_none()
                && servers::probe_leader(bed.nodes[&'L'].address())
                    .is_ok_and(|leader| !leader.is_empty());
            if well {
                return Ok(bed);
            }
        }
        Bed::single(self.kind, settings).map_err(failed)
    }
}

/// A case while it runs.
struct Play<'a> {
    bed: &'a mut Bed,
    names: Names,
    connections: BTreeMap<char, Connection>,
    target: &'a Target,
}

impl Play<'_> {
    fn steps(&mut self, steps: &[Step], place: &str) -> Result<(), String> {
        let file = place.split(':').next().unwrap_or(place);
        let applies = |step: &&Step| {
            step.only.is_empty() || step.only.iter().any(|only| only.covers(self.target))
        };
        let steps: Vec<&Step> = steps.iter().filter(applies).collect();
        let mut last = String::new();
        for step in steps {
            if let Action::Send(_) = step.action {
                last = print_step(step).unwrap_or_default();
                last.truncate((0..=400).rfind(|&i| last.is_char_boundary(i)).unwrap_or(0));
            }
            self.step(step)
                .map_err(|what| format!("{file}:{}: after {last}\n    {what}", step.line))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let letter = step.connection;
        match &step.action {
            Action::Connect { node, word } => {
                let address = self.address(*node)?;
                let connection = Connection::open(&address, *word).map_err(text)?;
                self.connections.insert(letter, connection);
            }
            Action::Send(message) => {
                let mut bytes = Vec::new();
                message.encode(&mut bytes, &self.names);
                self.send(letter, &bytes)?;
            }
            Action::Bytes(parts) => {
                let mut bytes = Vec::new();
                put_raw(&mut bytes, parts, &self.names);
                self.send(letter, &bytes)?;
            }
            Action::Cork => self.connection(letter)?.cork(),
            // A server may have closed the connection already: the expectation that follows tells.
            Action::Flush => drop(self.connection(letter)?.flush()),
            Action::Bytewise => self.connection(letter)?.set_bytewise(),
            Action::Shutdown => self.connection(letter)?.shutdown().map_err(text)?,
            Action::Close => drop(self.connections.remove(&letter)),
            Action::Expect {
                after,
                eventually,
                what,
                instead,
            } => {
                let other = instead
                    .iter()
                    .find(|(targets, _)| targets.iter().any(|t| t.covers(self.target)));
                match other {
                    Some((_, what)) => self.expect(letter, what)?,
                    None if *eventually => self.expect_eventually(letter, what)?,
                    None => {
                        self.expect(letter, what)?;
                        let waited = self.connection(letter)?.since_sent();
                        // Timers of servers count whole milliseconds, cut off.
                        if waited + Duration::from_millis(2) < *after {
                            return Err(format!("it took {waited:?}, not {after:?} at least"));
                        }
                    }
                }
            }
            Action::Crowd(count) => self.crowd(*count)?,
            Action::Restart => {
                self.connections.clear();
                let node = self.bed.nodes.get_mut(&'L').ok_or("no node L")?;
                node.stop().map_err(text)?;
                node.start_again().map_err(text)?;
                node.wait_leader(node.address()).map_err(text)?;
            }
            Action::StopNode(node) => self.node(*node)?.stop().map_err(text)?,
            Action::StartNode(node) => self.node(*node)?.start_again().map_err(text)?,
            Action::PauseNode(node) => self.bed.pause(*node)?,
            Action::ResumeNode(node) => self.node(*node)?.resume().map_err(text)?,
            Action::AwaitLeader(node) => self.bed.await_leader(*node)?,
        }
        Ok(())
    }

    fn expect_eventually(&mut self, letter: char, what: &Expected) -> Result<(), String> {
        let deadline = Instant::now() + CASE_DEADLINE;
        loop {
            match self.expect(letter, what) {
                Err(_) if Instant::now() < deadline => {}
                result => return result,
            }
            std::thread::sleep(POLL);
            self.connection(letter)?.send_again().map_err(text)?;
        }
    }

    fn expect(&mut self, letter: char, what: &Expected) -> Result<(), String> {
        match what {
            Expected::Close => match self.connection(letter)?.receive(CASE_DEADLINE) {
                Ok(Received::Closed) => Ok(()),
                other => Err(format!(
                    "expected CLOSE\n    got      {}",
                    show(other, false)
                )),
            },
            Expected::Reply(reply) => {
                let frame = self.frame(letter, &format!("{reply:?}"))?;
                let legacy = self.connection(letter)?.is_legacy();
                compare_reply(reply, &self.names, &frame, legacy).map_err(mismatch)
            }
            Expected::Bytes(parts) => {
                let mut wanted = Vec::new();
                put_raw(&mut wanted, parts, &self.names);
                let frame = self.frame(letter, &hex(&wanted))?;
                if frame.to_bytes() == wanted {
                    return Ok(());
                }
                let legacy = self.connection(letter)?.is_legacy();
                Err(mismatch(Mismatch {
                    expected: format!("these bytes\n      {}", hex(&wanted)),
                    got: show_frame(&frame, legacy),
                }))
            }
            Expected::AnyResult => {
                let frame = self.frame(letter, "RESULT")?;
                kind_is(&frame, response_type::RESULT, "any RESULT")
            }
            Expected::Batch(body, rows, end) => {
                let frame = self.frame(letter, "ROWS")?;
                kind_is(&frame, response_type::ROWS, "ROWS")?;
                let got = (frame.body.len(), count_rows(&frame)?, frame.is_part());
                match got == (*body, *rows, *end == RowsEnd::Part) {
                    true => Ok(()),
                    false => Err(format!(
                        "expected a body of {body} with {rows} rows, {end:?}\n    got {got:?} (size, rows, part)"
                    )),
                }
            }
            Expected::Stream(rows, parts) => {
                let (mut got_rows, mut got_parts) = (0, 0);
                loop {
                    let frame = self.frame(letter, "ROWS")?;
                    kind_is(&frame, response_type::ROWS, "ROWS")?;
                    got_rows += count_rows(&frame)?;
                    if !frame.is_part() {
                        break;
                    }
                    got_parts += 1;
                }
                match got_rows == *rows && got_parts >= *parts {
                    true => Ok(()),
                    false => Err(format!(
                        "expected {rows} rows after at least {parts} parts, got {got_rows} after {got_parts}"
                    )),
                }
            }
            Expected::Drain => loop {
                let frame = self.frame(letter, "ROWS or EMPTY")?;
                if frame.header.kind == response_type::EMPTY {
                    return Ok(());
                }
                if is_interrupted(&frame) {
                    let frame = self.frame(letter, "EMPTY")?;
                    return kind_is(&frame, response_type::EMPTY, "EMPTY");
                }
                kind_is(&frame, response_type::ROWS, "ROWS or EMPTY")?;
            },
            Expected::Dumped(sql, output) => {
                let frame = self.frame(letter, "FILES")?;
                let (sql, output) = (sql.resolve(&self.names), output.resolve(&self.names));
                compare_dump(&sql, &output, &frame).map_err(mismatch)
            }
        }
    }

    fn crowd(&mut self, count: usize) -> Result<(), String> {
        let address = self.address('L')?;
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Connection::open(&address, Some(PROTOCOL_V1)).map_err(text)?);
        }
        let mut leader = Vec::new();
        Message::from(Request::Leader).encode(&mut leader, &self.names);
        for connection in &mut connections {
            connection.send(&leader).map_err(text)?;
        }
        for (index, connection) in connections.iter_mut().enumerate() {
            match connection.receive(CASE_DEADLINE) {
                Ok(Received::Frame(frame)) if frame.header.kind == response_type::SERVER => {}
                other => {
                    return Err(format!(
                        "connection {index} of {count}: {}",
                        show(other, false)
                    ));
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, letter: char, wanted: &str) -> Result<Frame, String> {
        let connection = self.connection(letter)?;
        let legacy = connection.is_legacy();
        match connection.receive(CASE_DEADLINE) {
            Ok(Received::Frame(frame)) => Ok(frame),
            other => Err(format!(
                "expected {}\n    got      {}",
                wanted.chars().take(400).collect::<String>(),
                show(other, legacy)
            )),
        }
    }

    fn send(&mut self, letter: char, bytes: &[u8]) -> Result<(), String> {
        // As above: that the server has closed the connection is for the expectation to find.
        let _ = self.connection(letter)?.send(bytes);
        Ok(())
    }

    fn connection(&mut self, letter: char) -> Result<&mut Connection, String> {
        let connection = self.connections.get_mut(&letter);
        connection.ok_or(format!("there is no connection {letter}"))
    }

    fn node(&mut self, letter: char) -> Result<&mut servers::Server, String> {
        let node = self.bed.nodes.get_mut(&letter);
        node.ok_or(format!("there is no node {letter}"))
    }

    fn address(&mut self, letter: char) -> Result<String, String> {
        Ok(self.node(letter)?.address().to_owned())
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn mismatch(mismatch: Mismatch) -> String {
    format!(
        "expected {}\n    got      {}",
        mismatch.expected, mismatch.got
    )
}

fn show(received: std::io::Result<Received>, legacy: bool) -> String {
    match received {
        Ok(Received::Frame(frame)) => show_frame(&frame, legacy),
        Ok(Received::Closed) => "CLOSE".to_owned(),
        Ok(Received::Cut(bytes)) => format!("a message cut short: {}", hex(&bytes)),
        Ok(Received::Timeout(bytes)) => format!("no answer; bytes so far: {}", hex(&bytes)),
        Err(error) => error.to_string(),
    }
}

fn kind_is(frame: &Frame, kind: u8, what: &str) -> Result<(), String> {
    match frame.header.kind == kind {
        true => Ok(()),
        false => Err(format!(
            "expected {what}\n    got      {}",
            show_frame(frame, false)
        )),
    }
}

/// SQLITE_INTERRUPT, the only failure that may end rows which nobody wants any more.
fn is_interrupted(frame: &Frame) -> bool {
    matches!(
        Response::decode(&frame.header, &frame.body),
        Ok(Response::Failure { code: 9, .. })
    )
}

fn count_rows(frame: &Frame) -> Result<usize, String> {
    let decoded = Response::decode(&frame.header, &frame.body);
    let Ok(Response::Rows(mut rows)) = decoded else {
        return Err(format!("undecodable rows: {}", show_frame(frame, false)));
    };
    let mut count = 0;
    let mut row = Vec::new();
    while rows.next_row(&mut row).map_err(|e| e.to_string())? {
        count += 1;
    }
    Ok(count)
}

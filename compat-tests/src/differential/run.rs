//! Many programs, until one differs or the budget is spent.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::differences::{Comparison, DIFFERENCES, Past, compare};
use super::drive::{Exchange, play};
use super::program::{CONNECTIONS, Op, generate};
use super::shrink::shrink;
use crate::conformance::{Action, Step, Target, print_step, show_frame};
use crate::servers::Server;

/// Requests of one program: enough for a history, few enough to shrink.
const PROGRAM_LENGTH: usize = 400;

/// Programs that run side by side, each on a database of its own, so that neither server waits for
/// the other.
const AT_ONCE: u64 = 4;

/// Requests that ours gets at once.
const PIPELINE: usize = 16;

/// The same for C, which does not switch off Nagle's algorithm: each answer that follows another one
/// would wait for a delayed acknowledgement.
const C_PIPELINE: usize = 1;

/// How long a run goes on.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Seed of the first program; the next ones follow from it.
    pub seed: u64,
    /// Requests to be sent to each server.
    pub requests: usize,
    /// Time after which no new program begins.
    pub time: Duration,
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Programs.
    pub programs: usize,
    /// Requests to each server.
    pub requests: usize,
    /// Of them, those that both servers answered with a failure.
    pub failures: usize,
    /// Programs that were given up as C's process died or closed a connection, and ours did not.
    pub c_deaths: usize,
    /// Programs in which C stopped answering, and did answer when it had been started again.
    pub c_stalls: usize,
    /// How often each known difference was seen.
    pub known: Vec<(&'static str, usize)>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} programs, {} requests to each server, {} of them refused by both",
            self.programs, self.requests, self.failures
        )?;
        if self.c_deaths > 0 {
            write!(f, "\n  {} programs given up as C died", self.c_deaths)?;
        }
        if self.c_stalls > 0 {
            write!(
                f,
                "\n  {} programs that C answered the second time only",
                self.c_stalls
            )?;
        }
        for (name, count) in &self.known {
            write!(f, "\n  {count} times: {name}")?;
        }
        Ok(())
    }
}

/// Compares `ours` with `c`, which cases know as `target`.
///
/// # Errors
/// The first program that shows a difference, shrunk and printed; or a server that does not start
/// again after it died.
pub fn run(
    c: &mut Server,
    target: &Target,
    ours: &mut Server,
    budget: Budget,
) -> Result<Summary, String> {
    let start = Instant::now();
    let mut summary = Summary {
        known: DIFFERENCES.iter().map(|d| (d.name, 0)).collect(),
        ..Summary::default()
    };
    let mut databases = 0;
    while summary.requests < budget.requests && start.elapsed() < budget.time {
        let first = budget.seed.wrapping_add(summary.programs as u64);
        let programs: Vec<_> = (0..AT_ONCE)
            .map(|i| generate(first.wrapping_add(i), PROGRAM_LENGTH))
            .collect();
        let mut bench = Bench {
            c,
            target,
            ours,
            databases: &mut databases,
        };
        for (ops, played) in programs.iter().zip(bench.play_all(&programs)) {
            let seed = budget.seed.wrapping_add(summary.programs as u64);
            if let Err(how) = bench.compare(played, Some(&mut summary))? {
                if how.c_died {
                    // Programs that ran beside it end with it.
                    summary.c_deaths += 1;
                    summary.programs += 1;
                    continue;
                }
                // Shrinking needs a server that answers, and what does not come back says nothing.
                let how = match how.c_stalled {
                    false => how,
                    true => match bench.play_afresh(ops)? {
                        Err(again) => again,
                        Ok(()) => {
                            summary.c_stalls += 1;
                            summary.programs += 1;
                            continue;
                        }
                    },
                };
                let (ops, how) = shrink(ops.clone(), how, |fewer| {
                    let played = bench
                        .play_all(std::slice::from_ref(&fewer.to_vec()))
                        .remove(0);
                    Ok::<_, String>(bench.compare(played, None)?.err())
                })?;
                return Err(report(seed, ops.len(), target, &how));
            }
            summary.programs += 1;
            summary.requests += ops.len();
        }
    }
    Ok(summary)
}

/// What C and ours answered to a program, up to its end or to an error.
type Played = (Vec<Exchange>, Option<io::Error>);

/// How two runs of a program differ.
struct Finding {
    /// What was sent up to there, and ours' answers.
    ours: Vec<Exchange>,
    /// C's answer to the last of it, or what happened instead.
    c: Result<Exchange, String>,
    /// C's process ended, or was gone before.
    c_died: bool,
    /// C did not answer in time, and ours did.
    c_stalled: bool,
    /// What happened instead of our last answer.
    our_error: Option<io::Error>,
}

struct Bench<'a> {
    c: &'a mut Server,
    target: &'a Target,
    ours: &'a mut Server,
    databases: &'a mut usize,
}

impl Bench<'_> {
    /// Plays programs to both servers, all at the same time.
    fn play_all(&mut self, programs: &[Vec<Op>]) -> Vec<(Played, Played)> {
        let first = *self.databases;
        *self.databases += programs.len();
        let (c_address, our_address) = (self.c.address(), self.ours.address());
        thread::scope(|scope| {
            let threads: Vec<_> = programs
                .iter()
                .enumerate()
                .map(|(i, ops)| {
                    let database = format!("d{}", first + i);
                    let our_database = database.clone();
                    let c = scope.spawn(move || play(c_address, &database, ops, C_PIPELINE));
                    let ours = scope.spawn(move || play(our_address, &our_database, ops, PIPELINE));
                    (c, ours)
                })
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                split(thread.join().expect("playing does not panic"))
            };
            threads
                .into_iter()
                .map(|(c, ours)| (join(c), join(ours)))
                .collect()
        })
    }

    /// Compares what was answered. The outer error is about the servers, the inner one a difference.
    fn compare(
        &mut self,
        ((c, c_error), (ours, our_error)): (Played, Played),
        mut summary: Option<&mut Summary>,
    ) -> Result<Result<(), Finding>, String> {
        let mut pasts = [Past::default(); CONNECTIONS];
        for (at, (theirs, mine)) in c.iter().zip(&ours).enumerate() {
            let past = &mut pasts[mine.connection];
            match compare(self.target, past, theirs, mine) {
                Comparison::Same => {}
                Comparison::Known(index) => {
                    if let Some(summary) = &mut summary {
                        summary.known[index].1 += 1;
                    }
                }
                Comparison::Different => {
                    self.revive()?;
                    return Ok(Err(Finding {
                        ours: ours[..=at].to_vec(),
                        c: Ok(theirs.clone()),
                        c_died: false,
                        c_stalled: false,
                        our_error: None,
                    }));
                }
            }
            past.note(theirs);
            if let (Some(summary), [frame]) = (&mut summary, mine.answer.as_slice())
                && frame.header.kind == dq_wire::header::response_type::FAILURE
            {
                summary.failures += 1;
            }
        }
        if c_error.is_some() || our_error.is_some() {
            let gone = |error: &io::Error| error.kind() != io::ErrorKind::TimedOut;
            let c_died = c_error.as_ref().is_some_and(gone) && our_error.is_none();
            let c_stalled = c_error.is_some() && our_error.is_none() && !c_died;
            let c_error = c_error.map_or("went on".to_owned(), |error| error.to_string());
            let deaths = self.revive()?;
            return Ok(Err(Finding {
                ours,
                c_died,
                c_stalled,
                c: Err(c_error + &deaths),
                our_error,
            }));
        }
        Ok(Ok(()))
    }

    /// Compares a program once more, on a C server that was killed and started again.
    fn play_afresh(&mut self, ops: &[Op]) -> Result<Result<(), Finding>, String> {
        self.c.kill().map_err(|error| error.to_string())?;
        let started = self.c.start_again();
        started
            .and_then(|()| self.c.wait_leader(self.c.address()))
            .map_err(|error| error.to_string())?;
        let played = self.play_all(&[ops.to_vec()]).remove(0);
        self.compare(played, None)
    }

    /// Starts again what has died, and tells of it.
    fn revive(&mut self) -> Result<String, String> {
        let mut deaths = String::new();
        for server in [&mut *self.c, &mut *self.ours] {
            let mut restart = |server: &mut Server| -> io::Result<()> {
                if let Some(status) = server.exit_status()? {
                    let log = server.log();
                    let tail: Vec<_> = log.lines().rev().take(8).collect();
                    deaths.push_str(&format!("\n# {:?} ended with {status}:", server.kind()));
                    for line in tail.into_iter().rev() {
                        deaths.push_str(&format!("\n#   {line}"));
                    }
                    server.kill()?;
                    server.start_again()?;
                    server.wait_leader(server.address())?;
                }
                Ok(())
            };
            restart(server).map_err(|error| error.to_string())?;
        }
        Ok(deaths)
    }
}

fn split(played: Result<Vec<Exchange>, (io::Error, Vec<Exchange>)>) -> Played {
    match played {
        Ok(exchanges) => (exchanges, None),
        Err((error, exchanges)) => (exchanges, Some(error)),
    }
}

/// A finding as a case, with what was sent, and as comments the two answers to the last of it.
fn report(seed: u64, length: usize, target: &Target, finding: &Finding) -> String {
    let mut out = format!(
        "answers differ; seed {seed}, {length} requests left after shrinking:\n\n\
         case 0 \"seed {seed}\"\n"
    );
    for exchange in &finding.ours {
        let connection = char::from(b'A' + exchange.connection as u8);
        // The first exchange of each connection is its OPEN.
        if let crate::conformance::Request::Open(..) = exchange.message.request {
            out.push_str(&format!("{connection}: connect\n"));
        }
        let step = Step {
            line: 0,
            only: Vec::new(),
            connection,
            action: Action::Send(exchange.message.clone()),
        };
        out.push_str(&print_step(&step).unwrap_or_default());
        out.push('\n');
        for frame in &exchange.answer {
            let shown = show_frame(frame, false);
            let shown = shown.lines().next().unwrap_or_default();
            out.push_str(&format!("{connection}: expect {shown}\n"));
        }
    }
    out.push_str("# our last answer is the one above");
    if let Some(error) = &finding.our_error {
        out.push_str(&format!(", then: {error}"));
    }
    out.push_str(&format!("\n# {}: ", target.0));
    match &finding.c {
        Ok(exchange) => {
            for frame in &exchange.answer {
                out.push_str(&show_frame(frame, false));
                out.push_str("\n# ");
            }
        }
        Err(error) => out.push_str(error),
    }
    out
}

//! The SQL workers: a few threads that run statements which are too long for the event loop.

use std::num::NonZeroUsize;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};

use crate::conn::ConnId;
use crate::exec::{self, Job};
use crate::io::mailbox::{Mail, Mailbox};

/// The pool. Dropping it lets the running jobs end.
#[derive(Debug)]
pub struct Workers {
    jobs: Option<Sender<(ConnId, Box<Job>)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: NonZeroUsize, mailbox: &Mailbox) -> std::io::Result<Workers> {
        let (jobs, queue) = unbounded::<(ConnId, Box<Job>)>();
        let mut threads = Vec::new();
        for i in 0..count.get() {
            let queue = queue.clone();
            let mailbox = mailbox.clone();
            let thread = std::thread::Builder::new()
                .name(format!("dq-sql-{i}"))
                .spawn(move || {
                    for (conn, job) in queue {
                        mailbox.send(Mail::Finished(conn, Box::new(exec::run(*job))));
                    }
                })?;
            threads.push(thread);
        }
        Ok(Workers {
            jobs: Some(jobs),
            threads,
        })
    }

    /// Queues a job. The queue is bounded by the number of connections: each has one request.
    pub fn run(&self, conn: ConnId, job: Box<Job>) {
        if let Some(jobs) = &self.jobs {
            // The threads live as long as the sender, so there is always somebody to take it.
            let _ = jobs.send((conn, job));
        }
    }

    /// Jobs that no thread has taken yet.
    pub fn queued(&self) -> usize {
        self.jobs.as_ref().map_or(0, Sender::len)
    }

    /// Waits for the running jobs, which the caller has interrupted.
    pub fn stop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

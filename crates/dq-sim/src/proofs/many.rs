//! Many seeds, on several threads.

use std::time::{Duration, Instant};

use super::{Counts, Report, run};

/// Which seeds to run.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The first one.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// Begin none after so many seconds.
    pub seconds: Option<u64>,
    /// Threads.
    pub jobs: u64,
}

/// What became of them.
#[derive(Debug, Default)]
pub struct Total {
    /// How many were run.
    pub seeds: u64,
    /// What there was in them.
    pub counts: Counts,
    /// Those that failed.
    pub failed: Vec<Report>,
}

/// Runs seeds with the plans that they make.
pub fn many(range: Range) -> Total {
    let began = Instant::now();
    let jobs = range.jobs.max(1);
    let mut total = Total::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs)
            .map(|job| scope.spawn(move || part(range, job, jobs, began)))
            .collect();
        for thread in threads {
            // A run catches its own panics.
            if let Ok(part) = thread.join() {
                total.seeds += part.seeds;
                total.counts += part.counts;
                total.failed.extend(part.failed);
            }
        }
    });
    total.failed.sort_by_key(|report| report.seed);
    total
}

/// Every so many-th seed.
fn part(range: Range, job: u64, jobs: u64, began: Instant) -> Total {
    let mut total = Total::default();
    let end = range.first.saturating_add(range.seeds);
    let limit = range.seconds.map(Duration::from_secs);
    for seed in (range.first.saturating_add(job)..end).step_by(jobs as usize) {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let report = run(seed, false);
        total.seeds += 1;
        total.counts += report.counts;
        if !report.failures.is_empty() {
            total.failed.push(report);
        }
    }
    total
}

//! How long writers wait while a large database is snapshot.
//!
//! Writers send one row each at fixed times, whether or not the one before was slow; a latency counts
//! from the time at which the row was due. So a stall is seen by every row that was due meanwhile, and
//! not by one row per connection only. An observer looks at the data directory every few milliseconds:
//! a new file of a snapshot is its beginning, a complete pair of them under their final names its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use compat_tests::load::process::Usage;
use compat_tests::servers::Server;
use dq_client::ErrorKind;
use hdrhistogram::Histogram;

use crate::document;
use crate::load::{Setup, Variant, start_cluster, variants};
use crate::size::{connect, fill, pages};

/// What to write, and when to give up.
#[derive(Args)]
pub(crate) struct Options {
    /// MiB of data.
    #[arg(long, value_name = "MIB", default_value_t = 300)]
    size: u64,
    /// Connections that write.
    #[arg(long, default_value_t = 4)]
    writers: u32,
    /// Milliseconds between two rows of a writer.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    interval: u64,
    /// Seconds after which the snapshot must have begun and ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
    /// Where the data live.
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
    /// Only this server: C or dq.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Put the table into this directory's PERFORMANCE.md.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "docs")]
    update: Option<PathBuf>,
}

/// Time without a snapshot that is looked at, before and after.
const QUIET: Duration = Duration::from_secs(3);

/// Pause between two looks at the directory.
const LOOK: Duration = Duration::from_millis(5);

/// A row: when it was due, and how long it took from then.
type Sample = (Instant, Duration);

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let mut text = format!(
        "1 node with {} MiB of data, {} writers of one row of 1 KiB each {} ms; latencies in ms from when a \
         row was due.\n\n\
         | server | phase | seconds | rows | p50 | p99 | p99.9 | max | RSS MiB, most |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
        options.size, options.writers, options.interval
    );
    for variant in variants()? {
        if options
            .server
            .as_deref()
            .is_none_or(|name| name == variant.name)
        {
            text += &measure(options, variant)?;
        }
    }
    println!("{text}");
    match &options.update {
        Some(docs) => document::replace(&docs.join("PERFORMANCE.md"), "stall", &text),
        None => Ok(()),
    }
}

fn measure(options: &Options, variant: Variant) -> io::Result<String> {
    let servers = start_cluster(&Setup::default(), variant, 1, &options.dir)?;
    let server = &servers[0];
    let pool = connect(server)?;
    fill(&pool, options.size)?;
    pool.execute(
        "CREATE TABLE steady (id INTEGER PRIMARY KEY, value BLOB)",
        (),
    )
    .map_err(io::Error::other)?;
    let pages = pages(&pool)?;
    eprintln!("{}: {pages} pages", variant.name);
    // A snapshot that the filling has begun is none of those that are looked at.
    let settle = Instant::now() + Duration::from_secs(options.patience);
    while snapshot_under_way(&server.data_dir())? && Instant::now() < settle {
        thread::sleep(LOOK);
    }
    thread::sleep(Duration::from_secs(1));

    let stop = AtomicBool::new(false);
    let (samples, seen) = thread::scope(|scope| {
        let writers: Vec<_> = (0..options.writers)
            .map(|index| {
                let stop = &stop;
                scope.spawn(move || write_steadily(options, server, index, stop))
            })
            .collect();
        let seen = observe(options, server);
        stop.store(true, Ordering::Relaxed);
        let samples: io::Result<Vec<Vec<Sample>>> = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer does not panic"))
            .collect();
        (samples, seen)
    });
    let seen = seen?;
    let samples: Vec<Sample> = samples?.into_iter().flatten().collect();
    let mut text = String::new();
    let phases = [
        ("before", seen.start, seen.begin, seen.rss_before),
        ("snapshot", seen.begin, seen.end, seen.rss_during),
        ("after", seen.end, seen.stop, seen.rss_after),
    ];
    for (name, from, to, rss) in phases {
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).map_err(io::Error::other)?;
        for (due, latency) in &samples {
            if (from..to).contains(due) {
                let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                histogram.saturating_record(us.max(1));
            }
        }
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        text += &format!(
            "| {} | {name} | {:.1} | {} | {:.2} | {:.1} | {:.1} | {:.1} | {} |\n",
            variant.name,
            to.duration_since(from).as_secs_f64(),
            histogram.len(),
            at(0.5),
            at(0.99),
            at(0.999),
            ms(histogram.max()),
            rss >> 20,
        );
    }
    Ok(text)
}

/// One row at each due time, from the first to the stop; what was due while another one was slow is
/// sent as soon as that is done.
fn write_steadily(
    options: &Options,
    server: &Server,
    index: u32,
    stop: &AtomicBool,
) -> io::Result<Vec<Sample>> {
    let pool = connect(server)?;
    let mut session = pool.get().map_err(io::Error::other)?;
    let interval = Duration::from_millis(options.interval.max(1));
    let mut due = Instant::now() + interval * index / options.writers.max(1);
    let mut samples = Vec::new();
    let value = vec![b'x'; 1024];
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        loop {
            let done = session
                .prepare_cached("INSERT INTO steady (value) VALUES (?)")
                .and_then(|mut statement| statement.execute([value.as_slice()]));
            match done {
                Ok(_) => break,
                // C refuses a writer while another one writes.
                Err(error) if error.kind() == ErrorKind::Busy => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        samples.push((due, due.elapsed()));
        due += interval;
    }
    Ok(samples)
}

/// What an observer has seen of one snapshot.
struct Seen {
    start: Instant,
    begin: Instant,
    end: Instant,
    stop: Instant,
    rss_before: u64,
    rss_during: u64,
    rss_after: u64,
}

fn observe(options: &Options, server: &Server) -> io::Result<Seen> {
    let dir = server.data_dir();
    let pids = server.pid();
    let known = snapshots(&dir)?;
    let start = Instant::now();
    let patience = start + Duration::from_secs(options.patience);
    let mut rss_most = 0;
    let mut watch = |until: &mut dyn FnMut() -> io::Result<bool>| -> io::Result<u64> {
        rss_most = 0;
        while !until()? {
            if Instant::now() > patience {
                return Err(io::Error::other("no snapshot within --patience"));
            }
            rss_most = rss_most.max(Usage::of(pids.as_slice()).rss);
            thread::sleep(LOOK);
        }
        Ok(rss_most)
    };
    let rss_before = watch(&mut || Ok(snapshots(&dir)?.iter().any(|name| !known.contains(name))))?;
    let begin = Instant::now();
    let rss_during = watch(&mut || {
        let new = snapshots(&dir)?;
        Ok(!snapshot_under_way(&dir)?
            && (new.iter()).any(|name| name.ends_with(".meta") && !known.contains(name)))
    })?;
    let end = Instant::now();
    let rss_after = watch(&mut || Ok(end.elapsed() >= QUIET))?;
    Ok(Seen {
        start,
        begin,
        end,
        stop: Instant::now(),
        rss_before,
        rss_during,
        rss_after,
    })
}

/// Names of all snapshots' files, also of those that are being written.
fn snapshots(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains("snapshot-") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a file of a snapshot lacks its partner or has a temporary name.
fn snapshot_under_way(dir: &Path) -> io::Result<bool> {
    let names = snapshots(dir)?;
    Ok(names.iter().any(|name| {
        let partner = match name.strip_suffix(".meta") {
            Some(data) => data.to_owned(),
            None => format!("{name}.meta"),
        };
        !name.starts_with("snapshot-") || !names.contains(&partner)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_under_way_until_both_files_have_their_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let under_way = || snapshot_under_way(dir.path()).expect("it can be read");
        fs::write(path("0000000000000001-0000000000000002"), b"").expect("written");
        assert!(!under_way());
        fs::write(path("tmp-snapshot-1-2-3"), b"").expect("written");
        assert!(under_way());
        fs::rename(path("tmp-snapshot-1-2-3"), path("snapshot-1-2-3")).expect("renamed");
        assert!(under_way());
        fs::write(path("snapshot-1-2-3.meta"), b"").expect("written");
        assert!(!under_way());
        assert_eq!(snapshots(dir.path()).expect("it can be read").len(), 2);
    }
}

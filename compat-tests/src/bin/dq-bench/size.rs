//! A database of some size: what it takes in memory, on disk, and until a node serves it again.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use compat_tests::load::process::Usage;
use compat_tests::servers::Server;
use dq_client::{Config, MemStore, Pool, RetryPolicy};

use crate::Compare;
use crate::figures::{median, short};
use crate::load::{Setup, Variant, start_cluster, variants};

/// What one server needed in one round. Sizes in MiB, times in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    place: &'static str,
    server: &'static str,
    /// The databases' pages.
    data: f64,
    fill_s: f64,
    rss: f64,
    rss_peak: f64,
    /// The data directory.
    dir: f64,
    /// From the start of the process to the first answer about the data, after a clean stop.
    restart_s: f64,
    /// The same after SIGKILL.
    restart_killed_s: f64,
    /// After that restart.
    rss_restarted: f64,
}

const MIB: f64 = (1 << 20) as f64;

pub(crate) fn measure(options: &Compare) -> io::Result<Vec<Size>> {
    let both = variants()?;
    let mut sizes = Vec::new();
    let rounds = if options.quick { 1 } else { options.rounds };
    for _ in 0..rounds.max(1) {
        for (place, dir) in options.places() {
            for &variant in &both {
                let size = measure_one(variant, place, dir, options.size)?;
                eprintln!("{size:?}");
                sizes.push(size);
            }
        }
    }
    Ok(sizes)
}

fn measure_one(variant: Variant, place: &'static str, dir: &Path, mib: u64) -> io::Result<Size> {
    let mut servers = start_cluster(&Setup::default(), variant, 1, dir)?;
    let server = &mut servers[0];
    let start = Instant::now();
    fill(&connect(server)?, mib)?;
    let fill_s = start.elapsed().as_secs_f64();
    let data = pages(&connect(server)?)? as f64 * 4096.0 / MIB;
    let usage = Usage::of(server.pid().as_slice());
    let dir = dir_bytes(&server.data_dir())? as f64 / MIB;
    server.stop()?;
    let restart_s = restart(server)?;
    server.kill()?;
    let restart_killed_s = restart(server)?;
    let restarted = Usage::of(server.pid().as_slice());
    Ok(Size {
        place,
        server: variant.name,
        data,
        fill_s,
        rss: usage.rss as f64 / MIB,
        rss_peak: usage.rss_peak as f64 / MIB,
        dir,
        restart_s,
        restart_killed_s,
        rss_restarted: restarted.rss as f64 / MIB,
    })
}

/// Starts the process again; seconds until it has told something about its data.
fn restart(server: &mut Server) -> io::Result<f64> {
    let start = Instant::now();
    server.start_again()?;
    server.wait_leader(server.address())?;
    let pages = pages(&connect(server)?)?;
    let seconds = start.elapsed().as_secs_f64();
    match pages {
        0 | 1 => Err(io::Error::other("the data are gone")),
        _ => Ok(seconds),
    }
}

pub(crate) fn connect(server: &Server) -> io::Result<Pool> {
    Config::new()
        .pool_size(1)
        .request_timeout(None)
        .connect(MemStore::new([server.address()]), "size")
        .map_err(io::Error::other)
}

/// Writes so many MiB, in rows of 1.3 KB and transactions of 4 MiB. What is written does not compress.
pub(crate) fn fill(pool: &Pool, mib: u64) -> io::Result<()> {
    /// Three of these rows fill a page.
    const ROWS_PER_MIB: u64 = 256 * 3;
    let policy = || RetryPolicy::attempts(10);
    pool.transaction(policy(), |tx| {
        tx.execute(
            "CREATE TABLE IF NOT EXISTS data (id INTEGER PRIMARY KEY, value BLOB)",
            (),
        )
    })
    .map_err(io::Error::other)?;
    let mut left = mib.saturating_mul(ROWS_PER_MIB);
    while left > 0 {
        let rows = left.min(4 * ROWS_PER_MIB);
        left -= rows;
        pool.transaction(policy(), |tx| {
            tx.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                 INSERT INTO data (value) SELECT randomblob(1300) FROM n",
                [rows],
            )
        })
        .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Pages of the database.
pub(crate) fn pages(pool: &Pool) -> io::Result<u64> {
    let pages = pool.query("PRAGMA page_count", (), |row| row.get::<i64>(0));
    let pages = pages.map_err(io::Error::other)?;
    Ok(pages.first().map_or(0, |pages| pages.unsigned_abs()))
}

/// Bytes of the files in a directory.
fn dir_bytes(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

/// A column's name and where its figure comes from.
type Column = (&'static str, fn(&Size) -> f64);

const COLUMNS: [Column; 8] = [
    ("data_mib", |s| s.data),
    ("fill_s", |s| s.fill_s),
    ("rss_mib", |s| s.rss),
    ("rss_peak_mib", |s| s.rss_peak),
    ("dir_mib", |s| s.dir),
    ("restart_s", |s| s.restart_s),
    ("restart_killed_s", |s| s.restart_killed_s),
    ("rss_restarted_mib", |s| s.rss_restarted),
];

pub(crate) fn csv(sizes: &[Size]) -> String {
    let mut text = "data_on,server".to_owned();
    for (name, _) in COLUMNS {
        text.push(',');
        text.push_str(name);
    }
    text.push('\n');
    for size in sizes {
        text.push_str(&format!("{},{}", size.place, size.server));
        for (_, figure) in COLUMNS {
            // Writing to a string does not fail.
            let _ = write!(text, ",{:.3}", figure(size));
        }
        text.push('\n');
    }
    text
}

pub(crate) fn markdown(mib: u64, sizes: &[Size]) -> String {
    let mut text = format!(
        "1 node, {mib} MiB of rows that do not compress, written in transactions of 4 MiB. Memory \
         in multiples of the databases' pages.\n\n\
         | data on | server | MiB of pages | fill s | RSS | peak RSS | MiB on disk | restart s \
         | restart s after SIGKILL | RSS then |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    let mut seen = Vec::new();
    for row in sizes {
        if seen.contains(&(row.place, row.server)) {
            continue;
        }
        seen.push((row.place, row.server));
        let of = |figure: fn(&Size) -> f64| {
            let same = sizes
                .iter()
                .filter(|s| (s.place, s.server) == (row.place, row.server));
            median(same.map(figure).collect())
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} | {:.2} | {:.2} | {:.0} | {} | {} | {:.2} |",
            row.place,
            row.server,
            of(|s| s.data),
            short(of(|s| s.fill_s)),
            of(|s| s.rss / s.data),
            of(|s| s.rss_peak / s.data),
            of(|s| s.dir),
            short(of(|s| s.restart_s)),
            short(of(|s| s.restart_killed_s)),
            of(|s| s.rss_restarted / s.data),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_the_rounds_of_its_place_and_server() {
        let size = |server, rss| Size {
            place: "disk",
            server,
            data: 100.0,
            fill_s: 1.0,
            rss,
            rss_peak: 200.0,
            dir: 300.0,
            restart_s: 0.25,
            restart_killed_s: 0.5,
            rss_restarted: 110.0,
        };
        let sizes = [
            size("C", 110.0),
            size("dq", 150.0),
            size("C", 130.0),
            size("C", 120.0),
        ];
        let text = markdown(100, &sizes);
        assert!(
            text.contains("| disk | C | 100 | 1.0 | 1.20 | 2.00 | 300 | 0.25 | 0.50 | 1.10 |"),
            "{text}"
        );
        assert_eq!(text.matches("| disk |").count(), 2, "{text}");
        assert_eq!(csv(&sizes).lines().count(), 5);
    }
}

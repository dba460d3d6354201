//! Processor time per statement, with the least of a node around them.
//!
//! ```text
//! cargo run --release -p dq-vfs --example vfs_bench
//! ```

use std::sync::Arc;
use std::time::Duration;

use dq_vfs::{BindRef, Db, Error, Grant, Step, Stmt, Version, Vfs, Write, live_pages};

/// One database and its only writer.
struct Bench {
    vfs: Arc<Vfs>,
    head: Version,
}

impl Bench {
    fn open(&self) -> Result<Db, Error> {
        Db::open(&self.vfs, b"bench", self.head.clone())
    }

    fn grant(&self, db: &mut Db) {
        let write = Write::Slot {
            head: self.head.number(),
        };
        db.grant(Grant {
            pin: self.head.clone(),
            write,
        });
    }

    fn publish(&mut self, db: &mut Db) {
        for capture in db.take_captures() {
            let number = self.head.number() + 1;
            self.head = self
                .head
                .successor(number, &capture.pages, capture.page_count);
            db.published(&self.head);
        }
        db.release();
    }

    fn prepare(&mut self, db: &mut Db, sql: &str) -> Result<Stmt, Error> {
        self.grant(db);
        let prepared = db.prepare(sql.as_bytes())?;
        db.release();
        Ok(prepared.stmt.expect("the text holds a statement"))
    }

    /// Runs a statement to its end as a job of its own.
    fn run(&mut self, db: &mut Db, stmt: &mut Stmt, params: &[i64]) -> Result<(), Error> {
        self.grant(db);
        for (i, param) in params.iter().enumerate() {
            stmt.bind(i + 1, BindRef::Integer(*param))?;
        }
        while stmt.step()? == Step::Row {
            std::hint::black_box(stmt.column(0));
        }
        stmt.reset();
        self.publish(db);
        Ok(())
    }

    fn execute(&mut self, db: &mut Db, sql: &str) -> Result<(), Error> {
        let mut stmt = self.prepare(db, sql)?;
        self.run(db, &mut stmt, &[])
    }
}

/// Processor time that this thread has used: what a busy machine does not distort.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for a write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Prints the processor time that one call of `work` takes.
fn measure(
    name: &str,
    count: u64,
    mut work: impl FnMut(i64) -> Result<(), Error>,
) -> Result<(), Error> {
    for i in 0..count / 10 {
        work(i as i64)?;
    }
    let start = cpu_time();
    for i in count / 10..count {
        work(i as i64)?;
    }
    let micros = (cpu_time() - start).as_secs_f64() * 1e6 / (count - count / 10) as f64;
    println!("{micros:8.2} µs  {name}");
    Ok(())
}

/// Prints the memory that connections take, with 20 tables in the schema.
#[cfg(target_os = "linux")]
fn measure_memory() -> Result<(), Error> {
    const CONNECTIONS: usize = 500;
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: usize = statm
            .split(' ')
            .nth(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        pages * 4
    };
    let mut bench = Bench {
        vfs: Vfs::register()?,
        head: Version::empty(1 << 40),
    };
    let mut first = bench.open()?;
    for i in 0..20 {
        bench.execute(
            &mut first,
            &format!("CREATE TABLE t{i} (k INTEGER PRIMARY KEY, v, w)"),
        )?;
    }
    let before = resident();
    let mut all = Vec::new();
    let mut report = |what: &str, work: &mut dyn FnMut(&mut Vec<Db>) -> Result<(), Error>| {
        work(&mut all)?;
        println!(
            "{:8} KiB per connection {what}",
            resident().saturating_sub(before) / CONNECTIONS
        );
        Ok::<(), Error>(())
    };
    report("that has read", &mut |all| {
        for _ in 0..CONNECTIONS {
            let mut db = bench.open()?;
            bench.execute(&mut db, "SELECT * FROM t0")?;
            all.push(db);
        }
        Ok(())
    })?;
    report("that has written", &mut |all| {
        all.iter_mut()
            .try_for_each(|db| bench.execute(db, "INSERT INTO t0 (v) VALUES (1)"))
    })?;
    report("after shrinking", &mut |all| {
        all.iter_mut().for_each(Db::shrink);
        Ok(())
    })
}

#[cfg(not(target_os = "linux"))]
fn measure_memory() -> Result<(), Error> {
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut bench = Bench {
        vfs: Vfs::register()?,
        head: Version::empty(1),
    };
    let mut db = bench.open()?;
    let mut other = bench.open()?;
    for table in ["small", "other"] {
        bench.execute(
            &mut db,
            &format!("CREATE TABLE {table} (k INTEGER PRIMARY KEY, v)"),
        )?;
    }

    let mut insert = bench.prepare(&mut db, "INSERT INTO small VALUES (?, 'some value')")?;
    measure("autocommit insert, one connection", 200_000, |i| {
        bench.run(&mut db, &mut insert, &[i])
    })?;
    let mut insert_a = bench.prepare(&mut db, "INSERT INTO other VALUES (?, 'some value')")?;
    let mut insert_b = bench.prepare(&mut other, "INSERT INTO other VALUES (?, 'some value')")?;
    measure("autocommit insert, two connections in turn", 200_000, |i| {
        if i % 2 == 0 {
            bench.run(&mut db, &mut insert_a, &[i])
        } else {
            bench.run(&mut other, &mut insert_b, &[i])
        }
    })?;
    let mut select = bench.prepare(&mut db, "SELECT v FROM small WHERE k = ?")?;
    measure("point select, one connection, 200,000 rows", 400_000, |i| {
        bench.run(&mut db, &mut select, &[i * 7919 % 200_000])
    })?;
    let mut select = bench.prepare(&mut other, "SELECT v FROM small WHERE k = ?")?;
    measure("point select after another's insert", 100_000, |i| {
        bench.run(&mut db, &mut insert, &[1_000_000 + i])?;
        bench.run(&mut other, &mut select, &[i * 7919 % 200_000])
    })?;
    let mut update = bench.prepare(&mut db, "UPDATE small SET v = ?2 WHERE k = ?1")?;
    measure("random update", 100_000, |i| {
        bench.run(&mut db, &mut update, &[i * 7919 % 200_000, i])
    })?;
    measure("open and close a connection, two tables", 5_000, |_| {
        bench.open().map(drop)
    })?;
    println!(
        "{} pages live, {} in the database",
        live_pages(),
        bench.head.page_count()
    );
    measure_memory()
}

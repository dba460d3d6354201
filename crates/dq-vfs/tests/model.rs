//! Random SQL from three connections, on our VFS and on stock SQLite: the same rows, error codes,
//! messages and counters throughout, and sound databases.
//!
//! `DQ_VFS_SEED` and `DQ_VFS_STEPS` choose another run.

mod common;
#[path = "common/stock.rs"]
mod stock;

use common::{Node, Random, Rows, Value, execute, next_number, seed_and_steps};
use dq_vfs::{Db, Error, Grant, PageNo, Step, Stmt, TxnState, Version, Write};
use std::collections::BTreeMap;
use stock::{Folder, Stock, StockStmt};

const CONNECTIONS: usize = 3;

/// One connection on both sides, perhaps with a statement that was not read to its end.
struct Pair {
    cursor: Option<(Stmt, StockStmt)>,
    ours: Db,
    stock: Stock,
}

struct Model {
    node: Node,
    pairs: Vec<Pair>,
    random: Random,
    trail: Vec<String>,
    refused: u64,
    /// Old versions that were kept, with their fingerprints.
    kept: Vec<(Version, u64)>,
}

impl Model {
    fn run(&mut self, steps: u64) {
        for step in 0..steps {
            let who = self.random.below(CONNECTIONS as u64) as usize;
            match self.random.below(20) {
                0 => self.open_cursor(who),
                1..=3 => self.advance_cursor(who),
                _ => {
                    let sql = self.sql();
                    self.statement(who, &sql);
                }
            }
            if step % 64 == 0 {
                self.kept
                    .push((self.node.head.clone(), self.node.head.fingerprint()));
                self.check_kept();
            }
            if step % 256 == 0 {
                self.statement(who, "PRAGMA integrity_check");
            }
        }
    }

    /// Runs one statement on both sides and compares everything that can be seen of it.
    fn statement(&mut self, who: usize, sql: &str) {
        self.note(who, sql);
        self.grant(who);
        let ours = execute(&mut self.pairs[who].ours, sql, &[]);
        self.end_job(who);
        let stock = self.pairs[who].stock.execute(sql);
        self.compare(who, ours, stock);
    }

    fn open_cursor(&mut self, who: usize) {
        let sql = match self.random.below(3) {
            0 => "SELECT a, length(b) FROM t0 ORDER BY rowid",
            1 => "SELECT a, b FROM t1",
            _ => "SELECT count(*), t0.a FROM t0, t1 WHERE t0.a < t1.a GROUP BY 2",
        };
        self.note(who, &format!("cursor {sql}"));
        self.pairs[who].cursor = None;
        self.grant(who);
        let pair = &mut self.pairs[who];
        match (
            pair.ours.prepare(sql.as_bytes()),
            pair.stock.prepare(sql.as_bytes()),
        ) {
            (Ok(ours), Ok((Some(stock), _))) => {
                pair.cursor = Some((ours.stmt.unwrap(), stock));
                self.end_job(who);
                self.advance_cursor(who);
            }
            (Err(ours), Err(stock)) => {
                assert_eq!(ours, stock, "{}", self.story());
                self.end_job(who);
            }
            _ => panic!("only one side prepares: {}", self.story()),
        }
    }

    fn advance_cursor(&mut self, who: usize) {
        if self.pairs[who].cursor.is_none() {
            return;
        }
        self.note(who, "step");
        self.grant(who);
        for _ in 0..self.random.below(20) {
            let Some((ours, stock)) = &mut self.pairs[who].cursor else {
                break;
            };
            let ours = match ours.step() {
                Ok(Step::Row) => {
                    let n = ours.column_count();
                    Ok(Some(
                        (0..n)
                            .map(|i| Value::from(ours.column(i)))
                            .collect::<Vec<_>>(),
                    ))
                }
                Ok(Step::Done) => Ok(None),
                Err(error) => Err(error),
            };
            let stock = stock.step();
            assert_eq!(ours, stock, "{}", self.story());
            if !matches!(ours, Ok(Some(_))) {
                self.pairs[who].cursor = None;
            }
        }
        if self.random.one_in(4) {
            self.note(who, "close cursor");
            self.pairs[who].cursor = None;
        }
        self.end_job(who);
    }

    fn grant(&mut self, who: usize) {
        let node = &self.node;
        let free = node.holder.is_none_or(|holder| holder == who);
        let write = if free {
            Write::Slot {
                head: node.head.number(),
            }
        } else {
            Write::None
        };
        self.pairs[who].ours.grant(Grant {
            pin: node.head.clone(),
            write,
        });
    }

    fn end_job(&mut self, who: usize) {
        let db = &mut self.pairs[who].ours;
        self.node.publish(db);
        db.release();
        if self.random.one_in(50) {
            db.shrink();
        }
        if db.txn_state() == TxnState::Write {
            self.node.holder = Some(who);
        } else if self.node.holder == Some(who) {
            self.node.holder = None;
        }
        if db.txn_state() == TxnState::None {
            assert_eq!(db.pinned(), None, "an idle connection pins nothing");
        }
    }

    fn compare(&mut self, who: usize, ours: Result<Rows, Error>, stock: Result<Rows, Error>) {
        if ours.as_ref().is_err_and(|error| error.code & 0xff == 5) {
            self.refused += 1;
        }
        assert_eq!(ours, stock, "{}", self.story());
        let pair = &self.pairs[who];
        assert_eq!(
            pair.ours.autocommit(),
            pair.stock.autocommit(),
            "{}",
            self.story()
        );
        assert_eq!(
            pair.ours.changes(),
            pair.stock.changes(),
            "{}",
            self.story()
        );
        let rowids = (
            pair.ours.last_insert_rowid(),
            pair.stock.last_insert_rowid(),
        );
        assert_eq!(rowids.0, rowids.1, "{}", self.story());
    }

    /// Versions do not change, and their fingerprint is that of their content.
    fn check_kept(&mut self) {
        let i = self.random.below(self.kept.len() as u64) as usize;
        let (version, fingerprint) = &self.kept[i];
        let copy = Version::from_pages(next_number(), version.pages().cloned());
        assert_eq!(copy.fingerprint(), *fingerprint);
        assert_eq!(copy.page_count(), version.page_count());
        if self.kept.len() > 16 {
            self.kept.swap_remove(i);
        }
    }

    /// Applies what was captured as log entries, several transactions to an entry: every follower
    /// must end with the leader's pages.
    fn replay(&mut self) {
        let mut follower = Version::empty(next_number());
        let mut log = self.node.log.iter().peekable();
        while log.peek().is_some() {
            let mut batch = BTreeMap::new();
            let mut page_count = 0;
            for capture in log.by_ref().take(1 + self.random.below(9) as usize) {
                batch.extend(capture.pages.iter().cloned());
                page_count = capture.page_count;
            }
            // Pages freed by a later transaction of the batch go with it.
            batch.retain(|page_no: &PageNo, _| page_no.0 <= page_count);
            let pages: Vec<_> = batch.into_iter().collect();
            follower = follower.apply(next_number(), &pages).unwrap();
            assert_eq!(follower.page_count(), page_count);
        }
        assert_eq!(follower.fingerprint(), self.node.head.fingerprint());
        assert!(follower.pages().eq(self.node.head.pages()));
        follower.quick_check(&self.node.vfs).unwrap();
    }

    fn sql(&mut self) -> String {
        let r = &mut self.random;
        let table = format!("t{}", r.below(3));
        let key = r.below(200);
        let size = if r.one_in(10) {
            r.below(30_000)
        } else {
            r.below(300)
        };
        let fill = key % 7;
        match r.below(44) {
            0..=9 => format!(
                "INSERT OR IGNORE INTO {table} VALUES ({key}, printf('%.{size}c', '{fill}'), {size})"
            ),
            10 => format!("INSERT INTO {table} VALUES ({key}, NULL, 1) RETURNING a, rowid"),
            11 => {
                format!("REPLACE INTO {table} VALUES ({key}, zeroblob({size}), {key}) RETURNING a")
            }
            12..=14 => format!("UPDATE {table} SET b = printf('%.{size}c', 'u') WHERE a = {key}"),
            15 => format!("UPDATE {table} SET c = c + 1 WHERE a < {key} RETURNING c"),
            16..=17 => format!("DELETE FROM {table} WHERE a = {key}"),
            18 => format!("DELETE FROM {table} WHERE a > {key} RETURNING a, length(b)"),
            19..=21 => format!("SELECT count(*), sum(a), sum(length(b)), sum(c) FROM {table}"),
            22 => format!("SELECT a, c, substr(b, 1, 9) FROM {table} ORDER BY c DESC, a LIMIT 20"),
            23 => "BEGIN".into(),
            24 => "BEGIN IMMEDIATE".into(),
            25..=28 => "COMMIT".into(),
            29 => "ROLLBACK".into(),
            30 => format!("SAVEPOINT s{}", key % 2),
            31 => format!("RELEASE s{}", key % 2),
            32 => format!("ROLLBACK TO s{}", key % 2),
            33 => format!(
                "CREATE TABLE IF NOT EXISTS t{} (a INTEGER PRIMARY KEY, b, c)",
                key % 4
            ),
            34 => format!("CREATE INDEX IF NOT EXISTS i{} ON {table} (c, a)", key % 3),
            35 => format!("DROP INDEX IF EXISTS i{}", key % 3),
            36 if r.one_in(4) => format!("DROP TABLE IF EXISTS {table}"),
            36 => format!("PRAGMA user_version = {key}"),
            37 if r.one_in(3) => "VACUUM".into(),
            37 => "PRAGMA user_version; PRAGMA page_count; PRAGMA freelist_count".into(),
            38 => format!(
                "PRAGMA cache_size = {}",
                [5, 10, 50, -2000][key as usize % 4]
            ),
            39 => format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {key}) \
                 INSERT INTO {table} SELECT i + 1000, zeroblob(i * 3), i FROM n WHERE true \
                 ON CONFLICT DO UPDATE SET c = c + 1"
            ),
            40 => format!("CREATE TEMP TABLE IF NOT EXISTS temp{} (x)", key % 2),
            41 => format!("INSERT INTO temp{} SELECT a FROM {table}", key % 2),
            42 => format!("INSERT INTO {table} SELECT x, x, x FROM temp{}", key % 2),
            _ => format!("PRAGMA incremental_vacuum({})", key % 30),
        }
    }

    fn note(&mut self, who: usize, text: &str) {
        self.trail.push(format!("{who}: {text}"));
    }

    /// What led to a failure.
    fn story(&self) -> String {
        let start = self.trail.len().saturating_sub(40);
        format!("\n{}", self.trail[start..].join("\n"))
    }
}

fn run(name: &str, auto_vacuum: &str, seed: u64, steps: u64) {
    println!("DQ_VFS_SEED={seed} DQ_VFS_STEPS={steps}");
    let folder = Folder::new(name);
    let mut node = Node::new();
    let setup = format!(
        "PRAGMA auto_vacuum={auto_vacuum}; VACUUM; \
         CREATE TABLE t0 (a INTEGER PRIMARY KEY, b, c); \
         CREATE TABLE t1 (a UNIQUE, b, c); \
         CREATE TABLE t2 (a PRIMARY KEY, b, c REFERENCES t0 (a)) WITHOUT ROWID"
    );
    let mut pairs = Vec::new();
    for i in 0..CONNECTIONS {
        let mut ours = node.open();
        let stock = Stock::open(&folder.path().join("db"));
        if i == 0 {
            node.must(&mut ours, &setup);
            stock.execute(&setup).unwrap();
        }
        pairs.push(Pair {
            cursor: None,
            ours,
            stock,
        });
    }
    let random = Random::new(seed);
    let mut model = Model {
        node,
        pairs,
        random,
        trail: Vec::new(),
        refused: 0,
        kept: Vec::new(),
    };
    model.run(steps);
    let (refused, commits) = (model.refused, model.node.log.len());
    println!("{steps} steps, {commits} commits, {refused} refused with BUSY");
    assert!(
        model.refused > steps / 50,
        "the connections got into each other's way"
    );
    for who in 0..CONNECTIONS {
        model.pairs[who].cursor = None;
        if !model.pairs[who].ours.autocommit() {
            model.statement(who, "ROLLBACK");
        }
    }
    model.statement(0, "PRAGMA integrity_check");
    for table in ["t0", "t1", "t2"] {
        model.statement(0, &format!("SELECT * FROM {table} ORDER BY 1"));
    }
    model.node.head.quick_check(&model.node.vfs).unwrap();
    model.replay();
}

#[test]
fn random_sql_has_the_same_results_as_on_stock_sqlite() {
    let (seed, steps) = seed_and_steps(3_000);
    run("model", "none", seed, steps);
}

#[test]
fn random_sql_with_auto_vacuum_has_the_same_results_as_on_stock_sqlite() {
    let (seed, steps) = seed_and_steps(2_000);
    run("model-full", "full", seed + 1, steps);
    run("model-incremental", "incremental", seed + 2, steps);
}

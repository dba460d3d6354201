//! Whatever the node does to its connections, no version is ever wrong.
//!
//! Random jobs on three connections while grants are refused, missing or old, commits are voided,
//! the head is set back, statements are interrupted and limits are hit. Each transaction keeps an
//! invariant, which must hold in every version that comes about; and a connection that has been
//! through all this reads the same as one that was just opened.
//!
//! `DQ_VFS_SEED` and `DQ_VFS_STEPS` choose another run.

mod common;

use common::{Node, Random, Rows, Value, check_capture, execute, next_number, seed_and_steps};
use dq_vfs::{Db, Error, Grant, Step, Stmt, TxnState, Version, Write};

const CONNECTIONS: usize = 3;

/// In every version `n` counts the rows of the log, and the accounts add up to nothing.
const INVARIANT: &str = "SELECT (SELECT n FROM counter) = (SELECT count(*) FROM log), \
     (SELECT sum(value) FROM account), (SELECT count(*) FROM account), \
     (SELECT n FROM counter), (SELECT sum(length(filler)) FROM log)";

struct World {
    node: Node,
    connections: Vec<(Option<Stmt>, Db)>,
    /// Versions that a head may be set back to, oldest first.
    history: Vec<Version>,
    random: Random,
    published: u64,
    voided: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut node = Node::new();
        let mut db = node.open();
        node.must(
            &mut db,
            "CREATE TABLE account (k INTEGER PRIMARY KEY, value); \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
             INSERT INTO account SELECT i, 0 FROM n; \
             CREATE TABLE log (k INTEGER PRIMARY KEY, filler); \
             CREATE TABLE counter (n); INSERT INTO counter VALUES (0)",
        );
        let connections = (0..CONNECTIONS).map(|_| (None, node.open())).collect();
        let history = vec![node.head.clone()];
        World {
            node,
            connections,
            history,
            random: Random::new(seed),
            published: 0,
            voided: 0,
        }
    }

    fn step(&mut self) {
        let who = self.random.below(CONNECTIONS as u64) as usize;
        if self.random.one_in(60) {
            self.set_head_back();
        }
        if self.random.one_in(100) {
            self.connections[who] = (None, self.node.open());
        }
        let grant = self.grant(who);
        let usual = matches!(grant.write, Write::Slot { .. });
        let (cursor, db) = &mut self.connections[who];
        db.grant(grant);
        match self.random.below(12) {
            0 => db.set_budget(Some(self.random.below(3000))),
            1 => db.set_page_limit(4096 * self.random.below(20) as usize),
            _ => {
                db.set_budget(None);
                db.set_page_limit(usize::MAX);
            }
        }
        for _ in 0..1 + self.random.below(2) {
            if self.random.one_in(6) {
                *cursor = db
                    .prepare(b"SELECT * FROM account, counter")
                    .ok()
                    .and_then(|p| p.stmt);
            }
            if let Some(stmt) = cursor
                && !matches!(stmt.step(), Ok(Step::Row))
            {
                *cursor = None;
            }
            // Errors are expected; what matters is what remains. Only half an entry must not: an
            // interrupt in between its statements rolls nothing back.
            let sql = transaction(&mut self.random);
            if execute(db, &sql, &[]).is_err() && sql.contains("entry") {
                db.rollback();
            }
        }
        if self.random.one_in(8) {
            *cursor = None;
        }
        self.publish(who, usual);
        let db = &mut self.connections[who].1;
        db.release();
        if self.random.one_in(20) {
            db.shrink();
        }
        if db.txn_state() == TxnState::Write {
            self.node.holder = Some(who);
        } else if self.node.holder == Some(who) {
            self.node.holder = None;
        }
    }

    fn grant(&mut self, who: usize) -> Grant {
        let holds = self.node.holder.is_none_or(|holder| holder == who);
        let mut grant = self.node.grant();
        match self.random.below(10) {
            0 => grant.write = Write::Refuse { code: 10250 },
            1 => grant.write = Write::None,
            2 => {
                let i = self.random.below(self.history.len() as u64) as usize;
                grant.pin = self.history[i].clone();
            }
            _ => {}
        }
        if !holds {
            grant.write = Write::None;
        }
        grant
    }

    /// Makes versions of the captures as a node does, or loses some of them.
    fn publish(&mut self, who: usize, usual: bool) {
        let db = &mut self.connections[who].1;
        let captures = db.take_captures();
        assert!(usual || captures.is_empty(), "commits only with a slot");
        let base = self.node.head.number();
        let lose = self.random.one_in(10);
        for capture in captures {
            if lose || capture.base != base {
                self.voided += 1;
                return;
            }
            check_capture(&self.node.head, &capture);
            self.node.head =
                self.node
                    .head
                    .successor(next_number(), &capture.pages, capture.page_count);
            self.published += 1;
        }
        if self.node.head.number() != base {
            db.published(&self.node.head);
            self.node.head.quick_check(&self.node.vfs).unwrap();
            self.history.push(self.node.head.clone());
            if self.history.len() > 8 {
                self.history.remove(0);
            }
        }
    }

    fn set_head_back(&mut self) {
        let keep = 1 + self.random.below(self.history.len() as u64) as usize;
        self.history.truncate(keep);
        self.node.head = self.history[keep - 1].clone();
        self.node.holder = None;
        if self.random.one_in(2) {
            for (cursor, db) in &mut self.connections {
                *cursor = None;
                db.rollback();
            }
        }
    }

    /// Every connection without a transaction reads what the head holds.
    fn check(&mut self) {
        let mut fresh = self.node.open();
        let want = read(&self.node, &mut fresh).unwrap();
        assert_eq!(want[0][..3], [1.into(), 0.into(), Value::Integer(500)]);
        for (cursor, db) in &mut self.connections {
            db.set_budget(None);
            db.set_page_limit(usize::MAX);
            let idle = cursor.is_none() && db.txn_state() == TxnState::None;
            let rows = read(&self.node, db);
            if idle {
                assert_eq!(rows.unwrap(), want);
            } else if let Ok(rows) = rows {
                // After SQLITE_FULL nothing can be read until the last cursor is closed.
                assert_eq!(rows[0][..3], want[0][..3], "a snapshot, perhaps an old one");
            }
        }
    }
}

fn read(node: &Node, db: &mut Db) -> Result<Rows, Error> {
    db.grant(node.read_grant());
    let rows = execute(db, INVARIANT, &[]);
    db.release();
    rows
}

/// Statements that keep the invariant, if they commit; some begin or end a transaction.
fn transaction(random: &mut Random) -> String {
    let (a, b, size) = (random.below(500), random.below(500), random.below(6000));
    let transfer = format!(
        "UPDATE account SET value = value + {size} * ((k = {a} + 1) - (k = {b} + 1)) \
         WHERE k IN ({a} + 1, {b} + 1)"
    );
    let log = format!(
        "SAVEPOINT entry; UPDATE counter SET n = n + 1; \
         INSERT INTO log (filler) VALUES (zeroblob({size})); RELEASE entry"
    );
    let undone =
        format!("SAVEPOINT entry; DELETE FROM log; {transfer}; ROLLBACK TO entry; RELEASE entry");
    match random.below(12) {
        0..=3 => transfer,
        4..=6 => log,
        7 => format!("BEGIN; {transfer}"),
        8 => "COMMIT".into(),
        9 => "ROLLBACK".into(),
        10 => format!("PRAGMA cache_size = 5; {undone}"),
        _ => "SELECT sum(length(filler)) FROM log; VACUUM".into(),
    }
}

#[test]
fn every_version_keeps_the_invariant_whatever_happens_to_connections() {
    let (seed, steps) = seed_and_steps(1_500);
    println!("DQ_VFS_SEED={seed} DQ_VFS_STEPS={steps}");
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        if step % 16 == 0 {
            world.check();
        }
    }
    println!("{} published, {} voided", world.published, world.voided);
    assert!(world.published > steps / 10 && world.voided > 0);
}

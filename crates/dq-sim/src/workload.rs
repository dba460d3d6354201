//! What clients do: each function is one client from its beginning to its end.

use std::collections::BTreeSet;

use dq_wire::Value;

use crate::client::{Client, Failure};
use crate::history::Fate;
use crate::plan::MS;
use crate::registers::{Ask, RegisterOp};

/// The database that the checked workloads use.
pub(crate) const MAIN: &str = "main";
/// The database that is created, filled, shrunk and deleted over and over.
pub(crate) const SCRATCH: &str = "scratch";

pub(crate) const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS tokens(id INTEGER PRIMARY KEY AUTOINCREMENT, t INTEGER);
CREATE TABLE IF NOT EXISTS keys(k INTEGER PRIMARY KEY, owner INTEGER);
CREATE TABLE IF NOT EXISTS lists(k INTEGER PRIMARY KEY, v TEXT);
CREATE TABLE IF NOT EXISTS registers(k INTEGER PRIMARY KEY, v INTEGER);
CREATE TABLE IF NOT EXISTS accounts(k INTEGER PRIMARY KEY, balance INTEGER);
INSERT OR IGNORE INTO lists VALUES(0,''),(1,''),(2,'');
INSERT OR IGNORE INTO accounts VALUES(0,100),(1,100),(2,100),(3,100)";

/// Sum of all accounts.
const MONEY: i64 = 400;

/// Codes with which a request may be refused at any time.
fn expected(failure: &Failure) -> bool {
    failure.is_harmless() || failure.is_unknown()
}

/// Notes an answer that nothing explains.
pub(crate) fn judge(client: &Client, what: &str, failure: &Failure) {
    if !expected(failure) {
        client.history(|history| history.wrong(format!("{what}: {failure:?}")));
    }
}

/// Inserts tokens into a table without a rule against doubles, and again when told that it is safe.
pub(crate) async fn tokens(client: Client, think: u64) {
    while client.goes_on() {
        let (one, other) = client.history(|h| (h.unique(), h.unique()));
        let kind = client.below(4);
        let used: &[i64] = if kind == 0 { &[one] } else { &[one, other] };
        client.history(|h| used.iter().for_each(|token| h.token_began(*token)));
        client.trace(|| format!("begins with tokens {used:?}"));
        loop {
            if !client.ready().await {
                break;
            }
            let insert = "INSERT INTO tokens(t) VALUES(?)";
            let two = "INSERT INTO tokens(t) VALUES(?); INSERT INTO tokens(t) VALUES(?)";
            let result = match kind {
                0 => client.exec(insert, &[one]).await,
                1 => client.exec(two, &[one, other]).await,
                2 => {
                    let two = "BEGIN; INSERT INTO tokens(t) VALUES(?); \
                               INSERT INTO tokens(t) VALUES(?); COMMIT";
                    let result = client.exec(two, &[one, other]).await;
                    if result.is_err() {
                        client.close();
                    }
                    result
                }
                _ => transaction(&client, &[(insert, one), (insert, other)]).await,
            };
            let fate = match &result {
                Ok(_) => Some(Fate::Done),
                // Of two statements the first may have been done when the second is told to wait.
                Err(Failure::Refused(5 | 10 | 517, _)) if kind == 1 => Some(Fate::Unknown),
                Err(failure) if failure.is_harmless() => None,
                Err(failure) => {
                    judge(&client, "a token's insert", failure);
                    Some(Fate::Unknown)
                }
            };
            if let Some(fate) = fate {
                client.history(|h| used.iter().for_each(|token| h.token_ended(*token, fate)));
                if fate == Fate::Done {
                    client.progress();
                }
                break;
            }
            if !client.goes_on() {
                client.history(|h| {
                    used.iter()
                        .for_each(|token| h.token_ended(*token, Fate::Never));
                });
                break;
            }
            client.wait_for_turn(think).await;
        }
        if client.below(10) == 0 && client.ready().await {
            read_tokens(&client, false).await;
        }
        client.think(think).await;
    }
}

/// Statements in a transaction of their own, one request each. What goes wrong before COMMIT is
/// not done.
async fn transaction(client: &Client, statements: &[(&str, i64)]) -> Result<u64, Failure> {
    let aborted = |failure: Failure| {
        client.close();
        match failure {
            failure if failure.is_unknown() => Failure::Refused(10250, "not committed".to_owned()),
            failure => failure,
        }
    };
    client.exec("BEGIN", &[]).await.map_err(aborted)?;
    for (sql, value) in statements {
        client.exec(sql, &[*value]).await.map_err(aborted)?;
    }
    let result = client.exec("COMMIT", &[]).await;
    if result.is_err() {
        client.close();
    }
    result
}

async fn read_tokens(client: &Client, last: bool) -> bool {
    let began = client.history(|h| h.tick());
    match client.query("SELECT t FROM tokens ORDER BY id", &[]).await {
        Ok(rows) => {
            client.history(|h| h.tokens_read(began, &integers(&rows), last));
            true
        }
        Err(failure) => {
            judge(client, "a read of tokens", &failure);
            false
        }
    }
}

/// Inserts keys that others insert as well: who comes second is refused, and then the first one's
/// has to be there.
pub(crate) async fn keys(client: Client, think: u64) {
    while client.goes_on() {
        let now = client.port.borrow().now;
        // Keys come up for everybody at about the same time.
        let key = (now / (20 * MS)) as i64 * 4 + client.below(4) as i64;
        if !client.ready().await {
            break;
        }
        let owner = client.index as i64;
        let result = client
            .exec("INSERT INTO keys(k, owner) VALUES(?, ?)", &[key, owner])
            .await;
        match result {
            Ok(_) => {
                client.history(|h| h.key_answered(key, false));
                client.progress();
            }
            Err(Failure::Refused(1555 | 2067, _)) => {
                client.history(|h| h.key_answered(key, true));
                client.progress();
            }
            Err(failure) => judge(&client, "a key's insert", &failure),
        }
        client.think(think).await;
    }
}

/// Appends to lists and reads them.
pub(crate) async fn lists(client: Client, think: u64) {
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        let list = client.below(3) as i64;
        match client.below(6) {
            0..3 => append(&client, list).await,
            kind => {
                let began = client.history(|h| h.tick());
                let sql = "SELECT v FROM lists WHERE k = ?";
                let result = if kind == 5 {
                    read_in_transaction(&client, sql, list).await
                } else {
                    client.query(sql, &[list]).await
                };
                match result {
                    Ok(rows) => read_list(&client, list, began, &rows),
                    Err(failure) => judge(&client, "a list's read", &failure),
                }
            }
        }
        client.think(think).await;
    }
}

pub(crate) fn read_list(client: &Client, list: i64, began: u64, rows: &[Vec<Value>]) {
    match rows.first().and_then(|row| row.first()) {
        Some(Value::Text(text)) => {
            let text = String::from_utf8_lossy(text);
            let values = text.split(',').filter_map(|token| token.parse().ok());
            client.history(|h| h.list_read(list, began, values.collect()));
            client.progress();
        }
        other => client.history(|h| h.wrong(format!("list {list} is {other:?}"))),
    }
}

async fn append(client: &Client, list: i64) {
    let token = client.history(|h| h.unique());
    client.history(|h| h.append_began(list, token));
    let sql = "UPDATE lists SET v = v || ',' || ? WHERE k = ?";
    let result = if client.below(4) == 0 {
        let began = client.history(|h| h.tick());
        let returning = format!("{sql} RETURNING v");
        match client.query(&returning, &[token, list]).await {
            Ok(rows) => {
                read_list(client, list, began, &rows);
                Ok(1)
            }
            Err(failure) => Err(failure),
        }
    } else {
        client.exec(sql, &[token, list]).await
    };
    let fate = match &result {
        Ok(1) => {
            client.progress();
            Fate::Done
        }
        Ok(rows) => {
            let text = format!("list {list}: an append changed {rows} rows");
            client.history(|h| h.wrong(text));
            Fate::Unknown
        }
        Err(failure) if failure.is_harmless() => Fate::Never,
        Err(failure) => {
            judge(client, "a list's append", failure);
            Fate::Unknown
        }
    };
    client.history(|h| h.append_ended(list, token, fate));
}

async fn read_in_transaction(
    client: &Client,
    sql: &str,
    key: i64,
) -> Result<Vec<Vec<Value>>, Failure> {
    client.exec("BEGIN", &[]).await?;
    let rows = client.query(sql, &[key]).await;
    if client.exec("COMMIT", &[]).await.is_err() {
        client.close();
    }
    rows
}

/// Writes, swaps and reads registers.
pub(crate) async fn registers(client: Client, think: u64) {
    let mut last = 0;
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        // Registers go out of use, so that no history becomes too long to check.
        let now = client.port.borrow().now;
        let key = (now / (400 * MS)) as i64 * 2 + client.below(2) as i64;
        let began = client.history(|h| h.tick());
        let value = client.history(|h| h.unique());
        let kind = client.below(8);
        // A run may end while this is under way, and others may have seen what it does.
        let asked = match kind {
            0 | 1 => Ask::Write(value),
            2..5 => Ask::Swap(last, value, true),
            _ => Ask::Read(None),
        };
        let mut op = RegisterOp {
            began,
            ended: u64::MAX,
            ask: asked,
        };
        let place = client.history(|h| h.register_began(key, op));
        let (ask, result) = match kind {
            0 | 1 => {
                let sql = "INSERT INTO registers VALUES(?1, ?2) \
                           ON CONFLICT(k) DO UPDATE SET v = excluded.v";
                let result = client.exec(sql, &[key, value]).await;
                (Ask::Write(value), result.map(|_| ()))
            }
            2..5 => {
                let sql = "UPDATE registers SET v = ? WHERE k = ? AND v = ?";
                let result = client.exec(sql, &[value, key, last]).await;
                let done = !matches!(result, Ok(0));
                (Ask::Swap(last, value, done), result.map(|_| ()))
            }
            _ => {
                let sql = "SELECT v FROM registers WHERE k = ?";
                let result = if kind == 7 {
                    read_in_transaction(&client, sql, key).await
                } else {
                    client.query(sql, &[key]).await
                };
                let found = result
                    .as_deref()
                    .map_or(None, |rows| integers(rows).first().copied());
                (Ask::Read(found), result.map(|_| ()))
            }
        };
        match &result {
            Ok(()) => {
                client.progress();
                op.ask = ask;
                last = match ask {
                    Ask::Read(found) => found.unwrap_or(0),
                    Ask::Write(value) | Ask::Swap(_, value, true) => value,
                    Ask::Swap(..) => last,
                };
                op.ended = client.history(|h| h.tick());
            }
            // As good as a read that was never answered.
            Err(failure) if failure.is_harmless() => op.ask = Ask::Read(None),
            Err(failure) => judge(&client, "a register", failure),
        }
        client.history(|h| h.register_ended(key, place, op));
        client.think(think).await;
    }
}

/// Moves money between accounts in interactive transactions; the sum never changes.
pub(crate) async fn bank(client: Client, think: u64) {
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        if client.below(3) == 0 {
            if let Ok(rows) = client.query("SELECT sum(balance) FROM accounts", &[]).await {
                check_sum(&client, &rows);
            }
        } else if transfer(&client).await.is_err() {
            client.close();
            client.wait_for_turn(think).await;
            continue;
        }
        client.think(think).await;
    }
}

/// Reads all accounts over and over in one statement, whose rows take several messages: however late
/// the rest of them is fetched, they are of one moment.
pub(crate) async fn readers(client: Client, think: u64) {
    const TIMES: usize = 40;
    let sql = format!(
        "WITH RECURSIVE times(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM times WHERE n < {TIMES}) \
         SELECT balance, zeroblob(1500) FROM times, accounts ORDER BY n, k"
    );
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        match client.query(&sql, &[]).await {
            Ok(rows) => {
                let balances = integers(&rows);
                let accounts = balances.len() / TIMES;
                let sums: Vec<i64> = balances
                    .chunks(accounts.max(1))
                    .map(|each| each.iter().sum())
                    .collect();
                if sums == [MONEY; TIMES] {
                    client.progress();
                } else {
                    client.history(|h| h.wrong(format!("one read finds the sums {sums:?}")));
                }
            }
            Err(failure) => judge(&client, "a long read", &failure),
        }
        client.think(think).await;
    }
}

fn check_sum(client: &Client, rows: &[Vec<Value>]) {
    let sum = integers(rows);
    if sum == [MONEY] {
        client.progress();
    } else {
        client.history(|h| h.wrong(format!("the accounts hold {sum:?}")));
    }
}

async fn transfer(client: &Client) -> Result<(), Failure> {
    let (from, to) = (client.below(4) as i64, client.below(4) as i64);
    let amount = client.below(10) as i64;
    client.exec("BEGIN", &[]).await?;
    let sql = "SELECT balance FROM accounts WHERE k = ?";
    let before = integers(&client.query(sql, &[from]).await?);
    let Some(before) = before.first() else {
        client.history(|h| h.wrong("an account is gone".to_owned()));
        return Err(Failure::Unknown);
    };
    // Values computed by the client show a lost update as a sum that is wrong.
    let sql = "UPDATE accounts SET balance = ? WHERE k = ?";
    client.exec(sql, &[before - amount, from]).await?;
    let sql = "UPDATE accounts SET balance = balance + ? WHERE k = ?";
    client.exec(sql, &[amount, to]).await?;
    let sum = client
        .query("SELECT sum(balance) FROM accounts", &[])
        .await?;
    check_sum(client, &sum);
    client.exec("COMMIT", &[]).await?;
    client.progress();
    Ok(())
}

/// It has to be alone in a transaction that writes.
const DELETE_DATABASE: &str = "BEGIN IMMEDIATE; PRAGMA delete_database; COMMIT";

/// Creates, fills, shrinks, drops and deletes. What is wrong with that shows in the pages.
pub(crate) async fn scratch(client: Client, think: u64) {
    let statements = [
        "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b BLOB)",
        "CREATE INDEX IF NOT EXISTS i ON t(b)",
        "INSERT INTO t(b) VALUES(randomblob(3000)),(randomblob(5000)),(randomblob(20000))",
        "INSERT INTO t(b) SELECT randomblob(500) FROM t LIMIT 20",
        "INSERT INTO t(b) VALUES(random())",
        "UPDATE t SET b = randomblob(100) WHERE a % 3 = 0",
        "DELETE FROM t WHERE a % 2 = 0",
        "DELETE FROM t",
        "DROP INDEX IF EXISTS i",
        "DROP TABLE IF EXISTS t",
        "VACUUM",
        "INSERT INTO t(b) VALUES(zeroblob(30000)); DELETE FROM t; VACUUM",
        "DELETE FROM t; VACUUM; INSERT INTO t(b) VALUES(zeroblob(30000)); DELETE FROM t",
        DELETE_DATABASE,
        "PRAGMA user_version = 7",
        "BEGIN",
        "SAVEPOINT s",
        "ROLLBACK TO s",
        "RELEASE s",
        "COMMIT",
        "ROLLBACK",
        "PRAGMA optimize",
    ];
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        let sql = statements[client.below(statements.len() as u64) as usize];
        let done = client.exec(sql, &[]).await.is_ok();
        client.shared.borrow_mut().deleted += u64::from(done && sql == DELETE_DATABASE);
        if done || client.below(2) == 0 {
            client.progress();
        }
        if client.below(20) == 0 {
            client.close();
        }
        client.think(think).await;
    }
}

/// Reads everything that the workloads have written; false if that did not work.
pub(crate) async fn read_all(client: &Client) -> bool {
    if !read_tokens(client, true).await {
        return false;
    }
    let Ok(rows) = client.query("SELECT k FROM keys", &[]).await else {
        return false;
    };
    let keys: BTreeSet<i64> = integers(&rows).into_iter().collect();
    client.history(|h| h.keys_read(keys));
    for list in 0..3 {
        let began = client.history(|h| h.tick());
        let sql = "SELECT v FROM lists WHERE k = ?";
        let Ok(rows) = client.query(sql, &[list]).await else {
            return false;
        };
        read_list(client, list, began, &rows);
    }
    let Ok(rows) = client.query("SELECT sum(balance) FROM accounts", &[]).await else {
        return false;
    };
    check_sum(client, &rows);
    true
}

pub(crate) fn integers(rows: &[Vec<Value>]) -> Vec<i64> {
    let first = |row: &Vec<Value>| match row.first() {
        Some(Value::Integer(n)) => Some(*n),
        _ => None,
    };
    rows.iter().filter_map(first).collect()
}

//! A client that stays on its connection whatever becomes of the leadership there, and holds the
//! connection to what it remembers: counters, a temporary table, its own writes.
//!
//! A transaction that was voided leaves its traces in SQLite's connection: counters, caches, temporary
//! tables. So the connection has to go with the leadership, and this client sees to it.

use dq_wire::{Request, Value};

use crate::client::{Client, Failure, Phase};
use crate::history::Fate;
use crate::workload::judge;

/// What a session has to remember.
#[derive(Debug, Default)]
struct Memory {
    /// Rows changed.
    total: i64,
    /// The last one's id; none if an INSERT was undone since, which SQLite does not take back.
    last: Option<i64>,
    /// Rows in the temporary table, if it was made.
    mine: Option<i64>,
    /// A request may have done something and did not say what.
    unsure: bool,
    /// The node said that its leadership has ended.
    dead: bool,
}

/// See the module's text.
pub(crate) async fn loyal(mut client: Client, think: u64) {
    client.loyal = true;
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        let mut memory = Memory::default();
        // A node that does not lead is given the time to lead again, while faults may bring that about.
        let mut served = client.port.borrow().now;
        let mut refused = false;
        while client.goes_on() && client.is_open() {
            let over = client.port.borrow().now > served + client.patience;
            if over || refused && client.phase() > Phase::Chaos {
                break;
            }
            match one(&client, &mut memory).await {
                Ok(()) if memory.dead => {
                    client.history(|h| h.wrong("a session outlived its leadership".to_owned()));
                }
                Ok(()) => {
                    served = client.port.borrow().now;
                    refused = false;
                    client.progress();
                }
                Err(Failure::Refused(10250, _)) => refused = true,
                Err(Failure::Refused(12, _)) => match client.open().await {
                    Ok(()) => memory = Memory::default(),
                    Err(_) => refused = true,
                },
                Err(Failure::Refused(10506, _)) => memory.dead = true,
                Err(failure) => judge(&client, "a loyal client", &failure),
            }
            client.think(think).await;
        }
        client.close();
    }
}

async fn one(client: &Client, memory: &mut Memory) -> Result<(), Failure> {
    match client.below(7) {
        0 | 1 => {
            let token = client.history(|h| h.unique());
            client.history(|h| h.token_began(token));
            let insert = "INSERT INTO tokens(t) VALUES(?)";
            let result = client.insert(insert, &[token]).await;
            end(client, token, result.as_ref().err());
            changed(memory, result)
        }
        2 | 3 => {
            let token = client.history(|h| h.unique());
            client.history(|h| h.token_began(token));
            // It yields a row, which is an error here, if it does not see what was just inserted.
            let text = "INSERT INTO tokens(t) VALUES(?); \
                        SELECT 1 WHERE NOT EXISTS(SELECT 1 FROM tokens WHERE t = ?)";
            let result = client.insert(text, &[token, token]).await;
            if let Err(Failure::Refused(1, _)) = &result {
                client.history(|h| h.wrong("a client does not see its own write".to_owned()));
            }
            // The first statement may have been done when the second one is refused.
            let partly = matches!(&result, Err(Failure::Refused(code, _)) if *code != 10250);
            memory.unsure |= partly;
            match partly {
                true => client.history(|h| h.token_ended(token, Fate::Unknown)),
                false => end(client, token, result.as_ref().err()),
            }
            changed(memory, result)
        }
        4 => match memory.mine {
            None => {
                client
                    .insert("CREATE TEMP TABLE IF NOT EXISTS mine(a)", &[])
                    .await?;
                memory.mine = Some(0);
                Ok(())
            }
            Some(rows) => {
                let result = client.insert("INSERT INTO mine VALUES(1)", &[]).await;
                changed(memory, result)?;
                memory.mine = Some(rows + 1);
                Ok(())
            }
        },
        _ => look(client, memory).await,
    }
}

fn changed(memory: &mut Memory, result: Result<i64, Failure>) -> Result<(), Failure> {
    memory.last = None;
    memory.last = Some(result?);
    memory.total += 1;
    Ok(())
}

/// What became of a token's INSERT.
fn end(client: &Client, token: i64, failure: Option<&Failure>) {
    let fate = match failure {
        None => Fate::Done,
        Some(failure) if failure.is_harmless() => Fate::Never,
        Some(_) => Fate::Unknown,
    };
    client.history(|h| h.token_ended(token, fate));
}

/// Asks the connection what it remembers.
async fn look(client: &Client, memory: &Memory) -> Result<(), Failure> {
    let (sql, mine) = match memory.mine {
        Some(rows) => (
            "SELECT total_changes(), last_insert_rowid(), (SELECT count(*) FROM mine)",
            rows,
        ),
        None => ("SELECT total_changes(), last_insert_rowid(), 0", 0),
    };
    let params = dq_wire::ParamsBuf::from_values(&[]);
    let request = Request::QuerySql {
        db: 0,
        sql: sql.as_bytes(),
        params: params.as_params(),
    };
    let rows = match client.call(&request).await? {
        crate::client::Answer::Rows(rows) => rows,
        _ => return Err(Failure::Unknown),
    };
    let found: Vec<Option<i64>> = rows.concat().iter().map(integer).collect();
    let as_expected = matches!(found[..], [Some(total), Some(last), Some(rows)]
        if total == memory.total && memory.last.is_none_or(|known| known == last) && rows == mine);
    if !memory.unsure && !as_expected {
        let text = format!("a connection remembers {found:?}, it should {memory:?}");
        client.history(|h| h.wrong(text));
    }
    Ok(())
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    }
}

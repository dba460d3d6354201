//! A client that interrupts what it has asked for, in the middle of it or before it has begun.
//!
//! Whatever an INTERRUPT does or does not cut short: one EMPTY ends the exchange and comes last, a
//! request that writes has its own answer before that, and the client has seen what it has seen. What
//! it reads next on the connection is not older than rows that were cut short; what a text or a
//! transaction has written is there, whole.

use dq_wire::{ParamsBuf, Request, ValueRef};

use crate::client::{Answer, Client, Exchange, Failure};
use crate::history::Fate;
use crate::workload::{integers, judge, read_list};

/// The same rows over and over, so many bytes that they go out in several pieces.
const LONG: &str = "WITH RECURSIVE times(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM times \
     WHERE n < 120) SELECT v, zeroblob(1500) FROM times, lists WHERE k = ? ORDER BY n";

/// Rows of a write that are too many to be kept until it is committed.
const RETURNING: &str =
    "INSERT INTO tokens(t) VALUES(?), (?), (?), (?) RETURNING t, zeroblob(300000)";

/// See the module's text.
pub(crate) async fn interrupts(client: Client, think: u64) {
    while client.goes_on() {
        if !client.ready().await {
            break;
        }
        let done = match client.below(8) {
            0..2 => text(&client).await,
            2..4 => rows(&client).await,
            4 => returning(&client).await,
            5 => in_transaction(&client).await,
            _ => in_reading(&client).await,
        };
        match done {
            Ok(()) => client.progress(),
            Err(failure) => judge(&client, "what was interrupted", &failure),
        }
        client.think(think).await;
    }
}

enum Kind {
    Exec,
    Query,
}

async fn ask(
    client: &Client,
    kind: Kind,
    sql: &str,
    values: &[i64],
    after: u64,
) -> Result<Exchange, Failure> {
    let values: Vec<ValueRef<'_>> = values.iter().map(|v| ValueRef::Integer(*v)).collect();
    let params = ParamsBuf::from_values(&values);
    let (db, sql, params) = (0, sql.as_bytes(), params.as_params());
    let request = match kind {
        Kind::Exec => Request::ExecSql { db, sql, params },
        Kind::Query => Request::QuerySql { db, sql, params },
    };
    client.interrupted(&request, after as usize).await
}

/// The end of a request that writes: it has to have one of its own.
fn end_of(client: &Client, exchange: &Exchange) -> Result<Answer, Failure> {
    exchange.end.clone().unwrap_or_else(|| {
        client.history(|h| h.wrong("an INTERRUPT took the place of a write's answer".to_owned()));
        Err(Failure::Unknown)
    })
}

/// A text of several statements.
async fn text(client: &Client) -> Result<(), Failure> {
    let tokens = client.history(|h| [h.unique(), h.unique()]);
    client.history(|h| tokens.map(|token| h.token_began(token)));
    let sql = "INSERT INTO tokens(t) VALUES(?); INSERT INTO tokens(t) VALUES(?); \
               SELECT 1 WHERE (SELECT count(*) FROM tokens WHERE t >= ?) < 2";
    let values = [tokens[0], tokens[1], tokens[0]];
    let exchange = ask(client, Kind::Exec, sql, &values, 0).await;
    let end = exchange.and_then(|exchange| end_of(client, &exchange));
    if let Err(Failure::Refused(1, _)) = &end {
        client.history(|h| h.wrong("an interrupted text does not see its own writes".to_owned()));
    }
    // Of several statements the first may have been done when another is told to wait.
    let fate = match &end {
        Ok(_) => Fate::Done,
        Err(Failure::Refused(10250 | 12, _)) => Fate::Never,
        Err(_) => Fate::Unknown,
    };
    client.history(|h| tokens.map(|token| h.token_ended(token, fate)));
    end?;
    sees(client, &tokens).await
}

/// Whether the tokens are there, and each once, for this connection.
async fn sees(client: &Client, tokens: &[i64]) -> Result<(), Failure> {
    for token in tokens {
        let sql = "SELECT count(*) FROM tokens WHERE t = ?";
        let found = integers(&client.query(sql, &[*token]).await?);
        if found != [1] {
            let text = format!("after an INTERRUPT token {token} is there {found:?} times");
            client.history(|h| h.wrong(text));
        }
    }
    Ok(())
}

/// Rows, then fewer of the same.
async fn rows(client: &Client) -> Result<(), Failure> {
    let list = client.below(3) as i64;
    long_read(client, list).await?;
    short_read(client, list).await
}

async fn long_read(client: &Client, list: i64) -> Result<(), Failure> {
    let began = client.history(|h| h.tick());
    let exchange = ask(client, Kind::Query, LONG, &[list], client.below(40)).await?;
    let mut rows = exchange.rows;
    if !rows.is_empty() {
        read_list(client, list, began, &rows);
    }
    rows.dedup();
    if rows.len() > 1 {
        client.history(|h| h.wrong("one read finds different values".to_owned()));
    }
    match exchange.end {
        None | Some(Ok(_)) => Ok(()),
        // Interrupted, as it asked to be.
        Some(Err(Failure::Refused(9, _))) => Ok(()),
        Some(Err(failure)) => Err(failure),
    }
}

async fn short_read(client: &Client, list: i64) -> Result<(), Failure> {
    let began = client.history(|h| h.tick());
    let rows = client
        .query("SELECT v FROM lists WHERE k = ?", &[list])
        .await?;
    read_list(client, list, began, &rows);
    Ok(())
}

/// A write that answers with rows.
async fn returning(client: &Client) -> Result<(), Failure> {
    let tokens = client.history(|h| [(); 4].map(|()| h.unique()));
    client.history(|h| tokens.map(|token| h.token_began(token)));
    let exchange = ask(client, Kind::Query, RETURNING, &tokens, client.below(4)).await;
    let told = exchange.as_ref().map_or(0, |exchange| exchange.rows.len());
    let end = exchange.and_then(|exchange| end_of(client, &exchange));
    let fate = match &end {
        Ok(_) if told == tokens.len() => Fate::Done,
        Ok(_) => {
            client.history(|h| h.wrong(format!("of four rows {told} were returned")));
            Fate::Unknown
        }
        Err(failure) if failure.is_harmless() => Fate::Never,
        Err(_) => Fate::Unknown,
    };
    client.history(|h| tokens.map(|token| h.token_ended(token, fate)));
    end?;
    sees(client, &tokens).await
}

/// What a transaction has written stays there, and in the transaction, when rows are cut short.
async fn in_transaction(client: &Client) -> Result<(), Failure> {
    let token = client.history(|h| h.unique());
    client.history(|h| h.token_began(token));
    let written = within(client, token).await;
    let committed = match written {
        Ok(()) => client.exec("COMMIT", &[]).await.map(|_| ()),
        // Its end is the transaction's.
        Err(_) => {
            client.close();
            client.history(|h| h.token_ended(token, Fate::Never));
            return written;
        }
    };
    let fate = match &committed {
        Ok(()) => Fate::Done,
        Err(failure) => {
            client.close();
            match failure.is_harmless() {
                true => Fate::Never,
                false => Fate::Unknown,
            }
        }
    };
    client.history(|h| h.token_ended(token, fate));
    committed?;
    sees(client, &[token]).await
}

async fn within(client: &Client, token: i64) -> Result<(), Failure> {
    client.exec("BEGIN", &[]).await?;
    let insert = "INSERT INTO tokens(t) VALUES(?)";
    client.exec(insert, &[token]).await?;
    let exchange = ask(client, Kind::Query, LONG, &[0], client.below(40)).await?;
    if let Some(Err(failure)) = exchange.end {
        return Err(failure);
    }
    sees(client, &[token]).await
}

/// A transaction that reads sees what is there to be committed; nobody may be told of it before, and
/// afterwards it is not forgotten.
async fn in_reading(client: &Client) -> Result<(), Failure> {
    let list = client.below(3) as i64;
    client.exec("BEGIN", &[]).await?;
    let read = long_read(client, list).await;
    let end = ["COMMIT", "ROLLBACK"][client.below(2) as usize];
    if client.exec(end, &[]).await.is_err() {
        client.close();
    }
    read?;
    if client.is_open() && client.below(2) == 0 {
        client.exec("BEGIN", &[]).await?;
        let read = short_read(client, list).await;
        if client.exec(end, &[]).await.is_err() {
            client.close();
        }
        return read;
    }
    if client.is_open() {
        short_read(client, list).await?;
    }
    Ok(())
}

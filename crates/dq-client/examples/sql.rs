//! Runs one SQL statement, or `.leader` or `.cluster`, on a cluster: `sql ADDRESSES DATABASE TEXT`.

use dq_client::{Cluster, Config, MemStore, Pool, Value};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, database, text] = &arguments[..] else {
        return Err("usage: sql ADDRESS[,ADDRESS] DATABASE TEXT".into());
    };
    let store = MemStore::new(addresses.split(',').map(str::to_owned));
    match text.as_str() {
        ".leader" => {
            println!("{}", Cluster::new(Config::new(), store).leader()?.address);
            return Ok(());
        }
        ".cluster" => {
            for member in Cluster::new(Config::new(), store).members()? {
                println!("{}|{}|{:?}", member.id, member.address, member.role);
            }
            return Ok(());
        }
        _ => {}
    }
    let pool = Pool::connect(store, database)?;
    let mut connection = pool.get()?;
    let mut rows = connection.query(text, ())?;
    let columns = rows.columns().len();
    while let Some(row) = rows.next()? {
        let cells: Result<Vec<String>, _> = (0..columns)
            .map(|i| Ok::<_, dq_client::Error>(show(&row.get(i)?)))
            .collect();
        println!("{}", cells?.join("|"));
    }
    Ok(())
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) | Value::UnixTime(i) => i.to_string(),
        Value::Real(f) => f.to_string(),
        Value::Text(t) | Value::Iso8601(t) => t.clone(),
        Value::Blob(b) => format!("{} bytes", b.len()),
        Value::Bool(b) => b.to_string(),
    }
}

//! Random statements over a schema that is roughly known.

use super::expression::{Builder, random_value};
use super::rng::Rng;
use super::schema::{Column, Kind, Schema, Table};
use crate::conformance::Value;

/// A statement and the values of its parameters.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
}

impl Statement {
    fn plain(sql: impl Into<String>) -> Statement {
        Statement {
            sql: sql.into(),
            params: Vec::new(),
        }
    }
}

/// What a generator may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// How many of a hundred values become parameters.
    pub(super) params_percent: usize,
    /// RETURNING, which C dqlite 1.11.1 does not survive.
    pub(super) returning: bool,
    /// VACUUM, which it does not replicate.
    pub(super) vacuum: bool,
    /// Columns declared as BOOLEAN and as dates, which rows tell apart.
    pub(super) typed_columns: bool,
}

/// Draws statements for one database.
#[derive(Debug)]
pub(super) struct Statements<'r> {
    pub(super) rng: &'r mut Rng,
    pub(super) schema: Schema,
    pub(super) dialect: Dialect,
}

impl Statements<'_> {
    fn build(&mut self, build: impl FnOnce(&mut Builder<'_>) -> String) -> Statement {
        let mut builder = Builder {
            rng: self.rng,
            params: Vec::new(),
            params_percent: self.dialect.params_percent,
        };
        let sql = build(&mut builder);
        Statement {
            sql,
            params: builder.params,
        }
    }

    fn table(&mut self) -> Option<Table> {
        match self.schema.tables.is_empty() {
            true => None,
            false => Some(self.rng.pick(&self.schema.tables).clone()),
        }
    }

    /// A statement that defines something, or gives up a definition.
    pub(super) fn definition(&mut self) -> Statement {
        if self.schema.tables.len() < 2 {
            return self.create_table();
        }
        let choice = self.rng.below(20);
        let Some(table) = self.table() else {
            return self.create_table();
        };
        match choice {
            0..=3 => self.create_table(),
            4 => {
                let at = self.rng.below(self.schema.tables.len());
                let table = self.schema.tables.remove(at);
                Statement::plain(format!("drop table {}", table.name))
            }
            5..=7 => {
                let column = self.new_column();
                let declaration = declaration(&column);
                let name = table.name.clone();
                if let Some(known) = self.schema.tables.iter_mut().find(|t| t.name == name) {
                    known.columns.push(column);
                }
                Statement::plain(format!("alter table {name} add column {declaration}"))
            }
            8 => {
                let new = self.schema.new_name("t");
                for known in &mut self.schema.tables {
                    if known.name == table.name {
                        known.name.clone_from(&new);
                    }
                }
                Statement::plain(format!("alter table {} rename to {new}", table.name))
            }
            9..=12 => {
                let name = self.schema.new_name("i");
                self.schema.indexes.push(name.clone());
                let unique = if self.rng.percent(15) { "unique " } else { "" };
                let first = self.rng.pick(table.payload()).name.clone();
                let second = self.rng.pick(&table.columns).name.clone();
                let partial = match self.rng.percent(20) {
                    true => format!(" where {first} is not null"),
                    false => String::new(),
                };
                Statement::plain(format!(
                    "create {unique}index {name} on {}({first}, {second} desc){partial}",
                    table.name
                ))
            }
            13 => match self.schema.indexes.pop() {
                Some(name) => Statement::plain(format!("drop index {name}")),
                None => Statement::plain("drop index nothing"),
            },
            14 | 15 => {
                let name = self.schema.new_name("v");
                self.schema.views.push(name.clone());
                let columns = names(&table.columns);
                Statement::plain(format!(
                    "create view {name} as select {columns} from {} where id % 2 = 0",
                    table.name
                ))
            }
            16 => match self.schema.views.pop() {
                Some(name) => Statement::plain(format!("drop view {name}")),
                None => Statement::plain("drop view nothing"),
            },
            17 => self.create_trigger(&table),
            18 => match self.schema.triggers.pop() {
                Some(name) => Statement::plain(format!("drop trigger {name}")),
                None => Statement::plain("drop trigger nothing"),
            },
            // IF (NOT) EXISTS is left out: whether such a statement waits for the write lock is not a
            // question of SQLite.
            _ => Statement::plain("drop trigger nothing"),
        }
    }

    fn create_table(&mut self) -> Statement {
        let name = self.schema.new_name("t");
        let wide = self.rng.percent(4);
        let count = if wide { 70 } else { 1 + self.rng.below(5) };
        let mut columns = vec![Column {
            name: "id".to_owned(),
            kind: Kind::Integer,
        }];
        let mut unique = Vec::new();
        let mut parts = vec!["id integer primary key".to_owned()];
        for _ in 0..count {
            let column = self.new_column();
            let mut part = declaration(&column);
            if column.kind == Kind::Integer && !wide {
                match self.rng.below(14) {
                    0 => part.push_str(" not null"),
                    1 => part.push_str(" not null default 7"),
                    2 => {
                        part.push_str(" unique");
                        unique.push(column.name.clone());
                    }
                    3 => part.push_str(&format!(" check ({} < 60000)", column.name)),
                    4 => {
                        if let Some(other) = self.table() {
                            part.push_str(&format!(" references {}(id)", other.name));
                            if self.rng.percent(50) {
                                part.push_str(" on delete cascade");
                            }
                        }
                    }
                    _ => {}
                }
            }
            if column.kind == Kind::Text && self.rng.percent(20) {
                part.push_str(" collate nocase");
            }
            parts.push(part);
            columns.push(column);
        }
        let sql = format!("create table {name}({})", parts.join(", "));
        self.schema.tables.push(Table {
            name,
            columns,
            unique,
        });
        Statement::plain(sql)
    }

    fn create_trigger(&mut self, table: &Table) -> Statement {
        let name = self.schema.new_name("g");
        self.schema.triggers.push(name.clone());
        let Some(other) = self.table() else {
            return Statement::plain("drop trigger nothing");
        };
        let event = *self.rng.pick(&["insert", "delete", "update"]);
        let body = match self.rng.below(3) {
            0 => format!("delete from {} where id = 3", other.name),
            1 => "select raise(abort, 'not today') where (select count(*) from sqlite_master) % 7 = 0"
                .to_owned(),
            _ => format!("insert or ignore into {}(id) values (40)", other.name),
        };
        Statement::plain(format!(
            "create trigger {name} after {event} on {} begin {body}; end",
            table.name
        ))
    }

    fn new_column(&mut self) -> Column {
        let kind = match self.rng.below(11) {
            0..=3 => Kind::Integer,
            4 => Kind::Real,
            5..=7 => Kind::Text,
            8 => Kind::Any,
            9 if self.dialect.typed_columns => Kind::Boolean,
            10 if self.dialect.typed_columns => Kind::Date,
            _ => Kind::Any,
        };
        Column {
            name: self.schema.new_name("c"),
            kind,
        }
    }

    /// A statement that changes rows.
    pub(super) fn change(&mut self) -> Statement {
        let Some(table) = self.table() else {
            return self.definition();
        };
        match self.rng.below(20) {
            0..=9 => self.insert(&table),
            10 => self.insert_select(&table),
            11..=15 => self.update(&table),
            _ => self.delete(&table),
        }
    }

    fn insert(&mut self, table: &Table) -> Statement {
        let rows = match self.rng.below(12) {
            0 => 20,
            1..=3 => 3,
            _ => 1,
        };
        let rows = if table.columns.len() > 20 { 1 } else { rows };
        let with_id = self.rng.percent(30);
        let mut columns: Vec<Column> = table.payload().to_vec();
        if columns.len() > 1 && self.rng.percent(20) {
            columns.truncate(1 + self.rng.below(columns.len()));
        }
        let verb = match self.rng.below(14) {
            0 => "insert or replace",
            1 => "insert or ignore",
            2 => "insert or fail",
            3 => "insert or rollback",
            4 => "replace",
            _ => "insert",
        };
        let upsert = match self.rng.below(14) {
            0 => " on conflict do nothing".to_owned(),
            1 | 2 => {
                let target = match table.unique.first() {
                    Some(unique) if self.rng.percent(50) => unique.clone(),
                    _ => "id".to_owned(),
                };
                let set = self.rng.pick(&columns).name.clone();
                format!(" on conflict({target}) do update set {set} = excluded.{set}")
            }
            _ => String::new(),
        };
        let returning = self.returning(table);
        let table_name = table.name.clone();
        self.build(|b| {
            let row = |b: &mut Builder<'_>| {
                let mut values = Vec::new();
                if with_id {
                    let id = b.rng.below(60) as i64;
                    values.push(b.value(Value::Integer(id)));
                }
                for column in &columns {
                    values.push(b.value_for(column.kind));
                }
                format!("({})", values.join(", "))
            };
            let values: Vec<_> = (0..rows).map(|_| row(b)).collect();
            let mut names = names(&columns);
            if with_id {
                names = format!("id, {names}");
            }
            format!(
                "{verb} into {table_name}({names}) values {}{upsert}{returning}",
                values.join(", ")
            )
        })
    }

    fn insert_select(&mut self, table: &Table) -> Statement {
        // Kinds must agree, see `Kind`.
        let columns = names(table.payload());
        let name = &table.name;
        let limit = self.rng.below(30);
        let returning = self.returning(table);
        Statement::plain(format!(
            "insert into {name}({columns}) select {columns} from {name} order by id limit {limit}{returning}"
        ))
    }

    fn update(&mut self, table: &Table) -> Statement {
        let column = self.rng.pick(table.payload()).clone();
        let verb = match self.rng.below(8) {
            0 => "update or ignore",
            1 => "update or replace",
            _ => "update",
        };
        let computed = self.rng.percent(40);
        let returning = self.returning(table);
        let table = table.clone();
        self.build(|b| {
            let value = match column.kind {
                // A sum could become a real of many digits.
                Kind::Integer if computed => {
                    format!("{} | {}", column.name, b.value_for(Kind::Integer))
                }
                Kind::Text if computed => b.text(&table.columns, 1),
                kind => b.value_for(kind),
            };
            let condition = row_condition(b, &table);
            format!(
                "{verb} {} set {} = {value} where {condition}{returning}",
                table.name, column.name
            )
        })
    }

    fn delete(&mut self, table: &Table) -> Statement {
        let returning = self.returning(table);
        let all = self.rng.percent(5);
        let table = table.clone();
        self.build(|b| match all {
            true => format!("delete from {}{returning}", table.name),
            false => {
                let condition = row_condition(b, &table);
                format!("delete from {} where {condition}{returning}", table.name)
            }
        })
    }

    fn returning(&mut self, table: &Table) -> String {
        if !self.dialect.returning || !self.rng.percent(25) {
            return String::new();
        }
        format!(" returning id, {}", self.rng.pick(&table.columns).name)
    }

    /// A statement that reads.
    pub(super) fn read(&mut self) -> Statement {
        let Some(table) = self.table() else {
            return Statement::plain("select 1 as x, null, 'a', x'00', 0.5");
        };
        let other = self.table().unwrap_or_else(|| table.clone());
        let view = match self.schema.views.is_empty() {
            true => None,
            false => Some(self.rng.pick(&self.schema.views).clone()),
        };
        let choice = self.rng.below(16);
        let width = 1 + self.rng.below(4);
        let limit = self.rng.below(25);
        let order = *self.rng.pick(&["", " desc"]);
        self.build(|b| {
            let columns = &table.columns;
            match choice {
                0..=2 => {
                    let condition = row_condition(b, &table);
                    let columns = names(columns);
                    format!("select {columns} from {} where {condition} order by id", table.name)
                }
                3..=6 => {
                    let list: Vec<_> = (0..width).map(|_| b.expression(columns, 2)).collect();
                    let condition = b.condition(columns, 2);
                    format!(
                        "select {} from {} where {condition} order by id{order} limit {limit}",
                        aliased(&list),
                        table.name
                    )
                }
                7 => format!(
                    "select count(*), sum(id), min({c}), max({c}), count({c}) from {}",
                    table.name,
                    c = b.rng.pick(columns).name
                ),
                8 => {
                    let having = b.rng.below(3);
                    format!(
                        "select id % 4 as k, count(*), sum(id) from {} group by 1 having count(*) > {having} order by 1",
                        table.name
                    )
                }
                9 => {
                    let left = b.rng.pick(columns).name.clone();
                    let right = b.rng.pick(&other.columns).name.clone();
                    let join = *b.rng.pick(&["join", "left join"]);
                    format!(
                        "select x.id, y.id, x.{left}, y.{right} from {} x {join} {} y on x.id = y.id + 1 order by 1, 2",
                        table.name, other.name
                    )
                }
                10 => format!(
                    "select id from {} union select id + 3 from {} order by 1{order} limit {limit}",
                    table.name, other.name
                ),
                11 => {
                    let condition = b.condition(columns, 1);
                    format!(
                        "select count(*) from {} where exists (select 1 from {} where id < 5) and {condition}",
                        table.name, other.name
                    )
                }
                12 => format!(
                    "with recursive n(i) as (select 1 union all select i + 1 from n where i < {}) select i, i * i from n",
                    limit * 20 + 1
                ),
                13 => format!(
                    "select id, row_number() over (order by id{order}), sum(id) over (order by id rows 2 preceding) from {} order by id",
                    table.name
                ),
                14 => match view {
                    Some(view) => format!("select * from {view} order by id"),
                    None => "select type, name, tbl_name, sql from sqlite_master order by rowid".to_owned(),
                },
                _ => {
                    let kind = *b.rng.pick(&super::expression::KINDS);
                    let value = b.value_for(kind);
                    format!("select {value} as x, typeof(x) from (select {} as x)", b.value_for(kind))
                }
            }
        })
    }

    /// A pragma that changes something, but yields no rows.
    pub(super) fn set_pragma(&mut self) -> Statement {
        let n = self.rng.below(1000);
        let on = self.rng.below(2);
        Statement::plain(match self.rng.below(6) {
            0 | 1 => format!("pragma user_version = {n}"),
            2 => format!("pragma application_id = {n}"),
            3 => format!("pragma foreign_keys = {on}"),
            4 => format!("pragma defer_foreign_keys = {on}"),
            _ if self.dialect.vacuum => "vacuum".to_owned(),
            _ => format!("pragma cell_size_check = {on}"),
        })
    }

    /// A pragma that yields rows.
    pub(super) fn get_pragma(&mut self) -> Statement {
        let table = self
            .table()
            .map_or("nothing".to_owned(), |table| table.name);
        Statement::plain(match self.rng.below(8) {
            0 => "pragma user_version".to_owned(),
            1 => "pragma application_id".to_owned(),
            2 => "pragma foreign_keys".to_owned(),
            3 => "pragma integrity_check".to_owned(),
            // Versions of SQLite look at the tables in different orders.
            4 => "select * from pragma_foreign_key_check order by 1, 2, 3, 4".to_owned(),
            5 => format!("pragma index_list({table})"),
            // Not page_count: how many pages the same rows take depends on SQLite's version.
            6 => "pragma page_size".to_owned(),
            _ => format!("pragma table_info({table})"),
        })
    }

    /// A statement that fails; a query, for all that SQLite gets to know of it, or a change.
    pub(super) fn mistake(&mut self, query: bool) -> Statement {
        let table = self
            .table()
            .map_or("nothing".to_owned(), |table| table.name);
        Statement::plain(match self.rng.below(if query { 5 } else { 10 }) {
            0 => "selct 1".to_owned(),
            1 => "select * from nope".to_owned(),
            2 => format!("select nope from {table}"),
            3 => "select nope(1)".to_owned(),
            4 => "select 'a".to_owned(),
            5 => format!("insert into {table}(id, nope) values (1, 2)"),
            6 => format!("insert into {table} values (1)"),
            7 => format!("create table {table}(id)"),
            8 => format!("insert into {table}(id) values ('x')"),
            _ => "drop table nope".to_owned(),
        })
    }

    /// A value of any kind, to be sent where a statement wants none in particular.
    pub(super) fn any_value(&mut self, kind: Kind) -> Value {
        random_value(self.rng, kind)
    }
}

/// A condition that is usually about a few rows.
fn row_condition(b: &mut Builder<'_>, table: &Table) -> String {
    let id = b.rng.below(60) as i64;
    match b.rng.below(5) {
        0 | 1 => format!("id = {}", b.value(Value::Integer(id))),
        2 => {
            let first = b.value(Value::Integer(id));
            format!("id between {first} and {}", b.value(Value::Integer(id + 5)))
        }
        _ => b.condition(&table.columns, 1),
    }
}

fn declaration(column: &Column) -> String {
    let decltype = match column.kind {
        Kind::Integer => " integer",
        Kind::Real => " real",
        Kind::Text => " text",
        Kind::Any => "",
        Kind::Boolean => " boolean",
        Kind::Date => " datetime",
    };
    format!("{}{decltype}", column.name)
}

fn names(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    names.join(", ")
}

/// Expressions with names of their own: SQLite does not promise what it calls them else.
fn aliased(list: &[String]) -> String {
    let aliased: Vec<_> = list
        .iter()
        .enumerate()
        .map(|(at, expression)| format!("{expression} as e{at}"))
        .collect();
    aliased.join(", ")
}

//! What the generator believes about a database: it need not be right, only mostly.

/// What a column is meant to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// INTEGER affinity.
    Integer,
    /// REAL affinity.
    Real,
    /// TEXT affinity.
    Text,
    /// No affinity.
    Any,
    /// Declared BOOLEAN: integers and NULL only, as other values end C dqlite's process.
    Boolean,
    /// Declared as a date: integers, texts and NULL only, for the same reason.
    Date,
}

/// A column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// A table. Its first column is called `id` and is the integer primary key, or else it has none.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Columns that an ON CONFLICT clause may name.
    pub(super) unique: Vec<String>,
}

impl Table {
    /// The columns without `id`.
    pub(super) fn payload(&self) -> &[Column] {
        &self.columns[1..]
    }
}

/// The tables, and counters for names that are new.
#[derive(Debug, Clone, Default)]
pub(super) struct Schema {
    pub(super) tables: Vec<Table>,
    pub(super) indexes: Vec<String>,
    pub(super) views: Vec<String>,
    pub(super) triggers: Vec<String>,
    names: usize,
}

impl Schema {
    /// A name that was not used before.
    pub(super) fn new_name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }
}

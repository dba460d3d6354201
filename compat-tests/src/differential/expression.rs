//! Random values and expressions.
//!
//! What is generated has one answer in every version of SQLite: reals are small multiples of 1/8,
//! since the digits of others changed between versions, and nothing depends on time, chance or the
//! order in which rows are visited.

use super::rng::Rng;
use super::schema::{Column, Kind};
use crate::conformance::{Text, Value};

/// Builds the text of one statement, and its parameters on the way.
///
/// Parts must be built in the order in which they appear in the text, as parameters have no names.
#[derive(Debug)]
pub(super) struct Builder<'r> {
    pub(super) rng: &'r mut Rng,
    /// The values of the `?` so far.
    pub(super) params: Vec<Value>,
    /// How many of a hundred values become parameters.
    pub(super) params_percent: usize,
}

impl Builder<'_> {
    /// A value, as `?` or as a literal.
    pub(super) fn value(&mut self, value: Value) -> String {
        if self.rng.percent(self.params_percent) {
            self.params.push(value);
            return "?".to_owned();
        }
        literal(&value)
    }

    /// A value for a column.
    pub(super) fn value_for(&mut self, kind: Kind) -> String {
        let value = random_value(self.rng, kind);
        self.value(value)
    }

    /// An expression with a number, a text or anything, over some columns.
    pub(super) fn expression(&mut self, columns: &[Column], depth: usize) -> String {
        match self.rng.below(10) {
            0..=4 => self.number(columns, depth),
            5..=7 => self.text(columns, depth),
            8 => self.condition(columns, depth),
            _ => match self.rng.below(3) {
                0 => format!("typeof({})", self.column(columns)),
                1 => format!("hex({})", self.text(columns, 0)),
                _ => {
                    let kind = *self.rng.pick(&KINDS);
                    self.value_for(kind)
                }
            },
        }
    }

    /// An expression that is a number, if the columns hold what they should.
    pub(super) fn number(&mut self, columns: &[Column], depth: usize) -> String {
        if depth == 0 {
            return match self.rng.below(3) {
                0 => {
                    let value = Value::Integer(small_integer(self.rng));
                    self.value(value)
                }
                1 => self.value_for(Kind::Integer),
                _ => self.column_of(columns, &[Kind::Integer, Kind::Boolean]),
            };
        }
        let depth = depth - 1;
        match self.rng.below(12) {
            0..=2 => {
                let left = self.number(columns, depth);
                let operator = *self.rng.pick(&["+", "-", "*", "&", "|", "<<", ">>"]);
                let right = self.number(columns, depth);
                format!("({left} {operator} {right})")
            }
            3 => {
                let operator = *self.rng.pick(&["/", "%"]);
                let divisor = *self.rng.pick(&["2", "4", "0", "-2"]);
                format!("({} {operator} {divisor})", self.number(columns, depth))
            }
            // Versions differ on what is absolute about a text that begins with a minus sign.
            4 => format!("abs(cast({} as integer))", self.number(columns, depth)),
            5 => format!("length({})", self.text(columns, depth)),
            6 => {
                let first = self.column(columns);
                format!("coalesce({first}, {})", self.number(columns, depth))
            }
            7 => {
                let condition = self.condition(columns, depth);
                let yes = self.number(columns, depth);
                let no = self.number(columns, depth);
                format!("case when {condition} then {yes} else {no} end")
            }
            8 => format!("-({})", self.number(columns, depth)),
            9 => format!("cast({} as integer)", self.text(columns, depth)),
            10 => format!("unicode({})", self.text(columns, depth)),
            _ => self.column_of(columns, &[Kind::Real, Kind::Integer]),
        }
    }

    /// An expression that is a text, if the columns hold what they should.
    pub(super) fn text(&mut self, columns: &[Column], depth: usize) -> String {
        if depth == 0 {
            return match self.rng.below(2) {
                0 => {
                    let value = random_value(self.rng, Kind::Text);
                    self.value(value)
                }
                _ => self.column_of(columns, &[Kind::Text, Kind::Date]),
            };
        }
        let depth = depth - 1;
        match self.rng.below(7) {
            0 => format!("upper({})", self.text(columns, depth)),
            1 => format!("lower({})", self.text(columns, depth)),
            2 => {
                let text = self.text(columns, depth);
                let start = self.rng.below(7) as i64 - 3;
                format!("substr({text}, {start}, {})", self.rng.below(5))
            }
            3 => {
                let left = self.text(columns, depth);
                format!("({left} || {})", self.text(columns, depth))
            }
            4 => format!("trim({})", self.text(columns, depth)),
            5 => {
                let text = self.text(columns, depth);
                format!("replace({text}, 'a', {})", self.text(columns, 0))
            }
            _ => format!("quote({})", self.column(columns)),
        }
    }

    /// An expression that is true, false or NULL.
    pub(super) fn condition(&mut self, columns: &[Column], depth: usize) -> String {
        let deeper = depth.saturating_sub(1);
        match self.rng.below(if depth == 0 { 5 } else { 9 }) {
            0 | 1 => {
                let left = self.column(columns);
                let operator = *self
                    .rng
                    .pick(&["=", "<", ">", "<=", ">=", "<>", "is", "is not"]);
                let kind = *self.rng.pick(&KINDS);
                format!("{left} {operator} {}", self.value_for(kind))
            }
            2 => format!("{} is null", self.column(columns)),
            3 => {
                let left = self.column_of(columns, &[Kind::Integer]);
                let low = self.number(columns, 0);
                format!("{left} between {low} and {}", self.number(columns, 0))
            }
            4 => {
                let left = self.column(columns);
                let first = self.value_for(Kind::Integer);
                format!("{left} in ({first}, {})", self.value_for(Kind::Text))
            }
            5 => {
                let left = self.condition(columns, deeper);
                let operator = *self.rng.pick(&["and", "or"]);
                format!("({left} {operator} {})", self.condition(columns, deeper))
            }
            6 => format!("not ({})", self.condition(columns, deeper)),
            7 => {
                let text = self.column_of(columns, &[Kind::Text]);
                let operator = *self.rng.pick(&["like", "not like", "glob"]);
                let pattern = *self
                    .rng
                    .pick(&["'a%'", "'%b%'", "'_'", "'*é*'", "'A*'", "''"]);
                format!("{text} {operator} {pattern}")
            }
            _ => {
                let left = self.number(columns, deeper);
                let operator = *self.rng.pick(&["=", "<", ">"]);
                format!("{left} {operator} {}", self.number(columns, deeper))
            }
        }
    }

    fn column(&mut self, columns: &[Column]) -> String {
        match columns.is_empty() {
            true => "1".to_owned(),
            false => self.rng.pick(columns).name.clone(),
        }
    }

    /// A column of one of these kinds, or a value if there is none.
    fn column_of(&mut self, columns: &[Column], kinds: &[Kind]) -> String {
        let fit: Vec<_> = columns.iter().filter(|c| kinds.contains(&c.kind)).collect();
        match fit.is_empty() {
            true => self.value_for(kinds[0]),
            false => self.rng.pick(&fit).name.clone(),
        }
    }
}

/// Every kind that a value may be for.
pub(super) const KINDS: [Kind; 6] = [
    Kind::Integer,
    Kind::Real,
    Kind::Text,
    Kind::Any,
    Kind::Boolean,
    Kind::Date,
];

/// A random value that a column of this kind may hold.
pub(super) fn random_value(rng: &mut Rng, kind: Kind) -> Value {
    if rng.percent(8) {
        return Value::Null;
    }
    match kind {
        Kind::Boolean => match rng.below(4) {
            0 => Value::Boolean(rng.word() % 3),
            _ => Value::Integer(*rng.pick(&[0, 1, 1, 0, 7, -1])),
        },
        Kind::Date => match rng.below(3) {
            0 => Value::Integer(random_integer(rng)),
            1 => Value::Iso8601(Text::literal(*rng.pick(&DATES))),
            _ => Value::Text(Text::literal(*rng.pick(&DATES))),
        },
        Kind::Integer => match rng.below(12) {
            0 => Value::Float(random_real(rng)),
            1 => Value::Text(random_text(rng)),
            _ => Value::Integer(random_integer(rng)),
        },
        Kind::Real => Value::Float(random_real(rng)),
        Kind::Text => match rng.below(10) {
            0 => Value::Integer(random_integer(rng)),
            _ => Value::Text(random_text(rng)),
        },
        Kind::Any => match rng.below(5) {
            0 => Value::Integer(random_integer(rng)),
            1 => Value::Float(random_real(rng)),
            2 => Value::Text(random_text(rng)),
            _ => Value::Blob(random_blob(rng)),
        },
    }
}

const DATES: [&str; 5] = [
    "2020-01-02",
    "2020-01-02 03:04:05",
    "",
    "abc",
    "1999-12-31T00:00:00Z",
];

fn small_integer(rng: &mut Rng) -> i64 {
    rng.below(20) as i64 - 5
}

fn random_integer(rng: &mut Rng) -> i64 {
    const EDGES: [i64; 12] = [
        0,
        1,
        -1,
        127,
        128,
        -129,
        65_536,
        i32::MAX as i64,
        i32::MIN as i64 - 1,
        1 << 53,
        i64::MAX,
        i64::MIN,
    ];
    match rng.below(10) {
        0 => *rng.pick(&EDGES),
        1 => rng.below(100_000) as i64 - 50_000,
        _ => small_integer(rng),
    }
}

fn random_real(rng: &mut Rng) -> f64 {
    match rng.below(40) {
        0 => 0.0,
        _ => (rng.below(2001) as f64 - 1000.0) / 8.0,
    }
}

fn random_text(rng: &mut Rng) -> Text {
    const WORDS: [&str; 16] = [
        "",
        "a",
        "b",
        "ab",
        "A",
        "aB",
        "é",
        "日本語",
        "𝄞",
        "12",
        "-3",
        "x'y",
        "\"",
        "a b",
        "\n",
        "%_",
    ];
    match rng.below(40) {
        0 => Text::literal("xyz".repeat(rng.below(2000))),
        1..=8 => {
            let words: String = (0..rng.below(5)).map(|_| *rng.pick(&WORDS)).collect();
            Text::literal(words)
        }
        _ => Text::literal(*rng.pick(&WORDS)),
    }
}

fn random_blob(rng: &mut Rng) -> Text {
    let size = match rng.below(60) {
        0 => rng.below(20_000),
        _ => rng.below(20),
    };
    Text::literal((0..size).map(|_| rng.word() as u8).collect::<Vec<u8>>())
}

/// A value as SQL has it.
pub(super) fn literal(value: &Value) -> String {
    let names = Default::default();
    match value {
        Value::Integer(i64::MIN) => "(-9223372036854775807 - 1)".to_owned(),
        Value::Integer(n) | Value::UnixTime(n) => n.to_string(),
        Value::Float(x) => format!("{x:?}"),
        Value::Text(text) | Value::Iso8601(text) => {
            let text = String::from_utf8_lossy(&text.resolve(&names)).into_owned();
            format!("'{}'", text.replace('\'', "''"))
        }
        Value::Blob(blob) => {
            let bytes = blob.resolve(&names);
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
        Value::Null => "null".to_owned(),
        Value::Boolean(word) => u64::from(*word != 0).to_string(),
    }
}

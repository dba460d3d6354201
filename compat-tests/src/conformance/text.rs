//! Texts of the case language: literals, repetitions, and names that are known only at run time.

use std::collections::BTreeMap;
use std::fmt;

/// What the names in a case stand for while it runs.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// `$db`: the case's own database.
    pub database: String,
    /// `$L`, `$F`, …: addresses of the nodes.
    pub addresses: BTreeMap<char, String>,
}

/// A text, possibly with names in it; see the language's description in the parent module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text(pub(super) Vec<Piece>);

/// A part of a [`Text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(Vec<u8>),
    Repeat(usize, Vec<u8>),
    Database,
    Address(char),
}

impl Text {
    /// A text without names.
    pub fn literal(bytes: impl Into<Vec<u8>>) -> Text {
        Text(vec![Piece::Literal(bytes.into())])
    }

    /// The case's own database: `$db`.
    pub fn database() -> Text {
        Text(vec![Piece::Database])
    }

    /// The bytes that the text stands for. A node without an address stands for nothing.
    pub fn resolve(&self, names: &Names) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Repeat(count, bytes) => out.extend_from_slice(&bytes.repeat(*count)),
                Piece::Database => out.extend_from_slice(names.database.as_bytes()),
                Piece::Address(node) => {
                    if let Some(address) = names.addresses.get(node) {
                        out.extend_from_slice(address.as_bytes());
                    }
                }
            }
        }
        out
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut quoted = false;
        let mut first = true;
        for piece in &self.0 {
            if let Piece::Repeat(count, bytes) = piece {
                if quoted {
                    f.write_str("\"")?;
                    quoted = false;
                }
                if !first {
                    f.write_str(" + ")?;
                }
                write!(f, "rep({count},\"{}\")", escape(bytes))?;
            } else {
                if !quoted {
                    f.write_str(if first { "\"" } else { " + \"" })?;
                    quoted = true;
                }
                match piece {
                    Piece::Literal(bytes) => f.write_str(&escape(bytes))?,
                    Piece::Database => f.write_str("$db")?,
                    Piece::Address(node) => write!(f, "${node}")?,
                    Piece::Repeat(..) => {}
                }
            }
            first = false;
        }
        match (quoted, first) {
            (true, _) => f.write_str("\""),
            (false, true) => f.write_str("\"\""),
            (false, false) => Ok(()),
        }
    }
}

/// Bytes as they stand between quotes.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' | '$' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        out.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

//! Messages as they arrive, and how they are shown to people.

use dq_wire::header::response_type;
use dq_wire::response::Dialect;
use dq_wire::{DecodeError, Header, Reader, Response, RowsEnd, ValueRef, ValueType};

use super::text::escape;

/// A message: its header as it came, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The body.
    pub body: Vec<u8>,
}

impl Frame {
    /// The whole message again.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.encode().to_vec();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// True for a ROWS that another one follows.
    pub fn is_part(&self) -> bool {
        self.header.kind == response_type::ROWS && self.body.ends_with(&[0xee; 8])
    }
}

/// Sets the padding of blobs in the body of a ROWS to zero: C dqlite leaves there what the buffer
/// held before.
///
/// # Errors
/// The body is not that of a ROWS.
pub fn mask_blob_padding(body: &mut [u8]) -> Result<(), DecodeError> {
    let mut gaps = Vec::new();
    let mut reader = Reader::new(body);
    let columns = reader.u64()?;
    for _ in 0..columns {
        reader.text()?;
    }
    // Fits: that many texts were read.
    let columns = columns as usize;
    loop {
        let mark = reader.clone().u64()?;
        if mark == u64::MAX || mark == 0xeeee_eeee_eeee_eeee {
            break;
        }
        let codes = reader
            .bytes(columns.div_ceil(2).next_multiple_of(8))?
            .to_vec();
        for column in 0..columns {
            let code = codes[column / 2] >> (column % 2 * 4) & 0xf;
            let value_type =
                ValueType::from_code(code).ok_or(reader.malformed("column type", 0))?;
            let value = ValueRef::decode(value_type, &mut reader)?;
            if let ValueRef::Blob(blob) = value {
                let padding = blob.len().next_multiple_of(8) - blob.len();
                gaps.push(reader.offset() - padding..reader.offset());
            }
        }
        if columns == 0 {
            return Err(reader.malformed("end of rows", 0));
        }
    }
    for gap in gaps {
        body[gap].fill(0);
    }
    Ok(())
}

/// The message in the words of the case language, and its first bytes.
pub fn show_frame(frame: &Frame, legacy: bool) -> String {
    const HEX_MAX: usize = 512;
    const TEXT_MAX: usize = 2000;
    let mut text = match decoded(frame, legacy) {
        Ok(text) => text,
        Err(error) => format!("undecodable type {}: {error}", frame.header.kind),
    };
    if text.len() > TEXT_MAX {
        let cut = (0..=TEXT_MAX).rfind(|&i| text.is_char_boundary(i));
        text.truncate(cut.unwrap_or(0));
        text.push_str(" …");
    }
    let header = frame.header;
    if header.extra != 0 {
        text.push_str(&format!(" (extra {})", header.extra));
    }
    let bytes = frame.to_bytes();
    let shown = &bytes[..bytes.len().min(HEX_MAX)];
    let more = if shown.len() < bytes.len() {
        " …"
    } else {
        ""
    };
    format!("{text}\n      {}{more}", hex(shown))
}

/// Hexadecimal, a space after each word.
pub(super) fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes
        .chunks(8)
        .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    words.join(" ")
}

fn decoded(frame: &Frame, legacy: bool) -> Result<String, DecodeError> {
    let dialect = Dialect {
        legacy,
        cluster_format: 1,
    };
    let response = Response::decode_dialect(&frame.header, &frame.body, dialect).or_else(|_| {
        Response::decode_dialect(
            &frame.header,
            &frame.body,
            Dialect {
                legacy,
                cluster_format: 0,
            },
        )
    })?;
    let quoted = |bytes: &[u8]| format!("\"{}\"", escape(bytes));
    Ok(match response {
        Response::Failure { code, message } => format!("FAILURE {code} {}", quoted(message)),
        Response::Server { id, address } => format!("SERVER {id} {}", quoted(address)),
        Response::ServerLegacy { address } => format!("SERVERLEGACY {}", quoted(address)),
        Response::Welcome { heartbeat_ms } => format!("WELCOME {heartbeat_ms}"),
        Response::Servers { list } => list.iter().fold("SERVERS".to_owned(), |text, s| {
            format!("{text} {} {} {}", s.id, quoted(s.address), s.role.to_wire())
        }),
        Response::ServersV0 { list } => list.iter().fold("SERVERS0".to_owned(), |text, s| {
            format!("{text} {} {}", s.id, quoted(s.address))
        }),
        Response::Db { id } => format!("DB {id}"),
        Response::Stmt {
            db,
            id,
            params,
            tail,
        } => {
            let tail = tail.map_or(String::new(), |tail| format!(" {tail}"));
            format!("STMT {db} {id} {params}{tail}")
        }
        Response::Result {
            last_insert_id,
            rows_affected,
        } => format!("RESULT {last_insert_id} {rows_affected}"),
        Response::Rows(mut rows) => {
            let mut text = "ROWS".to_owned();
            for column in rows.columns() {
                text.push(' ');
                text.push_str(&quoted(column));
            }
            let mut row = Vec::new();
            while rows.next_row(&mut row)? {
                text.push_str(" |");
                for value in &row {
                    text.push(' ');
                    text.push_str(&show_value(value));
                }
            }
            if rows.end() == Some(RowsEnd::Part) {
                text.push_str(" | part");
            }
            text
        }
        Response::Empty => "EMPTY".to_owned(),
        Response::Files { list } => list.iter().fold("FILES".to_owned(), |text, file| {
            format!("{text} {} {}", quoted(file.name), file.data.len())
        }),
        Response::Metadata {
            failure_domain,
            weight,
        } => format!("METADATA {failure_domain} {weight}"),
    })
}

/// A value in the words of the case language.
pub(super) fn show_value(value: &ValueRef<'_>) -> String {
    match value {
        ValueRef::Integer(n) => format!("i{n}"),
        ValueRef::Float(x) => format!("f{x:?}"),
        ValueRef::Text(text) => format!("t\"{}\"", escape(text)),
        ValueRef::Blob(blob) => format!("b\"{}\"", escape(blob)),
        ValueRef::Null => "n".to_owned(),
        ValueRef::UnixTime(n) => format!("u{n}"),
        ValueRef::Iso8601(text) => format!("s\"{}\"", escape(text)),
        ValueRef::Boolean(word) => format!("B{word}"),
    }
}

//! The text of a request, and what can be told of a statement without SQLite.
//!
//! The latter are hints about cost and emptiness. A wrong one costs a thread hand-over, never a result.

use bytes::Bytes;

/// SQL as it came, with the zero byte that ends it: SQLite then parses it where it lies. Without
/// that byte it copies all that is left of the text for each of its statements.
#[derive(Debug, Clone)]
pub struct SqlText(Bytes);

impl SqlText {
    /// The text `sql`, which lies in `body`, as requests carry it: with a zero byte behind it.
    pub fn within(body: &Bytes, sql: &[u8]) -> SqlText {
        let start = sql.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
        let end = start.wrapping_add(sql.len());
        match body.get(end) {
            Some(0) if body.get(start..end) == Some(sql) => SqlText(body.slice(start..=end)),
            _ => SqlText([sql, &[0]].concat().into()),
        }
    }

    /// What begins at `offset`, the zero byte included; empty if nothing does.
    pub fn rest(&self, offset: usize) -> &[u8] {
        self.0.get(offset..).unwrap_or_default()
    }

    /// Bytes from `offset` on.
    pub fn left(&self, offset: usize) -> usize {
        self.0.len().saturating_sub(offset)
    }
}

/// The text up to its first NUL: SQLite reads no further.
pub fn until_nul(text: &[u8]) -> &[u8] {
    match text.iter().position(|&b| b == 0) {
        Some(end) => &text[..end],
        None => text,
    }
}

/// True when nothing but white space and semicolons is left before the text's end or zero byte.
/// Comments need SQLite to tell.
pub fn is_trivially_blank(text: &[u8]) -> bool {
    text.iter()
        .take_while(|&&b| b != 0)
        .all(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0c | b';'))
}

/// True for statements whose work is one long step, which no step budget can bound.
pub fn is_heavy(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let first = first_word(text);
    if ["VACUUM", "REINDEX", "ANALYZE", "ALTER"]
        .iter()
        .any(|w| first.eq_ignore_ascii_case(w.as_bytes()))
    {
        return true;
    }
    if first.eq_ignore_ascii_case(b"CREATE") {
        return has_word(text, b"INDEX") || has_word(text, b"SELECT");
    }
    first.eq_ignore_ascii_case(b"PRAGMA")
        && [
            "integrity_check",
            "quick_check",
            "foreign_key_check",
            "optimize",
            "incremental_vacuum",
        ]
        .iter()
        .any(|name| has_word(text, name.as_bytes()))
}

/// True for writes that are short whatever the tables hold, triggers aside: an INSERT of values.
pub fn is_short_write(text: &[u8]) -> bool {
    let first = first_word(text.trim_ascii_start());
    if [
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "PRAGMA",
        "CREATE",
    ]
    .iter()
    .any(|w| first.eq_ignore_ascii_case(w.as_bytes()))
    {
        return true;
    }
    let inserts = first.eq_ignore_ascii_case(b"INSERT") || first.eq_ignore_ascii_case(b"REPLACE");
    inserts && !has_word(text, b"SELECT")
}

fn first_word(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|b| !b.is_ascii_alphabetic())
        .unwrap_or(text.len());
    &text[..end]
}

/// Looks for a word, case-insensitively; only the first 64 KiB of the text, as values in an INSERT
/// can be huge.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    let text = &text[..text.len().min(64 * 1024)];
    text.windows(word.len())
        .any(|w| w.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_the_first_nul() {
        assert_eq!(until_nul(b"ab\0c"), b"ab");
        assert_eq!(until_nul(b"ab"), b"ab");
    }

    #[test]
    fn a_text_is_used_where_it_lies_in_its_request() {
        let body = Bytes::from_static(b"01234567SELECT 1\0\0\0\0");
        let sql = &body[8..16];
        let text = SqlText::within(&body, sql);
        assert_eq!(text.rest(0), b"SELECT 1\0");
        assert_eq!(text.rest(0).as_ptr(), sql.as_ptr());
        assert_eq!(text.rest(7), b"1\0");
        assert_eq!(text.rest(10), b"");
        assert_eq!((text.left(2), text.left(99)), (7, 0));
        // From elsewhere, or not ended, it is copied.
        for sql in [&b"SELECT 2"[..], &body[0..8], b""] {
            assert_eq!(SqlText::within(&body, sql).rest(0), [sql, b"\0"].concat());
        }
    }

    #[test]
    fn only_white_space_and_semicolons_are_trivially_blank() {
        assert!(is_trivially_blank(b" ;\n;\t"));
        assert!(is_trivially_blank(b" ;\0SELECT 1"));
        assert!(is_trivially_blank(b""));
        assert!(!is_trivially_blank(b"-- comment"));
    }

    #[test]
    fn statements_that_work_in_one_long_step_are_heavy() {
        assert!(is_heavy(b" vacuum"));
        assert!(is_heavy(b"pragma Integrity_check"));
        assert!(is_heavy(b"create unique index i on t(a)"));
        assert!(!is_heavy(b"pragma user_version"));
        assert!(!is_heavy(b"create table t(a)"));
    }

    #[test]
    fn an_insert_of_values_is_short_and_one_from_a_select_is_not() {
        assert!(is_short_write(b"INSERT INTO t VALUES(1)"));
        assert!(!is_short_write(b"insert into t select * from u"));
        assert!(!is_short_write(b"update t set a=1"));
    }
}

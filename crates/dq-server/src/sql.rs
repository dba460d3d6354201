//! What can be told from the text of a statement without SQLite.
//!
//! These are hints about cost and emptiness. A wrong one costs a thread hand-over, never a result.

/// The text up to its first NUL: SQLite reads no further.
pub fn until_nul(text: &[u8]) -> &[u8] {
    match text.iter().position(|&b| b == 0) {
        Some(end) => &text[..end],
        None => text,
    }
}

/// True when nothing but white space and semicolons is left. Comments need SQLite to tell.
pub fn is_trivially_blank(text: &[u8]) -> bool {
    text.iter()
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
    fn only_white_space_and_semicolons_are_trivially_blank() {
        assert!(is_trivially_blank(b" ;\n;\t"));
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

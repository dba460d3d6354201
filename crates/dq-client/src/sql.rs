//! The little that a client must see of an SQL text, always erring to the safe side.
//!
//! Nothing here parses SQL. The questions are such that a wrong "maybe" only costs a retry or a
//! connection, and a "certainly not" is read off the plain text.

/// What running a text may do to the connection's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionEffect {
    /// It neither begins nor ends one.
    None,
    /// One may be open afterwards.
    MayBegin,
    /// None is open if the text succeeds.
    Ends,
}

/// Whether a text may hold more than one statement: whether a semicolon is followed by anything
/// but white space and semicolons.
pub(crate) fn may_be_several(sql: &str) -> bool {
    sql.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace())
        .contains(';')
}

/// Whether a text is certainly a query that changes nothing: dqlite has no functions with effects
/// on the database, so that it begins with SELECT is enough.
pub(crate) fn is_read_only(sql: &str) -> bool {
    first_word(sql).eq_ignore_ascii_case("select") && !may_be_several(sql)
}

/// See [`TransactionEffect`].
pub(crate) fn transaction_effect(sql: &str) -> TransactionEffect {
    let first = first_word(sql);
    let ends = ["commit", "end", "rollback"]
        .iter()
        .any(|word| first.eq_ignore_ascii_case(word));
    // ROLLBACK TO leaves the transaction open; so may what follows in the same text.
    if ends && !may_be_several(sql) && !contains_word(sql, "to") {
        TransactionEffect::Ends
    } else if contains_word(sql, "begin") || contains_word(sql, "savepoint") {
        TransactionEffect::MayBegin
    } else {
        TransactionEffect::None
    }
}

fn first_word(sql: &str) -> &str {
    let sql = sql.trim_start_matches(|c: char| c == ';' || c.is_ascii_whitespace());
    let end = sql
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(sql.len());
    &sql[..end]
}

/// Whether a word occurs anywhere, also within other words, comments and literals.
fn contains_word(sql: &str, word: &str) -> bool {
    sql.as_bytes()
        .windows(word.len())
        .any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_something_after_a_semicolon_may_be_several_statements() {
        assert!(!may_be_several("SELECT 1"));
        assert!(!may_be_several("SELECT 1; ;\n"));
        assert!(may_be_several("SELECT 1; SELECT 2"));
        assert!(may_be_several("SELECT ';x'"), "a literal is not told apart");
    }

    #[test]
    fn only_a_single_select_is_read_only() {
        assert!(is_read_only("  select * from t"));
        assert!(!is_read_only("SELECT 1; DELETE FROM t"));
        assert!(!is_read_only(
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x"
        ));
        assert!(
            !is_read_only("-- comment\nSELECT 1"),
            "not recognised, which is safe"
        );
        assert!(!is_read_only(""));
    }

    #[test]
    fn what_may_leave_a_transaction_open_is_noticed() {
        use TransactionEffect::{Ends, MayBegin, None};
        assert_eq!(transaction_effect("INSERT INTO u VALUES (1)"), None);
        assert_eq!(transaction_effect("begin immediate"), MayBegin);
        assert_eq!(transaction_effect("/* x */ Begin"), MayBegin);
        assert_eq!(transaction_effect("SAVEPOINT a"), MayBegin);
        assert_eq!(transaction_effect("COMMIT"), Ends);
        assert_eq!(transaction_effect(" rollback;"), Ends);
        assert_eq!(transaction_effect("ROLLBACK TO a"), None);
        assert_eq!(transaction_effect("COMMIT; BEGIN"), MayBegin);
        assert_eq!(
            transaction_effect("CREATE TRIGGER t AFTER INSERT ON u BEGIN SELECT 1; END"),
            MayBegin
        );
    }
}

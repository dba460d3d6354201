//! Where C dqlite is known to answer otherwise than we do: the only answers that may differ.

use dq_wire::Response;
use dq_wire::header::response_type;

use super::drive::Exchange;
use crate::conformance::{Frame, Target, mask_blob_padding};

/// A known difference.
pub(super) struct Difference {
    /// What differs, for the summary of a run.
    pub(super) name: &'static str,
    /// Which servers answer otherwise.
    pub(super) targets: &'static [&'static str],
    /// Whether these two answers differ so: C's, then ours.
    pub(super) explains: fn(&Past, &[Frame], &[Frame]) -> bool,
}

/// What happened before on the same connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    /// A write was refused as the database was locked, and no rows were changed since then.
    refused: bool,
}

impl Past {
    /// Takes note of what C answered.
    pub(super) fn note(&mut self, c: &Exchange) {
        let [frame] = c.answer.as_slice() else {
            return;
        };
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::Failure { code: 5 | 517, .. }) => self.refused = true,
            Ok(Response::Result { rows_affected, .. }) if rows_affected > 0 => {
                self.refused = false;
            }
            _ => {}
        }
    }
}

/// All of them.
pub(super) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "EXEC that yields a row has another code and text",
        targets: &["c-1.11.1"],
        explains: |_, c, ours| {
            // The text is SQLite's last one, whatever that was about.
            failure(c).is_some_and(|(code, _)| code == 100)
                && is_failure(ours, 1, "rows yielded when none expected for EXEC request")
        },
    },
    Difference {
        name: "a query's failure comes behind its columns and rows",
        targets: &["c"],
        explains: |_, c, ours| failure_behind_rows(c, ours),
    },
    Difference {
        name: "a transaction that has read the past is told so, whoever holds the write lock",
        targets: &["c"],
        explains: |_, c, ours| {
            is_failure(c, 5, "database is locked") && is_failure(ours, 517, "database is locked")
        },
    },
    Difference {
        name: "a prepared write that the schema has left behind is refused for the lock first",
        targets: &["c-1.11.1"],
        explains: |_, c, ours| {
            failure(c).is_some_and(|(code, _)| code == 1)
                && (is_failure(ours, 5, "database is locked")
                    || is_failure(ours, 517, "database is locked"))
        },
    },
    Difference {
        name: "and the other way round, where a transaction has read the past",
        targets: &["c-1.11.1"],
        explains: |_, c, ours| {
            is_failure(c, 517, "database is locked")
                && failure(ours)
                    .is_some_and(|(code, text)| code == 1 && text.starts_with("no such "))
        },
    },
    Difference {
        name: "a write that is refused by SQLite, not by the queue, sets the count of changes to 0",
        targets: &["c-1.11.1"],
        explains: |past, c, ours| match (result(c), result(ours)) {
            (Some((c_id, 0)), Some((id, _))) => past.refused && c_id == id,
            _ => false,
        },
    },
];

/// What two answers have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The same bytes, but for padding.
    Same,
    /// As this entry of [`DIFFERENCES`] says.
    Known(usize),
    /// Not the same.
    Different,
}

/// Compares the answers of C and ours to one request.
pub(super) fn compare(target: &Target, past: &Past, c: &Exchange, ours: &Exchange) -> Comparison {
    let (c, ours) = (masked(&c.answer), masked(&ours.answer));
    if c == ours {
        return Comparison::Same;
    }
    let found = DIFFERENCES.iter().position(|difference| {
        let covers = |name: &&str| Target((*name).to_owned()).covers(target);
        difference.targets.iter().any(covers) && (difference.explains)(past, &c, &ours)
    });
    found.map_or(Comparison::Different, Comparison::Known)
}

fn masked(answer: &[Frame]) -> Vec<Frame> {
    let mut answer = answer.to_vec();
    for frame in &mut answer {
        if frame.header.kind == response_type::ROWS {
            // What cannot be read is compared as it is.
            let _ = mask_blob_padding(&mut frame.body);
        }
    }
    answer
}

fn failure(answer: &[Frame]) -> Option<(u64, String)> {
    let [frame] = answer else {
        return None;
    };
    match Response::decode(&frame.header, &frame.body) {
        Ok(Response::Failure { code, message }) => {
            Some((code, String::from_utf8_lossy(message).into_owned()))
        }
        _ => None,
    }
}

fn result(answer: &[Frame]) -> Option<(u64, u64)> {
    let [frame] = answer else {
        return None;
    };
    match Response::decode(&frame.header, &frame.body) {
        Ok(Response::Result {
            last_insert_id,
            rows_affected,
        }) => Some((last_insert_id, rows_affected)),
        _ => None,
    }
}

fn is_failure(answer: &[Frame], code: u64, text: &str) -> bool {
    failure(answer) == Some((code, text.to_owned()))
}

/// C's last message is a FAILURE that has the rows so far, and then the failure, as its body; ours
/// may have sent those rows before it, or not at all.
fn failure_behind_rows(c: &[Frame], ours: &[Frame]) -> bool {
    let (Some((c_last, _)), Some((our_last, our_rows))) = (c.split_last(), ours.split_last())
    else {
        return false;
    };
    let failures = [c_last, our_last].map(|frame| frame.header.kind == response_type::FAILURE);
    failures == [true, true]
        && c_last.body.len() > our_last.body.len()
        && c_last.body.ends_with(&our_last.body)
        && c.starts_with(our_rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Message, Request};
    use dq_wire::Header;

    fn exchange(responses: &[Response<'_>]) -> Exchange {
        let frame = |response: &Response<'_>| {
            let mut bytes = Vec::new();
            response.encode(&mut bytes);
            Frame {
                header: Header::decode(&bytes).expect("a header"),
                body: bytes.split_off(Header::SIZE),
            }
        };
        Exchange {
            connection: 0,
            message: Message::from(Request::Leader),
            answer: responses.iter().map(frame).collect(),
        }
    }

    fn failure(code: u64, message: &str) -> Response<'_> {
        Response::Failure {
            code,
            message: message.as_bytes(),
        }
    }

    fn result(rows_affected: u64) -> Response<'static> {
        Response::Result {
            last_insert_id: 7,
            rows_affected,
        }
    }

    fn compare_with(past: &Past, c: &Exchange, ours: &Exchange) -> Comparison {
        compare(&Target("c-1.11.1".to_owned()), past, c, ours)
    }

    #[test]
    fn equal_answers_are_the_same_and_others_are_not() {
        let past = Past::default();
        let (one, two) = (exchange(&[result(1)]), exchange(&[result(2)]));
        assert_eq!(compare_with(&past, &one, &one), Comparison::Same);
        assert_eq!(compare_with(&past, &one, &two), Comparison::Different);
    }

    #[test]
    fn a_known_difference_is_one_of_that_version_only() {
        let c = exchange(&[failure(100, "another row available")]);
        let ours = exchange(&[failure(
            1,
            "rows yielded when none expected for EXEC request",
        )]);
        let past = Past::default();
        assert_eq!(compare_with(&past, &c, &ours), Comparison::Known(0));
        let newer = Target("c-1.18.6".to_owned());
        assert_eq!(compare(&newer, &past, &c, &ours), Comparison::Different);
    }

    #[test]
    fn a_count_of_zero_is_explained_by_a_refused_write_only() {
        let (c, ours) = (exchange(&[result(0)]), exchange(&[result(3)]));
        let mut past = Past::default();
        assert_eq!(compare_with(&past, &c, &ours), Comparison::Different);
        past.note(&exchange(&[failure(5, "database is locked")]));
        assert!(matches!(
            compare_with(&past, &c, &ours),
            Comparison::Known(_)
        ));
        past.note(&exchange(&[result(1)]));
        assert_eq!(compare_with(&past, &c, &ours), Comparison::Different);
    }
}

//! The client's side of the protocol: requests in, bytes out; bytes in, responses out. No I/O.
//!
//! ```text
//!             send(request, out)                     spare() / filled(n)
//!   caller ─────────────────────────> bytes ... bytes ─────────────────> caller
//!                    │                                      │
//!                    └── expected: queue of answers <───────┘  is_ready(), reply()
//! ```
//!
//! The server answers requests in order, one after the other, so what is expected is a queue: one
//! entry per request that has not been answered in full. A response that does not fit the front
//! of the queue is an error, after which nothing on the connection can be trusted.
//!
//! Two answers are longer than one message. A query yields ROWS until one says that it was the
//! last. And an INTERRUPT, which may be sent while an answer is under way, is itself answered with
//! EMPTY: after the rest of that answer, or in place of it. [`Protocol::interrupted`] allows for
//! that; [`Protocol::drain`] skips everything up to it.
//!
//! The receive buffer grows with what has arrived, never with what a header announces, and a body
//! above the limit is refused when its header is seen.

use std::collections::VecDeque;

use dq_wire::header::response_type;
use dq_wire::{DecodeError, Header, PROTOCOL_V1, Request, Response, WORD};

/// Largest response body: what a C server can send.
pub const RESPONSE_SIZE_MAX: u64 = dq_wire::header::BODY_SIZE_HARD_MAX;

/// Room that the receive buffer offers at least.
const READ_SIZE: usize = 16 * 1024;

/// Size up to which the buffer is kept for the next answer.
const BUFFER_KEPT_MAX: usize = 1 << 20;

/// What the server still owes us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// One message of this type, or FAILURE.
    One(u8),
    /// ROWS up to the last batch, or FAILURE.
    Rows,
    /// One message of any type, to be thrown away.
    Ignored,
    /// Anything up to an EMPTY, to be thrown away.
    Interrupted,
}

/// A response and its place in the answer to a request.
#[derive(Debug, PartialEq)]
pub struct Reply<'a> {
    /// The message.
    pub response: Response<'a>,
    /// Whether the request is answered in full; false only for batches of rows but the last.
    pub is_last: bool,
}

/// One connection's protocol state. See the module.
#[derive(Debug, Default)]
pub struct Protocol {
    expected: VecDeque<Expected>,
    /// Received bytes are `buffer[start..end]`; what lies beyond `end` is room to read into.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// An INTERRUPT was sent during the answer at the front of `expected`.
    interrupted: bool,
}

impl Protocol {
    /// The state of a fresh connection. Appends the protocol word, which the server does not
    /// answer, to `out`.
    pub fn new(out: &mut Vec<u8>) -> Protocol {
        out.extend_from_slice(&PROTOCOL_V1.to_le_bytes());
        Protocol::default()
    }

    /// Appends a request to `out` and expects its answer.
    ///
    /// # Panics
    /// For INTERRUPT and CONNECT: the one is sent out of turn ([`Protocol::interrupted`]), the other
    /// ends the protocol.
    pub fn send(&mut self, request: &Request<'_>, out: &mut Vec<u8>) {
        self.expected.push_back(expected(request));
        request.encode(out);
    }

    /// Appends a request to `out` whose answer is skipped, whatever it is.
    ///
    /// # Panics
    /// As [`Protocol::send`], and for queries, whose answers may have any number of messages.
    pub fn send_ignored(&mut self, request: &Request<'_>, out: &mut Vec<u8>) {
        assert!(
            matches!(expected(request), Expected::One(_)),
            "answered with one message"
        );
        self.expected.push_back(Expected::Ignored);
        request.encode(out);
    }

    /// Says that an INTERRUPT was sent after the last request. The answer to that request may go on
    /// to its regular end, and then an EMPTY is skipped; or the EMPTY is its end.
    pub fn interrupted(&mut self) {
        self.interrupted = true;
    }

    /// Says that an INTERRUPT was sent and that nothing before the EMPTY that answers it is of
    /// interest. [`Protocol::is_idle`] tells when that has come.
    pub fn drain(&mut self) {
        self.interrupted = false;
        self.expected.clear();
        self.expected.push_back(Expected::Interrupted);
    }

    /// Whether the server owes us nothing.
    pub fn is_idle(&self) -> bool {
        self.expected.is_empty()
    }

    /// Room to read received bytes into, never empty. [`Protocol::filled`] says how much of it was
    /// used.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_KEPT_MAX {
                // A large answer has gone by; its memory need not stay with an idle connection.
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() - self.end < READ_SIZE {
            // Bytes move to the front when that makes room enough; else the buffer doubles.
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.buffer.len() - self.end < READ_SIZE {
                self.buffer
                    .resize((self.buffer.len() * 2).max(2 * READ_SIZE), 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// Takes over `n` bytes that were read into [`Protocol::spare`].
    ///
    /// # Panics
    /// If there was not so much room.
    pub fn filled(&mut self, n: usize) {
        assert!(
            n <= self.buffer.len() - self.end,
            "no more than there was room for"
        );
        self.end += n;
    }

    /// What has been received and is not yet a whole response.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether a whole response that is not to be skipped has been received. Skips those that are.
    ///
    /// # Errors
    /// The server sent what no request asked for, or a message beyond the limit.
    pub fn is_ready(&mut self) -> Result<bool, DecodeError> {
        while let Some((header, size)) = self.message()? {
            match self.expected.front() {
                Some(Expected::Ignored) => {
                    self.expected.pop_front();
                }
                Some(Expected::Interrupted) => {
                    if header.kind == response_type::EMPTY {
                        self.expected.pop_front();
                    }
                }
                Some(Expected::One(_) | Expected::Rows) => return Ok(true),
                None => return Err(unexpected("unsolicited response")),
            }
            self.start += Header::SIZE + size;
        }
        Ok(false)
    }

    /// The next response, or `None` if [`Protocol::is_ready`] says no.
    ///
    /// # Errors
    /// As there; the response is not an answer to the request; it cannot be decoded.
    pub fn reply(&mut self) -> Result<Option<Reply<'_>>, DecodeError> {
        if !self.is_ready()? {
            return Ok(None);
        }
        let (Some((header, size)), Some(expected)) = (self.message()?, self.expected.front())
        else {
            return Ok(None);
        };
        let body_start = self.start + Header::SIZE;
        let body = &self.buffer[body_start..body_start + size];
        let is_last = match *expected {
            _ if header.kind == response_type::FAILURE => true,
            Expected::Rows if self.interrupted && header.kind == response_type::EMPTY => {
                self.interrupted = false;
                true
            }
            Expected::One(kind) if header.kind == kind => true,
            Expected::Rows if header.kind == response_type::ROWS => !ends_in_part(body),
            _ => return Err(unexpected("response type")),
        };
        let response = Response::decode(&header, body)?;
        if is_last {
            self.expected.pop_front();
            if std::mem::take(&mut self.interrupted) {
                self.expected.push_front(Expected::Interrupted);
            }
        }
        self.start = body_start + size;
        Ok(Some(Reply { response, is_last }))
    }

    /// Header and body size of the first message if it is there as a whole.
    fn message(&self) -> Result<Option<(Header, usize)>, DecodeError> {
        let received = &self.buffer[self.start..self.end];
        if received.len() < Header::SIZE {
            return Ok(None);
        }
        let header = Header::decode(received)?;
        let size = header.checked_body_size(RESPONSE_SIZE_MAX)?;
        Ok((received.len() - Header::SIZE >= size).then_some((header, size)))
    }
}

/// Whether a ROWS body says that another one follows. A body's last word is its end marker; whoever
/// decodes the rows finds out if it is not.
fn ends_in_part(body: &[u8]) -> bool {
    const PART: [u8; WORD] = [0xee; WORD];
    body.ends_with(&PART)
}

fn unexpected(field: &'static str) -> DecodeError {
    DecodeError::Malformed { field, offset: 0 }
}

fn expected(request: &Request<'_>) -> Expected {
    Expected::One(match request {
        Request::Query { .. } | Request::QuerySql { .. } => return Expected::Rows,
        Request::Leader => response_type::SERVER,
        Request::Client { .. } => response_type::WELCOME,
        Request::Open { .. } => response_type::DB,
        Request::Prepare { .. } => response_type::STMT,
        Request::Exec { .. } | Request::ExecSql { .. } => response_type::RESULT,
        Request::Dump { .. } => response_type::FILES,
        Request::Cluster { .. } => response_type::SERVERS,
        Request::Describe { .. } => response_type::METADATA,
        Request::Finalize { .. }
        | Request::Add { .. }
        | Request::Assign { .. }
        | Request::Promote { .. }
        | Request::Remove { .. }
        | Request::Transfer { .. }
        | Request::Weight { .. } => response_type::EMPTY,
        Request::Interrupt { .. } | Request::Connect { .. } => {
            unreachable!("not sent through send()")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dq_wire::{Params, RowsEncoder, RowsEnd, ValueRef};
    use proptest::prelude::*;

    fn query() -> Request<'static> {
        Request::QuerySql {
            db: 0,
            sql: b"SELECT 1",
            params: Params::default(),
        }
    }

    fn encoded(response: &Response<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        response.encode(&mut out);
        out
    }

    fn rows(end: RowsEnd) -> Vec<u8> {
        let mut rows = RowsEncoder::begin(Vec::new(), [&b"n"[..]]);
        rows.push_row(&[ValueRef::Integer(7)]);
        rows.finish(end)
    }

    fn receive(protocol: &mut Protocol, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = protocol.spare();
            let n = spare.len().min(bytes.len());
            spare[..n].copy_from_slice(&bytes[..n]);
            protocol.filled(n);
            bytes = &bytes[n..];
        }
    }

    fn protocol_with(requests: &[Request<'_>]) -> Protocol {
        let mut out = Vec::new();
        let mut protocol = Protocol::new(&mut out);
        for request in requests {
            protocol.send(request, &mut out);
        }
        protocol
    }

    #[test]
    fn a_connection_begins_with_the_protocol_word() {
        let mut out = Vec::new();
        let mut protocol = Protocol::new(&mut out);
        assert!(protocol.is_idle());
        protocol.send(&Request::Leader, &mut out);
        assert!(!protocol.is_idle());
        assert_eq!(out[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[8..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_response_may_arrive_byte_by_byte() {
        let mut protocol = protocol_with(&[Request::Leader]);
        let bytes = encoded(&Response::Server {
            id: 1,
            address: b"127.0.0.1:9001",
        });
        for byte in &bytes[..bytes.len() - 1] {
            receive(&mut protocol, &[*byte]);
            assert_eq!(protocol.reply(), Ok(None));
        }
        receive(&mut protocol, &bytes[bytes.len() - 1..]);
        let reply = protocol.reply().expect("valid").expect("whole");
        assert_eq!(
            reply.response,
            Response::Server {
                id: 1,
                address: b"127.0.0.1:9001"
            }
        );
        assert!(reply.is_last);
        assert!(protocol.is_idle());
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let open = Request::Open {
            name: b"db",
            flags: 0,
            vfs: b"",
        };
        let mut protocol = protocol_with(&[Request::Client { id: 0 }, open]);
        let mut bytes = encoded(&Response::Welcome {
            heartbeat_ms: 15_000,
        });
        bytes.extend(encoded(&Response::Db { id: 0 }));
        receive(&mut protocol, &bytes);
        let first = protocol.reply().expect("valid").expect("whole").response;
        assert_eq!(
            first,
            Response::Welcome {
                heartbeat_ms: 15_000
            }
        );
        let second = protocol.reply().expect("valid").expect("whole").response;
        assert_eq!(second, Response::Db { id: 0 });
    }

    #[test]
    fn rows_go_on_until_the_last_batch() {
        let mut protocol = protocol_with(&[query(), Request::Leader]);
        receive(&mut protocol, &rows(RowsEnd::Part));
        assert!(!protocol.reply().expect("valid").expect("whole").is_last);
        receive(&mut protocol, &rows(RowsEnd::Done));
        assert!(protocol.reply().expect("valid").expect("whole").is_last);
        receive(&mut protocol, &rows(RowsEnd::Done));
        assert!(
            protocol.reply().is_err(),
            "LEADER is not answered with rows"
        );
    }

    #[test]
    fn a_failure_ends_any_answer() {
        let mut protocol = protocol_with(&[query()]);
        receive(&mut protocol, &rows(RowsEnd::Part));
        assert!(!protocol.reply().expect("valid").expect("whole").is_last);
        receive(
            &mut protocol,
            &encoded(&Response::Failure {
                code: 1,
                message: b"overflow",
            }),
        );
        assert!(protocol.reply().expect("valid").expect("whole").is_last);
        assert!(protocol.is_idle());
    }

    #[test]
    fn draining_skips_everything_up_to_the_empty() {
        let mut protocol = protocol_with(&[query()]);
        protocol.drain();
        for end in [RowsEnd::Part, RowsEnd::Done] {
            receive(&mut protocol, &rows(end));
            assert_eq!(protocol.reply(), Ok(None));
            assert!(!protocol.is_idle());
        }
        receive(&mut protocol, &encoded(&Response::Empty));
        assert_eq!(protocol.reply(), Ok(None));
        assert!(protocol.is_idle());
    }

    #[test]
    fn an_interrupted_answer_ends_as_usual_and_an_empty_is_skipped() {
        let mut protocol = protocol_with(&[query()]);
        protocol.interrupted();
        receive(&mut protocol, &rows(RowsEnd::Part));
        assert!(!protocol.reply().expect("valid").expect("whole").is_last);
        receive(&mut protocol, &rows(RowsEnd::Done));
        assert!(protocol.reply().expect("valid").expect("whole").is_last);
        assert!(!protocol.is_idle());
        receive(&mut protocol, &encoded(&Response::Empty));
        assert_eq!(protocol.reply(), Ok(None));
        assert!(protocol.is_idle());
    }

    #[test]
    fn an_interrupted_answer_may_end_with_the_empty() {
        let mut protocol = protocol_with(&[query()]);
        protocol.interrupted();
        receive(&mut protocol, &rows(RowsEnd::Part));
        assert!(!protocol.reply().expect("valid").expect("whole").is_last);
        receive(&mut protocol, &encoded(&Response::Empty));
        let reply = protocol.reply().expect("valid").expect("whole");
        assert_eq!(
            reply,
            Reply {
                response: Response::Empty,
                is_last: true
            }
        );
        assert!(protocol.is_idle());
    }

    #[test]
    fn an_ignored_answer_may_be_a_failure() {
        let mut out = Vec::new();
        let mut protocol = Protocol::new(&mut out);
        protocol.send_ignored(&Request::Finalize { db: 0, stmt: 0 }, &mut out);
        protocol.send(&Request::Leader, &mut out);
        receive(
            &mut protocol,
            &encoded(&Response::Failure {
                code: 12,
                message: b"no",
            }),
        );
        assert_eq!(protocol.reply(), Ok(None));
        receive(
            &mut protocol,
            &encoded(&Response::Server {
                id: 0,
                address: b"",
            }),
        );
        assert!(protocol.reply().expect("valid").is_some());
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        let mut protocol = protocol_with(&[]);
        receive(&mut protocol, &encoded(&Response::Empty));
        assert!(protocol.reply().is_err());

        let mut protocol = protocol_with(&[Request::Leader]);
        receive(&mut protocol, &encoded(&Response::Empty));
        assert!(protocol.reply().is_err(), "EMPTY does not answer LEADER");
    }

    #[test]
    fn sizes_beyond_the_limit_are_refused_at_the_header() {
        for words in [0, u32::MAX, (RESPONSE_SIZE_MAX / 8) as u32 + 1] {
            let mut protocol = protocol_with(&[Request::Leader]);
            let header = Header {
                words,
                kind: response_type::SERVER,
                schema: 0,
                extra: 0,
            };
            receive(&mut protocol, &header.encode());
            assert!(protocol.reply().is_err(), "{words} words");
        }
    }

    #[test]
    fn an_announced_size_takes_no_memory_before_the_bytes_arrive() {
        let mut protocol = protocol_with(&[query()]);
        let header = Header {
            words: 1 << 27,
            kind: response_type::ROWS,
            schema: 0,
            extra: 0,
        };
        receive(&mut protocol, &header.encode());
        assert_eq!(protocol.reply(), Ok(None));
        assert!(protocol.spare().len() < 1 << 20);
    }

    #[test]
    fn the_buffer_is_used_again() {
        let mut protocol = protocol_with(&[]);
        let answer = encoded(&Response::Server {
            id: 1,
            address: &[b'a'; 1000],
        });
        for _ in 0..1000 {
            protocol.send(&Request::Leader, &mut Vec::new());
            receive(&mut protocol, &answer);
            assert!(protocol.reply().expect("valid").is_some());
        }
        assert!(
            protocol.buffer.len() <= 4 * READ_SIZE,
            "{}",
            protocol.buffer.len()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_reply_or_an_error(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            kinds in proptest::collection::vec(0u8..12, 0..8),
        ) {
            let mut protocol =
                protocol_with(&[Request::Leader, query(), Request::Cluster { format: 1 }]);
            for (mut chunk, kind) in chunks.into_iter().zip(kinds) {
                // Headers that are right often enough for the bodies to be looked at.
                chunk.resize(chunk.len().next_multiple_of(8).max(8), 0);
                let words = chunk.len() as u32 / 8;
                receive(&mut protocol, &Header { words, kind, schema: 0, extra: 0 }.encode());
                receive(&mut protocol, &chunk);
                if protocol.reply().is_err() {
                    break;
                }
            }
        }
    }
}

//! Text to cases. Every mistake in a file is an error with its line: a case that is not understood
//! must not pass for one that holds.

use std::fmt;
use std::time::Duration;

use dq_wire::header::request_type;
use dq_wire::{PROTOCOL_LEGACY, PROTOCOL_V1, Role, RowsEnd};

use super::lex::{Cursor, Parsed, parse_number};
use super::message::{Message, Params, RawBytes, Request};
use super::script::{Action, Case, Expected, Needs, Reply, Settings, Step, Target};
use super::text::{Piece, Text};

/// A mistake in a case file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// `file:line`.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for ParseError {}

/// Reads the cases of a file; `file` is its name in messages.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(file: &str, source: &str) -> Result<Vec<Case>, ParseError> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in source.lines().enumerate() {
        let line_number = index + 1;
        let place = format!("{file}:{line_number}");
        let mut cursor = Cursor { rest: line };
        cursor
            .line(&mut cases, line_number, &place)
            .map_err(|what| ParseError { place, what })?;
    }
    Ok(cases)
}

impl Cursor<'_> {
    fn line(&mut self, cases: &mut Vec<Case>, line: usize, place: &str) -> Parsed<()> {
        if self.at_end() {
            return Ok(());
        }
        if self.take_word("case") {
            cases.push(self.case_head(place)?);
            return self.end();
        }
        let case = cases.last_mut().ok_or("there is no case yet")?;
        if self.take_word("needs") {
            case.needs = match self.word()? {
                "cluster" => Needs::Cluster,
                "restart" => Needs::Restart,
                "clients" => Needs::Clients,
                other => return Err(format!("no such need: {other}")),
            };
        } else if self.take_word("skip") {
            let targets = targets(self.word()?);
            let Piece::Literal(why) = self.quoted()?.remove(0) else {
                return Err("a reason is plain text".to_owned());
            };
            let why = String::from_utf8_lossy(&why).into_owned();
            case.skips.push((targets, why));
        } else if self.take_word("settings") {
            let setting = self.word()?;
            let ms = setting
                .strip_prefix("busy_timeout=")
                .and_then(|ms| ms.parse().ok());
            match ms {
                _ if setting == "null_in_typed_columns" => {
                    case.settings.null_in_typed_columns = true;
                }
                Some(ms) => case.settings.busy_timeout_ms = Some(ms),
                None => return Err(format!("no such setting: {setting}")),
            }
        } else if self.take_word("instead") {
            let targets = targets(self.word()?);
            let what = self.expected()?;
            match case.steps.last_mut().map(|step| &mut step.action) {
                Some(Action::Expect { instead, .. }) => instead.push((targets, what)),
                _ => return Err("`instead` follows an expectation".to_owned()),
            }
        } else {
            self.step(case, line)?;
        }
        self.end()
    }

    fn case_head(&mut self, place: &str) -> Parsed<Case> {
        let id = self.word()?.to_owned();
        let digits = id.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let number = digits
            .parse()
            .map_err(|_| format!("a case's number: {id}"))?;
        let title = self.text()?;
        Ok(Case {
            id,
            number,
            title: String::from_utf8_lossy(&title.resolve(&Default::default())).into_owned(),
            place: place.to_owned(),
            needs: Needs::OneNode,
            skips: Vec::new(),
            settings: Settings::default(),
            steps: Vec::new(),
        })
    }

    fn step(&mut self, case: &mut Case, line: usize) -> Parsed<()> {
        let mut only = Vec::new();
        let mut connection = 'A';
        while let Some(prefix) = self.prefix() {
            match prefix.chars().next() {
                Some(c) if c.is_ascii_uppercase() && prefix.len() == 1 => connection = c,
                _ => only = targets(prefix),
            }
        }
        let mut push = |action| {
            case.steps.push(Step {
                line,
                only: only.clone(),
                connection,
                action,
            });
        };
        let expect = |what| Action::Expect {
            after: Duration::ZERO,
            eventually: false,
            what,
            instead: Vec::new(),
        };
        let ahead = self.rest;
        match self.word()? {
            "open" => {
                push(Action::Connect {
                    node: self.node()?,
                    word: Some(PROTOCOL_V1),
                });
                let open = Request::Open(Text::database(), 0, Text::default());
                push(Action::Send(open.into()));
                push(expect(Expected::Reply(Reply::Db(0))));
            }
            "do" => {
                let request = Request::ExecSql(self.text()?, self.params()?);
                push(Action::Send(request.into()));
                push(expect(Expected::AnyResult));
            }
            "connect" => {
                let word = if self.take_word("legacy") {
                    Some(PROTOCOL_LEGACY)
                } else if self.take_word("bare") {
                    None
                } else {
                    Some(PROTOCOL_V1)
                };
                let node = self.node()?;
                push(Action::Connect { node, word });
            }
            "bytes" => push(Action::Bytes(self.raw()?)),
            "cork" => push(Action::Cork),
            "flush" => push(Action::Flush),
            "bytewise" => push(Action::Bytewise),
            "shutdown" => push(Action::Shutdown),
            "close" => push(Action::Close),
            "crowd" => push(Action::Crowd(self.number()?)),
            "restart" => push(Action::Restart),
            "stop" => push(Action::StopNode(self.letter()?)),
            "start" => push(Action::StartNode(self.letter()?)),
            "pause" => push(Action::PauseNode(self.letter()?)),
            "resume" => push(Action::ResumeNode(self.letter()?)),
            "leader" => push(Action::AwaitLeader(self.letter()?)),
            "expect" => {
                let after = match self.take_word("after") {
                    true => self.seconds()?,
                    false => Duration::ZERO,
                };
                push(Action::Expect {
                    after,
                    eventually: self.take_word("eventually"),
                    what: self.expected()?,
                    instead: Vec::new(),
                });
            }
            _ => {
                self.rest = ahead;
                push(Action::Send(self.message()?));
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Parsed<Message> {
        let mut schema = None;
        let mut extra = 0;
        let mut db = 0;
        let request = loop {
            let word = self.word()?;
            match word.split_once('=') {
                Some(("schema", n)) => schema = Some(parse_number(n)?),
                Some(("extra", n)) => extra = parse_number(n)?,
                Some(("db", n)) => db = parse_number(n)?,
                _ => break self.request(word)?,
            }
        };
        Ok(Message {
            schema,
            extra,
            db,
            request,
        })
    }

    fn request(&mut self, verb: &str) -> Parsed<Request> {
        Ok(match verb {
            "LEADER" => Request::Leader,
            "CLIENT" => Request::Client(self.number()?),
            "OPEN" => {
                let name = self.text()?;
                match self.at_end() {
                    true => Request::Open(name, 0, Text::default()),
                    false => Request::Open(name, self.number()?, self.text()?),
                }
            }
            "P" => Request::Prepare(0, self.text()?),
            "P1" => Request::Prepare(1, self.text()?),
            "x" => Request::Exec(self.number()?, self.params()?),
            "q" => Request::Query(self.number()?, self.params()?),
            "fin" => Request::Finalize(self.number()?),
            "X" => Request::ExecSql(self.text()?, self.params()?),
            "Q" => Request::QuerySql(self.text()?, self.params()?),
            "INTERRUPT" => Request::Interrupt,
            "CONNECT" => Request::IdAddress(request_type::CONNECT, self.number()?, self.text()?),
            "ADD" => Request::IdAddress(request_type::ADD, self.number()?, self.text()?),
            "ASSIGN" => Request::Assign(self.number()?, self.number()?),
            "PROMOTE" => Request::Word(request_type::ASSIGN, self.number()?),
            "REMOVE" => Request::Word(request_type::REMOVE, self.number()?),
            "DUMP" => Request::Dump(self.text()?),
            "CLUSTER" => Request::Word(request_type::CLUSTER, self.number()?),
            "TRANSFER" => Request::Word(request_type::TRANSFER, self.number()?),
            "DESCRIBE" => Request::Word(request_type::DESCRIBE, self.number()?),
            "WEIGHT" => Request::Word(request_type::WEIGHT, self.number()?),
            "MESSAGE" => Request::Raw(self.number()?, self.number()?, self.raw()?),
            other => return Err(format!("no such step: {other}")),
        })
    }

    fn expected(&mut self) -> Parsed<Expected> {
        let kind = self.word()?;
        Ok(match kind {
            "bytes" => Expected::Bytes(self.raw()?),
            "CLOSE" => Expected::Close,
            "DRAIN" => Expected::Drain,
            "RESULT" if self.take_word("any") => Expected::AnyResult,
            "BATCH" => Expected::Batch(
                self.number()?,
                self.number()?,
                match self.word()? {
                    "done" => RowsEnd::Done,
                    "part" => RowsEnd::Part,
                    other => return Err(format!("a batch ends with done or part, not {other}")),
                },
            ),
            "STREAM" => Expected::Stream(self.number()?, self.number()?),
            "DUMPED" => Expected::Dumped(self.text()?, self.text()?),
            _ => Expected::Reply(self.reply(kind)?),
        })
    }

    fn reply(&mut self, kind: &str) -> Parsed<Reply> {
        Ok(match kind {
            "FAILURE" => Reply::Failure(self.number()?, self.text()?),
            "SERVER" => Reply::Server(self.number()?, self.text()?),
            "SERVERLEGACY" => Reply::ServerLegacy(self.text()?),
            "WELCOME" => Reply::Welcome(self.number()?),
            "SERVERS" => Reply::Servers(self.list(|cursor| {
                let (id, address, role) = (cursor.number()?, cursor.text()?, cursor.number()?);
                let role = Role::from_wire(role).ok_or(format!("no role {role}"))?;
                Ok((id, address, role))
            })?),
            "SERVERS0" => {
                Reply::ServersV0(self.list(|cursor| Ok((cursor.number()?, cursor.text()?)))?)
            }
            "DB" => Reply::Db(self.number()?),
            "STMT" => {
                let (db, id, params) = (self.number()?, self.number()?, self.number()?);
                let tail = match self.at_end() {
                    true => None,
                    false => Some(self.number()?),
                };
                Reply::Stmt(db, id, params, tail)
            }
            "RESULT" => Reply::Result(self.number::<i64>()? as u64, self.number()?),
            "EMPTY" => Reply::Empty,
            "FILES" => Reply::Files(self.list(|cursor| Ok((cursor.text()?, cursor.number()?)))?),
            "METADATA" => Reply::Metadata(self.number()?, self.number()?),
            "ROWS" => self.rows()?,
            other => return Err(format!("no such expectation: {other}")),
        })
    }

    fn rows(&mut self) -> Parsed<Reply> {
        let mut columns = Vec::new();
        while !self.at_end() && !self.rest.starts_with('|') {
            columns.push(self.text()?);
        }
        let mut rows = Vec::new();
        let mut end = RowsEnd::Done;
        while self.take('|') {
            if self.take_word("part") {
                end = RowsEnd::Part;
                break;
            }
            let mut row = Vec::new();
            while !self.at_end() && !self.rest.starts_with('|') {
                self.value(&mut row)?;
            }
            if row.len() != columns.len() || row.is_empty() {
                return Err(format!("{} columns, {} values", columns.len(), row.len()));
            }
            rows.push(row);
        }
        Ok(Reply::Rows(columns, rows, end))
    }

    fn params(&mut self) -> Parsed<Params> {
        if self.take_word("raw") {
            return match self.raw()?.as_slice() {
                [RawBytes::Bytes(bytes)] => Ok(Params::Raw(bytes.clone())),
                _ => Err("a raw tuple is hexadecimal".to_owned()),
            };
        }
        let mut values = Vec::new();
        while !self.at_end() {
            self.value(&mut values)?;
        }
        Ok(Params::Values(values))
    }
}

fn targets(list: &str) -> Vec<Target> {
    list.split(',')
        .map(|name| Target(name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::message::Value;
    use super::super::print::print_step;
    use super::*;

    fn steps(source: &str) -> Vec<Step> {
        let source = format!("case 1 \"x\"\n{source}");
        let mut cases = parse("test", &source).unwrap_or_else(|error| panic!("{error}"));
        cases.remove(0).steps
    }

    fn error(source: &str) -> String {
        match parse("test", source) {
            Err(error) => error.to_string(),
            Ok(cases) => panic!("understood: {cases:?}"),
        }
    }

    #[test]
    fn a_case_has_its_attributes() {
        let source = "case 7b \"It \\\"works\\\"\" # so\nneeds cluster\nskip c,dq \"why\"\n\
                      settings busy_timeout=400\nopen\n";
        let cases = parse("test", source).expect("it is a case");
        let [case] = cases.as_slice() else {
            panic!("one case, not {}", cases.len());
        };
        assert_eq!((case.id.as_str(), case.number), ("7b", 7));
        assert_eq!(case.title, "It \"works\"");
        assert_eq!(case.needs, Needs::Cluster);
        assert_eq!(case.settings.busy_timeout_ms, Some(400));
        assert_eq!(case.skips[0].1, "why");
        assert!(case.skips[0].0[0].covers(&Target("c-1.11.1".to_owned())));
        assert_eq!(case.steps.len(), 3, "open connects, sends and expects");
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        for line in [
            "A: connect",
            "B: LEADER",
            "A: schema=2 extra=7 db=1 X \"a\\n\\x00\\xff\\\"é\\$\" i-5 f1.5 t\"x\" b\"\\x01\" n u5 s\"d\" B2",
            "A: Q \"select \" + rep(3,\"?,\") + \"?\" i7 i7",
            "A: x 3",
            "A: q 3 raw 01ff000000000000",
            "A: OPEN \"$db-x\" 1 \"\"",
            "A: MESSAGE 3 0 6162636465666768 text\"t\"",
            "A: expect ROWS \"a\" \"\" | i1 n | f0.1 t\"|\" | part",
            "A: expect FAILURE 5 \"database is locked\"",
            "A: expect SERVERS 1 \"$L\" 0 2 \"$F\" 2",
            "A: expect RESULT -1 0",
            "A: expect STMT 0 1 2 3",
        ] {
            let parsed = steps(line);
            assert_eq!(parsed.len(), 1, "{line}");
            assert_eq!(print_step(&parsed[0]).as_deref(), Some(line));
        }
    }

    #[test]
    fn a_star_repeats_a_value() {
        let Action::Send(message) = &steps("X \"\" i7*3 t\"a\"*2 n")[0].action else {
            panic!("a request");
        };
        let Request::ExecSql(_, Params::Values(values)) = &message.request else {
            panic!("an EXEC_SQL");
        };
        let text = Value::Text(Text::literal("a"));
        let integer = Value::Integer(7);
        let expected = [&integer, &integer, &integer, &text, &text, &Value::Null];
        assert!(values.iter().eq(expected), "{values:?}");
    }

    #[test]
    fn mistakes_are_errors_with_their_line() {
        assert_eq!(error("open"), "test:1: there is no case yet");
        assert!(error("case 1 \"x\"\nselect 1").starts_with("test:2: no such step"));
        assert!(error("case 1 \"x\"\nexpect ROWS \"a\" | i1 i2").contains("1 columns, 2 values"));
        assert!(error("case 1 \"x\"\nX \"a").contains("does not end"));
        assert!(error("case 1 \"x\"\nCLIENT 1 2").contains("too much"));
        assert!(error("case 1 \"x\"\ninstead c EMPTY").contains("follows an expectation"));
        assert!(error("case 1 \"x\"\nX \"\" raw 0x").contains("not hexadecimal"));
    }
}

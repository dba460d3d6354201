//! Decodes and re-encodes every example of `proto-spec/`.
//!
//! An example is a fenced block with the info string `hex name=...`; `#` begins a comment. Each has
//! exactly one check here, so neither an example without a test nor a test without an example can
//! remain.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dq_wire::codec::DecodeError;
use dq_wire::disk::fsm_snapshot::{
    DatabaseHead, DatabaseImage, decode_snapshot, encode_database_head, encode_snapshot_head,
};
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::segment::{Batches, SEGMENT_HEAD, encode_batch_head};
use dq_wire::disk::snapshot_meta::SnapshotMetaFile;
use dq_wire::raft_rpc::{
    AppendEntries, AppendEntriesResult, InstallSnapshot, Message, Preamble, RequestVote,
    RequestVoteResult, TimeoutNow, encode_connect,
};
use dq_wire::response::{Dialect, File, FileHead, ServerAddress, ServerEntry, encode_files};
use dq_wire::{
    BARRIER_PAYLOAD, Command, Configuration, EntryHeader, EntryKind, Header, PAGE_SIZE,
    PROTOCOL_LEGACY, PROTOCOL_V1, Params, ParamsBuf, Request, Response, Role, RowsEncoder, RowsEnd,
    Server, ValueRef, encode_frames_header, encode_params,
};

/// The examples of one document that have not been checked yet.
struct Examples(BTreeMap<String, Vec<u8>>);

impl Examples {
    fn load(document: &str) -> Examples {
        let mut examples = BTreeMap::new();
        let mut lines = document.lines();
        while let Some(line) = lines.next() {
            let Some(name) = line.strip_prefix("```hex name=") else {
                assert!(!line.starts_with("```hex"), "an example has a name: {line}");
                continue;
            };
            let digits: String = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .map(|line| line.split('#').next().unwrap_or_default())
                .flat_map(str::chars)
                .filter(|c| !c.is_whitespace())
                .collect();
            let bytes = (0..digits.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex digits"))
                .collect();
            let twice = examples.insert(name.to_owned(), bytes);
            assert!(twice.is_none(), "two examples are called {name}");
        }
        Examples(examples)
    }

    #[track_caller]
    fn take(&mut self, name: &str) -> Vec<u8> {
        self.0
            .remove(name)
            .unwrap_or_else(|| panic!("no example is called {name}"))
    }

    fn finish(self) {
        let left: Vec<String> = self.0.into_keys().collect();
        assert!(left.is_empty(), "examples without a check: {left:?}");
    }

    #[track_caller]
    fn request(&mut self, name: &str, want: &Request<'_>) {
        let bytes = self.take(name);
        let header = Header::decode(&bytes).unwrap();
        let body = &bytes[Header::SIZE..];
        assert_eq!(header.body_size(), body.len() as u64, "{name}");
        assert_eq!(Request::decode(&header, body).as_ref(), Ok(want), "{name}");
        let mut out = Vec::new();
        want.encode(&mut out);
        assert_eq!(out, bytes, "{name}");
        // Whatever is missing at the end is noticed, at the latest when the values are taken, save
        // that parameters and the role in ASSIGN may be absent altogether.
        for len in 0..body.len() {
            match Request::decode(&header, &body[..len]) {
                Err(_) | Ok(Request::Promote { .. }) => {}
                Ok(
                    Request::Exec { mut params, .. }
                    | Request::Query { mut params, .. }
                    | Request::ExecSql { mut params, .. }
                    | Request::QuerySql { mut params, .. },
                ) => {
                    let failed = std::iter::from_fn(|| params.next_value()).any(|v| v.is_err());
                    assert!(
                        failed || params.as_bytes().is_empty(),
                        "{name} cut to {len}"
                    );
                }
                Ok(cut) => panic!("{name} cut to {len} is {cut:?}"),
            }
        }
    }

    #[track_caller]
    fn response(&mut self, name: &str, want: &Response<'_>, dialect: Dialect) {
        let bytes = self.take(name);
        let header = Header::decode(&bytes).unwrap();
        let body = &bytes[Header::SIZE..];
        assert_eq!(header.body_size(), body.len() as u64, "{name}");
        let got = Response::decode_dialect(&header, body, dialect);
        assert_eq!(got.as_ref(), Ok(want), "{name}");
        let mut out = Vec::new();
        want.encode(&mut out);
        assert_eq!(out, bytes, "{name}");
        for len in 0..body.len() {
            let cut = Response::decode_dialect(&header, &body[..len], dialect);
            assert!(cut.is_err(), "{name} cut to {len}: {cut:?}");
        }
    }

    #[track_caller]
    fn rows(&mut self, name: &str, columns: &[&str], rows: &[&[ValueRef<'_>]], end: RowsEnd) {
        let bytes = self.take(name);
        let header = Header::decode(&bytes).unwrap();
        let Ok(Response::Rows(mut got)) = Response::decode(&header, &bytes[Header::SIZE..]) else {
            panic!("{name} is not rows");
        };
        let names: Vec<&[u8]> = columns.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(got.columns(), names, "{name}");
        let mut encoder = RowsEncoder::begin(Vec::new(), names);
        let mut row = Vec::new();
        for want in rows {
            assert_eq!(got.next_row(&mut row), Ok(true), "{name}");
            assert_eq!(row, *want, "{name}");
            encoder.push_row(want);
        }
        assert_eq!(got.next_row(&mut row), Ok(false), "{name}");
        assert_eq!(got.end(), Some(end), "{name}");
        assert_eq!(encoder.finish(end), bytes, "{name}");
    }

    #[track_caller]
    fn params(&mut self, name: &str, schema: u8, want: &[ValueRef<'_>]) {
        let bytes = self.take(name);
        let mut params = Params::decode(&bytes, schema).unwrap();
        assert_eq!(params.count(), want.len(), "{name}");
        for value in want {
            assert_eq!(params.next_value(), Some(Ok(*value)), "{name}");
        }
        assert_eq!(params.next_value(), None, "{name}");
        if !want.is_empty() {
            let mut out = Vec::new();
            encode_params(&mut out, want, schema);
            assert_eq!(out, bytes, "{name}");
        }
    }

    /// A message in its long form: both directions. Returns what follows the header.
    #[track_caller]
    fn message(&mut self, name: &str, seq: u32, want: &Message) -> Vec<u8> {
        let bytes = self.take(name);
        let (preamble, got, payload) = decode_message(&bytes).unwrap();
        assert_eq!((preamble.seq, &got), (seq, want), "{name}");
        let mut out = Vec::new();
        want.encode(seq, &mut out).unwrap();
        assert_eq!(out, bytes[..bytes.len() - payload.len()], "{name}");
        payload.to_vec()
    }

    /// A message in a form that is not written.
    #[track_caller]
    fn old_message(&mut self, name: &str, want: &Message) {
        let bytes = self.take(name);
        let (_, got, payload) = decode_message(&bytes).unwrap();
        assert_eq!(&got, want, "{name}");
        assert!(payload.is_empty(), "{name}");
    }

    /// Anything that has a decoder and an encoder for the whole.
    #[track_caller]
    fn both_ways<T: Debug + PartialEq>(
        &mut self,
        name: &str,
        want: &T,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
        encode: impl Fn(&T) -> Vec<u8>,
    ) {
        let bytes = self.take(name);
        assert_eq!(decode(&bytes).as_ref(), Ok(want), "{name}");
        assert_eq!(encode(want), bytes, "{name}");
    }
}

fn decode_message(bytes: &[u8]) -> Result<(Preamble, Message, &[u8]), DecodeError> {
    let preamble = Preamble::decode(bytes)?;
    let rest = &bytes[Preamble::SIZE..];
    let (header, payload) = rest.split_at(preamble.header_size as usize);
    Ok((preamble, Message::decode(preamble.kind, header)?, payload))
}

fn configuration(servers: &[(u64, &str, Role)]) -> Configuration {
    let servers = servers
        .iter()
        .map(|&(id, address, role)| Server {
            id,
            address: address.to_owned(),
            role,
        })
        .collect();
    Configuration { servers }
}

#[test]
fn every_request_of_the_client_protocol_is_as_documented() {
    let mut examples = Examples::load(include_str!("../../../proto-spec/client.md"));
    examples.0.retain(|name, _| name.starts_with("request-"));
    let three = ParamsBuf::from_values(&[
        ValueRef::Integer(-1),
        ValueRef::Text(b"two"),
        ValueRef::Null,
    ]);
    let integer = ParamsBuf::from_values(&[ValueRef::Integer(42)]);
    let mut boolean = Vec::new();
    encode_params(&mut boolean, &[ValueRef::Boolean(1)], 1);
    let address = b"10.0.0.3:9000";
    for (name, want) in [
        ("leader", Request::Leader),
        ("client", Request::Client { id: 7 }),
        (
            "open",
            Request::Open {
                name: b"test.db",
                flags: 0,
                vfs: b"volatile",
            },
        ),
        (
            "prepare",
            Request::Prepare {
                schema: 0,
                db: 0,
                sql: b"SELECT 1",
            },
        ),
        (
            "prepare-tail",
            Request::Prepare {
                schema: 1,
                db: 0,
                sql: b"SELECT 1; SELECT 2",
            },
        ),
        (
            "exec",
            Request::Exec {
                db: 0,
                stmt: 2,
                params: Params::default(),
            },
        ),
        (
            "query",
            Request::Query {
                db: 0,
                stmt: 2,
                params: integer.as_params(),
            },
        ),
        ("finalize", Request::Finalize { db: 0, stmt: 2 }),
        (
            "exec-sql",
            Request::ExecSql {
                db: 0,
                sql: b"INSERT INTO t VALUES (?, ?, ?)",
                params: three.as_params(),
            },
        ),
        (
            "query-sql",
            Request::QuerySql {
                db: 0,
                sql: b"SELECT ?",
                params: Params::decode(&boolean, 1).unwrap(),
            },
        ),
        ("interrupt", Request::Interrupt { db: 0 }),
        ("add", Request::Add { id: 3, address }),
        (
            "assign",
            Request::Assign {
                id: 3,
                role: Role::Standby.to_wire(),
            },
        ),
        ("promote", Request::Promote { id: 3 }),
        ("remove", Request::Remove { id: 3 }),
        ("dump", Request::Dump { name: b"test.db" }),
        ("cluster", Request::Cluster { format: 1 }),
        ("transfer", Request::Transfer { id: 2 }),
        ("describe", Request::Describe { format: 0 }),
        ("weight", Request::Weight { weight: 5 }),
    ] {
        examples.request(&format!("request-{name}"), &want);
    }
    examples.finish();
}

#[test]
fn every_response_of_the_client_protocol_is_as_documented() {
    let mut examples = Examples::load(include_str!("../../../proto-spec/client.md"));
    examples.0.retain(|name, _| name.starts_with("response-"));
    let now = Dialect::default();
    let legacy = Dialect {
        legacy: true,
        ..now
    };
    let format_0 = Dialect {
        cluster_format: 0,
        ..now
    };
    let address = b"127.0.0.1:22186";
    let (one, two) = (b"1.2.3.4:9001", b"1.2.3.4:9002");
    let files = vec![
        File {
            name: b"t",
            data: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        },
        File {
            name: b"t-wal",
            data: &[],
        },
    ];

    // The same bytes in pieces, around data that were not copied.
    let heads: Vec<FileHead<'_>> = files
        .iter()
        .map(|f| FileHead {
            name: f.name,
            size: f.data.len() as u64,
        })
        .collect();
    let pieces = encode_files(&heads, 1 << 20).unwrap();
    let whole: Vec<u8> = pieces
        .iter()
        .zip(&files)
        .flat_map(|(p, f)| [p, f.data].concat())
        .collect();
    assert_eq!(whole, examples.0["response-files"]);

    for (name, want, dialect) in [
        (
            "failure",
            Response::Failure {
                code: 10250,
                message: b"not leader",
            },
            now,
        ),
        ("server", Response::Server { id: 1, address }, now),
        (
            "server-none",
            Response::Server {
                id: 0,
                address: b"",
            },
            now,
        ),
        ("server-legacy", Response::ServerLegacy { address }, legacy),
        (
            "welcome",
            Response::Welcome {
                heartbeat_ms: 15000,
            },
            now,
        ),
        (
            "servers",
            Response::Servers {
                list: vec![
                    ServerEntry {
                        id: 1,
                        address: one,
                        role: Role::Voter,
                    },
                    ServerEntry {
                        id: 2,
                        address: two,
                        role: Role::Spare,
                    },
                ],
            },
            now,
        ),
        (
            "servers-v0",
            Response::ServersV0 {
                list: vec![ServerAddress {
                    id: 1,
                    address: one,
                }],
            },
            format_0,
        ),
        ("db", Response::Db { id: 0 }, now),
        (
            "stmt",
            Response::Stmt {
                db: 0,
                id: 1,
                params: 2,
                tail: None,
            },
            now,
        ),
        (
            "stmt-tail",
            Response::Stmt {
                db: 0,
                id: 0,
                params: 0,
                tail: Some(9),
            },
            now,
        ),
        (
            "result",
            Response::Result {
                last_insert_id: 3,
                rows_affected: 2,
            },
            now,
        ),
        ("empty", Response::Empty, now),
        (
            "files",
            Response::Files {
                list: files.clone(),
            },
            now,
        ),
        (
            "metadata",
            Response::Metadata {
                failure_domain: 0,
                weight: 5,
            },
            now,
        ),
    ] {
        examples.response(&format!("response-{name}"), &want, dialect);
    }
    examples.rows(
        "response-rows",
        &["1"],
        &[&[ValueRef::Integer(1)]],
        RowsEnd::Done,
    );
    examples.finish();
}

#[test]
fn the_first_word_parameters_and_rows_are_as_documented() {
    let mut examples = Examples::load(include_str!("../../../proto-spec/client.md"));
    examples
        .0
        .retain(|name, _| !name.starts_with("request-") && !name.starts_with("response-"));
    assert_eq!(examples.take("protocol-v1"), PROTOCOL_V1.to_le_bytes());
    assert_eq!(
        examples.take("protocol-legacy"),
        PROTOCOL_LEGACY.to_le_bytes()
    );

    use ValueRef::{Blob, Boolean, Float, Integer, Iso8601, Null, Text, UnixTime};
    examples.params("params-none", 0, &[]);
    examples.params("params-v0", 0, &[Integer(-1), Text(b"two"), Null]);
    examples.params("params-v1", 1, &[Blob(&[1, 2, 3]), Float(1.5)]);
    let all = [
        Integer(5),
        Float(-0.5),
        Text(b"a"),
        Blob(&[]),
        Null,
        Iso8601(b"2020-01-02"),
        Boolean(1),
    ];
    examples.params("params-all", 0, &all);

    for (name, column, value) in [
        ("rows-text", "'a'", Text(b"a")),
        ("rows-null", "null", Null),
        ("rows-float", "1.5", Float(1.5)),
        ("rows-blob", "x'010203'", Blob(&[1, 2, 3])),
        ("rows-empty-text", "''", Text(b"")),
        ("rows-empty-blob", "x''", Blob(&[])),
    ] {
        examples.rows(name, &[column], &[&[value]], RowsEnd::Done);
    }
    let columns = ["d", "b"];
    examples.rows(
        "rows-unixtime-boolean",
        &columns,
        &[&[UnixTime(5), Boolean(1)]],
        RowsEnd::Done,
    );
    examples.rows(
        "rows-iso8601-boolean",
        &columns,
        &[&[Iso8601(b"2020-01-02"), Boolean(u64::MAX)]],
        RowsEnd::Done,
    );
    let seventeen: Vec<ValueRef<'_>> = (0..17).map(Integer).collect();
    examples.rows("rows-17-columns", &["c"; 17], &[&seventeen], RowsEnd::Done);
    examples.rows(
        "rows-part",
        &["a", "b"],
        &[&[Integer(1), Null], &[Null, Text(b"x")]],
        RowsEnd::Part,
    );
    examples.rows("rows-no-columns", &[], &[], RowsEnd::Done);
    examples.finish();
}

#[test]
fn every_message_between_nodes_is_as_documented() {
    let mut examples = Examples::load(include_str!("../../../proto-spec/peer.md"));

    let connect = examples.take("connect");
    let mut out = Vec::new();
    encode_connect(&mut out, 1, b"10.0.0.1:9000");
    assert_eq!(out, connect);
    assert_eq!(connect[..8], PROTOCOL_V1.to_le_bytes());
    let header = Header::decode(&connect[8..]).unwrap();
    let request = Request::Connect {
        id: 1,
        address: b"10.0.0.1:9000",
    };
    assert_eq!(Request::decode(&header, &connect[16..]), Ok(request));

    let heartbeat = Message::AppendEntries(AppendEntries {
        term: 3,
        prev_log_index: 7,
        prev_log_term: 3,
        leader_commit: 7,
        entries: vec![],
    });
    examples.message("append-entries-heartbeat", 0, &heartbeat);
    examples.message("append-entries-seq", 42, &heartbeat);
    examples.old_message("append-entries-short", &heartbeat);
    let barrier = Message::AppendEntries(AppendEntries {
        term: 3,
        prev_log_index: 7,
        prev_log_term: 2,
        leader_commit: 7,
        entries: vec![EntryHeader {
            term: 3,
            kind: EntryKind::Barrier,
            size: 8,
        }],
    });
    assert_eq!(barrier.payload_size(), 8);
    let payload = examples.message("append-entries-barrier", 0, &barrier);
    assert_eq!(payload, BARRIER_PAYLOAD);

    let result = AppendEntriesResult {
        term: 3,
        rejected: 0,
        last_log_index: 8,
        features: 0,
    };
    examples.message(
        "append-entries-result",
        0,
        &Message::AppendEntriesResult(result),
    );
    examples.old_message(
        "append-entries-result-short",
        &Message::AppendEntriesResult(result),
    );
    let rejected = AppendEntriesResult {
        rejected: 9,
        last_log_index: 5,
        ..result
    };
    examples.message(
        "append-entries-result-rejected",
        0,
        &Message::AppendEntriesResult(rejected),
    );
    let ours = AppendEntriesResult {
        features: AppendEntriesResult::FEATURE_OURS,
        ..result
    };
    examples.message(
        "append-entries-result-ours",
        42,
        &Message::AppendEntriesResult(ours),
    );

    let vote = RequestVote {
        term: 4,
        candidate_id: 1,
        last_log_index: 8,
        last_log_term: 3,
        disrupt_leader: false,
        pre_vote: false,
    };
    let pre_vote = RequestVote {
        pre_vote: true,
        ..vote
    };
    let disrupt = RequestVote {
        disrupt_leader: true,
        ..vote
    };
    examples.message("request-vote-pre", 0, &Message::RequestVote(pre_vote));
    examples.message("request-vote-disrupt", 0, &Message::RequestVote(disrupt));
    examples.old_message("request-vote-short", &Message::RequestVote(vote));

    let result = RequestVoteResult {
        term: 4,
        vote_granted: true,
        pre_vote: Some(true),
        own_term: false,
    };
    let short = RequestVoteResult {
        pre_vote: None,
        ..result
    };
    let ours = RequestVoteResult {
        vote_granted: false,
        pre_vote: Some(false),
        own_term: true,
        ..result
    };
    examples.message(
        "request-vote-result-pre",
        0,
        &Message::RequestVoteResult(result),
    );
    examples.message(
        "request-vote-result-short",
        0,
        &Message::RequestVoteResult(short),
    );
    examples.message(
        "request-vote-result-ours",
        0,
        &Message::RequestVoteResult(ours),
    );

    let snapshot = Message::InstallSnapshot(InstallSnapshot {
        term: 3,
        last_index: 1024,
        last_term: 2,
        configuration_index: 1,
        configuration: configuration(&[(1, "1", Role::Voter)]),
        data_size: 16,
    });
    examples.message("install-snapshot", 0, &snapshot);
    assert_eq!(snapshot.payload_size(), 16);

    let timeout = TimeoutNow {
        term: 3,
        last_log_index: 8,
        last_log_term: 3,
    };
    examples.message("timeout-now", 0, &Message::TimeoutNow(timeout));
    examples.finish();
}

#[test]
fn every_file_and_entry_is_as_documented() {
    let mut examples = Examples::load(include_str!("../../../proto-spec/disk.md"));
    let one = configuration(&[(1, "1", Role::Voter)]);
    let encode_configuration = |configuration: &Configuration| {
        let mut out = Vec::new();
        configuration.encode(&mut out);
        out
    };

    examples.both_ways(
        "metadata",
        &Metadata {
            version: 1,
            term: 1,
            voted_for: 0,
        },
        Metadata::decode,
        |metadata| metadata.encode().to_vec(),
    );
    examples.both_ways(
        "snapshot-meta",
        &SnapshotMetaFile {
            configuration_index: 1,
            configuration: one.clone(),
        },
        SnapshotMetaFile::decode,
        SnapshotMetaFile::encode,
    );
    examples.both_ways(
        "configuration",
        &configuration(&[
            (1, "a:1", Role::Voter),
            (2, "b:2", Role::Standby),
            (3, "c:30", Role::Spare),
        ]),
        Configuration::decode,
        encode_configuration,
    );
    assert_eq!(
        Configuration::decode(&examples.take("configuration-garbage")),
        Ok(one.clone())
    );

    let bootstrap = examples.take("segment-bootstrap");
    let mut batches = Batches::new(&bootstrap).unwrap();
    let batch = batches.next().unwrap().unwrap();
    assert_eq!(batches.next(), None);
    let [entry] = &batch.entries[..] else {
        panic!("the first segment has one entry");
    };
    assert_eq!(
        entry.header,
        EntryHeader {
            term: 1,
            kind: EntryKind::Change,
            size: 24
        }
    );
    assert_eq!(
        Configuration::decode(&bootstrap[entry.data.clone()]).as_ref(),
        Ok(&one)
    );
    let data = encode_configuration(&one);
    let mut out = SEGMENT_HEAD.to_vec();
    encode_batch_head(&mut out, &[entry.header], [&data[..]]);
    assert_eq!([out, data].concat(), bootstrap);

    let open = examples.take("segment-open");
    let mut batches = Batches::new(&open).unwrap();
    let batch = batches.next().unwrap().unwrap();
    assert!(matches!(
        batches.next(),
        Some(Err(DecodeError::Malformed { .. }))
    ));
    assert!(batches.rest_is_zero());
    let [barrier, command] = &batch.entries[..] else {
        panic!("the batch has two entries");
    };
    assert_eq!(open[barrier.data.clone()], BARRIER_PAYLOAD);
    assert_eq!(
        Command::decode(&open[command.data.clone()]),
        Ok(Command::Undo { tx_id: 9 })
    );
    let mut out = SEGMENT_HEAD.to_vec();
    let pieces = [&open[barrier.data.clone()], &open[command.data.clone()]];
    encode_batch_head(&mut out, &[barrier.header, command.header], pieces);
    assert_eq!(
        [&out[..], pieces[0], pieces[1]].concat(),
        open[..batches.offset()]
    );

    let snapshot = examples.take("fsm-snapshot");
    let image = |name| DatabaseImage {
        name,
        main: &[],
        wal: &[],
    };
    assert_eq!(
        decode_snapshot(&snapshot),
        Ok(vec![image(b"one"), image(b"two")])
    );
    let mut out = Vec::new();
    encode_snapshot_head(&mut out, 2);
    for name in [b"one", b"two"] {
        encode_database_head(
            &mut out,
            &DatabaseHead {
                name,
                main_size: 0,
                wal_size: 0,
            },
        );
    }
    assert_eq!(out, snapshot);

    let head = examples.take("command-frames-head");
    assert_eq!(encode_frames_header(b"test.db", 0, [1, 5]), head);
    let command = [head, vec![7; PAGE_SIZE], vec![8; PAGE_SIZE]].concat();
    let Ok(Command::Frames(frames)) = Command::decode(&command) else {
        panic!("not frames");
    };
    assert_eq!(
        (frames.name, frames.tx_id, frames.truncate),
        (&b"test.db"[..], 0, 0)
    );
    let pages: Vec<(u32, u8)> = frames
        .pages()
        .map(|(number, page)| (number, page[0]))
        .collect();
    assert_eq!(pages, [(1, 7), (5, 8)]);

    for (name, want) in [
        ("command-open", Command::Open { name: b"test.db" }),
        ("command-undo", Command::Undo { tx_id: 9 }),
        (
            "command-checkpoint",
            Command::Checkpoint { name: b"test.db" },
        ),
    ] {
        assert_eq!(Command::decode(&examples.take(name)), Ok(want), "{name}");
    }
    assert_eq!(examples.take("barrier"), BARRIER_PAYLOAD);
    examples.finish();
}

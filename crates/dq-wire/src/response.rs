//! What a server answers.
//!
//! Two responses do not say themselves how they are laid out: SERVER has no id when the client
//! began with the legacy protocol word, and SERVERS has roles only when the request asked for
//! format 1. [`Response::decode`] expects what today's clients ask for; [`Dialect`] says otherwise.

use crate::codec::{DecodeError, Reader, WORD, put_text, put_u32, put_u64};
use crate::configuration::{Configuration, Role};
use crate::header::{Header, begin_message, finish_message, response_type};
use crate::rows::Rows;

/// One member of the cluster, as a server tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerEntry<'a> {
    /// Node id.
    pub id: u64,
    /// Address, as configured.
    pub address: &'a [u8],
    /// Role.
    pub role: Role,
}

/// One member of the cluster, told without its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerAddress<'a> {
    /// Node id.
    pub id: u64,
    /// Address, as configured.
    pub address: &'a [u8],
}

/// One file of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its bytes. They are not padded: their number is a multiple of 8 by nature.
    pub data: &'a [u8],
}

/// A response, borrowed from its body.
#[derive(Debug, Clone, PartialEq)]
pub enum Response<'a> {
    /// The request failed.
    Failure {
        /// An extended result code of SQLite, or one of dqlite's own.
        code: u64,
        /// The message, for people.
        message: &'a [u8],
    },
    /// The leader, or id 0 and no address if there is none.
    Server {
        /// Its node id.
        id: u64,
        /// Its address.
        address: &'a [u8],
    },
    /// The leader, for clients of the legacy protocol.
    ServerLegacy {
        /// Its address, or nothing.
        address: &'a [u8],
    },
    /// The client is known now.
    Welcome {
        /// How often a client was once meant to send heartbeats, in milliseconds.
        heartbeat_ms: u64,
    },
    /// The members of the cluster, format 1.
    Servers {
        /// In the order of the configuration.
        list: Vec<ServerEntry<'a>>,
    },
    /// The members of the cluster, format 0.
    ServersV0 {
        /// In the order of the configuration.
        list: Vec<ServerAddress<'a>>,
    },
    /// A database is open.
    Db {
        /// Its id on this connection.
        id: u32,
    },
    /// A statement is prepared.
    Stmt {
        /// Id of its database.
        db: u32,
        /// Its id on this connection.
        id: u32,
        /// The highest parameter index.
        params: u64,
        /// Where in the text the statement ended, in bytes; only in the answer to a PREPARE of
        /// schema 1.
        tail: Option<u64>,
    },
    /// Statements ran.
    Result {
        /// Row id of the connection's last INSERT.
        last_insert_id: u64,
        /// Number of rows that the last INSERT, UPDATE or DELETE changed.
        rows_affected: u64,
    },
    /// A batch of rows. To write one, use [`crate::RowsEncoder`].
    Rows(Rows<'a>),
    /// Done.
    Empty,
    /// The files of a database. To write large ones, use [`encode_files`].
    Files {
        /// The database and its WAL.
        list: Vec<File<'a>>,
    },
    /// What the node says of itself.
    Metadata {
        /// Its failure domain.
        failure_domain: u64,
        /// Its weight.
        weight: u64,
    },
}

/// What a response cannot say itself: see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The client began with the legacy protocol word.
    pub legacy: bool,
    /// The format that the CLUSTER request asked for, 0 or 1.
    pub cluster_format: u64,
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect {
            legacy: false,
            cluster_format: 1,
        }
    }
}

impl<'a> Response<'a> {
    /// The answer to a CLUSTER request, or `None` if there is no such format.
    pub fn servers(configuration: &'a Configuration, format: u64) -> Option<Response<'a>> {
        let servers = configuration.servers.iter();
        match format {
            0 => Some(Response::ServersV0 {
                list: servers
                    .map(|s| ServerAddress {
                        id: s.id,
                        address: s.address.as_bytes(),
                    })
                    .collect(),
            }),
            1 => Some(Response::Servers {
                list: servers
                    .map(|s| ServerEntry {
                        id: s.id,
                        address: s.address.as_bytes(),
                        role: s.role,
                    })
                    .collect(),
            }),
            _ => None,
        }
    }

    /// Reads a response from its header and its whole body, in the default [`Dialect`].
    ///
    /// # Errors
    /// The body is cut short, or the type, the schema of a STMT or a role has no meaning.
    pub fn decode(header: &Header, body: &'a [u8]) -> Result<Response<'a>, DecodeError> {
        Response::decode_dialect(header, body, Dialect::default())
    }

    /// Reads a response from its header and its whole body.
    ///
    /// # Errors
    /// As [`Response::decode`].
    pub fn decode_dialect(
        header: &Header,
        body: &'a [u8],
        dialect: Dialect,
    ) -> Result<Response<'a>, DecodeError> {
        let mut r = Reader::new(body);
        Ok(match header.kind {
            response_type::FAILURE => Response::Failure {
                code: r.u64()?,
                message: r.text()?,
            },
            response_type::SERVER if dialect.legacy => {
                Response::ServerLegacy { address: r.text()? }
            }
            response_type::SERVER => Response::Server {
                id: r.u64()?,
                address: r.text()?,
            },
            response_type::WELCOME => Response::Welcome {
                heartbeat_ms: r.u64()?,
            },
            response_type::SERVERS if dialect.cluster_format == 0 => Response::ServersV0 {
                list: decode_list(&mut r, decode_server_address)?,
            },
            response_type::SERVERS => Response::Servers {
                list: decode_list(&mut r, decode_server_entry)?,
            },
            response_type::DB => {
                let id = r.u32()?;
                r.u32()?;
                Response::Db { id }
            }
            response_type::STMT => Response::Stmt {
                db: r.u32()?,
                id: r.u32()?,
                params: r.u64()?,
                tail: match header.schema {
                    0 => None,
                    1 => Some(r.u64()?),
                    _ => {
                        return Err(DecodeError::Malformed {
                            field: "schema",
                            offset: 0,
                        });
                    }
                },
            },
            response_type::RESULT => Response::Result {
                last_insert_id: r.u64()?,
                rows_affected: r.u64()?,
            },
            response_type::ROWS => Response::Rows(Rows::decode(body)?),
            response_type::EMPTY => {
                r.u64()?;
                Response::Empty
            }
            response_type::FILES => Response::Files {
                list: decode_list(&mut r, decode_file)?,
            },
            response_type::METADATA => Response::Metadata {
                failure_domain: r.u64()?,
                weight: r.u64()?,
            },
            _ => {
                return Err(DecodeError::Malformed {
                    field: "response type",
                    offset: 0,
                });
            }
        })
    }

    /// The response's type, one of [`response_type`].
    pub fn kind(&self) -> u8 {
        match self {
            Response::Failure { .. } => response_type::FAILURE,
            Response::Server { .. } | Response::ServerLegacy { .. } => response_type::SERVER,
            Response::Welcome { .. } => response_type::WELCOME,
            Response::Servers { .. } | Response::ServersV0 { .. } => response_type::SERVERS,
            Response::Db { .. } => response_type::DB,
            Response::Stmt { .. } => response_type::STMT,
            Response::Result { .. } => response_type::RESULT,
            Response::Rows(_) => response_type::ROWS,
            Response::Empty => response_type::EMPTY,
            Response::Files { .. } => response_type::FILES,
            Response::Metadata { .. } => response_type::METADATA,
        }
    }

    /// Appends the message, header included.
    ///
    /// # Panics
    /// If the body is larger than 32 GiB, or a file's size is not a multiple of 8.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_message(out);
        let mut schema = 0;
        match self {
            Response::Failure { code, message } => {
                put_u64(out, *code);
                put_text(out, message);
            }
            Response::Server { id, address } => {
                put_u64(out, *id);
                put_text(out, address);
            }
            Response::ServerLegacy { address } => put_text(out, address),
            Response::Welcome { heartbeat_ms } => put_u64(out, *heartbeat_ms),
            Response::Servers { list } => {
                put_u64(out, list.len() as u64);
                for server in list {
                    put_u64(out, server.id);
                    put_text(out, server.address);
                    put_u64(out, server.role.to_wire());
                }
            }
            Response::ServersV0 { list } => {
                put_u64(out, list.len() as u64);
                for server in list {
                    put_u64(out, server.id);
                    put_text(out, server.address);
                }
            }
            Response::Db { id } => {
                put_u32(out, *id);
                put_u32(out, 0);
            }
            Response::Stmt {
                db,
                id,
                params,
                tail,
            } => {
                put_u32(out, *db);
                put_u32(out, *id);
                put_u64(out, *params);
                if let Some(tail) = tail {
                    schema = 1;
                    put_u64(out, *tail);
                }
            }
            Response::Result {
                last_insert_id,
                rows_affected,
            } => {
                put_u64(out, *last_insert_id);
                put_u64(out, *rows_affected);
            }
            Response::Rows(rows) => out.extend_from_slice(rows.as_bytes()),
            Response::Empty => put_u64(out, 0),
            Response::Files { list } => {
                put_u64(out, list.len() as u64);
                for file in list {
                    put_text(out, file.name);
                    put_u64(out, file.data.len() as u64);
                    out.extend_from_slice(file.data);
                }
            }
            Response::Metadata {
                failure_domain,
                weight,
            } => {
                put_u64(out, *failure_domain);
                put_u64(out, *weight);
            }
        }
        finish_message(out, start, self.kind(), schema);
    }
}

/// Reads a count and that many items, each of which takes two words at least.
fn decode_list<'a, T>(
    reader: &mut Reader<'a>,
    item: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.u64()?;
    let room = (reader.remaining() / (2 * WORD)) as u64;
    if count > room {
        let more = (count - room).saturating_mul(2 * WORD as u64);
        return Err(DecodeError::Incomplete {
            more: usize::try_from(more).unwrap_or(usize::MAX),
        });
    }
    (0..count).map(|_| item(reader)).collect()
}

fn decode_server_address<'a>(r: &mut Reader<'a>) -> Result<ServerAddress<'a>, DecodeError> {
    Ok(ServerAddress {
        id: r.u64()?,
        address: r.text()?,
    })
}

fn decode_server_entry<'a>(r: &mut Reader<'a>) -> Result<ServerEntry<'a>, DecodeError> {
    let ServerAddress { id, address } = decode_server_address(r)?;
    let role = Role::from_wire(r.u64()?).ok_or(r.malformed("role", WORD))?;
    Ok(ServerEntry { id, address, role })
}

fn decode_file<'a>(r: &mut Reader<'a>) -> Result<File<'a>, DecodeError> {
    let name = r.text()?;
    let size = r.u64()?;
    let size = usize::try_from(size).map_err(|_| r.malformed("file size", WORD))?;
    Ok(File {
        name,
        data: r.bytes(size)?,
    })
}

/// Name and size of a file that is to be sent without copying its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its size in bytes, a multiple of 8.
    pub size: u64,
}

/// Encodes a FILES response around the files' own bytes: what to send is, for each file in turn,
/// its piece from here and then its bytes. `None` if the body would be larger than `max` bytes, or
/// if a size is not a multiple of 8.
pub fn encode_files(files: &[FileHead<'_>], max: u64) -> Option<Vec<Vec<u8>>> {
    let mut pieces = vec![Vec::new(); files.len().max(1)];
    put_u64(&mut pieces[0], files.len() as u64);
    let mut size = 0u64;
    for (piece, file) in pieces.iter_mut().zip(files) {
        if !file.size.is_multiple_of(WORD as u64) {
            return None;
        }
        put_text(piece, file.name);
        put_u64(piece, file.size);
        size = size.checked_add(file.size)?;
    }
    let size = pieces
        .iter()
        .try_fold(size, |size, p| size.checked_add(p.len() as u64))?;
    let words = u32::try_from(size / WORD as u64)
        .ok()
        .filter(|_| size <= max)?;
    let header = Header {
        words,
        kind: response_type::FILES,
        schema: 0,
        extra: 0,
    };
    pieces[0].splice(..0, header.encode());
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::tests::any_configuration;
    use crate::value::tests::text;
    use proptest::prelude::*;

    fn header(kind: u8, schema: u8) -> Header {
        Header {
            words: 0,
            kind,
            schema,
            extra: 0,
        }
    }

    #[test]
    fn types_and_schemas_without_a_meaning_are_malformed() {
        for kind in 11..=255 {
            let error = DecodeError::Malformed {
                field: "response type",
                offset: 0,
            };
            assert_eq!(Response::decode(&header(kind, 0), &[0; 8]), Err(error));
        }
        let error = DecodeError::Malformed {
            field: "schema",
            offset: 0,
        };
        assert_eq!(
            Response::decode(&header(response_type::STMT, 2), &[0; 24]),
            Err(error)
        );
    }

    #[test]
    fn a_role_without_a_meaning_is_malformed() {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(b"a\0\0\0\0\0\0\0");
        body.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            Response::decode(&header(response_type::SERVERS, 0), &body),
            Err(DecodeError::Malformed {
                field: "role",
                offset: 24
            })
        );
    }

    #[test]
    fn counts_that_cannot_be_there_are_refused_before_room_is_made() {
        for kind in [response_type::SERVERS, response_type::FILES] {
            let mut body = vec![0xff; 8];
            body.extend_from_slice(&[0; 64]);
            let decoded = Response::decode(&header(kind, 0), &body);
            assert!(matches!(decoded, Err(DecodeError::Incomplete { .. })));
        }
    }

    #[test]
    fn an_unknown_format_of_servers_has_no_answer() {
        let configuration = Configuration::default();
        assert!(Response::servers(&configuration, 0).is_some());
        assert!(Response::servers(&configuration, 1).is_some());
        assert!(Response::servers(&configuration, 2).is_none());
    }

    #[test]
    fn files_that_are_too_large_or_not_whole_words_are_not_announced() {
        let file = |size| FileHead { name: b"t", size };
        assert!(
            encode_files(&[file(4096)], 4096).is_none(),
            "the limit is for the whole body"
        );
        assert!(encode_files(&[file(4096)], 4096 + 24).is_some());
        assert!(encode_files(&[file(7)], u64::MAX).is_none());
        assert!(encode_files(&[file(8 << 32)], u64::MAX).is_none());
        assert!(encode_files(&[file(u64::MAX - 7), file(u64::MAX - 7)], u64::MAX).is_none());
    }

    #[test]
    fn no_files_at_all_are_a_response_too() {
        let pieces = encode_files(&[], 1 << 20).unwrap();
        let mut out = Vec::new();
        Response::Files { list: vec![] }.encode(&mut out);
        assert_eq!(pieces.concat(), out);
    }

    proptest! {
        #[test]
        fn a_response_decodes_to_what_was_encoded_and_no_truncation_does(
            (kind, a, b) in any::<(prop::sample::Index, u64, u64)>(),
            (c, d) in any::<(u32, u32)>(),
            one in text(),
            configuration in any_configuration(),
            files in proptest::collection::vec((text(), 0usize..4), 0..3),
        ) {
            let data = [7; 32];
            let list = files
                .iter()
                .map(|(name, words)| File { name, data: &data[..words * 8] })
                .collect();
            let now = Dialect::default();
            let legacy = Dialect { legacy: true, ..now };
            let format_0 = Dialect { cluster_format: 0, ..now };
            let responses = [
                (Response::Failure { code: a, message: &one }, now),
                (Response::Server { id: a, address: &one }, now),
                (Response::ServerLegacy { address: &one }, legacy),
                (Response::Welcome { heartbeat_ms: a }, now),
                (Response::servers(&configuration, 0).unwrap(), format_0),
                (Response::servers(&configuration, 1).unwrap(), now),
                (Response::Db { id: c }, now),
                (Response::Stmt { db: c, id: d, params: a, tail: None }, now),
                (Response::Stmt { db: c, id: d, params: a, tail: Some(b) }, now),
                (Response::Result { last_insert_id: a, rows_affected: b }, now),
                (Response::Empty, now),
                (Response::Files { list }, now),
                (Response::Metadata { failure_domain: a, weight: b }, now),
            ];
            let (response, dialect) = kind.get(&responses);
            let mut out = b"before".to_vec();
            response.encode(&mut out);
            let (header, body) = out[6..].split_at(Header::SIZE);
            let header = Header::decode(header).unwrap();
            prop_assert_eq!(header.body_size(), body.len() as u64);
            prop_assert_eq!(header.kind, response.kind());
            let back = Response::decode_dialect(&header, body, *dialect);
            prop_assert_eq!(back.as_ref(), Ok(response));
            for len in 0..body.len() {
                prop_assert!(Response::decode_dialect(&header, &body[..len], *dialect).is_err());
            }
        }
    }
}

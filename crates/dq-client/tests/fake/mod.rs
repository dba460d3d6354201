//! A server that answers as a test tells it to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use dq_wire::{Header, Request, Response, RowsEncoder, RowsEnd, ValueRef};

/// What the server does about a request.
pub(crate) enum Action {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Closes the connection.
    Close,
    /// Does nothing, until the client goes away.
    Hang,
}

type Handler = dyn FnMut(&Request<'_>) -> Option<Action> + Send;

/// A listening server. Its threads end with their connections; the listening one with the process.
pub(crate) struct FakeServer {
    /// Where it listens.
    pub(crate) address: String,
    /// The statements that it was asked to run, in order.
    pub(crate) statements: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    /// Starts a server that calls itself the leader and says yes to everything, unless `handler`
    /// knows better.
    pub(crate) fn start(
        handler: impl FnMut(&Request<'_>) -> Option<Action> + Send + 'static,
    ) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let statements = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(handler));
        let server = FakeServer {
            address: address.clone(),
            statements: Arc::clone(&statements),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (address, statements) = (address.clone(), Arc::clone(&statements));
                let handler = Arc::clone(&handler);
                thread::spawn(move || serve(stream, &address, &statements, &handler));
            }
        });
        server
    }

    /// The statements so far.
    pub(crate) fn statements(&self) -> Vec<String> {
        self.statements.lock().expect("not poisoned").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    address: &str,
    statements: &Mutex<Vec<String>>,
    handler: &Mutex<Handler>,
) -> Option<()> {
    let mut word = [0; 8];
    stream.read_exact(&mut word).ok()?;
    loop {
        let mut header = [0; 8];
        stream.read_exact(&mut header).ok()?;
        let header = Header::decode(&header).ok()?;
        let mut body = vec![0; usize::try_from(header.body_size()).ok()?];
        stream.read_exact(&mut body).ok()?;
        let request = Request::decode(&header, &body).expect("our client sends whole requests");
        if let Request::ExecSql { sql, .. } | Request::QuerySql { sql, .. } = &request {
            let sql = String::from_utf8_lossy(sql).into_owned();
            statements.lock().expect("not poisoned").push(sql);
        }
        let action = (handler.lock().expect("not poisoned"))(&request)
            .unwrap_or_else(|| Action::Send(agree(&request, address)));
        match action {
            Action::Send(bytes) => stream.write_all(&bytes).ok()?,
            Action::SendAndClose(bytes) => {
                stream.write_all(&bytes).ok()?;
                return None;
            }
            Action::Close => return None,
            Action::Hang => {
                let _ = stream.read(&mut [0]);
                return None;
            }
        }
    }
}

/// What a leader answers when all is well.
fn agree(request: &Request<'_>, address: &str) -> Vec<u8> {
    match request {
        Request::Leader => response(&Response::Server {
            id: 1,
            address: address.as_bytes(),
        }),
        Request::Client { .. } => response(&Response::Welcome {
            heartbeat_ms: 15_000,
        }),
        Request::Open { .. } => response(&Response::Db { id: 0 }),
        Request::Prepare { .. } => response(&Response::Stmt {
            db: 0,
            id: 0,
            params: 0,
            tail: None,
        }),
        Request::Exec { .. } | Request::ExecSql { .. } => response(&Response::Result {
            last_insert_id: 1,
            rows_affected: 1,
        }),
        Request::Query { .. } | Request::QuerySql { .. } => rows(&[1], RowsEnd::Done),
        Request::Cluster { .. } => response(&Response::Servers { list: Vec::new() }),
        Request::Describe { .. } => response(&Response::Metadata {
            failure_domain: 0,
            weight: 0,
        }),
        _ => response(&Response::Empty),
    }
}

/// A response's bytes.
pub(crate) fn response(response: &Response<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    response.encode(&mut out);
    out
}

/// A FAILURE's bytes.
pub(crate) fn failure(code: u64, message: &str) -> Vec<u8> {
    response(&Response::Failure {
        code,
        message: message.as_bytes(),
    })
}

/// A batch of one integer column.
pub(crate) fn rows(values: &[i64], end: RowsEnd) -> Vec<u8> {
    let mut rows = RowsEncoder::begin(Vec::new(), [&b"n"[..]]);
    for &value in values {
        rows.push_row(&[ValueRef::Integer(value)]);
    }
    rows.finish(end)
}

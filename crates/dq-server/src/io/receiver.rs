//! Snapshots that arrive: a thread each, which stores the data and reads them in the same pass.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use crossbeam_channel::{Sender, unbounded};
use dq_raft::{Compression, FsDisk, SnapshotMeta, SnapshotWriter, discard_snapshot};
use dq_vfs::Vfs;

use super::mailbox::{Mail, Mailbox};
use crate::conn::ConnId;
use crate::fsm::{self, Databases};

/// Where arriving snapshots go.
#[derive(Debug)]
pub struct Receiver {
    disk: FsDisk,
    compression: Compression,
    vfs: Arc<Vfs>,
    mailbox: Mailbox,
    arriving: HashMap<ConnId, Sender<Bytes>>,
}

impl Receiver {
    /// Snapshots go to `disk` under temporary names.
    pub fn new(
        disk: FsDisk,
        compression: Compression,
        vfs: Arc<Vfs>,
        mailbox: Mailbox,
    ) -> Receiver {
        Receiver {
            disk,
            compression,
            vfs,
            mailbox,
            arriving: HashMap::new(),
        }
    }

    /// A snapshot of `size` bytes begins to arrive.
    pub fn begin(&mut self, conn: ConnId, meta: SnapshotMeta, size: u64) {
        let (sender, chunks) = unbounded();
        let (disk, compression) = (self.disk.clone(), self.compression);
        let (vfs, mailbox) = (self.vfs.clone(), self.mailbox.clone());
        let failed = self.mailbox.clone();
        let store = move || {
            let report = mailbox.clone();
            let stored = move |size| report.send(Mail::SnapshotStored(conn, size));
            let mut stream = Stream {
                chunks,
                current: Bytes::new(),
                left: size,
                stored,
                writer: None,
            };
            let received = receive(&disk, compression, &vfs, meta, size, &mut stream);
            mailbox.send(Mail::SnapshotReceived(conn, Box::new(received)));
        };
        let thread = std::thread::Builder::new()
            .name(format!("dq-receive-{conn}"))
            .spawn(store);
        match thread {
            Ok(_) => {
                self.arriving.insert(conn, sender);
            }
            Err(error) => {
                let received = Err(format!("no thread: {error}"));
                failed.send(Mail::SnapshotReceived(conn, Box::new(received)));
            }
        }
    }

    /// More data. How much waits here is bounded by the node, which stops reading.
    pub fn data(&self, conn: ConnId, bytes: Bytes) {
        if let Some(chunks) = self.arriving.get(&conn) {
            // A thread that has ended has reported why.
            let _ = chunks.send(bytes);
        }
    }

    /// Nothing more will arrive on this connection.
    pub fn ended(&mut self, conn: ConnId) {
        self.arriving.remove(&conn);
    }

    /// A snapshot that raft does not want: its temporary files can go.
    pub fn discard(&self, meta: &SnapshotMeta) {
        discard_snapshot(&self.disk, meta);
    }
}

fn receive<F: Fn(usize)>(
    disk: &FsDisk,
    compression: Compression,
    vfs: &Arc<Vfs>,
    meta: SnapshotMeta,
    size: u64,
    stream: &mut Stream<F>,
) -> Result<(SnapshotMeta, Databases), String> {
    let writer = SnapshotWriter::create(disk.clone(), meta, size, compression)
        .map_err(|error| error.to_string())?;
    stream.writer = Some(writer);
    let images = fsm::read_snapshot(stream).map_err(|error| error.to_string());
    let writer = stream.writer.take().ok_or("no writer")?;
    match images.and_then(|images| fsm::check_images(images, vfs)) {
        Ok(databases) => {
            let meta = writer.finish().map_err(|error| error.to_string())?;
            Ok((meta, databases))
        }
        Err(why) => {
            writer.abort();
            Err(why)
        }
    }
}

/// The arriving data as a stream: what is read from it has been written.
struct Stream<F> {
    chunks: crossbeam_channel::Receiver<Bytes>,
    current: Bytes,
    left: u64,
    stored: F,
    writer: Option<SnapshotWriter<FsDisk>>,
}

impl<F: Fn(usize)> Read for Stream<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            if self.left == 0 {
                return Ok(0);
            }
            self.current = self
                .chunks
                .recv()
                .map_err(|_| io::ErrorKind::UnexpectedEof)?;
            self.left = self.left.saturating_sub(self.current.len() as u64);
            if let Some(writer) = &mut self.writer {
                writer.write(&self.current).map_err(io::Error::other)?;
            }
            (self.stored)(self.current.len());
        }
        let size = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

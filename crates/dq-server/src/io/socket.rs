//! A socket of the event loop and what is queued for it, with TLS in between if there is any.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;

use bytes::{Buf, Bytes};
use dq_tls::Connection;
use mio::event::Source;
use nix::sys::socket::{MsgFlags, sendmsg};

use super::listener::Stream;
use super::tls::Layer;

/// Pieces handed to the kernel at a time.
const PIECES: usize = 64;

/// A socket with its queue of pieces to send.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    tls: Option<Box<Layer>>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Tell the node when the queue is empty.
    pub notify: bool,
    /// Close when the queue is empty.
    pub closing: bool,
    /// The node does not want to read now.
    pub paused: bool,
    /// The last read left nothing behind: wait for the next event.
    pub drained: bool,
    /// The other side has said that it sends no more, so there is an end to be read.
    pub ending: bool,
}

impl Socket {
    /// A socket with nothing queued.
    pub fn new(stream: Stream, tls: Option<Connection>) -> Socket {
        Socket {
            stream,
            tls: tls.map(|connection| Box::new(Layer::new(connection))),
            queue: VecDeque::new(),
            queued_bytes: 0,
            notify: false,
            closing: false,
            paused: false,
            drained: true,
            ending: false,
        }
    }

    /// Queues a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.queued_bytes += piece.len();
            self.queue.push_back(piece);
        }
    }

    /// Whether nothing is left to send.
    pub fn is_flushed(&self) -> bool {
        self.queue.is_empty() && !self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Reads what is there.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.read(into),
            Some(tls) => tls.read(&mut self.stream, into),
        }
    }

    /// Whether there may be more than the last read gave, which filled the buffer or did not.
    pub fn has_more(&self, filled: bool) -> bool {
        match &self.tls {
            None => filled,
            Some(tls) => tls.has_more(),
        }
    }

    /// Whether there is TLS.
    pub fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// Sends as much as the kernel takes. Behind the last of what is queued when it is `closing`, TLS says
    /// that nothing follows.
    pub fn flush(&mut self) -> io::Result<()> {
        loop {
            match self.flush_some() {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one step of sending; 0 if there is nothing to do.
    fn flush_some(&mut self) -> io::Result<usize> {
        if let Some(tls) = &mut self.tls
            && tls.wants_write()
        {
            return some(tls.write(&mut self.stream)?);
        }
        if self.queue.is_empty() {
            if let Some(tls) = &mut self.tls
                && self.closing
            {
                tls.close();
                return match tls.wants_write() {
                    true => some(tls.write(&mut self.stream)?),
                    false => Ok(0),
                };
            }
            return Ok(0);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = self.queue.len().min(PIECES);
        for (slice, piece) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(piece);
        }
        let slices = &slices[..count];
        let count = match &mut self.tls {
            None => self.stream.write_vectored(slices)?,
            Some(tls) => tls.encrypt(slices)?,
        };
        self.sent(count);
        some(count)
    }

    fn sent(&mut self, mut count: usize) {
        self.queued_bytes -= count;
        while let Some(piece) = self.queue.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.queue.pop_front();
        }
    }

    /// For registration with mio.
    pub fn source(&mut self) -> &mut dyn Source {
        match &mut self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }
}

/// Of bytes that were there, at least one is taken.
fn some(count: usize) -> io::Result<usize> {
    match count {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

/// Without the signal that a program which embeds the node may not be prepared for: a peer that has gone is
/// an error here and nothing else.
impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        Ok(sendmsg::<()>(
            fd,
            slices,
            &[],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

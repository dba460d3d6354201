//! An accepted socket and what is queued for it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsRawFd;

use bytes::{Buf, Bytes};
use mio::event::Source;
use nix::sys::socket::{MsgFlags, sendmsg};

use super::listener::Stream;

/// Pieces handed to the kernel at a time.
const PIECES: usize = 64;

/// A socket with its queue of pieces to send.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
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
    pub fn new(stream: Stream) -> Socket {
        Socket {
            stream,
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
        self.queue.is_empty()
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Reads what is there.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    /// Sends as much as the kernel takes.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = self.queue.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(piece);
            }
            let slices = &slices[..count];
            match self.send(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// `writev`, but for the signal that a program which embeds the node may not be prepared for: a
    /// peer that has gone is an error here and nothing else.
    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = match &self.stream {
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

//! The program's connect function as a way to reach other nodes.
//!
//! It is called on threads of its own, possibly several at once, and blocks as long as it likes.
//! Stopping a node does not wait for it; destroying one does, since the argument that the function
//! gets is the program's again from then on. Once the node is stopped no new call begins.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use dq_server::Dial;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use socket2::{Domain, SockRef, Type};

/// The type of a connect function.
pub(crate) type ConnectFn =
    unsafe extern "C" fn(arg: *mut c_void, address: *const c_char, fd: *mut c_int) -> c_int;

/// A connect function and its argument.
pub(crate) struct Dialer {
    function: ConnectFn,
    arg: *mut c_void,
    gate: Mutex<Gate>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    /// The threads that are in the function.
    calls: Vec<ThreadId>,
}

// SAFETY: the header says that the function is called from any thread with this argument, and so
// makes the program responsible for both.
unsafe impl Send for Dialer {}
// SAFETY: as above; all else in it is synchronised.
unsafe impl Sync for Dialer {}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl Dialer {
    pub(crate) fn new(function: ConnectFn, arg: *mut c_void) -> Dialer {
        Dialer {
            function,
            arg,
            gate: Mutex::default(),
            left: Condvar::new(),
        }
    }

    /// No call begins any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    /// Waits until the last call has returned. One on this very thread, which has destroyed the node from
    /// within, is not waited for.
    pub(crate) fn wait(&self) {
        let me = thread::current().id();
        let mut gate = self.lock();
        while gate.calls.iter().any(|caller| *caller != me) {
            gate = self.left.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn leave(&self) {
        let me = thread::current().id();
        let mut gate = self.lock();
        if let Some(at) = gate.calls.iter().position(|caller| *caller == me) {
            gate.calls.swap_remove(at);
        }
        drop(gate);
        self.left.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        // Two plain values, each consistent at any time.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Dialer {
    fn dial(&self, address: &str, _timeout: Duration) -> io::Result<OwnedFd> {
        let address = CString::new(address)?;
        {
            let mut gate = self.lock();
            if gate.closed {
                return Err(io::Error::other("the node is stopped"));
            }
            gate.calls.push(thread::current().id());
        }
        let mut fd: c_int = -1;
        // SAFETY: the program said that this function may be called with this argument until the
        // node is destroyed, which waits for the call; both pointers are valid during it.
        let code = unsafe { (self.function)(self.arg, address.as_ptr(), &raw mut fd) };
        self.leave();
        if code != 0 {
            return Err(io::Error::other(format!(
                "connect function returned {code}"
            )));
        }
        // SAFETY: what is done with it fails for numbers that are no open file's.
        if fd < 0 || fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFD).is_err() {
            return Err(io::Error::other("connect function gave no socket"));
        }
        // SAFETY: on success the function hands over a descriptor that is ours from here on.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        check(fd.as_fd())?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(fd)
    }
}

/// Only stream sockets carry the protocol.
fn check(fd: BorrowedFd<'_>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let domains = [Domain::IPV4, Domain::IPV6, Domain::UNIX];
    // Of what is no socket at all, neither can be told.
    let is_stream = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    if is_stream && socket.domain().is_ok_and(|d| domains.contains(&d)) {
        return Ok(());
    }
    Err(io::Error::other(
        "connect function gave something other than a stream socket",
    ))
}

/// A dialer that many share.
#[derive(Debug, Clone)]
pub(crate) struct SharedDialer(pub(crate) std::sync::Arc<Dialer>);

impl Dial for SharedDialer {
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<OwnedFd> {
        self.0.dial(address, timeout)
    }
}

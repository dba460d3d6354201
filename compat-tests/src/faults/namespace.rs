//! Network namespaces: a kernel network stack of its own for each node and for the clients.
//!
//! A namespace here has no name: it lives as long as a descriptor of it or a process in it, so that
//! nothing is left behind when a test is killed. Its only way out is a TUN device, whose other end
//! is a descriptor in this process: what a node sends comes out there as plain IP packets, and what
//! is written there it receives. [`wire`](super::wire) carries packets between them.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

/// Bytes of a packet: large ones, so that the wire has less to do for the same traffic.
pub(crate) const MTU: usize = 9000;

/// The address of the namespace with this number.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number + 1)
}

/// A network namespace with one TUN device, `wire`.
#[derive(Debug, Clone)]
pub struct Namespace {
    handle: Arc<File>,
}

impl Namespace {
    /// A new namespace with [`address`], and the other end of its device.
    ///
    /// # Errors
    /// Not root, or the kernel has no namespaces or no TUN devices, or `ip` is missing.
    pub fn new(number: u8) -> io::Result<(Namespace, File)> {
        // A thread of its own, since a thread that has changed its namespace cannot tell the way back.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    let handle = Arc::new(File::open("/proc/thread-self/ns/net")?);
                    let device = open_tun("wire")?;
                    let address = format!("{}/24", address(number));
                    let mtu = MTU.to_string();
                    ip(&["link", "set", "lo", "up"])?;
                    ip(&["address", "add", &address, "dev", "wire"])?;
                    let up = [
                        "link",
                        "set",
                        "wire",
                        "mtu",
                        &mtu,
                        "txqueuelen",
                        "10000",
                        "up",
                    ];
                    ip(&up)?;
                    Ok((Namespace { handle }, device))
                })
                .join()
                .expect("setting up a namespace does not panic")
        })
    }

    /// Moves the calling thread into the namespace for good. Threads and processes that it starts
    /// from then on are there as well.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.handle, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs something in the namespace, on a thread of its own.
    ///
    /// # Panics
    /// If `act` does, or the kernel refuses.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter().expect("a namespace of ours can be entered");
                    act()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Makes a TUN device in the namespace of the calling thread; bare IP packets, without waiting.
fn open_tun(name: &str) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = [0u8; size_of::<libc::ifreq>()];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    // The kernel's structure is in its own byte order.
    #[expect(clippy::host_endian_bytes, reason = "an ioctl of this machine")]
    request[libc::IFNAMSIZ..libc::IFNAMSIZ + 2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the descriptor is open for the whole call, and TUNSETIFF reads and writes one `ifreq`,
    // which is as long as this buffer: a name of IFNAMSIZ bytes, with its zero, then the flags.
    #[expect(unsafe_code, reason = "no safe crate of ours makes TUN devices")]
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("ip {arguments:?}: {stderr}")));
    }
    Ok(())
}

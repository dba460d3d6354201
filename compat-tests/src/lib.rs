//! The same tests against C dqlite and ours.
//!
//! [`servers`] starts nodes of either kind as child processes on loopback ports and in temporary
//! directories; the tests in `tests/` talk to them with clients that this project did not write
//! (go-dqlite's shell, the Python packages) and with its own, and expect the same from both.
//!
//! Besides the tests the package holds two programs: `c-node`, which runs one node of a C library,
//! and `dq-load`, which measures any dqlite server. Nothing else depends on this package and it is
//! not published.

// Denied, not forbidden: making a TUN device takes one call without a safe wrapper.
#![deny(unsafe_code)]

pub mod conformance;
pub mod differential;
pub mod directory;
pub mod faults;
pub mod hostile;
pub mod load;
pub mod servers;
pub mod tls;

//! dq-vfs

//! dq-client

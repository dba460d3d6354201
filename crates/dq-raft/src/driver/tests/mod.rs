//! Tests of the driver.

mod cluster;
mod network;
mod single;

//! Tests of the driver.

mod bench;
mod change;
mod cluster;
mod follower;
mod leader;
mod network;
mod single;
mod stock;

//! Tests of the driver.

mod behind;
mod bench;
mod change;
mod cluster;
mod follower;
mod hostile;
mod leader;
mod network;
mod reads;
mod single;
mod stock;

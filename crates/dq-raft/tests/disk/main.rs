//! The on-disk log from outside: directories of the original, damage, crashes.

mod crash;
mod damage;
mod directories;
mod golden;
mod reader;
mod snapshots;
mod writer;

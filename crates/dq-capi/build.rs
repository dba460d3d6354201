//! Names the shared library as its users know it, and keeps it loaded: its threads may still run when
//! a program closes it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdqlite.so.0");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

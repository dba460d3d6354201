//! Inputs that were worth keeping: what reaches code that nothing else reaches, and what once failed.
//!
//! ```text
//! corpus/<target>.pack       inputs that libFuzzer has kept and made few: u32 length, bytes, ...
//! corpus/<target>/<name>     inputs that failed once, by what they have found
//! ```

use std::io;
use std::path::{Path, PathBuf};

/// Where the inputs of all targets are.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs of a target with their names, in an order that does not change.
///
/// # Errors
/// That of a file that cannot be read.
pub fn read(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    let pack = root().join(format!("{target}.pack"));
    if pack.exists() {
        for (number, input) in unpack(&std::fs::read(pack)?)?.into_iter().enumerate() {
            inputs.push((format!("{target}.pack, number {number}"), input));
        }
    }
    let named = root().join(target);
    if named.is_dir() {
        inputs.extend(read_directory(&named)?);
    }
    Ok(inputs)
}

/// The files of a directory, by name.
///
/// # Errors
/// That of a file that cannot be read.
pub fn read_directory(directory: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        paths.push(entry?.path());
    }
    paths.sort();
    let read = |path: PathBuf| Ok((path.display().to_string(), std::fs::read(path)?));
    paths.into_iter().map(read).collect()
}

/// Inputs as one file.
pub fn pack(inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::new();
    for input in inputs {
        let size = u32::try_from(input.len()).expect("inputs are small");
        packed.extend_from_slice(&size.to_le_bytes());
        packed.extend_from_slice(input);
    }
    packed
}

/// Inputs from one file.
///
/// # Errors
/// `InvalidData` if it is none that [`pack`] makes.
pub fn unpack(mut packed: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    while !packed.is_empty() {
        let (size, rest) = packed
            .split_first_chunk()
            .ok_or(io::ErrorKind::InvalidData)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (input, rest) = rest
            .split_at_checked(size)
            .ok_or(io::ErrorKind::InvalidData)?;
        inputs.push(input.to_vec());
        packed = rest;
    }
    Ok(inputs)
}

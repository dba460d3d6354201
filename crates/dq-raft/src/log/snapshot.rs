//! Snapshot files: the databases as they were after some entry, and the configuration.
//!
//! ```text
//! snapshot-<term>-<index>-<timestamp>        the databases, one LZ4 frame (or raw)
//! snapshot-<term>-<index>-<timestamp>.meta   the configuration
//! ```
//!
//! [`SnapshotWriter`] makes both under temporary names, a chunk at a time: for snapshots of our own,
//! and for those that a leader sends. They become a snapshot when
//! [`LogWriter::publish_snapshot`](crate::log::writer::LogWriter::publish_snapshot) or
//! [`DiskOp::InstallSnapshot`](crate::DiskOp::InstallSnapshot) renames them, on the disk thread, in the
//! right order with the log. Files that are never renamed are deleted at the next start.
//!
//! The frame always has the content's size (C dqlite 1.18.3 and later return garbage without), a
//! checksum of the content, and linked blocks of 64 KiB. [`SnapshotReader`] takes any LZ4 frame as
//! well as raw bytes, and reports the end only if size and checksum were right: what was read before
//! that must not be put to use.
//!
//! Neither holds more than a few blocks in memory. Neither takes locks: a reader goes on reading from
//! the files that it has opened when they are deleted.

use std::fmt;
use std::io::{self, BufReader, IoSlice, Read, Write};

use bytes::Bytes;
use dq_wire::disk::names::{self, FileName, SnapshotName};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::disk::{Disk, DiskError};
use crate::log::execute::write_new;
use crate::log::format;
use crate::types::SnapshotMeta;

/// How a snapshot's data are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// An LZ4 frame. All releases of C dqlite can read it, unless told to expect raw data.
    #[default]
    Lz4,
    /// As they are.
    Raw,
}

/// Writes a snapshot under temporary names.
#[derive(Debug)]
pub struct SnapshotWriter<D: Disk> {
    disk: D,
    meta: SnapshotMeta,
    size: u64,
    written: u64,
    sink: Sink<D>,
}

#[derive(Debug)]
enum Sink<D: Disk> {
    Lz4(Box<FrameEncoder<FileSink<D>>>),
    Raw(FileSink<D>),
}

impl<D: Disk> SnapshotWriter<D> {
    /// Begins to write a snapshot whose data are `size` bytes. Where there is one of the same term
    /// and index, it gets a higher timestamp than that, and than `meta` says.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(
        disk: D,
        mut meta: SnapshotMeta,
        size: u64,
        compression: Compression,
    ) -> Result<SnapshotWriter<D>, SnapshotError> {
        for file in disk.list()? {
            let name = file.name.strip_prefix("tmp-").unwrap_or(&file.name);
            if let Some(FileName::Snapshot(other) | FileName::SnapshotMeta(other)) =
                FileName::parse(name)
                && (other.term, other.index) == (meta.term, meta.index)
            {
                meta.timestamp = meta.timestamp.max(other.timestamp.saturating_add(1));
            }
        }
        let name = FileName::Snapshot(format::snapshot_name(&meta));
        let file = disk.create(&names::temporary(&name))?;
        let sink = FileSink {
            disk: disk.clone(),
            file,
            offset: 0,
            buffer: Vec::with_capacity(BUFFER_SIZE),
            unsynced: 0,
            error: None,
        };
        let sink = match compression {
            Compression::Lz4 => {
                let info = FrameInfo::new()
                    .content_size(Some(size))
                    .content_checksum(true)
                    .block_size(BlockSize::Max64KB)
                    .block_mode(BlockMode::Linked);
                Sink::Lz4(Box::new(FrameEncoder::with_frame_info(info, sink)))
            }
            Compression::Raw => Sink::Raw(sink),
        };
        Ok(SnapshotWriter {
            disk,
            meta,
            size,
            written: 0,
            sink,
        })
    }

    /// Appends data. After an error the files are gone and the writer is of no use.
    ///
    /// # Errors
    /// The disk's, or [`SnapshotError::Size`] if these are more than announced.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        self.written += chunk.len() as u64;
        if self.written > self.size {
            self.remove_files();
            return Err(self.wrong_size());
        }
        let written = match &mut self.sink {
            Sink::Lz4(encoder) => encoder.write_all(chunk),
            Sink::Raw(file) => file.write_all(chunk),
        };
        written.map_err(|_| self.fail())
    }

    /// Makes both files durable, under their temporary names still, and returns what they are a
    /// snapshot of, with the timestamp that it got. On an error the files are gone.
    ///
    /// # Errors
    /// The disk's, or [`SnapshotError::Size`] if there were less data than announced.
    pub fn finish(mut self) -> Result<SnapshotMeta, SnapshotError> {
        if self.written != self.size {
            self.remove_files();
            return Err(self.wrong_size());
        }
        let finished = match &mut self.sink {
            Sink::Lz4(encoder) => match encoder.try_finish() {
                Ok(()) => encoder.get_mut().sync(),
                Err(_) => return Err(self.fail()),
            },
            Sink::Raw(file) => file.sync(),
        };
        let meta_name = FileName::SnapshotMeta(format::snapshot_name(&self.meta));
        let content = Bytes::from(format::encode_snapshot_meta(&self.meta));
        let finished = finished
            .and_then(|()| write_new(&self.disk, &names::temporary(&meta_name), &[content]));
        match finished {
            Ok(()) => Ok(self.meta),
            Err(error) => {
                self.remove_files();
                Err(SnapshotError::Disk(error))
            }
        }
    }

    /// Gives up and deletes the files.
    pub fn abort(self) {
        self.remove_files();
    }

    fn wrong_size(&self) -> SnapshotError {
        SnapshotError::Size {
            announced: self.size,
            actual: self.written,
        }
    }

    fn fail(&mut self) -> SnapshotError {
        self.remove_files();
        let file = match &mut self.sink {
            Sink::Lz4(encoder) => encoder.get_mut(),
            Sink::Raw(file) => file,
        };
        match file.error.take() {
            Some(error) => SnapshotError::Disk(error),
            // The encoder itself fails only if the announced size is not kept.
            None => self.wrong_size(),
        }
    }

    fn remove_files(&self) {
        discard_snapshot(&self.disk, &self.meta);
    }
}

/// Deletes the temporary files of a snapshot that is not wanted, to give their space back. What cannot
/// be deleted now is deleted at the next start.
pub fn discard_snapshot<D: Disk>(disk: &D, meta: &SnapshotMeta) {
    let files = format::snapshot_files(format::snapshot_name(meta));
    for file in [files.data, files.meta] {
        match disk.remove(&names::temporary(&file)) {
            Err(error) if !error.is_not_found() => ::log::warn!("{error}"),
            _ => {}
        }
    }
}

const BUFFER_SIZE: usize = 1 << 20;
/// Data are made durable this often, so that the log's small syncs never wait for all of it.
const SYNC_INTERVAL: u64 = 16 << 20;

/// A file that is written from its beginning, in large pieces.
#[derive(Debug)]
struct FileSink<D: Disk> {
    disk: D,
    file: D::File,
    offset: u64,
    buffer: Vec<u8>,
    unsynced: u64,
    /// What an `io::Error` from here cannot carry.
    error: Option<DiskError>,
}

impl<D: Disk> FileSink<D> {
    fn write_buffer(&mut self) -> Result<(), DiskError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let pieces = [IoSlice::new(&self.buffer)];
        self.disk.write_at(&self.file, self.offset, &pieces)?;
        let size = self.buffer.len() as u64;
        self.buffer.clear();
        self.offset += size;
        self.unsynced += size;
        if self.unsynced >= SYNC_INTERVAL {
            self.disk.sync_data(&self.file)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.write_buffer()?;
        self.disk.sync_data(&self.file)
    }
}

impl<D: Disk> Write for FileSink<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_SIZE {
            self.write_buffer().map_err(|error| {
                let text = error.to_string();
                self.error = Some(error);
                io::Error::other(text)
            })?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Whole buffers only: the encoder flushes at each call of its own `flush`.
        Ok(())
    }
}

/// Reads a snapshot's data, decompressed.
pub struct SnapshotReader<D: Disk> {
    name: String,
    source: Source<D>,
    size: u64,
    read: u64,
    is_verified: bool,
}

enum Source<D: Disk> {
    Lz4(Box<FrameDecoder<BufReader<FileSource<D>>>>),
    Raw(BufReader<FileSource<D>>),
}

impl<D: Disk> SnapshotReader<D> {
    /// Opens the data of a published snapshot.
    ///
    /// # Errors
    /// The disk's, or [`SnapshotError::Corrupt`].
    pub fn open(disk: &D, meta: &SnapshotMeta) -> Result<SnapshotReader<D>, SnapshotError> {
        SnapshotReader::open_named(disk, format::snapshot_name(meta))
    }

    /// Opens the data of the snapshot with this name.
    ///
    /// # Errors
    /// The disk's, or [`SnapshotError::Corrupt`].
    pub fn open_named(disk: &D, name: SnapshotName) -> Result<SnapshotReader<D>, SnapshotError> {
        let name = FileName::Snapshot(name).to_string();
        let (source, size) = Source::open(disk, &name)?;
        let size = match size {
            Some(size) => size,
            None => {
                // No release writes such a frame by default, but it is legal: count.
                let (source, _) = Source::open(disk, &name)?;
                let mut reader = SnapshotReader {
                    name: name.clone(),
                    source,
                    size: u64::MAX,
                    read: 0,
                    is_verified: false,
                };
                io::copy(&mut reader, &mut io::sink()).map_err(|e| SnapshotError::Corrupt {
                    file: name.clone(),
                    detail: e.to_string(),
                })?
            }
        };
        Ok(SnapshotReader {
            name,
            source,
            size,
            read: 0,
            is_verified: false,
        })
    }

    /// Size of the decompressed data in bytes, as the file announces it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the file is a frame of LZ4, with checksums. Otherwise it is raw data, as C dqlite writes them
    /// when it is told not to compress.
    pub fn is_compressed(&self) -> bool {
        matches!(self.source, Source::Lz4(_))
    }

    /// True once all data have been read and were right.
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// What is wrong with the file, given what its reader met: names it in any case.
    pub fn damage(&self, why: &io::Error) -> SnapshotError {
        let text = why.to_string();
        let detail = match text.contains(&self.name) {
            true => text,
            false if why.kind() == io::ErrorKind::UnexpectedEof => {
                format!("snapshot {}: cut short", self.name)
            }
            false => format!("snapshot {}: {text}", self.name),
        };
        SnapshotError::Corrupt {
            file: self.name.clone(),
            detail,
        }
    }

    fn corrupt(&self, why: impl fmt::Display) -> io::Error {
        let text = format!("snapshot {}: {why}", self.name);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<D: Disk> Read for SnapshotReader<D> {
    /// Ends (with 0) only where the data are complete and their checksum is right.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_verified || buffer.is_empty() {
            return Ok(0);
        }
        let got = match &mut self.source {
            Source::Lz4(decoder) => decoder.read(buffer),
            Source::Raw(file) => file.read(buffer),
        };
        let got = got.map_err(|e| self.corrupt(e))?;
        self.read += got as u64;
        if got > 0 {
            if self.read > self.size {
                return Err(self.corrupt("more data than announced"));
            }
            return Ok(got);
        }
        let file = match &self.source {
            Source::Lz4(decoder) => decoder.get_ref(),
            Source::Raw(file) => file,
        };
        let left = file.buffer().len() as u64 + file.get_ref().rest();
        let counts_only = self.size == u64::MAX;
        if self.source.is_cut_short() || (self.read != self.size && !counts_only) {
            return Err(self.corrupt("cut short"));
        }
        if left > 0 {
            return Err(self.corrupt(format!("{left} bytes behind its end")));
        }
        self.is_verified = true;
        Ok(0)
    }
}

impl<D: Disk> fmt::Debug for SnapshotReader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl<D: Disk> Source<D> {
    /// The source, and the size that it announces.
    fn open(disk: &D, name: &str) -> Result<(Source<D>, Option<u64>), SnapshotError> {
        const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
        const FLAG_CONTENT_SIZE: u8 = 0x08;

        let file = disk.open(name)?;
        let size = disk.size(&file)?;
        let mut head = [0; 14];
        let got = disk.read_at(&file, 0, &mut head)?;
        let file = BufReader::with_capacity(
            256 << 10,
            FileSource {
                disk: disk.clone(),
                file,
                offset: 0,
                size,
                is_cut_short: false,
            },
        );
        if !head[..got].starts_with(&MAGIC) {
            return Ok((Source::Raw(file), Some(size)));
        }
        let announced = match head {
            [_, _, _, _, flags, _, size @ ..] if flags & FLAG_CONTENT_SIZE != 0 => {
                Some(u64::from_le_bytes(size))
            }
            _ => None,
        };
        let decoder = Source::Lz4(Box::new(FrameDecoder::new(file)));
        Ok((decoder, announced))
    }

    /// A frame ends with a mark; the decoder takes the end of the file for it.
    fn is_cut_short(&self) -> bool {
        match self {
            Source::Lz4(decoder) => decoder.get_ref().get_ref().is_cut_short,
            Source::Raw(_) => false,
        }
    }
}

/// A file that is read from its beginning.
struct FileSource<D: Disk> {
    disk: D,
    file: D::File,
    offset: u64,
    size: u64,
    /// Somebody wanted more than there is.
    is_cut_short: bool,
}

impl<D: Disk> FileSource<D> {
    fn rest(&self) -> u64 {
        self.size.saturating_sub(self.offset)
    }
}

impl<D: Disk> Read for FileSource<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self
            .disk
            .read_at(&self.file, self.offset, buffer)
            .map_err(|e| io::Error::other(e.to_string()))?;
        self.offset += got as u64;
        self.is_cut_short |= got == 0 && !buffer.is_empty();
        Ok(got)
    }
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotError {
    /// The data are not as many as announced.
    Size {
        /// Bytes announced.
        announced: u64,
        /// Bytes given.
        actual: u64,
    },
    /// The file is damaged.
    Corrupt {
        /// Its name.
        file: String,
        /// What is wrong, as a sentence that names it.
        detail: String,
    },
    /// The disk failed.
    Disk(DiskError),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Size { announced, actual } => {
                write!(f, "snapshot of {actual} bytes instead of {announced}")
            }
            SnapshotError::Corrupt { detail, .. } => f.write_str(detail),
            SnapshotError::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<DiskError> for SnapshotError {
    fn from(error: DiskError) -> SnapshotError {
        SnapshotError::Disk(error)
    }
}

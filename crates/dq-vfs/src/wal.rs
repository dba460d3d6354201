//! The private WAL of a connection: frames in memory, each a header and a shared page.
//!
//! SQLite appends frames while it writes a transaction, overwrites the data of a frame when it
//! spills a page twice (the header follows at commit), and goes back and uses frame numbers again
//! after ROLLBACK TO. So nothing can be captured as it is written: what a transaction did is known
//! when it has committed, from the number of its last frame and the size it states.
//!
//! ```text
//! WAL file:  32 bytes | frame 1: 24 bytes, page | frame 2: 24 bytes, page | ..
//!                        frames 1..=published: earlier commits of this connection
//!                        frames after that: the transaction that is being written
//! ```
//!
//! Invariants:
//! - `published <= frames.len()`.
//! - A page that was captured is never changed: a write makes a new page.
//! - While the write lock is free, `frames.len() == published`.

use crate::{PAGE_SIZE, Page, PageNo};

/// Bytes before the first frame.
pub(crate) const WAL_HEADER_SIZE: usize = 32;
/// Bytes of a frame before its page.
pub(crate) const FRAME_HEADER_SIZE: usize = 24;
const FRAME_SIZE: usize = FRAME_HEADER_SIZE + PAGE_SIZE;

/// What a write to the WAL file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The header of the file.
    WalHeader,
    /// The header of the frame with this index (from 0).
    FrameHeader(usize),
    /// The page of the frame with this index (from 0).
    FramePage(usize),
}

#[derive(Default)]
pub(crate) struct Wal {
    header: [u8; WAL_HEADER_SIZE],
    frames: Vec<Frame>,
    published: usize,
    /// From this number of uncommitted frames on, the distinct pages are counted again.
    recount_at: usize,
}

struct Frame {
    header: [u8; FRAME_HEADER_SIZE],
    page: Option<Page>,
}

impl Wal {
    /// Which part of the file a write of `amount` bytes at `offset` covers, if it is one that
    /// SQLite makes.
    pub(crate) fn part(offset: u64, amount: usize) -> Option<Part> {
        if offset == 0 {
            return (amount == WAL_HEADER_SIZE).then_some(Part::WalHeader);
        }
        let behind = usize::try_from(offset).ok()?.checked_sub(WAL_HEADER_SIZE)?;
        let (index, within) = (behind / FRAME_SIZE, behind % FRAME_SIZE);
        match (within, amount) {
            (0, FRAME_HEADER_SIZE) => Some(Part::FrameHeader(index)),
            (FRAME_HEADER_SIZE, PAGE_SIZE) => Some(Part::FramePage(index)),
            _ => None,
        }
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        match self.frames.len() {
            0 => 0,
            n => (WAL_HEADER_SIZE + n * FRAME_SIZE) as u64,
        }
    }

    /// Number of frames.
    pub(crate) fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// True if the transaction that is being written has written frames already.
    pub(crate) fn has_uncommitted(&self) -> bool {
        self.frames.len() > self.published
    }

    pub(crate) fn set_header(&mut self, header: [u8; WAL_HEADER_SIZE]) {
        self.header = header;
    }

    /// Writes the header of a frame; false if frames before it are missing.
    pub(crate) fn set_frame_header(
        &mut self,
        index: usize,
        header: [u8; FRAME_HEADER_SIZE],
    ) -> bool {
        if index < self.published || index > self.frames.len() {
            return false;
        }
        if index == self.frames.len() {
            self.frames.push(Frame { header, page: None });
        } else {
            self.frames[index].header = header;
        }
        true
    }

    /// Writes the page of a frame; false if the frame has no header yet.
    pub(crate) fn set_frame_page(&mut self, index: usize, page: Page) -> bool {
        match self.frames.get_mut(index) {
            Some(frame) if index >= self.published => {
                frame.page = Some(page);
                true
            }
            _ => false,
        }
    }

    /// True if the transaction, when frame `index` for page `page_no` is added to it, still has at
    /// most `limit` distinct pages.
    pub(crate) fn stays_within(&mut self, index: usize, page_no: u32, limit: usize) -> bool {
        match self.frames.get(index) {
            // The header is only written again, with new checksums.
            Some(frame) if frame.page_no() == page_no => return true,
            // Frame numbers are used again: pages that were counted may be gone.
            Some(_) => self.recount_at = 0,
            None => {}
        }
        let frames = (index + 1).saturating_sub(self.published);
        if frames <= limit.max(self.recount_at) {
            return true;
        }
        let before = &self.frames[self.published..index.min(self.frames.len())];
        let mut pages: Vec<u32> = before.iter().map(Frame::page_no).collect();
        pages.push(page_no);
        pages.sort_unstable();
        pages.dedup();
        // Each further frame adds at most one page, so the next count can wait that long.
        self.recount_at = frames + limit.saturating_sub(pages.len());
        pages.len() <= limit
    }

    /// Copies what the file holds from `offset` on to `sink`, a piece at a time (offset in the
    /// result, bytes), up to `amount` bytes; returns how many there were.
    pub(crate) fn read(
        &self,
        offset: u64,
        amount: usize,
        mut sink: impl FnMut(usize, &[u8]),
    ) -> usize {
        let end = self.size().min(offset.saturating_add(amount as u64));
        let mut at = offset;
        while at < end {
            let piece = self.piece(at);
            let n = piece.len().min((end - at) as usize);
            sink((at - offset) as usize, &piece[..n]);
            at += n as u64;
        }
        (at - offset) as usize
    }

    /// The bytes from `offset`, which is before the end, to the end of the part that it is in.
    fn piece(&self, offset: u64) -> &[u8] {
        let Some(behind) = (offset as usize).checked_sub(WAL_HEADER_SIZE) else {
            return &self.header[offset as usize..];
        };
        let (index, within) = (behind / FRAME_SIZE, behind % FRAME_SIZE);
        let frame = &self.frames[index];
        match within.checked_sub(FRAME_HEADER_SIZE) {
            None => &frame.header[within..],
            Some(at) => match &frame.page {
                Some(page) => &page.bytes()[at..],
                // SQLite writes a frame's page right after its header and reads only what it wrote.
                None => &[0; PAGE_SIZE][at..],
            },
        }
    }

    /// Ends the transaction that was being written.
    ///
    /// `mx_frame` and `page_count` are what the WAL-index says now. If the transaction committed,
    /// the last frame of each page is returned, ascending, without pages beyond the new size;
    /// frames after `mx_frame` are dropped in either case.
    pub(crate) fn end_write(
        &mut self,
        mx_frame: usize,
        page_count: u32,
    ) -> Option<Vec<(PageNo, Page)>> {
        self.recount_at = 0;
        self.frames.truncate(mx_frame.max(self.published));
        if self.frames.len() <= self.published {
            return None;
        }
        let mut pages: Vec<(PageNo, Page)> = Vec::with_capacity(self.frames.len() - self.published);
        for frame in self.frames[self.published..].iter().rev() {
            let page = frame
                .page
                .as_ref()
                .expect("SQLite writes every frame's page before it commits");
            if frame.page_no() <= page_count {
                pages.push((PageNo(frame.page_no()), page.clone()));
            }
        }
        // Stable, and the last frames come first: of equal numbers the newest is kept.
        pages.sort_by_key(|(page_no, _)| *page_no);
        pages.dedup_by_key(|(page_no, _)| *page_no);
        self.published = self.frames.len();
        Some(pages)
    }

    /// The newest content of page 1 in any frame.
    pub(crate) fn page_one(&self) -> Option<&Page> {
        self.frames
            .iter()
            .rfind(|frame| frame.page_no() == 1)?
            .page
            .as_ref()
    }

    /// Starts over with an empty file.
    pub(crate) fn restart(&mut self) {
        self.published = 0;
        self.recount_at = 0;
        self.frames.clear();
        if self.frames.capacity() > 256 {
            self.frames.shrink_to(64);
        }
    }
}

impl Frame {
    fn page_no(&self) -> u32 {
        frame_page_no(&self.header)
    }
}

/// The size that a frame header states if it is the last one of a transaction, else 0.
pub(crate) fn commit_size(header: &[u8; FRAME_HEADER_SIZE]) -> u32 {
    u32::from_be_bytes([header[4], header[5], header[6], header[7]])
}

/// The page number that a frame header states.
pub(crate) fn frame_page_no(header: &[u8; FRAME_HEADER_SIZE]) -> u32 {
    u32::from_be_bytes([header[0], header[1], header[2], header[3]])
}

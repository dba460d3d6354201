//! Where pages live: slabs of memory that give back to the operating system what is not in use.
//!
//! A general allocator keeps what it was given once: after a long reader has let go of an old
//! version of 200 MB, malloc still holds 200 MB. Pages are all of one size and come and go in bulk,
//! so they have an allocator of their own.
//!
//! ```text
//!  slab, 1 MiB, aligned to its size
//! +--------+--------+-- ~ --+----------+--------+
//! | page 0 | page 1 |       | page 254 | counts |
//! +--------+--------+-- ~ --+----------+--------+
//!                                        reference count of page i at 4 * i
//! ```
//!
//! A freed page is first *hot*: still resident, and the next one to be handed out. When there are
//! too many hot pages, most of them become *cold*: `madvise(MADV_DONTNEED)` over runs of neighbours,
//! the address range stays ours. A slab whose pages are all cold is unmapped.
//!
//! Invariants:
//! - A page is live (its count is above zero), hot, or cold; never two of these.
//! - The memory after every page is mapped for at least 4096 bytes: the next page or the counts.
//!   SQLite may read a little past the end of a page of a corrupt database.
//! - The pool's lock is never held while anything outside this module runs.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::PAGE_SIZE;

/// Bytes of a slab, and its alignment.
const SLAB_SIZE: usize = 1 << 20;
/// Pages of a slab that hold data; the last one holds the reference counts.
const SLAB_PAGES: usize = SLAB_SIZE / PAGE_SIZE - 1;
/// Hot pages that are always kept (1 MiB).
const HOT_MIN: usize = 256;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Number of pages that are alive in this process, each counted once however often it is shared.
pub fn live_pages() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Bytes of page memory that the process holds from the operating system, live and hot pages
/// together (cold ones are given back).
pub fn resident_bytes() -> usize {
    let hot = pool().hot.len();
    (live_pages() + hot) * PAGE_SIZE
}

/// Gives back to the operating system what the C allocator holds and nobody uses.
///
/// A large buffer that is freed may stay in the allocator's heap below something small that is still in
/// use. This looks through the whole heap, which takes milliseconds: it is for the moments after much
/// has been freed at once.
pub fn trim_heap() {
    // SAFETY: it has no preconditions, and takes the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the C allocator map large buffers one by one, for the whole life of the process, so that their
/// memory goes back when they are freed.
///
/// By itself glibc does so only until one of that size was freed, and then keeps what it gets: of a
/// log that is read at a start, and let go of as the databases are made from it, as much as both
/// together would stay in memory. For programs that are a node; a library leaves this to its program.
pub fn map_large_buffers() {
    // SAFETY: it has no preconditions, and takes the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Bytes from which a buffer is worth a system call.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Hands out one page of unspecified content, with a reference count of 1.
///
/// Ends the process if the operating system has no memory left, as every other allocation does.
pub(crate) fn allocate() -> NonNull<u8> {
    let page = pool().allocate();
    let Some(page) = page else {
        handle_alloc_error(Layout::new::<[u8; PAGE_SIZE]>());
    };
    LIVE.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the page was just handed out, so it lies in a mapped slab.
    unsafe { count(page) }.store(1, Ordering::Relaxed);
    page
}

/// Takes back a page whose reference count has reached zero.
///
/// # Safety
/// `page` came from [`allocate`], and nothing refers to it any more.
pub(crate) unsafe fn free(page: NonNull<u8>) {
    LIVE.fetch_sub(1, Ordering::Relaxed);
    let mut pool = pool();
    pool.hot.push(page.as_ptr() as usize);
    if pool.hot.len() >= HOT_MIN + LIVE.load(Ordering::Relaxed) / 16 {
        pool.cool();
    }
}

/// The reference count of a page.
///
/// # Safety
/// `page` came from [`allocate`] and has not been passed to [`free`] since, for as long as the
/// result is used.
pub(crate) unsafe fn count<'a>(page: NonNull<u8>) -> &'a AtomicU32 {
    let address = page.as_ptr() as usize;
    let slot = (address & (SLAB_SIZE - 1)) / PAGE_SIZE;
    let offset = SLAB_PAGES * PAGE_SIZE + slot * size_of::<AtomicU32>();
    // SAFETY: slabs are aligned to their size, so this is the page's slab; `offset` lies in its
    // last page, which holds nothing but counts and is aligned.
    unsafe {
        let base = page.as_ptr().sub(address & (SLAB_SIZE - 1));
        &*base.add(offset).cast::<AtomicU32>()
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    // Nothing in here panics half way, so a poisoned lock still guards a sound pool.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which pages of one slab are cold, one bit each.
struct Slab {
    cold: [u64; 4],
}

struct Pool {
    /// Addresses of free pages that are resident, the most recently freed last.
    hot: Vec<usize>,
    /// All slabs, by address.
    slabs: BTreeMap<usize, Slab>,
    /// Addresses of the slabs that have cold pages. The lowest is used first, so that the high
    /// ones empty out.
    with_cold: BTreeSet<usize>,
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            hot: Vec::new(),
            slabs: BTreeMap::new(),
            with_cold: BTreeSet::new(),
        }
    }

    fn allocate(&mut self) -> Option<NonNull<u8>> {
        if let Some(address) = self.hot.pop() {
            return NonNull::new(address as *mut u8);
        }
        let base = match self.with_cold.first() {
            Some(base) => *base,
            None => self.map_slab()?,
        };
        let slab = self
            .slabs
            .get_mut(&base)
            .expect("every slab with cold pages is known");
        let slot = slab
            .first_cold()
            .expect("the slab is listed as having cold pages");
        slab.cold[slot / 64] &= !(1 << (slot % 64));
        if slab.first_cold().is_none() {
            self.with_cold.remove(&base);
        }
        NonNull::new((base + slot * PAGE_SIZE) as *mut u8)
    }

    fn map_slab(&mut self) -> Option<usize> {
        // Mapping twice the size leaves room for an aligned slab inside; the rest is unmapped.
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * SLAB_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return None;
        }
        let start = raw as usize;
        let base = start.next_multiple_of(SLAB_SIZE);
        let (before, after) = (base - start, start + SLAB_SIZE - base);
        // SAFETY: both ranges lie in the mapping just made and outside the slab. The advice keeps
        // the kernel from putting huge pages under a slab of which only a few pages are in use.
        unsafe {
            if before > 0 {
                libc::munmap(raw, before);
            }
            if after > 0 {
                libc::munmap((base + SLAB_SIZE) as *mut libc::c_void, after);
            }
            #[cfg(target_os = "linux")]
            libc::madvise(base as *mut libc::c_void, SLAB_SIZE, libc::MADV_NOHUGEPAGE);
        }
        self.slabs.insert(
            base,
            Slab {
                cold: Slab::ALL_COLD,
            },
        );
        self.with_cold.insert(base);
        Some(base)
    }

    /// Gives most of the hot pages back to the operating system, the longest unused first.
    fn cool(&mut self) {
        let keep = HOT_MIN / 2;
        let mut addresses: Vec<usize> = self.hot.drain(..self.hot.len() - keep).collect();
        addresses.sort_unstable();
        let mut rest = addresses.as_slice();
        while let Some(first) = rest.first() {
            let base = first & !(SLAB_SIZE - 1);
            // Neighbours in one slab are given back with one system call.
            let run = (0..rest.len())
                .find(|i| rest[*i] != first + i * PAGE_SIZE || rest[*i] & !(SLAB_SIZE - 1) != base)
                .unwrap_or(rest.len());
            // SAFETY: these pages are free, and all lie in one slab of ours.
            unsafe {
                libc::madvise(
                    *first as *mut libc::c_void,
                    run * PAGE_SIZE,
                    libc::MADV_DONTNEED,
                );
            }
            let slab = self
                .slabs
                .get_mut(&base)
                .expect("every page lies in a slab");
            for address in &rest[..run] {
                let slot = (address - base) / PAGE_SIZE;
                slab.cold[slot / 64] |= 1 << (slot % 64);
            }
            let empty = slab.cold == Slab::ALL_COLD;
            self.with_cold.insert(base);
            if empty {
                self.slabs.remove(&base);
                self.with_cold.remove(&base);
                // SAFETY: the slab is ours and no page of it is live or hot.
                unsafe { libc::munmap(base as *mut libc::c_void, SLAB_SIZE) };
            }
            rest = &rest[run..];
        }
        if self.hot.capacity() > 4 * HOT_MIN {
            self.hot.shrink_to(2 * HOT_MIN);
        }
    }
}

impl Slab {
    const ALL_COLD: [u64; 4] = [u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 1];

    fn first_cold(&self) -> Option<usize> {
        let word = self.cold.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.cold[word].trailing_zeros() as usize)
    }
}

const _: () = assert!(SLAB_PAGES * size_of::<AtomicU32>() <= PAGE_SIZE && SLAB_PAGES == 255);

//! A lock that refuses the thread that holds it already, which would wait for itself otherwise.
//!
//! Functions that the program has given us run on its own threads as well: the connect function while a
//! server joins, a log function at any time. From there it may call this library again.

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A value that one thread at a time uses.
#[derive(Debug)]
pub(crate) struct Exclusive<T> {
    value: Mutex<T>,
    /// The [`this_thread`] that is in [`Exclusive::with`], or 0. Only that thread finds its own mark
    /// here, whatever others see of it, so no order of memory is needed.
    holder: AtomicUsize,
}

impl<T> Exclusive<T> {
    pub(crate) fn new(value: T) -> Exclusive<T> {
        Exclusive {
            value: Mutex::new(value),
            holder: AtomicUsize::new(0),
        }
    }

    /// Waits for other threads and uses the value; `None` if this thread does so already.
    pub(crate) fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> Option<R> {
        let me = this_thread();
        if self.holder.load(Ordering::Relaxed) == me {
            return None;
        }
        // Whoever panicked has left a value that can be used: see the callers.
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let _held = Held::new(&self.holder, me);
        Some(use_it(&mut value))
    }

    pub(crate) fn into_inner(self) -> T {
        let value = self.value.into_inner();
        value.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the mark away, after a panic too.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(holder: &'a AtomicUsize, me: usize) -> Held<'a> {
        holder.store(me, Ordering::Relaxed);
        Held(holder)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A number that no other thread has at the same time, and not 0.
fn this_thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    #[test]
    fn the_thread_that_holds_it_is_refused_and_others_wait() {
        let counter = Exclusive::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counter.with(|n| *n += 1).unwrap();
                    }
                });
            }
        });
        let inner = counter.with(|n| {
            assert_eq!(*n, 4000);
            counter.with(|_| ())
        });
        assert_eq!(inner, Some(None));
        assert_eq!(counter.into_inner(), 4000);
    }

    #[test]
    fn it_can_be_had_again_after_a_panic() {
        let value = Exclusive::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| value.with(|_| panic!("on purpose"))));
        assert!(panicked.is_err());
        assert_eq!(value.with(|n| *n), Some(1));
    }
}

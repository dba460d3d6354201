//! The error message of a node: a C string that stays where it is.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of the buffer, the final NUL included, as in the original.
const SIZE: usize = 300;

/// A C string in place. Its address holds as long as the buffer does, and there is a NUL at its end
/// whatever another thread writes at the moment.
#[derive(Debug)]
pub(crate) struct MessageBuffer([AtomicU8; SIZE]);

impl MessageBuffer {
    /// An empty message.
    pub(crate) fn new() -> MessageBuffer {
        MessageBuffer([const { AtomicU8::new(0) }; SIZE])
    }

    /// Replaces the message. A longer text is cut at a character's boundary, and one with a NUL in
    /// it ends there.
    pub(crate) fn set(&self, text: &str) {
        let mut end = text.len().min(SIZE - 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text.as_bytes()[..end];
        for (place, byte) in self.0.iter().zip(text.iter().chain([&0])) {
            place.store(*byte, Ordering::Relaxed);
        }
    }

    /// The message, for C.
    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn read(buffer: &MessageBuffer) -> String {
        // SAFETY: the last byte of the buffer is always 0, and nobody writes to it here.
        let text = unsafe { CStr::from_ptr(buffer.as_ptr()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_message_replaces_the_one_before() {
        let buffer = MessageBuffer::new();
        assert_eq!(read(&buffer), "");
        buffer.set("a long one");
        buffer.set("short");
        assert_eq!(read(&buffer), "short");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let buffer = MessageBuffer::new();
        buffer.set(&"x".repeat(400));
        assert_eq!(read(&buffer), "x".repeat(299));
        buffer.set(&"é".repeat(200));
        assert_eq!(read(&buffer), "é".repeat(149));
    }
}

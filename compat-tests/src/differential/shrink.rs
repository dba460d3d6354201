//! Leaving out what does not matter.

use std::time::{Duration, Instant};

/// How long shrinking may take: a server that hangs makes each try long.
const SHRINK_TIME: Duration = Duration::from_secs(60);

/// Leaves out items for as long as the rest still shows something, half of them at first, single
/// ones in the end (delta debugging, but for its complements).
///
/// # Errors
/// What `shows` reports.
pub(super) fn shrink<T: Clone, F, E>(
    mut items: Vec<T>,
    mut finding: F,
    mut shows: impl FnMut(&[T]) -> Result<Option<F>, E>,
) -> Result<(Vec<T>, F), E> {
    let start = Instant::now();
    let mut chunk = items.len().div_ceil(2);
    loop {
        let mut at = 0;
        while at < items.len() && start.elapsed() < SHRINK_TIME {
            let mut fewer = items.clone();
            fewer.drain(at..(at + chunk).min(items.len()));
            match shows(&fewer)? {
                Some(found) => (items, finding) = (fewer, found),
                None => at += chunk,
            }
        }
        if chunk <= 1 || start.elapsed() >= SHRINK_TIME {
            return Ok((items, finding));
        }
        chunk = chunk.div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_left() {
        let shows = |items: &[u32]| -> Result<Option<u32>, ()> {
            let matters = items.contains(&17) && items.contains(&80);
            Ok(matters.then_some(items.iter().sum()))
        };
        let all: Vec<u32> = (0..100).collect();
        let left = shrink(all, 0, shows).expect("nothing fails");
        assert_eq!(left, (vec![17, 80], 97));
    }
}

//! Versions against the plainest model of them: a list of pages.

mod common;
#[path = "common/stock.rs"]
mod stock;

use std::collections::BTreeMap;

use common::next_number;
use dq_vfs::{ApplyError, PAGE_SIZE, PENDING_BYTE_PAGE, Page, PageNo, Version};
use proptest::prelude::*;
use stock::{Folder, Stock};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A page whose content is `fill` all over; 0 is a page of zeros.
fn page(fill: u8) -> Page {
    Page::copy_from(&[fill; PAGE_SIZE])
}

/// Page 1 of a database that says it has `size` pages.
fn page_one(size: u32) -> Page {
    let mut bytes = [1; PAGE_SIZE];
    bytes[28..32].copy_from_slice(&size.to_be_bytes());
    Page::copy_from(&bytes)
}

/// The fingerprint by its definition.
fn fingerprint<'a>(pages: impl IntoIterator<Item = &'a Page>) -> u64 {
    let mut sum = 0u64;
    for (i, page) in pages.into_iter().enumerate() {
        if page.bytes() != &[0; PAGE_SIZE] {
            sum = sum.wrapping_add(xxh3_64_with_seed(page.bytes(), i as u64 + 1));
        }
    }
    sum % (1 << 56)
}

#[track_caller]
fn check(version: &Version, want: &[u8]) {
    assert_eq!(version.page_count() as usize, want.len());
    let fills: Vec<u8> = version
        .pages()
        .map(|page| page.bytes()[PAGE_SIZE - 1])
        .collect();
    assert_eq!(fills, want);
    for (i, fill) in want.iter().enumerate() {
        assert_eq!(
            version.page(PageNo(i as u32 + 1)).unwrap().bytes()[0],
            *fill
        );
    }
    assert!(version.page(PageNo(0)).is_none());
    assert!(version.page(PageNo(want.len() as u32 + 1)).is_none());
    assert!(version.page(PageNo(u32::MAX)).is_none());
    assert_eq!(version.fingerprint(), fingerprint(version.pages()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn successors_hold_what_was_written_and_leave_their_base_alone(
        steps in prop::collection::vec((1u32..600, prop::collection::vec((1u32..600, 0u8..4), 0..40)), 1..12),
    ) {
        let mut model: Vec<u8> = vec![9];
        let mut version = Version::from_pages(next_number(), [page(9)]);
        let mut old = Vec::new();
        // A page that nobody wrote: where there is none in the table.
        let nothing = version.successor(next_number(), &[], 2).page(PageNo(2)).unwrap().clone();
        for (size, writes) in steps {
            old.push((version.clone(), model.clone()));
            let pages: Vec<_> = writes.iter().map(|(n, fill)| (PageNo(*n), page(*fill))).collect();
            version = version.successor(next_number(), &pages, size);
            model.resize(size as usize, 0);
            for (n, fill) in writes {
                if n <= size {
                    model[n as usize - 1] = fill;
                }
            }
            check(&version, &model);
        }
        for pair in old.windows(2) {
            let ((older, _), (newer, _)) = (&pair[0], &pair[1]);
            for (here, there) in [(older, newer), (newer, older), (older, &version)] {
                let only = (1..=here.page_count()).map(PageNo).filter(|no| {
                    // Pages nobody wrote are no memory, here and there.
                    let written = |v: &Version| v.page(*no).filter(|p| !p.is_same(&nothing)).cloned();
                    written(here).is_some_and(|p| !written(there).is_some_and(|q| p.is_same(&q)))
                });
                prop_assert_eq!(here.pages_not_in(there), only.count() as u64);
            }
            prop_assert!(newer.replaced_since(older) >= older.pages_not_in(newer));
            prop_assert!(version.replaced_since(older) >= older.pages_not_in(&version));
        }
        for (version, model) in old {
            check(&version, &model);
        }
        let copy = Version::from_pages(next_number(), version.pages().cloned());
        prop_assert_eq!(copy.fingerprint(), version.fingerprint());
    }

    #[test]
    fn applying_any_pages_never_panics_and_gives_the_size_of_page_one(
        size in 0u32..40,
        numbers in prop::collection::vec(prop_oneof![0u32..50, Just(u32::MAX)], 0..20),
    ) {
        let base = Version::from_pages(next_number(), (0..20).map(|_| page(1)));
        let pages: Vec<_> = numbers.iter().map(|n| {
            (PageNo(*n), if *n == 1 { page_one(size) } else { page(2) })
        }).collect();
        let result = base.apply(next_number(), &pages);
        let want = if numbers.contains(&1) { size.max(1) } else { 20 };
        if numbers.contains(&0) {
            prop_assert_eq!(result.unwrap_err(), ApplyError::PageZero);
        } else if want > 20 && !numbers.contains(&want) {
            prop_assert_eq!(result.unwrap_err(), ApplyError::LastPageMissing { page_count: want });
        } else {
            let version = result.unwrap();
            prop_assert_eq!(version.page_count(), want);
            prop_assert!(base.check_size(&pages, want));
            prop_assert!(!base.check_size(&pages, want + 1));
        }
    }
}

#[test]
fn the_empty_database_is_what_sqlite_makes() {
    let folder = Folder::new("empty");
    let path = folder.path().join("db");
    drop(Stock::open(&path));
    let stock = std::fs::read(&path).unwrap();
    let ours = Version::empty(next_number());
    assert_eq!(stock.len(), PAGE_SIZE);
    let ours = ours.page(PageNo(1)).unwrap().bytes();
    // Bytes 96 to 99 say which version of SQLite wrote the file.
    assert_eq!(stock[..96], ours[..96]);
    assert_eq!(stock[100..], ours[100..]);
}

#[test]
fn two_empty_databases_are_equal_on_all_nodes() {
    let (a, b) = (Version::empty(1), Version::empty(2));
    assert_eq!(a.fingerprint(), b.fingerprint());
    assert_eq!(
        a.fingerprint(),
        0x00f5_ffc7_f8c5_a55c,
        "a constant of the protocol"
    );
    assert_eq!((a.number(), b.number(), a.page_count()), (1, 2, 1));
    assert!(!a.is_empty_database(), "new, not deleted");
}

#[test]
fn a_size_field_of_zero_means_one_page() {
    let base = Version::from_pages(next_number(), (1..=9).map(page));
    let deleted = base
        .apply(next_number(), &[(PageNo(1), page_one(0))])
        .unwrap();
    assert_eq!(deleted.page_count(), 1);
    assert!(deleted.is_empty_database());
    assert!(base.check_size(&[(PageNo(1), page_one(0))], 1));
}

#[test]
fn sizes_that_nodes_would_disagree_on_are_found() {
    let base = Version::from_pages(next_number(), (1..=9).map(page));
    let one = |size| (PageNo(1), page_one(size));
    let other = |n| (PageNo(n), page(5));
    for (pages, size, sound) in [
        (vec![other(3)], 9, true),
        (vec![other(3)], 8, false),
        (vec![one(8)], 8, true),
        (vec![one(8)], 9, false),
        (vec![one(11), other(10), other(11)], 11, true),
        (vec![one(11), other(10)], 11, false),
        (vec![other(10)], 10, false),
        (vec![(PageNo(0), page(1))], 9, false),
    ] {
        assert_eq!(base.check_size(&pages, size), sound, "{pages:?} {size}");
    }
}

#[test]
fn the_page_at_the_pending_byte_counts_nothing_even_if_written() {
    let end = PENDING_BYTE_PAGE.0 + 1;
    let base = Version::from_pages(next_number(), [page(1)]);
    let without = base.successor(next_number(), &[(PageNo(end), page(2))], end);
    let written = [(PENDING_BYTE_PAGE, page(3)), (PageNo(end), page(2))];
    let with = base.successor(next_number(), &written, end);
    assert_eq!(with.fingerprint(), without.fingerprint());
    assert_eq!(
        with.page(PENDING_BYTE_PAGE).unwrap().bytes(),
        &[0; PAGE_SIZE]
    );
}

#[test]
fn numbers_up_to_the_largest_fit() {
    let last = u32::MAX;
    let base = Version::from_pages(next_number(), [page(1)]);
    let large = base.successor(next_number(), &[(PageNo(last), page(2))], last);
    assert_eq!(large.page(PageNo(last)).unwrap().bytes()[0], 2);
    assert_eq!(large.page(PageNo(1)).unwrap().bytes()[0], 1);
    assert_eq!(large.page(PageNo(last / 2)).unwrap().bytes()[0], 0);
    let small = large.successor(next_number(), &[], 2);
    check(&small, &[1, 0]);
    assert_eq!(small.fingerprint(), base.fingerprint());
}

#[test]
fn a_successor_shares_the_pages_that_did_not_change() {
    let base = Version::from_pages(next_number(), (0..200).map(|i| page(i as u8)));
    let next = base.successor(next_number(), &[(PageNo(7), page(1))], 200);
    let mut shared = BTreeMap::new();
    for (i, (a, b)) in base.pages().zip(next.pages()).enumerate() {
        *shared.entry(a.is_same(b)).or_insert(0) += 1;
        assert_eq!(a.is_same(b), i != 6);
    }
    assert_eq!(shared, BTreeMap::from([(false, 1), (true, 199)]));
}

#[test]
fn short_and_long_content_is_filled_and_cut() {
    assert_eq!(Page::copy_from(b"ab").bytes()[..4], [b'a', b'b', 0, 0]);
    assert_eq!(Page::copy_from(&[7; 5000]).as_ref(), [7; PAGE_SIZE]);
    assert_eq!(page(1), page(1));
    assert_ne!(page(1), page(2));
    assert_eq!(format!("{:?}", page(1)), "Page(..)", "no content in logs");
}

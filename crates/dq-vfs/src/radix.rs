//! The page table of a version: a persistent radix tree.
//!
//! Sixteen children per node, pages in the leaves with their hashes beside them. Making a tree from
//! another copies the nodes on the paths to the changed pages and shares all others. Each node
//! keeps the sum of the hashes below it, so that the root's sum is the fingerprint of the whole.
//!
//! ```text
//! root ──┬─ [0] ──┬─ leaf: pages 1..=16
//!        │        └─ leaf: pages 17..=32
//!        └─ [1] ──── leaf: pages 257..=272
//! ```
//!
//! Positions start at 0 (page number − 1). A position without a page is a page of zeros, whose hash
//! counts 0; only the page at the pending byte is ever missing in practice.
//! Invariant: `sum` of a node equals the wrapping sum of the hashes of all pages below it.

use std::sync::Arc;

use crate::Page;

const BITS: u32 = 4;
const WIDTH: usize = 1 << BITS;

#[derive(Clone, Default)]
pub(crate) struct Tree {
    root: Option<Arc<Node>>,
    /// Levels of inner nodes above the leaves; 0 when the root is a leaf.
    height: u32,
}

#[derive(Clone)]
struct Node {
    sum: u64,
    children: Children,
}

#[derive(Clone)]
enum Children {
    Inner([Option<Arc<Node>>; WIDTH]),
    Leaf([Option<(Page, u64)>; WIDTH]),
}

impl Tree {
    /// The sum of the hashes of all pages, modulo 2^64.
    pub(crate) fn sum(&self) -> u64 {
        self.root.as_ref().map_or(0, |root| root.sum)
    }

    pub(crate) fn get(&self, position: u32) -> Option<&Page> {
        if !fits(position, self.height) {
            return None;
        }
        let mut node = self.root.as_deref()?;
        let mut level = self.height;
        loop {
            match &node.children {
                Children::Leaf(pages) => {
                    return pages[digit(position, 0)].as_ref().map(|(page, _)| page);
                }
                Children::Inner(nodes) => {
                    node = nodes[digit(position, level)].as_deref()?;
                    level -= 1;
                }
            }
        }
    }

    /// Puts `page` at `position`; `hash` is its part of the sum. True if another one was there.
    pub(crate) fn set(&mut self, position: u32, page: Page, hash: u64) -> bool {
        while !fits(position, self.height) {
            self.height += 1;
            if let Some(root) = self.root.take() {
                let sum = root.sum;
                let mut nodes = [const { None }; WIDTH];
                nodes[0] = Some(root);
                self.root = Some(Arc::new(Node {
                    sum,
                    children: Children::Inner(nodes),
                }));
            }
        }
        set_below(&mut self.root, self.height, position, page, hash).1
    }

    /// How many pages of this tree the other one does not have, or has replaced. Takes time in
    /// proportion to what differs, not to the size.
    pub(crate) fn only_here(&self, other: &Tree) -> u64 {
        let mut height = self.height;
        let (mut here, mut there) = (self.root.as_ref(), other.root.as_ref());
        let mut only = 0;
        // The lower one is what the first child of the higher one's root may share.
        while height > other.height {
            let Some(Children::Inner(nodes)) = here.map(|node| &node.children) else {
                return only;
            };
            let rest = nodes[1..].iter().flatten();
            only += rest.map(|node| node.count()).sum::<u64>();
            here = nodes[0].as_ref();
            height -= 1;
        }
        for _ in height..other.height {
            let Some(Children::Inner(nodes)) = there.map(|node| &node.children) else {
                break;
            };
            there = nodes[0].as_ref();
        }
        only + only_below(here, there)
    }

    /// Removes every page at `end` and after it.
    pub(crate) fn truncate(&mut self, end: u32) {
        if end == 0 {
            *self = Tree::default();
        } else {
            truncate_below(&mut self.root, self.height, 0, u64::from(end));
        }
    }
}

/// True if a tree with this height has a place for `position`.
fn fits(position: u32, height: u32) -> bool {
    u64::from(position) >> (BITS * (height + 1)) == 0
}

fn digit(position: u32, level: u32) -> usize {
    (position >> (BITS * level)) as usize & (WIDTH - 1)
}

/// How many pages below the first node are not below the second, at the same place.
fn only_below(here: Option<&Arc<Node>>, there: Option<&Arc<Node>>) -> u64 {
    let Some(here) = here else { return 0 };
    let Some(there) = there else {
        return here.count();
    };
    if Arc::ptr_eq(here, there) {
        return 0;
    }
    match (&here.children, &there.children) {
        (Children::Leaf(here), Children::Leaf(there)) => {
            let both = here.iter().zip(there);
            let only = both.filter(|both| match both {
                (Some((page, _)), Some((other, _))) => !page.is_same(other),
                (page, _) => page.is_some(),
            });
            only.count() as u64
        }
        (Children::Inner(here), Children::Inner(there)) => {
            let both = here.iter().zip(there);
            both.map(|(here, there)| only_below(here.as_ref(), there.as_ref()))
                .sum()
        }
        // Trees of the same height have leaves at the same level.
        _ => here.count(),
    }
}

/// Returns by how much the sum of the slot has grown, modulo 2^64, and whether a page was replaced.
fn set_below(
    slot: &mut Option<Arc<Node>>,
    level: u32,
    position: u32,
    page: Page,
    hash: u64,
) -> (u64, bool) {
    let node = slot.get_or_insert_with(|| Arc::new(Node::empty(level)));
    let node = Arc::make_mut(node);
    let (grown, replaced) = match &mut node.children {
        Children::Leaf(pages) => {
            let place = &mut pages[digit(position, 0)];
            let old = place.as_ref().map_or(0, |(_, hash)| *hash);
            let replaced = place.replace((page, hash)).is_some();
            (hash.wrapping_sub(old), replaced)
        }
        Children::Inner(nodes) => set_below(
            &mut nodes[digit(position, level)],
            level - 1,
            position,
            page,
            hash,
        ),
    };
    node.sum = node.sum.wrapping_add(grown);
    (grown, replaced)
}

/// Cuts everything from position `end` on; `start` is the first position below `slot`.
fn truncate_below(slot: &mut Option<Arc<Node>>, level: u32, start: u64, end: u64) {
    let Some(node) = slot else { return };
    let child_span = 1u64 << (BITS * level);
    if end >= start + child_span * WIDTH as u64 {
        return;
    }
    if end <= start {
        *slot = None;
        return;
    }
    let node = Arc::make_mut(node);
    node.sum = match &mut node.children {
        Children::Leaf(pages) => {
            let keep = (end - start) as usize;
            pages[keep..].fill_with(|| None);
            pages
                .iter()
                .flatten()
                .fold(0, |sum, (_, hash)| sum.wrapping_add(*hash))
        }
        Children::Inner(nodes) => {
            for (i, child) in nodes.iter_mut().enumerate() {
                truncate_below(child, level - 1, start + i as u64 * child_span, end);
            }
            nodes
                .iter()
                .flatten()
                .fold(0, |sum, node| sum.wrapping_add(node.sum))
        }
    };
}

impl Node {
    /// Pages below it.
    fn count(&self) -> u64 {
        match &self.children {
            Children::Leaf(pages) => pages.iter().flatten().count() as u64,
            Children::Inner(nodes) => nodes.iter().flatten().map(|node| node.count()).sum(),
        }
    }

    fn empty(level: u32) -> Node {
        let children = if level == 0 {
            Children::Leaf([const { None }; WIDTH])
        } else {
            Children::Inner([const { None }; WIDTH])
        };
        Node { sum: 0, children }
    }
}

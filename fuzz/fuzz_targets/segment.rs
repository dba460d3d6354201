//! Batches lie one behind the other, their entries inside them, and are encoded to the same bytes.

#![no_main]

use dq_wire::EntryHeader;
use dq_wire::disk::checksum::checksum;
use dq_wire::disk::segment::{Batches, SEGMENT_HEAD, encode_batch_head};
use dq_wire::entry::batch_header_size;
use libfuzzer_sys::fuzz_target;

/// Makes the checksums of the first batch right, which no fuzzer finds by itself.
fn repair(segment: &mut [u8]) -> Option<()> {
    segment.get_mut(..8)?.copy_from_slice(&SEGMENT_HEAD);
    let count = u64::from_le_bytes(segment.get(16..24)?.try_into().ok()?);
    let count = usize::try_from(count).ok().filter(|&n| n <= 1024)?;
    let data = 16 + batch_header_size(count);
    let mut size = 0;
    for header in segment.get(24..data)?.chunks_exact(EntryHeader::SIZE) {
        size += u32::from_le_bytes(header[12..].try_into().ok()?) as usize;
    }
    let header_checksum = checksum(&segment[16..data]);
    let data_checksum = checksum(segment.get(data..data + size)?);
    segment[8..12].copy_from_slice(&header_checksum.to_le_bytes());
    segment[12..16].copy_from_slice(&data_checksum.to_le_bytes());
    Some(())
}

fn check(segment: &[u8]) {
    let Ok(mut batches) = Batches::new(segment) else {
        return;
    };
    let mut end = SEGMENT_HEAD.len();
    while let Some(Ok(batch)) = batches.next() {
        assert_eq!(batch.range.start, end);
        end = batch.range.end;
        assert_eq!(batches.offset(), end);
        let headers: Vec<EntryHeader> = batch.entries.iter().map(|entry| entry.header).collect();
        let data: Vec<&[u8]> = batch
            .entries
            .iter()
            .map(|entry| &segment[entry.data.clone()])
            .collect();
        let mut out = Vec::new();
        encode_batch_head(&mut out, &headers, data.iter().copied());
        out.extend(data.concat());
        // The bytes that are not used may hold anything, so only the size can be compared.
        assert_eq!(out.len(), batch.range.len());
    }
    batches.rest_is_zero();
}

fuzz_target!(|input: &[u8]| {
    check(input);
    let mut segment = input.to_vec();
    if repair(&mut segment).is_some() {
        check(&segment);
    }
});

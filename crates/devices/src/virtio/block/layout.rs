//! Feature bits, request header and configuration structure of virtio-blk (VIRTIO 1.2, 5.2.3 to 5.2.6).

/// Bytes in a sector, the unit of all addresses.
pub const SECTOR: u64 = 512;

/// VIRTIO_BLK_F_*.
pub mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// VIRTIO_BLK_T_*.
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// size_max: bytes in a segment.
pub const SIZE_MAX: u32 = 64 << 10;
/// seg_max: segments in a request; the queue also holds its header and its status.
pub const MAX_SEGMENTS: u16 = super::QUEUE_SIZE - 2;
/// The most bytes read or written by one request.
pub const MAX_REQUEST: u64 = SIZE_MAX as u64 * MAX_SEGMENTS as u64;
/// max_discard_sectors and max_write_zeroes_sectors: 64 MiB.
pub const MAX_ZERO_SECTORS: u32 = (64 << 20) / SECTOR as u32;
/// max_discard_seg and max_write_zeroes_seg.
pub const MAX_ZERO_RANGES: u32 = 16;

/// Offset of `writeback` in the configuration structure.
pub const WRITEBACK: usize = 32;
/// Bytes in the structure.
const LEN: usize = 60;
/// What hosts' disks and file systems work in.
const PHYSICAL_BLOCK: u32 = 4096;

/// The configuration structure of a disk of `bytes` bytes.
pub fn config(bytes: u64) -> Vec<u8> {
    let mut c = vec![0; LEN];
    let mut put = |at: usize, bytes: &[u8]| c[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(bytes / SECTOR).to_le_bytes());
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &u32::from(MAX_SEGMENTS).to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    // physical_block_exp, alignment_offset, min_io_size, opt_io_size (0: not known).
    put(24, &[(PHYSICAL_BLOCK / SECTOR as u32).ilog2() as u8, 0]);
    put(26, &((PHYSICAL_BLOCK / SECTOR as u32) as u16).to_le_bytes());
    put(WRITEBACK, &[1]);
    put(34, &1u16.to_le_bytes());
    put(36, &MAX_ZERO_SECTORS.to_le_bytes());
    put(40, &MAX_ZERO_RANGES.to_le_bytes());
    put(44, &(PHYSICAL_BLOCK / SECTOR as u32).to_le_bytes());
    put(48, &MAX_ZERO_SECTORS.to_le_bytes());
    put(52, &MAX_ZERO_RANGES.to_le_bytes());
    // write_zeroes_may_unmap
    put(56, &[1]);
    c
}

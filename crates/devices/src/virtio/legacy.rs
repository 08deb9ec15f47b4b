//! The legacy interface's registers, in I/O space (VIRTIO 1.2, 4.1.4.10).

use super::registers::{Interface, Registers};

// Offsets of the registers.
const DEVICE_FEATURES: u64 = 0;
const DRIVER_FEATURES: u64 = 4;
const QUEUE_ADDRESS: u64 = 8;
const QUEUE_SIZE: u64 = 12;
const QUEUE_SELECT: u64 = 14;
const QUEUE_NOTIFY: u64 = 16;
const DEVICE_STATUS: u64 = 18;
const ISR_STATUS: u64 = 19;
/// With MSI-X on; otherwise the device's configuration begins here.
const CONFIG_MSIX_VECTOR: u64 = 20;
const QUEUE_MSIX_VECTOR: u64 = 22;

/// Bytes before the device's configuration with MSI-X on.
pub const HEADER_MAX: u64 = 24;

/// Where the device's configuration begins.
fn header(r: &Registers) -> u64 {
    if r.interrupts.msix_enabled() { HEADER_MAX } else { CONFIG_MSIX_VECTOR }
}

/// Reads registers.
pub fn read(r: &mut Registers, offset: u64, out: &mut [u8]) {
    let header = header(r);
    if offset >= header {
        return r.config.read(offset - header, out);
    }
    let mut s = [0u8; HEADER_MAX as usize];
    let mut put = |at: u64, bytes: &[u8]| s[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    put(DEVICE_FEATURES, &(r.offered(Interface::Legacy) as u32).to_le_bytes());
    put(DRIVER_FEATURES, &(r.driver_features as u32).to_le_bytes());
    if let Some(q) = r.queue() {
        put(QUEUE_ADDRESS, &q.pfn.to_le_bytes());
        put(QUEUE_SIZE, &q.max.to_le_bytes());
    }
    put(QUEUE_SELECT, &r.queue_select.to_le_bytes());
    put(DEVICE_STATUS, &[r.status()]);
    if (offset..offset + out.len() as u64).contains(&ISR_STATUS) {
        put(ISR_STATUS, &[r.interrupts.take_isr()]);
    }
    put(CONFIG_MSIX_VECTOR, &r.interrupts.config_vector().to_le_bytes());
    put(QUEUE_MSIX_VECTOR, &r.interrupts.queue_vector(r.queue_select.into()).to_le_bytes());
    for (b, i) in out.iter_mut().zip(offset as usize..) {
        *b = s.get(i).copied().unwrap_or(0);
    }
}

/// Writes a register whole; anything else does nothing.
pub fn write(r: &mut Registers, offset: u64, data: &[u8]) {
    let header = header(r);
    if offset >= header {
        return r.config.write(offset - header, data);
    }
    match (offset, data) {
        (DRIVER_FEATURES, &[a, b, c, d]) => {
            // There is no way to refuse: bits that were not offered are dropped.
            let features = u64::from(u32::from_le_bytes([a, b, c, d])) & r.offered(Interface::Legacy);
            r.set_driver_features(features);
        }
        (QUEUE_ADDRESS, &[a, b, c, d]) => r.set_queue_pfn(u32::from_le_bytes([a, b, c, d])),
        (QUEUE_SELECT, &[a, b]) => r.queue_select = u16::from_le_bytes([a, b]),
        (QUEUE_NOTIFY, &[a, b]) => r.notify(u16::from_le_bytes([a, b]).into(), Interface::Legacy),
        (DEVICE_STATUS, &[v]) => r.set_status(v, Interface::Legacy),
        (CONFIG_MSIX_VECTOR, &[a, b]) => r.interrupts.set_config_vector(u16::from_le_bytes([a, b])),
        (QUEUE_MSIX_VECTOR, &[a, b]) => {
            r.interrupts.set_queue_vector(r.queue_select.into(), u16::from_le_bytes([a, b]));
        }
        _ => {}
    }
}

//! The common configuration structure of the modern interface (VIRTIO 1.2, 4.1.4.3).

use super::registers::{Area, Half, Interface, Registers};

/// Bytes in the structure.
pub const LEN: usize = 56;

// Offsets of the fields.
const DEVICE_FEATURE_SELECT: u64 = 0;
const DEVICE_FEATURE: u64 = 4;
const DRIVER_FEATURE_SELECT: u64 = 8;
const DRIVER_FEATURE: u64 = 12;
const CONFIG_MSIX_VECTOR: u64 = 16;
const NUM_QUEUES: u64 = 18;
const DEVICE_STATUS: u64 = 20;
const CONFIG_GENERATION: u64 = 21;
const QUEUE_SELECT: u64 = 22;
const QUEUE_SIZE: u64 = 24;
const QUEUE_MSIX_VECTOR: u64 = 26;
const QUEUE_ENABLE: u64 = 28;
const QUEUE_NOTIFY_OFF: u64 = 30;
const QUEUE_DESC: u64 = 32;
const QUEUE_DRIVER: u64 = 40;
const QUEUE_DEVICE: u64 = 48;

/// Reads the structure.
pub fn read(r: &Registers, offset: u64, out: &mut [u8]) {
    let mut s = [0u8; LEN];
    let mut put = |at: u64, bytes: &[u8]| s[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    put(DEVICE_FEATURE_SELECT, &r.device_feature_select.to_le_bytes());
    put(DEVICE_FEATURE, &r.device_features_selected().to_le_bytes());
    put(DRIVER_FEATURE_SELECT, &r.driver_feature_select.to_le_bytes());
    put(DRIVER_FEATURE, &r.driver_features_selected().to_le_bytes());
    put(CONFIG_MSIX_VECTOR, &r.interrupts.config_vector().to_le_bytes());
    put(NUM_QUEUES, &r.queue_count().to_le_bytes());
    put(DEVICE_STATUS, &[r.status()]);
    put(CONFIG_GENERATION, &[r.config.generation()]);
    put(QUEUE_SELECT, &r.queue_select.to_le_bytes());
    if let Some(q) = r.queue() {
        put(QUEUE_SIZE, &q.layout.size.to_le_bytes());
        put(QUEUE_MSIX_VECTOR, &r.interrupts.queue_vector(r.queue_select.into()).to_le_bytes());
        put(QUEUE_ENABLE, &u16::from(q.enabled).to_le_bytes());
        put(QUEUE_NOTIFY_OFF, &r.queue_select.to_le_bytes());
        put(QUEUE_DESC, &q.layout.descriptors.0.to_le_bytes());
        put(QUEUE_DRIVER, &q.layout.available.0.to_le_bytes());
        put(QUEUE_DEVICE, &q.layout.used.0.to_le_bytes());
    }
    for (i, b) in out.iter_mut().enumerate() {
        let at = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(i);
        *b = s.get(at).copied().unwrap_or(0);
    }
}

/// Writes the structure. A field is written whole, a 64-bit one in halves too; anything else does nothing.
pub fn write(r: &mut Registers, offset: u64, data: &[u8]) {
    match *data {
        [v] if offset == DEVICE_STATUS => r.set_status(v, Interface::Modern),
        [a, b] => write16(r, offset, u16::from_le_bytes([a, b])),
        [a, b, c, d] => write32(r, offset, u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] if offset >= QUEUE_DESC => {
            write32(r, offset, u32::from_le_bytes([a, b, c, d]));
            write32(r, offset.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
        }
        _ => {}
    }
}

fn write16(r: &mut Registers, offset: u64, value: u16) {
    match offset {
        CONFIG_MSIX_VECTOR => r.interrupts.set_config_vector(value),
        QUEUE_SELECT => r.queue_select = value,
        QUEUE_SIZE => r.set_queue_size(value),
        QUEUE_MSIX_VECTOR => r.interrupts.set_queue_vector(r.queue_select.into(), value),
        QUEUE_ENABLE if value == 1 => r.enable_queue(),
        _ => {}
    }
}

fn write32(r: &mut Registers, offset: u64, value: u32) {
    match offset {
        DEVICE_FEATURE_SELECT => r.device_feature_select = value,
        DRIVER_FEATURE_SELECT => r.driver_feature_select = value,
        DRIVER_FEATURE => r.set_driver_features_selected(value),
        QUEUE_DESC.. => {
            let areas = [
                (QUEUE_DESC, Area::Descriptors),
                (QUEUE_DRIVER, Area::Available),
                (QUEUE_DEVICE, Area::Used),
            ];
            for (at, area) in areas {
                if offset == at {
                    r.set_queue_address(area, Half::Low, value);
                } else if offset == at + 4 {
                    r.set_queue_address(area, Half::High, value);
                }
            }
        }
        _ => {}
    }
}

//! Which device has which guest-physical addresses.

use address::GuestPhys;
use devices::wiring::MmioDevice;
use std::sync::{Arc, Mutex};

/// A device, shared between the map and whoever made it.
pub type SharedMmio = Arc<Mutex<dyn MmioDevice>>;

/// The places of a board's devices.
#[derive(Default)]
pub struct MmioMap {
    /// By base, not overlapping.
    claims: Vec<Claim>,
}

struct Claim {
    base: u64,
    /// Bytes.
    len: u64,
    device: SharedMmio,
}

/// An address is claimed twice.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest-physical {0:#x} is already another device's")]
pub struct Taken(pub u64);

impl MmioMap {
    /// Gives `len` bytes from `base` on to a device, whose offset 0 is `base`.
    pub fn claim(&mut self, base: u64, len: u64, device: SharedMmio) -> Result<(), Taken> {
        let end = base.checked_add(len).ok_or(Taken(base))?;
        if let Some(c) = self.claims.iter().find(|c| base < c.base + c.len && c.base < end) {
            return Err(Taken(base.max(c.base)));
        }
        let at = self.claims.partition_point(|c| c.base < base);
        self.claims.insert(at, Claim { base, len, device });
        Ok(())
    }

    /// A load. False, and `data` untouched, where no device has all of it.
    pub fn read(&self, address: GuestPhys, data: &mut [u8]) -> bool {
        self.with(address, data.len(), |offset, device| device.read(offset, data))
    }
    /// A store. False where no device has all of it.
    pub fn write(&self, address: GuestPhys, data: &[u8]) -> bool {
        self.with(address, data.len(), |offset, device| device.write(offset, data))
    }

    fn with(&self, address: GuestPhys, len: usize, f: impl FnOnce(u64, &mut dyn MmioDevice)) -> bool {
        let next = self.claims.partition_point(|c| c.base <= address.0);
        let Some(claim) = next.checked_sub(1).and_then(|i| self.claims.get(i)) else { return false };
        let offset = address.0 - claim.base;
        if offset >= claim.len || len as u64 > claim.len - offset {
            return false;
        }
        f(offset, &mut *crate::lock(&claim.device));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u64);
    impl MmioDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, _data: &[u8]) {
            self.0 = offset;
        }
    }

    #[test]
    fn access_goes_to_the_device_that_has_all_of_it() {
        let mut map = MmioMap::default();
        let (low, high) = (Arc::new(Mutex::new(Echo(0))), Arc::new(Mutex::new(Echo(0))));
        map.claim(0x1200, 0x200, high.clone()).unwrap();
        map.claim(0x1000, 0x200, low.clone()).unwrap();
        let mut data = [0xaa; 4];
        assert!(map.read(GuestPhys(0x13fc), &mut data) && data == [0xfc; 4]);
        assert!(map.write(GuestPhys(0x1008), &[0]) && low.lock().unwrap().0 == 8);
        for at in [0, 0xffe, 0x11fe, 0x13fe, 0x1400, u64::MAX] {
            data = [0xaa; 4];
            assert!(!map.read(GuestPhys(at), &mut data) && data == [0xaa; 4], "{at:#x}");
            assert!(!map.write(GuestPhys(at), &data));
        }
        assert!(!MmioMap::default().read(GuestPhys(0), &mut data));
    }

    #[test]
    fn address_claimed_twice_or_past_the_end_is_refused() {
        let mut map = MmioMap::default();
        let device: SharedMmio = Arc::new(Mutex::new(Echo(0)));
        map.claim(0x1000, 0x1000, device.clone()).unwrap();
        assert_eq!(map.claim(0xfff, 2, device.clone()), Err(Taken(0x1000)));
        assert_eq!(map.claim(0x1fff, 2, device.clone()), Err(Taken(0x1fff)));
        assert_eq!(map.claim(u64::MAX, 2, device.clone()), Err(Taken(u64::MAX)));
        map.claim(0x2000, 1, device).unwrap();
    }
}

//! Which device has which port.

use devices::wiring::PortDevice;
use std::sync::{Arc, Mutex, PoisonError};

/// A device, shared between the map and whoever made it.
pub type SharedPorts = Arc<Mutex<dyn PortDevice>>;

/// The fixed ports of a board. PCI functions' ports move and are not in here.
pub struct PortMap {
    /// By port: which claim has it, from 1; 0 nobody's.
    by_port: Box<[u8]>,
    claims: Vec<(u16, SharedPorts)>,
}

impl Default for PortMap {
    fn default() -> Self {
        Self { by_port: vec![0; 0x1_0000].into_boxed_slice(), claims: Vec::new() }
    }
}

/// A port is claimed twice.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("port {0:#x} is already another device's; choose another")]
pub struct Taken(pub u16);

impl PortMap {
    /// Gives `count` ports from `first` on to a device, whose offset 0 is `first`.
    pub fn claim(&mut self, first: u16, count: u16, device: SharedPorts) -> Result<(), Taken> {
        let range = usize::from(first)..usize::from(first) + usize::from(count);
        let number = u8::try_from(self.claims.len() + 1).map_err(|_| Taken(first))?;
        let slots = self.by_port.get_mut(range).ok_or(Taken(first))?;
        if let Some(i) = slots.iter().position(|&n| n != 0) {
            return Err(Taken(first + i as u16));
        }
        slots.fill(number);
        self.claims.push((first, device));
        Ok(())
    }

    /// `IN`. False, and `data` untouched, where nobody has the port.
    pub fn read(&self, port: u16, data: &mut [u8]) -> bool {
        self.with(port, |offset, device| device.read(offset, data))
    }
    /// `OUT`. False where nobody has the port.
    pub fn write(&self, port: u16, data: &[u8]) -> bool {
        self.with(port, |offset, device| device.write(offset, data))
    }

    fn with(&self, port: u16, f: impl FnOnce(u16, &mut dyn PortDevice)) -> bool {
        let number = usize::from(self.by_port[usize::from(port)]);
        let Some((first, device)) = number.checked_sub(1).and_then(|i| self.claims.get(i)) else {
            return false;
        };
        f(port - first, &mut *device.lock().unwrap_or_else(PoisonError::into_inner));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u16);
    impl PortDevice for Echo {
        fn read(&mut self, offset: u16, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u16, _data: &[u8]) {
            self.0 = offset;
        }
    }

    #[test]
    fn access_goes_to_the_claimant_by_its_offset() {
        let mut map = PortMap::default();
        let device = Arc::new(Mutex::new(Echo(0)));
        map.claim(0xfff8, 8, device.clone()).unwrap();
        let mut data = [0xaa];
        assert!(map.read(0xffff, &mut data) && data == [7]);
        assert!(map.write(0xfffa, &[0]) && device.lock().unwrap().0 == 2);
        assert!(!map.read(0xfff7, &mut data) && data == [7]);
    }

    #[test]
    fn port_claimed_twice_or_past_the_end_is_refused() {
        let mut map = PortMap::default();
        let device: SharedPorts = Arc::new(Mutex::new(Echo(0)));
        map.claim(0x60, 1, device.clone()).unwrap();
        assert_eq!(map.claim(0x5f, 4, device.clone()), Err(Taken(0x60)));
        assert_eq!(map.claim(0xfffe, 4, device.clone()), Err(Taken(0xfffe)));
        map.claim(0x61, 1, device).unwrap();
    }
}

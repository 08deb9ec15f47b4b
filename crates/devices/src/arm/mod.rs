//! Arm's PrimeCell chips, one a file: what the `virt` board has beside its virtio devices.

pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod power_button;

pub use pl011::Pl011;
pub use pl031::Pl031;
pub use pl061::Pl061;
pub use power_button::PowerButton;

/// Bytes of address space that a PrimeCell takes.
pub const LEN: u64 = 0x1000;
/// Offset of the first of the eight identification registers, UARTPeriphID0 and its like.
const ID: u64 = 0xfe0;

/// An identification register: PeriphID0 to 3, then PCellID0 to 3. `part` and `revision` are the chip's, the designer is Arm.
fn identification(offset: u64, part: u16, revision: u8) -> u32 {
    let [low, high] = part.to_le_bytes();
    let ids = [low, 0x10 | high & 0xf, revision << 4 | 4, 0, 0x0d, 0xf0, 0x05, 0xb1];
    ids.get(((offset - ID) / 4) as usize).copied().unwrap_or(0).into()
}

/// A read of 32-bit registers: the bytes from `offset` on of the register it lies in, zeroes past that.
fn read_word(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u32) {
    let word = register(offset & !3).to_le_bytes();
    let bytes = word.iter().skip((offset & 3) as usize).copied().chain(std::iter::repeat(0));
    data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
}

/// A write of a 32-bit register, or of its low bytes; `None` for what is not at a register's beginning.
fn written_word(offset: u64, data: &[u8]) -> Option<u32> {
    let mut word = [0; 4];
    word.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    offset.is_multiple_of(4).then_some(u32::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_of_odd_sizes_touch_one_register_only() {
        let mut data = [0xee; 8];
        read_word(6, &mut data, |at| if at == 4 { 0x1234_5678 } else { 0 });
        assert_eq!(data, [0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(written_word(8, &[1, 2]), Some(0x201));
        assert_eq!(written_word(8, &[1, 2, 3, 4, 5, 6, 7, 8]), Some(0x0403_0201));
        assert_eq!(written_word(9, &[1]), None);
        read_word(0, &mut [], |_| 0);
    }

    #[test]
    fn identification_is_arms() {
        let all: Vec<u32> = (0..8).map(|i| identification(ID + 4 * i, 0x011, 3)).collect();
        assert_eq!(all, [0x11, 0x10, 0x34, 0, 0x0d, 0xf0, 0x05, 0xb1]);
    }
}

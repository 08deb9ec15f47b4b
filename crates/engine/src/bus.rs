//! What a vCPU reaches outside its own package: ports, devices' memory, the interrupt controllers of the board.

use address::GuestPhys;

/// The board, as seen from a processor. Called on the vCPU's own thread, from several vCPUs at once.
///
/// An implementation must not call back into the vCPU that called it, but may use the [`crate::Vm`] and
/// [`crate::Kick`] handles: a device that wants the vCPU to leave `run` (reset, power off) kicks it.
pub trait Bus: Sync {
    /// `IN`: fills `data` (1, 2 or 4 bytes, little-endian). What no device claims reads as ones.
    fn io_read(&self, port: u16, data: &mut [u8]);
    /// `OUT` of 1, 2 or 4 bytes.
    fn io_write(&self, port: u16, data: &[u8]);
    /// A load from guest-physical space that is not memory: 1 to 8 bytes, never across a 4 KiB page.
    fn mmio_read(&self, address: GuestPhys, data: &mut [u8]);
    /// A store to guest-physical space that is not memory, or to read-only memory.
    fn mmio_write(&self, address: GuestPhys, data: &[u8]);
    /// INTA: the processor accepts an external (8259) interrupt; gives the vector, `None` where the request
    /// has gone away. (x86 only.)
    fn acknowledge_interrupt(&self) -> Option<u8> {
        None
    }
    /// The local APIC broadcasts an end of interrupt for a level-triggered vector. (x86 only.)
    fn end_of_interrupt(&self, _vector: u8) {}
    /// The guest's hypercall instruction, with its number and arguments; gives the result. Unknown calls give
    /// `None`, and the engine then does what the architecture's convention says.
    fn hypercall(&self, _number: u64, _arguments: [u64; 4]) -> Option<u64> {
        None
    }
}

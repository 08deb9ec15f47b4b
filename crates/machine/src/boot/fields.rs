//! Little-endian fields of an image, by offset; `None` past its end.

/// The 16 bits at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}
/// The 32 bits at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}
/// The 64 bits at `offset`.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

/// A structure to be laid in guest memory, written field by field.
#[derive(Clone, Debug)]
pub struct Record(Vec<u8>);

impl Record {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Self {
        Self(vec![0; len])
    }
    /// Puts `bytes` at `offset`.
    ///
    /// # Panics
    /// Past the end: offsets are the protocols' constants.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }
    pub fn u8(&mut self, offset: usize, value: u8) -> &mut Self {
        self.set(offset, &[value])
    }
    pub fn u32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }
    pub fn u64(&mut self, offset: usize, value: u64) -> &mut Self {
        self.set(offset, &value.to_le_bytes())
    }
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

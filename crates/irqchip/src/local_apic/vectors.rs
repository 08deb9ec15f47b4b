//! A set of interrupt vectors: the shape of IRR, ISR and TMR.

/// 256 bits, one a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors([u64; 4]);

impl Vectors {
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize >> 6] & 1 << (vector & 63) != 0
    }

    /// Whether it was not in the set before.
    pub fn insert(&mut self, vector: u8) -> bool {
        let new = !self.contains(vector);
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
        new
    }

    pub fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    pub fn set(&mut self, vector: u8, member: bool) {
        if member {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    /// The highest vector of the set, which is the one with the highest priority.
    pub fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        Some((index as u8) << 6 | (63 - word.leading_zeros() as u8))
    }

    /// The 32 bits of the register `index`, 0 to 7, by which a guest sees the set.
    pub const fn register(&self, index: usize) -> u32 {
        (self.0[index >> 1 & 3] >> ((index & 1) * 32)) as u32
    }

    /// Replaces the 32 bits of the register `index`, 0 to 7.
    pub fn set_register(&mut self, index: usize, value: u32) {
        let shift = (index & 1) * 32;
        let word = &mut self.0[index >> 1 & 3];
        *word = *word & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn any_sequence_of_inserts_and_removes_agrees_with_a_set(operations: Vec<(bool, u8)>) {
            let (mut vectors, mut model) = (Vectors::default(), BTreeSet::new());
            for (insert, vector) in operations {
                if insert {
                    prop_assert_eq!(vectors.insert(vector), model.insert(vector));
                } else {
                    vectors.remove(vector);
                    model.remove(&vector);
                }
                prop_assert_eq!(vectors.highest(), model.last().copied());
            }
            let mut copy = Vectors::default();
            for index in 0..8 {
                let bits = (0..32).filter(|bit| model.contains(&((index * 32 + bit) as u8))).fold(0, |a, b| a | 1 << b);
                prop_assert_eq!(vectors.register(index), bits);
                copy.set_register(index, bits);
            }
            prop_assert_eq!(copy, vectors);
        }
    }
}
